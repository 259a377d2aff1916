"""In which order a change takes effect, and what is left when the store or the data plane fails."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scene import V7, Scene, add_request, now, principal

from flowtap.control import Count, Intercept, Loss, Misread, PortError, Tasked, verify
from flowtap.control.journal import from_text
from flowtap.dtcp import (
    AddResult,
    DeleteRequest,
    DeleteResult,
    ErrorResult,
    FilterText,
    IdRange,
    ListRequest,
    NoopRequest,
    Result,
    Status,
    Timeouts,
)


def audit(scene: Scene) -> list[dict[str, Any]]:
    return [json.loads(row.text) for row in scene.store.audit_rows()]


def code(result: Result) -> int:
    return result.status if isinstance(result, ErrorResult) else Status.OK


def delete_request(*ids: int, static: bool = True) -> DeleteRequest:
    ranges = tuple(IdRange(each, each, single=True) for each in ids)
    return DeleteRequest(V7, "md", "1", criteria_ids=ranges, static=static)


@contextmanager
def full_disk(scene: Scene) -> Iterator[None]:
    """The database may not grow any more: SQLite's own answer to a full disk."""
    with scene.store._engine.connect() as connection:
        used = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {used}")
    try:
        yield
    finally:
        with scene.store._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")


class Witness:
    """A data plane that notes what the journal says at the moment of every change."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._active: set[int] = set()
        self.seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        self.refuses = False

    def change(self, start: Collection[Intercept], stop: Collection[int]) -> None:
        if self.refuses:
            raise PortError
        journal = tuple(row.criteria_id for row in self._scene.store.running())
        self._active = self._active - set(stop) | {each.criteria_id for each in start}
        self.seen.append((tuple(sorted(self._active)), journal))

    def losses(self) -> Collection[Loss]:
        return []

    def counts(self) -> Mapping[int, Count]:
        return {}


@pytest.fixture
def witness(scene: Scene) -> Witness:
    made = Witness(scene)
    scene.control._data_plane = made
    scene.control._effects._data_plane = made
    return made


def test_recorded_before_copying_starts_and_after_it_stopped(scene: Scene, witness: Witness) -> None:
    scene.added()
    scene.added()
    scene.delete(1)
    scene.added(static=False, timeouts=Timeouts(total_s=5))
    scene.expire(5)
    # What copies from this change on, and what the journal says runs at that moment.
    assert witness.seen == [
        ((1,), (1,)),
        ((1, 2), (1, 2)),
        ((2,), (1, 2)),
        ((2, 3), (2, 3)),
        ((2,), (2, 3)),
    ]
    assert [row.criteria_id for row in scene.store.running()] == [2]


def test_a_full_disk_starts_nothing(scene: Scene) -> None:
    scene.added()
    # One source list that no page that is left can hold.
    long = FilterText(source=",".join(f"192.0.2.{at}" for at in range(250)))
    with full_disk(scene):
        results = [scene.add(filter=long) for _ in range(20)]
    failed = [each for each in results if isinstance(each, ErrorResult)]
    assert failed
    assert all("192.0.2." not in str(each.info) for each in failed)
    started = [each.criteria_id for each in results if isinstance(each, AddResult)]
    assert scene.running == (1, *started)
    assert [row.criteria_id for row in scene.store.running()] == [1, *started]
    assert scene.data_plane.installed[-1] == (1, *started)
    highest = scene.added(filter=long)
    assert highest > max([1, *started])
    verify(scene.store.audit_rows())


def test_a_full_disk_stops_and_remembers(scene: Scene) -> None:
    ids = [scene.added() for _ in range(60)]
    with full_disk(scene):
        results = [scene.delete(each) for each in ids]
        waiting = scene.control.pending_ends
        assert waiting
        assert Status.SERVER_INTERNAL_ERROR in {code(each) for each in results}
        # Whatever could not be written: nothing copies any more.
        assert scene.running == ()
        assert scene.data_plane.installed[-1] == ()
    assert scene.expire(60) == []
    assert scene.control.pending_ends == ()
    assert scene.store.running() == []
    stops = [row for row in audit(scene) if row["event"] == "stop"]
    assert sorted(row["criteria_id"] for row in stops) == ids
    # The log says when copying stopped, not when that could be written down.
    assert {row["when"] for row in stops} == {now(1).wall.isoformat()}
    verify(scene.store.audit_rows())


def test_one_that_the_data_plane_does_not_take_keeps_no_other_from_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests of several control sources share a change; what is wrong with one is not the others' fault."""
    change = scene.data_plane.change

    def picky(start: Collection[Intercept], stop: Collection[int]) -> None:
        if any(each.filter.source == "192.0.2.66" for each in start):
            raise PortError
        change(start, stop)

    monkeypatch.setattr(scene.data_plane, "change", picky)
    sources = ["192.0.2.1", "192.0.2.2", "192.0.2.66", "192.0.2.3", "192.0.2.4", "192.0.2.66", "192.0.2.5"]
    logins = ["md2", "md", "md", "md2", "md2", "md", "md2"]
    asked = [
        Tasked(principal(login), add_request(login, filter=FilterText(source=source)))
        for login, source in zip(logins, sources, strict=True)
    ]
    assert [code(each) for each in scene.control.handle_all(asked, now())] == [
        500 if source == "192.0.2.66" else 200 for source in sources
    ]
    assert scene.running == (1, 2, 4, 5, 7)
    assert sorted(scene.data_plane.active) == [1, 2, 4, 5, 7]
    assert [row.criteria_id for row in scene.store.running()] == [1, 2, 4, 5, 7]
    stops = [row for row in audit(scene) if row["event"] == "stop"]
    assert [row["criteria_id"] for row in stops] == [3, 6]


