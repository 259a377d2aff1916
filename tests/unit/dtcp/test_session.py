from __future__ import annotations

from datetime import datetime
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowtap import dtcp
from flowtap.dtcp import (
    AddRequest,
    DeleteRequest,
    Delivery,
    Dialect,
    FilterText,
    IdRange,
    ListEntry,
    ListRequest,
    NoopRequest,
    Parameter,
    RefreshRequest,
    SequenceWindow,
    Status,
    Timeouts,
    Version,
    grammar,
)
from flowtap.dtcp.render import render_datagrams, render_request, sign
from flowtap.dtcp.reply import ReplyError

KEY = dtcp.Key(b"Juniper")
NOW = datetime(2026, 3, 2, 10, 15, 30)  # noqa: DTZ001 - the protocol has no zone
V7 = Version(0, 7)


class Keys:
    def __init__(self) -> None:
        self.names = {"md", "other"}

    def key_for(self, csource_id: str) -> dtcp.Key | None:
        return KEY if csource_id in self.names else None


def server(dialect: Dialect = Dialect.VENDOR, *, message_octets: int = 65_536) -> dtcp.ServerConnection:
    return dtcp.ServerConnection(
        limits=dtcp.Limits(message_octets=message_octets), keys=Keys(), principal="md", dialect=dialect
    )


def one_event(message: bytes, *, message_octets: int = 65_536) -> dtcp.Event | None:
    connection = server(message_octets=message_octets)
    connection.receive_data(message)
    event = connection.next_event()
    assert connection.next_event() is None
    return event


@pytest.mark.ledger("T-041", "T-045")
def test_what_gets_no_answer() -> None:
    good = sign("NOOP DTCP/0.7\r\nCsource-ID: md\r\nSeq: 1\r\n", KEY)
    for message, status in (
        (b"NOOP DTCP/0.7\r\nCsource-ID: md\r\nSeq: 1\r\n\r\n", Status.INVALID_AUTHENTICATION),
        (good.replace(b"Seq: 1", b"Seq: 2"), Status.INVALID_AUTHENTICATION),
        (sign("NOOP DTCP/0.7\r\nCsource-ID: md\r\n", KEY), Status.INVALID_AUTHENTICATION),
        (sign("NOOP DTCP/0.7\r\nCsource-ID: who\r\nSeq: 1\r\n", KEY), Status.UNKNOWN_CONTROL_SOURCE),
        (sign("NOOP DTCP/0.7\r\nCsource-ID: other\r\nSeq: 1\r\n", KEY), Status.UNKNOWN_CONTROL_SOURCE),
    ):
        event = one_event(message)
        assert isinstance(event, dtcp.Rejected)
        assert event.status == status
        assert event.status.is_silent
        assert event.seq in {"1", "2", None}
        assert event.reason
    assert not Status.OK.is_silent
    too_long = one_event(b"x" * 100 + b"\r\n\r\n", message_octets=50)
    assert isinstance(too_long, dtcp.Rejected)


@pytest.mark.ledger("T-051", "T-177", "T-180")
@pytest.mark.parametrize(
    ("start", "code", "version"),
    [
        ("FOO DTCP/0.7", 501, "DTCP/0.7"),
        ("NOOP DTCP/0.9", 505, "DTCP/0.8"),
        ("NOOP DTCP/0.1", 505, "DTCP/0.6"),
        ("NOOP", 400, "DTCP/0.7"),
    ],
)
def test_what_is_authentic_and_wrong_is_answered(start: str, code: int, version: str) -> None:
    connection = server()
    connection.receive_data(sign(f"{start}\r\nCsource-ID: md\r\nSeq: 0042\r\n", KEY))
    event = connection.next_event()
    assert isinstance(event, dtcp.RequestRefused)
    connection.respond(event, event.error, NOW)
    lines = connection.data_to_send().decode().split("\r\n")
    assert lines[0].startswith(f"{version} {code} ")
    assert lines[1] == "SEQ: 0042"
    assert connection.data_to_send() == b""


@pytest.mark.ledger("T-165")
def test_an_answer_echoes_nothing_that_could_break_its_lines() -> None:
    connection = server()
    connection.receive_data(sign("ADD DTCP/0.7\r\nCol\x01our: r\x00ed\r\nCsource-ID: md\r\nSeq: 1\r\n", KEY))
    event = connection.next_event()
    assert isinstance(event, dtcp.RequestRefused)
    connection.respond(event, event.error, NOW)
    assert b"\x00" not in connection.data_to_send()


def test_a_notification_is_signed_for_its_control_source_and_answers_no_request() -> None:
    connection = server()
    connection.send(dtcp.Notification(V7, Status.NOOP_NOTIFICATION, NOW), "md")
    client = dtcp.ClientConnection(key=KEY, limits=dtcp.Limits())
    client.receive_data(connection.data_to_send())
    reply = client.next_reply()
    assert reply is not None
    assert (reply.code, reply.seq) == (Status.NOOP_NOTIFICATION, None)
    assert reply.value("timestamp") == "2026-03-02 10:15:30.000"


