from __future__ import annotations

from flowtap.dtcp import Status


def test_every_code_has_a_phrase_that_clients_can_read() -> None:
    for status in Status:
        assert status.reason
        assert len(str(status.value)) == 3
    assert Status.OK.reason == "OK"
    assert {status for status in Status if status.is_silent} == {497, 498, 499}
