"""From an ADD to an intercept: destinations resolved, filter checked, lifetime within policy."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flowtap.control import authorize
from flowtap.control.authorize import Refused
from flowtap.control.model import NANOSECONDS, Intercept, State
from flowtap.dtcp.grammar import name_list_text
from flowtap.dtcp.messages import Parameter, Timeouts
from flowtap.dtcp.status import Status

if TYPE_CHECKING:
    from flowtap.control.model import ControlSource, Count, Now, Policy, Principal
    from flowtap.control.ports import Filters
    from flowtap.dtcp.messages import AddRequest, Delivery, RefreshRequest

__all__ = ["make_intercept", "refreshed"]


def make_intercept(
    request: AddRequest,
    principal: Principal,
    source: ControlSource,
    *,
    policy: Policy,
    filters: Filters,
    criteria_id: int,
    now: Now,
) -> Intercept:
    """Makes the intercept that an ADD asks for.

    Raises:
        Refused: It cannot be, or policy is against it.
    """
    authorize.destination_names(source, request.cdest_ids)
    resolved = [_destination(request, at, policy) for at in range(len(request.cdest_ids))]
    timeouts = authorize.lifetime(source, request)
    order, order_end_ns = authorize.order(source, request, now)
    authorize.filter_reach(source, request.filter, request.scope, filters)
    return Intercept(
        criteria_id=criteria_id,
        csource_id=source.id,
        csource_address=principal.address,
        login=principal.login,
        cdest_ids=request.cdest_ids,
        deliveries=tuple(delivery for delivery, _ in resolved),
        refuse_oversize=tuple(refuse for _, refuse in resolved),
        filter=request.filter,
        scope=request.scope,
        timeouts=timeouts,
        static=request.static,
        send_async=request.send_async,
        priority=request.priority,
        extensions=request.extensions,
        added=now.wall,
        total_since_ns=now.monotonic_ns,
        idle_since_ns=now.monotonic_ns,
        last_refresh=now.wall,
        excluded=source.excluded,
        order=order,
        order_end_ns=order_end_ns,
        added_ns=now.monotonic_ns,
        state=State.PENDING if source.needs_approval else State.ACTIVE,
    )


def refreshed(
    intercept: Intercept, request: RefreshRequest, source: ControlSource, count: Count, now: Now
) -> Intercept:
    """The intercept with the time-outs that a REFRESH names; the others run on [DTCP §5.8].

    A static intercept counts as refreshed and stays without time-outs: REFRESH can neither make nor
    unmake it. The end of an order is not touched, and a lifetime that policy bounds is so from the ADD on: a
    REFRESH that goes beyond it lasts until then.

    Raises:
        Refused: The lifetime asked for is longer than policy allows.
    """
    asked = request.timeouts
    authorize.refreshed_lifetime(source, asked)
    changed = replace(intercept, refreshes=intercept.refreshes + 1, last_refresh=now.wall)
    if intercept.static:
        return changed
    if asked.idle_s is not None:
        changed = replace(changed, idle_since_ns=now.monotonic_ns)
    if asked.total_s is not None:
        changed = replace(changed, total_since_ns=now.monotonic_ns)
    if asked.packets is not None:
        changed = replace(changed, packets_base=count.packets)
    if asked.octets is not None:
        changed = replace(changed, octets_base=count.octets)
    old = intercept.timeouts
    timeouts = Timeouts(
        idle_s=old.idle_s if asked.idle_s is None else asked.idle_s,
        total_s=old.total_s if asked.total_s is None else asked.total_s,
        packets=old.packets if asked.packets is None else asked.packets,
        octets=old.octets if asked.octets is None else asked.octets,
    )
    changed = replace(changed, timeouts=timeouts)
    if source.max_lifetime_s and asked.total_s is not None:
        return _within(changed, asked.total_s, source.max_lifetime_s)
    return changed


def _within(intercept: Intercept, total_s: int, longest_s: int) -> Intercept:
    """The intercept, which begins its lifetime anew, but lasts no longer than that from its ADD on.

    Raises:
        Refused: It has lasted as long by now, since policy is stricter than it was.
    """
    # Older journals do not say when the ADD was.
    added_ns = intercept.total_since_ns if intercept.added_ns is None else intercept.added_ns
    latest_ns = added_ns + longest_s * NANOSECONDS
    left_ns = latest_ns - intercept.total_since_ns
    if left_ns <= 0:
        info = f"criteria {intercept.criteria_id} have lasted as long as policy allows, {longest_s} seconds"
        raise Refused(Status.IMPROPER_TIMEOUT, info, Parameter("Timeout-Total", str(total_s)))
    if total_s * NANOSECONDS <= left_ns:
        return intercept
    total_s = -(-left_ns // NANOSECONDS)
    return replace(
        intercept,
        # A second that has begun counts as a whole one; the end is exact.
        total_since_ns=latest_ns - total_s * NANOSECONDS,
        timeouts=replace(intercept.timeouts, total_s=total_s),
    )


def _destination(request: AddRequest, at: int, policy: Policy) -> tuple[Delivery, bool]:
    """The outer header for one content destination, and what happens to copies that are too long.

    A configured destination cannot be moved by tasking: other delivery parameters are an error.
    """
    name = request.cdest_ids[at]
    configured = policy.content_destinations.get(name)
    tasked = request.deliveries[at] if request.deliveries else None
    if configured is None:
        if tasked is None:
            raise authorize.unknown_destination(name)
        authorize.outer_source(policy, tasked)
        return tasked, False
    if tasked is not None and tasked != configured.delivery:
        raise Refused(
            Status.JTAP_FAILURE,
            "this content destination is configured with other delivery parameters; leave out X-JTap-Cdest",
            Parameter("Cdest-ID", name_list_text([name])),
        )
    return configured.delivery, configured.refuse_oversize
