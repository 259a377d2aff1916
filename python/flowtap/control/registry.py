"""The only owner of intercepts: serves requests, restores what a restart left, ends what time ends.

Requests that wait together share one transaction and one table change.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from flowtap.control import authorize, enforcement, journal, lifetime, listing, records
from flowtap.control.authorize import Refused
from flowtap.control.bandwidth import BandwidthMeter, Congestion
from flowtap.control.effects import Effects, End, internal
from flowtap.control.events import Ended, Purged, Restarted
from flowtap.control.losses import LossWatch
from flowtap.control.model import PERMISSION_APPROVE, Count, State
from flowtap.control.ports import PortError
from flowtap.control.tasking import make_intercept, refreshed
from flowtap.dtcp.messages import (
    AddRequest,
    AddResult,
    DeleteRequest,
    DeleteResult,
    ErrorResult,
    ListRequest,
    ListResult,
    NoopResult,
    RefreshRequest,
    RefreshResult,
)
from flowtap.dtcp.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from datetime import datetime

    from flowtap.control.audit import AuditRecord
    from flowtap.control.events import Happening
    from flowtap.control.journal import JournalRow, Usage
    from flowtap.control.model import Intercept, Now, Policy, Principal
    from flowtap.control.ports import DataPlane, Filters, Store, Transaction
    from flowtap.dtcp.messages import Request, Result

__all__ = ["CRITERIA_ID_MAX", "ControlPlane", "Misread", "Tasked"]

CRITERIA_ID_MAX = 2**32 - 1
"""The highest id that an ADD's answer can carry [DTCP §8]."""


@dataclass(frozen=True, slots=True)
class Tasked:
    """A request and who made it."""

    principal: Principal
    request: Request


@dataclass(frozen=True, slots=True)
class Misread:
    """A request that was authentic and could not be read, who made it, and what it was answered."""

    principal: Principal
    csource_id: str
    method: str
    error: ErrorResult


