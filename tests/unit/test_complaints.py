from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from flowtap.complaints import LINES_PER_S, Complaints

if TYPE_CHECKING:
    import pytest


def test_one_line_in_a_second_about_the_same(caplog: pytest.LogCaptureFixture) -> None:
    now = [7.0]
    complaints = Complaints(logging.getLogger("test"), lambda: now[0])
    for _ in range(5):
        complaints.warning("192.0.2.1", "%s is noisy", "192.0.2.1")
    complaints.warning(("192.0.2.1", 497), "another kind")
    assert caplog.messages == [
        "192.0.2.1 is noisy",
        "4 warnings before this one were left out",
        "another kind",
    ]
    caplog.clear()
    now[0] = 8.0
    complaints.warning("192.0.2.1", "%s is noisy", "192.0.2.1")
    assert caplog.messages == ["192.0.2.1 is noisy"]


def test_made_up_addresses_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    now = [7.0]
    complaints = Complaints(logging.getLogger("test"), lambda: now[0])
    for at in range(10_000):
        complaints.warning(at, "number %d", at)
    assert len(caplog.messages) == LINES_PER_S
    assert len(complaints._said) == LINES_PER_S
    now[0] = 8.0
    complaints.warning(1, "again")
    assert caplog.messages[-2:] == ["9950 warnings before this one were left out", "again"]