def test_a_time_out_that_was_not_installed_has_not_ended(scene: Scene, witness: Witness) -> None:
    first = scene.added(static=False, timeouts=Timeouts(total_s=5))
    witness.refuses = True
    assert scene.expire(5) == []
    assert scene.running == (first,)
    witness.refuses = False
    assert [each.intercept.criteria_id for each in scene.expire(6)] == [first]
    assert scene.expire(7) == []
    (stop,) = [row for row in audit(scene) if row["event"] == "stop"]
    assert stop["detail"] == [["reason", "time-out: total"]]


def test_refusals_are_audited_though_the_data_plane_fails(scene: Scene, witness: Witness) -> None:
    first = scene.added()
    witness.refuses = True
    waiting = [Tasked(principal(), delete_request(first)), Tasked(principal("md2"), delete_request(first))]
    results = scene.control.handle_all(waiting, now(1))
    assert [code(each) for each in results] == [500, 400]
    assert [row["event"] for row in audit(scene)] == ["start", "refuse"]


def test_what_had_nothing_to_stop_does_not_fail_with_the_others(scene: Scene, witness: Witness) -> None:
    first, second = scene.added(), scene.added()
    witness.refuses = True
    waiting = [
        Tasked(principal(), delete_request(first)),
        Tasked(principal(), delete_request(second, static=False)),
    ]
    failed, nothing = scene.control.handle_all(waiting, now(1))
    assert code(failed) == Status.SERVER_INTERNAL_ERROR
    assert nothing == DeleteResult(0)


@pytest.mark.parametrize(
    ("request_", "method"),
    [
        (add_request("md"), "ADD"),
        (DeleteRequest(V7, "md", "1", cdest_id="cd1"), "DELETE"),
        (ListRequest(V7, "md", "1"), "LIST"),
        (NoopRequest(V7, "md", "1"), "NOOP"),
    ],
)
def test_every_refusal_says_who_asked_for_what(scene: Scene, request_: Any, method: str) -> None:
    assert code(scene.control.handle(principal("md2"), request_, now(3))) == Status.BAD_REQUEST
    (row,) = audit(scene)
    assert (row["event"], row["login"], row["csource_id"]) == ("refuse", "md2", "md")
    assert row["when"] == now(3).wall.isoformat()
    detail = dict(row["detail"])
    assert (detail["request"], detail["status"], detail["address"]) == (method, "400", "192.0.2.10")


@pytest.mark.ledger("T-101")
@pytest.mark.parametrize("timeouts", [Timeouts(), Timeouts(0, 0, 0, 0), Timeouts(packets=0)])
def test_nothing_runs_without_an_end(scene: Scene, timeouts: Timeouts) -> None:
    assert code(scene.add(static=False, timeouts=timeouts)) == Status.IMPROPER_TIMEOUT
    assert scene.running == ()


def test_a_step_of_the_wall_clock_ends_nothing(scene: Scene) -> None:
    scene.added(static=False, timeouts=Timeouts(total_s=60))
    later = type(now())(now(10_000).wall, now(59).monotonic_ns)
    assert scene.control.tick(later) == []
    earlier = type(now())(now(-10_000).wall, now(60).monotonic_ns)
    assert len(scene.control.tick(earlier)) == 1


