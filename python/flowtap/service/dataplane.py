"""The control plane's data plane: intercepts become a filter table, counters come back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypedDict

from flowtap import ContentDestination, Criteria, DataPlaneError, FilterTable
from flowtap._flowtap import RateLimit
from flowtap.control import lifetime
from flowtap.control.authorize import minimised
from flowtap.control.model import NANOSECONDS, Count
from flowtap.control.ports import PortError, ScopeFault
from flowtap.service import clock

if TYPE_CHECKING:
    from collections.abc import Collection

    from flowtap import Stats, Tap
    from flowtap._flowtap import UsageFile
    from flowtap.config.tunnels import SpoolKind
    from flowtap.control.model import Intercept
    from flowtap.delivery.paths import Paths
    from flowtap.dtcp import Delivery
    from flowtap.service.places import Places

__all__ = ["LostCopies", "TapDataPlane"]

_LIMITS: Final = ("timeout_idle_s", "timeout_total_s", "timeout_packets", "timeout_octets")
_COUNTER_MAX: Final = 2**64 - 1
_NOTHING: Final = Count()
_Outer = tuple[str, "Delivery", bool]


class _Protection(TypedDict, total=False):
    tunnel: str
    spool: SpoolKind
    spool_octets: int
    resend_s: float


class _Lifetime(TypedDict):
    timeout_idle_s: int | None
    timeout_total_s: float | None
    timeout_packets: int | None
    timeout_octets: int | None
    total_since_ns: int | None
    idle_since_ns: int | None


def _lifetime(intercept: Intercept) -> _Lifetime:
    """What ends it: budgets count from the criterion's beginning, over all runs; a zero is none."""
    times = intercept.timeouts
    end_ns = lifetime.end_ns(intercept)

    def budget(limit: int | None, base: int) -> int | None:
        return min(base + limit, _COUNTER_MAX) if limit else None

    return _Lifetime(
        timeout_idle_s=times.idle_s or None,
        # From the beginning of the clock, so that what began in an earlier boot can be said as well.
        timeout_total_s=None if end_ns is None else max(end_ns, 0) / NANOSECONDS,
        timeout_packets=budget(times.packets, intercept.packets_base),
        timeout_octets=budget(times.octets, intercept.octets_base),
        total_since_ns=0,
        idle_since_ns=max(intercept.idle_since_ns, 0),
    )


@dataclass(frozen=True, slots=True)
class LostCopies:
    """Copies of one criterion for one content destination that were not sent."""

    criteria_id: int
    cdest_id: str
    packets: int
    octets: int


class _Counts(Mapping[int, Count]):
    """The counts of one moment, converted when they are asked for."""

    def __init__(self, stats: Stats, carried: Mapping[int, Count]) -> None:
        self._stats = stats
        self._carried = carried

    def __getitem__(self, criteria_id: int) -> Count:
        each = self._stats.criterion(criteria_id)
        if each is None:
            raise KeyError(criteria_id)
        before = self._carried.get(criteria_id, _NOTHING)
        return Count(before.packets + each.packets, before.octets + each.octets, each.last_match_ns)

    def __iter__(self) -> Iterator[int]:
        return (each.id for each in self._stats.criteria)

    def __len__(self) -> int:
        return len(self._stats.criteria)


