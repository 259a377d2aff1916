"""What a session does with answers that nobody may get any more."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from scene import V7, principal

from flowtap.complaints import Complaints
from flowtap.dtcp import Dialect, Key, NoopRequest, NoopResult, RequestReceived
from flowtap.service import clock
from flowtap.service.ssh import _Session

if TYPE_CHECKING:
    import pytest


class Service:
    """The keys of a service, until a reload takes them away."""

    sequences = None
    dialect = Dialect.VENDOR

    def __init__(self) -> None:
        self.keys = {"md": Key(b"Juniper")}
        self.complaints = Complaints(logging.getLogger("flowtap.service.ssh"))

    def key_for(self, csource_id: str) -> Key | None:
        return self.keys.get(csource_id)


class Channel:
    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def resume_reading(self) -> None:
        """Reads on."""


def test_a_reload_between_a_request_and_its_answer(caplog: pytest.LogCaptureFixture) -> None:
    """The answer is signed with a secret that is not there any more: nobody gets it, everybody else goes on."""
    service, channel = Service(), Channel()
    login = SimpleNamespace(name="md", permissions=frozenset())
    session = _Session(cast("Any", service), cast("Any", None), cast("Any", login), principal())
    session.connection_made(cast("Any", channel))
    event = RequestReceived(NoopRequest(V7, "md", "1"))
    session.answer(event, NoopResult(), clock.now().wall)
    session.flush()
    assert len(channel.written) == 1
    service.keys.clear()
    session.answer(event, NoopResult(), clock.now().wall)
    session.flush()
    assert len(channel.written) == 1
    assert "login md gets no answer" in caplog.text
