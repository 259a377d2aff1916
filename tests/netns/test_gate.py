"""Copies for destinations behind tunnels, as an observer of the wire sees them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from net import PYTHON, Net, Tapper, until

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces"),
]

TAP, SUBJECT = "10.77.0.1", "10.77.0.2"
SOURCE, DEVICE = "10.78.0.1", "10.78.0.2"
PORT = 30_000
COPY_OCTETS = 128
"""The tapped packets are this long; the kernel hands several copies to the device in one frame."""
# How many copies are on the wire for the device's port, and the numbers of those received.
OBSERVER = f"""
import select, socket, struct, sys
wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
wire.bind(("eth0", 0x0800))
device = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
device.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)
device.bind(("{DEVICE}", {PORT}))
with open(sys.argv[1], "w", buffering=1) as file:
    print("ready", file=file)
    while True:
        for each in select.select([wire, device], [], [])[0]:
            data = each.recv(65536)
            if each is device:
                print("device", int.from_bytes(data[28:32], "big"), file=file)
            elif data[9] == 17 and struct.unpack_from("!H", data, 22)[0] == {PORT}:
                print("wire", (len(data) - 28) // {COPY_OCTETS}, file=file)
"""


class Observer:
    """What an observer beside the device has seen."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def is_ready(self) -> bool:
        return self._path.exists() and self._path.read_text().startswith("ready\n")

    def on_wire(self) -> int:
        lines = self._path.read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("wire "))

    def numbers(self) -> list[int]:
        lines = self._path.read_text().splitlines()
        return [int(line.split()[1]) for line in lines if line.startswith("device ")]


@pytest.fixture
def net() -> Iterator[Net]:
    with Net() as made:
        yield made


class Scene:
    """A subject, a tap and a device, each on a host of its own."""

    def __init__(self, net: Net, directory: Path) -> None:
        self.net = net
        self.tap, self.subject, device = net.namespace("tap"), net.namespace("sub"), net.namespace("dev")
        net.veth((self.tap, "eth0", f"{TAP}/24"), (self.subject, "eth0", f"{SUBJECT}/24"))
        net.veth((self.tap, "eth1", f"{SOURCE}/24"), (device, "eth0", f"{DEVICE}/24"))
        for inside, interface, address, of in (
            (self.tap, "eth1", DEVICE, device),
            (self.subject, "eth0", TAP, self.tap),
        ):
            there = net.address(of, "eth0").hex(":")
            net.run(inside, "ip", "neigh", "add", address, "lladdr", there, "dev", interface)
        path = directory / "seen"
        net.start(device, PYTHON, "-c", OBSERVER, str(path))
        self.observer = Observer(path)
        until("the observer is there", self.observer.is_ready)

    def tapper(self, gates: tuple[str, ...] = ("ttp",), **destination: Any) -> Tapper:
        values = {"address": DEVICE, "port": PORT, "source_address": SOURCE, "tunnel": "ttp"}
        values |= {"spool": "memory"} | destination
        options: dict[str, Any] = {"destinations": {"cd1": values}, "export": True, "gates": list(gates)}
        criteria = [{"id": 1, "protocol": 17, "destination_port": 9000, "deliver_to": ["cd1"]}]
        return self.net.tapper(self.tap, ["eth0"], criteria, **options)

    def speak(self, count: int, pause_s: float = 0.0005) -> None:
        self.net.send_udp(self.subject, TAP, count, pause_s=pause_s)

    def rule(self, *words: str) -> None:
        self.net.run(self.tap, "nft", " ".join(words))

    def guard(self) -> None:
        """A firewall that lets nothing through to the device."""
        self.rule("add table inet guard")
        self.rule("add chain inet guard out { type filter hook output priority 300; policy accept; }")
        self.rule(f"add rule inet guard out ip daddr {DEVICE} counter drop")


@pytest.fixture
def scene(net: Net, tmp_path: Path) -> Scene:
    return Scene(net, tmp_path)


