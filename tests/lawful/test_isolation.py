"""One control source can neither see nor disturb another: what it is told is the same whether or not others are there."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from daemon import FOR_EVER, KEY, OWN_KEY, Tap, end, start, write_configuration
from hypothesis import given
from hypothesis import strategies as st
from scene import DELIVERY, OTHER_DELIVERY, V7, Scene, add_request, now, policy, principal

from flowtap.control import ControlSource, Count, Ended, Policy
from flowtap.dtcp import (
    AddResult,
    DeleteRequest,
    ErrorResult,
    FilterText,
    IdRange,
    ListRequest,
    ListResult,
    NoopRequest,
    RefreshRequest,
    Request,
    Result,
    Timeouts,
)
from flowtap.dtcp.reply import parse_reply
from flowtap.mediation import Client, SequenceNumbers

# --- the same answers with others and without ------------------------------------------------------------------------

UNKNOWN = 4_000_000_000


@dataclass(frozen=True)
class Step:
    """Something that one control source asks for; ids are places in the order of its own criteria."""

    login: str
    kind: str
    places: tuple[int, ...] = ()
    cdest: str | None = None
    static: bool = True
    timeouts: Timeouts = field(default=Timeouts())
    source: str = "192.0.2.1"


@dataclass(frozen=True)
class Moment:
    """Time that passes, and what the criteria of each control source have matched in it."""

    seconds: float
    packets: int


@dataclass
class World:
    """A control plane, and what everybody in it was told: with ids as places in the order of one's own criteria."""

    scene: Scene
    time_s: float = 0
    added: dict[str, list[int]] = field(default_factory=lambda: {"md": [], "md2": []})
    told: dict[str, list[Any]] = field(default_factory=lambda: {"md": [], "md2": []})

    def id_of(self, login: str, place: int) -> int:
        """A criterion of its own; where there is none at that place, somebody else's, or nobody's."""
        own = self.added[login]
        if place < len(own):
            return own[place]
        others = [number for name, ids in self.added.items() if name != login for number in ids]
        return others[place % len(others)] if others else UNKNOWN

    def request(self, step: Step) -> Request:
        ids = tuple(
            IdRange(at, at, single=True) for at in (self.id_of(step.login, each) for each in step.places)
        )
        selector = {"criteria_ids": None, "cdest_id": step.cdest} if step.cdest else {"criteria_ids": ids}
        match step.kind:
            case "add":
                cdest = step.cdest or "cd1"
                return add_request(
                    step.login,
                    cdest_ids=(cdest,),
                    deliveries=(OTHER_DELIVERY,) if cdest == "own" else (),
                    static=step.static,
                    timeouts=step.timeouts,
                    filter=FilterText(source=step.source),
                    send_async=True,
                )
            case "delete":
                return DeleteRequest(V7, step.login, "1", **selector, static=step.static)
            case "refresh":
                return RefreshRequest(V7, step.login, "1", Timeouts(total_s=50), **selector)
            case "list":
                return ListRequest(V7, step.login, "1", cdest_id=step.cdest, stats=True)
            case _:
                return NoopRequest(V7, step.login, "1")

    def take(self, step: Step | Moment) -> None:
        if isinstance(step, Moment):
            self.time_s += step.seconds
            counts = dict(self.scene.data_plane.count)
            for number in self.scene.running:
                before = counts.get(number, Count())
                at_ns = now(self.time_s).monotonic_ns if step.packets else before.last_match_ns
                counts[number] = Count(
                    before.packets + step.packets, before.octets + 100 * step.packets, at_ns
                )
            self.scene.data_plane.count = counts
            for each in self.scene.control.tick(now(self.time_s)):
                assert isinstance(each, Ended)
                place = self.added[each.csource_id].index(each.intercept.criteria_id)
                self.told[each.csource_id].append(("ended", place, each.reason, each.remaining))
            return
        request = self.request(step)
        result = self.scene.control.handle(principal(step.login), request, now(self.time_s))
        if isinstance(result, AddResult):
            self.added[step.login].append(result.criteria_id)
        self.told[step.login].append(self.plain(step.login, request, result))

    def plain(self, login: str, request: Request, result: Result) -> Any:
        places = {number: place for place, number in enumerate(self.added[login])}
        if isinstance(result, AddResult):
            return "added", places[result.criteria_id]
        if isinstance(result, ListResult):
            return [replace(each, criteria_id=places[each.criteria_id]) for each in result.entries]
        if isinstance(result, ErrorResult):
            # Which id is unknown is what was asked for: somebody else's here, nobody's there.
            names = [each.name for each in result.parameters]
            values = [each.value for each in result.parameters if each.name != "Criteria-ID"]
            return result.status, result.info, names, values
        return type(request).__name__, result


