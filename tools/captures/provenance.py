"""Keeps the provenance table of the captures: what each file is and how to tell it is the same."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import struct
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from captures.capture_files import Capture, facts
from captures.wrapping import IPV4, ip_packet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

README = "README.md"
TABLE_HEAD = ("file", "made", "by", "link type", "frames", "sha256", "what is in it")
SKELETON = "# Captures\n\n<!-- table -->\n<!-- /table -->\n\n<!-- demo -->\n<!-- /demo -->\n"

SUBJECT_NETWORKS = (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8:1::/64"))
ROUTER_ADDRESSES = frozenset({"192.0.2.1", "2001:db8:1::1"})
MOST_PORTS_LISTED = 6

PROTOCOL_NAMES = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
PROTOCOLS_WITH_PORTS = frozenset({6, 17, 132})
EXTENSION_HEADERS = frozenset({0, 43, 60})
FRAGMENT_HEADER = 44


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    file: str
    made: str
    by: str
    link_type: str
    frames: int
    sha256: str
    content: str

    def cells(self) -> tuple[str, ...]:
        """The line as text."""
        digest = f"`{self.sha256}`"
        return (
            f"`{self.file}`",
            self.made,
            self.by,
            self.link_type,
            str(self.frames),
            digest,
            self.content,
        )


@dataclass(frozen=True)
class Packet:
    """As much of an IP packet as the demo's table needs."""

    source: str
    destination: str
    protocol: int
    identification: int | None
    ports: tuple[int, int] | None
    octets: int


@dataclass
class Conversation:
    """Sums over the packets between a subject and one port of one other address."""

    frames: int = 0
    octets: int = 0
    fragments: int = 0
    subject_ports: set[int] = field(default_factory=set)


