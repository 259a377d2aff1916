"""Status codes of responses, notifications and of what is only logged [DTCP §8, App. A.3, App. B]."""

from __future__ import annotations

from enum import IntEnum

from flowtap.dtcp.messages import Version

__all__ = ["Status"]


class Status(IntEnum):
    """A three-digit code with its reason phrase. Only the phrase ``OK`` is fixed [DTCP §5.2]."""

    SEQUENCE_ROLLOVER = 130
    NOOP_NOTIFICATION = 131
    OK = 200
    CRITERION_TIMEOUT_DELETE = 390
    BAD_REQUEST = 400
    UNKNOWN_CONTENT_DESTINATION = 430
    UNKNOWN_CRITERIA_ID = 431
    IMPROPER_FILTER = 432
    IMPROPER_TIMEOUT = 433
    INVALID_AUTHENTICATION = 497
    INVALID_SEQUENCE_NUMBER = 498
    UNKNOWN_CONTROL_SOURCE = 499
    SERVER_INTERNAL_ERROR = 500
    NOT_IMPLEMENTED = 501
    VERSION_NOT_SUPPORTED = 505
    MAX_CRITERIA_EXCEEDED = 550
    MAX_CONTENT_DESTINATIONS_EXCEEDED = 551
    CONGESTION = 580
    DUPLICATES_DROPPED = 598
    SERVER_RESTART = 599
    CONGESTION_DELETE = 680
    JTAP_FAILURE = 901

    @property
    def reason(self) -> str:
        """The reason phrase."""
        return _REASONS[self]

    def as_of(self, version: Version) -> Status:
        """The code that a version has for it: before 0.7 a limit was an internal error [DTCP App. A]."""
        return Status.SERVER_INTERNAL_ERROR if version < _LIMITS_SINCE and self in _LIMITS else self

    @property
    def is_silent(self) -> bool:
        """Whether the code is only logged: such a message gets no answer at all [DTCP §4.4]."""
        return self in _SILENT


_LIMITS_SINCE = Version(0, 7)
_LIMITS = frozenset({Status.MAX_CRITERIA_EXCEEDED, Status.MAX_CONTENT_DESTINATIONS_EXCEEDED})

_SILENT = frozenset(
    {
        Status.INVALID_AUTHENTICATION,
        Status.INVALID_SEQUENCE_NUMBER,
        Status.UNKNOWN_CONTROL_SOURCE,
    }
)

_REASONS = {
    Status.SEQUENCE_ROLLOVER: "Sequence Number Rollover",
    Status.NOOP_NOTIFICATION: "NoOp Notification",
    Status.OK: "OK",
    Status.CRITERION_TIMEOUT_DELETE: "Criterion Timeout Delete",
    Status.BAD_REQUEST: "Bad Request",
    Status.UNKNOWN_CONTENT_DESTINATION: "Unknown Content Destination",
    Status.UNKNOWN_CRITERIA_ID: "Unknown Criteria ID",
    Status.IMPROPER_FILTER: "Improper Filter Specification",
    Status.IMPROPER_TIMEOUT: "Improper Timeout Specification",
    Status.INVALID_AUTHENTICATION: "Invalid Authentication",
    Status.INVALID_SEQUENCE_NUMBER: "Invalid Sequence Number",
    Status.UNKNOWN_CONTROL_SOURCE: "Unknown Control Source Identifier",
    Status.SERVER_INTERNAL_ERROR: "Server Internal Error",
    Status.NOT_IMPLEMENTED: "Not Implemented",
    Status.VERSION_NOT_SUPPORTED: "DTCP Version not supported",
    Status.MAX_CRITERIA_EXCEEDED: "Max Criteria Limit Exceeded",
    Status.MAX_CONTENT_DESTINATIONS_EXCEEDED: "Max Content Destination Exceeded",
    Status.CONGESTION: "Congestion",
    Status.DUPLICATES_DROPPED: "Duplicate Packets Dropped",
    Status.SERVER_RESTART: "Server Restart",
    Status.CONGESTION_DELETE: "Criterion Congestion Delete",
    Status.JTAP_FAILURE: "JTap-Failure",
}