def test_nothing_is_on_the_wire_before_the_gate_opens(scene: Scene) -> None:
    tapper = scene.tapper()
    scene.speak(200)
    until("all wait", lambda: tapper.stats()["in_spool"] == 200)
    stats = tapper.stats()
    assert (stats["copied"], stats["exported"], stats["dropped"], stats["in_queue"]) == (200, 0, 0, 0)
    assert scene.observer.on_wire() == 0
    tapper.open("ttp")
    until("all have left", lambda: tapper.stats()["exported"] == 200)
    until("all have arrived", lambda: len(scene.observer.numbers()) >= 200)
    assert scene.observer.numbers() == list(range(200))
    tapper.shut("ttp")
    scene.speak(50)
    until("the others wait", lambda: tapper.stats()["in_spool"] == 50)
    assert scene.observer.on_wire() == 200


def test_without_its_gate_nothing_leaves_whatever_sends(scene: Scene) -> None:
    tapper = scene.tapper(gates=("another",))
    scene.speak(20)
    until("all is dropped", lambda: tapper.stats()["dropped"] == 20)
    tapper.open("another")
    scene.speak(20)
    until("all is dropped", lambda: tapper.stats()["dropped"] == 40)
    assert "no gate" in tapper.stats()["destinations"]["cd1"]["last_error"]
    assert scene.observer.on_wire() == 0


@pytest.mark.parametrize("bound", [SOURCE, "0.0.0.0"])
def test_a_socket_of_the_caller_s_is_behind_the_gate_too(scene: Scene, bound: str) -> None:
    destination = {
        "address": DEVICE,
        "port": PORT,
        "source_address": SOURCE,
        "tunnel": "ttp",
        "spool": "memory",
    }
    options: dict[str, Any] = {
        "destinations": {"cd1": destination},
        "export": [bound, 40_000],
        "gates": ["ttp"],
    }
    criteria = [{"id": 1, "protocol": 17, "destination_port": 9000, "deliver_to": ["cd1"]}]
    tapper = scene.net.tapper(scene.tap, ["eth0"], criteria, **options)
    scene.speak(20)
    until("all wait", lambda: tapper.stats()["in_spool"] == 20)
    assert scene.observer.on_wire() == 0
    tapper.open("ttp")
    until("all have arrived", lambda: scene.observer.numbers() == list(range(20)))


def test_a_gate_that_opens_and_shuts_under_load_keeps_the_order(scene: Scene) -> None:
    """Every copy arrives once, in order, although workers and gate do not wait for each other."""
    tapper = scene.tapper()
    sender = scene.net.start(
        scene.subject,
        PYTHON,
        "-c",
        f"""
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(6000):
    s.sendto(number.to_bytes(4, "big") + b"x" * 96, ("{TAP}", 9000))
    if number % 10 == 0:
        time.sleep(0.002)
""",
    )
    while sender.poll() is None:
        tapper.open("ttp")
        tapper.stats()
        tapper.shut("ttp")
    tapper.open("ttp")
    until("all have left", lambda: tapper.stats()["exported"] == 6000)
    until("all have arrived", lambda: len(scene.observer.numbers()) >= 6000)
    assert scene.observer.numbers() == list(range(6000))
    assert scene.observer.on_wire() == 6000


def test_a_firewall_rule_in_the_way_costs_nothing(scene: Scene) -> None:
    """The gate is open, and the guard forbids it: they wait until it does not, and none overtakes another."""
    tapper = scene.tapper()
    tapper.open("ttp")
    scene.speak(30)
    until("the way is there", lambda: len(scene.observer.numbers()) == 30)
    scene.guard()
    scene.speak(100)
    until("all wait", lambda: tapper.stats()["in_spool"] == 100)
    stats = tapper.stats()
    assert (stats["exported"], stats["dropped"]) == (30, 0)
    assert "firewall" in stats["destinations"]["cd1"]["last_error"]
    scene.rule("delete table inet guard")
    until("all have arrived", lambda: len(scene.observer.numbers()) == 130)
    assert scene.observer.numbers() == [*range(30), *range(100)]
    stats = tapper.stats()
    assert (stats["exported"], stats["in_spool"], stats["dropped"]) == (130, 0, 0)


def test_without_a_spool_a_firewall_rule_costs_what_it_stops(scene: Scene) -> None:
    tapper = scene.tapper(spool="none")
    tapper.open("ttp")
    scene.guard()
    scene.speak(20)
    until("all is dropped", lambda: tapper.stats()["dropped"] == 20)
    assert scene.observer.on_wire() == 0


