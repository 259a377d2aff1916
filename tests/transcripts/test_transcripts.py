"""Exchanges as they stand on the wire: requests are read, answers come out octet by octet.

Files hold one message each, without the empty line that ends it; the key is the same for all.
"""

from __future__ import annotations

from datetime import datetime
from ipaddress import ip_address
from pathlib import Path

import pytest

from flowtap import dtcp
from flowtap.dtcp import Dialect, FilterText, ListEntry, Parameter, Status, Timeouts

KEY = dtcp.Key(b"flowtap-lab-key-0001")
HERE = Path(__file__).parent


class OneKey:
    def key_for(self, csource_id: str) -> dtcp.Key | None:
        return KEY if csource_id == "ttp-md1" else None


def wire(name: str) -> bytes:
    text = (HERE / f"{name}.txt").read_text()
    return (text.replace("\n", "\r\n") + "\r\n").encode()


def moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S.%f")  # noqa: DTZ007 - the protocol has no zone


def exchange(request: str, result: dtcp.Result, when: str, dialect: Dialect) -> bytes:
    connection = dtcp.ServerConnection(limits=dtcp.Limits(), keys=OneKey(), dialect=dialect)
    connection.receive_data(wire(request))
    event = connection.next_event()
    assert isinstance(event, dtcp.RequestReceived)
    connection.respond(event, result, moment(when))
    return connection.data_to_send()


@pytest.mark.ledger("T-065", "T-104", "T-170")
@pytest.mark.parametrize(
    ("request_name", "result", "when", "dialect", "answer"),
    [
        ("x1", dtcp.AddResult(1), "2026-03-02 10:15:30.250", Dialect.DRAFT, "x2"),
        ("x1", dtcp.AddResult(1), "2026-03-02 10:15:30.250", Dialect.VENDOR, "x2b"),
        ("x3", dtcp.AddResult(2), "2026-03-02 10:15:31.004", Dialect.DRAFT, "x4"),
        ("x8", dtcp.RefreshResult(1), "2026-03-02 10:20:00.500", Dialect.DRAFT, "x9"),
        ("x10", dtcp.DeleteResult(2), "2026-03-02 10:21:00.000", Dialect.DRAFT, "x11"),
        (
            "x12",
            dtcp.ErrorResult(Status.UNKNOWN_CRITERIA_ID, (Parameter("Criteria-ID", "77"),)),
            "2026-03-02 10:22:00.000",
            Dialect.DRAFT,
            "x13",
        ),
        ("x14", dtcp.NoopResult(), "2026-03-02 10:23:00.000", Dialect.DRAFT, "x15"),
    ],
)
def test_exchanges(request_name: str, result: dtcp.Result, when: str, dialect: Dialect, answer: str) -> None:
    assert exchange(request_name, result, when, dialect) == wire(answer)


def test_a_list_entry_has_the_draft_s_order() -> None:
    entry = ListEntry(
        csource_id="ttp-md1",
        csource_address=ip_address("192.0.2.10"),
        cdest_ids=("cd1",),
        criteria_id=2,
        added=moment("2026-03-02 10:15:31.004"),
        static=False,
        send_async=True,
        filter=FilterText(
            source="198.51.100.0/24,!198.51.100.9",
            destination="203.0.113.10-203.0.113.20",
            protocol="6,17",
            source_port="*",
            destination_port="53,5060-5070,40000-*",
        ),
        timeouts=Timeouts(idle_s=600, total_s=3600),
        remaining=Timeouts(idle_s=592, total_s=3571),
        average_bandwidth_bps=0,
        matching_packets=12,
        matching_octets=1044,
        refreshes=0,
        last_refresh=moment("2026-03-02 10:15:31.004"),
    )
    answer = exchange("x5", dtcp.ListResult((entry,)), "2026-03-02 10:16:00.000", Dialect.DRAFT)
    # The recorded answer is the second of two; here the entry is the only one.
    expected = wire("x6b").replace(
        b"Criteria-Count: 2\r\nCriteria-Num: 2", b"Criteria-Count: 1\r\nCriteria-Num: 1"
    )
    assert answer.split(b"Authentication-Info")[0] == expected.split(b"Authentication-Info")[0]


@pytest.mark.ledger("T-144")
def test_an_empty_list() -> None:
    answer = exchange("x5", dtcp.ListResult(), "2026-03-02 10:16:00.000", Dialect.DRAFT)
    text = wire("x7").replace(b"Seq: 4", b"Seq: 3")
    assert answer.split(b"Authentication-Info")[0] == text.split(b"Authentication-Info")[0]


@pytest.mark.parametrize(
    ("name", "code", "entries"),
    [("x2", 200, 0), ("x2b", 200, 0), ("x4", 200, 0), ("x6a", 200, 1), ("x6b", 200, 1), ("x13", 431, 0)],
)
def test_a_client_reads_them(name: str, code: int, entries: int) -> None:
    client = dtcp.ClientConnection(key=KEY, limits=dtcp.Limits())
    client.receive_data(wire(name))
    reply = client.next_reply()
    assert reply is not None
    assert (reply.code, len(reply.entries)) == (code, entries)
    assert reply.seq is not None


@pytest.mark.ledger("T-088")
@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("x16", Status.NOOP_NOTIFICATION),
        ("x21", Status.SERVER_RESTART),
        ("x22", Status.SEQUENCE_ROLLOVER),
    ],
)
def test_notifications(name: str, status: Status) -> None:
    lines = wire(name).decode().split("\r\n")
    given = dict(line.split(": ", 1) for line in lines[1:] if line)
    when = moment(given.pop("Timestamp"))
    del given["Authentication-Info"]
    parameters = tuple(Parameter(key, value) for key, value in given.items())
    connection = dtcp.ServerConnection(limits=dtcp.Limits(), keys=OneKey())
    notification = dtcp.Notification(dtcp.Version(0, 7), status, when, parameters)
    connection.send(notification, "ttp-md1")
    assert connection.data_to_send() == wire(name)
