"""Everything that we send, held against the formal syntax of the draft's section 8, written down here once more.

The rules are regular expressions that know nothing of the package. What the draft's text lost on its way to paper is
put right as the ledger says: one of two selectors, blanks between the words of a reason.
"""

from __future__ import annotations

import re
from datetime import datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtap.dtcp import (
    AddRequest,
    AddResult,
    DeleteRequest,
    DeleteResult,
    Delivery,
    Dialect,
    ErrorResult,
    FilterText,
    IdRange,
    Key,
    ListEntry,
    ListRequest,
    ListResult,
    NoopRequest,
    NoopResult,
    Notification,
    Parameter,
    RefreshRequest,
    RefreshResult,
    Response,
    Status,
    Timeouts,
    Version,
)
from flowtap.dtcp.authentication import digest
from flowtap.dtcp.render import render_datagrams, render_notification, render_request, render_response

if TYPE_CHECKING:
    from flowtap import dtcp

KEY = Key(b"\x00\xffa secret that no message has\x80")

# --- the formal syntax ---------------------------------------------------------------------------

CRLF, COL = "\r\n", ": "
DSTRING = r"(?:[!-\[\]-~]|\\[0-9]{3})+"
NAME = r"(?:[!-+\--\[\]-~]|\\[0-9]{3})+"
TEXT = r"[ -~]*"
VERSION = r"DTCP/[0-9]+\.[0-9]+"
N8, N16, N32, N64, DAYSEC = (f"[0-9]{{1,{digits}}}" for digits in (3, 5, 10, 20, 5))
IPV4 = r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}"
IPV6 = r"[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*"
ADDRESS = rf"(?:{IPV4}|{IPV6})"
TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}"
DIGEST = "[0-9a-f]{40}"


def listed(element: str) -> str:
    return f"!?{element}(?:, ?!?{element})*"


def ranges(number: str) -> str:
    return rf"(?:{number}|{number}-{number}|{number}-\*|\*-{number}|\*)"


ADDRESSES = listed(rf"(?:{ADDRESS}-{ADDRESS}|{ADDRESS}-\*|\*-{ADDRESS}|{ADDRESS}/{N8}|{ADDRESS}|\*)")
NAMES = f"{NAME}(?:,{NAME})*"
IDS = listed(ranges(N64))


def line(name: str, value: str) -> str:
    return f"{name}{COL}{value}{CRLF}"


def some_of(*lines: str) -> str:
    """Lines of a kind, each at most once."""
    return "".join(f"(?:{each})?" for each in lines)


FILTER = some_of(
    line("Source-Address", ADDRESSES),
    line("Dest-Address", ADDRESSES),
    line("Protocol", listed(ranges(N8))),
    line("Source-Port", listed(ranges(N16))),
    line("Dest-Port", listed(ranges(N16))),
    line("ICMP-Type", listed(ranges(N8))),
    line("ICMP-Code", listed(ranges(N8))),
)


def times(prefix: str) -> str:
    kinds = {"Idle": DAYSEC, "Total": DAYSEC, "Packets": N64, "Bytes": N64}
    return some_of(*(line(f"{prefix}-{kind}", value) for kind, value in kinds.items()))


def flags(*names: str) -> str:
    flag = f"(?:{'|'.join(names)})"
    return some_of(line("Flags", f"{flag}(?:,{flag})*"))


