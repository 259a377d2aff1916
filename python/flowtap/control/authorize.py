"""Who may ask for what; a refusal raises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowtap.control.model import PERMISSION_TASK
from flowtap.dtcp.messages import ErrorResult, Parameter, Timeouts
from flowtap.dtcp.status import Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowtap.control.model import ControlSource, Principal
    from flowtap.dtcp.messages import AddRequest, Request

__all__ = [
    "Refused",
    "control_source",
    "destination_names",
    "lifetime",
    "quota",
    "refreshed_lifetime",
    "unknown_destination",
]


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


def destination_names(source: ControlSource, request: AddRequest) -> None:
    """Checks that the control source may use the content destinations.

    Raises:
        Refused: As if the destination did not exist [DTCP §4.1].
    """
    for name in request.cdest_ids:
        if source.allowed_destinations and name not in source.allowed_destinations:
            raise unknown_destination(name)


def unknown_destination(name: str) -> Refused:
    """The refusal of a content destination that does not exist, or must seem not to."""
    return Refused(
        Status.UNKNOWN_CONTENT_DESTINATION,
        "no such content destination; name a configured one or give the X-JTap-Cdest parameters",
        Parameter("Cdest-ID", name),
    )


def quota(source: ControlSource, running: int) -> None:
    """Checks the number of criteria.

    Raises:
        Refused: One more would be too many.
    """
    if running >= source.max_criteria:
        info = f"{source.max_criteria} criteria are the limit of this control source"
        raise Refused(Status.MAX_CRITERIA_EXCEEDED, info)


def lifetime(source: ControlSource, request: AddRequest) -> Timeouts:
    """The time-outs that rule the intercept: as asked, within policy; static ones end by policy alone.

    Raises:
        Refused: Nothing would end it [DTCP §5.4.1], or the lifetime asked for is longer than policy allows.
    """
    longest_s = source.max_lifetime_s
    if request.static:
        return Timeouts(total_s=longest_s) if longest_s else Timeouts()
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
