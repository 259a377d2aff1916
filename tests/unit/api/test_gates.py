"""Gates and spools as a program sees them: over loopback, with captures that are played."""

from __future__ import annotations

import os
import resource
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flowtap import (
    ContentDestination,
    Criteria,
    DataPlaneError,
    Engine,
    FilterTable,
    Gate,
    LinkType,
    Replay,
    Stats,
    Tap,
)

PACKETS = 400
HEADERS_OCTETS = 28
"""IP and UDP of what is tapped; a number follows."""


def packet(number: int, octets: int = 60) -> bytes:
    payload = number.to_bytes(4, "big").ljust(octets - HEADERS_OCTETS, b".")
    udp = struct.pack("!HHHH", 40_000, 53, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), number & 0xFFFF, 0, 64, 17, 0)
    return head + bytes((192, 0, 2, 1, 198, 51, 100, 1)) + udp


def write_capture(path: Path, octets: int = 60) -> str:
    """Numbered packets, raw IP."""
    records = (packet(number, octets) for number in range(PACKETS))
    path.write_bytes(
        struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 101)
        + b"".join(struct.pack("<IIII", 0, 0, len(each), len(each)) + each for each in records)
    )
    return str(path)


@pytest.fixture
def capture(tmp_path: Path) -> str:
    return write_capture(tmp_path / "numbered.pcap")


@pytest.fixture
def arrivals() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)  # as the standard library has it
        yield receiver


def numbers(receiver: socket.socket) -> list[int]:
    """Of all packets that have arrived by now."""
    found: list[int] = []
    while True:
        try:
            data = receiver.recv(2_048)
        except BlockingIOError:
            return found
        found.append(int.from_bytes(data[HEADERS_OCTETS : HEADERS_OCTETS + 4], "big"))


def table(receiver: socket.socket, **options: Any) -> FilterTable:
    options = {"tunnel": "ttp", "spool": "memory"} | options
    destination = ContentDestination("127.0.0.1", receiver.getsockname()[1], "127.0.0.1", 0, **options)
    return FilterTable.compile([Criteria(7, protocol=17, deliver_to=["cd1"])], {"cd1": destination})


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def balanced(stats: Stats) -> bool:
    return stats.copied + stats.recovered == (
        stats.exported + stats.in_queue + stats.in_spool + stats.dropped
    )


def test_a_gate_is_shut_at_first() -> None:
    gate = Gate("ttp")
    assert gate.tunnel == "ttp"
    said = [repr(gate)]
    gate.open()
    said.append(repr(gate))
    gate.shut(in_doubt_s=1.5)
    gate.shut()
    said.append(repr(gate))
    assert said == [f'<Gate of "ttp", {state}>' for state in ("shut", "open", "shut")]
    assert gate.is_open is False
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="in_doubt_s"):
            gate.shut(wrong)
    assert (gate.drain_pps, Gate("ttp", drain_pps=7).drain_pps) == (5_000, 7)
    for wrong_pps in (0, -1, 1 << 32):
        with pytest.raises(ValueError, match="drain_pps: a number from 1"):
            Gate("ttp", drain_pps=wrong_pps)


