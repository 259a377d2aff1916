"""Nothing is copied before it is on record; nothing is on record as stopped before copying has stopped.

With the store, the tap and the daemon that run in earnest: what is seen here is what a court would be shown.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sqlite3
import struct
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from daemon import ADD, CAPTURE, FOR_EVER, Tap, end, running, start
from scene import DELIVERY, PLACES, V7, add_request, principal

from flowtap import FilterTable
from flowtap import Tap as DataPlaneTap
from flowtap._flowtap import UsageFile
from flowtap.cli.local import ask
from flowtap.control import (
    PERMISSION_APPROVE,
    PERMISSION_CHANGE,
    Bandwidth,
    ContentDestination,
    ControlPlane,
    ControlSource,
    Policy,
    Refused,
    Usage,
    verify,
)
from flowtap.delivery.paths import Paths
from flowtap.dtcp import (
    AddResult,
    DeleteRequest,
    DeleteResult,
    ErrorResult,
    FilterText,
    IdRange,
    Status,
    Timeouts,
)
from flowtap.service import clock
from flowtap.service.auditlog import read_audit_log
from flowtap.service.dataplane import TapDataPlane
from flowtap.service.filters import FilterReader
from flowtap.service.store import SqlStore


class WatchedStore(SqlStore):
    """The real store; takes down which criteria copy in the moment before every commit."""

    tap: DataPlaneTap
    seen: list[tuple[str, int, bool]]
    """Event, criterion, and whether it copied when that was not durable yet."""

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        with super().transaction() as transaction:
            yield transaction
            copying = {each.id for each in self.tap.stats().criteria}
            self.seen += [
                (record.event, record.criteria_id, record.criteria_id in copying)
                for record in transaction._records
                if record.criteria_id is not None
            ]


POLICY = Policy(
    {"md": ControlSource("md"), "slow": ControlSource("slow", needs_approval=True)},
    {
        "cd1": ContentDestination("cd1", DELIVERY),
        "narrow": ContentDestination("narrow", DELIVERY, bandwidth=Bandwidth(0, 0, 9, 8)),
    },
)
EVERYTHING = FilterText()
CHIEF = principal("chief", PERMISSION_APPROVE)
OPERATOR = principal("operator", PERMISSION_CHANGE)


class Element:
    """A control plane over a real store and a real tap that plays a recording for ever."""

    def __init__(self, path: Path, policy: Policy = POLICY) -> None:
        self.tap = DataPlaneTap.replay(
            [str(CAPTURE)], FilterTable.compile([]), pace=2000, loop=True, export=False
        )
        self.tap.start()
        self.store = WatchedStore(path / "s.db")
        self.store.tap = self.tap
        self.store.seen = []
        self.usage = UsageFile(str(path / "s.db-usage"), uuid.UUID(clock.boot_id()).bytes)
        self.control = ControlPlane(
            policy=policy,
            store=self.store,
            data_plane=TapDataPlane(self.tap, PLACES, self.usage, Paths({}, {})),
            filters=FilterReader(PLACES),
        )

    def add(self, login: str = "md", **fields: Any) -> int:
        request = add_request(login, filter=EVERYTHING, **fields)
        result = self.control.handle(principal(login), request, clock.now())
        assert isinstance(result, AddResult), result
        return result.criteria_id

    def copying(self) -> set[int]:
        return {each.id for each in self.tap.stats().criteria}

    def tick_until(self, number: int) -> None:
        deadline = time.monotonic() + 15
        while number in self.copying():
            assert time.monotonic() < deadline
            self.control.tick(clock.now())
            time.sleep(0.02)

    def close(self) -> None:
        self.tap.stop()
        self.store.close()


@pytest.fixture
def element(tmp_path: Path) -> Iterator[Element]:
    made = Element(tmp_path)
    yield made
    made.close()


def by_id(number: int) -> DeleteRequest:
    return DeleteRequest(V7, "md", "1", criteria_ids=(IdRange(number, number, single=True),), static=True)


def approve(element: Element) -> int:
    number = element.add("slow")
    element.control.approve(CHIEF, [number], clock.now())
    return number


def several(element: Element) -> int:
    from flowtap.control import Tasked  # noqa: PLC0415 - beside its one use

    waiting = [Tasked(principal(), add_request(filter=EVERYTHING)) for _ in range(5)]
    results = element.control.handle_all(waiting, clock.now())
    assert isinstance(results[-1], AddResult)
    return results[-1].criteria_id


@pytest.mark.parametrize("begin", [Element.add, approve, several], ids=["add", "approve", "several"])
def test_nothing_is_copied_before_it_is_audited(element: Element, begin: Callable[[Element], int]) -> None:
    number = begin(element)
    assert ("start", number, False) in element.store.seen
    assert number in element.copying()
    assert ("start", True) not in {(event, copied) for event, _, copied in element.store.seen}


def test_after_a_restart_nothing_is_copied_whose_start_is_not_on_record(tmp_path: Path) -> None:
    first = Element(tmp_path)
    number = first.add()
    first.close()
    second = Element(tmp_path)
    usage = Usage({}, clock.boot_id(), is_final=False)
    rows = second.store.running()
    second.control.restore(
        rows, usage, ended_without_record=frozenset(), boot_id=clock.boot_id(), now=clock.now()
    )
    assert second.copying() == {number}
    # It is said that the tap has restarted before anything is copied again.
    assert [json.loads(row.text)["event"] for row in second.store.audit_rows()] == ["start", "restart"]
    second.control.handle(principal(), by_id(number), clock.now())
    assert second.store.seen == [("stop", number, False)]
    second.close()


def delete(element: Element) -> int:
    number = element.add()
    assert element.control.handle(principal(), by_id(number), clock.now()) == DeleteResult(1)
    return number


def clear(element: Element) -> int:
    number = element.add()
    element.control.clear(OPERATOR, [number], clock.now())
    return number


def time_out(element: Element) -> int:
    number = element.add(static=False, timeouts=Timeouts(packets=5))
    element.tick_until(number)
    return number


def congestion(element: Element) -> int:
    number = element.add(cdest_ids=("narrow",))
    element.tick_until(number)
    return number


def policy(element: Element) -> int:
    number = element.add()
    ended = element.control.apply_policy(Policy({}, POLICY.content_destinations), clock.now())
    assert [each.criteria_id for each in ended] == [number]
    return number


@pytest.mark.parametrize("finish", [delete, clear, time_out, congestion, policy])
def test_nothing_is_audited_as_stopped_before_copying_has_stopped(
    element: Element, finish: Callable[[Element], int]
) -> None:
    number = finish(element)
    assert ("stop", number, False) in element.store.seen
    assert ("stop", True) not in {(event, copied) for event, _, copied in element.store.seen}
    verify(element.store.audit_rows())


def test_an_exclusion_rules_when_it_is_on_record(element: Element) -> None:
    """What changes is recorded first, then rules; both are true of exactly one moment in between."""
    number = element.add()
    source = replace(POLICY.control_sources["md"], excluded=("203.0.113.9",))
    element.control.apply_policy(replace(POLICY, control_sources={"md": source}), clock.now())
    assert element.store.seen == [("start", number, False), ("change", number, True)]


# --- a start that fails leaves nothing behind ------------------------------------------------------------------------


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Somebody else writes to the database, and does not come to an end."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_a_start_that_cannot_be_recorded_leaves_nothing_behind(element: Element, tmp_path: Path) -> None:
    kept = element.add()
    with locked(tmp_path / "s.db"):
        result = element.control.handle(principal(), add_request(), clock.now())
        assert isinstance(result, ErrorResult)
        assert result.status is Status.SERVER_INTERNAL_ERROR
        assert element.copying() == {kept}
    assert [row.criteria_id for row in element.store.running()] == [kept]
    assert [each.criteria_id for each in element.control.intercepts] == [kept]
    assert [json.loads(row.text)["event"] for row in element.store.audit_rows()] == ["start"]
    assert element.copying() == {kept}


def test_a_start_that_the_tap_does_not_take_leaves_nothing_behind(element: Element) -> None:
    element.tap.stop()
    result = element.control.handle(principal(), add_request(), clock.now())
    assert isinstance(result, ErrorResult)
    assert result.status is Status.SERVER_INTERNAL_ERROR
    assert element.control.intercepts == ()
    assert element.store.running() == []
    # It was on record before it was tried, and is on record as not running.
    assert [json.loads(row.text)["event"] for row in element.store.audit_rows()] == ["start", "stop"]


def test_an_approval_that_cannot_be_recorded_copies_nothing(element: Element, tmp_path: Path) -> None:
    number = element.add("slow")
    with locked(tmp_path / "s.db"), pytest.raises(Refused, match="nothing was changed"):
        element.control.approve(CHIEF, [number], clock.now())
    assert element.copying() == set()


# --- the same with the daemon, seen from the other end of the wire ---------------------------------------------------


class Ear:
    """Where copies arrive, with the kernel's own time of each; read all the time, so that none is missed."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(0.1)
        self.port = int(self.socket.getsockname()[1])
        self.heard: deque[datetime] = deque()
        self._ends = False
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while not self._ends:
            try:
                _, ancillary, _, _ = self.socket.recvmsg(65_536, 256)
            except TimeoutError:
                continue
            s, ns = struct.unpack("@qq", ancillary[0][2][:16])
            self.heard.append(datetime.fromtimestamp(s, UTC).replace(microsecond=ns // 1000))

    def hear(self, seconds: float = 0) -> list[datetime]:
        """When copies have come since it was asked last, and in so many seconds more."""
        time.sleep(seconds)
        return [self.heard.popleft() for _ in range(len(self.heard))]

    def wait(self) -> list[datetime]:
        deadline = time.monotonic() + 10
        while not self.heard:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return self.hear()

    def close(self) -> None:
        self._ends = True
        self._thread.join()
        self.socket.close()


@pytest.fixture
def ear() -> Iterator[Ear]:
    made = Ear()
    yield made
    made.close()


@pytest.fixture
def tap(tmp_path: Path) -> Iterator[Tap]:
    source = FOR_EVER.replace("pace = 50", "pace = 50000")
    with running(tmp_path, source) as tap:
        yield tap


def ask_for(tap: Tap, text: str, seq: str = "1") -> int:
    async def one() -> int:
        async with tap.client(timeout_s=10) as client:
            return (await client.request_written(text, seq)).code

    return asyncio.run(one())


def records(tap: Tap) -> list[dict[str, Any]]:
    return [json.loads(row.text) for row in read_audit_log(tap.directory / "flowtap.db")]


DELETE = "DELETE DTCP/0.7\nCriteria-ID: 1\nFlags: Static"


@pytest.mark.interop
def test_the_record_covers_every_copy_that_was_ever_sent(tap: Tap, ear: Ear) -> None:
    """No copy is older than the record of its start, none younger than the record of its stop, by any clock."""
    assert ask_for(tap, ADD.format(at=10, port=ear.port)) == 200
    heard = ear.wait()
    assert ask_for(tap, DELETE, "2") == 200
    heard += ear.hear(0.5)
    begun, ended = records(tap)
    assert (begun["event"], ended["event"]) == ("start", "stop")
    assert datetime.fromisoformat(begun["when"]) < min(heard)
    assert max(heard) < datetime.fromisoformat(ended["when"])


@pytest.mark.interop
def test_while_nothing_can_be_recorded_nothing_begins(tap: Tap, ear: Ear) -> None:
    with locked(tap.directory / "flowtap.db"):
        assert ask_for(tap, ADD.format(at=10, port=ear.port)) == 500
        assert ear.hear(0.3) == []
    assert ear.hear(0.3) == []
    assert records(tap) == []
    assert ask_for(tap, ADD.format(at=10, port=ear.port), "2") == 200
    assert ear.wait()


@pytest.mark.interop
def test_a_stop_never_resumes(tap: Tap, ear: Ear) -> None:
    """Not while its record cannot be written, not when it can be again, and not when the daemon is killed in between."""
    assert ask_for(tap, ADD.format(at=10, port=ear.port)) == 200
    ear.wait()
    with locked(tap.directory / "flowtap.db"):
        assert ask_for(tap, DELETE, "2") == 500
        ear.hear()
        assert ear.hear(0.3) == []
        assert [each["event"] for each in records(tap)] == ["start"]
        assert ask(tap.socket, "intercepts")["pending_records"] == [1]
        tap.process.send_signal(signal.SIGKILL)
        tap.process.wait()
    again = start(tap.directory)
    try:
        assert ear.hear(0.5) == []
        assert ask(again.socket, "intercepts") == {"intercepts": [], "pending_records": []}
        assert [each["event"] for each in records(again)] == ["start", "stop"]
        assert ask_for(again, ADD.format(at=10, port=ear.port), "3") == 200
        assert ear.wait()
    finally:
        end(again)
    tap.process = again.process