EXTENSIONS = f"(?:X-[!-9;-~]+{COL}{DSTRING}{CRLF})*"
# Our own words for a person may have blanks between them; the ledger says so.
PLAIN_WORDS = f"(?:X-Error-(?:Info|Line){COL}{TEXT}{CRLF})*"
SELECTOR = f"(?:{line('Criteria-ID', IDS)}|{line('Cdest-ID', NAME)})"
ENVELOPE = line("Csource-ID", NAME) + line("Seq", N64) + line("Authentication-Info", DIGEST) + CRLF
ADD = (
    FILTER
    + times("Timeout")
    + some_of(line("Action", "Copy"), line("Priority", N8))
    + flags("Static", "SendAsync")
    + line("Cdest-ID", NAMES)
    + EXTENSIONS
)
REQUESTS = {
    AddRequest: f"ADD {VERSION}{CRLF}{ADD}{ENVELOPE}",
    DeleteRequest: f"DELETE {VERSION}{CRLF}{SELECTOR}{flags('Static')}{EXTENSIONS}{ENVELOPE}",
    RefreshRequest: f"REFRESH {VERSION}{CRLF}{SELECTOR}(?=Timeout-){times('Timeout')}{EXTENSIONS}{ENVELOPE}",
    ListRequest: (
        f"LIST {VERSION}{CRLF}(?:{SELECTOR})?{flags('Stats', 'Criteria', 'Both')}{EXTENSIONS}{ENVELOPE}"
    ),
    NoopRequest: f"NOOP {VERSION}{CRLF}{flags('SendAsync')}{EXTENSIONS}{ENVELOPE}",
}
ENTRY = (
    line("Criteria-Count", N32)
    + line("Criteria-Num", N32)
    + line("Csource-ID", NAME)
    + line("Csource-Address", ADDRESS)
    + line("Cdest-ID", NAMES)
    + line("Criteria-ID", N32)
    + line("Timestamp", TIME)
    + FILTER
    + times("Timeout")
    + flags("Static", "SendAsync")
    + times("Remaining")
    + some_of(
        line("Average-Bandwidth", N64),
        line("Matching-Packets", N64),
        line("Matching-Bytes", N64),
        line("Num-Refresh", N32),
        line("Last-Refresh", TIME),
    )
    + EXTENSIONS
)
END_OF_RESPONSE = line("Timestamp", TIME) + line("Seq", N64) + line("Authentication-Info", DIGEST) + CRLF
END_OF_NOTIFICATION = line("Timestamp", TIME) + line("Authentication-Info", DIGEST) + CRLF
OK = f"{VERSION} 200 OK{CRLF}"
ERROR = some_of(line("Cdest-ID", NAMES), line("Criteria-ID", IDS)) + FILTER + times("Timeout")
RESPONSES = {
    AddResult: OK + line("Criteria-ID", N32) + END_OF_RESPONSE,
    DeleteResult: OK + line("Criteria-Count", N32) + END_OF_RESPONSE,
    RefreshResult: OK + line("Criteria-Count", N32) + END_OF_RESPONSE,
    ListResult: f"{OK}(?:{ENTRY}{CRLF})*{END_OF_RESPONSE}",
    NoopResult: OK + END_OF_RESPONSE,
    ErrorResult: f"{VERSION} [0-9]{{3}} {TEXT}{CRLF}{ERROR}{PLAIN_WORDS}{END_OF_RESPONSE}",
}
NOTIFICATIONS = {
    Status.SERVER_RESTART: line("Alert-Info", TEXT),
    Status.SEQUENCE_ROLLOVER: "",
    Status.NOOP_NOTIFICATION: "",
    Status.CRITERION_TIMEOUT_DELETE: line("Criteria-ID", N32) + times("Timeout") + times("Remaining"),
    Status.CONGESTION: (
        line("Cdest-ID", NAME)
        + line("Average-Bandwidth", N64)
        + line("Alert-Bandwidth", N64)
        + line("Max-Bandwidth", N64)
    ),
    Status.CONGESTION_DELETE: line("Cdest-ID", NAME) + line("Criteria-ID", IDS),
    # The draft has a code for it and no syntax.
    Status.DUPLICATES_DROPPED: line("Cdest-ID", NAME) + line("Criteria-ID", N32) + EXTENSIONS,
}

# --- anything that we could send -----------------------------------------------------------------

versions = st.sampled_from([Version(0, 6), Version(0, 7), Version(0, 8)])
words = st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" ,"), min_size=1, max_size=9)
seqs = st.integers(0, 2**64 - 1).map(str)
moments = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31))  # noqa: DTZ001 - the protocol has no zone
addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
values = st.sampled_from(["*", "192.0.2.1", "!192.0.2.1,198.51.100.0/24", "*-192.0.2.9, 2001:db8::1-*"])
numbers = st.sampled_from(["*", "1", "!6,17", "1-5, 9-*,*-3"])
filters = st.builds(
    FilterText,
    source=st.none() | values,
    destination=st.none() | values,
    protocol=st.none() | numbers,
    source_port=st.none() | numbers,
    destination_port=st.none() | numbers,
    icmp_type=st.none() | numbers,
    icmp_code=st.none() | numbers,
)
seconds = st.none() | st.integers(0, 86_400)
amounts = st.none() | st.integers(0, 2**64 - 1)
lifetimes = st.builds(Timeouts, idle_s=seconds, total_s=seconds, packets=amounts, octets=amounts)
some_lifetime = lifetimes.filter(lambda each: each != Timeouts())
ids = st.integers(0, 2**64 - 1)
id_ranges = st.one_of(
    ids.map(lambda at: IdRange(at, at, single=True)),
    st.tuples(ids, ids).map(lambda ends: IdRange(min(ends), max(ends), single=False)),
)
deliveries = st.builds(
    Delivery,
    address=st.ip_addresses(v=4),
    port=st.integers(1, 65_535),
    source_address=st.just(ip_address("198.51.100.1")),
    source_port=st.integers(1, 65_535),
    ttl=st.integers(1, 255),
)
extensions = st.lists(st.builds(Parameter, st.sampled_from(["X-Own", "X-JTap-Cdest-TTL"]), st.just("9")))


