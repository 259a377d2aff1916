from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scene import DELIVERY, OTHER_DELIVERY, V7, Scene, add_request, now, policy, principal

from flowtap.control import ControlSource, Count, Policy, PortError, Tasked, Transaction, verify
from flowtap.control.listing import select
from flowtap.control.registry import CRITERIA_ID_MAX
from flowtap.dtcp import (
    AddResult,
    DeleteRequest,
    DeleteResult,
    ErrorResult,
    FilterText,
    IdRange,
    ListRequest,
    ListResult,
    NoopRequest,
    NoopResult,
    RefreshResult,
    Result,
    Status,
    Timeouts,
)


def status(result: Result) -> Status:
    assert isinstance(result, ErrorResult), result
    assert result.info
    return result.status


def entries(result: Result) -> list[int]:
    assert isinstance(result, ListResult), result
    return [entry.criteria_id for entry in result.entries]


def events(scene: Scene) -> list[tuple[str, int | None]]:
    rows = [json.loads(row.text) for row in scene.store.audit_rows()]
    return [(row["event"], row["criteria_id"]) for row in rows]


@contextmanager
def store_fails(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def failing() -> AbstractContextManager[Transaction]:
        raise PortError

    with monkeypatch.context() as patch:
        patch.setattr(scene.store, "transaction", failing)
        yield


def test_a_start_is_recorded_then_installed_then_acknowledged(scene: Scene) -> None:
    assert scene.add() == AddResult(1)
    assert scene.data_plane.installed == [(1,)]
    assert events(scene) == [("start", 1)]
    assert [row.criteria_id for row in scene.store.running()] == [1]


def test_ids_are_never_used_again(scene: Scene) -> None:
    assert [scene.added(), scene.added()] == [1, 2]
    assert scene.delete(2) == DeleteResult(1)
    assert scene.added() == 3
    scene.store.close()
    again = Scene(scene.path.parent)
    assert again.added() == 4
    again.store.close()


def test_ids_run_out(scene: Scene) -> None:
    scene.control._last_id = CRITERIA_ID_MAX
    assert status(scene.add()) == Status.MAX_CRITERIA_EXCEEDED


@pytest.mark.ledger("T-001", "T-131")
def test_requests_that_wait_together_share_one_change(scene: Scene) -> None:
    waiting = [
        Tasked(principal(), add_request()),
        Tasked(principal(), add_request(cdest_ids=("nowhere",))),
        Tasked(principal("md2"), add_request("md2")),
    ]
    results = scene.control.handle_all(waiting, now())
    assert results[0] == AddResult(1)
    assert status(results[1]) == Status.UNKNOWN_CONTENT_DESTINATION
    assert results[2] == AddResult(2)
    assert scene.data_plane.installed == [(1, 2)]
    assert sorted(events(scene), key=str) == [("refuse", None), ("start", 1), ("start", 2)]
    mixed: list[Tasked] = [
        Tasked(principal(), add_request()),
        Tasked(principal(), ListRequest(V7, "md", "1")),
        Tasked(
            principal(), DeleteRequest(V7, "md", "1", criteria_ids=(IdRange(3, 3, single=True),), static=True)
        ),
        Tasked(principal(), NoopRequest(V7, "md", "1")),
    ]
    added, listed, deleted, noop = scene.control.handle_all(mixed, now())
    assert added == AddResult(3)
    assert entries(listed) == [1, 3]
    assert deleted == DeleteResult(1)
    assert noop == NoopResult()


def test_a_start_that_cannot_be_recorded_leaves_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store_fails(scene, monkeypatch):
        assert status(scene.add()) == Status.SERVER_INTERNAL_ERROR
    assert scene.data_plane.installed == []
    assert scene.running == ()
    assert scene.store.running() == []


def test_a_start_that_is_not_installed_is_taken_back(scene: Scene) -> None:
    scene.data_plane.fails = True
    assert status(scene.add()) == Status.SERVER_INTERNAL_ERROR
    assert scene.running == ()
    assert scene.store.running() == []
    assert events(scene) == [("start", 1), ("stop", 1)]


def test_a_stop_that_cannot_be_recorded_never_resumes(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    first = scene.added()
    with store_fails(scene, monkeypatch):
        assert status(scene.delete(first)) == Status.SERVER_INTERNAL_ERROR
    assert scene.data_plane.installed[-1] == ()
    assert list(scene.control.pending_ends) == [first]
    assert scene.running == ()
    scene.added()
    assert list(scene.control.pending_ends) == []
    assert [row.criteria_id for row in scene.store.running()] == [2]
    assert events(scene) == [("start", 1), ("stop", 1), ("start", 2)]


def test_a_pending_record_is_tried_again_with_time(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    first = scene.added()
    with store_fails(scene, monkeypatch):
        scene.delete(first)
    assert scene.expire(1) == []
    assert scene.control.pending_ends == ()


def test_a_stop_that_the_data_plane_refuses_changes_nothing(scene: Scene) -> None:
    first = scene.added()
    scene.data_plane.fails = True
    assert status(scene.delete(first)) == Status.SERVER_INTERNAL_ERROR
    assert list(scene.running) == [first]
    assert [row.criteria_id for row in scene.store.running()] == [first]


@pytest.mark.ledger("T-113")
def test_delete_selects(scene: Scene) -> None:
    ids = [scene.added() for _ in range(5)]
    dynamic = scene.added(static=False, timeouts=Timeouts(total_s=60))
    foreign = scene.added("md2")
    # A single id that is unknown, or somebody else's: nothing is done.
    for unknown in (99, foreign):
        result = scene.delete(ids[0], unknown)
        assert status(result) == Status.UNKNOWN_CRITERIA_ID
        assert isinstance(result, ErrorResult)
        assert [each.value for each in result.parameters] == [str(unknown)]
    request = DeleteRequest(
        V7, "md", "1", criteria_ids=(IdRange(2, 3, single=False), IdRange(50, 60, single=False))
    )
    assert scene.control.handle(principal(), request, now()) == DeleteResult(0)
    assert scene.delete(ids[0], static=False) == DeleteResult(0)
    assert scene.control.handle(
        principal(), DeleteRequest(V7, "md", "1", criteria_ids=request.criteria_ids, static=True), now()
    ) == DeleteResult(2)
    by_name = DeleteRequest(V7, "md", "1", cdest_id="cd1")
    assert scene.control.handle(principal(), by_name, now()) == DeleteResult(1)
    assert dynamic not in scene.running
    # Two requests that wait together count an intercept once.
    twice = [Tasked(principal(), DeleteRequest(V7, "md", "1", cdest_id="cd1", static=True))] * 2
    assert scene.control.handle_all(twice, now()) == [DeleteResult(3), DeleteResult(0)]
    assert scene.running == (foreign,)


@pytest.mark.ledger("T-040")
def test_content_destinations_select(scene: Scene) -> None:
    on_demand = scene.added(cdest_ids=("own",), deliveries=(OTHER_DELIVERY,))
    assert entries(scene.list(cdest_id="own")) == [on_demand]
    assert entries(scene.list(cdest_id="cd1")) == []
    # Another control source must not learn that it exists.
    assert status(scene.list("md2", cdest_id="own")) == Status.UNKNOWN_CONTENT_DESTINATION
    assert status(scene.list(cdest_id="nowhere")) == Status.UNKNOWN_CONTENT_DESTINATION


@pytest.mark.ledger("T-099")
def test_list_shows_what_is_asked_for(scene: Scene) -> None:
    first = scene.added(static=False, timeouts=Timeouts(idle_s=10, packets=5), send_async=True)
    scene.data_plane.count[first] = Count(3, 300, now(4).monotonic_ns)
    result = scene.list(at=6, criteria=False, stats=True)
    assert isinstance(result, ListResult)
    (entry,) = result.entries
    assert entry.filter is None
    assert (entry.matching_packets, entry.matching_octets) == (3, 300)
    assert entry.remaining == Timeouts(idle_s=8, packets=2)
    assert (entry.added, entry.last_refresh) == (now().wall, now().wall)
    result = scene.list()
    assert isinstance(result, ListResult)
    (entry,) = result.entries
    assert entry.filter == FilterText(source="192.0.2.1")
    assert entry.send_async
    assert (entry.remaining, entry.matching_packets) == (None, None)
    scene.data_plane.fails = True
    assert status(scene.list(stats=True)) == Status.SERVER_INTERNAL_ERROR
    assert entries(scene.list("md2", stats=True)) == []
    assert entries(scene.list(criteria_ids=(IdRange(1, 1, single=True),))) == [first]


@pytest.mark.ledger("T-134")
def test_a_list_is_a_picture_of_one_moment(scene: Scene) -> None:
    """The tap counts on while a list is made; every entry of it shows the same moment."""
    for _ in range(20):
        scene.added()
    asked = 0

    def counts() -> dict[int, Count]:
        nonlocal asked
        asked += 1
        return dict.fromkeys(range(1, 21), Count(asked, 100 * asked))

    scene.data_plane.counts = counts  # type: ignore[method-assign]
    for moment in (1, 2):
        result = scene.list(stats=True)
        assert isinstance(result, ListResult)
        assert {each.matching_packets for each in result.entries} == {moment}
    # What waits beside it is in it or not, by its place.
    several: list[Tasked] = [
        Tasked(principal(), DeleteRequest(V7, "md", "1", criteria_ids=one(20), static=True)),
        Tasked(principal(), ListRequest(V7, "md", "1")),
        Tasked(principal(), add_request()),
    ]
    assert entries(scene.control.handle_all(several, now())[1]) == list(range(1, 20))


@pytest.mark.ledger("T-100")
def test_time_outs_end_intercepts(scene: Scene) -> None:
    assert scene.control.next_deadline_ns() is None
    scene.added()
    idle = scene.added(static=False, timeouts=Timeouts(idle_s=10))
    total = scene.added(static=False, timeouts=Timeouts(total_s=20, idle_s=0))
    packets = scene.added(static=False, timeouts=Timeouts(packets=3))
    octets = scene.added(static=False, timeouts=Timeouts(octets=100))
    assert scene.control.next_deadline_ns() == now(10).monotonic_ns
    scene.data_plane.count[idle] = Count(1, 1, now(5).monotonic_ns)
    assert scene.control.next_deadline_ns() == now(15).monotonic_ns
    assert scene.expire(14) == []
    assert [(each.intercept.criteria_id, each.reason) for each in scene.expire(15)] == [(idle, "idle")]
    scene.data_plane.count |= {packets: Count(3, 9), octets: Count(1, 100)}
    ended = scene.expire(20)
    assert {each.intercept.criteria_id: each.reason for each in ended} == {
        total: "total",
        packets: "packets",
        octets: "bytes",
    }
    assert scene.running == (1,)
    assert scene.data_plane.installed[-1] == (1,)
    assert [row.criteria_id for row in scene.store.running()] == [1]


def one(number: int) -> tuple[IdRange, ...]:
    return (IdRange(number, number, single=True),)


@pytest.mark.ledger("T-121")
def test_refresh_replaces_what_is_left(scene: Scene) -> None:
    first = scene.added(static=False, timeouts=Timeouts(idle_s=10, total_s=100, packets=5))
    scene.data_plane.count[first] = Count(4, 400, now(5).monotonic_ns)
    assert scene.refresh(
        90, criteria_ids=one(first), timeouts=Timeouts(total_s=50, octets=1000)
    ) == RefreshResult(1)
    # What was not named runs on: idleness since the last match, one packet left.
    result = scene.list(at=91, stats=True)
    assert isinstance(result, ListResult)
    (entry,) = result.entries
    assert entry.remaining == Timeouts(idle_s=0, total_s=49, packets=1, octets=1000)
    assert entry.timeouts == Timeouts(idle_s=10, total_s=50, packets=5, octets=1000)
    assert (entry.refreshes, entry.last_refresh, entry.added) == (1, now(90).wall, now().wall)
    assert scene.refresh(92, cdest_id="cd1", timeouts=Timeouts(idle_s=20, packets=3)) == RefreshResult(1)
    result = scene.list(at=93, stats=True)
    assert isinstance(result, ListResult)
    assert result.entries[0].remaining == Timeouts(idle_s=19, total_s=47, packets=3, octets=1000)
    assert scene.control.next_deadline_ns() == now(112).monotonic_ns
    scene.data_plane.count[first] = Count(7, 700, now(100).monotonic_ns)
    assert [each.reason for each in scene.expire(101)] == ["packets"]
    assert events(scene) == [("start", 1), ("refresh", 1), ("refresh", 1), ("stop", 1)]


def test_a_refresh_changes_no_order(scene: Scene) -> None:
    first, second = (scene.added(static=False, timeouts=Timeouts(total_s=9)) for _ in range(2))
    scene.refresh(1, criteria_ids=one(first), timeouts=Timeouts(total_s=50))
    assert entries(scene.list()) == [first, second]
    assert [each.criteria_id for each in scene.control.own("md")] == [first, second]
    assert scene.control.own("md2") == ()
    (ended,) = scene.expire(9)
    assert (ended.csource_id, ended.intercept.criteria_id) == ("md", second)


@pytest.mark.ledger("T-122")
def test_refresh_makes_nothing_static_and_unmakes_nothing(scene: Scene) -> None:
    first = scene.added()
    assert scene.refresh(5, criteria_ids=one(first), timeouts=Timeouts(total_s=5)) == RefreshResult(1)
    assert scene.expire(100) == []
    assert scene.control.intercepts[0].refreshes == 1
    assert scene.control.intercepts[0].timeouts == Timeouts()


@pytest.mark.ledger("T-123")
def test_refreshes_that_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path, max_lifetime_s=100)
    first = scene.added(static=False, timeouts=Timeouts(total_s=50))
    before = scene.control.intercepts
    assert scene.refresh(1, cdest_id="cd1", login="md2", timeouts=Timeouts(idle_s=5)) == RefreshResult(0)
    assert (
        status(scene.refresh(1, criteria_ids=one(9), timeouts=Timeouts(idle_s=5)))
        == Status.UNKNOWN_CRITERIA_ID
    )
    assert (
        status(scene.refresh(1, cdest_id="none", timeouts=Timeouts(idle_s=5)))
        == Status.UNKNOWN_CONTENT_DESTINATION
    )
    for total_s in (0, 101):
        result = scene.refresh(1, criteria_ids=one(first), timeouts=Timeouts(total_s=total_s, idle_s=5))
        assert status(result) == Status.IMPROPER_TIMEOUT
    with store_fails(scene, monkeypatch):
        result = scene.refresh(1, criteria_ids=one(first), timeouts=Timeouts(idle_s=5))
        assert status(result) == Status.SERVER_INTERNAL_ERROR
    scene.data_plane.fails = True
    result = scene.refresh(1, criteria_ids=one(first), timeouts=Timeouts(idle_s=5))
    assert status(result) == Status.SERVER_INTERNAL_ERROR
    scene.data_plane.fails = False
    monkeypatch.setattr(scene.data_plane, "change", failing_change)
    result = scene.refresh(1, criteria_ids=one(first), timeouts=Timeouts(idle_s=5))
    assert status(result) == Status.SERVER_INTERNAL_ERROR
    assert scene.control.intercepts == before
    scene.store.close()


def failing_change(_start: object, _stop: object) -> None:
    raise PortError


def test_sequence_numbers_are_kept_before_anything(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    assert scene.control.keep_sequences({"md": 2**64 - 1, "md2": 7})
    assert scene.control.keep_sequences({"md": 3})
    assert scene.store.sequences() == {"md": 3, "md2": 7}
    with store_fails(scene, monkeypatch):
        assert not scene.control.keep_sequences({"md": 4})
    assert scene.store.sequences()["md"] == 3


def test_who_may_task(scene: Scene) -> None:
    for login, permissions in (("md", ("flow-tap",)), ("md2", ()), ("nobody", ())):
        for request in (
            add_request(),
            ListRequest(V7, "md", "1"),
            DeleteRequest(V7, "md", "1", cdest_id="cd1"),
        ):
            result = scene.control.handle(principal(login, *permissions), request, now())
            assert status(result) == Status.BAD_REQUEST
    assert scene.running == ()
    assert all(event == ("refuse", None) for event in events(scene))
    assert scene.store.audit_rows() is not None


@pytest.mark.ledger("T-043")
def test_many_ranges_cost_no_more_than_one(scene: Scene) -> None:
    """The control plane has one thread for everybody: a list of ranges is not looked up one by one."""
    own = CountingMapping({number: number for number in range(1, 3001)})
    everything = IdRange(0, 2**64 - 1, single=False)
    request = DeleteRequest(V7, "md", "1", criteria_ids=(everything,) * 4_096)
    source, policy = scene.control.policy.control_sources["md"], scene.control.policy
    found: list[Any] = [*select(own, request, source, policy)]  # type: ignore[arg-type]
    assert found == list(range(1, 3001))
    assert own.looked_at <= 2 * 3_000


class CountingMapping(dict[int, int]):
    """Counts how many of its members are looked at."""

    looked_at = 0

    def __iter__(self) -> Iterator[int]:
        for each in super().__iter__():
            self.looked_at += 1
            yield each

    def items(self) -> Any:
        self.looked_at += len(self)
        return super().items()

    def __getitem__(self, number: int) -> int:
        self.looked_at += 1
        return super().__getitem__(number)


@given(
    ranges=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12), st.booleans()), min_size=1, max_size=8),
    numbers=st.sets(st.integers(0, 40)),
)
def test_ranges_select_what_they_hold(ranges: list[tuple[int, int, bool]], numbers: set[int]) -> None:
    ids = tuple(
        IdRange(first, first, single=True)
        if single and first in numbers
        else IdRange(first, first + more, single=False)
        for first, more, single in ranges
    )
    own = {number: number for number in sorted(numbers)}
    request = DeleteRequest(V7, "md", "1", criteria_ids=ids)
    rules = policy()
    found: list[Any] = [*select(own, request, rules.control_sources["md"], rules)]  # type: ignore[arg-type]
    assert found == [number for number in sorted(numbers) if any(e.first <= number <= e.last for e in ids)]


