"""What control sources have asked for and were told, with the columns of the vendor's MIB (jnxDfcCSTable)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from flowtap.control.model import NANOSECONDS
from flowtap.dtcp.messages import (
    AddRequest,
    DeleteRequest,
    DeleteResult,
    ErrorResult,
    ListRequest,
    NoopRequest,
    RefreshRequest,
    RefreshResult,
)
from flowtap.dtcp.status import Status

if TYPE_CHECKING:
    from collections.abc import Collection

    from flowtap.control.model import Intercept
    from flowtap.dtcp.messages import Request, Result

__all__ = ["SourceAccount"]

_RESPONSES: Final = {
    Status.BAD_REQUEST: "bad_request",
    Status.IMPROPER_FILTER: "response_improper_criteria",
    Status.UNKNOWN_CONTENT_DESTINATION: "response_unknown_content_dest",
    Status.UNKNOWN_CRITERIA_ID: "response_unknown_criteria_id",
    Status.IMPROPER_TIMEOUT: "response_improper_timeout",
    Status.INVALID_AUTHENTICATION: "response_invalid_authentication",
    Status.INVALID_SEQUENCE_NUMBER: "response_invalid_sequence_number",
    Status.SERVER_INTERNAL_ERROR: "response_internal_error",
}
_NOTIFICATIONS: Final = {
    Status.SERVER_RESTART: "notification_restart",
    Status.SEQUENCE_ROLLOVER: "notification_rollover",
    Status.NOOP_NOTIFICATION: "notification_noop",
    Status.CRITERION_TIMEOUT_DELETE: "notification_timeout",
    Status.CONGESTION: "notification_congestion",
    Status.CONGESTION_DELETE: "notification_congestion_delete",
    Status.DUPLICATES_DROPPED: "notification_duplicates_dropped",
}
_ENDED: Final = {
    "idle": "criteria_deleted_timeout_idle",
    "total": "criteria_deleted_timeout_total",
    "packets": "criteria_deleted_packets",
    "bytes": "criteria_deleted_bytes",
    "order": "criteria_deleted_order",
}
_SERVED: Final = {
    AddRequest: ("control_protocol_add_requests", "criteria_added", "criteria_addition_failed"),
    DeleteRequest: ("control_protocol_delete_requests", "criteria_deleted", "criteria_deletion_failed"),
    RefreshRequest: ("control_protocol_refresh_requests", "criteria_refreshed", "criteria_refresh_failed"),
    ListRequest: ("control_protocol_list_requests", "list_success", "list_failed"),
    NoopRequest: ("control_protocol_noop_requests", "noop_success", "noop_failed"),
}
_COLUMNS: Final = (
    *(column for columns in _SERVED.values() for column in columns),
    *_ENDED.values(),
    "response_successful",
    *_RESPONSES.values(),
    "response_other",
    *_NOTIFICATIONS.values(),
)


class SourceAccount:
    """The account of one control source since the tap began to run."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._second = 0
        self._adds = 0
        self._rate = 0
        self._peak = 0

    def served(self, request: Request, result: Result, now_ns: int) -> None:
        """Counts a request that could be read, and its answer."""
        requests, done, failed = _SERVED[type(request)]
        self._counts[requests] += 1
        if isinstance(request, AddRequest):
            self._tick(now_ns)
            self._adds += 1
            self._peak = max(self._peak, self._adds)
        if isinstance(result, ErrorResult):
            self._counts[failed] += 1
            self.answered(result.status)
            return
        count = result.criteria_count if isinstance(result, DeleteResult | RefreshResult) else 1
        self._counts[done] += count
        self.answered(Status.OK)

    def answered(self, status: Status) -> None:
        """Counts an answer, or a message that deserved none."""
        column = "response_successful" if status is Status.OK else _RESPONSES.get(status, "response_other")
        self._counts[column] += 1

    def notified(self, status: Status) -> None:
        """Counts a notification."""
        self._counts[_NOTIFICATIONS[status]] += 1

    def ended(self, reason: str) -> None:
        """Counts an intercept that a time-out has ended."""
        self._counts[_ENDED[reason]] += 1

    def _tick(self, now_ns: int) -> None:
        second = now_ns // NANOSECONDS
        if second != self._second:
            # Adds of the second before this one; of none where that was silent.
            self._rate = self._adds if second == self._second + 1 else 0
            self._second, self._adds = second, 0

    def columns(self, running: Collection[Intercept], bandwidth_bps: int, now_ns: int) -> dict[str, int]:
        """The account of this moment, every column of it."""
        self._tick(now_ns)
        static = sum(each.static for each in running)
        return {
            **{column: self._counts[column] for column in _COLUMNS},
            "dynamic_criteria_active": len(running) - static,
            "static_criteria_active": static,
            "add_request_rate": self._rate,
            "add_request_peak_rate": self._peak,
            "aggr_criteria_bandwidth_bps": bandwidth_bps,
        }
