"""The only owner of intercepts: what runs, in which order a change takes effect, what a LIST shows.

Order of effects. A start is recorded, then copies, then is acknowledged. A stop stops copying, is then
recorded, then acknowledged; when it cannot be recorded, copying stays stopped and the record is tried
again with the next change. Requests that wait together share one transaction and one table change.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Final

from flowtap.control import authorize, lifetime
from flowtap.control.audit import AuditRecord
from flowtap.control.authorize import Refused
from flowtap.control.model import Count
from flowtap.control.ports import PortError
from flowtap.control.tasking import FILTER_NAMES, make_intercept, refreshed
from flowtap.dtcp.messages import (
    AddRequest,
    AddResult,
    DeleteRequest,
    DeleteResult,
    ErrorResult,
    ListEntry,
    ListRequest,
    ListResult,
    NoopRequest,
    NoopResult,
    Parameter,
    RefreshRequest,
    RefreshResult,
)
from flowtap.dtcp.status import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from flowtap.control.model import ContentDestination, ControlSource, Intercept, Now, Principal
    from flowtap.control.ports import DataPlane, FilterCheck, Store, Transaction
    from flowtap.dtcp.messages import IdRange, Request, Result, Timeouts

__all__ = ["ControlPlane", "Ended", "Policy", "Tasked"]

CRITERIA_ID_MAX = 2**32 - 1
"""The highest id that an ADD's answer can carry [DTCP §8]."""

_METHODS: Final = {
    AddRequest: "ADD",
    DeleteRequest: "DELETE",
    RefreshRequest: "REFRESH",
    ListRequest: "LIST",
    NoopRequest: "NOOP",
}


@dataclass(frozen=True, slots=True)
class Policy:
    """What the configuration says about tasking."""

    control_sources: Mapping[str, ControlSource]
    content_destinations: Mapping[str, ContentDestination]


@dataclass(frozen=True, slots=True)
class Tasked:
    """A request and who made it."""

    principal: Principal
    request: Request


@dataclass(frozen=True, slots=True)
class Ended:
    """An intercept that a time-out has ended, and what was left of its time-outs then."""

    intercept: Intercept
    reason: str
    remaining: Timeouts


@dataclass(frozen=True, slots=True)
class _PendingEnd:
    """A stop whose record is not written yet."""

    intercept: Intercept
    login: str
    reason: str
    when: datetime
    """When copying stopped; a record that is written later still says so."""


