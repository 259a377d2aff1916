"""The order in which a change takes effect, and what is left when a part of it fails.

A start is recorded, then copies. A stop stops copying, is then recorded; when it cannot be recorded, copying
stays stopped and the record is tried again with the next change. What changes is recorded, then rules; where
it cannot rule, it is recorded that all is as it was. What lets less be copied goes the way of a stop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from flowtap.control import records
from flowtap.control.collection import Intercepts
from flowtap.control.ports import PortError
from flowtap.dtcp.messages import ErrorResult
from flowtap.dtcp.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from flowtap.control.audit import AuditRecord
    from flowtap.control.model import Intercept, Now
    from flowtap.control.ports import DataPlane, Store, Transaction

__all__ = ["Effects", "End", "internal"]


@dataclass(frozen=True, slots=True)
class End:
    """A stop.

    Attributes:
        criteria_id: What stops.
        csource_id: Whose it is.
        login: Who wants it; empty for the tap itself.
        reason: Why.
        when: When copying stopped; a record that is written later still says so.
    """

    criteria_id: int
    csource_id: str
    login: str
    reason: str
    when: datetime

    @classmethod
    def of(cls, intercept: Intercept, login: str, reason: str, now: Now) -> Self:
        """The stop of an intercept, now."""
        return cls(intercept.criteria_id, intercept.csource_id, login, reason, now.wall)


def internal(info: str) -> ErrorResult:
    """The answer where the tap itself has failed."""
    return ErrorResult(Status.SERVER_INTERNAL_ERROR, info=info)


class Effects:
    """Carries changes out: in the store, in the data plane, and in what is known to run.

    Args:
        store: Journal and audit log.
        data_plane: The tap.
        wall: The wall clock, asked when copying has stopped; the moment of the request stands in without it.
    """

    def __init__(
        self, store: Store, data_plane: DataPlane, wall: Callable[[], datetime] | None = None
    ) -> None:
        self._store = store
        self._data_plane = data_plane
        self._wall = wall
        self._ends: list[End] = []
        self._unwritten: list[AuditRecord] = []
        self._unkept: list[tuple[Intercept, Now]] = []
        """What intercepts are, where the journal has something else."""
        self.running = Intercepts()

    @property
    def pending_ends(self) -> tuple[int, ...]:
        """Criteria that copy nothing any more and whose end is not recorded yet."""
        return tuple(each.criteria_id for each in self._ends)

    @property
    def has_unwritten(self) -> bool:
        """Whether something waits to be recorded."""
        return bool(self._ends or self._unwritten or self._unkept)

    def start(
        self, added: Collection[Intercept], audit: Iterable[AuditRecord], now: Now
    ) -> Mapping[int, ErrorResult]:
        """Records intercepts and lets them copy; an error takes back everything that it concerns.

        Args:
            added: What begins.
            audit: What else is to be recorded, whether or not something begins.
            now: When.

        Returns:
            What did not start, by criteria id.
        """
        audit = list(audit)
        try:
            with self._store.transaction() as transaction:
                self._record_waiting(transaction)
                for record in audit:
                    transaction.audit(record)
                for intercept in added:
                    transaction.start(intercept, now)
                    transaction.audit(records.started(intercept, now))
        except PortError:
            self._unwritten += audit
            failure = internal("the journal could not be written; nothing was started")
            return {each.criteria_id: failure for each in added}
        self._written()
        refused = self._begin([each for each in added if each.is_active])
        if refused:
            self.end(self._stopped([End.of(each, each.login, "data plane failed", now) for each in refused]))
        failure = internal("the data plane did not take the criteria; nothing was started")
        failures = {each.criteria_id: failure for each in refused}
        self.running.put([each for each in added if each.criteria_id not in failures])
        return failures

    def _begin(self, intercepts: Sequence[Intercept]) -> Sequence[Intercept]:
        """Lets intercepts copy; one that the data plane does not take keeps no other from it.

        Returns:
            What it did not take.
        """
        if not intercepts:
            return ()
        try:
            self._data_plane.change(intercepts, ())
        except PortError:
            # A worker that comes back late must not find them.
            is_answered = self._withdraw(intercepts)
            if len(intercepts) == 1 or not is_answered:
                return intercepts
            middle = len(intercepts) // 2
            return [*self._begin(intercepts[:middle]), *self._begin(intercepts[middle:])]
        return ()

    def _withdraw(self, intercepts: Iterable[Intercept]) -> bool:
        """Takes intercepts out of the data plane; False where it does not answer."""
        try:
            self._data_plane.change((), [each.criteria_id for each in intercepts])
        except PortError:
            return False
        return True

    def stop(self, ends: Collection[End], audit: Iterable[AuditRecord] = ()) -> ErrorResult | None:
        """Stops copying, then records it."""
        stopping = [end.criteria_id for end in ends]
        if any(self.running.by_id[number].is_active for number in stopping):
            try:
                self._data_plane.change((), stopping)
            except PortError:
                self.end((), audit)
                return internal("the data plane did not answer; the criteria may still copy")
            # The last copy may be younger than the request.
            ends = self._stopped(ends)
        self.running.remove(stopping)
        if self.end(ends, audit):
            return None
        return internal("copying has stopped; the journal could not be written and is tried again")

    def _stopped(self, ends: Collection[End]) -> Collection[End]:
        """The same, with the moment in which copying has stopped."""
        if self._wall is None:
            return ends
        when = self._wall()
        return [replace(each, when=when) for each in ends]

    def change(
        self, changed: Collection[Intercept], audit: Iterable[AuditRecord], now: Now
    ) -> ErrorResult | None:
        """Records what intercepts are from now on, then lets it rule."""
        try:
            with self._store.transaction() as transaction:
                self._record_waiting(transaction)
                for intercept in changed:
                    transaction.update(intercept, now)
                for record in audit:
                    transaction.audit(record)
        except PortError:
            return internal("the journal could not be written; nothing was changed")
        self._written()
        active = [each for each in changed if each.is_active]
        if active:
            try:
                self._data_plane.change(active, ())
            except PortError:
                self._undo(changed, now)
                return internal("the data plane did not take the change; what ran before runs on")
        self.running.put(changed)
        return None

    def narrow(self, changed: Collection[Intercept], audit: Iterable[AuditRecord], now: Now) -> bool:
        """Lets less be copied from now on, then records it; a record that cannot be written waits.

        Returns:
            Whether it rules.
        """
        active = [each for each in changed if each.is_active]
        if active:
            try:
                self._data_plane.change(active, ())
            except PortError:
                return False
        self.running.put(changed)
        self._unkept += [(each, now) for each in changed]
        self.end(audit=audit)
        return True

    def _undo(self, changed: Collection[Intercept], now: Now) -> None:
        """Records that intercepts are what they were."""
        before = [self.running.by_id[each.criteria_id] for each in changed]
        self._unkept += [(each, now) for each in before]
        detail = ("reason", "the data plane did not take the change")
        self.end(audit=[records.about("undo", each, "", now.wall, detail) for each in before])

    def resume(self, restored: Collection[Intercept], now: Now) -> None:
        """Lets intercepts copy again whose start is on record.

        Raises:
            PortError: The data plane failed.
        """
        counted = [each for each in restored if each.carried.packets]
        try:
            with self._store.transaction() as transaction:
                for intercept in counted:
                    transaction.update(intercept, now)
        except PortError:
            # The journal still has what it had; the next run is told again what was counted.
            pass
        active = [each for each in restored if each.is_active]
        if active:
            self._data_plane.change(active, ())
        self.running.put(restored)

    def end(self, ends: Iterable[End] = (), audit: Iterable[AuditRecord] = ()) -> bool:
        """Records what has ended, and acts that changed nothing; what cannot be written waits.

        Returns:
            Whether it was written.
        """
        self._ends += ends
        self._unwritten += audit
        try:
            with self._store.transaction() as transaction:
                self._record_waiting(transaction)
        except PortError:
            # A restart must not let them copy again.
            self._store.mark_ended(self.pending_ends)
            return False
        self._written()
        return True

    def _record_waiting(self, transaction: Transaction) -> None:
        for intercept, now in self._unkept:
            transaction.update(intercept, now)
        for record in self._unwritten:
            transaction.audit(record)
        for each in self._ends:
            transaction.end(each.criteria_id, each.when, each.reason)
            transaction.audit(
                records.stopped(each.csource_id, each.criteria_id, each.login, each.reason, each.when)
            )

    def _written(self) -> None:
        self._ends.clear()
        self._unwritten.clear()
        self._unkept.clear()
