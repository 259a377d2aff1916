"""The registry beside a naive model: a dictionary, and rules as the protocol's text has them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scene import OTHER_DELIVERY, V7, Scene, add_request, now, principal

from flowtap.control import PortError, Tasked, Transaction, verify
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
    Result,
    Timeouts,
)

LOGINS = ("md", "md2")
QUOTA = 6

logins = st.sampled_from(LOGINS)
# Mostly what is right: a registry in which little runs would agree with any model.
names = st.sampled_from(["cd1", "cd1", "own", "own", "nowhere"])
id_ranges = st.lists(
    st.tuples(st.integers(1, 9), st.integers(0, 3), st.booleans()).map(
        lambda drawn: IdRange(drawn[0], drawn[0] + (0 if drawn[2] else drawn[1]), single=drawn[2])
    ),
    min_size=1,
    max_size=2,
).map(tuple)


def newest(ids: tuple[IdRange, ...], last_id: int) -> tuple[IdRange, ...]:
    """The same ranges counted back from the newest id, so that they meet what runs."""
    return tuple(
        IdRange(max(last_id + 1 - each.last, 0), max(last_id + 1 - each.first, 0), single=each.single)
        for each in ids
    )


def comparable(result: Result) -> Any:
    if isinstance(result, AddResult):
        return ("added", result.criteria_id)
    if isinstance(result, DeleteResult):
        return ("deleted", result.criteria_count)
    if isinstance(result, ListResult):
        return ("listed", [entry.criteria_id for entry in result.entries])
    if isinstance(result, ErrorResult):
        return int(result.status)
    return "noop"


@dataclass
class Known:
    """What the model knows of one criterion."""

    login: str
    cdest: str
    static: bool
    ends_s: float | None


class Registry(RuleBasedStateMachine):
    """Every rule does the same to the registry and to the dictionary."""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.known: dict[int, Known] = {}
        self.pending: list[int] = []
        self.last_id = 0
        self.last_journalled = 0
        self.time_s = 0.0
        self.store_fails = False
        self.open()

    def open(self) -> None:
        self.scene = Scene(Path(self.directory.name), max_criteria=QUOTA)
        transaction = self.scene.store.transaction

        @contextmanager
        def commit_may_fail() -> Iterator[Transaction]:
            # The failure comes last, so that a real transaction is rolled back.
            with transaction() as begun:
                yield begun
                if self.store_fails:
                    raise PortError

        self.scene.store.transaction = commit_may_fail  # type: ignore[method-assign, assignment]

    def teardown(self) -> None:
        self.store_fails = False
        verify(self.scene.store.audit_rows())
        self.scene.store.close()
        self.directory.cleanup()

    def own(self, login: str) -> dict[int, Known]:
        return {number: each for number, each in self.known.items() if each.login == login}

    def committed(self) -> None:
        if not self.store_fails:
            self.pending.clear()

    def select(self, login: str, ids: tuple[IdRange, ...] | None, cdest: str | None) -> list[int] | int:
        own = self.own(login)
        if ids is not None:
            if any(each.single and each.first not in own for each in ids):
                return 431
            return sorted({n for n in own for each in ids if each.first <= n <= each.last})
        if cdest is None:
            return sorted(own)
        selected = sorted(number for number, each in own.items() if each.cdest == cdest)
        return 430 if cdest != "cd1" and not selected else selected

    @rule(
        login=logins,
        cdest=names,
        static=st.booleans(),
        total_s=st.sampled_from([None, 0, 5, 20, 20, 20]),
        source=st.sampled_from(["192.0.2.1"] * 8 + ["192.0.2.0/33", "x"]),
    )
    def add(self, login: str, cdest: str, static: bool, total_s: int | None, source: str) -> None:
        result = self.scene.control.handle(
            principal(login),
            add_request(
                login,
                cdest_ids=(cdest,),
                static=static,
                timeouts=Timeouts(total_s=total_s),
                filter=FilterText(source=source),
                deliveries=(OTHER_DELIVERY,) if cdest == "own" else (),
            ),
            now(self.time_s),
        )
        expected: Any
        if login == "md" and len(self.own(login)) >= QUOTA:
            expected = 550
        elif cdest == "nowhere":
            expected = 430
        elif not static and not total_s:
            expected = 433
        elif source != "192.0.2.1":
            expected = 400 if source == "x" else 432
        else:
            self.last_id += 1
            expected = 500 if self.store_fails else ("added", self.last_id)
        if isinstance(expected, tuple):
            self.last_journalled = self.last_id
            if self.scene.data_plane.fails:
                expected = 500
            else:
                ends_s = None if static or not total_s else self.time_s + total_s
                self.known[self.last_id] = Known(login, cdest, static, ends_s)
        self.committed()
        assert comparable(result) == expected

    def delete(self, login: str, ids: tuple[IdRange, ...] | None, cdest: str | None, static: bool) -> None:
        request = DeleteRequest(V7, login, "1", criteria_ids=ids, cdest_id=cdest, static=static)
        result = self.scene.control.handle(principal(login), request, now(self.time_s))
        selected = self.select(login, ids, cdest)
        expected: Any = selected
        if isinstance(selected, list):
            stopping = [number for number in selected if static or not self.known[number].static]
            expected = ("deleted", len(stopping))
            if stopping and self.scene.data_plane.fails:
                expected = 500
            else:
                for number in stopping:
                    del self.known[number]
                self.pending += stopping
                if stopping and self.store_fails:
                    expected = 500
        self.committed()
        assert comparable(result) == expected

    @rule(login=logins, ids=id_ranges, static=st.booleans())
    def delete_ids(self, login: str, ids: tuple[IdRange, ...], static: bool) -> None:
        self.delete(login, newest(ids, self.last_id), None, static)

    @rule(login=logins, cdest=names, static=st.booleans())
    def delete_by_destination(self, login: str, cdest: str, static: bool) -> None:
        self.delete(login, None, cdest, static)

    @rule(login=logins, ids=st.none() | id_ranges, cdest=names, by_cdest=st.booleans())
    def list(self, login: str, ids: tuple[IdRange, ...] | None, cdest: str, by_cdest: bool) -> None:
        name = cdest if ids is None and by_cdest else None
        ids = None if ids is None else newest(ids, self.last_id)
        result = self.scene.list(login, self.time_s, criteria_ids=ids, cdest_id=name)
        selected = self.select(login, ids, name)
        if isinstance(selected, int):
            self.committed()
            assert comparable(result) == selected
        else:
            assert comparable(result) == ("listed", selected)

    @rule(seconds=st.sampled_from([0.5, 4.0, 5.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.time_s += seconds
        if self.scene.data_plane.fails:
            return
        due = [
            number
            for number, each in self.known.items()
            if each.ends_s is not None and each.ends_s <= self.time_s
        ]
        ended = self.scene.control.expire(now(self.time_s))
        assert [each.intercept.criteria_id for each in ended] == due
        for number in due:
            del self.known[number]
        self.pending += due
        self.committed()

    @rule(store=st.sampled_from([False, False, True]), data_plane=st.sampled_from([False, False, True]))
    def faults_come_and_go(self, store: bool, data_plane: bool) -> None:
        self.store_fails = store
        self.scene.data_plane.fails = data_plane

    @precondition(lambda self: not self.store_fails)
    @rule()
    def restart(self) -> None:
        unrecorded = len(self.known) + len(self.pending)
        self.scene.store.close()
        self.open()
        assert self.scene.store.end_all(now(self.time_s).wall, "restart") == unrecorded
        self.known.clear()
        self.pending.clear()
        self.last_id = self.last_journalled

    @invariant()
    def they_agree(self) -> None:
        if not hasattr(self, "scene"):
            return
        assert list(self.scene.running) == sorted(self.known)
        assert sorted(self.scene.control.pending_ends) == sorted(self.pending)
        journal = [row.criteria_id for row in self.scene.store.running()]
        assert journal == sorted([*self.known, *self.pending])
        if self.scene.data_plane.installed:
            assert self.scene.data_plane.installed[-1] == tuple(sorted(self.known))


TestRegistry = Registry.TestCase
TestRegistry.settings = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


adds = st.tuples(logins, names, st.sampled_from([True, True, True, False])).map(
    lambda drawn: Tasked(
        principal(drawn[0]),
        add_request(
            drawn[0],
            cdest_ids=(drawn[1],),
            static=drawn[2],
            deliveries=(OTHER_DELIVERY,) if drawn[1] == "own" else (),
        ),
    )
)
deletes = st.tuples(logins, id_ranges, st.booleans()).map(
    lambda drawn: Tasked(
        principal(drawn[0]),
        DeleteRequest(V7, drawn[0], "1", criteria_ids=drawn[1], static=drawn[2]),
    )
)
reads = logins.map(lambda login: Tasked(principal(login), ListRequest(V7, login, "1")))
noops = logins.map(lambda login: Tasked(principal(login), NoopRequest(V7, login, "1")))


@settings(max_examples=60, deadline=None)
@given(st.lists(adds | adds | adds | deletes | reads | noops, max_size=30))
def test_waiting_together_changes_no_answer(waiting: list[Tasked]) -> None:
    """Served together or one by one: the same answers, and the same intercepts run."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        together, apart = Scene(Path(one), max_criteria=QUOTA), Scene(Path(other), max_criteria=QUOTA)
        try:
            results = together.control.handle_all(waiting, now())
            single = [apart.control.handle(each.principal, each.request, now()) for each in waiting]
            assert [comparable(each) for each in results] == [comparable(each) for each in single]
            assert together.running == apart.running
            assert together.store.running() == apart.store.running()
        finally:
            together.store.close()
            apart.store.close()