def test_nothing_is_signed_for_a_control_source_that_is_gone() -> None:
    connection = server()
    notification = dtcp.Notification(V7, Status.NOOP_NOTIFICATION, NOW)
    with pytest.raises(LookupError):
        connection.send(notification, "gone")


REQUESTS: tuple[dtcp.Request, ...] = (
    AddRequest(
        V7,
        "md",
        "1",
        ("cd 1", "cd,2"),
        filter=FilterText(source="192.0.2.0/24,!192.0.2.9", protocol="17"),
        timeouts=Timeouts(idle_s=60, octets=5),
        static=True,
        send_async=True,
        priority=4,
        deliveries=(
            Delivery(ip_address("2001:db8::1"), 1, ip_address("2001:db8::2"), 2, 3),
            Delivery(ip_address("2001:db8::3"), 4, ip_address("2001:db8::2"), 2, 3),
        ),
    ),
    AddRequest(V7, "md", "2", ("cd1",), timeouts=Timeouts(total_s=9), extensions=(Parameter("X-Own", "1"),)),
    AddRequest(V7, "md", "2", ("cd1",), static=True),
    DeleteRequest(V7, "md", "3", criteria_ids=(IdRange(1, 1, single=True), IdRange(3, 9, single=False))),
    DeleteRequest(V7, "md", "4", cdest_id="cd1", static=True),
    RefreshRequest(V7, "md", "4", Timeouts(idle_s=3, octets=9), criteria_ids=(IdRange(1, 2, single=False),)),
    RefreshRequest(V7, "md", "4", Timeouts(total_s=3), cdest_id="cd1"),
    ListRequest(V7, "md", "5", criteria=True, stats=True),
    ListRequest(V7, "md", "6", criteria=False, stats=True, cdest_id="cd1"),
    ListRequest(V7, "md", "7"),
    NoopRequest(V7, "md", "8", send_async=True),
    NoopRequest(V7, "md", "9"),
)


@pytest.mark.parametrize("request_value", REQUESTS, ids=lambda each: type(each).__name__)
def test_a_server_reads_what_a_client_writes(request_value: dtcp.Request) -> None:
    client = dtcp.ClientConnection(key=KEY, limits=dtcp.Limits())
    client.send(request_value)
    event = one_event(client.data_to_send())
    assert isinstance(event, dtcp.RequestReceived)
    assert (event.seq, event.csource_id, event.version) == (request_value.seq, "md", V7)
    got = event.request
    if isinstance(request_value, AddRequest):
        assert isinstance(got, AddRequest)
        assert got.deliveries == request_value.deliveries
        assert (got.filter, got.timeouts, got.cdest_ids) == (
            request_value.filter,
            request_value.timeouts,
            request_value.cdest_ids,
        )
        assert (got.static, got.send_async, got.priority) == (
            request_value.static,
            request_value.send_async,
            request_value.priority,
        )
    else:
        assert got == request_value


def entry(number: int) -> ListEntry:
    return ListEntry(
        csource_id="md",
        csource_address=ip_address("192.0.2.10"),
        cdest_ids=("cd1",),
        criteria_id=number,
        added=NOW,
        static=number % 2 == 0,
        filter=FilterText(source="192.0.2.1") if number % 3 else None,
        timeouts=Timeouts(idle_s=5) if number % 3 else None,
        extensions=(Parameter("X-JTap-Cdest-TTL", "9"),) if number % 3 else (),
        remaining=Timeouts(idle_s=1) if number % 5 else None,
        matching_packets=7 if number % 5 else None,
        last_refresh=NOW if number % 5 else None,
    )


@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize("count", [0, 1, 2, 1500])
def test_lists_of_any_length_are_read_back(dialect: Dialect, count: int) -> None:
    connection = server(dialect)
    connection.receive_data(render_request(ListRequest(V7, "md", "5"), KEY))
    event = connection.next_event()
    assert isinstance(event, dtcp.RequestReceived)
    result = dtcp.ListResult(tuple(entry(number) for number in range(1, count + 1)))
    connection.respond(event, result, NOW)
    client = dtcp.ClientConnection(key=KEY, limits=dtcp.Limits(message_octets=10**7, lines=10**6))
    answer = connection.data_to_send()
    for at in range(0, len(answer), 10_000):
        assert client.next_reply() is None
        client.receive_data(answer[at : at + 10_000])
    reply = client.next_reply()
    assert reply is not None
    assert reply.is_success
    assert reply.seq == "5"
    assert reply.value("timestamp") == "2026-03-02 10:15:30.000"
    assert reply.value("criteria-id") is None
    ids = [int(each.value) for item in reply.entries for each in item if each.name.lower() == "criteria-id"]
    assert ids == list(range(1, count + 1))


