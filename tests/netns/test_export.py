"""Copies that a live tap sends: they are not tapped again, and a slow way for some costs the others nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from net import PYTHON, Net, until

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces"),
]

HERE, THERE = "10.77.0.1", "10.77.0.2"

SENT = 36_000
SEND_MIXED = f"""
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
began = time.monotonic()
for number in range({SENT}):
    s.sendto(b"x" * 1000, ("{HERE}", 9 if number % 32 else 10))
    # 12,000 a second.
    while number % 120 == 0 and time.monotonic() - began < number / 12_000:
        time.sleep(0.001)
"""


@pytest.fixture
def net() -> Iterator[Net]:
    with Net() as made:
        yield made


@pytest.fixture
def pair(net: Net) -> tuple[str, str]:
    """Two hosts; the first one taps."""
    one, other = net.namespace("a"), net.namespace("b")
    net.veth((one, "eth0", f"{HERE}/24"), (other, "eth0", f"{THERE}/24"))
    for inside, address, of in ((one, THERE, other), (other, HERE, one)):
        hardware = net.address(of, "eth0").hex(":")
        net.run(inside, "ip", "neigh", "add", address, "lladdr", hardware, "dev", "eth0")
    return one, other


@pytest.mark.parametrize("bound", [HERE, "0.0.0.0"])
def test_copies_through_a_socket_of_the_caller_s_are_not_tapped(
    net: Net, pair: tuple[str, str], bound: str
) -> None:
    one, other = pair
    # Somebody takes them, so that nobody says that they could not be delivered.
    words = (
        "import socket, time; s = socket.socket(2, 2); s.bind(('', 30000)); print(flush=True); time.sleep(60)"
    )
    taker = net.start(other, PYTHON, "-c", words, stdout=subprocess.PIPE)
    assert taker.stdout is not None
    taker.stdout.readline()
    # The tasked source is another one: what leaves has that of the socket.
    destination = {"address": THERE, "port": 30_000, "source_address": "192.0.2.1"}
    options: dict[str, Any] = {"destinations": {"cd1": destination}, "export": [bound, 40_000]}
    criteria = [{"id": 1, "protocol": 17, "deliver_to": ["cd1"]}]
    tapper = net.tapper(one, ["eth0"], criteria, **options)
    # The longest one becomes a copy in two fragments.
    for octets in (100, 1_472):
        net.send_udp(one, THERE, 10, octets=octets)
    until("all is copied", lambda: tapper.stats()["exported"] >= 20)
    stats = tapper.stats()
    assert (stats["matched"], stats["copied"], stats["exported"]) == (20, 20, 20)
    # Ten copies whole, ten in two fragments.
    assert stats["own"] == 30


def test_what_goes_through_the_tap_s_own_tunnel_is_not_tapped(net: Net, pair: tuple[str, str]) -> None:
    """With the kernel's IPsec the interface shows what was decrypted once more, as if it had come in clear."""
    one, other = pair
    device, speaker = "2.2.2.2", "100.100.100.101"
    net.run(one, "ip", "addr", "add", f"{speaker}/32", "dev", "lo")
    net.run(one, "ip", "route", "add", "2.2.2.0/27", "via", THERE)
    net.run(other, "ip", "addr", "add", f"{device}/27", "dev", "lo")
    net.run(other, "ip", "route", "add", f"{speaker}/32", "via", HERE)
    tunnel = [HERE, THERE, [speaker], ["2.2.2.0/27"]]
    tapper = net.tapper(one, ["eth0"], [{"id": 1, "protocol": "17,50"}], tunnels=[tunnel])
    net.send_udp(one, device, 10, source=speaker)
    net.send_udp(other, speaker, 10, source=device, octets=3_000)
    net.send_udp(one, THERE, 10, source=HERE, port=4500)
    # From another address of this host.
    net.send_udp(one, device, 10, source=HERE)
    until("all is seen", lambda: tapper.stats()["matched"] >= 10)
    stats = tapper.stats()
    # "Port unreachable" goes through it as well.
    assert stats["own"] >= 10 + 30 + 10
    assert stats["matched"] == 10


def test_everybody_s_address_is_no_source(net: Net, pair: tuple[str, str]) -> None:
    """The kernel would send from the interface's own address, and such copies are not known as the tap's."""
    one, _ = pair
    destination = {"address": THERE, "port": 30_000, "source_address": "10.77.0.255"}
    options: dict[str, Any] = {"destinations": {"cd1": destination}, "export": True}
    tapper = net.tapper(one, ["eth0"], [{"id": 1, "protocol": 17, "deliver_to": ["cd1"]}], **options)
    net.send_udp(one, THERE, 10)
    until("all is dropped", lambda: tapper.stats()["dropped"] >= 10)
    stats = tapper.stats()
    assert (stats["matched"], stats["exported"], stats["dropped"]) == (10, 0, 10)


def test_a_slow_way_for_some_costs_the_others_nothing(net: Net, pair: tuple[str, str]) -> None:
    """What finds no room is dropped and counted; frames for other destinations find room in the ring."""
    one, other = pair
    third = net.namespace("c")
    net.veth((one, "eth1", "10.78.0.1/24"), (third, "eth0", "10.78.0.2/24"))
    net.run(
        one, "ip", "neigh", "add", "10.78.0.2", "lladdr", net.address(third, "eth0").hex(":"), "dev", "eth1"
    )
    net.run(
        one,
        "tc",
        "qdisc",
        "add",
        "dev",
        "eth1",
        "root",
        "tbf",
        "rate",
        "64kbit",
        "burst",
        "2000",
        "limit",
        "4000",
    )
    destinations = {
        "fast": {"address": THERE, "port": 30_000, "source_address": HERE},
        **{
            f"slow{number}": {"address": "10.78.0.2", "port": 30_000 + number, "source_address": "10.78.0.1"}
            for number in range(8)
        },
    }
    criteria = [
        {"id": 1, "protocol": 17, "destination_port": 9, "deliver_to": ["fast"]},
        *(
            {"id": 2 + number, "protocol": 17, "destination_port": 10, "deliver_to": [f"slow{number}"]}
            for number in range(8)
        ),
    ]
    options: dict[str, Any] = {"destinations": destinations, "export": True, "ring_octets": 2 << 20}
    tapper = net.tapper(one, ["eth0"], criteria, **options)
    # About a quarter of a ring every 10 ms, and in each of these something for every slow way.
    sender = net.start(other, PYTHON, "-c", SEND_MIXED)
    assert sender.wait(timeout=30) == 0
    # A busy machine may keep a worker from its ring for a while; waiting for every slow way lost three quarters.
    until("nearly all is read", lambda: tapper.stats()["matched"] >= SENT * 0.8)
    stats = tapper.stats()
    assert stats["copied"] == stats["exported"] + stats["dropped"]
    assert stats["dropped"] > 0
    # Nothing of what could leave was lost.
    (fast,) = (each["packets"] for each in stats["criteria"] if each["id"] == 1)
    assert stats["exported"] >= fast - SENT // 32