@pytest.mark.parametrize("lost", ["route", "address", "link"])
def test_a_way_that_is_not_there_costs_nothing(scene: Scene, lost: str) -> None:
    away, back = {
        "route": (["route", "del", "10.78.0.0/24"], ["route", "add", "10.78.0.0/24", "dev", "eth1"]),
        "address": (
            ["addr", "del", f"{SOURCE}/24", "dev", "eth1"],
            ["addr", "add", f"{SOURCE}/24", "dev", "eth1"],
        ),
        "link": (["link", "set", "eth1", "down"], ["link", "set", "eth1", "up"]),
    }[lost]
    tapper = scene.tapper()
    tapper.open("ttp")
    scene.speak(10)
    until("the way is there", lambda: len(scene.observer.numbers()) == 10)
    hardware = scene.net.run(scene.tap, "ip", "neigh", "show", DEVICE).split("lladdr ")[1].split()[0]
    scene.net.run(scene.tap, "ip", *away)
    scene.speak(50)
    until("all wait", lambda: tapper.stats()["in_spool"] == 50)
    assert tapper.stats()["dropped"] == 0
    scene.net.run(scene.tap, "ip", *back)
    # What the kernel forgot with the link.
    scene.net.run(scene.tap, "ip", "neigh", "replace", DEVICE, "lladdr", hardware, "dev", "eth1")
    until("all have arrived", lambda: len(scene.observer.numbers()) == 60)
    assert scene.observer.numbers() == [*range(10), *range(50)]


def test_what_is_in_the_way_of_one_is_not_in_the_way_of_others(scene: Scene) -> None:
    """Another gate, another destination: it gets what it is to get while the first one waits."""
    common = {"address": DEVICE, "source_address": SOURCE, "spool": "memory"}
    destinations = {
        "cd1": {**common, "port": PORT, "tunnel": "ttp"},
        "cd2": {**common, "port": PORT + 1, "tunnel": "other"},
        "cd3": {"address": DEVICE, "source_address": SOURCE, "port": PORT + 2},
    }
    criteria = [{"id": 1, "protocol": 17, "destination_port": 9000, "deliver_to": list(destinations)}]
    options: dict[str, Any] = {"destinations": destinations, "export": True, "gates": ["ttp", "other"]}
    tapper = scene.net.tapper(scene.tap, ["eth0"], criteria, **options)
    tapper.open("other")
    scene.speak(40)
    until("all are accounted for", lambda: tapper.stats()["exported"] == 80)
    counts = tapper.stats()["destinations"]
    assert [counts[name]["in_spool"] for name in destinations] == [40, 0, 0]
    assert [counts[name]["exported"] for name in destinations] == [0, 40, 40]
    assert scene.observer.on_wire() == 0


@pytest.mark.parametrize("spool", ["none", "memory"])
def test_answers_of_the_network_are_about_earlier_copies(scene: Scene, spool: str) -> None:
    """Nobody listens, and each answer comes with the next send: none of the copies is held or lost for that."""
    tapper = scene.tapper(spool=spool, port=PORT + 9)
    tapper.open("ttp")
    scene.speak(300, pause_s=0.002)
    until("all have left", lambda: tapper.stats()["exported"] == 300)
    stats = tapper.stats()
    assert (stats["in_spool"], stats["dropped"]) == (0, 0)
    assert "listens" in stats["destinations"]["cd1"]["last_error"]


def test_what_was_in_a_lost_tunnel_comes_again_before_all_else(scene: Scene) -> None:
    tapper = scene.tapper(resend_s=60)
    tapper.open("ttp")
    scene.speak(100)
    until("all have arrived", lambda: len(scene.observer.numbers()) == 100)
    tapper.shut("ttp", in_doubt_s=60)
    scene.speak(50)
    until("the others wait", lambda: tapper.stats()["in_spool"] == 50)
    assert scene.observer.on_wire() == 100
    tapper.open("ttp")
    until("all have arrived", lambda: len(scene.observer.numbers()) == 250)
    assert scene.observer.numbers() == [*range(100), *range(100), *range(50)]
    counts = tapper.stats()["destinations"]["cd1"]
    assert (counts["exported"], counts["resent"], counts["exported_in_doubt"]) == (150, 100, 0)