def test_a_client_believes_nothing_unsigned() -> None:
    client = dtcp.ClientConnection(key=KEY, limits=dtcp.Limits())
    for text in ("DTCP/0.7 200 OK\r\nSeq: 1\r\n", "rubbish\r\n", "DTCP/0.7 200 OK\r\nrubbish\r\n"):
        signed = sign(text, KEY if "200" not in text or "rubbish" in text else dtcp.Key(b"wrong"))
        client.receive_data(signed)
        with pytest.raises(ReplyError):
            client.next_reply()
    with pytest.raises(ReplyError):
        dtcp.reply.parse_reply(b"DTCP/0.7 200 OK\r\n\r\n", KEY)


def test_a_client_survives_a_reply_that_is_too_long() -> None:
    client = dtcp.ClientConnection(key=KEY, limits=dtcp.Limits(message_octets=300))
    client.receive_data(b"x" * 400 + b"\r\n\r\n" + sign("DTCP/0.7 299 Fine\r\nSeq: 1\r\n", KEY))
    reply = client.next_reply()
    assert reply is not None
    assert (reply.code, reply.reason, reply.is_success) == (299, "Fine", True)


def test_a_client_keeps_no_more_than_its_limit_of_a_reply_without_end() -> None:
    client = dtcp.ClientConnection(key=KEY, limits=dtcp.Limits(message_octets=300))
    for _ in range(1000):
        client.receive_data(b"X-Own: " + b"x" * 100 + b"\r\n\r\n")
        assert client.next_reply() is None
        assert client.pending_octets <= 300
    client.receive_data(sign("Seq: 1\r\n", KEY))
    assert client.next_reply() is None
    client.receive_data(sign("DTCP/0.7 200 OK\r\nSeq: 2\r\n", KEY))
    reply = client.next_reply()
    assert reply is not None
    assert reply.seq == "2"


def test_an_entry_ends_where_a_parameter_repeats() -> None:
    text = (
        "DTCP/0.6 200 OK\r\nCriteria-ID: 1\r\nTimestamp: 2026-01-01 00:00:00.000\r\nX-Own: a\r\nX-Own: b\r\n"
        "Criteria-Num: 1\r\nCriteria-Count: 1\r\nTimestamp: 2026-02-02 00:00:00.000\r\nSeq: 1\r\n"
    )
    client = dtcp.ClientConnection(key=KEY, limits=dtcp.Limits())
    client.receive_data(sign(text, KEY))
    reply = client.next_reply()
    assert reply is not None
    assert reply.value("timestamp") == "2026-02-02 00:00:00.000"
    (item,) = reply.entries
    assert [each.name for each in item] == [
        *("Criteria-ID", "Timestamp", "X-Own", "X-Own", "Criteria-Num", "Criteria-Count")
    ]


def test_octets_signed_elsewhere_go_out_as_they_are() -> None:
    client = dtcp.ClientConnection(key=KEY, limits=dtcp.Limits())
    client.send_signed(b"anything")
    assert client.data_to_send() == b"anything"


@given(st.binary(max_size=400))
def test_no_octets_upset_a_connection(data: bytes) -> None:
    connection = server()
    connection.receive_data(data + b"\n\n")
    while (event := connection.next_event()) is not None:
        assert isinstance(event, dtcp.Rejected)
    client = dtcp.ClientConnection(key=KEY, limits=dtcp.Limits())
    client.receive_data(data + b"\nAuthentication-Info: 00\n\n")
    with pytest.raises(ReplyError):
        while client.next_reply() is not None:
            pass


@given(st.text(max_size=200))
def test_any_authentic_text_is_answered(text: str) -> None:
    body = text.replace("\r", "").replace("\n\n", "\n").lstrip("\n")
    message = sign("ADD DTCP/0.7\r\nCsource-ID: md\r\nSeq: 1\r\n" + body + "\r\n", KEY)
    connection = server()
    connection.receive_data(message)
    while (event := connection.next_event()) is not None:
        if not isinstance(event, dtcp.Rejected):
            result = event.error if isinstance(event, dtcp.RequestRefused) else dtcp.AddResult(1)
            connection.respond(event, result, NOW)
            assert connection.data_to_send().endswith(b"\r\n\r\n")


class Windows:
    def __init__(self) -> None:
        self.window = SequenceWindow()

    def window_for(self, csource_id: str) -> SequenceWindow | None:
        return self.window if csource_id == "md" else None


def strict_event(
    windows: Windows, seq: int, text: str = "NOOP DTCP/0.7", csource_id: str = "md", key: dtcp.Key = KEY
) -> dtcp.Event:
    message = sign(f"{text}\r\nCsource-ID: {csource_id}\r\nSeq: {seq}\r\n", key)
    return dtcp.read_request(message, dtcp.Limits(), Keys(), sequences=windows)