def test_a_destination_says_what_it_stands_behind() -> None:
    plain = ContentDestination("198.51.100.7", 30000, "198.51.100.1")
    assert (plain.tunnel, plain.spool, plain.spool_octets, plain.resend_s) == (None, "none", 64 << 20, 0)
    options: dict[str, Any] = {"tunnel": "ttp", "spool": "disk", "spool_octets": 1 << 20, "resend_s": 15}
    behind = ContentDestination("198.51.100.7", 30000, "198.51.100.1", **options)
    assert {name: getattr(behind, name) for name in options} == options
    assert behind == ContentDestination("198.51.100.7", 30000, "198.51.100.1", **options)
    assert hash(behind) == hash(ContentDestination("198.51.100.7", 30000, "198.51.100.1", **options))
    assert 'tunnel="ttp", spool="disk", spool_octets=1048576, resend_s=15.0' in repr(behind)
    assert "tunnel" not in repr(plain)
    for name, other in {"tunnel": "x", "spool": "memory", "spool_octets": 1, "resend_s": 1.0}.items():
        assert behind != ContentDestination("198.51.100.7", 30000, "198.51.100.1", **options | {name: other})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"tunnel": "ttp", "spool": "tape"}, "spool"),
        ({"spool": "memory"}, "spool"),
        ({"tunnel": "ttp", "resend_s": 1.0}, "resend_s"),
        ({"tunnel": "ttp", "spool": "memory", "resend_s": -1.0}, "resend_s"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ContentDestination("198.51.100.7", 30000, "198.51.100.1", **options)


def test_a_tunnel_has_one_gate(capture: str, arrivals: socket.socket) -> None:
    with pytest.raises(ValueError, match="ttp"):
        Tap.replay([capture], table(arrivals), gates=[Gate("ttp"), Gate("ttp")])


def test_copies_wait_for_the_gate_and_arrive_in_order(capture: str, arrivals: socket.socket) -> None:
    gate = Gate("ttp")
    with Tap.replay([capture], table(arrivals), pace="fast", gates=[gate]) as tap:
        tap.start()
        until(lambda: tap.finished)
        stats = tap.stats()
        assert (stats.copied, stats.exported, stats.in_spool, stats.in_queue) == (PACKETS, 0, PACKETS, 0)
        assert balanced(stats)
        assert numbers(arrivals) == []
        gate.open()
        until(lambda: tap.stats().exported == PACKETS)
        stats = tap.stats()
        assert (stats.in_spool, stats.dropped, stats.in_queue) == (0, 0, 0)
        (destination,) = stats.destinations
        assert (destination.resent, destination.exported_in_doubt, destination.lost) == (0, 0, [])
    assert numbers(arrivals) == list(range(PACKETS))


def test_nothing_leaves_while_nobody_has_a_gate(capture: str, arrivals: socket.socket) -> None:
    other = Gate("another")
    other.open()
    for gates in ([other], []):
        with Tap.replay([capture], table(arrivals), pace="fast", gates=gates) as tap:
            tap.start()
            until(lambda: tap.finished)
            stats = tap.stop()
        assert (stats.exported, stats.in_spool, stats.dropped) == (0, 0, PACKETS)
        assert "no gate" in (stats.destinations[0].last_error or "")
    # A pass has no gates at all.
    report = Replay([capture], table(arrivals), export=True).run()
    assert (report.stats.exported, report.stats.dropped) == (0, PACKETS)
    assert numbers(arrivals) == []


def test_without_a_spool_copies_are_dropped_and_counted(capture: str, arrivals: socket.socket) -> None:
    gate = Gate("ttp")
    with Tap.replay([capture], table(arrivals, spool="none"), pace="fast", gates=[gate]) as tap:
        tap.start()
        until(lambda: tap.finished)
        stats = tap.stats()
    (destination,) = stats.destinations
    assert (stats.in_spool, stats.dropped, destination.dropped) == (0, PACKETS, PACKETS)
    assert destination.lost == [(7, PACKETS, PACKETS * 60)]
    assert "shut" in (destination.last_error or "")


def test_a_full_spool_drops_what_waited_longest(capture: str, arrivals: socket.socket) -> None:
    gate = Gate("ttp")
    with Tap.replay([capture], table(arrivals, spool_octets=20_000), pace="fast", gates=[gate]) as tap:
        tap.start()
        until(lambda: tap.finished)
        stats = tap.stats()
        waiting = stats.in_spool
        assert 100 < waiting < 20_000 // 60
        assert stats.dropped == PACKETS - waiting
        assert stats.destinations[0].lost == [(7, PACKETS - waiting, (PACKETS - waiting) * 60)]
        assert balanced(stats)
        gate.open()
        until(lambda: tap.stats().exported == waiting)
    assert numbers(arrivals) == list(range(PACKETS - waiting, PACKETS))


def test_what_was_copied_is_delivered_when_its_criteria_have_ended(
    capture: str, arrivals: socket.socket
) -> None:
    gate = Gate("ttp")
    with Tap.replay([capture], table(arrivals), pace="fast", gates=[gate]) as tap:
        tap.start()
        until(lambda: tap.finished)
        tap.install(FilterTable.compile([]))
        stats = tap.stats()
        assert (stats.in_spool, stats.destinations) == (PACKETS, [])
        gate.open()
        until(lambda: tap.stats().exported == PACKETS)
    assert numbers(arrivals) == list(range(PACKETS))


def test_what_was_sent_before_a_loss_is_sent_again(capture: str, arrivals: socket.socket) -> None:
    gate = Gate("ttp")
    gate.open()
    with Tap.replay([capture], table(arrivals, resend_s=60), pace="fast", gates=[gate]) as tap:
        tap.start()
        until(lambda: tap.stats().exported == PACKETS)
        assert numbers(arrivals) == list(range(PACKETS))
        gate.shut(in_doubt_s=60)
        stats = tap.stats()
        # Each of them has been accounted for already.
        assert (stats.exported, stats.in_spool, stats.destinations[0].exported_in_doubt) == (PACKETS, 0, 0)
        gate.open()
        until(lambda: tap.stats().destinations[0].resent == PACKETS)
        assert tap.stats().exported == PACKETS
        # Once for a loss: a gate that is shut without one sends nothing again.
        gate.shut()
        gate.open()
        time.sleep(0.2)
        assert tap.stats().destinations[0].resent == PACKETS
    assert numbers(arrivals) == list(range(PACKETS))


def test_what_is_not_sent_again_is_in_doubt(capture: str, arrivals: socket.socket) -> None:
    gate = Gate("ttp")
    gate.open()
    with Tap.replay([capture], table(arrivals), pace="fast", gates=[gate]) as tap:
        tap.start()
        until(lambda: tap.stats().exported == PACKETS)
        time.sleep(0.3)
        gate.shut(in_doubt_s=0.05)
        assert tap.stats().destinations[0].exported_in_doubt == 0
        gate.open()
        gate.shut(in_doubt_s=30)
        assert tap.stats().destinations[0].exported_in_doubt == PACKETS
        gate.open()
        gate.shut(in_doubt_s=30)
        assert tap.stats().destinations[0].exported_in_doubt == PACKETS
        assert tap.stats().destinations[0].resent == 0


def test_what_waits_in_memory_at_the_end_is_counted_as_dropped(capture: str, arrivals: socket.socket) -> None:
    with Tap.replay([capture], table(arrivals), pace="fast", gates=[Gate("ttp")]) as tap:
        tap.start()
        until(lambda: tap.finished)
        stats = tap.stop()
    assert (stats.in_spool, stats.in_queue, stats.dropped) == (0, 0, PACKETS)
    assert "ended" in (stats.destinations[0].last_error or "")


def test_at_the_end_what_may_leave_leaves(capture: str, arrivals: socket.socket) -> None:
    gate = Gate("ttp")
    with Tap.replay([capture], table(arrivals), pace="fast", gates=[gate]) as tap:
        tap.start()
        until(lambda: tap.stats().in_spool == PACKETS)
        gate.open()
        stats = tap.stop()
    assert (stats.in_spool, stats.dropped, stats.exported) == (0, 0, PACKETS)
    assert numbers(arrivals) == list(range(PACKETS))


def test_an_engine_refuses_nothing_since_it_sends_nothing(arrivals: socket.socket) -> None:
    engine = Engine(table(arrivals), LinkType.RAW)
    assert len(engine.feed(packet(1))) == 1


KEY = bytes(range(32))


def files(directory: Path) -> list[Path]:
    return sorted(each for each in directory.iterdir() if each.name != "lock")


def spooled(capture: str, arrivals: socket.socket, directory: Path, key: bytes | None = None) -> Stats:
    """A run whose gate never opens; what an earlier one has left waits in front."""
    on_disk = table(arrivals, spool="disk", spool_octets=1 << 20)
    options: dict[str, Any] = {"gates": [Gate("ttp")], "spool_directory": str(directory), "spool_key": key}
    with Tap.replay([capture], on_disk, pace="fast", **options) as tap:
        tap.start()
        until(lambda: tap.finished)
        stats = tap.stats()
        assert (stats.copied, stats.in_spool) == (PACKETS, PACKETS + stats.recovered)
        return tap.stop()


def test_a_spool_on_disk_is_private_and_says_nothing(
    capture: str, arrivals: socket.socket, tmp_path: Path
) -> None:
    directory = tmp_path / "spool"
    stats = spooled(capture, arrivals, directory, KEY)
    assert (stats.in_spool, stats.dropped, stats.in_queue) == (PACKETS, 0, 0)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert files(directory)
    for path in (*files(directory), directory / "lock"):
        assert path.stat().st_mode & 0o777 == 0o600
    written = b"".join(path.read_bytes() for path in files(directory))
    assert len(written) > PACKETS * 60
    assert all(
        clear not in written
        # Names with their lengths: so few octets as a name has are in any text sooner or later.
        for clear in (b"........", bytes((192, 0, 2, 1, 198, 51)), b"127.0.0.1", b"\3\0cd1\3\0ttp")
    )


def test_what_waits_on_disk_is_delivered_after_a_restart(
    capture: str, arrivals: socket.socket, tmp_path: Path
) -> None:
    spooled(capture, arrivals, tmp_path / "spool", KEY)
    gate = Gate("ttp")
    options: dict[str, Any] = {"spool_directory": str(tmp_path / "spool"), "spool_key": KEY}
    # The orders have ended meanwhile.
    with Tap.replay([], FilterTable.compile([]), gates=[gate], **options) as tap:
        tap.start()
        stats = tap.stats()
        assert (stats.recovered, stats.in_spool, stats.copied) == (PACKETS, PACKETS, 0)
        gate.open()
        until(lambda: tap.stats().exported == PACKETS)
        stats = tap.stats()
        assert (stats.recovered, stats.in_spool, stats.in_queue, stats.dropped) == (PACKETS, 0, 0, 0)
        assert balanced(stats)
    assert numbers(arrivals) == list(range(PACKETS))
    assert files(tmp_path / "spool") == []


def test_new_copies_come_after_those_of_an_earlier_run(
    capture: str, arrivals: socket.socket, tmp_path: Path
) -> None:
    spooled(capture, arrivals, tmp_path / "spool", KEY)
    stats = spooled(capture, arrivals, tmp_path / "spool", KEY)
    assert (stats.recovered, stats.copied, stats.in_spool) == (PACKETS, PACKETS, 2 * PACKETS)
    assert stats.destinations[0].recovered == PACKETS
    gate = Gate("ttp")
    options: dict[str, Any] = {"spool_directory": str(tmp_path / "spool"), "spool_key": KEY}
    found: list[int] = []
    with Tap.replay([], FilterTable.compile([]), gates=[gate], **options) as tap:
        tap.start()
        gate.open()
        deadline = time.monotonic() + 10
        while tap.stats().exported < 2 * PACKETS and time.monotonic() < deadline:
            found += numbers(arrivals)
    assert found + numbers(arrivals) == [*range(PACKETS), *range(PACKETS)]


def test_without_a_key_nothing_outlives_the_run(
    capture: str, arrivals: socket.socket, tmp_path: Path
) -> None:
    directory = tmp_path / "spool"
    stats = spooled(capture, arrivals, directory)
    assert (stats.in_spool, stats.dropped) == (0, PACKETS)
    assert files(directory) == []
    # What a run that was killed has left is of no use to anybody.
    (directory / "0000000000000001-0000000000000001.run").write_bytes(b"whatever")
    spooled(capture, arrivals, directory, KEY)
    left = files(directory)
    assert {path.suffix for path in left} == {".spool"}
    # Without the key they are not touched, and somebody hears of them.
    spooled(capture, arrivals, directory)
    assert files(directory) == left
    with Tap.replay([], FilterTable.compile([]), gates=[Gate("ttp")], spool_directory=str(directory)) as tap:
        tap.start()
        said = tap.events()
    assert len(said) == len(left)
    assert all("a spool with a key, and there is none now" in each for each in said)


def test_what_another_key_has_written_stays_and_is_said(
    capture: str, arrivals: socket.socket, tmp_path: Path
) -> None:
    directory = tmp_path / "spool"
    spooled(capture, arrivals, directory, KEY)
    left = files(directory)
    options: dict[str, Any] = {"spool_directory": str(directory), "spool_key": bytes(32)}
    with Tap.replay([], FilterTable.compile([]), gates=[Gate("ttp")], **options) as tap:
        tap.start()
        assert tap.stats().recovered == 0
        (said,) = tap.events()
        assert "key" in said
        assert "127.0.0.1" not in said
    assert files(directory) == left


def test_what_cannot_be_read_for_now_waits(capture: str, arrivals: socket.socket, tmp_path: Path) -> None:
    spooled(capture, arrivals, tmp_path / "spool", KEY)
    gate = Gate("ttp")
    options: dict[str, Any] = {"spool_directory": str(tmp_path / "spool"), "spool_key": KEY}
    with Tap.replay([], FilterTable.compile([]), gates=[gate], **options) as tap:
        tap.start()
        assert tap.stats().in_spool == PACKETS
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Nobody in this process can open anything.
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            gate.open()
            until(lambda: any("stay on disk for now" in said for said in tap.events()))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        until(lambda: tap.stats().exported == PACKETS)
        stats = tap.stats()
        assert (stats.dropped, stats.in_spool) == (0, 0)
    assert numbers(arrivals) == list(range(PACKETS))


def test_what_was_changed_on_disk_is_dropped_and_said(
    capture: str, arrivals: socket.socket, tmp_path: Path
) -> None:
    directory = tmp_path / "spool"
    spooled(capture, arrivals, directory, KEY)
    (path,) = files(directory)
    octets = bytearray(path.read_bytes())
    octets[-100] ^= 1
    path.write_bytes(octets)
    gate = Gate("ttp")
    gate.open()
    options: dict[str, Any] = {"spool_directory": str(directory), "spool_key": KEY}
    with Tap.replay([], FilterTable.compile([]), gates=[gate], **options) as tap:
        tap.start()
        until(lambda: tap.stats().in_spool == 0)
        stats = tap.stats()
        assert stats.dropped > 0
        assert stats.exported == PACKETS - stats.dropped
        assert balanced(stats)
        assert any("as it was written" in said for said in tap.events())
    assert numbers(arrivals) == list(range(PACKETS - stats.dropped))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"spool_key": bytes(31), "spool_directory": "x"}, "spool_key"),
        ({"spool_key": bytes(32)}, "spool_key"),
    ],
)
def test_a_key_has_32_octets_and_a_directory(
    capture: str, arrivals: socket.socket, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        Tap.replay([capture], table(arrivals), gates=[Gate("ttp")], **options)


def test_a_directory_has_one_tap(capture: str, arrivals: socket.socket, tmp_path: Path) -> None:
    options: dict[str, Any] = {"gates": [Gate("ttp")], "spool_directory": str(tmp_path)}
    first = Tap.replay([capture], table(arrivals), **options)
    with pytest.raises(DataPlaneError, match="another tap"):
        Tap.replay([capture], table(arrivals), **options)
    first.stop()
    # It is free when the first one has ended.
    Tap.replay([capture], table(arrivals), **options).stop()


def test_a_directory_that_others_may_enter_is_none(
    capture: str, arrivals: socket.socket, tmp_path: Path
) -> None:
    directory = tmp_path / "open"
    directory.mkdir()
    directory.chmod(0o755)
    with pytest.raises(DataPlaneError, match=r"mode 755\); 700 is right"):
        Tap.replay([capture], table(arrivals), gates=[Gate("ttp")], spool_directory=str(directory))
    assert directory.stat().st_mode & 0o777 == 0o755


def test_without_a_directory_nothing_waits_on_disk(capture: str, arrivals: socket.socket) -> None:
    on_disk = table(arrivals, spool="disk")
    with Tap.replay([capture], on_disk, pace="fast", gates=[Gate("ttp")]) as tap:
        tap.start()
        until(lambda: tap.finished)
        stats = tap.stats()
    assert (stats.in_spool, stats.dropped) == (0, PACKETS)
    assert "directory" in (stats.destinations[0].last_error or "")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that takes a quarter of a mebibyte."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_full_disk_costs_what_it_does_not_take_and_nothing_else(
    arrivals: socket.socket, tmp_path: Path, small_disk: Path
) -> None:
    capture = write_capture(tmp_path / "long.pcap", 1_000)
    gate = Gate("ttp")
    on_disk = table(arrivals, spool="disk")
    options: dict[str, Any] = {"gates": [gate], "spool_directory": str(small_disk / "spool")}
    found: list[int] = []
    with Tap.replay([capture], on_disk, pace="fast", **options) as tap:
        tap.start()
        until(lambda: tap.finished)
        stats = tap.stats()
        assert stats.copied == PACKETS
        assert 100 < stats.in_spool < 300
        assert stats.dropped == PACKETS - stats.in_spool
        (destination,) = stats.destinations
        assert destination.lost == [(7, stats.dropped, stats.dropped * 1_000)]
        assert "takes no more" in (destination.last_error or "")
        waiting = stats.in_spool
        gate.open()
        deadline = time.monotonic() + 10
        while tap.stats().exported < waiting and time.monotonic() < deadline:
            found += numbers(arrivals)
        assert balanced(tap.stats())
        assert tap.error is None
    found += numbers(arrivals)
    assert len(found) == waiting
    assert found == sorted(found)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_full_disk_at_the_end_costs_nothing_of_what_is_on_it(tmp_path: Path, small_disk: Path) -> None:
    """Some of it has been read, could not leave, and is to be there for the next run."""
    capture = write_capture(tmp_path / "long.pcap", 1_000)
    gate = Gate("ttp")
    # The kernel refuses everybody's address, as a firewall would.
    everybody = ContentDestination(
        "127.255.255.255", 9, "127.0.0.1", 0, tunnel="ttp", spool="disk", spool_octets=64 << 20
    )
    table = FilterTable.compile([Criteria(7, protocol=17, deliver_to=["cd1"])], {"cd1": everybody})
    options: dict[str, Any] = {
        "gates": [gate],
        "spool_directory": str(small_disk / "spool"),
        "spool_key": KEY,
    }
    with Tap.replay([capture], table, pace="fast", **options) as tap:
        tap.start()
        until(lambda: tap.finished)
        waiting = tap.stats().in_spool
        assert 100 < waiting < 300
        gate.open()
        until(lambda: "denied" in (tap.stats().destinations[0].last_error or ""))
        gate.shut()
        stats = tap.stop()
        assert (stats.exported, stats.in_spool + stats.dropped) == (0, PACKETS)
        # But for what was still to be written, which is less than is written at once.
        assert waiting - stats.in_spool < (64 << 10) // 1_000
    with Tap.replay([], FilterTable.compile([]), **options) as tap:
        tap.start()
        assert tap.stats().recovered == stats.in_spool


