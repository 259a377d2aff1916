"""Messages to octets, in the draft's order and form or in the vendor's [DTCP §8].

The vendor's form has upper-case names, SEQ right behind the status line, and LIST entries that begin
with CRITERIA-ID and follow each other without empty lines, as its clients expect.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from flowtap.dtcp import authentication, grammar
from flowtap.dtcp.codec import FILTER_PARAMETERS, TIMEOUT_PARAMETERS
from flowtap.dtcp.messages import (
    AddRequest,
    AddResult,
    DeleteRequest,
    DeleteResult,
    ErrorResult,
    ListRequest,
    ListResult,
    NoopResult,
    Parameter,
    RefreshRequest,
    RefreshResult,
    Timeouts,
)
from flowtap.dtcp.status import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from flowtap.dtcp.authentication import Key
    from flowtap.dtcp.messages import (
        Delivery,
        FilterText,
        ListEntry,
        Notification,
        Request,
        Response,
    )

__all__ = [
    "Dialect",
    "render_datagrams",
    "render_notification",
    "render_request",
    "render_response",
    "sign",
]

ECHO_CHARACTERS: Final = 4_096
"""As much of an offending parameter as an answer repeats."""
DATAGRAM_OCTETS: Final = 65_507
"""The longest datagram that IPv4 can carry."""

_FILTER_NAMES = {
    "source": "Source-Address",
    "destination": "Dest-Address",
    "protocol": "Protocol",
    "source_port": "Source-Port",
    "destination_port": "Dest-Port",
    "icmp_type": "ICMP-Type",
    "icmp_code": "ICMP-Code",
}
_TIME_NAMES = {"idle_s": "Idle", "total_s": "Total", "packets": "Packets", "octets": "Bytes"}
assert set(_FILTER_NAMES) == set(FILTER_PARAMETERS.values())  # noqa: S101 - a slip of the pen
assert set(_TIME_NAMES) == set(TIMEOUT_PARAMETERS.values())  # noqa: S101 - ends the import


class Dialect(Enum):
    """The two forms of a response."""

    DRAFT = "draft"
    VENDOR = "vendor"


def sign(text: str, key: Key) -> bytes:
    """Completes a message: the digest's line and the empty line behind the text.

    Args:
        text: The lines, each with its CRLF.
        key: The shared secret.
    """
    octets = text.encode("utf-8", "replace")
    line = f"{authentication.PARAMETER}: {authentication.digest(octets, key)}\r\n\r\n"
    return octets + line.encode()


def _text(first: str, lines: Iterable[tuple[str, str] | None], *, upper: bool = False) -> str:
    """A start line and parameters, names as they are or in upper case; None stands for an empty line."""
    pieces = [first]
    for line in lines:
        if line is None:
            pieces.append("")
        else:
            name, value = line
            pieces.append(f"{name.upper() if upper else name}: {value}")
    pieces.append("")
    return "\r\n".join(pieces)


def _filter_lines(filter_text: FilterText) -> Iterator[tuple[str, str]]:
    for field, name in _FILTER_NAMES.items():
        value = getattr(filter_text, field)
        if value is not None:
            yield name, value


def _time_lines(prefix: str, times: Timeouts) -> Iterator[tuple[str, str]]:
    for field, name in _TIME_NAMES.items():
        value = getattr(times, field)
        if value is not None:
            yield f"{prefix}-{name}", str(value)


def _delivery_lines(deliveries: tuple[Delivery, ...]) -> Iterator[tuple[str, str]]:
    if deliveries:
        first = deliveries[0]
        yield "X-JTap-Cdest-Dest-Address", ",".join(str(each.address) for each in deliveries)
        yield "X-JTap-Cdest-Dest-Port", ",".join(str(each.port) for each in deliveries)
        yield "X-JTap-Cdest-Source-Address", str(first.source_address)
        yield "X-JTap-Cdest-Source-Port", str(first.source_port)
        yield "X-JTap-Cdest-TTL", str(first.ttl)


def _flag_line(**flags: bool) -> Iterator[tuple[str, str]]:
    given = ",".join(name for name, is_set in flags.items() if is_set)
    if given:
        yield "Flags", given


def _statistics_lines(entry: ListEntry) -> Iterator[tuple[str, str]]:
    if entry.remaining is not None:
        yield from _time_lines("Remaining", entry.remaining)
    counters = {
        "Average-Bandwidth": entry.average_bandwidth_bps,
        "Matching-Packets": entry.matching_packets,
        "Matching-Bytes": entry.matching_octets,
        "Num-Refresh": entry.refreshes,
    }
    for name, value in counters.items():
        if value is not None:
            yield name, str(value)
    if entry.last_refresh is not None:
        yield "Last-Refresh", grammar.format_time(entry.last_refresh)


def _what_was_asked(entry: ListEntry) -> Iterator[tuple[str, str]]:
    if entry.filter is not None:
        yield from _filter_lines(entry.filter)
    if entry.timeouts is not None:
        yield from _time_lines("Timeout", entry.timeouts)
    # Whether a criterion is static is told in every mode.
    yield from _flag_line(Static=entry.static, SendAsync=entry.send_async)


def _extension_lines(entry: ListEntry) -> Iterator[tuple[str, str]]:
    for extension in entry.extensions:
        yield extension.name, extension.value


def _draft_entry(entry: ListEntry, at: int, count: int) -> Iterator[tuple[str, str]]:
    yield "Criteria-Count", str(count)
    yield "Criteria-Num", str(at)
    yield "Csource-ID", grammar.name_list_text([entry.csource_id])
    yield "Csource-Address", str(entry.csource_address)
    yield "Cdest-ID", grammar.name_list_text(entry.cdest_ids)
    yield "Criteria-ID", str(entry.criteria_id)
    yield "Timestamp", grammar.format_time(entry.added)
    yield from _what_was_asked(entry)
    yield from _statistics_lines(entry)
    yield from _extension_lines(entry)


def _vendor_entry(entry: ListEntry, at: int, count: int) -> Iterator[tuple[str, str]]:
    yield "Criteria-ID", str(entry.criteria_id)
    yield "Csource-ID", grammar.name_list_text([entry.csource_id])
    yield "Cdest-ID", grammar.name_list_text(entry.cdest_ids)
    yield "Csource-Address", str(entry.csource_address)
    yield "Timestamp", grammar.format_time(entry.added)
    yield from _what_was_asked(entry)
    yield from _extension_lines(entry)
    yield from _statistics_lines(entry)
    yield "Criteria-Num", str(at)
    yield "Criteria-Count", str(count)


def _result_lines(response: Response, dialect: Dialect) -> Iterator[tuple[str, str] | None]:
    match response.result:
        case AddResult(criteria_id):
            yield "Criteria-ID", str(criteria_id)
        case DeleteResult(criteria_count) | RefreshResult(criteria_count):
            yield "Criteria-Count", str(criteria_count)
        case ListResult(entries):
            entry_lines = _vendor_entry if dialect is Dialect.VENDOR else _draft_entry
            for at, entry in enumerate(entries, start=1):
                yield from entry_lines(entry, at, len(entries))
                if dialect is Dialect.DRAFT:
                    yield None
        case NoopResult():
            pass
        case error:
            yield from _error_lines(error)


def _error_lines(error: ErrorResult) -> Iterator[tuple[str, str]]:
    for parameter in error.parameters:
        yield _one_line(parameter.name), _one_line(parameter.value)
    if error.info is not None:
        yield "X-Error-Info", _one_line(error.info)


def _one_line(text: str) -> str:
    """What a peer gave, made harmless: printable ASCII in one line, and of bounded length."""
    return "".join(character if " " <= character <= "~" else "?" for character in text[:ECHO_CHARACTERS])


def render_response(response: Response, dialect: Dialect, key: Key) -> bytes:
    """Writes a response in one piece, LIST entries included."""
    result = response.result
    status = result.status.as_of(response.version) if isinstance(result, ErrorResult) else Status.OK
    first = f"{response.version} {status.value} {status.reason}"
    lines = _result_lines(response, dialect)
    timestamp = ("Timestamp", grammar.format_time(response.timestamp))
    seq = ("Seq", response.seq)
    if dialect is Dialect.DRAFT:
        return sign(_text(first, [*lines, timestamp, seq]), key)
    if isinstance(result, ListResult) and result.entries:
        # Entries come behind the response's own time, or it would seem to be the last entry's.
        ordered = [seq, timestamp, *lines]
    else:
        ordered = [seq, *lines, timestamp]
    return sign(_text(first, ordered, upper=True), key)


def render_datagrams(response: Response, key: Key, octets: int) -> list[bytes]:
    """Writes a response for datagrams, in the draft's form: a LIST may need several [DTCP §6.1].

    Args:
        response: What to write.
        key: The shared secret.
        octets: Longest datagram; a single entry that is longer goes alone. One that fits into no datagram at
            all goes without what was asked for: its filter, time-outs and extensions.

    Returns:
        One whole response each, with the same Seq, the entries numbered through.
    """
    result = response.result
    if not isinstance(result, ListResult) or not result.entries:
        return [render_response(response, Dialect.DRAFT, key)]
    count = len(result.entries)
    tail = [("Timestamp", grammar.format_time(response.timestamp)), ("Seq", response.seq)]
    first = f"{response.version} {Status.OK.value} {Status.OK.reason}"
    envelope = len(sign(_text(first, tail), key))
    room = octets - envelope
    datagrams: list[bytes] = []
    lines: list[tuple[str, str] | None] = []
    used = 0
    for at, entry in enumerate(result.entries, start=1):
        block = [*_draft_entry(entry, at, count), None]
        if _octets(block) > DATAGRAM_OCTETS - envelope:
            bare = replace(entry, filter=None, timeouts=None, extensions=())
            block = [*_draft_entry(bare, at, count), None]
        size = _octets(block)
        if lines and used + size > room:
            datagrams.append(sign(_text(first, [*lines, *tail]), key))
            lines, used = [], 0
        lines += block
        used += size
    datagrams.append(sign(_text(first, [*lines, *tail]), key))
    return datagrams


def _octets(lines: Iterable[tuple[str, str] | None]) -> int:
    return sum(len(line[0]) + len(line[1].encode("utf-8", "replace")) + 4 if line else 2 for line in lines)


def render_notification(notification: Notification, key: Key) -> bytes:
    """Writes a notification; it has no Seq [DTCP §3.2]."""
    status = notification.status
    parameters = [(each.name, each.value) for each in notification.parameters]
    timestamp = ("Timestamp", grammar.format_time(notification.timestamp))
    first = f"{notification.version} {status.value} {status.reason}"
    return sign(_text(first, [*parameters, timestamp]), key)


def render_request(request: Request, key: Key) -> bytes:
    """Writes a request in the draft's order.

    Raises:
        ValueError: It lacks what its method needs, or has what excludes each other; no server would serve it.
    """
    _check(request)
    method, lines = _request_lines(request)
    envelope = [("Csource-ID", grammar.name_list_text([request.csource_id])), ("Seq", request.seq)]
    return sign(_text(f"{method} {request.version}", [*lines, *envelope]), key)


def _check(request: Request) -> None:
    """Keeps a client from sending what it must not [DTCP §5.4, §5.6, §5.8]."""
    if isinstance(request, DeleteRequest | RefreshRequest | ListRequest):
        named = (request.criteria_ids is not None) + (request.cdest_id is not None)
        if named > 1 or not (named or isinstance(request, ListRequest)):
            raise ValueError("criteria_ids or cdest_id is needed, and not both")
    if isinstance(request, AddRequest) and not request.cdest_ids:
        raise ValueError("cdest_ids: at least one content destination is needed")
    if isinstance(request, AddRequest | RefreshRequest):
        is_static = isinstance(request, AddRequest) and request.static
        if not is_static and request.timeouts == Timeouts():
            raise ValueError("timeouts: at least one is needed, or static in an ADD")


def _selector_lines(request: DeleteRequest | RefreshRequest | ListRequest) -> Iterator[tuple[str, str]]:
    if request.criteria_ids is not None:
        yield "Criteria-ID", grammar.id_list_text(request.criteria_ids)
    if request.cdest_id is not None:
        yield "Cdest-ID", grammar.name_list_text([request.cdest_id])


def _request_lines(request: Request) -> tuple[str, list[tuple[str, str]]]:
    if isinstance(request, AddRequest):
        extensions = request.extensions or tuple(
            Parameter(name, value)
            for name, value in (*request.scope.parameters(), *_delivery_lines(request.deliveries))
        )
        return "ADD", [
            *_filter_lines(request.filter),
            *_time_lines("Timeout", request.timeouts),
            ("Action", request.action),
            ("Priority", str(request.priority)),
            *_flag_line(Static=request.static, SendAsync=request.send_async),
            ("Cdest-ID", grammar.name_list_text(request.cdest_ids)),
            *((extension.name, extension.value) for extension in extensions),
        ]
    if isinstance(request, DeleteRequest):
        return "DELETE", [*_selector_lines(request), *_flag_line(Static=request.static)]
    if isinstance(request, RefreshRequest):
        return "REFRESH", [*_selector_lines(request), *_time_lines("Timeout", request.timeouts)]
    if isinstance(request, ListRequest):
        flags = _flag_line(
            Both=request.criteria and request.stats,
            Criteria=request.criteria and not request.stats,
            Stats=request.stats and not request.criteria,
        )
        return "LIST", [*_selector_lines(request), *flags]
    return "NOOP", list(_flag_line(SendAsync=request.send_async))