@pytest.mark.ledger("T-050")
def test_sequence_numbers_are_checked_where_they_are_to_be() -> None:
    windows = Windows()
    first = strict_event(windows, 7)
    assert isinstance(first, dtcp.RequestReceived)
    assert (first.highest_seq, first.rolled_over) == (7, False)
    again = strict_event(windows, 7)
    assert isinstance(again, dtcp.Rejected)
    assert (again.status, again.seq) == (Status.INVALID_SEQUENCE_NUMBER, "7")
    # Only an authentic message moves the numbers; a wrong one uses its number up.
    assert isinstance(strict_event(windows, 9, key=dtcp.Key(b"wrong")), dtcp.Rejected)
    assert windows.window.highest == 7
    refused = strict_event(windows, 8, "FOO DTCP/0.7")
    assert isinstance(refused, dtcp.RequestRefused)
    assert refused.highest_seq == 8
    assert isinstance(strict_event(windows, 8), dtcp.Rejected)
    windows.window = SequenceWindow(2**64 - 1)
    rolled = strict_event(windows, 0)
    assert isinstance(rolled, dtcp.RequestReceived)
    assert rolled.rolled_over
    # Where they are only repeated, any will do.
    for _ in range(2):
        other = strict_event(windows, 5, csource_id="other")
        assert isinstance(other, dtcp.RequestReceived)
        assert other.highest_seq is None


@pytest.mark.ledger("T-135", "T-136", "T-137", "T-138", "T-139", "T-140", "T-144", "T-145")
@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_lists_in_datagrams(count: int) -> None:
    entries = tuple(entry(number) for number in range(1, count + 1))
    response = dtcp.Response(V7, "5", NOW, dtcp.ListResult(entries))
    datagrams = render_datagrams(response, KEY, 1400)
    numbers = []
    for datagram in datagrams:
        assert len(datagram) <= 1400
        reply = dtcp.reply.parse_reply(datagram, KEY)
        assert (reply.code, reply.seq) == (200, "5")
        for item in reply.entries:
            values = {each.name.lower(): each.value for each in item}
            assert values["criteria-count"] == str(count)
            numbers.append((values["criteria-num"], values["criteria-id"]))
    assert numbers == [(str(number), str(number)) for number in range(1, count + 1)]
    assert (len(datagrams) > 1) == (count > 5)
    # An entry that is longer than that goes alone.
    assert len(render_datagrams(response, KEY, 10)) == max(count, 1)
    noop = dtcp.Response(V7, "5", NOW, dtcp.NoopResult())
    assert render_datagrams(noop, KEY, 10)[0].startswith(b"DTCP/0.7 200 OK")


def test_the_package_names_its_client_and_nothing_that_it_has_not() -> None:
    """The class lives beside sockets, so it is only looked for when somebody wants it."""
    assert dtcp.Client.__name__ == "Client"
    with pytest.raises(AttributeError, match="Server"):
        dtcp.Server  # noqa: B018 - the attribute is the matter


@pytest.mark.ledger("T-043")
@pytest.mark.parametrize("end", [b"", b"\r\n"])
def test_a_datagram_has_as_many_lines_as_a_message_of_a_stream(end: bytes) -> None:
    """Before anybody vouches for it, nothing of a message is read that is not needed for that."""
    limits = dtcp.Limits(lines=8)
    for more, is_read in ((4, True), (5, False)):
        lines = "".join(f"X-A{at}: b\r\n" for at in range(more))
        message = (
            sign(f"NOOP DTCP/0.7\r\n{lines}Csource-ID: md\r\nSeq: 1\r\n", KEY).removesuffix(b"\r\n") + end
        )
        event = dtcp.read_request(message, limits, Keys())
        assert isinstance(event, dtcp.RequestReceived if is_read else dtcp.Rejected), more
        connection = dtcp.ServerConnection(limits=limits, keys=Keys())
        connection.receive_data(message.removesuffix(end) + b"\r\n")
        assert isinstance(connection.next_event(), type(event))


def test_nothing_is_read_of_what_nobody_vouches_for(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    parameter = grammar.parameter

    def reading(line: str, at: int) -> Parameter:
        read.append(line)
        return parameter(line, at)

    monkeypatch.setattr(grammar, "parameter", reading)
    lines = "".join(f"X-A{at}: b\r\n" for at in range(200))
    message = sign(f"NOOP DTCP/0.7\r\n{lines}Csource-ID: md\r\nSeq: 1\r\n", dtcp.Key(b"wrong"))
    assert isinstance(dtcp.read_request(message, dtcp.Limits(), Keys()), dtcp.Rejected)
    assert read == ["Csource-ID: md", "Seq: 1"]
