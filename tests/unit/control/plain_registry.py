"""The registry once more, as plainly as it can be said: dictionaries, and the rules as the documents have them.

It shares nothing with the real one but the values of the protocol, keeps no indexes, and asks everything of every
criterion each time. What is durable is a dictionary of its own, so that a restart is to forget the rest.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from flowtap.dtcp import IdRange, Timeouts

S = 10**9
WINDOW_NS = 10 * S


@dataclass(frozen=True)
class PlainSource:
    """What one control source may do."""

    quota: int = 100
    allowed: frozenset[str] = frozenset()
    longest_s: int = 0
    needs_order: bool = False
    needs_approval: bool = False
    minimum_priority: int = 0
    excluded: tuple[str, ...] = ()
    narrowest: int = 0


@dataclass(frozen=True)
class PlainPolicy:
    """What the configuration says; limits of content destinations are soft, clear, hard, target."""

    sources: dict[str, PlainSource]
    limits: dict[str, tuple[int, int, int, int]]
    most: int = 1000
    most_destinations: int = 1000

    def __repr__(self) -> str:
        return "PlainPolicy(...)"


@dataclass(frozen=True)
class Spec:
    """What an ADD asks for, with at most one thing wrong about it."""

    login: str = "md"
    cdests: tuple[str, ...] = ("cd1",)
    static: bool = True
    timeouts: Timeouts = field(default=Timeouts())
    source: str = "192.0.2.1"
    priority: int = 1
    order_s: float | None = None
    """How many seconds of wall time the order runs; None where none is named."""
    acts_for: str | None = None
    """Whom it wants to act for, where that is somebody else."""


@dataclass
class Criterion:
    """What is known of one."""

    number: int
    spec: Spec
    timeouts: Timeouts
    added: datetime
    total_since_ns: int
    idle_since_ns: int
    last_refresh: datetime
    active: bool
    excluded: tuple[str, ...]
    order_end_ns: int | None = None
    added_ns: int = 0
    refreshes: int = 0
    packets_base: int = 0
    octets_base: int = 0
    packets: int = 0
    octets: int = 0
    last_match_ns: int | None = None
    carried: tuple[int, int] = (0, 0)
    """Packets and octets that earlier runs have counted."""

    @property
    def login(self) -> str:
        return self.spec.login

    def idle_from_ns(self) -> int:
        return max(
            self.idle_since_ns, self.idle_since_ns if self.last_match_ns is None else self.last_match_ns
        )

    def why_over(self, now_ns: int) -> str | None:
        """What has ended it."""
        times = self.timeouts
        if self.order_end_ns is not None and now_ns >= self.order_end_ns:
            return "order"
        if times.total_s and now_ns - self.total_since_ns >= times.total_s * S:
            return "total"
        if times.idle_s and self.active and now_ns - self.idle_from_ns() >= times.idle_s * S:
            return "idle"
        if times.packets and self.packets - self.packets_base >= times.packets:
            return "packets"
        if times.octets and self.octets - self.octets_base >= times.octets:
            return "bytes"
        return None

    def deadline_ns(self) -> int | None:
        """When time ends it, if nothing more matches."""
        found = [] if self.order_end_ns is None else [self.order_end_ns]
        if self.timeouts.total_s:
            found.append(self.total_since_ns + self.timeouts.total_s * S)
        if self.timeouts.idle_s and self.active:
            found.append(self.idle_from_ns() + self.timeouts.idle_s * S)
        return min(found, default=None)

    def remaining(self, now_ns: int) -> Timeouts:
        """What is left of every time-out that was given, in whole seconds begun."""

        def seconds(limit: int | None, since_ns: int) -> int | None:
            return None if limit is None else max(math.ceil((limit * S - max(now_ns - since_ns, 0)) / S), 0)

        def amount(limit: int | None, used: int) -> int | None:
            return None if limit is None else max(limit - used, 0)

        times = self.timeouts
        return Timeouts(
            seconds(times.idle_s, self.idle_from_ns()),
            seconds(times.total_s, self.total_since_ns),
            amount(times.packets, self.packets - self.packets_base),
            amount(times.octets, self.octets - self.octets_base),
        )


@dataclass
class Written:
    """What the journal has of one: the criterion as it was then, and when that was."""

    criterion: Criterion
    boot: str
    ns: int
    wall: datetime


Answer = Any
"""A code, or what the answer says."""


class PlainRegistry:
    """Everything that the real one knows, said plainly."""

    def __init__(self, policy: PlainPolicy, ns: int, wall: datetime) -> None:
        self.policy = policy
        self.ns = ns
        self.wall = wall
        self.boot = "boot 1"
        self.store_fails = False
        self.counts_fail = False
        self.change_fails = False
        self.last_id = 0
        self.last_id_written = 0
        self.running: dict[int, Criterion] = {}
        self.journal: dict[int, Written] = {}
        self.ended_unwritten: list[int] = []
        self.narrowed_unwritten: list[Written] = []
        self.marks: set[int] = set()
        self.refusals_unwritten = 0
        self.samples: list[tuple[int, dict[int, int]]] = []
        self.congested: set[str] = set()
        self.unenforced = False
        # What the record must show in the end.
        self.starts: list[int] = []
        self.accepts: list[int] = []
        self.stops: list[int] = []
        self.undone: list[int] = []
        self.refusals = 0
        self.seen: Counter[str] = Counter()

    # --- what is durable -------------------------------------------------------------------------

    def write(self) -> bool:
        """One transaction: what waits goes with any that succeeds."""
        if self.store_fails:
            return False
        self.journal |= {each.criterion.number: each for each in self.narrowed_unwritten}
        self.narrowed_unwritten = []
        for number in self.ended_unwritten:
            del self.journal[number]
            self.stops.append(number)
        self.marks -= set(self.ended_unwritten)
        self.ended_unwritten = []
        self.refusals += self.refusals_unwritten
        self.refusals_unwritten = 0
        return True

    def keep(self, criterion: Criterion) -> None:
        self.journal[criterion.number] = Written(copy.copy(criterion), self.boot, self.ns, self.wall)

    def refuse(self, count: int = 1) -> None:
        """Refusals are on record, now or with the next transaction."""
        self.refusals_unwritten += count
        self.write()

    def stop(self, criteria: list[Criterion], refusals: int = 0) -> int | None:
        """Copying stops, then that is recorded; 500 where one of both did not work."""
        self.refusals_unwritten += refusals
        if self.change_fails and any(each.active for each in criteria):
            self.write()
            self.seen["stop not taken"] += 1
            return 500
        for each in criteria:
            del self.running[each.number]
        self.ended_unwritten += [each.number for each in criteria]
        if self.write():
            return None
        self.marks |= set(self.ended_unwritten)
        self.seen["stop not recorded"] += bool(criteria)
        return 500

    def change(self, changed: list[Criterion]) -> bool:
        """What changes is recorded, then rules; where it cannot rule everything is as it was."""
        if not self.write():
            return False
        if self.change_fails and any(each.active for each in changed):
            for each in changed:
                self.keep(self.running[each.number])
                self.undone.append(each.number)
            self.seen["change not taken"] += 1
            return False
        for each in changed:
            self.keep(each)
            self.running[each.number] = each
        return True

    def narrow(self, changed: list[Criterion]) -> bool:
        """What is copied less is so at once, and is recorded when that can be."""
        if self.change_fails and any(each.active for each in changed):
            return False
        for each in changed:
            self.running[each.number] = each
            self.narrowed_unwritten.append(Written(copy.copy(each), self.boot, self.ns, self.wall))
        self.seen["narrowing not recorded"] += not self.write()
        return True

    # --- who may -----------------------------------------------------------------------------------

    def own(self, login: str) -> list[Criterion]:
        return [each for _, each in sorted(self.running.items()) if each.login == login]

    def why_not(self, spec: Spec, beside: list[Criterion]) -> int | None:
        """The code that refuses an ADD."""
        source = self.policy.sources.get(spec.login)
        if source is None or spec.acts_for is not None:
            return 400
        own = len(self.own(spec.login)) + sum(each.login == spec.login for each in beside)
        if own >= source.quota or len(self.running) + len(beside) >= self.policy.most:
            return 550
        for name in spec.cdests:
            is_known = name in self.policy.limits or name.startswith("own")
            if not is_known or (source.allowed and name not in source.allowed):
                return 430
        return (
            why_not_so_long(spec, source)
            or why_not_that_filter(spec, source)
            or self.why_not_created(spec, beside)
        )

    def why_not_created(self, spec: Spec, beside: list[Criterion]) -> int | None:
        """The code that refuses a content destination too many."""
        in_use = {name for each in self.own(spec.login) for name in each.spec.cdests}
        added = {name for each in beside if each.login == spec.login for name in each.spec.cdests}
        created = (in_use | added | set(spec.cdests)) - set(self.policy.limits)
        is_new = set(spec.cdests) - set(self.policy.limits) - in_use
        return 551 if is_new and len(created) > self.policy.most_destinations else None

    def is_lawful(self, each: Criterion) -> bool:
        """Whether it would still be permitted, as it was authorised."""
        source = self.policy.sources.get(each.login)
        if source is None or (each.spec.source.endswith("/24") and source.narrowest > 24):
            return False
        return not source.allowed or set(each.spec.cdests) <= source.allowed

    # --- requests ----------------------------------------------------------------------------------

    def add(self, specs: list[Spec]) -> list[Answer]:
        accepted: list[Criterion] = []
        answers: list[Answer] = []
        for spec in specs:
            code = self.why_not(spec, accepted)
            if code is not None:
                answers.append(code)
                self.refusals_unwritten += 1
                self.seen[f"add {code}"] += 1
                continue
            self.last_id += 1
            source = self.policy.sources[spec.login]
            times = spec.timeouts
            if spec.static:
                times = Timeouts(total_s=source.longest_s or None)
            accepted.append(
                Criterion(
                    self.last_id,
                    spec,
                    times,
                    self.wall,
                    self.ns,
                    self.ns,
                    self.wall,
                    active=not source.needs_approval,
                    excluded=source.excluded,
                    order_end_ns=None if spec.order_s is None else self.ns + int(spec.order_s * S),
                    added_ns=self.ns,
                )
            )
            answers.append(("added", self.last_id))
        is_written = self.write()
        failed = set()
        for each in accepted:
            if not is_written:
                failed.add(each.number)
                continue
            self.keep(each)
            (self.starts if each.active else self.accepts).append(each.number)
            self.last_id_written = each.number
            if self.change_fails and each.active:
                failed.add(each.number)
                del self.journal[each.number]
                self.stops.append(each.number)
                continue
            self.running[each.number] = each
        self.seen["start failed"] += bool(failed)
        self.seen["added"] += len(accepted) - len(failed)
        return [500 if isinstance(each, tuple) and each[1] in failed else each for each in answers]

    def select(
        self, login: str, ids: tuple[IdRange, ...] | None, cdest: str | None, without: set[int]
    ) -> list[Criterion] | int:
        """What a request means, or the code that refuses it."""
        source = self.policy.sources.get(login)
        if source is None:
            return 400
        own = {each.number: each for each in self.own(login) if each.number not in without}
        if ids is not None:
            if any(each.single and each.first not in own for each in ids):
                return 431
            return [each for n, each in own.items() if any(r.first <= n <= r.last for r in ids)]
        if cdest is None:
            return list(own.values())
        selected = [each for each in own.values() if cdest in each.spec.cdests]
        is_his = cdest in self.policy.limits and (not source.allowed or cdest in source.allowed)
        return selected if selected or is_his else 430

    def delete(
        self, requests: list[tuple[str, tuple[IdRange, ...] | None, str | None, bool]]
    ) -> list[Answer]:
        answers: list[Answer] = []
        ending: dict[int, Criterion] = {}
        refusals = 0
        for login, ids, cdest, static in requests:
            selected = self.select(login, ids, cdest, set(ending))
            if isinstance(selected, int):
                refusals += 1
                answers.append(selected)
                self.seen[f"delete {selected}"] += 1
                continue
            stopping = [each for each in selected if static or not each.spec.static]
            self.seen["static stays"] += len(stopping) < len(selected)
            ending |= {each.number: each for each in stopping}
            answers.append(("deleted", len(stopping)))
        failed = self.stop(list(ending.values()), refusals)
        if failed is None:
            return answers
        return [failed if isinstance(each, tuple) and each[1] else each for each in answers]

    def refresh(
        self, login: str, ids: tuple[IdRange, ...] | None, cdest: str | None, times: Timeouts
    ) -> Answer:
        selected = self.select(login, ids, cdest, set())
        longest_s = self.policy.sources[login].longest_s if login in self.policy.sources else 0
        if isinstance(selected, list) and selected:
            if self.counts_fail:
                return 500
            is_asked = bool(longest_s) and times.total_s is not None
            latest = [each.added_ns + longest_s * S for each in selected if not each.spec.static]
            if is_asked and (
                not 0 < (times.total_s or 0) <= longest_s or any(at <= self.ns for at in latest)
            ):
                selected = 433
        if isinstance(selected, int):
            self.refuse()
            self.seen[f"refresh {selected}"] += 1
            return selected
        changed = []
        for before in selected:
            each = copy.copy(before)
            each.refreshes += 1
            each.last_refresh = self.wall
            if not each.spec.static:
                old = each.timeouts
                each.timeouts = Timeouts(
                    *(
                        was if new is None else new
                        for was, new in zip(_kinds(old), _kinds(times), strict=True)
                    )
                )
                if times.idle_s is not None:
                    each.idle_since_ns = self.ns
                if times.total_s is not None:
                    each.total_since_ns = self.ns
                    self.shorten(each, longest_s)
                if times.packets is not None:
                    each.packets_base = each.packets
                if times.octets is not None:
                    each.octets_base = each.octets
            changed.append(each)
        if not self.change(changed):
            return 500
        self.seen["refreshed"] += len(changed)
        return "refreshed", len(changed)

    def shorten(self, each: Criterion, longest_s: int) -> None:
        """A lifetime that has begun anew goes not beyond the longest one, in whole seconds begun."""
        latest_ns = each.added_ns + longest_s * S
        if longest_s and self.ns + (each.timeouts.total_s or 0) * S > latest_ns:
            seconds = math.ceil((latest_ns - self.ns) / S)
            each.timeouts = replace(each.timeouts, total_s=seconds)
            each.total_since_ns = latest_ns - seconds * S
            self.seen["refreshed until its longest"] += 1

    def entries(self, login: str, ids: tuple[IdRange, ...] | None, cdest: str | None) -> Answer:
        selected = self.select(login, ids, cdest, set())
        if isinstance(selected, int):
            self.refuse()
            return selected
        if selected and self.counts_fail:
            return 500
        self.seen["listed"] += len(selected)
        return [self.shown(each) for each in selected]

    def shown(self, each: Criterion) -> dict[str, Any]:
        """A LIST entry with everything in it."""
        return {
            "number": each.number,
            "login": each.login,
            "cdests": each.spec.cdests,
            "static": each.spec.static,
            "timeouts": each.timeouts,
            "remaining": each.remaining(self.ns),
            "packets": each.packets,
            "octets": each.octets,
            "bandwidth": self.rate_bps(each),
            "added": each.added,
            "refreshes": each.refreshes,
            "last_refresh": each.last_refresh,
        }

    # --- what the operator's own people do -----------------------------------------------------------

    def decide(self, who: str, ids: list[int], *, approve: bool) -> bool:
        """Approval or rejection by somebody who may; False where that is refused."""
        waiting = [self.running[n] for n in ids if n in self.running and not self.running[n].active]
        if len(waiting) < len(ids) or any(each.login == who for each in waiting):
            self.refuse()
            return False
        if approve:
            changed = [copy.copy(each) for each in waiting]
            for each in changed:
                each.active = True
                each.idle_since_ns = self.ns
            undone = len(self.undone)
            done = self.change(changed)
            if done or len(self.undone) > undone:
                # It is on record that they begin, and then perhaps that they did not.
                self.starts += ids
            if done:
                self.seen["approved"] += len(ids)
                return True
        elif self.stop(waiting) is None:
            self.seen["rejected"] += len(ids)
            return True
        self.refuse()
        return False

    def clear(self, ids: list[int]) -> bool:
        if any(number not in self.running for number in ids):
            self.refuse()
            return False
        if self.stop([self.running[number] for number in ids]) is None:
            return True
        self.refuse()
        return False

    def reload(self, policy: PlainPolicy) -> list[int]:
        """Another policy rules; returns what has ended because of it."""
        self.policy = policy
        return self.enforce()

    def enforce(self) -> list[int]:
        unlawful = [each for _, each in sorted(self.running.items()) if not self.is_lawful(each)]
        changed = []
        for _, each in sorted(self.running.items()):
            if each not in unlawful and each.excluded != self.policy.sources[each.login].excluded:
                changed.append(copy.copy(each))
                changed[-1].excluded = self.policy.sources[each.login].excluded
        if unlawful:
            self.stop(unlawful)
        narrower = [each for each in changed if each.excluded]
        wider = [each for each in changed if not each.excluded]
        if (not narrower or self.narrow(narrower)) and wider:
            self.change(wider)
        ended = [each.number for each in unlawful if each.number not in self.running]
        self.unenforced = any(
            not self.is_lawful(each) or each.excluded != self.policy.sources[each.login].excluded
            for each in self.running.values()
        )
        self.seen["policy ended"] += len(ended)
        self.seen["policy not enforced"] += self.unenforced
        return ended

    # --- time and traffic ----------------------------------------------------------------------------

    def pass_time(self, seconds: float, wall_jump_s: float = 0) -> None:
        self.ns += int(seconds * S)
        self.wall += timedelta(seconds=seconds + wall_jump_s)

    def match(self, number: int, packets: int, octets_each: int) -> None:
        """Packets match; the data plane takes none beyond a budget and none after the end."""
        each = self.running[number]
        for _ in range(packets):
            if not each.active or each.why_over(self.ns) is not None:
                return
            each.packets += 1
            each.octets += octets_each
            each.last_match_ns = self.ns

    def rate_bps(self, each: Criterion) -> int:
        """The mean of the last ten seconds; what is younger was silent before."""
        if not self.samples:
            return 0
        last_ns, last = self.samples[-1]
        old = [sample for sample in self.samples if last_ns - sample[0] >= WINDOW_NS]
        first_ns, first = old[-1] if old else self.samples[0]
        octets = last.get(each.number, 0) - first.get(each.number, each.carried[1])
        return max(octets, 0) * 8 * S // max(last_ns - first_ns, WINDOW_NS)

    def tick(self) -> list[Any] | None:
        """What has happened; None where nobody could look."""
        if self.counts_fail:
            return None
        self.samples.append((self.ns, {n: each.octets for n, each in self.running.items() if each.packets}))
        happened: list[Any] = []
        if self.unenforced:
            self.enforce()
        over = {n: why for n, each in sorted(self.running.items()) if (why := each.why_over(self.ns))}
        if over:
            said = [("ended", n, why, self.running[n].remaining(self.ns)) for n, why in over.items()]
            self.stop([self.running[n] for n in over])
            happened += [each for each in said if each[1] not in self.running]
            self.seen["timed out"] += len(happened)
        happened += self.congestion()
        if self.ended_unwritten or self.refusals_unwritten or self.narrowed_unwritten:
            self.write()
        return happened

    def congestion(self) -> list[Any]:
        happened: list[Any] = []
        purged: list[tuple[str, Criterion]] = []
        for name, (soft, clear, hard, target) in self.policy.limits.items():
            to_it = [each for each in self.running.values() if each.active and name in each.spec.cdests]
            total = sum(map(self.rate_bps, to_it))
            if soft:
                if total < clear:
                    self.congested.discard(name)
                elif total > soft and name not in self.congested:
                    self.congested.add(name)
                    logins = sorted({each.login for each in to_it})
                    happened += [("congested", login, name, total) for login in logins]
            if hard and total > hard:
                for each in sorted(to_it, key=lambda each: (self.rank(each), each.number), reverse=True):
                    if total > target and self.rate_bps(each):
                        total -= self.rate_bps(each)
                        purged.append((name, each))
        if purged:
            self.stop(list({each.number: each for _, each in purged}.values()))
        gone: dict[tuple[str, str], list[int]] = {}
        for name, each in purged:
            if each.number not in self.running:
                gone.setdefault((each.login, name), []).append(each.number)
        self.seen["purged"] += len(gone)
        return [*happened, *(("purged", *key, tuple(sorted(ids))) for key, ids in sorted(gone.items()))]

    def rank(self, each: Criterion) -> int:
        """The higher, the worse."""
        source = self.policy.sources.get(each.login)
        return each.spec.priority + (source.minimum_priority if source else 0)

    def deadline_ns(self) -> int | None:
        found = [each.deadline_ns() for each in self.running.values()]
        return min((each for each in found if each is not None), default=None)

    # --- restarts ------------------------------------------------------------------------------------

    def restart(
        self, *, same_boot: bool, in_order: bool, knows_counts: bool, down_s: float, jump_s: float
    ) -> dict[str, tuple[int, int]] | None:
        """What is left after a restart, by control source: how many run again, of how many.

        None where the data plane took none of it: then the tap does not begin to run.
        """
        counted = {n: copy.copy(each) for n, each in self.running.items()} if knows_counts else {}
        seen_ns, seen_wall, seen_boot = self.ns, self.wall, self.boot
        self.wall += timedelta(seconds=down_s + jump_s)
        if same_boot:
            self.ns += int(down_s * S)
        else:
            self.boot = f"boot {int(self.boot.split()[1]) + 1}"
            self.ns = 20 * S
        marked = set(self.marks)
        self.forget()
        had = Counter(w.criterion.login for n, w in self.journal.items() if n not in marked)
        restored: list[Criterion] = []
        over: list[int] = []
        for number, written in sorted(self.journal.items()):
            each = copy.copy(written.criterion)
            known = counted.get(number)
            shift_ns = 0 if written.boot == self.boot else self.moved(written.ns, written.wall)
            each.total_since_ns += shift_ns
            each.idle_since_ns += shift_ns
            each.added_ns += shift_ns
            if each.order_end_ns is not None:
                each.order_end_ns += shift_ns
            if known is not None and known.last_match_ns is not None:
                match_shift_ns = 0 if seen_boot == self.boot else self.moved(seen_ns, seen_wall)
                each.idle_since_ns = max(each.idle_since_ns, known.last_match_ns + match_shift_ns)
            each.last_match_ns = None
            each.carried = each.carried if known is None else (known.packets, known.octets)
            each.packets, each.octets = each.carried
            budget = each.timeouts.packets or each.timeouts.octets
            is_lost = bool(budget) and each.active and not in_order and not (same_boot and knows_counts)
            if number in marked or not self.is_lawful(each) or is_lost or each.why_over(self.ns):
                over.append(number)
                continue
            each.excluded = self.policy.sources[each.login].excluded
            restored.append(each)
        self.ended_unwritten += over
        if not self.write():
            self.marks |= set(self.ended_unwritten)
        for each in restored:
            if each.packets and not self.store_fails:
                self.keep(each)
        if self.change_fails and any(each.active for each in restored):
            return None
        self.running = {each.number: each for each in restored}
        again = Counter(each.login for each in restored)
        self.seen["restored"] += len(restored)
        self.seen["ended by a restart"] += len(over)
        return {login: (again[login], count) for login, count in had.items()}

    def forget(self) -> None:
        """Everything that is in memory only."""
        self.running = {}
        self.ended_unwritten = []
        self.narrowed_unwritten = []
        self.refusals_unwritten = 0
        self.samples = []
        self.congested = set()
        self.unenforced = False
        self.last_id = self.last_id_written

    def moved(self, then_ns: int, then: datetime) -> int:
        """What to add to a moment of another boot's clock: the wall clock says what has passed, but never less."""
        passed = max((self.wall - then).total_seconds(), 0)
        return self.ns - int(passed * S) - then_ns


def why_not_so_long(spec: Spec, source: PlainSource) -> int | None:
    """The code that refuses a lifetime, or an order."""
    times = spec.timeouts
    if not spec.static:
        if not any((times.idle_s, times.total_s, times.packets, times.octets)):
            return 433
        if source.longest_s and not 0 < (times.total_s or 0) <= source.longest_s:
            return 433
    if spec.order_s is None:
        return 400 if source.needs_order else None
    return 433 if spec.order_s <= 0 else None


def why_not_that_filter(spec: Spec, source: PlainSource) -> int | None:
    """The code that refuses what would be tapped."""
    if spec.source == "x":
        return 400
    if spec.source.endswith("/33") or (spec.source.endswith("/24") and source.narrowest > 24):
        return 432
    return None


def _kinds(times: Timeouts) -> tuple[int | None, ...]:
    return times.idle_s, times.total_s, times.packets, times.octets
