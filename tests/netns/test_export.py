"""Copies that a live tap sends: they are not tapped again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from net import Net, until

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces"),
]

HERE, THERE = "10.77.0.1", "10.77.0.2"



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
    one, _ = pair
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


def test_everybody_s_address_is_no_source(net: Net, pair: tuple[str, str]) -> None:
    """The kernel would send from the interface's own address, and such copies are not known as the tap's."""
    one, _ = pair
    net.run(one, "ip", "addr", "replace", f"{HERE}/24", "broadcast", "10.77.0.255", "dev", "eth0")
    destination = {"address": THERE, "port": 30_000, "source_address": "10.77.0.255"}
    options: dict[str, Any] = {"destinations": {"cd1": destination}, "export": True}
    tapper = net.tapper(one, ["eth0"], [{"id": 1, "protocol": 17, "deliver_to": ["cd1"]}], **options)
    net.send_udp(one, THERE, 10)
    until("all is dropped", lambda: tapper.stats()["dropped"] >= 10)
    stats = tapper.stats()
    assert (stats["matched"], stats["exported"], stats["dropped"]) == (10, 0, 10)