def by_selector(kind: type[Any], **fields: Any) -> st.SearchStrategy[Any]:
    by_ids = st.builds(kind, **fields, criteria_ids=st.lists(id_ranges, min_size=1, max_size=4).map(tuple))
    return by_ids | st.builds(kind, **fields, cdest_id=words)


about = {"version": versions, "csource_id": words, "seq": seqs}
requests = st.one_of(
    st.builds(
        AddRequest,
        **about,
        cdest_ids=st.lists(words, min_size=1, max_size=2, unique=True).map(tuple),
        filter=filters,
        timeouts=some_lifetime,
        static=st.booleans(),
        send_async=st.booleans(),
        priority=st.integers(1, 255),
        deliveries=st.lists(deliveries, max_size=2).map(tuple),
    ),
    by_selector(DeleteRequest, **about, static=st.booleans()),
    by_selector(RefreshRequest, **about, timeouts=some_lifetime),
    by_selector(ListRequest, **about, stats=st.booleans(), criteria=st.booleans()),
    st.builds(ListRequest, **about, stats=st.booleans(), criteria=st.booleans()),
    st.builds(NoopRequest, **about, send_async=st.booleans()),
)
entries = st.builds(
    ListEntry,
    csource_id=words,
    csource_address=addresses,
    cdest_ids=st.lists(words, min_size=1, max_size=2).map(tuple),
    criteria_id=st.integers(1, 2**32 - 1),
    added=moments,
    static=st.booleans(),
    filter=st.none() | filters,
    timeouts=st.none() | lifetimes,
    send_async=st.booleans(),
    extensions=extensions.map(tuple),
    remaining=st.none() | lifetimes,
    average_bandwidth_bps=amounts,
    matching_packets=amounts,
    matching_octets=amounts,
    refreshes=st.none() | st.integers(0, 2**32 - 1),
    last_refresh=st.none() | moments,
)
culprits = st.sampled_from(
    [
        (Status.UNKNOWN_CRITERIA_ID, (Parameter("Criteria-ID", "7,9"),), "no such criteria"),
        (Status.UNKNOWN_CONTENT_DESTINATION, (Parameter("Cdest-ID", "cdX"),), None),
        (Status.IMPROPER_FILTER, (Parameter("Source-Address", "192.0.2.1/33"),), "too long"),
        (Status.IMPROPER_TIMEOUT, (Parameter("Timeout-Idle", "0"), Parameter("Timeout-Total", "0")), None),
        (Status.BAD_REQUEST, (Parameter("X-Error-Line", "rub\x00bish\r\nSeq: 9"),), "line 2: Name: value"),
        (Status.SERVER_INTERNAL_ERROR, (), "the journal could not be written"),
    ]
)
counts = st.integers(0, 2**32 - 1)
results = st.one_of(
    st.builds(AddResult, st.integers(1, 2**32 - 1)),
    st.builds(DeleteResult, counts),
    st.builds(RefreshResult, counts),
    st.builds(ListResult, st.lists(entries, max_size=4).map(tuple)),
    st.just(NoopResult()),
    culprits.map(lambda each: ErrorResult(*each)),
)


def signed_rightly(message: bytes) -> str:
    """The message as text, once its digest was found to be over everything before it."""
    assert KEY.octets not in message
    text, _, last = message.rpartition(b"Authentication-Info: ")
    if not text:
        text, _, last = message.rpartition(b"AUTHENTICATION-INFO: ")
    assert last.decode() == digest(text, KEY) + CRLF + CRLF
    return message.decode("ascii")


@pytest.mark.ledger(
    "T-047",
    "T-064",
    "T-066",
    "T-070",
    "T-071",
    "T-072",
    "T-073",
    "T-079",
    "T-082",
    "T-092",
    "T-098",
    "T-110",
    "T-119",
    "T-120",
)
@given(requests)
def test_every_request(request: dtcp.Request) -> None:
    assert re.fullmatch(REQUESTS[type(request)], signed_rightly(render_request(request, KEY)))


@pytest.mark.ledger(
    "T-064",
    "T-066",
    "T-070",
    "T-071",
    "T-072",
    "T-079",
    "T-083",
    "T-084",
    "T-085",
    "T-086",
    "T-087",
    "T-104",
    "T-108",
    "T-133",
    "T-135",
)
@given(versions, seqs, moments, results)
def test_every_response(version: Version, seq: str, now: datetime, result: dtcp.Result) -> None:
    response = Response(version, seq, now, result)
    text = signed_rightly(render_response(response, Dialect.DRAFT, KEY))
    assert re.fullmatch(RESPONSES[type(result)], text), text
    for datagram in render_datagrams(response, KEY, 600):
        assert re.fullmatch(RESPONSES[type(result)], signed_rightly(datagram))
    # The vendor's form has another order; what the client of the vendor needs is there as well.
    lines = signed_rightly(render_response(response, Dialect.VENDOR, KEY)).split(CRLF)
    assert re.fullmatch(rf"{VERSION} [0-9]{{3}} [ -~]+", lines[0])
    assert lines[1] == f"SEQ: {seq}"
    assert lines[-3].startswith("Authentication-Info: ")
    assert lines[-2:] == ["", ""]
    assert all(re.fullmatch(rf"[A-Z0-9-]+: {TEXT}", each) for each in lines[1:-3])
    assert sum(each.startswith("TIMESTAMP: ") for each in lines) == 1 + len(getattr(result, "entries", ()))


