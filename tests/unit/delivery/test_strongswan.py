"""A tunnel against a daemon that is scripted here: what happens between its answers, and while the guard is asked.

What a real one does is tested with real ones, in tests/netns/test_tunnel.py.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sections import section
from vici.protocol import Message, Packet

from flowtap.delivery import strongswan
from flowtap.delivery.credentials import TunnelSecrets
from flowtap.delivery.strongswan import StrongSwanTunnel
from flowtap.delivery.tunnel import TunnelState, TunnelStatus

pytestmark = pytest.mark.asyncio
SECRET = b"a-secret-of-both-sides"


def associations(unique_id: str = "1", **child: Any) -> dict[str, Any]:
    """An association that is what was asked for."""
    values = {
        "name": "md-content",
        "uniqueid": unique_id,
        "state": "INSTALLED",
        "mode": "TUNNEL",
        "protocol": "ESP",
        "encr-alg": "AES_GCM_16",
        "encr-keysize": "256",
        "local-ts": ["192.0.2.1/32"],
        "remote-ts": ["10.9.0.0/24"],
    }
    ike = {"uniqueid": "1", "version": "2", "state": "ESTABLISHED"}
    return {"md": {**ike, "child-sas": {f"md-content-{unique_id}": values | child}}}


def gone(unique_id: str = "1") -> dict[str, Any]:
    """What is told when it is no more."""
    child = {"uniqueid": unique_id, "state": "DELETED"}
    return {"md": {"tasks-passive": ["CHILD_DELETE"], "child-sas": {f"md-content-{unique_id}": child}}}


class Charon:
    """The other end of the local socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listed: dict[str, Any] | None = associations()
        self.answers: dict[str, dict[str, Any]] = {
            "version": {"version": "5.9.8"},
            "get-conns": {"conns": ["md"]},
        }
        self.asked: list[str] = []
        self._listening: dict[str, list[asyncio.StreamWriter]] = {}
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def end(self) -> None:
        """As if it were killed."""
        assert self._server is not None
        self._server.close()
        for each in list(self._writers):
            each.transport.abort()
        while self._writers:  # noqa: ASYNC110 - those who serve find out by themselves
            await asyncio.sleep(0.001)
        await self._server.wait_closed()
        self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                (length,) = struct.unpack("!I", await reader.readexactly(4))
                kind, size, *rest = await reader.readexactly(length)
                self._take(writer, kind, bytes(rest[:size]).decode())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            for each in self._listening.values():
                if writer in each:
                    each.remove(writer)
            writer.close()

    def _take(self, writer: asyncio.StreamWriter, kind: int, name: str) -> None:
        listening = self._listening.setdefault(name, [])
        if kind == Packet.EVENT_REGISTER:
            listening.append(writer)
            self._write(writer, bytes([Packet.EVENT_CONFIRM]))
        elif kind == Packet.EVENT_UNREGISTER:
            listening.remove(writer)
            self._write(writer, bytes([Packet.EVENT_CONFIRM]))
        else:
            self.asked.append(name)
            if name == "list-sas" and self.listed is not None:
                self.tell("list-sa", self.listed, writer)
            answer = self.answers.get(name, {"success": "yes"})
            self._write(writer, bytes([Packet.CMD_RESPONSE]) + Message.serialize(answer))

    def tell(self, name: str, message: dict[str, Any], only: asyncio.StreamWriter | None = None) -> None:
        """An event."""
        self.tell_octets(name, Message.serialize(message), only)

    def tell_octets(self, name: str, octets: bytes, only: asyncio.StreamWriter | None = None) -> None:
        for writer in self._listening.get(name, []) if only is None else [only]:
            self._write(writer, bytes([Packet.EVENT, len(name)]) + name.encode() + octets)

    def _write(self, writer: asyncio.StreamWriter, octets: bytes) -> None:
        writer.write(struct.pack("!I", len(octets)) + octets)


