"""The tasking protocol, DTCP, without I/O and without a clock.

`ServerConnection` and `ClientConnection` turn octets into requests and replies; put them into whatever
event loop you have. `Client` is a whole client for asyncio; it lives in `flowtap.mediation` and is only
imported when it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flowtap.dtcp.authentication import Key
from flowtap.dtcp.criteria_file import CriteriaFileEntry, CriteriaFileError, parse_criteria_file
from flowtap.dtcp.limits import Limits
from flowtap.dtcp.messages import (
    AddRequest,
    AddResult,
    DeleteRequest,
    DeleteResult,
    Delivery,
    ErrorResult,
    FilterText,
    IdRange,
    ListEntry,
    ListRequest,
    ListResult,
    NoopRequest,
    NoopResult,
    Notification,
    Parameter,
    RefreshRequest,
    RefreshResult,
    Request,
    Response,
    Result,
    Scope,
    Timeouts,
    Version,
)
from flowtap.dtcp.render import Dialect
from flowtap.dtcp.reply import Reply, ReplyError
from flowtap.dtcp.sequence import SequenceStep, SequenceWindow
from flowtap.dtcp.session import (
    ClientConnection,
    Event,
    Keys,
    Rejected,
    RequestReceived,
    RequestRefused,
    Sequences,
    ServerConnection,
    read_request,
)
from flowtap.dtcp.status import Status

if TYPE_CHECKING:
    from flowtap.mediation import Client

__all__ = [
    "AddRequest",
    "AddResult",
    "Client",
    "ClientConnection",
    "CriteriaFileEntry",
    "CriteriaFileError",
    "DeleteRequest",
    "DeleteResult",
    "Delivery",
    "Dialect",
    "ErrorResult",
    "Event",
    "FilterText",
    "IdRange",
    "Key",
    "Keys",
    "Limits",
    "ListEntry",
    "ListRequest",
    "ListResult",
    "NoopRequest",
    "NoopResult",
    "Notification",
    "Parameter",
    "RefreshRequest",
    "RefreshResult",
    "Rejected",
    "Reply",
    "ReplyError",
    "Request",
    "RequestReceived",
    "RequestRefused",
    "Response",
    "Result",
    "Scope",
    "SequenceStep",
    "SequenceWindow",
    "Sequences",
    "ServerConnection",
    "Status",
    "Timeouts",
    "Version",
    "parse_criteria_file",
    "read_request",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the class, when somebody wants it
    if name == "Client":
        return import_module("flowtap.mediation").Client
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