def row_of(
    readme_directory: Path,
    path: Path,
    *,
    made: str,
    by: str,
    content: str,
    measured: Path | None = None,
) -> Row:
    """The line for a capture file; `measured` is the file to count in if this one is compressed."""
    link_type, frames = facts(measured or path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    file = os.path.relpath(path, readme_directory)
    return Row(file, made, by, link_type, frames, digest, content)


def read_rows(directory: Path) -> dict[str, Row]:
    """The table as it is."""
    readme = directory / README
    rows = {}
    if readme.exists():
        for line in _section(readme.read_text(), "table")[2:]:
            cells = [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]
            file, made, by, link_type, frames, digest, content = cells
            rows[file] = Row(file, made, by, link_type, int(frames), digest, content)
    return rows


def write_rows(directory: Path, rows: dict[str, Row], scene: Capture) -> None:
    """Puts the table and the demo's conversations into the README; the rest of it stays."""
    readme = directory / README
    text = readme.read_text() if readme.exists() else SKELETON
    ordered = sorted(rows.values(), key=lambda row: (row.made, row.file))
    text = _with_section(text, "table", _table(TABLE_HEAD, [row.cells() for row in ordered]))
    text = _with_section(text, "demo", demo_lines(scene))
    readme.write_text(text)


def demo_lines(scene: Capture) -> list[str]:
    """Who talks to whom in the demo: one table of subjects, one of conversations."""
    conversations = _conversations(scene)
    subjects: dict[str, Conversation] = defaultdict(Conversation)
    lines = []
    for (subject, protocol, other, port), sums in sorted(conversations.items()):
        total = subjects[subject]
        total.frames += sums.frames
        total.octets += sums.octets
        total.fragments += sums.fragments
        ports = sorted(sums.subject_ports)
        listed = ", ".join(map(str, ports)) if len(ports) <= MOST_PORTS_LISTED else f"{len(ports)} ports"
        there = "-" if port is None else str(port)
        cells = (subject, listed or "-", protocol, other, there)
        lines.append((*cells, str(sums.frames), str(sums.fragments), str(sums.octets)))
    totals = [
        (subject, str(sums.frames), str(sums.fragments), str(sums.octets))
        for subject, sums in subjects.items()
    ]
    head = ("subject", "frames", "of these fragments", "octets (IP total length)")
    long_head = ("subject", "its ports", "protocol", "other end", "port", *head[1:])
    return [*_table(head, totals), "", *_table(long_head, lines)]


def _conversations(scene: Capture) -> dict[tuple[str, str, str, int | None], Conversation]:
    packets = [_packet(octets) for frame in scene.frames if (octets := ip_packet(frame.data)) is not None]
    # A later fragment has no ports; it goes with the first one of its datagram, early or late.
    ports_of_datagram: dict[tuple[str, str, int | None], tuple[int, int]] = {
        (packet.source, packet.destination, packet.identification): packet.ports
        for packet in packets
        if packet.identification is not None and packet.ports is not None
    }
    conversations: dict[tuple[str, str, str, int | None], Conversation] = defaultdict(Conversation)
    for packet in packets:
        datagram = (packet.source, packet.destination, packet.identification)
        ports = packet.ports or ports_of_datagram.get(datagram)
        upstream = _is_subject(packet.source)
        if not upstream and not _is_subject(packet.destination):
            continue
        here, there = (packet.source, packet.destination) if upstream else (packet.destination, packet.source)
        # Without ports both stay away: ICMP, and nothing else in these captures.
        near, far = (None, None) if ports is None else (ports if upstream else ports[::-1])
        protocol = PROTOCOL_NAMES.get(packet.protocol, str(packet.protocol))
        sums = conversations[here, protocol, there, far]
        sums.frames += 1
        sums.octets += packet.octets
        sums.fragments += packet.identification is not None
        if near is not None:
            sums.subject_ports.add(near)
    return conversations


def _is_subject(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return address not in ROUTER_ADDRESSES and any(parsed in network for network in SUBJECT_NETWORKS)


def _packet(octets: bytes) -> Packet:
    if octets[0] >> 4 == IPV4:
        identification, fragment = struct.unpack_from(">HH", octets, 4)
        first, whole = not fragment & 0x1FFF, not fragment & 0x3FFF
        protocol, start = octets[9], (octets[0] & 0x0F) * 4
        source, destination = octets[12:16], octets[16:20]
    else:
        protocol, start, identification, first, whole = octets[6], 40, None, True, True
        while protocol in EXTENSION_HEADERS or (protocol == FRAGMENT_HEADER and whole):
            if protocol == FRAGMENT_HEADER:
                word, identification = struct.unpack_from(">HI", octets, start + 2)
                first, whole = not word & 0xFFF8, False
                protocol, start = octets[start], start + 8
                if not first:
                    break
            else:
                protocol, start = octets[start], start + (octets[start + 1] + 1) * 8
        source, destination = octets[8:24], octets[24:40]
    has_ports = first and protocol in PROTOCOLS_WITH_PORTS
    ports = struct.unpack_from(">HH", octets, start) if has_ports else None
    return Packet(
        str(ipaddress.ip_address(source)),
        str(ipaddress.ip_address(destination)),
        protocol,
        None if whole else identification,
        (ports[0], ports[1]) if ports else None,
        len(octets),
    )


def _table(head: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> list[str]:
    rows = [head, tuple("---" for _ in head), *lines]
    return [f"| {' | '.join(cells)} |" for cells in rows]


def _section(text: str, name: str) -> list[str]:
    _, _, rest = text.partition(f"<!-- {name} -->\n")
    content, _, _ = rest.partition(f"<!-- /{name} -->")
    return content.splitlines()


def _with_section(text: str, name: str, lines: list[str]) -> str:
    before, opening, rest = text.partition(f"<!-- {name} -->\n")
    _, closing, after = rest.partition(f"<!-- /{name} -->")
    if not opening or not closing:
        message = f"{README}: no section between <!-- {name} --> and <!-- /{name} -->"
        raise ValueError(message)
    return before + opening + "\n".join(lines) + "\n" + closing + after
