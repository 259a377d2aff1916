"""Who may ask for what; a refusal raises."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from flowtap.control.model import NANOSECONDS, PERMISSION_CHANGE, PERMISSION_TASK
from flowtap.control.ports import FilterFault, ScopeFault
from flowtap.dtcp.grammar import name_list_text
from flowtap.dtcp.messages import ErrorResult, Parameter, Timeouts
from flowtap.dtcp.status import Status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    from flowtap.control.model import ControlSource, Intercept, Now, Policy, Principal
    from flowtap.control.ports import Filters
    from flowtap.dtcp.messages import AddRequest, Delivery, FilterText, Request, Scope

__all__ = [
    "FILTER_NAMES",
    "ORDER",
    "ORDER_END",
    "Refused",
    "control_source",
    "destination_names",
    "filter_reach",
    "lifetime",
    "may_change",
    "minimised",
    "order",
    "outer_source",
    "quota",
    "refreshed_lifetime",
    "standing",
    "unknown_destination",
]

FILTER_NAMES: Final = {
    "source": "Source-Address",
    "destination": "Dest-Address",
    "protocol": "Protocol",
    "source_port": "Source-Port",
    "destination_port": "Dest-Port",
    "icmp_type": "ICMP-Type",
    "icmp_code": "ICMP-Code",
}

_NO_END: Final = Timeouts()
"""Shared by all intercepts that nothing but a DELETE ends."""
ORDER: Final = "X-FlowTap-Order"
"""Parameter of an ADD: the reference of the order that is carried out."""
ORDER_END: Final = "X-FlowTap-Order-End"
"""Parameter of an ADD: when that order ends, in ISO 8601 with a zone."""
ORDER_CHARACTERS: Final = 128
EXCLUDED_MAX: Final = 1_024
"""Most exclusions of one control source."""
LATEST_NS: Final = 9 * 10**18
"""The latest moment on the monotonic clock, 285 years after its beginning: below 2^63 also when a restart has
moved it."""


class Refused(Exception):  # noqa: N818 - a decision, not a failure
    """A request that is not served.

    Attributes:
        status: The code of the answer.
        info: Why, for the one who asked.
        parameters: What it concerns.
    """

    def __init__(self, status: Status, info: str, *parameters: Parameter) -> None:
        super().__init__(info)
        self.status = status
        self.info = info
        self.parameters = parameters

    def result(self) -> ErrorResult:
        """The answer."""
        return ErrorResult(self.status, self.parameters, self.info)


def control_source(
    principal: Principal, request: Request, sources: Mapping[str, ControlSource]
) -> ControlSource:
    """The control source that the request acts for.

    Raises:
        Refused: The login may not task, or not for this control source.
    """
    if PERMISSION_TASK not in principal.permissions:
        raise Refused(Status.BAD_REQUEST, "the login's class has no permission to task")
    source = sources.get(request.csource_id)
    if source is None or principal.login != source.id:
        # The same words for both: whether another control source exists is nobody's business.
        raise Refused(Status.BAD_REQUEST, "the login may not act for this control source")
    return source


def may_change(principal: Principal) -> None:
    """Checks that the login may change the tap for the operator.

    Raises:
        Refused: It may not.
    """
    if PERMISSION_CHANGE not in principal.permissions:
        raise Refused(Status.BAD_REQUEST, "the login's class has no permission to change the tap")


def destination_names(source: ControlSource, names: Sequence[str]) -> None:
    """Checks that the control source may use the content destinations.

    Raises:
        Refused: As if the destination did not exist [DTCP §4.1].
    """
    for name in names:
        if source.allowed_destinations and name not in source.allowed_destinations:
            raise unknown_destination(name)


def unknown_destination(name: str) -> Refused:
    """The refusal of a content destination that does not exist, or must seem not to."""
    return Refused(
        Status.UNKNOWN_CONTENT_DESTINATION,
        "no such content destination; name a configured one or give the X-JTap-Cdest parameters",
        Parameter("Cdest-ID", name_list_text([name])),
    )


def outer_source(policy: Policy, delivery: Delivery) -> None:
    """Checks that outer headers may have the addresses that tasking gives them.

    Raises:
        Refused: The element does not send from there, or the way to there is not protected as policy demands.
    """
    if policy.outer_sources and not any(delivery.source_address in each for each in policy.outer_sources):
        raise Refused(
            Status.JTAP_FAILURE,
            "this tap does not send from that source address",
            Parameter("X-JTap-Cdest-Source-Address", str(delivery.source_address)),
        )
    path = next((each for each in policy.protected if _lies_in(delivery.address, each.remote)), None)
    if path is None and policy.needs_tunnel:
        raise Refused(
            Status.JTAP_FAILURE,
            "this tap delivers through its tunnels only, and none leads to that address",
            Parameter("X-JTap-Cdest-Dest-Address", str(delivery.address)),
        )
    if path is not None and not _lies_in(delivery.source_address, path.local):
        raise Refused(
            Status.JTAP_FAILURE,
            "the tunnel to that content destination carries nothing from that source address",
            Parameter("X-JTap-Cdest-Source-Address", str(delivery.source_address)),
        )


def _lies_in(address: IPv4Address | IPv6Address, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    return any(address in each for each in networks)


def quota(policy: Policy, source: ControlSource, *, own: int, all_sources: int) -> None:
    """Checks the number of criteria.

    Raises:
        Refused: One more would be too many.
    """
    if own >= source.max_criteria:
        info = f"{source.max_criteria} criteria are the limit of this control source"
        raise Refused(Status.MAX_CRITERIA_EXCEEDED, info)
    if all_sources >= policy.max_criteria:
        # How many others have is nobody's business.
        raise Refused(Status.MAX_CRITERIA_EXCEEDED, "the tap takes no more criteria")


def minimised(text: FilterText, excluded: Sequence[str]) -> FilterText:
    """The filter without the packets of excluded addresses, whichever way they go."""
    if not excluded:
        return text
    negated = ",".join(f"!{each}" for each in excluded)

    def without(given: str | None) -> str:
        return negated if given is None else f"{given},{negated}"

    return replace(text, source=without(text.source), destination=without(text.destination))


def filter_reach(source: ControlSource, text: FilterText, scope: Scope, filters: Filters) -> None:
    """Checks that the filter can be, and that it does not reach too far.

    Raises:
        Refused: It cannot be compiled, is too broad, or leaves the address space of the control source.
    """
    try:
        reach = filters(text, scope)
    except ScopeFault as fault:
        given = Parameter(fault.name, fault.value)
        raise Refused(Status.JTAP_FAILURE, fault.info, given) from None
    except FilterFault as fault:
        status = Status.BAD_REQUEST if fault.is_syntax else Status.IMPROPER_FILTER
        raise Refused(status, fault.info, *_known(text, fault.field)) from None
    if source.excluded:
        if scope.is_circuit:
            info = "layer-2 frames may not be copied: addresses are excluded for this control source"
            raise Refused(Status.IMPROPER_FILTER, info, Parameter("X-JTap-Filter-Family", "ccc"))
        try:
            filters(minimised(text, source.excluded), scope)
        except FilterFault as fault:
            # Its words would show the operator's list of exclusions.
            info = "nothing is left that may be copied for this control source"
            raise Refused(Status.IMPROPER_FILTER, info, *_known(text, fault.field)) from None
    if source.allowed_space is not None and not source.allowed_space.covers(reach):
        raise Refused(
            Status.IMPROPER_FILTER,
            "source or destination must lie within the addresses that this control source may tap",
            *_known(text, "source", "destination"),
        )
    for narrowness, bound in (
        (reach.narrowness(4), source.narrowest_v4),
        (reach.narrowness(6), source.narrowest_v6),
    ):
        if narrowness is not None and narrowness < bound:
            raise Refused(
                Status.IMPROPER_FILTER,
                "source or destination must be as narrow as a prefix of length"
                f" {source.narrowest_v4} (IPv4), {source.narrowest_v6} (IPv6)",
                *_known(text, "source", "destination"),
            )


def _known(text: FilterText, *fields: str) -> tuple[Parameter, ...]:
    return tuple(
        Parameter(FILTER_NAMES[field], value)
        for field in fields
        if (value := getattr(text, field)) is not None
    )


def order(source: ControlSource, request: AddRequest, now: Now) -> tuple[str, int | None]:
    """The order that an ADD carries out and when it ends, on the monotonic clock.

    Raises:
        Refused: One is demanded and missing, cannot be read, or has ended.
    """
    given = {each.name.lower(): each for each in reversed(request.extensions)}
    reference, end = given.get(ORDER.lower()), given.get(ORDER_END.lower())
    if source.needs_order and (reference is None or end is None):
        raise Refused(Status.BAD_REQUEST, f"{ORDER} and {ORDER_END} are needed")
    if reference is not None and not 0 < len(reference.value) <= ORDER_CHARACTERS:
        raise Refused(Status.BAD_REQUEST, f"{ORDER}: 1 to {ORDER_CHARACTERS} characters are right", reference)
    if end is None:
        return "" if reference is None else reference.value, None
    try:
        ends = datetime.fromisoformat(end.value)
    except ValueError:
        ends = datetime.min  # noqa: DTZ901 - without a zone, as what is refused below
    if ends.tzinfo is None:
        info = f"{ORDER_END}: a time with a zone is right, such as 2030-01-31T12:00:00Z"
        raise Refused(Status.BAD_REQUEST, info, end)
    left = ends - (now.wall if now.wall.tzinfo is not None else now.wall.replace(tzinfo=UTC))
    left_ns = (left.days * 86_400 + left.seconds) * NANOSECONDS + left.microseconds * 1_000
    if left_ns <= 0:
        raise Refused(Status.IMPROPER_TIMEOUT, f"{ORDER_END}: the order has ended", end)
    # So far away that no other end of it can be told from none, and no further than the data plane's numbers.
    return "" if reference is None else reference.value, min(now.monotonic_ns + left_ns, LATEST_NS)


def lifetime(source: ControlSource, request: AddRequest) -> Timeouts:
    """The time-outs that rule the intercept: as asked, within policy; static ones end by policy alone.

    Raises:
        Refused: Nothing would end it [DTCP §5.4.1], or the lifetime asked for is longer than policy allows.
    """
    longest_s = source.max_lifetime_s
    if request.static:
        return Timeouts(total_s=longest_s) if longest_s else _NO_END
    given_times = request.timeouts
    if not any((given_times.idle_s, given_times.total_s, given_times.packets, given_times.octets)):
        raise Refused(Status.IMPROPER_TIMEOUT, "a time-out above 0 or the flag Static is needed")
    total_s = given_times.total_s
    if longest_s and not (total_s and total_s <= longest_s):
        given = () if total_s is None else (Parameter("Timeout-Total", str(total_s)),)
        info = f"Timeout-Total of 1 to {longest_s} seconds is needed"
        raise Refused(Status.IMPROPER_TIMEOUT, info, *given)
    return given_times


def refreshed_lifetime(source: ControlSource, timeouts: Timeouts) -> None:
    """Checks the lifetime that a REFRESH asks for.

    Raises:
        Refused: It is longer than policy allows, or would have no end.
    """
    longest_s, total_s = source.max_lifetime_s, timeouts.total_s
    if longest_s and total_s is not None and not 0 < total_s <= longest_s:
        raise Refused(
            Status.IMPROPER_TIMEOUT,
            f"Timeout-Total of 1 to {longest_s} seconds is right",
            Parameter("Timeout-Total", str(total_s)),
        )


def standing(intercept: Intercept, policy: Policy, filters: Filters) -> ControlSource:
    """The control source of an intercept that policy still allows, as it was authorised.

    Numbers, lifetimes and approval were settled when it was added; who may tap what, and where copies may go,
    is asked again whenever the configuration may have changed.

    Raises:
        Refused: It would be refused today.
    """
    source = policy.control_sources.get(intercept.csource_id)
    if source is None:
        raise Refused(Status.BAD_REQUEST, "there is no such control source any more")
    destination_names(source, intercept.cdest_ids)
    for name, delivery in zip(intercept.cdest_ids, intercept.deliveries, strict=True):
        configured = policy.content_destinations.get(name)
        if configured is None:
            outer_source(policy, delivery)
        elif configured.delivery != delivery:
            raise Refused(Status.JTAP_FAILURE, "the content destination has moved")
    filter_reach(source, intercept.filter, intercept.scope, filters)
    return source