class ControlPlane:
    """Takes requests, keeps intercepts; one task only may use it.

    Args:
        policy: Who may do what.
        store: Journal and audit log.
        data_plane: The tap.
        check: Knows whether a filter can be compiled.
    """

    def __init__(self, *, policy: Policy, store: Store, data_plane: DataPlane, check: FilterCheck) -> None:
        self._policy = policy
        self._store = store
        self._data_plane = data_plane
        self._check = check
        self._running: dict[int, Intercept] = {}
        self._last_id = store.last_criteria_id()
        self._pending: list[_PendingEnd] = []

    @property
    def intercepts(self) -> tuple[Intercept, ...]:
        """What runs, in the order of the ids."""
        return tuple(self._running.values())

    @property
    def pending_ends(self) -> tuple[int, ...]:
        """Criteria that copy nothing any more and whose end is not recorded yet."""
        return tuple(pending.intercept.criteria_id for pending in self._pending)

    def apply_policy(self, policy: Policy) -> None:
        """Rules requests from now on; what runs already goes on as it was authorised."""
        self._policy = policy

    def keep_sequences(self, highest: Mapping[str, int]) -> bool:
        """Keeps the highest sequence number of control sources, before their requests are acted upon.

        Returns:
            False where that failed; the requests must not be served then.
        """
        try:
            with self._store.transaction() as transaction:
                for csource_id, number in highest.items():
                    transaction.sequence(csource_id, number)
        except PortError:
            return False
        return True

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

    # --- starting -----------------------------------------------------------------------------

    def _add(self, waiting: list[Tasked], now: Now) -> list[Result]:
        outcomes: list[Intercept | ErrorResult] = []
        added: dict[int, Intercept] = {}
        refusals: list[AuditRecord] = []
        owned = Counter(each.csource_id for each in self._running.values())
        for tasked in waiting:
            try:
                intercept = self._intercept(tasked, owned, now)
            except Refused as refused:
                outcomes.append(refused.result())
                refusals.append(_refusal(tasked, refused, now))
            else:
                added[intercept.criteria_id] = intercept
                owned[intercept.csource_id] += 1
                outcomes.append(intercept)
        failure = self._start(added, refusals, now)
        results: list[Result] = []
        for outcome in outcomes:
            if isinstance(outcome, ErrorResult):
                results.append(outcome)
            else:
                results.append(failure or AddResult(outcome.criteria_id))
        return results

    def _intercept(self, tasked: Tasked, owned: Counter[str], now: Now) -> Intercept:
        request = tasked.request
        assert isinstance(request, AddRequest)  # noqa: S101 - grouped by type
        source = authorize.control_source(tasked.principal, request, self._policy.control_sources)
        authorize.quota(source, owned[source.id])
        if self._last_id >= CRITERIA_ID_MAX:
            raise Refused(Status.MAX_CRITERIA_EXCEEDED, "no criteria id is left")
        intercept = make_intercept(
            request,
            tasked.principal,
            source,
            destinations=self._policy.content_destinations,
            check=self._check,
            criteria_id=self._last_id + 1,
            now=now,
        )
        self._last_id += 1
        return intercept

    def _start(
        self, added: Mapping[int, Intercept], refusals: Iterable[AuditRecord], now: Now
    ) -> ErrorResult | None:
        """Records and installs; an error takes back everything."""
        try:
            with self._store.transaction() as transaction:
                self._record_pending(transaction)
                for refusal in refusals:
                    transaction.audit(refusal)
                for intercept in added.values():
                    transaction.start(intercept)
                    transaction.audit(_started(intercept, now))
        except PortError:
            return _internal("the journal could not be written; nothing was started")
        self._pending.clear()
        if not added:
            return None
        try:
            self._data_plane.install([*self._running.values(), *added.values()])
        except PortError:
            reason = "data plane failed"
            self._end([_PendingEnd(each, each.login, reason, now.wall) for each in added.values()])
            return _internal("the data plane did not take the criteria; nothing was started")
        self._running.update(added)
        return None

    # --- stopping -----------------------------------------------------------------------------

    def _delete(self, waiting: list[Tasked], now: Now) -> list[Result]:
        outcomes: list[int | ErrorResult] = []
        ends: dict[int, _PendingEnd] = {}
        refusals: list[AuditRecord] = []
        for tasked in waiting:
            request = tasked.request
            assert isinstance(request, DeleteRequest)  # noqa: S101 - grouped by type
            try:
                source = authorize.control_source(tasked.principal, request, self._policy.control_sources)
                selected = self._select(source, request, ends)
            except Refused as refused:
                outcomes.append(refused.result())
                refusals.append(_refusal(tasked, refused, now))
                continue
            # Static criteria stay unless the request says so [DTCP §5.6].
            stopping = [each for each in selected if request.static or not each.static]
            for each in stopping:
                ends[each.criteria_id] = _PendingEnd(each, tasked.principal.login, "deleted", now.wall)
            outcomes.append(len(stopping))
        failure = self._stop(list(ends.values()), refusals)
        results: list[Result] = []
        for outcome in outcomes:
            if isinstance(outcome, ErrorResult):
                results.append(outcome)
            elif failure is not None and outcome:
                results.append(failure)
            else:
                results.append(DeleteResult(outcome))
        return results

    def _stop(self, ends: list[_PendingEnd], refusals: Iterable[AuditRecord] = ()) -> ErrorResult | None:
        """Stops copying, then records it."""
        stopping = {end.intercept.criteria_id for end in ends}
        left = {number: each for number, each in self._running.items() if number not in stopping}
        if stopping:
            try:
                self._data_plane.install(list(left.values()))
            except PortError:
                self._end([], refusals)
                return _internal("the data plane did not answer; the criteria may still copy")
        self._running = left
        if self._end(ends, refusals):
            return None
        return _internal("copying has stopped; the journal could not be written and is tried again")

    def _end(self, ends: list[_PendingEnd], refusals: Iterable[AuditRecord] = ()) -> bool:
        """Records that intercepts have ended; what cannot be written waits for the next change."""
        self._pending += ends
        try:
            with self._store.transaction() as transaction:
                self._record_pending(transaction)
                for refusal in refusals:
                    transaction.audit(refusal)
        except PortError:
            return False
        self._pending.clear()
        return True

    def _record_pending(self, transaction: Transaction) -> None:
        for pending in self._pending:
            intercept = pending.intercept
            transaction.end(intercept.criteria_id, pending.when, pending.reason)
            transaction.audit(
                AuditRecord(
                    when=pending.when,
                    event="stop",
                    login=pending.login,
                    csource_id=intercept.csource_id,
                    criteria_id=intercept.criteria_id,
                    detail=(("reason", pending.reason),),
                )
            )

    # --- refreshing ---------------------------------------------------------------------------

    def _refresh(self, tasked: Tasked, now: Now) -> Result:
        """Records the new time-outs, then lets them rule, then acknowledges them."""
        request = tasked.request
        assert isinstance(request, RefreshRequest)  # noqa: S101 - grouped by type
        try:
            source = authorize.control_source(tasked.principal, request, self._policy.control_sources)
            selected = self._select(source, request, {})
            counts = self._data_plane.counts() if selected else {}
            changed = {
                each.criteria_id: refreshed(each, request, source, counts.get(each.criteria_id, Count()), now)
                for each in selected
            }
        except Refused as refused:
            self._end([], [_refusal(tasked, refused, now)])
            return refused.result()
        except PortError:
            return _internal("the data plane did not answer; nothing was refreshed")
        try:
            with self._store.transaction() as transaction:
                self._record_pending(transaction)
                for intercept in changed.values():
                    transaction.audit(_refreshed(intercept, tasked, now))
        except PortError:
            return _internal("the journal could not be written; nothing was refreshed")
        self._pending.clear()
        running = self._running | changed
        if changed:
            try:
                self._data_plane.install(list(running.values()))
            except PortError:
                return _internal("the data plane did not take the time-outs; the old ones run on")
        self._running = running
        return RefreshResult(len(changed))

    # --- time ---------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        """When `expire` should be called next at the latest; None while no time-out runs.

        Raises:
            PortError: The data plane failed.
        """
        timed = [each for each in self._running.values() if each.timeouts.idle_s or each.timeouts.total_s]
        if not timed:
            return None
        counts = self._data_plane.counts()
        deadlines = (lifetime.deadline_ns(each, counts.get(each.criteria_id, Count())) for each in timed)
        return min(deadline for deadline in deadlines if deadline is not None)

    def expire(self, now: Now) -> list[Ended]:
        """Ends what a time-out has ended; the data plane stopped copying on its own.

        Returns:
            What has ended. Where the data plane did not take the change it is tried again next time.

        Raises:
            PortError: The data plane failed.
        """
        counts = self._data_plane.counts()
        ended = []
        for intercept in self._running.values():
            count = counts.get(intercept.criteria_id, Count())
            reason = lifetime.reason_to_end(intercept, count, now.monotonic_ns)
            if reason is not None:
                left = lifetime.remaining(intercept, count, now.monotonic_ns)
                ended.append(Ended(intercept, reason, left))
        if ended or self._pending:
            self._stop(
                [_PendingEnd(each.intercept, "", f"time-out: {each.reason}", now.wall) for each in ended]
            )
        return [each for each in ended if each.intercept.criteria_id not in self._running]

    # --- reading ------------------------------------------------------------------------------

    def _read(self, tasked: Tasked, now: Now) -> Result:
        request = tasked.request
        try:
            source = authorize.control_source(tasked.principal, request, self._policy.control_sources)
            if isinstance(request, ListRequest):
                return self._list(source, request, now)
        except Refused as refused:
            self._end([], [_refusal(tasked, refused, now)])
            return refused.result()
        return NoopResult()

    def _list(self, source: ControlSource, request: ListRequest, now: Now) -> Result:
        selected = self._select(source, request, {})
        counts: Mapping[int, Count] = {}
        if request.stats and selected:
            try:
                counts = self._data_plane.counts()
            except PortError:
                return _internal("the data plane did not answer")
        return ListResult(
            tuple(_entry(each, request, counts.get(each.criteria_id, Count()), now) for each in selected)
        )

    def _select(
        self,
        source: ControlSource,
        request: DeleteRequest | RefreshRequest | ListRequest,
        gone: Mapping[int, object],
    ) -> list[Intercept]:
        """The control source's own criteria that a request names, those being ended left out.

        Raises:
            Refused: A single id, or a content destination, is not known to this control source.
        """
        own = {
            number: each
            for number, each in self._running.items()
            if each.csource_id == source.id and number not in gone
        }
        if request.criteria_ids is not None:
            return _by_ids(own, request.criteria_ids)
        if request.cdest_id is None:
            return list(own.values())
        name = request.cdest_id
        selected = [each for each in own.values() if name in each.cdest_ids]
        is_configured = name in self._policy.content_destinations
        is_allowed = not source.allowed_destinations or name in source.allowed_destinations
        if not selected and not (is_configured and is_allowed):
            raise authorize.unknown_destination(name)
        return selected


def _by_ids(own: Mapping[int, Intercept], ids: Iterable[IdRange]) -> list[Intercept]:
    found: dict[int, Intercept] = {}
    unknown = []
    for element in ids:
        if element.single:
            if element.first in own:
                found[element.first] = own[element.first]
            else:
                unknown.append(element.first)
        else:
            found |= {number: each for number, each in own.items() if element.first <= number <= element.last}
    if unknown:
        raise Refused(
            Status.UNKNOWN_CRITERIA_ID,
            "no such criteria; nothing was done",
            Parameter("Criteria-ID", ",".join(map(str, unknown))),
        )
    return [found[number] for number in sorted(found)]


def _entry(intercept: Intercept, request: ListRequest, count: Count, now: Now) -> ListEntry:
    return ListEntry(
        csource_id=intercept.csource_id,
        csource_address=intercept.csource_address,
        cdest_ids=intercept.cdest_ids,
        criteria_id=intercept.criteria_id,
        added=intercept.added,
        static=intercept.static,
        filter=intercept.filter if request.criteria else None,
        timeouts=intercept.timeouts if request.criteria else None,
        send_async=intercept.send_async and request.criteria,
        extensions=intercept.extensions if request.criteria else (),
        remaining=lifetime.remaining(intercept, count, now.monotonic_ns) if request.stats else None,
        matching_packets=count.packets if request.stats else None,
        matching_octets=count.octets if request.stats else None,
        refreshes=intercept.refreshes if request.stats else None,
        last_refresh=intercept.last_refresh if request.stats else None,
    )


def _internal(info: str) -> ErrorResult:
    return ErrorResult(Status.SERVER_INTERNAL_ERROR, info=info)


def _asked(intercept: Intercept) -> tuple[tuple[str, str], ...]:
    """What was asked for, as the audit log keeps it."""
    filters = (
        (name, value)
        for field, name in FILTER_NAMES.items()
        if (value := getattr(intercept.filter, field)) is not None
    )
    deliveries = (
        (
            "delivery",
            f"{name} {each.address} {each.port} from {each.source_address} {each.source_port}",
        )
        for name, each in zip(intercept.cdest_ids, intercept.deliveries, strict=True)
    )
    return (*filters, *deliveries, *_times(intercept), ("address", str(intercept.csource_address)))


def _times(intercept: Intercept) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, str(value))
        for name in ("idle_s", "total_s", "packets", "octets")
        if (value := getattr(intercept.timeouts, name)) is not None
    )


def _started(intercept: Intercept, now: Now) -> AuditRecord:
    return AuditRecord(
        when=now.wall,
        event="start",
        login=intercept.login,
        csource_id=intercept.csource_id,
        criteria_id=intercept.criteria_id,
        detail=_asked(intercept),
    )


def _refreshed(intercept: Intercept, tasked: Tasked, now: Now) -> AuditRecord:
    return AuditRecord(
        when=now.wall,
        event="refresh",
        login=tasked.principal.login,
        csource_id=intercept.csource_id,
        criteria_id=intercept.criteria_id,
        detail=_times(intercept),
    )


def _refusal(tasked: Tasked, refused: Refused, now: Now) -> AuditRecord:
    return AuditRecord(
        when=now.wall,
        event="refuse",
        login=tasked.principal.login,
        csource_id=tasked.request.csource_id,
        criteria_id=None,
        detail=(
            ("request", _METHODS[type(tasked.request)]),
            ("status", str(refused.status.value)),
            ("reason", refused.info),
            ("address", str(tasked.principal.address)),
        ),
    )
