"""The registry beside a naive model: a dictionary, and rules as the protocol's text has them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scene import OTHER_DELIVERY, V7, Scene, add_request, now, principal

from flowtap.control import PortError, Tasked, Transaction, verify
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
    NoopRequest,
    Request,
    Result,
    Timeouts,
)

LOGINS = ("md", "md2")
QUOTA = 6
"""Of the first login; the other one has none that is reached here."""


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


class Asking:
    """Draws requests: mostly sensible ones, ids near those that run."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - repeatable, no secret

    def ids(self, last_id: int) -> tuple[IdRange, ...]:
        ranges = []
        for _ in range(self.random.choice([1, 1, 1, 2])):
            first = max(last_id - self.random.randrange(12), 0)
            single = self.random.random() < 0.6
            last = first if single else first + self.random.randrange(4)
            ranges.append(IdRange(first, last, single=single))
        return tuple(ranges)

    def add(self, login: str) -> AddRequest:
        cdest = self.random.choice(["cd1", "cd1", "cd1", "own", "own", "nowhere"])
        return add_request(
            login,
            cdest_ids=(cdest,),
            static=self.random.random() < 0.4,
            timeouts=Timeouts(total_s=self.random.choice([20, 20, 20, 60, 60, 0, None])),
            filter=FilterText(source=self.random.choice(["192.0.2.1"] * 10 + ["192.0.2.0/33", "x"])),
            deliveries=(OTHER_DELIVERY,) if cdest == "own" else (),
        )

    def delete(self, login: str, last_id: int) -> DeleteRequest:
        static = self.random.random() < 0.5
        if self.random.random() < 0.15:
            name = self.random.choice(["cd1", "own", "nowhere"])
            return DeleteRequest(V7, login, "1", cdest_id=name, static=static)
        return DeleteRequest(V7, login, "1", criteria_ids=self.ids(last_id), static=static)

    def list(self, login: str, last_id: int) -> ListRequest:
        kind = self.random.randrange(3)
        return ListRequest(
            V7,
            login,
            "1",
            criteria_ids=self.ids(last_id) if kind == 1 else None,
            cdest_id=self.random.choice(["cd1", "own", "nowhere"]) if kind == 2 else None,
        )


@dataclass
class Known:
    """What the model knows of one criterion."""

    login: str
    cdest: str
    static: bool
    ends_s: float | None


