"""What a request selects, and what a LIST shows of it [DTCP §5.7, §5.11]."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from flowtap.control import authorize, lifetime
from flowtap.control.authorize import Refused
from flowtap.dtcp.messages import ListEntry, Parameter
from flowtap.dtcp.status import Status

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from flowtap.control.model import ControlSource, Count, Intercept, Now, Policy
    from flowtap.dtcp.messages import DeleteRequest, IdRange, ListRequest, RefreshRequest

__all__ = ["PRIORITY", "STATE", "entry", "select"]

STATE: Final = "X-FlowTap-State"
"""Parameter of LIST entries where criteria have to be approved: ``pending`` or ``active``."""
PRIORITY: Final = "X-FlowTap-Priority"
"""Parameter of LIST entries whose priority is not the default one."""
DEFAULT_PRIORITY: Final = 1


def select(
    own: Mapping[int, Intercept],
    request: DeleteRequest | RefreshRequest | ListRequest,
    source: ControlSource,
    policy: Policy,
) -> list[Intercept]:
    """The control source's own criteria that a request names.

    Raises:
        Refused: A single id, or a content destination, is not known to this control source.
    """
    if request.criteria_ids is not None:
        return _by_ids(own, request.criteria_ids)
    if request.cdest_id is None:
        return list(own.values())
    name = request.cdest_id
    selected = [each for each in own.values() if name in each.cdest_ids]
    is_configured = name in policy.content_destinations
    is_allowed = not source.allowed_destinations or name in source.allowed_destinations
    if not selected and not (is_configured and is_allowed):
        raise authorize.unknown_destination(name)
    return selected


def _by_ids(own: Mapping[int, Intercept], ids: Collection[IdRange]) -> list[Intercept]:
    singles = [element.first for element in ids if element.single]
    unknown = [number for number in singles if number not in own]
    if unknown:
        raise Refused(
            Status.UNKNOWN_CRITERIA_ID,
            "no such criteria; nothing was done",
            Parameter("Criteria-ID", ",".join(map(str, unknown))),
        )
    found = {*singles, *_within(own, ids)}
    return [own[number] for number in sorted(found)]


def _within(own: Iterable[int], ids: Iterable[IdRange]) -> Iterator[int]:
    """Those numbers that some range holds, however many ranges there are and however they overlap."""
    ranges = sorted((element.first, element.last) for element in ids if not element.single)
    if not ranges:
        return
    merged = [ranges[0]]
    for first, last in ranges[1:]:
        if first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    firsts = [first for first, _ in merged]
    for number in own:
        at = bisect_right(firsts, number)
        if at and number <= merged[at - 1][1]:
            yield number


def entry(
    intercept: Intercept,
    request: ListRequest,
    source: ControlSource,
    *,
    count: Count,
    bandwidth_bps: int,
    now: Now,
) -> ListEntry:
    """One criterion as the request wants to see it."""
    extensions = []
    if source.needs_approval:
        extensions.append(Parameter(STATE, intercept.state.value))
    if request.criteria:
        extensions += intercept.extensions
        if intercept.priority != DEFAULT_PRIORITY:
            extensions.append(Parameter(PRIORITY, str(intercept.priority)))
    stats = request.stats
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
        extensions=tuple(extensions),
        remaining=lifetime.remaining(intercept, count, now.monotonic_ns) if stats else None,
        average_bandwidth_bps=bandwidth_bps if stats else None,
        matching_packets=count.packets if stats else None,
        matching_octets=count.octets if stats else None,
        refreshes=intercept.refreshes if stats else None,
        last_refresh=intercept.last_refresh if stats else None,
    )
