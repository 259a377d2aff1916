from __future__ import annotations

from scene import Scene, add_request, now

from flowtap.control.accounts import SourceAccount
from flowtap.dtcp import (
    AddResult,
    DeleteRequest,
    DeleteResult,
    ErrorResult,
    ListRequest,
    ListResult,
    NoopRequest,
    NoopResult,
    RefreshRequest,
    RefreshResult,
    Status,
    Timeouts,
    Version,
)

V7 = Version(0, 7)


def test_columns_of_the_vendor_s_mib(scene: Scene) -> None:
    account = SourceAccount()
    at = now().monotonic_ns
    delete = DeleteRequest(V7, "md", "1", cdest_id="cd1")
    refresh = RefreshRequest(V7, "md", "1", Timeouts(idle_s=5), cdest_id="cd1")
    account.served(add_request(), AddResult(1), at)
    account.served(add_request(), ErrorResult(Status.IMPROPER_FILTER), at)
    account.served(add_request(), ErrorResult(Status.MAX_CRITERIA_EXCEEDED), at)
    account.served(delete, DeleteResult(7), at)
    account.served(delete, ErrorResult(Status.UNKNOWN_CRITERIA_ID), at)
    account.served(refresh, RefreshResult(3), at)
    account.served(ListRequest(V7, "md", "1"), ListResult(), at)
    account.served(NoopRequest(V7, "md", "1"), NoopResult(), at)
    account.answered(Status.BAD_REQUEST)
    account.answered(Status.INVALID_AUTHENTICATION)
    account.notified(Status.NOOP_NOTIFICATION)
    account.notified(Status.DUPLICATES_DROPPED)
    account.ended("idle")
    account.ended("order")
    scene.added()
    scene.added(static=False, timeouts=Timeouts(total_s=5))
    columns = account.columns(scene.control.intercepts, 800, at)
    assert {name: value for name, value in columns.items() if value} == {
        "control_protocol_add_requests": 3,
        "criteria_added": 1,
        "criteria_addition_failed": 2,
        "control_protocol_delete_requests": 2,
        "criteria_deleted": 7,
        "criteria_deletion_failed": 1,
        "control_protocol_refresh_requests": 1,
        "criteria_refreshed": 3,
        "control_protocol_list_requests": 1,
        "list_success": 1,
        "control_protocol_noop_requests": 1,
        "noop_success": 1,
        "criteria_deleted_timeout_idle": 1,
        "criteria_deleted_order": 1,
        "response_successful": 5,
        "bad_request": 1,
        "response_improper_criteria": 1,
        "response_unknown_criteria_id": 1,
        "response_invalid_authentication": 1,
        "response_other": 1,
        "notification_noop": 1,
        "notification_duplicates_dropped": 1,
        "dynamic_criteria_active": 1,
        "static_criteria_active": 1,
        "add_request_peak_rate": 3,
        "aggr_criteria_bandwidth_bps": 800,
    }


def test_the_rate_of_adds_is_that_of_the_last_whole_second() -> None:
    account = SourceAccount()
    for second, count in ((0, 3), (1, 5), (2, 1)):
        for _ in range(count):
            account.served(add_request(), AddResult(1), second * 10**9)
    columns = account.columns([], 0, 2 * 10**9 + 5)
    assert (columns["add_request_rate"], columns["add_request_peak_rate"]) == (5, 5)
    assert account.columns([], 0, 3 * 10**9)["add_request_rate"] == 1
    assert account.columns([], 0, 9 * 10**9)["add_request_rate"] == 0