class Walk:
    """Does the same to the registry and to the dictionary."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.asking = Asking(seed)
        self.known: dict[int, Known] = {}
        self.pending: list[int] = []
        self.last_id = 0
        self.last_journalled = 0
        self.time_s = 0.0
        self.store_fails = False
        self.seen: Counter[object] = Counter()
        self.open()

    def open(self) -> None:
        self.scene = Scene(self.directory, max_criteria=QUOTA)
        transaction = self.scene.store.transaction

        @contextmanager
        def commit_may_fail() -> Iterator[Transaction]:
            # The failure comes last, so that a real transaction is rolled back.
            with transaction() as begun:
                yield begun
                if self.store_fails:
                    raise PortError

        self.scene.store.transaction = commit_may_fail  # type: ignore[method-assign, assignment]

    @property
    def data_plane_fails(self) -> bool:
        return self.scene.data_plane.fails

    def expect(self, login: str, request: Request, expected: Any) -> None:
        result = self.scene.control.handle(principal(login), request, now(self.time_s))
        assert comparable(result) == expected
        # What is left to write goes with any transaction that succeeds; a 500 of a start may follow one.
        if self.scene.control.pending_ends == () and not self.store_fails:
            self.pending.clear()
        kind = expected if isinstance(expected, int) else (expected[0], bool(expected[1]))
        self.seen[type(request).__name__, kind] += 1

    def own(self, login: str) -> dict[int, Known]:
        return {number: each for number, each in self.known.items() if each.login == login}

    def select(self, login: str, ids: tuple[IdRange, ...] | None, cdest: str | None) -> list[int] | int:
        own = self.own(login)
        if ids is not None:
            for each in ids:
                if each.single and each.first not in own:
                    self.seen["foreign id" if each.first in self.known else "unknown id"] += 1
                    return 431
            return sorted({n for n in own for each in ids if each.first <= n <= each.last})
        if cdest is None:
            return sorted(own)
        selected = sorted(number for number, each in own.items() if each.cdest == cdest)
        return 430 if cdest != "cd1" and not selected else selected

    def add(self, login: str) -> None:
        request = self.asking.add(login)
        total_s = request.timeouts.total_s
        expected: Any
        if login == "md" and len(self.own(login)) >= QUOTA:
            expected = 550
        elif request.cdest_ids == ("nowhere",):
            expected = 430
        elif not request.static and not total_s:
            expected = 433
        elif request.filter.source != "192.0.2.1":
            expected = 400 if request.filter.source == "x" else 432
        else:
            self.last_id += 1
            expected = ("added", self.last_id)
            if not self.store_fails:
                self.last_journalled = self.last_id
            if self.store_fails or self.data_plane_fails:
                expected = 500
            else:
                ends_s = None if request.static or not total_s else self.time_s + total_s
                self.known[self.last_id] = Known(login, request.cdest_ids[0], request.static, ends_s)
        self.expect(login, request, expected)

    def delete(self, login: str) -> None:
        request = self.asking.delete(login, self.last_id)
        selected = self.select(login, request.criteria_ids, request.cdest_id)
        if isinstance(selected, int):
            self.expect(login, request, selected)
            return
        stopping = [number for number in selected if request.static or not self.known[number].static]
        expected: Any = ("deleted", len(stopping))
        if stopping and self.data_plane_fails:
            expected = 500
        else:
            for number in stopping:
                del self.known[number]
            if self.store_fails:
                self.pending += stopping
                expected = 500 if stopping else expected
        self.seen["static stays"] += len(stopping) < len(selected)
        self.expect(login, request, expected)

    def list(self, login: str) -> None:
        request = self.asking.list(login, self.last_id)
        selected = self.select(login, request.criteria_ids, request.cdest_id)
        self.expect(login, request, selected if isinstance(selected, int) else ("listed", selected))

    def time_passes(self) -> None:
        self.time_s += self.asking.random.choice([0.5, 4.0, 7.5, 20.0])
        if self.data_plane_fails:
            with pytest.raises(PortError):
                self.scene.expire(self.time_s)
            return
        due = [n for n, each in self.known.items() if each.ends_s is not None and each.ends_s <= self.time_s]
        ended = self.scene.expire(self.time_s)
        assert [each.intercept.criteria_id for each in ended] == due
        for number in due:
            del self.known[number]
        self.pending = [*self.pending, *due] if self.store_fails else []
        self.seen["time-out"] += len(due)

    def faults_change(self) -> None:
        self.store_fails = self.asking.random.random() < 0.3
        self.scene.data_plane.fails = self.asking.random.random() < 0.3

    def restart(self) -> None:
        self.store_fails = False
        self.scene.store.close()
        self.open()
        had = Counter(each.login for each in self.known.values())
        due = [n for n, each in self.known.items() if each.ends_s is not None and each.ends_s <= self.time_s]
        told = self.scene.restore(self.time_s)
        # What was ended stays ended, though the journal could not be told.
        self.seen["ended without record"] += len(self.pending)
        self.pending.clear()
        for number in due:
            del self.known[number]
        left = Counter(each.login for each in self.known.values())
        assert {each.csource_id: (each.restored, each.total) for each in told} == {
            login: (left[login], count) for login, count in had.items()
        }
        self.last_id = self.last_journalled
        self.seen["restart"] += len(self.known)

    def agree(self) -> None:
        assert list(self.scene.running) == sorted(self.known)
        assert sorted(self.scene.control.pending_ends) == sorted(self.pending)
        journal = [row.criteria_id for row in self.scene.store.running()]
        assert journal == sorted([*self.known, *self.pending])
        if self.scene.data_plane.installed:
            assert self.scene.data_plane.installed[-1] == tuple(sorted(self.known))
        self.seen["pending"] += bool(self.pending)

    def step(self) -> None:
        login = self.asking.random.choice(LOGINS)
        steps = [self.add, self.delete, self.list]
        others = [self.time_passes, self.faults_change, self.restart]
        at = self.asking.random.random()
        if at < 0.85:
            self.asking.random.choices(steps, [50, 20, 15])[0](login)
        else:
            self.asking.random.choices(others, [8, 6, 2])[0]()
        self.agree()


MUST_BE_SEEN = {
    *(("AddRequest", kind) for kind in (("added", True), 400, 430, 432, 433, 500, 550)),
    *(("DeleteRequest", kind) for kind in (("deleted", True), ("deleted", False), 430, 431, 500)),
    *(("ListRequest", kind) for kind in (("listed", True), ("listed", False), 430, 431)),
    *("foreign id", "unknown id", "static stays", "time-out", "restart", "pending", "ended without record"),
}


@pytest.mark.parametrize("seed", range(6))
def test_a_walk_beside_the_model(tmp_path: Path, seed: int) -> None:
    walk = Walk(tmp_path, seed)
    for _ in range(1500):
        walk.step()
    verify(walk.scene.store.audit_rows())
    walk.scene.store.close()
    # A walk that met little would agree with any model.
    assert {each for each in MUST_BE_SEEN if walk.seen[each] == 0} == set()


@pytest.mark.parametrize("seed", range(20))
def test_waiting_together_changes_no_answer(tmp_path: Path, seed: int) -> None:
    """Served together or one by one: the same answers, and the same intercepts run."""
    (tmp_path / "apart").mkdir()
    asking = Asking(seed)
    together, apart = Scene(tmp_path, max_criteria=QUOTA), Scene(tmp_path / "apart", max_criteria=QUOTA)
    for _ in range(4):
        waiting: list[Tasked] = []
        for _ in range(25):
            login = asking.random.choice(LOGINS)
            requests: list[Request] = [
                asking.add(login),
                asking.delete(login, 12),
                asking.list(login, 12),
                NoopRequest(V7, login, "1"),
            ]
            request = asking.random.choices(requests, [12, 6, 3, 1])[0]
            waiting.append(Tasked(principal(login), request))
        # In runs of one kind, as they come when they wait: adds beside adds share one change.
        waiting[:15] = sorted(waiting[:15], key=lambda each: type(each.request).__name__)
        results = together.control.handle_all(waiting, now())
        single = [apart.control.handle(each.principal, each.request, now()) for each in waiting]
        assert [comparable(each) for each in results] == [comparable(each) for each in single]
        assert together.running == apart.running
        assert together.store.running() == apart.store.running()
    assert len(together.data_plane.installed) < len(apart.data_plane.installed)
    together.store.close()
    apart.store.close()