class ControlPlane:
    """Takes requests, keeps intercepts; one task only may use it.

    Args:
        policy: Who may do what.
        store: Journal and audit log.
        data_plane: The tap.
        filters: Reads filters.
        wall: The wall clock, for the record of when copying has stopped; the moment of the request stands in
            without it.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        store: Store,
        data_plane: DataPlane,
        filters: Filters,
        wall: Callable[[], datetime] | None = None,
    ) -> None:
        self._policy = policy
        self._store = store
        self._data_plane = data_plane
        self._filters = filters
        self._last_id = store.last_criteria_id()
        self._effects = Effects(store, data_plane, wall)
        self._running = self._effects.running
        self._meter = BandwidthMeter()
        self._congestion = Congestion()
        self._losses = LossWatch()
        self._restarted: list[Restarted] = []
        self._is_enforced = True

    @property
    def policy(self) -> Policy:
        """Who may do what."""
        return self._policy

    @property
    def intercepts(self) -> tuple[Intercept, ...]:
        """What there is, in the order of the ids."""
        return tuple(self._running.by_id.values())

    def own(self, csource_id: str) -> tuple[Intercept, ...]:
        """The same of one control source."""
        return tuple(self._running.own(csource_id).values())

    @property
    def pending_ends(self) -> tuple[int, ...]:
        """Criteria that copy nothing any more and whose end is not recorded yet."""
        return self._effects.pending_ends

    def bandwidth_bps(self, intercept: Intercept) -> int:
        """What it matches, as a mean of the last ten seconds."""
        return self._meter.rate_bps(intercept)

    def keep_sequences(self, highest: Mapping[str, int]) -> bool:
        """Keeps the highest sequence number of control sources, before their requests are acted upon.

        Returns:
            False where that failed; a request that does something must not be served then.
        """
        try:
            with self._store.transaction() as transaction:
                for csource_id, number in highest.items():
                    transaction.sequence(csource_id, number)
        except PortError:
            return False
        return True

    def misread(self, refused: Sequence[Misread], now: Now) -> None:
        """Records refusals of requests that could not even be read."""
        self._effects.end(
            audit=[
                records.misread(each.principal, each.csource_id, each.method, each.error, now)
                for each in refused
            ]
        )

    def handle(self, principal: Principal, request: Request, now: Now) -> Result:
        """Serves one request."""
        return self.handle_all([Tasked(principal, request)], now)[0]

    def handle_all(self, waiting: Sequence[Tasked], now: Now) -> list[Result]:
        """Serves requests that wait together, in their order.

        Returns:
            One result each; that one fails does not touch the others.
        """
        results: list[Result] = []
        for kind, group in groupby(waiting, key=lambda tasked: type(tasked.request)):
            tasked = list(group)
            if kind is AddRequest:
                results += self._add(tasked, now)
            elif kind is DeleteRequest:
                results += self._delete(tasked, now)
            elif kind is RefreshRequest:
                results += [self._refresh(each, now) for each in tasked]
            else:
                results += [self._read(each, now) for each in tasked]
        return results

    # --- requests -----------------------------------------------------------------------------

    def _add(self, waiting: list[Tasked], now: Now) -> list[Result]:
        outcomes: list[Intercept | ErrorResult] = []
        added: list[Intercept] = []
        counts: Counter[str] = Counter()
        refusals: list[AuditRecord] = []
        for tasked in waiting:
            try:
                intercept = self._intercept(tasked, added, counts, now)
            except Refused as refused:
                outcomes.append(refused.result())
                refusals.append(records.refusal(tasked.principal, tasked.request, refused, now))
            else:
                added.append(intercept)
                counts[intercept.csource_id] += 1
                outcomes.append(intercept)
        failures = self._effects.start(added, refusals, now)
        results: list[Result] = []
        for outcome in outcomes:
            if isinstance(outcome, ErrorResult):
                results.append(outcome)
            else:
                number = outcome.criteria_id
                results.append(failures.get(number) or AddResult(number))
        return results

    def _intercept(
        self, tasked: Tasked, beside: Collection[Intercept], counts: Mapping[str, int], now: Now
    ) -> Intercept:
        request = tasked.request
        assert isinstance(request, AddRequest)  # noqa: S101 - grouped by type
        source = authorize.control_source(tasked.principal, request, self._policy.control_sources)
        own = len(self._running.own(source.id)) + counts[source.id]
        authorize.quota(self._policy, source, own=own, all_sources=len(self._running) + len(beside))
        if self._last_id >= CRITERIA_ID_MAX:
            raise Refused(Status.MAX_CRITERIA_EXCEEDED, "no criteria id is left")
        intercept = make_intercept(
            request,
            tasked.principal,
            source,
            policy=self._policy,
            filters=self._filters,
            criteria_id=self._last_id + 1,
            now=now,
        )
        self._check_destinations(request, source.id, beside)
        self._last_id += 1
        return intercept

    def _check_destinations(
        self, request: AddRequest, csource_id: str, beside: Collection[Intercept]
    ) -> None:
        """Refuses a content destination that tasking would create beyond the bound [DTCP App. A.3].

        A control source has its own bound: those of others are neither in its way nor its business.
        """
        known = self._policy.content_destinations
        used = self._running.destinations(csource_id).keys()
        new = {name for name in request.cdest_ids if name not in known} - used
        if not new:
            return
        created = {name for each in beside if each.csource_id == csource_id for name in each.cdest_ids}
        created = (created | used | new) - known.keys()
        if len(created) > self._policy.max_content_destinations:
            info = "the tap takes no more content destinations of this control source"
            raise Refused(Status.MAX_CONTENT_DESTINATIONS_EXCEEDED, info)

    def _delete(self, waiting: list[Tasked], now: Now) -> list[Result]:
        outcomes: list[int | ErrorResult] = []
        ends: dict[int, End] = {}
        refusals: list[AuditRecord] = []
        for tasked in waiting:
            request = tasked.request
            assert isinstance(request, DeleteRequest)  # noqa: S101 - grouped by type
            try:
                source = authorize.control_source(tasked.principal, request, self._policy.control_sources)
                own = self._running.own(source.id)
                if ends:
                    own = {number: each for number, each in own.items() if number not in ends}
                selected = listing.select(own, request, source, self._policy)
            except Refused as refused:
                outcomes.append(refused.result())
                refusals.append(records.refusal(tasked.principal, request, refused, now))
                continue
            # Static criteria stay unless the request says so [DTCP §5.6].
            stopping = [each for each in selected if request.static or not each.static]
            for each in stopping:
                ends[each.criteria_id] = End.of(each, tasked.principal.login, "deleted", now)
            outcomes.append(len(stopping))
        failure = self._effects.stop(list(ends.values()), refusals)
        results: list[Result] = []
        for outcome in outcomes:
            if isinstance(outcome, ErrorResult):
                results.append(outcome)
            elif failure is not None and outcome:
                results.append(failure)
            else:
                results.append(DeleteResult(outcome))
        return results

    def _refresh(self, tasked: Tasked, now: Now) -> Result:
        request = tasked.request
        assert isinstance(request, RefreshRequest)  # noqa: S101 - grouped by type
        try:
            source = authorize.control_source(tasked.principal, request, self._policy.control_sources)
            selected = listing.select(self._running.own(source.id), request, source, self._policy)
            counts = self._data_plane.counts() if selected else {}
            changed = [
                refreshed(each, request, source, counts.get(each.criteria_id, each.carried), now)
                for each in selected
            ]
        except Refused as refused:
            self._effects.end(audit=[records.refusal(tasked.principal, request, refused, now)])
            return refused.result()
        except PortError:
            return internal("the data plane did not answer; nothing was refreshed")
        login = tasked.principal.login
        audit = [records.about("refresh", each, login, now.wall, *records.times(each)) for each in changed]
        return self._effects.change(changed, audit, now) or RefreshResult(len(changed))

    def _read(self, tasked: Tasked, now: Now) -> Result:
        request = tasked.request
        try:
            source = authorize.control_source(tasked.principal, request, self._policy.control_sources)
            if not isinstance(request, ListRequest):
                return NoopResult()
            selected = listing.select(self._running.own(source.id), request, source, self._policy)
        except Refused as refused:
            self._effects.end(audit=[records.refusal(tasked.principal, request, refused, now)])
            return refused.result()
        counts: Mapping[int, Count] = {}
        if request.stats and selected:
            try:
                counts = self._data_plane.counts()
            except PortError:
                return internal("the data plane did not answer")
        return ListResult(
            tuple(
                listing.entry(
                    each,
                    request,
                    source,
                    count=counts.get(each.criteria_id, each.carried),
                    bandwidth_bps=self._meter.rate_bps(each) if request.stats else 0,
                    now=now,
                )
                for each in selected
            )
        )

    # --- what the operator's own people do ----------------------------------------------------

    @contextmanager
    def _act(self, principal: Principal, act: str, about_what: object, now: Now) -> Iterator[None]:
        """Records what is refused within."""
        try:
            yield
        except Refused as refused:
            self._effects.end(audit=[records.act_refused(principal, act, str(about_what), refused, now)])
            raise

    def approve(self, principal: Principal, criteria_ids: Collection[int], now: Now) -> None:
        """Lets intercepts begin to copy that somebody else has asked for.

        Raises:
            Refused: The login may not approve, one of them does not wait for approval, he has asked for it
                himself, or it could not be carried out.
        """
        with self._act(principal, "approve", list(criteria_ids), now):
            changed = [
                replace(each, state=State.ACTIVE, approved_by=principal.login, idle_since_ns=now.monotonic_ns)
                for each in self._waiting(principal, criteria_ids)
            ]
            approvals = [records.about("approve", each, principal.login, now.wall) for each in changed]
            starts = [records.started(each, now) for each in changed]
            _raise_if(self._effects.change(changed, [*approvals, *starts], now))

    def reject(self, principal: Principal, criteria_ids: Collection[int], now: Now) -> None:
        """Ends intercepts that wait for approval.

        Raises:
            Refused: As for `approve`.
        """
        with self._act(principal, "reject", list(criteria_ids), now):
            waiting = self._waiting(principal, criteria_ids)
            ends = [End.of(each, principal.login, "not approved", now) for each in waiting]
            _raise_if(self._effects.stop(ends))

    def _waiting(self, principal: Principal, criteria_ids: Collection[int]) -> list[Intercept]:
        if PERMISSION_APPROVE not in principal.permissions:
            raise Refused(Status.BAD_REQUEST, "the login's class has no permission to approve")
        found = []
        for number in criteria_ids:
            intercept = self._running.by_id.get(number)
            if intercept is None or intercept.is_active:
                raise Refused(Status.UNKNOWN_CRITERIA_ID, f"criteria {number} do not wait for approval")
            if intercept.login == principal.login:
                info = f"criteria {number}: nobody approves what he has asked for himself"
                raise Refused(Status.BAD_REQUEST, info)
            found.append(intercept)
        return found

    def clear(self, principal: Principal, criteria_ids: Collection[int], now: Now) -> None:
        """Ends intercepts for the operator, whoever they belong to.

        Raises:
            Refused: The login may not, one of them does not exist, or it could not be carried out.
        """
        with self._act(principal, "clear criteria", list(criteria_ids), now):
            authorize.may_change(principal)
            by_id = self._running.by_id
            for number in criteria_ids:
                if number not in by_id:
                    raise Refused(Status.UNKNOWN_CRITERIA_ID, f"there are no criteria {number}")
            reason = "ended by the operator"
            ends = [End.of(by_id[each], principal.login, reason, now) for each in criteria_ids]
            _raise_if(self._effects.stop(ends))

    def reset_sequence(self, principal: Principal, csource_id: str, now: Now) -> None:
        """Forgets the sequence numbers of a control source: its next number may be any [DTCP §4.4.1].

        Raises:
            Refused: The login may not, there is no such control source, or the journal could not be written.
        """
        with self._act(principal, "clear sequence-number", csource_id, now):
            authorize.may_change(principal)
            if csource_id not in self._policy.control_sources:
                raise Refused(Status.UNKNOWN_CONTROL_SOURCE, f"there is no control source {csource_id}")
            with self._durably() as transaction:
                transaction.sequence(csource_id, None)
                transaction.audit(records.reset(csource_id, principal.login, now.wall))

    def change_tunnel(
        self, principal: Principal, name: str, act: str, now: Now, *, tunnels: Collection[str]
    ) -> None:
        """Records what is about to be done to a tunnel.

        One is taken down also where nothing can be recorded: that stops copies, and the record follows.

        Args:
            principal: Who does it.
            name: The tunnel's.
            act: ``up``, ``down``, ``rekey`` or ``rekey ike``.
            now: The moment.
            tunnels: Those that there are.

        Raises:
            Refused: The login may not, there is no such tunnel, or the journal could not be written.
        """
        with self._act(principal, f"tunnel {act}", name, now):
            authorize.may_change(principal)
            if name not in tunnels:
                info = f"there is no tunnel {name!r}; there are: {', '.join(tunnels) or 'none'}"
                raise Refused(Status.BAD_REQUEST, info)
            record = records.tunnel(name, act, principal.login, now.wall)
            if act == "down":
                self._effects.end(audit=[record])
            else:
                with self._durably() as transaction:
                    transaction.audit(record)

    @contextmanager
    def _durably(self) -> Iterator[Transaction]:
        """A transaction without which nothing is done: what cannot be written is refused."""
        try:
            with self._store.transaction() as transaction:
                yield transaction
        except PortError:
            info = "the journal could not be written; nothing was changed"
            raise Refused(Status.SERVER_INTERNAL_ERROR, info) from None

    def apply_policy(self, policy: Policy, now: Now) -> list[Intercept]:
        """Rules from now on; what would be refused today ends.

        Returns:
            What has ended.
        """
        self._policy = policy
        return self._enforce(now)

    def _enforce(self, now: Now) -> list[Intercept]:
        """Ends what the policy would refuse today; what cannot be ended now is tried again with time."""
        due = enforcement.due(self._running.by_id.values(), self._policy, self._filters)
        if due.refused:
            self._effects.stop([End.of(each, "", reason, now) for each, reason in due.refused])
        detail = ("reason", "the list of exclusions has changed")

        def audit(changed: list[Intercept]) -> list[AuditRecord]:
            return [records.about("change", each, "", now.wall, detail) for each in changed]

        is_done = not due.narrower or self._effects.narrow(due.narrower, audit(due.narrower), now)
        if is_done and due.wider:
            is_done = self._effects.change(due.wider, audit(due.wider), now) is None
        ended = [each for each, _ in due.refused if each.criteria_id not in self._running]
        self._is_enforced = is_done and len(ended) == len(due.refused)
        return ended

    # --- restarts -----------------------------------------------------------------------------

    def restore(
        self,
        rows: Collection[JournalRow],
        usage: Usage,
        *,
        ended_without_record: Collection[int],
        boot_id: str,
        now: Now,
    ) -> None:
        """Lets run again what an earlier run has left, as far as it is still lawful and has not run out.

        A journal that cannot be written does not keep it from running: its start is on record, and what has
        ended is recorded with the next change.

        Raises:
            PortError: The data plane failed.
        """
        plan = journal.restore(
            rows,
            usage,
            self._policy,
            self._filters,
            ended_without_record=ended_without_record,
            boot_id=boot_id,
            now=now,
        )
        total = Counter(row.csource_id for row in rows if row.criteria_id not in ended_without_record)
        restored = Counter(each.csource_id for each in plan.restored)
        silent_from = max((row.written.wall for row in rows), default=now.wall)
        if usage.until is not None:
            silent_from = max(silent_from, usage.until.wall)
        self._restarted = [
            Restarted(csource_id, restored[csource_id], count, silent_from, now.wall)
            for csource_id, count in sorted(total.items())
        ]
        said = [
            records.restarted(each.csource_id, now.wall, ("restored", f"{each.restored} of {each.total}"))
            for each in self._restarted
        ]
        ends = [End(row.criteria_id, row.csource_id, "", reason, now.wall) for row, reason in plan.ended]
        if ends or said:
            self._effects.end(ends, said)
        self._effects.resume(plan.restored, now)

    def resumed(self, now: Now) -> list[Restarted]:
        """Records the gap that a restart has made, when it is over.

        Returns:
            What it meant for every control source that had intercepts.
        """
        told = [replace(each, silent_to=now.wall) for each in self._restarted]
        self._restarted = []
        if told:
            self._effects.end(audit=[records.gap(each) for each in told])
        return told

    # --- time ---------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        """When `tick` should be called next at the latest; None while no time-out runs.

        Raises:
            PortError: The data plane failed.
        """
        timed = self._running.timed
        if not timed:
            return None
        counts = self._data_plane.counts()
        found = (lifetime.deadline_ns(each, counts.get(each.criteria_id, each.carried)) for each in timed)
        return min((each for each in found if each is not None), default=None)

    def tick(self, now: Now) -> list[Happening]:
        """Ends what a time-out has ended or congestion must end; says what is to be told.

        The data plane stops by itself what a time-out ends. Where it does not take a change it is tried again
        next time.

        Raises:
            PortError: The data plane failed.
        """
        counts = self._data_plane.counts()
        self._meter.sample(now.monotonic_ns, counts)
        if not self._is_enforced:
            self._enforce(now)
        happened: list[Happening] = [*self._expired(counts, now), *self._congested(now)]
        losses = self._data_plane.losses()
        period_s = self._policy.duplicates_dropped_period_s
        happened += self._losses.look(losses, self._running.by_id, period_s, now.monotonic_ns)
        if self._effects.has_unwritten:
            self._effects.end()
        return happened

    def _expired(self, counts: Mapping[int, Count], now: Now) -> list[Ended]:
        ended = []
        for intercept in self._running.timed:
            count = counts.get(intercept.criteria_id, intercept.carried)
            reason = lifetime.reason_to_end(intercept, count, now.monotonic_ns)
            if reason is not None:
                left = lifetime.remaining(intercept, count, now.monotonic_ns)
                ended.append(Ended(intercept, reason, left))
        if ended:
            self._effects.stop(
                [End.of(each.intercept, "", f"time-out: {each.reason}", now) for each in ended]
            )
        return [each for each in ended if each.intercept.criteria_id not in self._running]

    def _congested(self, now: Now) -> list[Happening]:
        running = self._running.by_id.values()
        warnings, purges = self._congestion.look(self._policy, running, self._meter)
        if purges:
            # One that is sent to two congested destinations ends once.
            ends = {each.criteria_id: End.of(each, "", f"congestion of {name}", now) for name, each in purges}
            self._effects.stop(list(ends.values()))
        purged: dict[tuple[str, str], list[int]] = {}
        for name, intercept in purges:
            if intercept.criteria_id not in self._running:
                purged.setdefault((intercept.csource_id, name), []).append(intercept.criteria_id)
        return [*warnings, *(Purged(*key, tuple(sorted(ids))) for key, ids in sorted(purged.items()))]


def _raise_if(failure: ErrorResult | None) -> None:
    """A change for the operator that could not be carried out is a refusal."""
    if failure is not None:
        raise Refused(failure.status, failure.info or "")
