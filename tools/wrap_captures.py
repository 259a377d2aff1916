#!/usr/bin/env python3
"""Makes the wrapped captures from the recorded ones, the same octets every time.

    python tools/wrap_captures.py [CAPTURES [OUTPUT [DEMO]]]

CAPTURES is where the recorded files are (tests/captures if not given), OUTPUT where the wrapped
ones go (the same directory), DEMO where the demo's capture goes (python/flowtap/demo if CAPTURES is
tests/captures, else OUTPUT). Needs no rights. Where OUTPUT is CAPTURES, the provenance table in its
README is brought up to date.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from captures.capture_files import Capture, Frame, pcap_octets, pcapng_octets, read_pcap
from captures.provenance import read_rows, row_of, write_rows

from captures import wrapping

ROOT = Path(__file__).resolve().parent.parent
CAPTURES = ROOT / "tests" / "captures"
DEMO = ROOT / "python" / "flowtap" / "demo"

LINK_TYPE_NULL = 0
LINK_TYPE_ETHERNET = 1
LINK_TYPE_LOOP = 108

SCENE = "scene.pcap.gz"
DEMO_NAME = "demo.pcapng"
DEMO_COMMENT = "Recorded with real programs; subject 30 wrapped in 802.1Q, subject 40 in PPPoE in 802.1Q"
VLAN_SUBJECT_MAC = bytes.fromhex("02005e000130")
PPPOE_SUBJECT_MAC = bytes.fromhex("02005e000140")


@dataclass(frozen=True)
class Wrapped:
    """One wrapped capture."""

    name: str
    source: str
    link_type: int
    wrap: wrapping.Wrapping
    content: str


ETHERNET = LINK_TYPE_ETHERNET
WRAPPED = (
    Wrapped("vlan.pcap", "http.pcap", ETHERNET, wrapping.vlan, "802.1Q, VLAN 30; all frames"),
    Wrapped(
        *("qinq.pcap", "dns.pcap", ETHERNET, wrapping.qinq),
        "802.1ad VLAN 200 (priority 5), then 802.1Q VLAN 30; all frames",
    ),
    Wrapped(
        *("mpls.pcap", "ssh.pcap", ETHERNET, wrapping.mpls),
        "two labels, 16001 and 24010, TTL as in the packet; IP packets only",
    ),
    Wrapped(
        *("pppoe.pcap", "http.pcap", ETHERNET, wrapping.pppoe),
        "PPPoE session 0x2a01; IP packets only",
    ),
    Wrapped(
        *("gre.pcap", "fragments.pcap", ETHERNET, wrapping.gre),
        "GRE between 203.0.113.1 (upstream) and 203.0.113.2; IPv6 with key 0x5eed0001; the "
        "fragments are those inside",
    ),
    Wrapped(
        *("gtpu.pcap", "dns.pcap", ETHERNET, wrapping.gtpu),
        "GTP-U between 203.0.113.1 and 203.0.113.2, UDP 2152, TEID 0x5001 upstream and 0x6001 downstream",
    ),
    Wrapped(
        *("null.pcap", "icmp.pcap", LINK_TYPE_NULL, wrapping.null),
        "address family little-endian, 2 and 30; IP packets only",
    ),
    Wrapped(
        *("loop.pcap", "icmp.pcap", LINK_TYPE_LOOP, wrapping.loop),
        "address family big-endian, 2 and 24; IP packets only",
    ),
)
DEMO_CONTENT = (
    "the frames of scene.pcap.gz as a pcapng file with nanosecond timestamps: subjects 10 and 20 "
    "as recorded, subject 30 in 802.1Q VLAN 30, subject 40 in PPPoE session 0x2a01 in VLAN 40"
)


def wrapped_capture(recorded: Capture, link_type: int, wrap: wrapping.Wrapping) -> Capture:
    """All frames of a capture that the encapsulation has a place for, wrapped."""
    frames: list[Frame] = []
    for frame in recorded.frames:
        data = wrap(frame.data)
        if data is not None:
            frames.append(frame.carrying(data))
    return Capture(link_type, recorded.nanoseconds, frames)


def wrap_for_demo(frame: bytes) -> bytes | None:
    """The access lines of the demo: two without tags, one in a VLAN, one with PPPoE."""
    ends = (frame[:6], frame[6:12])
    if VLAN_SUBJECT_MAC in ends:
        return wrapping.vlan(frame)
    if PPPOE_SUBJECT_MAC in ends:
        return wrapping.pppoe_in_vlan(frame)
    return frame


def make(captures: Path, output: Path, demo: Path) -> None:
    """Writes every wrapped capture."""
    for item in WRAPPED:
        recorded = read_pcap(captures / item.source)
        (output / item.name).write_bytes(pcap_octets(wrapped_capture(recorded, item.link_type, item.wrap)))
    scene = wrapped_capture(read_pcap(captures / SCENE), LINK_TYPE_ETHERNET, wrap_for_demo)
    (demo / DEMO_NAME).write_bytes(pcapng_octets(scene, "access", DEMO_COMMENT))


def describe(captures: Path, demo: Path) -> None:
    """Brings the wrapped lines of the provenance table up to date."""
    rows = read_rows(captures)
    for item in WRAPPED:
        by = f"wrap_captures.py from {item.source}"
        rows[item.name] = row_of(captures, captures / item.name, made="wrapped", by=by, content=item.content)
    by = f"wrap_captures.py from {SCENE}"
    row = row_of(captures, demo / DEMO_NAME, made="wrapped", by=by, content=DEMO_CONTENT)
    rows[row.file] = row
    write_rows(captures, rows, read_pcap(captures / SCENE))


def main(words: list[str]) -> int:
    """Wraps; returns the exit status."""
    given = [Path(word).resolve() for word in words]
    captures, output, demo = (*given, None, None, None)[:3]
    captures = captures or CAPTURES
    output = output or captures
    demo = demo or (DEMO if captures == CAPTURES else output)
    try:
        make(captures, output, demo)
        if output == captures:
            describe(captures, demo)
    except (OSError, ValueError) as error:
        print(f"wrap_captures: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