logins = st.sampled_from(["md", "md2", "md2"])
some_cdest = st.sampled_from([None, None, None, "cd1", "own", "nowhere"])
times = st.builds(
    Timeouts,
    idle_s=st.none() | st.integers(0, 20),
    total_s=st.none() | st.integers(0, 40),
    packets=st.none() | st.integers(0, 9),
)
sources = st.sampled_from(["192.0.2.1", "192.0.2.1", "198.51.100.0/24", "192.0.2.0/33", "here"])
some_places = st.lists(st.integers(0, 6), min_size=1, max_size=3).map(tuple)
kinds = st.sampled_from(["add", "add", "add", "delete", "refresh", "list", "list", "noop"])
steps = st.builds(Step, logins, kinds, some_places, some_cdest, st.booleans(), times, sources)
moments = st.builds(Moment, st.floats(0.1, 15), st.integers(0, 3))


@pytest.mark.ledger("T-040", "T-042", "T-043")
@given(st.lists(steps | steps | moments, min_size=20, max_size=60))
def test_what_one_is_told_does_not_depend_on_the_other(script: list[Step | Moment]) -> None:
    """Every answer and every time-out of one, line by line, in a world with another one and in a world without."""
    with ExitStack() as worlds:
        both, alone = (
            World(Scene(Path(worlds.enter_context(tempfile.TemporaryDirectory())), max_criteria=2))
            for _ in range(2)
        )
        for world in (both, alone):
            worlds.callback(world.scene.store.close)
        for step in script:
            both.take(step)
            if isinstance(step, Moment) or step.login == "md":
                alone.take(step)
        assert both.told["md"] == alone.told["md"]
        assert alone.told["md2"] == []


@pytest.mark.ledger("T-040")
def test_somebody_else_s_is_refused_in_the_same_words_as_nobody_s(tmp_path: Path) -> None:
    """Criteria, content destinations that he has created, and content destinations that only he may use."""
    scene = Scene(tmp_path, allowed_destinations=frozenset({"own", "mine"}))
    scene.control.apply_policy(
        Policy(
            {
                "md": ControlSource("md", allowed_destinations=frozenset({"mine", "own"})),
                "md2": ControlSource("md2"),
            },
            policy().content_destinations,
        ),
        now(),
    )
    foreign = scene.added("md2", cdest_ids=("private",), deliveries=(OTHER_DELIVERY,))
    scene.added("md", cdest_ids=("mine",), deliveries=(DELIVERY,))
    for theirs, nobodys in (
        (scene.delete(foreign), scene.delete(UNKNOWN)),
        (scene.list(criteria_ids=one(foreign)), scene.list(criteria_ids=one(UNKNOWN))),
        (scene.list(cdest_id="private"), scene.list(cdest_id="nothing")),
        (scene.list(cdest_id="cd1"), scene.list(cdest_id="nothing")),
        (scene.add(cdest_ids=("cd1",)), scene.add(cdest_ids=("nothing",))),
        (
            scene.refresh(criteria_ids=one(foreign), timeouts=Timeouts(idle_s=1)),
            scene.refresh(criteria_ids=one(UNKNOWN), timeouts=Timeouts(idle_s=1)),
        ),
        (
            scene.refresh(cdest_id="private", timeouts=Timeouts(idle_s=1)),
            scene.refresh(cdest_id="nothing", timeouts=Timeouts(idle_s=1)),
        ),
    ):
        assert isinstance(theirs, ErrorResult)
        assert isinstance(nobodys, ErrorResult)
        assert (theirs.status, theirs.info) == (nobodys.status, nobodys.info)
        assert [each.name for each in theirs.parameters] == [each.name for each in nobodys.parameters]
    # A range that reaches over somebody else's criteria is as long as one's own.
    everything = (IdRange(0, 2**64 - 1, single=False),)
    listed = scene.list(criteria_ids=everything)
    assert isinstance(listed, ListResult)
    assert [each.csource_id for each in listed.entries] == ["md"]
    assert foreign in scene.running
    scene.store.close()


def one(number: int) -> tuple[IdRange, ...]:
    return (IdRange(number, number, single=True),)


# --- everything that one of two ever receives from a daemon ----------------------------------------------------------

MD = 52_210
SECRETS = ("md2", "198.51.100.77", "hidden-cd", "2026/99", "192.0.2.77", "40777")


@pytest.fixture
def ear() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.settimeout(10)
        yield made


@pytest.fixture
def tap(tmp_path: Path, ear: socket.socket) -> Iterator[Tap]:
    with tempfile.TemporaryDirectory(prefix="flowtap-isolation-") as directory:
        Path(directory).chmod(0o755)
        write_configuration(tmp_path, FOR_EVER, f'[show]\nsocket = "{directory}/tap.sock"')
        (tmp_path / "flowtap.sock").symlink_to(f"{directory}/tap.sock")
        path = tmp_path / "flowtap.toml"
        target = f'notification_targets = ["127.0.0.1:{ear.getsockname()[1]}"]'
        text = path.read_text().replace("[control_source.md]\n", f"[control_source.md]\n{target}\n")
        path.write_text(
            text.replace(
                '[login.user.md]\nclass = "tasker"', f'[login.user.md]\nclass = "tasker"\nuid = {MD}'
            )
        )
        running = start(tmp_path)
        yield running
        end(running)


