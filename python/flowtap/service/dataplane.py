"""The control plane's data plane: intercepts become a filter table, counters come back."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from flowtap import ContentDestination, Criteria, CriteriaError, DataPlaneError, FilterTable
from flowtap.control.model import Count
from flowtap.control.ports import FilterFault, PortError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from flowtap import Stats, Tap
    from flowtap.control.model import Intercept
    from flowtap.dtcp import Delivery, FilterText

__all__ = ["TapDataPlane", "check_filter"]

_COUNTER_MAX = 2**64 - 1
_Outer = tuple[str, "Delivery", bool]


def check_filter(text: FilterText) -> None:
    """Whether a filter can be compiled.

    Raises:
        FilterFault: It cannot.
    """
    try:
        _criteria(0, text, (), None)
    except CriteriaError as error:
        raise FilterFault(error.field, error.value, str(error), is_syntax=error.syntax) from None


def _criteria(
    criteria_id: int, text: FilterText, deliver_to: Collection[str], intercept: Intercept | None
) -> Criteria:
    return Criteria(
        criteria_id,
        source=text.source,
        destination=text.destination,
        protocol=text.protocol,
        source_port=text.source_port,
        destination_port=text.destination_port,
        icmp_type=text.icmp_type,
        icmp_code=text.icmp_code,
        deliver_to=list(deliver_to),
        **(_NO_END if intercept is None else _lifetime(intercept)),
    )


class _Lifetime(TypedDict):
    timeout_idle_s: int | None
    timeout_total_s: int | None
    timeout_packets: int | None
    timeout_octets: int | None
    total_since_ns: int | None
    idle_since_ns: int | None


_NO_END = _Lifetime(
    timeout_idle_s=None,
    timeout_total_s=None,
    timeout_packets=None,
    timeout_octets=None,
    total_since_ns=None,
    idle_since_ns=None,
)


def _lifetime(intercept: Intercept) -> _Lifetime:
    """What ends it, as the engine counts: budgets from the criterion's beginning, a zero is none."""
    times = intercept.timeouts

    def budget(limit: int | None, base: int) -> int | None:
        return min(base + limit, _COUNTER_MAX) if limit else None

    return _Lifetime(
        timeout_idle_s=times.idle_s or None,
        timeout_total_s=times.total_s or None,
        timeout_packets=budget(times.packets, intercept.packets_base),
        timeout_octets=budget(times.octets, intercept.octets_base),
        total_since_ns=intercept.total_since_ns,
        idle_since_ns=intercept.idle_since_ns,
    )


class TapDataPlane:
    """Keeps a tap's table in step with the intercepts.

    Args:
        tap: A running tap.
    """

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self._labels: dict[_Outer, str] = {}
        # Compiled filters of the active intercepts; an intercept that was refreshed is another value.
        self._compiled: dict[int, tuple[Intercept, Criteria]] = {}

    def install(self, intercepts: Collection[Intercept]) -> None:
        """Makes exactly these intercepts the active ones.

        Raises:
            PortError: The tap failed.
        """
        outers = {outer: self._label(outer) for each in intercepts for outer in _outers(each)}
        compiled = {each.criteria_id: (each, self._compile(each, outers)) for each in intercepts}
        try:
            table = FilterTable.compile(
                [criteria for _, criteria in compiled.values()],
                {label: _destination(outer) for outer, label in outers.items()},
            )
            self._tap.install(table)
        except (DataPlaneError, ValueError) as error:
            raise PortError(str(error)) from None
        self._compiled = compiled
        self._labels = outers

    def _compile(self, intercept: Intercept, labels: Mapping[_Outer, str]) -> Criteria:
        known = self._compiled.get(intercept.criteria_id)
        if known is not None and known[0] is intercept:
            return known[1]
        deliver_to = [labels[outer] for outer in dict.fromkeys(_outers(intercept))]
        return _criteria(intercept.criteria_id, intercept.filter, deliver_to, intercept)

    def _label(self, outer: _Outer) -> str:
        """The content destination's name, with a number where one name stands for several outer headers."""
        known = self._labels.get(outer)
        if known is not None:
            return known
        used = set(self._labels.values())
        name = outer[0]
        number = 1
        while name in used:
            number += 1
            name = f"{outer[0]}#{number}"
        self._labels[outer] = name
        return name

    def counts(self) -> Mapping[int, Count]:
        """What was counted, by criteria id.

        Raises:
            PortError: The tap failed.
        """
        return {
            each.id: Count(each.packets, each.octets, each.last_match_ns) for each in self.stats().criteria
        }

    def stats(self) -> Stats:
        """The tap's account.

        Raises:
            PortError: The tap failed.
        """
        try:
            return self._tap.stats()
        except DataPlaneError as error:
            raise PortError(str(error)) from None


def _outers(intercept: Intercept) -> list[_Outer]:
    return list(zip(intercept.cdest_ids, intercept.deliveries, intercept.refuse_oversize, strict=True))


def _destination(outer: _Outer) -> ContentDestination:
    _, delivery, refuse_oversize = outer
    return ContentDestination(
        str(delivery.address),
        delivery.port,
        str(delivery.source_address),
        delivery.source_port,
        delivery.ttl,
        "refuse" if refuse_oversize else "fragment",
    )
