"""The registry beside the plain one: any requests, in any order, through failures, reloads and restarts.

The store is the real one; a commit that fails has done everything but commit. The data plane notes what it is
told. After every step both registries, the journal, the data plane and the record say the same.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from plain_registry import Criterion, PlainPolicy, PlainRegistry, PlainSource, Spec
from scene import DELIVERY, OTHER_DELIVERY, PLACES, V7, RecordingDataPlane, principal

from flowtap.control import (
    PERMISSION_APPROVE,
    PERMISSION_CHANGE,
    Bandwidth,
    Congested,
    ContentDestination,
    ControlPlane,
    ControlSource,
    Count,
    Ended,
    Intercept,
    Now,
    Policy,
    PortError,
    Purged,
    Refused,
    Tasked,
    Transaction,
    Usage,
    verify,
)
from flowtap.control.journal import from_text
from flowtap.dtcp import (
    AddRequest,
    AddResult,
    DeleteRequest,
    DeleteResult,
    ErrorResult,
    FilterText,
    IdRange,
    ListRequest,
    ListResult,
    Parameter,
    RefreshRequest,
    RefreshResult,
    Request,
    Result,
    Timeouts,
)
from flowtap.service.filters import FilterReader
from flowtap.service.store import SqlStore

BEGIN = datetime(2026, 3, 2, 10)  # noqa: DTZ001 - as the protocol
LIMITED = {"cd1": (8_000, 4_000, 40_000, 16_000), "cd2": (0, 0, 0, 0)}
FREE = {"cd1": (0, 0, 0, 0), "cd2": (0, 0, 0, 0)}
POLICIES = (
    PlainPolicy({"md": PlainSource(quota=5), "md2": PlainSource()}, FREE),
    PlainPolicy({"md": PlainSource(quota=5), "md2": PlainSource(minimum_priority=5)}, LIMITED),
    PlainPolicy(
        {"md": PlainSource(quota=2, allowed=frozenset({"cd1", "own"})), "md2": PlainSource(longest_s=30)},
        FREE,
    ),
    PlainPolicy({"md": PlainSource(needs_approval=True), "md2": PlainSource(needs_order=True)}, LIMITED),
    PlainPolicy({"md": PlainSource(longest_s=30, excluded=("203.0.113.9/32",)), "md2": PlainSource()}, FREE),
    PlainPolicy(
        {"md": PlainSource(narrowest=32), "md2": PlainSource(excluded=("203.0.113.0/24",))},
        FREE,
        most_destinations=1,
    ),
    PlainPolicy({"md": PlainSource()}, FREE, most=4, most_destinations=1),
)


def real_policy(plain: PlainPolicy) -> Policy:
    return Policy(
        {
            name: ControlSource(
                name,
                allowed_destinations=each.allowed,
                excluded=each.excluded,
                narrowest_v4=each.narrowest,
                max_criteria=each.quota,
                max_lifetime_s=each.longest_s,
                minimum_priority=each.minimum_priority,
                needs_order=each.needs_order,
                needs_approval=each.needs_approval,
            )
            for name, each in plain.sources.items()
        },
        {
            name: ContentDestination(name, DELIVERY, bandwidth=Bandwidth(*bounds))
            for name, bounds in plain.limits.items()
        },
        max_criteria=plain.most,
        max_content_destinations=plain.most_destinations,
    )


EVERYTHING = {
    *("added", "listed", "refreshed", "approved", "rejected", "static stays", "timed out", "purged"),
    *("start failed", "stop not taken", "stop not recorded", "change not taken"),
    *(
        "policy ended",
        "policy not enforced",
        "narrowing not recorded",
        "refreshed until its longest",
        "restored",
        "ended by a restart",
    ),
    *(f"add {code}" for code in (400, 430, 432, 433, 550, 551)),
    *(f"delete {code}" for code in (430, 431)),
    *(f"refresh {code}" for code in (430, 431, 433)),
}
"""What must have happened before all is said to agree."""


class FlakyDataPlane(RecordingDataPlane):
    """Takes no change, or says no counts, when told so."""

    def __init__(self) -> None:
        super().__init__()
        self.change_fails = False

    def change(self, start: Collection[Intercept], stop: Collection[int]) -> None:
        if self.change_fails:
            raise PortError
        was, self.fails = self.fails, False
        super().change(start, stop)
        self.fails = was


logins = st.sampled_from(["md", "md", "md2"])
seconds = st.sampled_from([0.5, 1, 4, 7.5, 10, 25, 61])
cdests = st.sampled_from(
    [
        ("cd1",),
        ("cd1",),
        ("cd1",),
        ("cd2",),
        ("own",),
        ("own2",),
        ("own", "cd1"),
        ("nowhere",),
        ("cd1", "nowhere"),
    ]
)
kinds = st.none() | st.sampled_from([0, 5, 20, 60])
budgets = st.sampled_from([None, None, 3, 40])
lifetimes = st.builds(
    Timeouts, idle_s=kinds, total_s=kinds, packets=budgets, octets=st.sampled_from([None, None, 2_000])
)
plain_lifetimes = st.builds(Timeouts, idle_s=kinds, total_s=st.sampled_from([5, 20, 60]), packets=budgets)
good_specs = st.builds(
    Spec,
    login=logins,
    cdests=st.sampled_from([("cd1",), ("cd1",), ("cd2",), ("own",), ("own2",), ("own", "cd1")]),
    static=st.booleans(),
    timeouts=plain_lifetimes,
    source=st.sampled_from(["192.0.2.1", "192.0.2.0/24"]),
    priority=st.sampled_from([1, 1, 2, 9]),
    order_s=st.sampled_from([None, None, 10, 40]),
)
any_specs = st.builds(
    Spec,
    login=logins,
    cdests=cdests,
    static=st.booleans(),
    timeouts=lifetimes,
    source=st.sampled_from(["192.0.2.1", "192.0.2.1", "192.0.2.0/24", "192.0.2.0/33", "x"]),
    priority=st.sampled_from([1, 9]),
    order_s=st.sampled_from([None, None, 10, -1]),
    acts_for=st.sampled_from([None, None, None, None, "md2", "nobody"]),
).map(lambda spec: replace(spec, acts_for=None) if spec.acts_for == spec.login else spec)
batches = st.lists(good_specs, min_size=1, max_size=3)
places = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from([None, None, None, 0, 1, 3])), min_size=1, max_size=3
)
selectors = st.one_of(places, places, st.sampled_from(["all", "cd1", "cd1", "cd2", "own", "nowhere"]))
faults = st.sampled_from([{"store"}, {"change"}, {"counts"}, {"store", "change"}])
policies = st.sampled_from([0, 1, 1, 2, 3, 3, 4, 5, 6])


class Registries(RuleBasedStateMachine):
    """Does the same to both."""

    def __init__(self) -> None:
        super().__init__()
        shm = Path("/dev/shm")  # noqa: S108 - memory, where there is some: thousands of commits
        self.directory = Path(tempfile.mkdtemp(dir=shm if shm.is_dir() else None, prefix="flowtap-model-"))
        self.plain = PlainRegistry(POLICIES[0], 1000 * 10**9, BEGIN)
        self.highest: dict[str, int] = {}
        self.open()

    def open(self) -> None:
        self.store = SqlStore(self.directory / "s.db")
        self.store._boot_id = self.plain.boot
        self.data_plane = FlakyDataPlane()
        transaction: Callable[[], Any] = self.store.transaction

        @contextmanager
        def commit_may_fail() -> Iterator[Transaction]:
            # The failure comes last, so that a real transaction is rolled back.
            with transaction() as begun:
                yield begun
                if self.plain.store_fails:
                    raise PortError

        self.store.transaction = commit_may_fail  # type: ignore[method-assign, assignment]
        self.control = ControlPlane(
            policy=real_policy(self.plain.policy),
            store=self.store,
            data_plane=self.data_plane,
            filters=FilterReader(PLACES),
        )

    @property
    def now(self) -> Now:
        return Now(self.plain.wall, self.plain.ns)

    def teardown(self) -> None:
        try:
            self.check_the_record()
        finally:
            self.store.close()
            shutil.rmtree(self.directory)

    # --- requests --------------------------------------------------------------------------------

    def handle(self, *requests: tuple[str, Request]) -> list[Any]:
        tasked = [Tasked(principal(login), request) for login, request in requests]
        return [plainly(each) for each in self.control.handle_all(tasked, self.now)]

    def add_request(self, spec: Spec) -> AddRequest:
        order: tuple[Parameter, ...] = ()
        if spec.order_s is not None:
            end = self.plain.wall + timedelta(seconds=spec.order_s)
            order = (
                Parameter("X-FlowTap-Order", "2026/17"),
                Parameter("X-FlowTap-Order-End", f"{end.isoformat()}Z"),
            )
        is_created = any(name.startswith("own") for name in spec.cdests)
        deliveries = [OTHER_DELIVERY if name.startswith("own") else DELIVERY for name in spec.cdests]
        return AddRequest(
            V7,
            spec.acts_for or spec.login,
            "1",
            spec.cdests,
            FilterText(source=spec.source),
            spec.timeouts,
            static=spec.static,
            priority=spec.priority,
            deliveries=tuple(deliveries) if is_created else (),
            extensions=order,
        )

    def selected(self, login: str, selector: Any) -> tuple[tuple[IdRange, ...] | None, str | None]:
        """Ids, mostly of those that run, or a content destination, or everything."""
        if isinstance(selector, str):
            return None, None if selector == "all" else selector
        ranges = []
        own = [each.number for each in self.plain.own(login)] or [0]
        for at, length in selector:
            # The last of them may name what is somebody else's, or is no more.
            first = own[at] if at < len(own) else max(self.plain.last_id - at, 0)
            is_single = length is None
            ranges.append(IdRange(first, first + (length or 0), single=is_single))
        return tuple(ranges), None

    @initialize(at=policies, batch=batches)
    def begin(self, at: int, batch: list[Spec]) -> None:
        self.reload(at)
        self.add(batch)

    @rule(batch=batches)
    def add(self, batch: list[Spec]) -> None:
        requests = [(each.login, self.add_request(each)) for each in batch]
        assert self.handle(*requests) == self.plain.add(batch)

    @rule(batch=batches)
    def add_more(self, batch: list[Spec]) -> None:
        self.add(batch)

    @rule(batch=st.lists(any_specs, min_size=1, max_size=4))
    def add_what_may_be_wrong(self, batch: list[Spec]) -> None:
        self.add(batch)

    @rule(batch=st.lists(st.tuples(logins, selectors, st.booleans()), min_size=1, max_size=3))
    def delete(self, batch: list[tuple[str, Any, bool]]) -> None:
        plain, requests = [], []
        for login, selector, static in batch:
            ids, cdest = self.selected(login, selector)
            if ids is None and cdest is None:
                ids = (IdRange(0, 2**64 - 1, single=False),)
            plain.append((login, ids, cdest, static))
            requests.append((login, DeleteRequest(V7, login, "1", ids, cdest, static=static)))
        assert self.handle(*requests) == self.plain.delete(plain)

    @rule(login=logins, selector=selectors, timeouts=lifetimes)
    def refresh(self, login: str, selector: Any, timeouts: Timeouts) -> None:
        ids, cdest = self.selected(login, selector)
        if ids is None and cdest is None:
            ids = (IdRange(0, 2**64 - 1, single=False),)
        request = RefreshRequest(V7, login, "1", timeouts, ids, cdest)
        assert self.handle((login, request)) == [self.plain.refresh(login, ids, cdest, timeouts)]

    @rule(login=logins, selector=selectors)
    def list_criteria(self, login: str, selector: Any) -> None:
        ids, cdest = self.selected(login, selector)
        request = ListRequest(V7, login, "1", ids, cdest, stats=True)
        assert self.handle((login, request)) == [self.plain.entries(login, ids, cdest)]

    @rule(login=logins, number=st.integers(0, 2**64 - 1))
    def keep_sequence(self, login: str, number: int) -> None:
        kept = self.control.keep_sequences({login: number})
        assert kept is not self.plain.store_fails
        if kept:
            self.highest[login] = number

    # --- what the operator's own people do ---------------------------------------------------------

    @rule(
        who=st.sampled_from(["chief", "chief", "md"]),
        which=st.sampled_from(["all", "first", "first", "any"]),
        approve=st.booleans(),
    )
    def decide(self, who: str, which: str, approve: bool) -> None:
        waiting = sorted(number for number, each in self.plain.running.items() if not each.active)
        ids = {"all": waiting, "first": waiting[:1], "any": [self.plain.last_id]}[which]
        act = self.control.approve if approve else self.control.reject
        done = attempted(act, principal(who, PERMISSION_APPROVE), ids, self.now)
        assert done == self.plain.decide(who, ids, approve=approve)

    @rule(back=st.integers(0, 5), count=st.integers(1, 2))
    def clear(self, back: int, count: int) -> None:
        first = max(self.plain.last_id - back, 0)
        ids = [*range(first, first + count)]
        done = attempted(self.control.clear, principal("operator", PERMISSION_CHANGE), ids, self.now)
        assert done == self.plain.clear(ids)

    @rule(at=policies)
    def reload(self, at: int) -> None:
        ended = self.control.apply_policy(real_policy(POLICIES[at]), self.now)
        assert [each.criteria_id for each in ended] == self.plain.reload(POLICIES[at])

    # --- time, traffic, failures ---------------------------------------------------------------------

    @rule(passed=seconds, jump=st.sampled_from([0, 0, 0, -3600, 3600]))
    def time_passes(self, passed: float, jump: float) -> None:
        """On both clocks; the wall clock may be set as well, which means nothing."""
        self.plain.pass_time(passed, jump)
        self.tick()

    @rule()
    def tick(self) -> None:
        expected = self.plain.tick()
        try:
            happened = [said(each) for each in self.control.tick(self.now)]
        except PortError:
            assert expected is None
        else:
            assert expected is not None
            assert sorted(happened, key=str) == sorted(expected, key=str)

    @rule(
        packets=st.integers(1, 5),
        octets=st.sampled_from([60, 1_500, 60_000]),
        every=st.sampled_from([1, 1, 2]),
    )
    def traffic(self, packets: int, octets: int, every: int) -> None:
        for number in list(self.plain.running)[::every]:
            self.plain.match(number, packets, octets)
            each = self.plain.running[number]
            counts: Mapping[int, Count] = self.data_plane.count
            if (each.packets, each.octets) != each.carried:
                self.data_plane.count = {
                    **counts,
                    number: Count(each.packets, each.octets, each.last_match_ns),
                }

    @rule(which=faults | st.just(set()))
    def faults_change(self, which: set[str]) -> None:
        self.plain.store_fails = "store" in which
        self.plain.counts_fail = self.data_plane.fails = "counts" in which
        self.plain.change_fails = self.data_plane.change_fails = "change" in which

    @rule()
    def faults_end(self) -> None:
        self.faults_change(set())

    # --- what rarely comes together by itself --------------------------------------------------------

    @rule(which=faults, login=logins, timeouts=plain_lifetimes)
    def everything_is_refreshed_in_vain(self, which: set[str], login: str, timeouts: Timeouts) -> None:
        self.faults_change(which)
        self.refresh(login, "all", timeouts)
        self.faults_change(set())

    @rule(which=faults, at=policies)
    def another_policy_rules_later(self, which: set[str], at: int) -> None:
        self.faults_change(which)
        self.reload(at)
        self.faults_change(set())

    @rule(batch=batches, approve=st.booleans())
    def somebody_has_to_agree(self, batch: list[Spec], approve: bool) -> None:
        self.reload(3)
        self.add([replace(each, login="md") for each in batch])
        self.decide("chief", "first", approve)

    @rule(batch=batches, total_s=st.sampled_from([0, 20, 61]))
    def nothing_lasts_longer_than_it_may(self, batch: list[Spec], total_s: int) -> None:
        self.reload(4)
        self.add([replace(each, login="md", static=True) for each in batch])
        self.refresh("md", "all", Timeouts(idle_s=20, total_s=total_s))

    @rule(total_s=st.sampled_from([5, 20, 30]), passed=st.sampled_from([4, 7.5, 25]))
    def nobody_lives_for_ever(self, total_s: int, passed: float) -> None:
        self.reload(4)
        self.add([Spec("md", static=False, timeouts=Timeouts(total_s=30))])
        for _ in range(3):
            self.time_passes(passed, 0)
            self.refresh("md", "all", Timeouts(total_s=total_s))

    @rule(login=logins, idle_s=st.sampled_from([0, 5, 60]), passed=st.sampled_from([1, 4]))
    def what_was_busy_is_given_time_anew(self, login: str, idle_s: int, passed: float) -> None:
        self.add([Spec(login, static=False, timeouts=Timeouts(idle_s=20, total_s=60))])
        self.traffic(1, 60, 1)
        self.time_passes(passed, 0)
        self.refresh(login, "all", Timeouts(idle_s=idle_s))
        self.time_passes(passed, 0)

    @rule(batch=batches)
    def too_much_for_one_destination(self, batch: list[Spec]) -> None:
        self.reload(1)
        self.add([replace(each, cdests=("cd1",)) for each in batch])
        self.tick()
        self.traffic(5, 60_000, 1)
        self.time_passes(4, 0)

    @rule(
        same_boot=st.booleans(),
        end=st.sampled_from(["killed", "killed", "in order", "nothing known"]),
        down_s=st.sampled_from([0.5, 3, 30]),
        jump_s=st.sampled_from([0, 0, -3600, 600]),
    )
    def restart(self, same_boot: bool, end: str, down_s: float, jump_s: float) -> None:
        """Killed at this moment, or ended; the process alone or the whole machine."""
        knows_counts = end != "nothing known"
        # What is left behind names also what earlier runs have counted.
        counts = {each.criteria_id: each.carried for each in self.control.intercepts if each.carried.packets}
        counts |= self.data_plane.count
        usage = Usage({}, "", is_final=False)
        if knows_counts:
            usage = Usage(counts, self.plain.boot, is_final=end == "in order", until=self.now)
        fails = self.plain.change_fails
        self.store.close()
        told = self.plain.restart(
            same_boot=same_boot,
            in_order=end == "in order",
            knows_counts=knows_counts,
            down_s=down_s,
            jump_s=0 if same_boot else jump_s,
        )
        self.open()
        self.data_plane.fails, self.data_plane.change_fails = self.plain.counts_fail, fails

        def restore(usage: Usage) -> dict[str, tuple[int, int]]:
            self.control.restore(
                self.store.running(),
                usage,
                ended_without_record=self.store.ended_without_record,
                boot_id=self.plain.boot,
                now=self.now,
            )
            self.plain.write()
            return {each.csource_id: (each.restored, each.total) for each in self.control.resumed(self.now)}

        if told is not None:
            assert restore(usage) == told
            return
        with pytest.raises(PortError):
            restore(usage)
        # The tap does not run like that; somebody starts it again.
        self.faults_change(set())
        self.store.close()
        told = self.plain.restart(same_boot=True, in_order=False, knows_counts=False, down_s=0, jump_s=0)
        self.open()
        assert told is not None
        assert restore(Usage({}, "", is_final=False)) == told

    # --- both say the same -----------------------------------------------------------------------------

    @invariant()
    def what_runs(self) -> None:
        intercepts = self.control.intercepts
        plain = [plainly_known(each) for _, each in sorted(self.plain.running.items())]
        found = differences([known(each) for each in intercepts], plain)
        assert not found, found
        assert self.data_plane.active == {each.criteria_id: each for each in intercepts if each.is_active}
        for login in ("md", "md2"):
            own = [each.criteria_id for each in self.control.own(login)]
            assert own == [each.number for each in self.plain.own(login)]

    @invariant()
    def what_is_durable(self) -> None:
        rows = {row.criteria_id: row for row in self.store.running()}
        assert rows.keys() == self.plain.journal.keys()
        for number, written in self.plain.journal.items():
            row = rows[number]
            assert row.text is not None
            found = differences([known(from_text(row.text))], [plainly_known(written.criterion)])
            assert not found, found
            assert (row.boot_id, row.written) == (written.boot, Now(written.wall, written.ns))
        assert sorted(self.control.pending_ends) == sorted(self.plain.ended_unwritten)
        assert self.store.ended_without_record == self.plain.marks
        assert self.store.sequences() == self.highest
        # What is not recorded as ended, and does not run, has a mark: no restart lets it copy again.
        assert set(rows) - {each.criteria_id for each in self.control.intercepts} <= self.plain.marks

    @invariant()
    def when_to_look_again(self) -> None:
        if not self.plain.counts_fail:
            assert self.control.next_deadline_ns() == self.plain.deadline_ns()

    def check_the_record(self) -> None:
        import json  # noqa: PLC0415 - beside its one use

        rows = list(self.store.audit_rows())
        verify(rows)
        records = [json.loads(row.text) for row in rows]
        by_event: dict[str, list[int]] = {}
        for each in records:
            by_event.setdefault(each["event"], []).append(each["criteria_id"])
        assert sorted(by_event.get("start", [])) == sorted(self.plain.starts)
        assert sorted(by_event.get("accept", [])) == sorted(self.plain.accepts)
        assert sorted(by_event.get("stop", [])) == sorted(self.plain.stops)
        assert sorted(by_event.get("undo", [])) == sorted(self.plain.undone)
        assert len(by_event.get("refuse", [])) == self.plain.refusals
        # Whoever has a start has somebody who asked for it.
        assert all(each["login"] for each in records if each["event"] in {"start", "accept", "approve"})
        # Nothing begins twice, nothing ends twice, nothing ends that has not begun.
        assert len(set(self.plain.stops)) == len(self.plain.stops)
        assert set(self.plain.stops) <= set(self.plain.starts) | set(self.plain.accepts)


def attempted(act: Callable[..., None], *arguments: Any) -> bool:
    try:
        act(*arguments)
    except Refused:
        return False
    return True


def differences(real: Sequence[dict[str, Any]], plain: Sequence[dict[str, Any]]) -> list[Any]:
    """What the two say differently, in few words."""
    numbers = [each["number"] for each in real], [each["number"] for each in plain]
    if numbers[0] != numbers[1]:
        return [numbers]
    return [
        (one["number"], name, one[name], other[name])
        for one, other in zip(real, plain, strict=True)
        for name in one
        if one[name] != other[name]
    ]


def known(each: Intercept) -> dict[str, Any]:
    """What the registry knows of one."""
    return {
        "number": each.criteria_id,
        "login": each.csource_id,
        "cdests": each.cdest_ids,
        "static": each.static,
        "timeouts": each.timeouts,
        "source": each.filter.source,
        "priority": each.priority,
        "active": each.is_active,
        "added": each.added,
        "total_since": each.total_since_ns,
        "idle_since": each.idle_since_ns,
        "last_refresh": each.last_refresh,
        "refreshes": each.refreshes,
        "order_end": each.order_end_ns,
        "added_ns": each.added_ns,
        "excluded": each.excluded,
        "bases": (each.packets_base, each.octets_base),
        "carried": (each.carried.packets, each.carried.octets),
    }


def plainly_known(each: Criterion) -> dict[str, Any]:
    return {
        "number": each.number,
        "login": each.login,
        "cdests": each.spec.cdests,
        "static": each.spec.static,
        "timeouts": each.timeouts,
        "source": each.spec.source,
        "priority": each.spec.priority,
        "active": each.active,
        "added": each.added,
        "total_since": each.total_since_ns,
        "idle_since": each.idle_since_ns,
        "last_refresh": each.last_refresh,
        "refreshes": each.refreshes,
        "order_end": each.order_end_ns,
        "added_ns": each.added_ns,
        "excluded": each.excluded,
        "bases": (each.packets_base, each.octets_base),
        "carried": each.carried,
    }


def plainly(result: Result) -> Any:
    """An answer as the plain registry gives it."""
    match result:
        case AddResult(number):
            return "added", number
        case DeleteResult(count):
            return "deleted", count
        case RefreshResult(count):
            return "refreshed", count
        case ErrorResult(status):
            return int(status)
        case ListResult(entries):
            return [
                {
                    "number": each.criteria_id,
                    "login": each.csource_id,
                    "cdests": each.cdest_ids,
                    "static": each.static,
                    "timeouts": each.timeouts,
                    "remaining": each.remaining,
                    "packets": each.matching_packets,
                    "octets": each.matching_octets,
                    "bandwidth": each.average_bandwidth_bps,
                    "added": each.added,
                    "refreshes": each.refreshes,
                    "last_refresh": each.last_refresh,
                }
                for each in entries
            ]
        case _:
            return None


def said(happened: Any) -> Any:
    match happened:
        case Ended(intercept, reason, remaining):
            return "ended", intercept.criteria_id, reason, remaining
        case Congested(login, cdest, average):
            return "congested", login, cdest, average
        case Purged(login, cdest, ids):
            return "purged", login, cdest, ids
        case _:
            return happened


@pytest.mark.timeout(7200)
def test_both_registries_say_the_same() -> None:
    """And nothing of what may happen was left out."""
    seen: Counter[str] = Counter()

    class Counted(Registries):
        def teardown(self) -> None:
            super().teardown()
            seen.update(self.plain.seen)

    examples = 2 * settings().max_examples
    run_state_machine_as_test(Counted, settings=settings(stateful_step_count=60, max_examples=examples))
    assert [what for what in sorted(EVERYTHING) if not seen[what]] == []