@pytest.mark.ledger("T-043")
def test_quota(tmp_path: Path) -> None:
    scene = Scene(tmp_path, max_criteria=2)
    waiting = [Tasked(principal(), add_request())] * 3
    assert [isinstance(each, AddResult) for each in scene.control.handle_all(waiting, now())] == [
        True,
        True,
        False,
    ]
    assert status(scene.add()) == Status.MAX_CRITERIA_EXCEEDED
    assert isinstance(scene.add("md2"), AddResult)
    scene.store.close()


def test_lifetime_policy(tmp_path: Path) -> None:
    scene = Scene(tmp_path, max_lifetime_s=100)
    assert status(scene.add(static=False, timeouts=Timeouts(total_s=101))) == Status.IMPROPER_TIMEOUT
    assert status(scene.add(static=False, timeouts=Timeouts(packets=1))) == Status.IMPROPER_TIMEOUT
    scene.added(static=False, timeouts=Timeouts(total_s=100))
    scene.added()
    assert [each.timeouts.total_s for each in scene.control.intercepts] == [100, 100]
    assert len(scene.expire(100)) == 2
    scene.store.close()


def test_another_policy_rules_from_now_on(scene: Scene) -> None:
    first = scene.added()
    destinations = scene.control.policy.content_destinations
    narrower = Policy({"md": ControlSource("md", max_criteria=1)}, destinations)
    assert scene.control.apply_policy(narrower, now()) == []
    assert status(scene.add()) == Status.MAX_CRITERIA_EXCEEDED
    assert scene.running == (first,)
    assert entries(scene.list()) == [first]
    assert status(scene.list("md2")) == Status.BAD_REQUEST


