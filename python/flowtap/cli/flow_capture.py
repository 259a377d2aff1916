"""The accounts as text, with the fields that a router shows for its own flow capture.

What the router counts and we do not is left out. A capture group is the network element.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from flowtap.cli.console import Table, table_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["control_source_lines", "destination_lines", "flow_tap_lines", "statistics_lines"]

_KINDS: Final = (
    ("Add", "add", "criteria_addition_failed"),
    ("Delete", "delete", "criteria_deletion_failed"),
    ("List", "list", "list_failed"),
    ("Refresh", "refresh", "criteria_refresh_failed"),
    ("No-op", "noop", "noop_failed"),
)
_NOTIFICATIONS: Final = (
    ("Restart", "notification_restart"),
    ("Rollover", "notification_rollover"),
    ("No-op", "notification_noop"),
    ("Timeout", "notification_timeout"),
    ("Congestion", "notification_congestion"),
    ("Congestion delete", "notification_congestion_delete"),
    ("Dups dropped", "notification_duplicates_dropped"),
)
_DELETED: Final = (
    ("Timeout idle", "criteria_deleted_timeout_idle"),
    ("Timeout total", "criteria_deleted_timeout_total"),
    ("Packets", "criteria_deleted_packets"),
    ("Bytes", "criteria_deleted_bytes"),
    ("Order end", "criteria_deleted_order"),
)
_RESPONSES: Final = (
    ("Successful", "response_successful"),
    ("Bad request", "bad_request"),
    ("Improper criteria", "response_improper_criteria"),
    ("Unknown content destination", "response_unknown_content_dest"),
    ("Unknown criteria identifier", "response_unknown_criteria_id"),
    ("Improper timeout", "response_improper_timeout"),
    ("Invalid authentication", "response_invalid_authentication"),
    ("Invalid sequence number", "response_invalid_sequence_number"),
    ("Internal error", "response_internal_error"),
    ("Other", "response_other"),
)


def _active(source: Mapping[str, Any]) -> int:
    return int(source["static_criteria_active"]) + int(source["dynamic_criteria_active"])


def _requests(source: Mapping[str, Any]) -> int:
    return sum(source[f"control_protocol_{kind}_requests"] for _, kind, _ in _KINDS)


def control_source_lines(group: str, sources: Sequence[Mapping[str, Any]], level: str = "") -> list[str]:
    """The accounts of control sources."""
    if level == "terse":
        head = ("Control source", "Active criteria", "Criteria added", "Control protocol requests")
        rows = [
            (each["control_source"], _active(each), each["criteria_added"], _requests(each))
            for each in sources
        ]
        return table_lines(Table(head, rows))
    return _blocks([_control_source(group, each, detail=level == "detail") for each in sources])


def _control_source(group: str, source: Mapping[str, Any], *, detail: bool) -> Iterator[str]:
    yield f"Capture group: {group}, Control source: {source['control_source']}"
    yield f"  Criteria added: {source['criteria_added']}"
    yield f"  Criteria add failed: {source['criteria_addition_failed']}"
    yield f"  Active criteria: {_active(source)}"
    yield f"    Static criteria: {source['static_criteria_active']}"
    yield f"    Dynamic criteria: {source['dynamic_criteria_active']}"
    yield "  Control protocol requests"
    yield f"    Total: {_requests(source)}, Failed: {sum(source[failed] for _, _, failed in _KINDS)}"
    for name, kind, failed in _KINDS:
        yield f"    {name}: {source[f'control_protocol_{kind}_requests']}, Failed: {source[failed]}"
    yield f"  Add request rate: {source['add_request_rate']}"
    yield f"  Add request peak rate: {source['add_request_peak_rate']}"
    yield f"  Bandwidth across all criteria: {source['aggr_criteria_bandwidth_bps']} bps"
    yield f"  Total notifications: {sum(source[key] for _, key in _NOTIFICATIONS)}"
    yield from _fields(source, _NOTIFICATIONS)
    yield "  Criteria deleted"
    yield from _fields(source, _DELETED)
    if detail:
        yield "  Responses"
        yield from _fields(source, _RESPONSES)
    yield f"  Sequence number: {_shown(source['sequence_number'])}"


def _fields(values: Mapping[str, Any], names: Sequence[tuple[str, str]]) -> Iterator[str]:
    for name, key in names:
        yield f"    {name}: {values[key]}"


def destination_lines(group: str, destinations: Sequence[Mapping[str, Any]], level: str = "") -> list[str]:
    """The accounts of content destinations."""
    if level == "terse":
        head = ("Content destination", "Criteria", "Bandwidth (bps)", "Matched packets", "Matched bytes")
        keys = ("content_destination", "criteria", "average_bandwidth_bps", "matched_packets")
        rows = [(*(each[key] for key in keys), each["matched_octets"]) for each in destinations]
        return table_lines(Table(head, rows))
    return _blocks([_destination(group, each, detail=level == "detail") for each in destinations])


def _destination(group: str, destination: Mapping[str, Any], *, detail: bool) -> Iterator[str]:
    yield f"Capture group: {group}, Content destination: {destination['content_destination']}"
    yield f"  Criteria: {destination['criteria']}"
    yield f"  Bandwidth: {destination['average_bandwidth_bps']} bps"
    yield f"  Matched packets: {destination['matched_packets']}"
    yield f"  Matched bytes: {destination['matched_octets']}"
    if detail:
        yield f"  Exported packets: {destination['exported']}"
        yield f"  Dropped packets: {destination['dropped']}"
        yield f"  Refused packets: {destination['refused']}"
        yield f"  Last error: {_shown(destination['last_error'])}"


def statistics_lines(group: str, stats: Mapping[str, Any], sources: Sequence[Mapping[str, Any]]) -> list[str]:
    """The account of the whole network element."""
    served = sum(map(_requests, sources))
    bad = sum(source["bad_request"] for source in sources)
    return [
        f"Capture group: {group}",
        "  Input",
        f"    Control protocol requests: {served}",
        f"    Captured data packets: {stats['frames']}",
        "  Control protocol drops",
        f"    Bad request: {bad}",
        "  Output",
        *(
            f"    {name} packets: {stats[key]}"
            for name, key in (
                ("Matched", "matched"),
                ("Copied", "copied"),
                ("Exported", "exported"),
                ("Refused", "refused"),
                ("Dropped", "dropped"),
            )
        ),
    ]


def flow_tap_lines(intercepts: Sequence[Mapping[str, Any]], level: str = "") -> list[str]:
    """Intercepts; a filter is in the answer for its owner alone, and so it is here."""
    if level == "terse":
        head = ("Criteria", "Control source", "State", "Matched packets", "Matched bytes")
        keys = ("criteria_id", "control_source", "state", "packets", "octets")
        return table_lines(Table(head, [[each[key] for key in keys] for each in intercepts]))
    return _blocks([_intercept(each, detail=level == "detail") for each in intercepts])


def _intercept(intercept: Mapping[str, Any], *, detail: bool) -> Iterator[str]:
    kind = "static" if intercept["static"] else "dynamic"
    yield f"Control source: {intercept['control_source']}, Criteria: {intercept['criteria_id']}"
    yield f"  State: {intercept['state']}, Type: {kind}, Added: {intercept['added']}"
    if "filter" in intercept:
        yield f"  Content destination: {', '.join(intercept['content_destinations'])}"
        for name, value in intercept["filter"].items():
            yield f"  {name}: {value}"
        if intercept["order"]:
            yield f"  Order: {intercept['order']}"
        if left := [f"{key} {value}" for key, value in intercept["remaining"].items() if value is not None]:
            yield f"  Left: {', '.join(left)}"
        if detail and intercept["approved_by"]:
            yield f"  Approved by: {intercept['approved_by']}"
    yield f"  Matched packets: {intercept['packets']}, Matched bytes: {intercept['octets']}"
    if detail:
        yield f"  Bandwidth: {intercept['average_bandwidth_bps']} bps, Refreshes: {intercept['refreshes']}"


def _blocks(blocks: Sequence[Iterator[str]]) -> list[str]:
    lines: list[str] = []
    for block in blocks:
        lines += ["", *block] if lines else block
    return lines


def _shown(value: object) -> str:
    return "-" if value is None else str(value)
