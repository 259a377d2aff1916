"""From an ADD to an intercept: destinations resolved, filter checked, lifetime within policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowtap.control import authorize
from flowtap.control.authorize import Refused
from flowtap.control.model import Intercept
from flowtap.control.ports import FilterFault
from flowtap.dtcp.messages import Parameter
from flowtap.dtcp.status import Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowtap.control.model import ContentDestination, ControlSource, Now, Principal
    from flowtap.control.ports import FilterCheck
    from flowtap.dtcp.messages import AddRequest, Delivery

__all__ = ["FILTER_NAMES", "make_intercept"]

FILTER_NAMES: Final = {
    "source": "Source-Address",
    "destination": "Dest-Address",
    "protocol": "Protocol",
    "source_port": "Source-Port",
    "destination_port": "Dest-Port",
    "icmp_type": "ICMP-Type",
    "icmp_code": "ICMP-Code",
}


def make_intercept(
    request: AddRequest,
    principal: Principal,
    source: ControlSource,
    *,
    destinations: Mapping[str, ContentDestination],
    check: FilterCheck,
    criteria_id: int,
    now: Now,
) -> Intercept:
    """Makes the intercept that an ADD asks for.

    Raises:
        Refused: It cannot be, or policy is against it.
    """
    authorize.destination_names(source, request)
    resolved = [_destination(request, at, destinations) for at in range(len(request.cdest_ids))]
    timeouts = authorize.lifetime(source, request)
    try:
        check(request.filter)
    except FilterFault as fault:
        status = Status.BAD_REQUEST if fault.is_syntax else Status.IMPROPER_FILTER
        parameter = Parameter(FILTER_NAMES[fault.field], fault.value)
        raise Refused(status, fault.info, parameter) from None
    return Intercept(
        criteria_id=criteria_id,
        csource_id=source.id,
        csource_address=principal.address,
        login=principal.login,
        cdest_ids=request.cdest_ids,
        deliveries=tuple(delivery for delivery, _ in resolved),
        refuse_oversize=tuple(refuse for _, refuse in resolved),
        filter=request.filter,
        timeouts=timeouts,
        static=request.static,
        send_async=request.send_async,
        priority=request.priority,
        extensions=request.extensions,
        added=now.wall,
        added_ns=now.monotonic_ns,
    )


def _destination(
    request: AddRequest, at: int, destinations: Mapping[str, ContentDestination]
) -> tuple[Delivery, bool]:
    """The outer header for one content destination, and what happens to copies that are too long.

    A configured destination cannot be moved by tasking: other delivery parameters are an error.
    """
    name = request.cdest_ids[at]
    configured = destinations.get(name)
    tasked = request.deliveries[at] if request.deliveries else None
    if configured is None:
        if tasked is None:
            raise authorize.unknown_destination(name)
        return tasked, False
    if tasked is not None and tasked != configured.delivery:
        raise Refused(
            Status.JTAP_FAILURE,
            "this content destination is configured with other delivery parameters; leave out X-JTap-Cdest",
            Parameter("Cdest-ID", name),
        )
    return configured.delivery, configured.refuse_oversize