@pytest.mark.ledger("T-064", "T-066", "T-070", "T-072", "T-079", "T-088")
@pytest.mark.parametrize("status", list(NOTIFICATIONS), ids=lambda status: status.name.lower())
@given(versions, moments, st.tuples(st.integers(1, 2**32 - 1), ids, words, some_lifetime))
def test_every_notification(
    status: Status, version: Version, now: datetime, about: tuple[int, int, str, Timeouts]
) -> None:
    notification = Notification(version, status, now, content_of(status, *about))
    text = signed_rightly(render_notification(notification, KEY))
    first = f"{VERSION} {status.value} {TEXT}{CRLF}"
    assert re.fullmatch(first + NOTIFICATIONS[status] + END_OF_NOTIFICATION, text), text


def content_of(status: Status, number: int, amount: int, name: str, left: Timeouts) -> tuple[Parameter, ...]:
    """What the daemon puts into each of them."""
    from flowtap.control import Bandwidth, Congested, CopiesLost, Ended, Purged, Restarted  # noqa: PLC0415
    from flowtap.service.notify import content  # noqa: PLC0415 - the one test that needs both layers

    moment = datetime(2026, 3, 2)  # noqa: DTZ001 - the protocol has no zone
    happened: dict[Status, Any] = {
        Status.SERVER_RESTART: Restarted("md", number, amount, moment, moment),
        Status.CRITERION_TIMEOUT_DELETE: Ended(intercept(number, left), "idle", left),
        Status.CONGESTION: Congested("md", name, amount, Bandwidth(amount, 1, amount, 2)),
        Status.CONGESTION_DELETE: Purged("md", name, (number, number + 1, number + 5)),
        Status.DUPLICATES_DROPPED: CopiesLost("md", name, number, amount, amount),
    }
    if status not in happened:
        return ()
    said, parameters = content(happened[status])
    assert said is status
    return parameters


def intercept(number: int, timeouts: Timeouts) -> Any:
    from flowtap.control import Intercept  # noqa: PLC0415 - as above

    moment = datetime(2026, 3, 2)  # noqa: DTZ001 - the protocol has no zone
    return Intercept(
        criteria_id=number,
        csource_id="md",
        csource_address=ip_address("192.0.2.10"),
        login="md",
        cdest_ids=("cd1",),
        deliveries=(),
        refuse_oversize=(False,),
        filter=FilterText(),
        timeouts=timeouts,
        static=False,
        send_async=True,
        priority=1,
        extensions=(),
        added=moment,
        total_since_ns=0,
        idle_since_ns=0,
        last_refresh=moment,
    )


@pytest.mark.parametrize(
    "request_",
    [
        AddRequest(Version(0, 7), "md", "1", (), static=True),
        AddRequest(Version(0, 7), "md", "1", ("cd1",)),
        DeleteRequest(Version(0, 7), "md", "1"),
        DeleteRequest(Version(0, 7), "md", "1", (IdRange(1, 1, single=True),), "cd1"),
        RefreshRequest(Version(0, 7), "md", "1", Timeouts(idle_s=1)),
        RefreshRequest(Version(0, 7), "md", "1", Timeouts(), cdest_id="cd1"),
        ListRequest(Version(0, 7), "md", "1", (IdRange(1, 1, single=True),), "cd1"),
    ],
)
@pytest.mark.ledger("T-092", "T-098", "T-110", "T-119", "T-120")
def test_a_client_sends_nothing_that_lacks_what_it_needs(request_: dtcp.Request) -> None:
    with pytest.raises(ValueError, match="needed"):
        render_request(request_, KEY)


@pytest.mark.parametrize("text", [f"NOOP {Version(0, 7)} {CRLF}", "NOOP  DTCP/0.7\r\n", "noop dtcp/0.7\n"])
def test_the_rules_tell_right_from_wrong(text: str) -> None:
    """What is received may be written otherwise; nothing of that kind would pass here."""
    rest = f"Csource-ID: md{CRLF}Seq: 1{CRLF}"
    signed = f"{text}{rest}Authentication-Info: {digest((text + rest).encode(), KEY)}{CRLF}{CRLF}"
    assert not re.fullmatch(REQUESTS[NoopRequest], signed)
