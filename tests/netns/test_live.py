"""Live taps on veth pairs: what is on the wire is matched, once, and accounted for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from net import PYTHON, Net, Tapper, udp_packet, until

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces"),
]

HERE, THERE = "10.77.0.1", "10.77.0.2"
FROM_THERE = {"id": 1, "source": THERE}


@pytest.fixture
def net() -> Iterator[Net]:
    with Net() as made:
        yield made


@pytest.fixture
def pair(net: Net) -> tuple[str, str]:
    """Two hosts; the first one taps."""
    one, other = net.namespace("a"), net.namespace("b")
    net.veth((one, "eth0", f"{HERE}/24"), (other, "eth0", f"{THERE}/24"))
    # Both know each other, so that nobody has to ask.
    for inside, address, of in ((one, THERE, other), (other, HERE, one)):
        hardware = net.address(of, "eth0").hex(":")
        net.run(inside, "ip", "neigh", "add", address, "lladdr", hardware, "dev", "eth0")
    return one, other


class Told:
    """Everything that a tap has told."""

    def __init__(self, tapper: Tapper) -> None:
        self._tapper = tapper
        self._events: list[str] = []

    def has(self, words: str) -> bool:
        self._events += self._tapper.events()
        return any(words in event for event in self._events)


def captured(tapper: Tapper) -> int:
    return int(tapper.stats()["captures"][0]["received"])


def start_capture(net: Net, inside: str, *words: str) -> subprocess.Popen[str]:
    """``flowtap capture``, which captures when this returns."""
    process = net.start(
        inside,
        *(PYTHON, "-m", "flowtap", "capture", *words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    # Once there is a socket (beside the head of the list) it takes signals; it counts when its filter is there too.
    until("it has a socket", lambda: len(net.run(inside, "cat", "/proc/net/packet").splitlines()) > 1)
    assert process.stderr is not None
    counted = "0 frames"
    while counted.startswith("0 frames"):
        net.send_udp(inside, THERE, 1)
        process.send_signal(signal.SIGUSR1)
        counted = process.stderr.readline()
    assert " frames received, 0 dropped" in counted
    return process


@pytest.mark.parametrize("workers", [1, 2])
def test_packets_are_counted_where_they_come_in_or_are_made(
    net: Net, pair: tuple[str, str], workers: int
) -> None:
    one, other = pair
    to_there = {"id": 2, "destination": THERE}
    tapper = net.tapper(one, ["eth0"], [FROM_THERE, to_there], workers=workers)
    net.send_udp(other, HERE, 50, pause_s=0)
    net.send_udp(one, THERE, 30, pause_s=0)
    # Nobody listens, so each datagram is answered by ICMP, within what the kernel allows.
    packets = tapper.packets()
    assert 50 <= packets[1] <= 50 + 30
    assert 30 <= packets[2] <= 30 + 50
    stats = tapper.stats()
    assert stats["frames"] == stats["captures"][0]["received"]
    assert stats["captures"][0]["dropped"] == 0
    assert stats["captures"][0]["filter"].startswith("eBPF")


def test_the_filter_in_the_kernel_changes_no_match(net: Net, pair: tuple[str, str]) -> None:
    """The same traffic with each kind of filter: the same matches, and fewer frames in user space."""
    one, other = pair
    criteria: list[dict[str, Any]] = [
        {"id": 1, "source": "198.18.0.0/28"},
        {"id": 2, "destination": "198.19.3.3", "destination_port": "9000-9010"},
        {"id": 3, "source": "198.18.1.1,198.18.2.2", "protocol": "!6"},
    ]
    taps = {
        kind: net.tapper(one, ["eth0"], criteria, **options)
        for kind, options in {"eBPF": {}, "classic BPF": {"prefilter": False}}.items()
    }
    open_criteria = [*criteria, {"id": 4, "circuit": True}]
    taps["none"] = net.tapper(one, ["eth0"], open_criteria)
    hardware = net.address(one, "eth0") + net.address(other, "eth0")
    frames = []
    for number in range(2000):
        source = f"198.18.{number % 4}.{number % 37}"
        destination = f"198.19.{number % 5}.{number % 5}"
        packet = udp_packet(source, destination, b"payload", port=8995 + number % 20)
        tag = bytes.fromhex("81000007") if number % 3 == 0 else b""
        frames.append(hardware + tag + b"\x08\x00" + packet)
    net.send_frames(other, "eth0", frames)
    found = {}
    for kind, tapper in taps.items():
        stats = tapper.stats()
        assert kind == "none" or stats["captures"][0]["filter"].startswith(kind), stats["captures"]
        found[kind] = {each["id"]: each["packets"] for each in stats["criteria"] if each["id"] < 4}
    assert found["eBPF"] == found["classic BPF"] == found["none"]
    assert all(found["eBPF"].values())
    assert captured(taps["eBPF"]) < 1200 < captured(taps["none"])


def tshark(path: Path, *fields: str) -> list[list[str]]:
    words = [word for field in fields for word in ("-e", field)]
    done = subprocess.run(
        ["tshark", "-r", str(path), "-o", "udp.check_checksum:TRUE", "-T", "fields", *words],
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.split("\t") for line in done.stdout.splitlines()]


def test_tags_are_put_back_and_unfinished_checksums_completed(
    net: Net, pair: tuple[str, str], tmp_path: Path
) -> None:
    one, other = pair
    output = tmp_path / "out.pcapng"
    words = ("capture", "-i", "eth0", "-w", str(output), "-c", "60", "udp or vlan")
    process = net.start(one, PYTHON, "-m", "flowtap", *words)
    time.sleep(1.5)
    # These are made by the kernel, which leaves their checksums to a card that is none.
    net.send_udp(other, HERE, 20)
    net.send_udp(one, THERE, 20)
    hardware = net.address(one, "eth0") + net.address(other, "eth0")
    packet = b"\x08\x00" + udp_packet(THERE, HERE, b"tagged")
    tags = [bytes.fromhex("8100a007"), bytes.fromhex("88a8000981000007")]
    net.send_frames(other, "eth0", [hardware + tag + packet for tag in tags * 10])
    assert process.wait(timeout=20) == 0
    names = (
        *("vlan.id", "udp.checksum.status", "frame.interface_name"),
        *("frame.packet_flags_direction", "ieee8021ad.id"),
    )
    lines = tshark(output, *names)
    assert len(lines) == 60
    assert {line[2] for line in lines} == {"eth0"}
    assert [(line[4], line[0]) for line in lines if line[0]] == [("", "7"), ("9", "7")] * 10
    plain = [line for line in lines if not line[0]]
    # Good, also those that went out from here.
    assert [line[1] for line in plain] == ["1"] * 40
    assert [int(line[3], 16) for line in plain] == [1] * 20 + [2] * 20


def test_a_signal_ends_an_idle_capture_at_once(net: Net, pair: tuple[str, str]) -> None:
    one, _ = pair
    process = net.start(
        one,
        PYTHON,
        "-m",
        "flowtap",
        "capture",
        "-i",
        "eth0",
        "-i",
        "lo",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    time.sleep(1.5)
    began = time.monotonic()
    # The namespace's program is the tap itself by now.
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=10)
    ended = time.monotonic() - began
    assert process.returncode == 0, errors
    assert "eth0: " in output
    assert "lo: " in output
    assert "frames captured" in output
    # The interpreter's own end is part of it; the wait for frames is at most 100 ms.
    assert ended < 1.0


def test_what_was_received_before_a_signal_is_looked_at(net: Net, pair: tuple[str, str]) -> None:
    """A capture that wakes up with a full ring and its end at once."""
    one, other = pair
    # The kernel gives a block away every 4 ms, full or not; there are enough for two seconds.
    process = start_capture(net, one, *("-i", "eth0", "--json", "--fail-on-drop", "-B", str(512 << 10)))
    process.send_signal(signal.SIGSTOP)
    count = 40_000
    net.send_udp(other, HERE, count, pause_s=0, octets=8)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    output, errors = process.communicate(timeout=10)
    assert process.returncode == 0, errors
    told = json.loads(output)
    (counted,) = told["interfaces"]
    assert counted["dropped"] == 0
    assert told["matched"] == told["frames"] == counted["received"] >= count


def test_what_comes_after_a_signal_is_not_waited_for(net: Net, pair: tuple[str, str]) -> None:
    """Frames without an end do not put off that of the capture, and each is taken or was never received."""
    one, other = pair
    process = start_capture(
        net, one, *("-i", "eth0", "-i", "lo", "--json", "--fail-on-drop", "--workers", "2")
    )
    sender = threading.Thread(target=net.send_udp, args=(other, HERE, 400_000), kwargs={"pause_s": 0})
    sender.start()
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=5)
    is_sending = sender.is_alive()
    sender.join()
    assert process.returncode == 0, errors
    assert is_sending
    told = json.loads(output)
    assert told["frames"] == sum(each["received"] for each in told["interfaces"]) > 1000


def test_an_output_that_takes_nothing_is_an_error(net: Net, pair: tuple[str, str]) -> None:
    """Also where it is known only at the end, when what was gathered is to be written."""
    one, other = pair
    process = net.start(
        one,
        *(PYTHON, "-m", "flowtap", "capture", "-i", "eth0", "--json", "-w", "/dev/full", "-c", "1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while process.poll() is None:
        net.send_udp(other, HERE, 1)
    output, errors = process.communicate(timeout=10)
    assert "/dev/full: cannot write" in errors
    assert process.returncode == 1
    told = json.loads(output)
    assert (told["matched"], told["written"]) == (1, 0)


def test_what_the_kernel_drops_is_counted(net: Net, pair: tuple[str, str]) -> None:
    """A ring of two mebibytes whose reader is stopped."""
    one, other = pair
    process = start_capture(net, one, "-i", "eth0", "-B", "2048", "--json", "--fail-on-drop")
    process.send_signal(signal.SIGSTOP)
    hardware = net.address(one, "eth0") + net.address(other, "eth0")
    frame = hardware + b"\x08\x00" + udp_packet(THERE, HERE, b"x" * 1400)
    net.send_frames(other, "eth0", [frame] * 6000)
    process.send_signal(signal.SIGCONT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=10)
    assert process.returncode == 5, errors
    (counted,) = json.loads(output)["interfaces"]
    assert counted["dropped"] > 0
    assert counted["received"] + counted["dropped"] >= 6000
    assert counted["freezes"] > 0


def test_changes_of_the_table_lose_nothing(net: Net, pair: tuple[str, str]) -> None:
    """A criterion that stays counts every packet while a thousand others come and go."""
    one, other = pair
    watched = {"id": 1, "source": THERE, "destination_port": "9000", "protocol": 17}
    tapper = net.tapper(one, ["eth0"], [watched], workers=2)
    count = 20_000
    sender = threading.Thread(target=net.send_udp, args=(other, HERE, count), kwargs={"pause_s": 0.0001})
    sender.start()
    number = 2
    while sender.is_alive():
        # Some are in their own map, some make the filter wider, some reach into the stayer's traffic.
        tapper.change(add=[{"id": number, "source": f"10.99.{number % 250}.{number // 250 % 250}"}])
        if number % 7 == 0:
            tapper.change(add=[{"id": number + 1_000_000, "source": "*", "destination_port": "5"}])
            tapper.change(remove=[number + 1_000_000])
        if number % 5 == 0:
            tapper.change(remove=[number])
        number += 1
    sender.join()
    assert number > 50
    stats = tapper.stats()
    assert stats["captures"][0]["dropped"] == 0
    assert tapper.packets()[1] == count


def test_an_interface_goes_down_comes_up_and_gets_another_name(net: Net, pair: tuple[str, str]) -> None:
    one, other = pair
    tapper = net.tapper(one, ["eth0"], [FROM_THERE])
    net.send_udp(other, HERE, 5)
    before = tapper.packets()[1]
    net.run(one, "ip", "link", "set", "eth0", "down")
    until("it is told", lambda: "eth0: down; nothing is captured until it is up" in tapper.events())
    assert not tapper.stats()["captures"][0]["is_up"]
    net.run(one, "ip", "link", "set", "eth0", "name", "lan0")
    net.run(one, "ip", "link", "set", "lan0", "up")
    hardware = net.address(other, "eth0").hex(":")
    net.run(one, "ip", "neigh", "replace", THERE, "lladdr", hardware, "dev", "lan0")
    told = Told(tapper)
    until("it is told", lambda: told.has("eth0: up"))
    assert told.has("renamed from eth0 to lan0; it is captured on")
    net.send_udp(other, HERE, 5)
    assert tapper.packets()[1] >= before + 5


def test_an_interface_is_removed_and_comes_back(net: Net) -> None:
    one, other = net.namespace("a"), net.namespace("b")

    def plug() -> None:
        net.veth((one, "eth0", f"{HERE}/24"), (other, "eth0", f"{THERE}/24"))

    plug()
    tapper = net.tapper(one, ["eth0"], [FROM_THERE], workers=2)
    net.send_udp(other, HERE, 5)
    before = tapper.packets()[1]
    assert before >= 5
    net.run(one, "ip", "link", "delete", "eth0")
    told = Told(tapper)
    until("it is told", lambda: told.has("removed"))
    plug()
    until("it is opened anew", lambda: tapper.stats()["captures"][0]["reopened"] == 2)
    net.send_udp(other, HERE, 5)
    assert tapper.packets()[1] >= before + 5
    assert tapper.stats()["captures"][0]["filter"].startswith("eBPF")


def test_the_name_goes_to_another_interface_before_the_first_one_is_gone(net: Net) -> None:
    one, other = net.namespace("a"), net.namespace("b")
    net.veth((one, "eth0", ""), (other, "eth0", ""))
    tapper = net.tapper(one, ["eth0"], [{"id": 1, "source": "10.79.0.2"}])
    net.run(one, "ip", "link", "set", "eth0", "down")
    net.run(one, "ip", "link", "set", "eth0", "name", "old0")
    net.veth((one, "eth0", "10.79.0.1/24"), (other, "eth1", "10.79.0.2/24"))
    net.run(one, "ip", "link", "delete", "old0")
    until("it is opened anew", lambda: tapper.stats()["captures"][0]["reopened"] == 1)
    net.send_udp(other, "10.79.0.1", 20)
    assert tapper.packets()[1] == 20


def test_packets_from_a_new_address_are_made_here(net: Net, pair: tuple[str, str]) -> None:
    one, _ = pair
    new = "10.77.0.77"
    tapper = net.tapper(one, ["eth0"], [{"id": 1, "source": new}])
    time.sleep(0.5)
    net.run(one, "ip", "addr", "add", f"{new}/24", "dev", "eth0")
    # Far below the seconds after which all addresses are asked for anyway.
    time.sleep(0.5)
    net.send_udp(one, THERE, 20, source=new)
    assert tapper.packets()[1] == 20


def test_a_packet_that_two_mirror_ports_show_is_copied_once(net: Net) -> None:
    tap, source = net.namespace("a"), net.namespace("b")
    for at in (0, 1):
        net.veth((tap, f"mirror{at}", ""), (source, f"out{at}", ""))
    interfaces = ["mirror0", "mirror1"]
    criteria = [{"id": 1, "source": "198.51.100.1"}, {"id": 2, "input_interfaces": ["mirror1"]}]
    once = net.tapper(tap, interfaces, criteria, deduplicate_ms=1000, promiscuous=True)
    twice = net.tapper(tap, interfaces, criteria, promiscuous=True)
    head = bytes.fromhex("020000000001020000000002") + b"\x08\x00"
    packets = [udp_packet("198.51.100.1", "203.0.113.1", b"%d" % at, identification=at) for at in range(100)]
    # The second mirror is behind the router.
    later = [packet[:8] + b"\x3f" + packet[9:10] + b"\x00\x00" + packet[12:] for packet in packets]
    net.send_frames(source, "out0", [head + packet for packet in packets])
    net.send_frames(source, "out1", [head + packet for packet in later])
    assert once.packets() == {1: 100, 2: 100}
    assert twice.packets() == {1: 200, 2: 100}
    assert once.stats()["duplicates"] == 0


def test_inner_packets_where_that_is_asked_for(net: Net, pair: tuple[str, str]) -> None:
    one, other = pair
    criteria = [{"id": 1, "source": "192.0.2.5"}]
    within = net.tapper(one, ["eth0"], criteria, inner=["ipip", "gre"])
    without = net.tapper(one, ["eth0"], criteria)
    inner = udp_packet("192.0.2.5", "192.0.2.6", b"inside")
    outer = udp_packet(THERE, HERE, b"")[:20]
    hardware = net.address(one, "eth0") + net.address(other, "eth0") + b"\x08\x00"

    def wrapped(protocol: int, data: bytes) -> bytes:
        length = (20 + len(data)).to_bytes(2, "big")
        return (
            hardware + outer[:2] + length + outer[4:9] + bytes([protocol]) + b"\x00\x00" + outer[12:] + data
        )

    frames = [wrapped(4, inner), wrapped(47, b"\x00\x00\x08\x00" + inner), hardware + inner]
    net.send_frames(other, "eth0", frames)
    assert within.packets() == {1: 3}
    assert without.packets() == {1: 1}