def shown_to_md(tap: Tap) -> str:
    words = (
        f"import os, socket, sys; os.setgid({MD}); os.setuid({MD}); out = ''\n"
        "for what in sys.argv[2:]:\n"
        "    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "    s.sendall(('{\"show\": \"%s\"}' % what).encode() + b'\\n'); out += s.makefile().readline()\n"
        "sys.stdout.write(out)"
    )
    everything = ["intercepts", "control-sources", "content-destinations", "sessions", "stats", "status"]
    return subprocess.run(
        [sys.executable, "-c", words, str(tap.socket.resolve()), *everything],
        capture_output=True,
        check=True,
        text=True,
        timeout=30,
    ).stdout


@pytest.mark.interop
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.ledger("T-040", "T-042")
def test_nothing_of_the_other_in_anything_that_one_receives(tap: Tap, ear: socket.socket) -> None:
    """Lists, errors, notifications and counters of one, while the other does everything that he can."""
    own = (
        "ADD DTCP/0.7\nCdest-ID: cd1\nSource-Address: 192.0.2.10\nX-JTap-Cdest-Dest-Address: 127.0.0.1\n"
        "X-JTap-Cdest-Dest-Port: 9\nX-JTap-Cdest-Source-Address: 127.0.0.1\nX-JTap-Cdest-Source-Port: 40001\n{}"
    )
    hidden = (
        "ADD DTCP/0.7\nCdest-ID: hidden-cd\nSource-Address: 192.0.2.77\nX-JTap-Cdest-Dest-Address: 198.51.100.77\n"
        "X-JTap-Cdest-Dest-Port: 9\nX-JTap-Cdest-Source-Address: 127.0.0.1\nX-JTap-Cdest-Source-Port: 40777\n"
        "X-FlowTap-Order: 2026/99\nFlags: STATIC"
    )
    received = ""

    async def both() -> None:
        nonlocal received
        async with tap.client() as md, tap.client("md2", OWN_KEY) as md2:
            assert (await md2.request_written(hidden, "1")).value("criteria-id") == "1"
            for seq, text in enumerate(
                (
                    own.format("Timeout-Packets: 3\nFlags: SendAsync"),
                    own.format("Flags: STATIC"),
                    "LIST DTCP/0.7\nFlags: Both",
                    "LIST DTCP/0.7\nCriteria-ID: 0-99\nFlags: Both",
                    "LIST DTCP/0.7\nCriteria-ID: 1",
                    "DELETE DTCP/0.7\nCriteria-ID: 1\nFlags: STATIC",
                    "REFRESH DTCP/0.7\nCriteria-ID: *\nTimeout-Idle: 50",
                    "NOOP DTCP/0.7\nFlags: SendAsync",
                    own.format("Flags: STATIC").replace("192.0.2.10", "192.0.2.1/33"),
                )
            ):
                received += repr(await md.request_written(text, str(seq)))
            assert (await md2.request_written("NOOP DTCP/0.7\nFlags: SendAsync", "2")).code == 200
            assert (
                await md2.request_written("DELETE DTCP/0.7\nCriteria-ID: *\nFlags: STATIC", "3")
            ).code == 200
            assert (await md2.request_written(hidden, "4")).code == 200

    asyncio.run(both())
    codes = {parse_reply(ear.recv(65_536), KEY).code for _ in range(2)}
    assert codes == {131, 390}
    tap.process.kill()
    tap.process.wait()
    again = start(tap.directory)
    tap.process, tap.port = again.process, again.port
    told = parse_reply(ear.recv(65_536), KEY)
    assert told.code == 599
    received += repr(told) + shown_to_md(tap)
    # It is the same tap of which he has learnt this much.
    assert "192.0.2.10" in received
    assert '"control_source": "md"' in received or json.dumps("md") in received
    for secret in SECRETS:
        assert secret not in received, secret


@pytest.mark.interop
@pytest.mark.ledger("T-043")
def test_what_one_does_wrong_costs_the_other_nothing(tap: Tap, tmp_path: Path) -> None:
    """Wrong digests, rubbish, half messages and floods on one session; the other one's requests are all served."""

    async def misuse(stop: asyncio.Event) -> None:
        async with tap.client("md2", OWN_KEY) as md2:
            assert md2._writer is not None
            while not stop.is_set():
                for noise in (
                    b"rubbish\r\n\r\n",
                    b"ADD DTCP/0.7\r\n" * 50,
                    b"x" * 70_000 + b"\r\n\r\n",
                    b"NOOP",
                ):
                    md2._writer.write(noise)
                    await md2._writer.drain()
                await asyncio.sleep(0)

    async def both() -> None:
        stop = asyncio.Event()
        misusing = asyncio.create_task(misuse(stop))
        client = Client.over_ssh(
            "127.0.0.1",
            tap.port,
            user="md",
            password="right",
            known_hosts=tap.directory / "known_hosts",
            numbers=SequenceNumbers(tmp_path / "numbers"),
            timeout_s=30,
            attempts=1,
        )
        async with client:
            for number in range(1, 21):
                assert (
                    await client.add(replace(add_request("md", deliveries=(DELIVERY,)), extensions=()))
                    == number
                )
            assert len(await client.list()) == 20
        stop.set()
        await misusing

    asyncio.run(both())