class TapDataPlane:
    """Keeps a tap's table in step with the intercepts.

    Args:
        tap: A running tap, with no criteria yet.
        places: Its interfaces, as control sources name them.
        usage: Keeps what criteria have used.
        paths: The protected ways to content destinations.
    """

    def __init__(self, tap: Tap, places: Places, usage: UsageFile, paths: Paths) -> None:
        self._paths = paths
        self._tap = tap
        self._places = places
        self._usage = usage
        self._table = FilterTable.compile([])
        self._labels: dict[_Outer, str] = {}
        self._destinations: dict[_Outer, ContentDestination] = {}
        self._uses: Counter[_Outer] = Counter()
        self._active: dict[int, Intercept] = {}
        self._rates: dict[str, RateLimit] = {}
        # Ids are never used again, so that what was carried stays true for counts of any moment.
        self._carried: dict[int, Count] = {}

    def send_along(self, paths: Paths) -> list[str]:
        """Takes other ways for what begins from now on; what is sent already goes on as it began.

        Returns:
            The content destinations of what goes on otherwise than it would begin.
        """
        before, self._paths = self._paths, paths
        return sorted(
            {
                cdest_id
                for cdest_id, delivery, _ in self._destinations
                if before.to(cdest_id, delivery.address) != paths.to(cdest_id, delivery.address)
            }
        )

    def limit(self, rates: Mapping[str, tuple[int, int]]) -> None:
        """Lets no more be copied for a control source than so many packets and bits a second; 0: any number.

        Raises:
            PortError: The tap failed.
        """
        fresh = set()
        for csource_id, (packets_per_s, bits_per_s) in rates.items():
            if csource_id in self._rates:
                self._rates[csource_id].set(packets_per_s, bits_per_s)
            elif packets_per_s or bits_per_s:
                self._rates[csource_id] = RateLimit(packets_per_s, bits_per_s)
                fresh.add(csource_id)
        # Criteria of others have none, which keeps the table small.
        if begin := [each for each in self._active.values() if each.csource_id in fresh]:
            self.change(begin, ())

    def change(self, start: Collection[Intercept], stop: Collection[int]) -> None:
        """Lets intercepts begin, or go on as they are now, and others end.

        Raises:
            PortError: The tap failed.
        """
        going = {*stop, *(each.criteria_id for each in start)} & self._active.keys()
        used: Counter[_Outer] = Counter()
        for each in start:
            used.update(_outers(each))
        for number in going:
            used.subtract(_outers(self._active[number]))
        labels = self._relabelled(used)
        destinations, named = self._destinations, None
        if labels is not self._labels:
            destinations = {outer: self._destination(outer) for outer in labels}
            named = {labels[outer]: each for outer, each in destinations.items()}
        now_ns = clock.now().monotonic_ns
        try:
            table = self._table.changed(
                sorted(going), [self._criteria(each, labels, now_ns) for each in start], named
            )
            # Whoever comes after a crash must find what has been used, before more is.
            self._usage.publish()
            self._tap.install(table)
        except (DataPlaneError, OSError, ValueError) as error:
            raise PortError(str(error)) from None
        except ScopeFault:
            # What it was may have been a subject's.
            raise PortError("an interface or routing instance is not there any more") from None
        self._table, self._labels, self._destinations = table, labels, destinations
        self._uses.update(used)
        for number in going:
            del self._active[number]
        self._active.update({each.criteria_id: each for each in start})
        self._carried.update({each.criteria_id: each.carried for each in start if each.carried.packets})

    def _criteria(self, intercept: Intercept, labels: Mapping[_Outer, str], now_ns: int) -> Criteria:
        text = minimised(intercept.filter, intercept.excluded)
        scope = intercept.scope
        limits = _lifetime(intercept)
        # What is replaced goes on counting where it does.
        before = _NOTHING if intercept.criteria_id in self._active else intercept.carried
        record = self._usage.reserve(intercept.criteria_id, before.packets, before.octets, None, now_ns)
        is_limited = any(limits[name] is not None for name in _LIMITS)
        return Criteria(
            intercept.criteria_id,
            source=text.source,
            destination=text.destination,
            protocol=text.protocol,
            source_port=text.source_port,
            destination_port=text.destination_port,
            icmp_type=text.icmp_type,
            icmp_code=text.icmp_code,
            deliver_to=list(dict.fromkeys([labels[outer] for outer in _outers(intercept)])),
            ip_version=scope.ip_version,
            input_interfaces=self._places.inputs(scope),
            output_interfaces=self._places.outputs(scope),
            circuit=scope.is_circuit,
            usage=record if is_limited else None,
            rate=self._rates.get(intercept.csource_id),
            **limits,
        )

    def _destination(self, outer: _Outer) -> ContentDestination:
        if (known := self._destinations.get(outer)) is not None:
            return known
        cdest_id, delivery, refuse_oversize = outer
        path = self._paths.to(cdest_id, delivery.address)
        protection: _Protection = {}
        if path is not None:
            protection = _Protection(
                tunnel=path.tunnel,
                spool=path.spool,
                spool_octets=path.spool_octets,
                resend_s=path.resend_s,
            )
        return ContentDestination(
            str(delivery.address),
            delivery.port,
            str(delivery.source_address),
            delivery.source_port,
            delivery.ttl,
            "refuse" if refuse_oversize else "fragment",
            **protection,
        )

    def _relabelled(self, used: Counter[_Outer]) -> dict[_Outer, str]:
        """The labels when so many more criteria use each outer header; the same object where none changes."""
        left = {outer: self._uses[outer] + more for outer, more in used.items()}
        if all((count > 0) == (outer in self._labels) for outer, count in left.items()):
            return self._labels
        labels = {outer: label for outer, label in self._labels.items() if left.get(outer, 1) > 0}
        for outer, count in left.items():
            if count > 0 and outer not in labels:
                labels[outer] = _label(outer, labels)
        return labels

    def counts(self) -> Mapping[int, Count]:
        """What was counted since the intercepts were added, by criteria id.

        Raises:
            PortError: The tap failed.
        """
        return _Counts(self.stats(), self._carried)

    def losses(self) -> list[LostCopies]:
        """What was lost of the intercepts that run.

        Raises:
            PortError: The tap failed.
        """
        names = {label: outer[0] for outer, label in self._labels.items()}
        return [
            LostCopies(criteria_id, names.get(each.id, each.id), packets, octets)
            for each in self.stats().destinations
            for criteria_id, packets, octets in each.lost
        ]

    def write_usage(self) -> None:
        """Writes down what was used, and a sign of life.

        Raises:
            PortError: The tap failed.
        """
        now = clock.now()
        self._usage.write(self.stats(), clock.wall_ns(now), now.monotonic_ns)

    def stats(self) -> Stats:
        """The tap's account.

        Raises:
            PortError: The tap failed.
        """
        try:
            return self._tap.stats()
        except DataPlaneError as error:
            raise PortError(str(error)) from None


def _label(outer: _Outer, labels: Mapping[_Outer, str]) -> str:
    """The content destination's name, with a number where one name stands for several outer headers."""
    used = set(labels.values())
    name = outer[0]
    number = 1
    while name in used:
        number += 1
        name = f"{outer[0]}#{number}"
    return name


def _outers(intercept: Intercept) -> list[_Outer]:
    return list(zip(intercept.cdest_ids, intercept.deliveries, intercept.refuse_oversize, strict=True))