class Guard:
    """Answers when it is let."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked = 0
        self.news = asyncio.Event()

    async def install(self) -> list[str]:
        return []

    async def verify(self) -> list[str]:
        self.asked += 1
        await self.may_answer.wait()
        return self.faults

    async def changed(self, seen: int) -> int:
        await self.news.wait()
        self.news.clear()
        return seen + 1


class Gate:
    """What was done with it."""

    def __init__(self) -> None:
        self.is_open = False
        self.done: list[str] = []

    def open(self) -> None:
        if not self.is_open:
            self.done.append("open")
        self.is_open = True

    def shut(self, in_doubt_s: float = 0.0) -> None:
        assert in_doubt_s >= 0
        if self.is_open:
            self.done.append("shut")
        self.is_open = False


class Scene:
    """The tunnel and all around it."""

    def __init__(self, directory: Path) -> None:
        self.charon, self.guard, self.gate = Charon(directory / "vici"), Guard(), Gate()
        self.said: list[TunnelStatus] = []
        self.tunnel = StrongSwanTunnel(
            "md",
            section(vici_socket=str(directory / "vici")),
            secrets=TunnelSecrets(pre_shared_key=SECRET),
            gate=self.gate,
            guard=self.guard,
            on_change=self.said.append,
        )

    @property
    def reason(self) -> str:
        return self.tunnel.status.reason

    async def until(self, true: Callable[[], bool], what: str = "") -> None:
        try:
            async with asyncio.timeout(10):
                while not true():  # noqa: ASYNC110 - several things are waited for
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(f"{what}: {self.tunnel.status}, {self.gate.done}") from None

    async def until_open(self) -> None:
        await self.until(lambda: self.gate.is_open, "the gate is open")


@asynccontextmanager
async def scene(directory: Path) -> AsyncIterator[Scene]:
    made = Scene(directory)
    await made.charon.start()
    running = asyncio.create_task(made.tunnel.run())
    try:
        yield made
        assert not running.done(), running
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await made.charon.end()
    assert not made.gate.is_open


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("GUARD_S", 0.3), ("VERIFY_S", 0.2), ("POLL_S", 0.1), ("CALM_S", 0.01)):
        monkeypatch.setattr(strongswan, name, value)


async def test_what_ends_while_the_guard_is_asked_opens_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as made:
        made.charon.listed = None
        await made.until(lambda: made.tunnel.status.state is TunnelState.CONNECTING)
        made.guard.may_answer.clear()
        made.charon.listed = associations()
        await made.until(lambda: made.reason == "the guard is being verified")
        # The event comes first, and whoever listens is busy.
        made.charon.listed = None
        made.charon.tell("child-updown", gone())
        await asyncio.sleep(0.05)
        made.guard.may_answer.set()
        await asyncio.sleep(0.5)
        assert made.gate.done == []
        made.charon.listed = associations("2")
        await made.until_open()


async def test_a_daemon_that_ends_while_the_guard_is_asked_opens_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as made:
        made.charon.listed = None
        await made.until(lambda: made.tunnel.status.state is TunnelState.CONNECTING)
        made.guard.may_answer.clear()
        made.charon.listed = associations()
        await made.until(lambda: made.reason == "the guard is being verified")
        await made.charon.end()
        await asyncio.sleep(0.05)
        made.guard.may_answer.set()
        await asyncio.sleep(0.3)
        assert made.gate.done == []
        await made.charon.start()
        await made.until_open()


async def test_a_guard_that_nobody_can_look_at_in_time_shuts_it(tmp_path: Path) -> None:
    async with scene(tmp_path) as made:
        await made.until_open()
        made.guard.may_answer.clear()
        await made.until(lambda: not made.gate.is_open, "the gate is shut")
        assert "nobody could look at it within 0.2 s" in made.reason
        asked = made.guard.asked
        await asyncio.sleep(0.6)
        # Questions do not pile up, and an answer that comes late proves nothing.
        assert made.guard.asked == asked
        assert made.gate.done == ["open", "shut"]
        made.guard.may_answer.set()
        await made.until_open()


async def test_news_of_the_guard_are_looked_at_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strongswan, "GUARD_S", 60)
    async with scene(tmp_path) as made:
        await made.until_open()
        made.guard.faults = ["a rule is missing"]
        await asyncio.sleep(0.3)
        assert made.gate.is_open
        made.guard.news.set()
        async with asyncio.timeout(0.5):
            await made.until(lambda: not made.gate.is_open)


@pytest.mark.parametrize(
    "octets",
    [
        b"\xff",
        Message.serialize({"md": "no section"}),
        Message.serialize({"md": {"child-sas": {"x": {"uniqueid": "many"}}}}),
        Message.serialize({"md": {"child-sas": ["x"]}}),
    ],
)
async def test_an_event_that_cannot_be_understood_shuts_it_until_all_is_asked_again(
    tmp_path: Path, octets: bytes
) -> None:
    async with scene(tmp_path) as made:
        await made.until_open()
        made.charon.tell_octets("child-updown", octets)
        await made.until(lambda: made.gate.done[:2] == ["open", "shut"])
        assert "cannot be understood" in " ".join(each.reason for each in made.said)
        await made.until_open()


@pytest.mark.parametrize(
    "listed",
    [
        {"md": "no section"},
        {"md": {"uniqueid": "1", "version": "2", "child-sas": ["x"]}},
        {"md": {"uniqueid": "1"}},
        {"md": {"uniqueid": "1", "version": "2", "child-sas": {"x": {"name": ["a", "b"], "uniqueid": "1"}}}},
    ],
)
async def test_a_listing_that_cannot_be_understood_shuts_it(tmp_path: Path, listed: dict[str, Any]) -> None:
    async with scene(tmp_path) as made:
        await made.until_open()
        made.charon.listed = listed
        await made.until(lambda: not made.gate.is_open)
        assert "cannot be understood" in made.reason
        made.charon.listed = associations()
        await made.until_open()


async def test_no_secret_is_said_whatever_the_daemon_refuses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with scene(tmp_path) as made:
        await made.until_open()
        await made.charon.end()
        made.charon.answers["load-shared"] = {"success": "no", "errmsg": "shared key\nrefused"}
        await made.charon.start()
        await made.until(lambda: "refused" in made.reason)
        assert made.charon.asked[-1] == "load-shared"
        for said in (caplog.text, repr(made.tunnel), repr(made.said)):
            assert SECRET.decode() not in said
