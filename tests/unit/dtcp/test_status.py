from __future__ import annotations

from datetime import datetime

import pytest

from flowtap.dtcp import Dialect, ErrorResult, Key, Response, Status, Version
from flowtap.dtcp.render import render_datagrams, render_response


def test_every_code_has_a_phrase_that_clients_can_read() -> None:
    for status in Status:
        assert status.reason
        assert len(str(status.value)) == 3
    assert Status.OK.reason == "OK"
    assert {status for status in Status if status.is_silent} == {497, 498, 499}


@pytest.mark.ledger("T-178")
@pytest.mark.parametrize(
    "status", [Status.MAX_CRITERIA_EXCEEDED, Status.MAX_CONTENT_DESTINATIONS_EXCEEDED, Status.BAD_REQUEST]
)
def test_the_first_version_had_no_codes_for_limits(status: Status) -> None:
    key, now = Key(b"secret"), datetime(2026, 3, 2)  # noqa: DTZ001 - the protocol has no zone
    for version in (Version(0, 6), Version(0, 7)):
        response = Response(version, "1", now, ErrorResult(status))
        was = 500 if version == Version(0, 6) and status != 400 else int(status)
        for octets in (
            *(render_response(response, dialect, key) for dialect in Dialect),
            *render_datagrams(response, key, 1400),
        ):
            assert octets.startswith(f"{version} {was} ".encode())
