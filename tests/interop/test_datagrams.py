"""Where datagrams come from and where answers go, byte for byte on real sockets; the names in them decide, not these."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from daemon import FOR_EVER, KEY, OWN_KEY, V7, Tap, end, start, write_configuration

from flowtap.cli.local import ask
from flowtap.dtcp import (
    AddRequest,
    Delivery,
    FilterText,
    ListRequest,
    NoopRequest,
    Reply,
    Request,
    Status,
    Version,
)
from flowtap.dtcp.render import render_request
from flowtap.dtcp.reply import parse_reply

pytestmark = pytest.mark.interop

VERSIONS = (Version(0, 6), Version(0, 7), Version(0, 8))
SOURCES = """
[control_source.far]
key_file = "own.key"
addresses = ["127.0.7.0/24", "2001:db8::/32"]
[control_source.n6]
key_file = "own.key"
notification_version = "0.6"
notification_targets = ["127.0.0.1:{target}"]
[control_source.n7]
key_file = "own.key"
notification_version = "0.7"
notification_targets = ["127.0.0.1:{target}"]
[control_source.n8]
key_file = "own.key"
notification_version = "0.8"
notification_targets = ["127.0.0.1:{target}"]
[dtcp.udp]
listen = ["0.0.0.0:0", "127.0.0.1:0", "[::]:0"]
"""


class Peer:
    """A socket of somebody who asks; it is connected to nobody, so that it hears whoever speaks to it."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 0))
        self.socket.settimeout(5)

    def send(self, request: Request, to: tuple[str, int]) -> None:
        self.socket.sendto(render_request(request, OWN_KEY), to)

    def hear(self) -> tuple[Reply, tuple[str, int]]:
        data, where = self.socket.recvfrom(65_536)
        return parse_reply(data, OWN_KEY), where[:2]

    def ask(self, request: Request, to: tuple[str, int]) -> Reply:
        """The answer, which must come from where the request was sent to."""
        self.send(request, to)
        reply, where = self.hear()
        assert where == to
        assert reply.seq == request.seq
        return reply

    def is_left_alone(self, seconds: float = 0.5) -> bool:
        self.socket.settimeout(seconds)
        try:
            self.socket.recv(65_536)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(5)
        return False


@pytest.fixture
def peers() -> Iterator[dict[str, Peer]]:
    made = {address: Peer(address) for address in ("127.0.0.1", "127.0.5.1", "127.0.7.1", "::1")}
    made["target"] = Peer()
    yield made
    for peer in made.values():
        peer.socket.close()


@pytest.fixture
def tap(tmp_path: Path, peers: dict[str, Peer]) -> Iterator[Tap]:
    extra = SOURCES.format(target=peers["target"].socket.getsockname()[1])
    write_configuration(tmp_path, FOR_EVER, extra)
    path = tmp_path / "flowtap.toml"
    path.write_text(
        path.read_text().replace("[control_source.md]\n", '[control_source.md]\nkey_file = "own.key"\n')
    )
    running = start(tmp_path)
    yield running
    end(running)


def ports(tap: Tap) -> list[int]:
    return [int(each.rpartition(":")[2]) for each in ask(tap.socket, "status")["udp"]]


def noop(seq: int, csource_id: str = "md", version: Version = V7, *, send_async: bool = False) -> NoopRequest:
    return NoopRequest(version, csource_id, str(seq), send_async=send_async)


def add(seq: int, csource_id: str) -> AddRequest:
    delivery = Delivery(ip_address("127.0.0.1"), 9, ip_address("127.0.0.1"), 40_011)
    source = FilterText(source="192.0.2.1")
    return AddRequest(V7, csource_id, str(seq), ("cd1",), source, static=True, deliveries=(delivery,))


@pytest.mark.ledger("T-005", "T-010", "T-011", "T-012", "T-013", "T-014", "T-015", "T-136")
def test_an_answer_goes_the_way_back(tap: Tap, peers: dict[str, Peer]) -> None:
    """From the address and port that were asked, to those that asked, on every address of a host that has many."""
    any_v4, one_v4, any_v6 = ports(tap)
    seq = 0
    for to in (("127.0.0.1", any_v4), ("127.9.9.9", any_v4), ("127.0.0.1", one_v4)):
        for address in ("127.0.0.1", "127.0.5.1"):
            seq += 1
            assert peers[address].ask(noop(seq), to).code == 200
    assert peers["::1"].ask(noop(seq + 1), ("::1", any_v6)).code == 200
    # One answer each, and to nobody else.
    assert all(peer.is_left_alone(0.1) for peer in peers.values())
    assert len({any_v4, one_v4, any_v6}) == 3


@pytest.mark.ledger("T-137", "T-138", "T-139", "T-140", "T-142")
def test_all_parts_of_a_list_come_the_same_way(tap: Tap, peers: dict[str, Peer]) -> None:
    port = ports(tap)[0]
    for seq in range(1, 31):
        assert peers["127.0.5.1"].ask(add(seq, "md"), ("127.0.0.1", port)).code == 200
    peers["127.0.0.1"].send(ListRequest(V7, "md", "31", stats=True), ("127.3.3.3", port))
    numbers: list[int] = []
    parts = 0
    while len(numbers) < 30:
        data, where = peers["127.0.0.1"].socket.recvfrom(65_536)
        assert where == ("127.3.3.3", port)
        assert len(data) <= 1_400
        reply = parse_reply(data, OWN_KEY)
        assert (reply.code, reply.seq) == (200, "31")
        entries = [{each.name: each.value for each in entry} for entry in reply.entries]
        assert {each["Criteria-Count"] for each in entries} == {"30"}
        numbers += [int(each["Criteria-Num"]) for each in entries]
        parts += 1
    assert numbers == list(range(1, 31))
    assert parts > 5