def test_a_doubt_that_passes_at_once_sends_again_what_is_kept(capture: str, arrivals: socket.socket) -> None:
    """As when a tunnel answers again before anybody has waited: shut and open in one go, and no copy comes meanwhile."""
    gate = Gate("ttp")
    gate.open()
    with Tap.replay([capture], table(arrivals, resend_s=60), pace="fast", gates=[gate]) as tap:
        tap.start()
        until(lambda: tap.finished and tap.stats().exported == PACKETS)
        assert numbers(arrivals) == list(range(PACKETS))
        gate.shut(in_doubt_s=60)
        gate.open()
        until(lambda: tap.stats().destinations[0].resent == PACKETS)
        stats = tap.stats()
        (destination,) = stats.destinations
        assert (stats.copied, stats.exported, destination.exported_in_doubt) == (PACKETS, PACKETS, 0)
        assert (stats.in_spool, stats.in_queue, stats.dropped) == (0, 0, 0)
    assert numbers(arrivals) == list(range(PACKETS))


def test_what_waits_for_a_tunnel_does_not_leave_when_its_destination_is_reached_in_clear(
    capture: str, arrivals: socket.socket
) -> None:
    gate = Gate("ttp")
    with Tap.replay([capture], table(arrivals), pace="fast", gates=[gate]) as tap:
        tap.start()
        until(lambda: tap.finished)
        assert tap.stats().in_spool == PACKETS
        tap.install(table(arrivals, tunnel=None, spool="none"))
        time.sleep(0.3)
        stats = tap.stats()
        assert (stats.in_spool, stats.exported) == (PACKETS, 0)
        assert numbers(arrivals) == []
        gate.open()
        until(lambda: tap.stats().exported == PACKETS)
    assert numbers(arrivals) == list(range(PACKETS))


def test_a_run_says_what_waits_for_a_tunnel_that_it_does_not_have(
    capture: str, arrivals: socket.socket, tmp_path: Path
) -> None:
    spooled(capture, arrivals, tmp_path / "spool", KEY)
    other = Gate("another")
    other.open()
    options: dict[str, Any] = {"spool_directory": str(tmp_path / "spool"), "spool_key": KEY}
    with Tap.replay([], FilterTable.compile([]), gates=[other], **options) as tap:
        tap.start()
        (said,) = tap.events()
        assert f'{PACKETS} copies of an earlier run wait for tunnel "ttp"' in said
        time.sleep(0.2)
        stats = tap.stop()
    assert (stats.recovered, stats.in_spool, stats.exported, stats.dropped) == (PACKETS, PACKETS, 0, 0)
    assert numbers(arrivals) == []
    assert files(tmp_path / "spool")
