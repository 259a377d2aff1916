"""What the audit log says of an act."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowtap.control.audit import AuditRecord
from flowtap.control.authorize import FILTER_NAMES
from flowtap.dtcp.messages import AddRequest, DeleteRequest, ListRequest, NoopRequest, RefreshRequest

if TYPE_CHECKING:
    from datetime import datetime

    from flowtap.control.authorize import Refused
    from flowtap.control.events import Restarted
    from flowtap.control.model import Intercept, Now, Principal
    from flowtap.dtcp.messages import ErrorResult, Request

__all__ = [
    "METHODS",
    "about",
    "act_refused",
    "gap",
    "misread",
    "refusal",
    "reset",
    "restarted",
    "started",
    "stopped",
    "times",
    "tunnel",
]

METHODS: Final = {
    AddRequest: "ADD",
    DeleteRequest: "DELETE",
    RefreshRequest: "REFRESH",
    ListRequest: "LIST",
    NoopRequest: "NOOP",
}


def _asked(intercept: Intercept) -> tuple[tuple[str, str], ...]:
    """What was asked for."""
    filters = (
        (name, value)
        for field, name in FILTER_NAMES.items()
        if (value := getattr(intercept.filter, field)) is not None
    )
    excluded = (("excluded", each) for each in intercept.excluded)
    deliveries = (
        (
            "delivery",
            f"{name} {each.address} {each.port} from {each.source_address} {each.source_port}",
        )
        for name, each in zip(intercept.cdest_ids, intercept.deliveries, strict=True)
    )
    order = (("order", intercept.order),) if intercept.order else ()
    address = ("address", str(intercept.csource_address))
    return (
        *filters,
        *intercept.scope.parameters(),
        *excluded,
        *deliveries,
        *times(intercept),
        *order,
        address,
    )


def times(intercept: Intercept) -> tuple[tuple[str, str], ...]:
    """What ends it."""
    return tuple(
        (name, str(value))
        for name in ("idle_s", "total_s", "packets", "octets")
        if (value := getattr(intercept.timeouts, name)) is not None
    )


def started(intercept: Intercept, now: Now) -> AuditRecord:
    """It copies from now on, or waits for approval."""
    return AuditRecord(
        when=now.wall,
        event="start" if intercept.is_active else "accept",
        login=intercept.login,
        csource_id=intercept.csource_id,
        criteria_id=intercept.criteria_id,
        detail=_asked(intercept),
    )


def about(
    event: str, intercept: Intercept, login: str, when: datetime, *detail: tuple[str, str]
) -> AuditRecord:
    """Something that happens to an intercept that runs on."""
    return AuditRecord(when, event, login, intercept.csource_id, intercept.criteria_id, detail)


def stopped(csource_id: str, criteria_id: int, login: str, reason: str, when: datetime) -> AuditRecord:
    """It copies no more."""
    return AuditRecord(when, "stop", login, csource_id, criteria_id, (("reason", reason),))


def refusal(principal: Principal, request: Request, refused: Refused, now: Now) -> AuditRecord:
    """A request that was not served."""
    asked = (("request", METHODS[type(request)]),)
    return _refused(principal, request.csource_id, asked, refused.result(), now)


def misread(principal: Principal, csource_id: str, method: str, error: ErrorResult, now: Now) -> AuditRecord:
    """A request that was authentic and could not be read, or asked for what there is not."""
    return _refused(principal, csource_id, (("request", method),), error, now)


def act_refused(principal: Principal, act: str, about_what: str, refused: Refused, now: Now) -> AuditRecord:
    """Something that the operator's own people wanted to do and were not let."""
    return _refused(principal, "", (("act", act), ("about", about_what)), refused.result(), now)


def _refused(
    principal: Principal, csource_id: str, asked: tuple[tuple[str, str], ...], error: ErrorResult, now: Now
) -> AuditRecord:
    detail = (
        *asked,
        ("status", str(error.status.value)),
        ("reason", error.info or ""),
        ("address", str(principal.address)),
    )
    return AuditRecord(now.wall, "refuse", principal.login, csource_id, None, detail)


def reset(csource_id: str, login: str, when: datetime) -> AuditRecord:
    """The sequence numbers of a control source were forgotten."""
    return AuditRecord(when, "reset", login, csource_id, None)


def tunnel(name: str, act: str, login: str, when: datetime) -> AuditRecord:
    """A tunnel is taken down, brought up, or given new keys."""
    return AuditRecord(when, "tunnel", login, "", None, (("tunnel", name), ("act", act)))


def restarted(csource_id: str, when: datetime, *detail: tuple[str, str]) -> AuditRecord:
    """A restart of the tap, as far as one control source is concerned."""
    return AuditRecord(when, "restart", "", csource_id, None, detail)


def gap(restart: Restarted) -> AuditRecord:
    """From when to when nothing was copied for a control source, as soon as that is over."""
    silent = f"{restart.silent_from.isoformat()} to {restart.silent_to.isoformat()}"
    return restarted(restart.csource_id, restart.silent_to, ("not copying", silent))
