"""How requests come to the control plane and answers go back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from scene import DELIVERY, V7, Scene, principal

from flowtap.control import Happening, Now, verify
from flowtap.dtcp import (
    AddRequest,
    AddResult,
    DeleteRequest,
    DeleteResult,
    ErrorResult,
    FilterText,
    ListRequest,
    ListResult,
    NoopRequest,
    NoopResult,
    Request,
    RequestReceived,
    RequestRefused,
    Result,
    Status,
)
from flowtap.service.notify import Notifier
from flowtap.service.sequences import SequenceState
from flowtap.service.tasking import POLL_S, TaskingLoop

TIMEOUT_S = 20


class NoKeys:
    def key_for(self, csource_id: str) -> None:  # noqa: ARG002 - the protocol's signature
        return None


class Session:
    """Keeps its answers, and how many there were whenever they were sent."""

    def __init__(self, tasking: TaskingLoop, expected: int) -> None:
        self.principal = principal()
        self.tasking = tasking
        self.expected = expected
        self.results: list[Result] = []
        self.times: set[datetime] = set()
        self.flushes: list[int] = []
        self.all = asyncio.Event()
        self.on_answer: Callable[[], object] = lambda: None

    def ask(self, *requests: AddRequest | NoopRequest) -> None:
        for request in requests:
            self.tasking.put(self, RequestReceived(request))

    def answer(self, event: RequestReceived | RequestRefused, result: Result, when: datetime) -> None:  # noqa: ARG002
        self.results.append(result)
        self.times.add(when)
        self.on_answer()

    def flush(self) -> None:
        self.flushes.append(len(self.results))
        if len(self.results) >= self.expected:
            self.all.set()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path, max_criteria=10_000)
    yield made
    made.store.close()


def adds(count: int) -> list[AddRequest]:
    source = FilterText(source="192.0.2.1")
    return [
        AddRequest(V7, "md", str(at), ("cd9",), source, static=True, deliveries=(DELIVERY,))
        for at in range(count)
    ]


def tasking_of(scene: Scene) -> TaskingLoop:
    return TaskingLoop(scene.control, Notifier({}, NoKeys()))


async def end(running: asyncio.Task[None]) -> None:
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("failing", ["answer", "flush"])
def test_a_session_that_fails_is_alone_with_it(
    scene: Scene, caplog: pytest.LogCaptureFixture, failing: str
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("192.0.2.1")

    async def scenario() -> None:
        tasking = tasking_of(scene)
        running = asyncio.create_task(tasking.run())
        broken, sound = Session(tasking, 1), Session(tasking, 2)
        setattr(broken, failing, fail)
        for session in (broken, sound):
            session.ask(NoopRequest(V7, "md", "1"))
        await asyncio.sleep(0.1)
        sound.ask(NoopRequest(V7, "md", "2"))
        await asyncio.wait_for(sound.all.wait(), TIMEOUT_S)
        assert not running.done()
        await end(running)

    asyncio.run(scenario())
    assert "an answer to md was not sent: RuntimeError" in caplog.text
    assert "192.0.2.1" not in caplog.text


def test_requests_that_come_together_share_transaction_table_and_write(scene: Scene) -> None:
    async def scenario() -> None:
        tasking = tasking_of(scene)
        running = asyncio.create_task(tasking.run())
        session = Session(tasking, 64)
        session.ask(*adds(64))
        await asyncio.wait_for(session.all.wait(), TIMEOUT_S)
        await end(running)
        assert [type(each) for each in session.results] == [AddResult] * 64
        assert session.flushes == [64]
        assert len(session.times) == 1

    asyncio.run(scenario())
    assert scene.data_plane.installed == [tuple(range(1, 65))]
    assert verify(scene.store.audit_rows()) == 64


def test_what_comes_meanwhile_is_served_together_next(scene: Scene) -> None:
    async def scenario() -> None:
        tasking = tasking_of(scene)
        running = asyncio.create_task(tasking.run())
        session = Session(tasking, 31)
        session.ask(*adds(1))
        # The first is on its way to the other thread.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        session.ask(*adds(30))
        await asyncio.wait_for(session.all.wait(), TIMEOUT_S)
        await end(running)
        assert session.flushes == [1, 31]

    asyncio.run(scenario())
    assert [len(each) for each in scene.data_plane.installed] == [1, 31]


def test_requests_without_a_pause_do_not_keep_time_outs_from_being_looked_at(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Now] = []
    tick = scene.control.tick

    def seen(now: Now) -> list[Happening]:
        looked.append(now)
        return tick(now)

    monkeypatch.setattr(scene.control, "tick", seen)

    async def scenario() -> None:
        tasking = tasking_of(scene)
        running = asyncio.create_task(tasking.run())
        session = Session(tasking, 10**9)
        noop = NoopRequest(V7, "md", "1")
        session.on_answer = lambda: session.ask(noop)
        session.ask(noop)
        await asyncio.sleep(2.5 * POLL_S)
        await end(running)
        assert len(session.results) > len(looked)
        assert {type(each) for each in session.results} == {NoopResult}

    asyncio.run(scenario())
    assert len(looked) == 2


def test_what_waited_does_not_take_a_sequence_number_back(scene: Scene) -> None:
    """Of two sessions the one that reads on may be served before what the other has read earlier."""
    sequences = SequenceState({"md": 499})
    window = sequences.window_for("md")
    assert window is not None

    async def scenario() -> None:
        tasking = TaskingLoop(scene.control, Notifier({}, NoKeys()), sequences)
        running = asyncio.create_task(tasking.run())
        session = Session(tasking, 2)
        events = []
        for number in (500, 501):
            window.accept(number)
            events.append(RequestReceived(NoopRequest(V7, "md", str(number)), window.highest))
        for event in reversed(events):
            tasking.put(session, event)
            await asyncio.sleep(0.05)
        await asyncio.wait_for(session.all.wait(), TIMEOUT_S)
        await end(running)

    asyncio.run(scenario())
    assert scene.store.sequences() == {"md": 501}


def test_a_number_that_cannot_be_kept_stops_no_stop_and_nobody_else(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that a crash would let in twice is done, but what stops stops; the number follows."""
    sequences = SequenceState({})
    window = sequences.window_for("md")
    assert window is not None
    scene.added()
    scene.added("md2")
    keep, full = scene.control.keep_sequences, True
    monkeypatch.setattr(scene.control, "keep_sequences", lambda highest: not full and keep(highest))

    def numbered(number: int, request: Request) -> RequestReceived:
        window.accept(number)
        return RequestReceived(request, number)

    async def scenario() -> None:
        nonlocal full
        tasking = TaskingLoop(scene.control, Notifier({}, NoKeys()), sequences)
        running = asyncio.create_task(tasking.run())
        session, other = Session(tasking, 5), Session(tasking, 1)
        other.principal = principal("md2")
        unread = ErrorResult(Status.BAD_REQUEST)
        tasking.put(session, numbered(1, adds(1)[0]))
        tasking.put(session, numbered(2, ListRequest(V7, "md", "2")))
        tasking.put(session, numbered(3, NoopRequest(V7, "md", "3")))
        tasking.put(session, numbered(4, DeleteRequest(V7, "md", "4", cdest_id="cd1", static=True)))
        window.accept(5)
        tasking.put(session, RequestRefused(V7, "md", "5", unread, 5))
        tasking.put(other, RequestReceived(ListRequest(V7, "md2", "1")))
        await asyncio.wait_for(asyncio.gather(session.all.wait(), other.all.wait()), TIMEOUT_S)
        refused = ErrorResult(Status.SERVER_INTERNAL_ERROR, info="the journal could not be written")
        assert session.results == [refused, refused, NoopResult(), DeleteResult(1), unread]
        assert isinstance(other.results[0], ListResult)
        assert scene.store.sequences() == {}
        full = False
        deadline = asyncio.get_running_loop().time() + TIMEOUT_S
        while scene.store.sequences() != {"md": 5}:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(POLL_S / 4)
        await end(running)

    asyncio.run(scenario())
    assert scene.running == (2,)


def test_what_goes_wrong_in_the_control_plane_ends_the_loop(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        message = "a slip"
        raise ZeroDivisionError(message)

    async def scenario() -> None:
        tasking = tasking_of(scene)
        running = asyncio.create_task(tasking.run())
        session = Session(tasking, 2)
        monkeypatch.setattr(scene.control, "handle_all", fail)
        session.ask(*adds(1))
        with pytest.raises(ZeroDivisionError, match="a slip"):
            await asyncio.wait_for(running, TIMEOUT_S)
        monkeypatch.undo()
        session.ask(*adds(1))
        await asyncio.sleep(0.05)
        assert not session.results

    asyncio.run(scenario())
    assert not scene.data_plane.installed


def test_the_end_waits_for_what_has_begun(scene: Scene) -> None:
    async def scenario() -> None:
        tasking = tasking_of(scene)
        running = asyncio.create_task(tasking.run())
        session = Session(tasking, 3)
        session.ask(*adds(3))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await end(running)
        session.ask(*adds(1))
        await asyncio.sleep(0.05)
        assert len(session.results) == 3

    asyncio.run(scenario())
    assert verify(scene.store.audit_rows()) == 3