def test_what_is_too_long_does_not_change_what_becomes_of_the_others(scene: Scene) -> None:
    """Beside another program's port: of copies that are held none counts as sent because one among them never can be."""
    scene.net.run(scene.tap, "ip", "link", "set", "eth1", "mtu", "1000")
    taken = f"""
import socket, time
other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
other.bind(("{SOURCE}", 65534))
print("taken", flush=True)
time.sleep(60)
"""
    scene.net.start(scene.tap, PYTHON, "-c", taken)
    until("the port is taken", lambda: "65534" in scene.net.run(scene.tap, "ss", "-Huln"))
    tapper = scene.tapper(oversize="refuse")
    tapper.open("ttp")
    scene.speak(10)
    until("the way is there", lambda: len(scene.observer.numbers()) == 10)
    scene.guard()
    mixed = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(60):
    s.sendto(number.to_bytes(4, "big") + b"x" * (1196 if number % 3 == 1 else 96), ("{TAP}", 9000))
"""
    scene.net.run(scene.subject, PYTHON, "-c", mixed)
    until("all are copied", lambda: tapper.stats()["copied"] == 70)
    stats = tapper.stats()
    assert stats["exported"] == 10
    scene.rule("delete table inet guard")
    short = [number for number in range(60) if number % 3 != 1]
    until("what can has left", lambda: tapper.stats()["in_spool"] == 0)
    stats = tapper.stats()
    assert (stats["exported"], stats["dropped"]) == (10 + len(short), 20)
    until("all have arrived", lambda: len(scene.observer.numbers()) == 10 + len(short))
    assert scene.observer.numbers() == [*range(10), *short]


def test_when_enough_frames_came_their_copies_still_wait_for_the_gate(scene: Scene) -> None:
    destination = {
        "address": DEVICE,
        "port": PORT,
        "source_address": SOURCE,
        "tunnel": "ttp",
        "spool": "memory",
    }
    options: dict[str, Any] = {"destinations": {"cd1": destination}, "export": True, "gates": ["ttp"]}
    criteria = [{"id": 1, "protocol": 17, "destination_port": 9000, "deliver_to": ["cd1"]}]
    tapper = scene.net.tapper(scene.tap, ["eth0"], criteria, frames_max=20, **options)
    scene.speak(30)
    until("they wait", lambda: tapper.stats()["in_spool"] == 20)
    tapper.open("ttp")
    until("they have left", lambda: tapper.stats()["exported"] == 20)
    until("all have arrived", lambda: scene.observer.numbers() == list(range(20)))


def test_the_account_of_many_workers_is_true_at_every_moment(scene: Scene) -> None:
    """Who asks gets the counts of spools and workers of slightly different moments, and they fit all the same."""
    many = {f"cd{number}": {"port": PORT + number} for number in range(1, 9)}
    common = {"address": DEVICE, "source_address": SOURCE, "tunnel": "ttp", "spool": "memory"}
    destinations = {name: {**common, **values, "spool_octets": 100_000} for name, values in many.items()}
    criteria = [{"id": 1, "protocol": 17, "destination_port": 9000, "deliver_to": list(destinations)}]
    options: dict[str, Any] = {"destinations": destinations, "export": True, "gates": ["ttp"], "workers": 4}
    tapper = scene.net.tapper(scene.tap, ["eth0"], criteria, **options)
    # Workers share frames by their addresses and ports.
    load = f"""
import socket, time
senders = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(16)]
end = time.monotonic() + 4
while time.monotonic() < end:
    for sender in senders * 4:
        sender.sendto(b"x" * 60, ("{TAP}", 9000))
    time.sleep(0.001)
"""
    sender = scene.net.start(scene.subject, PYTHON, "-c", load)
    asked = 0
    while sender.poll() is None:
        (tapper.shut if asked % 4 else tapper.open)("ttp")
        for _ in range(5):
            stats = tapper.stats(pause_s=0)
            accounted = stats["exported"] + stats["in_queue"] + stats["in_spool"] + stats["dropped"]
            assert stats["copied"] + stats["recovered"] == accounted
            asked += 1
    assert asked > 100