@pytest.mark.ledger("T-040", "T-044")
def test_destination_policy(tmp_path: Path) -> None:
    scene = Scene(tmp_path, allowed_destinations=frozenset({"other"}))
    # The same words for a destination that is not allowed and for one that does not exist.
    refused = scene.add()
    unknown = scene.add("md2", cdest_ids=("none",))
    assert isinstance(refused, ErrorResult)
    assert isinstance(unknown, ErrorResult)
    assert (refused.status, refused.info) == (unknown.status, unknown.info)
    assert isinstance(scene.add(cdest_ids=("other",), deliveries=(OTHER_DELIVERY,)), AddResult)
    assert status(scene.list(cdest_id="cd1")) == Status.UNKNOWN_CONTENT_DESTINATION
    scene.store.close()


def test_a_configured_destination_cannot_be_moved(scene: Scene) -> None:
    assert status(scene.add(deliveries=(OTHER_DELIVERY,))) == Status.JTAP_FAILURE
    scene.added(deliveries=(DELIVERY,))
    assert scene.control.intercepts[0].refuse_oversize == (True,)


@pytest.mark.parametrize(
    ("filter_text", "code", "name"),
    [
        (FilterText(source="here"), Status.BAD_REQUEST, "Source-Address"),
        (FilterText(source="192.0.2.1/33"), Status.IMPROPER_FILTER, "Source-Address"),
        (FilterText(protocol="256"), Status.IMPROPER_FILTER, "Protocol"),
        (FilterText(protocol="1", destination_port="5"), Status.IMPROPER_FILTER, "Dest-Port"),
    ],
)
def test_filters_are_checked_before_anything(
    scene: Scene, filter_text: FilterText, code: Status, name: str
) -> None:
    result = scene.add(filter=filter_text)
    assert status(result) == code
    assert isinstance(result, ErrorResult)
    assert [each.name for each in result.parameters] == [name]


def test_the_audit_log_is_a_chain(scene: Scene) -> None:
    scene.added(static=False, timeouts=Timeouts(idle_s=5))
    scene.delete(1)
    scene.add(cdest_ids=("nowhere",))
    assert verify(scene.store.audit_rows()) == 3
