"""Copies sent to another host: flowtap replay --export beside loops that send as fast as the kernel lets them.

The other host is a network namespace at the end of a pair of interfaces. What arrives there is counted by its
kernel; a socket that lets nothing through takes it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import captures
from files import mpps, summary, told
from flowtap.bench.namespaces import Host, Network, missing_right
from flowtap.bench.traffic import IMIX, Plan
from programs import EXAMPLES, FLOWTAP, ProgramError, Run, run, running
from row import Row, at_least
from scale import Scale

EQUAL_OCTETS = 526
"""Frames with packets of 512 octets: copies are datagrams with that much payload."""
LENGTHS = {"equal": EQUAL_OCTETS, "mixed": IMIX}
PAYLOADS = {"equal": (512,), "mixed": (46,) * 7 + (576,) * 4 + (1500,)}
TAP = "198.51.100.1"
SINK = "198.51.100.2"
PORT = 30_000
SOURCE_PORTS = {"udp": 40_000, "raw": 40_001}
UDP_SEGMENT = 103
NEEDED = "at least 3 times (equal), 0.9 (mixed), 0.6 (raw)"


@dataclass(frozen=True)
class Route:
    """Two hosts and what runs on them."""

    tap: Host
    sink: Host


SINK_PROGRAM = f"""
import ctypes, socket, struct, time
sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
# A socket filter of one instruction: nothing passes, and the kernel counts it (SO_ATTACH_FILTER).
nothing = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
sink.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HP", 1, ctypes.addressof(nothing)))
sink.bind(("{SINK}", {PORT}))
print("ready", flush=True)
time.sleep(3600)
"""
HOLDER_PROGRAM = f"""
import socket, time
holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
holder.bind(("{TAP}", {SOURCE_PORTS["raw"]}))
print("ready", flush=True)
time.sleep(3600)
"""
SENDER_PROGRAM = f"""
import os, socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
segment = int(sys.argv[1])
if segment:
    sender.setsockopt(socket.SOL_UDP, {UDP_SEGMENT}, segment)
# Fragments are the router's business in the peers as in flowtap: no path discovery.
sender.setsockopt(socket.IPPROTO_IP, 10, 0)
sender.bind(("{TAP}", 0))
sender.connect(("{SINK}", {PORT}))
os.dup2(sender.fileno(), 0)
os.execv(sys.argv[2], sys.argv[2:])
"""


@contextlib.contextmanager
def route() -> Iterator[Route]:
    """A tap host, a sink host, and a program on each that holds a port."""
    with Network() as network:
        tap, sink = network.host(), network.host()
        network.cable(tap, "t0", sink, "s0")
        tap.set_up("t0", f"{TAP}/24")
        sink.set_up("s0", f"{SINK}/24")
        with (
            running([*sink.inside, sys.executable, "-c", SINK_PROGRAM], ready="ready"),
            running([*tap.inside, sys.executable, "-c", HOLDER_PROGRAM], ready="ready"),
        ):
            yield Route(tap, sink)


def arrived(there: Host) -> int:
    """Datagrams that reached the sink's port, read or not."""
    text = run([*there.inside, "cat", "/proc/net/snmp"]).output
    head, values = (line.split()[1:] for line in text.splitlines() if line.startswith("Udp:"))
    count = dict(zip(head, map(int, values), strict=True))
    return count["InDatagrams"] + count["InErrors"]


def loop(where: Route, mode: str, datagrams: int, payloads: tuple[int, ...]) -> Run:
    segment = payloads[0] if mode == "one" else 0
    words: list[str | Path] = [EXAMPLES / "datagram_sender", mode, str(datagrams), *map(str, payloads)]
    return run([*where.tap.inside, sys.executable, "-c", SENDER_PROGRAM, str(segment), *words])


def export(where: Route, capture: Path, criteria: Path) -> Run:
    command: list[str | Path] = [*FLOWTAP, "replay", capture, "--criteria", criteria, "--export", "--json"]
    return run([*where.tap.inside, *command])


def criteria_file(way: str) -> Path:
    delivery = [
        f"X-JTap-Cdest-{name}: {value}"
        for name, value in (
            ("Dest-Address", SINK),
            ("Dest-Port", PORT),
            ("Source-Address", TAP),
            ("Source-Port", SOURCE_PORTS[way]),
        )
    ]
    return captures.text_file(f"export-{way}.txt", Plan().requests("Cdest-ID: cd", *delivery))


def checked(where: Route, case: Callable[[], Run], expected: int) -> Run:
    """A run whose datagrams all arrive, or are counted as lost by who sent them."""
    before = arrived(where.sink)
    done = case()
    result = done.json
    lost = result.get("dropped", 0)
    count = arrived(where.sink) - before
    if count + lost != expected or result.get("exported", expected) != count:
        message = f"{count} of {expected} datagrams arrived, {lost} are counted as lost: {done.output[-300:]}"
        raise ProgramError(message)
    return done


def rows(scale: Scale) -> list[Row]:
    missing = missing_right()
    if missing is not None:
        return [Row("export against a plain sendmmsg loop", NEEDED, note=str(missing))]
    count = scale.export_packets
    files = {
        lengths: captures.capture(
            f"export-{lengths}", Plan(match_share=1, length_octets=octets).traffic(), count
        )
        for lengths, octets in LENGTHS.items()
    }
    with route() as where:
        cases: dict[str, Callable[[], Run]] = {
            "sendmmsg, equal": partial(loop, where, "many", count, PAYLOADS["equal"]),
            "UDP_SEGMENT, equal": partial(loop, where, "one", count, PAYLOADS["equal"]),
            "flowtap, equal": partial(export, where, files["equal"], criteria_file("udp")),
            "flowtap raw, equal": partial(export, where, files["equal"], criteria_file("raw")),
            "sendmmsg, mixed": partial(loop, where, "many", count, PAYLOADS["mixed"]),
            "flowtap, mixed": partial(export, where, files["mixed"], criteria_file("udp")),
        }
        whole = {name: partial(checked, where, case, count) for name, case in cases.items()}
        runs = scale.in_turn(whole)
    found: dict[str, dict[str, Any]] = {name: summary(each, count) for name, each in runs.items()}

    def against(ours: str, theirs: str) -> float:
        return mpps(found[ours]) / mpps(found[theirs])

    def note(ours: str, *theirs: str) -> str:
        return ", ".join(f"{name} {told(found[name])}" for name in (ours, *theirs)) + " Mpps"

    limit = against("UDP_SEGMENT, equal", "sendmmsg, equal")
    return [
        at_least(
            "export of equal-length copies with offload, against a plain sendmmsg loop",
            3,
            against("flowtap, equal", "sendmmsg, equal"),
            note=f"{note('flowtap, equal', 'sendmmsg, equal')}; offload alone {limit:.1f} times",
            measured=found,
        ),
        at_least(
            "export of copies of mixed lengths, likewise",
            0.9,
            against("flowtap, mixed", "sendmmsg, mixed"),
            note=note("flowtap, mixed", "sendmmsg, mixed"),
        ),
        at_least(
            "export through a raw socket, likewise",
            0.6,
            against("flowtap raw, equal", "sendmmsg, equal"),
            note=note("flowtap raw, equal"),
        ),
    ]