@pytest.mark.ledger("T-003", "T-009")
def test_who_asks_is_known_by_name_alone(tap: Tap, peers: dict[str, Peer]) -> None:
    """Two control sources at one address and port are two; one at two addresses is one."""
    to = ("127.0.0.1", ports(tap)[0])
    one, other = peers["127.0.0.1"], peers["127.0.5.1"]
    assert one.ask(add(1, "md"), to).value("Criteria-ID") == "1"
    assert one.ask(add(1, "md2"), to).value("Criteria-ID") == "2"
    for peer, name, seq, expected in ((one, "md", 2, "1"), (other, "md", 3, "1"), (other, "md2", 2, "2")):
        (entry,) = peer.ask(ListRequest(V7, name, str(seq)), to).entries
        assert {each.name: each.value for each in entry}["Criteria-ID"] == expected


@pytest.mark.ledger("T-016", "T-041", "T-046")
def test_source_filters(tap: Tap, peers: dict[str, Peer]) -> None:
    """Where a control source has addresses, it gets answers there; elsewhere it is as if it did not exist."""
    to = ("127.0.0.1", ports(tap)[0])
    assert peers["127.0.7.1"].ask(noop(1, "far"), to).code == 200
    peers["127.0.0.1"].send(noop(2, "far"), to)
    peers["::1"].send(noop(3, "far"), ("::1", ports(tap)[2]))
    assert peers["127.0.0.1"].is_left_alone()
    assert peers["::1"].is_left_alone(0.1)
    tap.until("499 Unknown Control Source Identifier: from 127.0.0.1")
    tap.until("499 Unknown Control Source Identifier: from ::1")
    # Its numbers were not used up by that.
    assert peers["127.0.7.1"].ask(noop(2, "far"), to).code == 200


@pytest.mark.ledger("T-024", "T-027", "T-028", "T-147", "T-152", "T-179")
def test_every_version_of_requests_beside_every_version_of_notifications(
    tap: Tap, peers: dict[str, Peer]
) -> None:
    """All of them can be reconciled: the answer has the request's version, the notification the configured one."""
    to = ("127.0.0.1", ports(tap)[0])
    for name, configured in zip(("n6", "n7", "n8"), VERSIONS, strict=True):
        for seq, version in enumerate(VERSIONS, start=1):
            assert peers["127.0.0.1"].ask(noop(seq, name, version, send_async=True), to).version == version
            told, _ = peers["target"].hear()
            assert (told.code, told.version, told.seq) == (131, configured, None)
    assert peers["target"].is_left_alone(0.1)


@pytest.mark.ledger("T-041", "T-045", "T-046", "T-050", "T-052", "T-053", "T-058", "T-060", "T-162")
def test_what_deserves_no_answer_gets_none_and_is_logged(tap: Tap, peers: dict[str, Peer]) -> None:
    to = ("127.0.0.1", ports(tap)[0])
    peer = peers["127.0.0.1"]
    assert peer.ask(noop(500), to).code == 200
    good = render_request(noop(501), OWN_KEY)
    for octets, words in (
        (good.replace(b"501", b"502"), "497 Invalid Authentication: from 127.0.0.1"),
        (render_request(noop(700), KEY), "497 Invalid Authentication: from 127.0.0.1"),
        (render_request(noop(501, "nobody"), OWN_KEY), "499 Unknown Control Source Identifier"),
        (render_request(noop(500), OWN_KEY), "498 Invalid Sequence Number: from 127.0.0.1"),
        (render_request(noop(757), OWN_KEY), "498 Invalid Sequence Number: from 127.0.0.1"),
        (render_request(noop(243), OWN_KEY), "498 Invalid Sequence Number: from 127.0.0.1"),
        (good.split(b"Authentication-Info")[0] + b"\r\n", "497 Invalid Authentication"),
    ):
        # The log has one line a second of each peer.
        time.sleep(1.1)
        before = tap.log.count(words)
        peer.socket.sendto(octets, to)
        deadline = time.monotonic() + 10
        while tap.log.count(words) == before:
            assert time.monotonic() < deadline, tap.log
            time.sleep(0.02)
    assert peer.is_left_alone()
    # The number of a message that nobody vouched for was not believed either: 756 is just ahead of 500.
    assert peer.ask(noop(756), to).code == 200
    assert peer.ask(noop(501), to).code == 200
    peer.send(noop(501), to)
    assert peer.is_left_alone()
    assert ask(tap.socket, "control-sources")["control_sources"][0]["sequence_number"] == 756


@pytest.mark.ledger("T-084", "T-170")
def test_success_is_200_ok_in_the_octets(tap: Tap, peers: dict[str, Peer]) -> None:
    to = ("127.0.0.1", ports(tap)[0])
    peers["127.0.0.1"].send(noop(1), to)
    assert peers["127.0.0.1"].socket.recv(65_536).startswith(b"DTCP/0.7 200 OK\r\n")
    refused = peers["127.0.0.1"].ask(replace(add(2, "md"), cdest_ids=("cd1", "cd2")), to)
    assert refused.code == Status.IMPROPER_FILTER