def test_without_a_journal_a_restart_ends_what_ran_and_its_ids_stay_used(tmp_path: Path) -> None:
    scene = Scene(tmp_path, journal=False)
    ids = [scene.added() for _ in range(3)]
    scene.store.close()
    again = Scene(tmp_path, journal=False)
    (told,) = again.restore(9)
    assert (told.csource_id, told.restored, told.total) == ("md", 0, 3)
    assert [row["detail"] for row in audit(again) if row["event"] == "stop"] == [[["reason", "restart"]]] * 3
    assert again.added() == ids[-1] + 1
    assert verify(again.store.audit_rows()) == 9
    again.store.close()


def test_a_stop_is_recorded_with_the_moment_when_copying_had_stopped(scene: Scene, witness: Witness) -> None:
    """Not with that of the request: the last copy may be younger."""
    scene.control._effects._wall = lambda: now(7.5).wall
    scene.delete(scene.added())
    witness.refuses = True
    assert code(scene.add()) == Status.SERVER_INTERNAL_ERROR
    stops = [row["when"] for row in audit(scene) if row["event"] == "stop"]
    assert stops == [now(7.5).wall.isoformat()] * 2


def test_refused_adds_are_on_record_though_the_journal_could_not_be_written(scene: Scene) -> None:
    """Alone, and beside one that would have begun."""
    with full_disk(scene):
        long = FilterText(source=",".join(f"192.0.2.{at}" for at in range(250)))
        while code(scene.add(filter=long)) != Status.SERVER_INTERNAL_ERROR:
            pass
        before = len(audit(scene))
        waiting = [Tasked(principal(), add_request(cdest_ids=("nowhere",), filter=long))] * 40
        waiting.append(Tasked(principal(), add_request(filter=long)))
        results = scene.control.handle_all(waiting, now(1))
        assert [code(each) for each in results] == [430] * 40 + [500]
        assert len(audit(scene)) == before
    scene.expire(2)
    assert [row["event"] for row in audit(scene)[before:]] == ["refuse"] * 40


def test_a_change_that_the_data_plane_does_not_take_is_none_after_a_restart_either(
    scene: Scene, witness: Witness
) -> None:
    first = scene.added(static=False, timeouts=Timeouts(total_s=50))
    witness.refuses = True
    result = scene.refresh(
        10, criteria_ids=(IdRange(first, first, single=True),), timeouts=Timeouts(total_s=5000)
    )
    assert code(result) == Status.SERVER_INTERNAL_ERROR
    assert [row["event"] for row in audit(scene)] == ["start", "refresh", "undo"]
    assert audit(scene)[-1]["criteria_id"] == first
    scene.store.close()
    second = Scene(scene.path.parent)
    second.restore(20)
    assert second.control.intercepts[0].timeouts == Timeouts(total_s=50)
    assert len(second.expire(50)) == 1
    second.store.close()


def test_what_could_not_be_undone_on_record_is_tried_again(
    scene: Scene, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change was recorded, the data plane refused it, and then the disk was full."""
    first = scene.added(static=False, timeouts=Timeouts(total_s=50))
    transaction = scene.store.transaction

    def refuse_and_fill(_start: object, _stop: object) -> None:
        monkeypatch.setattr(scene.store, "transaction", failing)
        raise PortError

    def failing() -> Any:
        raise PortError

    monkeypatch.setattr(witness, "change", refuse_and_fill)
    result = scene.refresh(
        10, criteria_ids=(IdRange(first, first, single=True),), timeouts=Timeouts(total_s=5000)
    )
    assert code(result) == Status.SERVER_INTERNAL_ERROR
    assert [row["event"] for row in audit(scene)] == ["start", "refresh"]
    monkeypatch.setattr(scene.store, "transaction", transaction)
    scene.expire(11)
    assert [row["event"] for row in audit(scene)] == ["start", "refresh", "undo"]
    (row,) = scene.store.running()
    assert row.text is not None
    assert from_text(row.text).timeouts == Timeouts(total_s=50)


def test_requests_that_cannot_be_read_are_on_record(scene: Scene) -> None:
    error = ErrorResult(Status.BAD_REQUEST, info="line 3: a parameter has the form Name: value")
    scene.control.misread([Misread(principal(), "md", "ADD", error)] * 2, now(1))
    first, second = audit(scene)
    assert (first["event"], first["login"], first["detail"]) == ("refuse", "md", second["detail"])
    assert {"request": "ADD", "reason": error.info}.items() <= dict(first["detail"]).items()
