"""Reads and writes capture files octet by octet, without any library.

The tools that record and wrap must give the same octets everywhere, so nothing is left to the
version of a library.
"""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAGIC_MICROSECONDS = 0xA1B2C3D4
MAGIC_NANOSECONDS = 0xA1B23C4D
SNAPSHOT_OCTETS = 262_144

SECTION_HEADER = 0x0A0D0D0A
INTERFACE_DESCRIPTION = 0x00000001
SIMPLE_PACKET = 0x00000003
ENHANCED_PACKET = 0x00000006
BYTE_ORDER_MAGIC = 0x1A2B3C4D

OPTION_END = 0
OPTION_COMMENT = 1
OPTION_SECTION_HARDWARE = 2
OPTION_SECTION_SYSTEM = 3
OPTION_SECTION_APPLICATION = 4
OPTION_INTERFACE_NAME = 2
OPTION_INTERFACE_RESOLUTION = 9
OPTION_INTERFACE_SYSTEM = 12

LINK_TYPE_NAMES = {
    0: "NULL",
    1: "ETHERNET",
    101: "RAW",
    108: "LOOP",
    113: "LINUX_SLL",
    276: "LINUX_SLL2",
}


@dataclass(frozen=True)
class Frame:
    """One recorded frame."""

    timestamp_ns: int
    data: bytes
    original_length_octets: int

    def carrying(self, data: bytes) -> Frame:
        """The same moment on the wire with other octets."""
        return Frame(self.timestamp_ns, data, len(data))


@dataclass(frozen=True)
class Capture:
    """A classic capture file."""

    link_type: int
    nanoseconds: bool
    frames: list[Frame]


def read_pcap(path: Path) -> Capture:
    """Reads a classic little-endian capture file, as the recording machine writes them."""
    content = _content(path)
    magic, _, _, _, _, _, link_type = struct.unpack_from("<IHHiIII", content)
    if magic not in {MAGIC_MICROSECONDS, MAGIC_NANOSECONDS}:
        message = f"{path.name}: not a classic little-endian capture file"
        raise ValueError(message)
    nanoseconds = magic == MAGIC_NANOSECONDS
    unit_ns = 1 if nanoseconds else 1_000
    frames = []
    offset = 24
    while offset < len(content):
        seconds, fraction, captured, original = struct.unpack_from("<IIII", content, offset)
        data = content[offset + 16 : offset + 16 + captured]
        frames.append(Frame(seconds * 1_000_000_000 + fraction * unit_ns, data, original))
        offset += 16 + captured
    return Capture(link_type, nanoseconds, frames)


def pcap_octets(capture: Capture) -> bytes:
    """A classic little-endian capture file."""
    magic = MAGIC_NANOSECONDS if capture.nanoseconds else MAGIC_MICROSECONDS
    unit_ns = 1 if capture.nanoseconds else 1_000
    parts = [struct.pack("<IHHiIII", magic, 2, 4, 0, 0, SNAPSHOT_OCTETS, capture.link_type)]
    for frame in capture.frames:
        seconds, rest_ns = divmod(frame.timestamp_ns, 1_000_000_000)
        lengths = (len(frame.data), frame.original_length_octets)
        parts.append(struct.pack("<IIII", seconds, rest_ns // unit_ns, *lengths))
        parts.append(frame.data)
    return b"".join(parts)


def pcapng_octets(capture: Capture, interface: str, comment: str) -> bytes:
    """A little-endian pcapng file with one interface and nanosecond timestamps."""
    section = struct.pack("<IHHq", BYTE_ORDER_MAGIC, 1, 0, -1)
    section += _option(OPTION_COMMENT, comment.encode())
    section += _option(OPTION_SECTION_APPLICATION, b"wrap_captures.py") + _option(OPTION_END, b"")
    description = struct.pack("<HHI", capture.link_type, 0, SNAPSHOT_OCTETS)
    description += _option(OPTION_INTERFACE_NAME, interface.encode())
    description += _option(OPTION_INTERFACE_RESOLUTION, bytes([9])) + _option(OPTION_END, b"")
    parts = [_block(SECTION_HEADER, section), _block(INTERFACE_DESCRIPTION, description)]
    for frame in capture.frames:
        high, low = frame.timestamp_ns >> 32, frame.timestamp_ns & 0xFFFFFFFF
        head = struct.pack("<IIIII", 0, high, low, len(frame.data), frame.original_length_octets)
        parts.append(_block(ENHANCED_PACKET, head + _padded(frame.data)))
    return b"".join(parts)


def without_machine(content: bytes) -> bytes:
    """A little-endian pcapng file without the options that describe the recording machine."""
    parts = []
    for kind, body in _blocks(content):
        if kind == SECTION_HEADER:
            unwanted = {OPTION_SECTION_HARDWARE, OPTION_SECTION_SYSTEM}
            parts.append(_block(kind, body[:16] + _without_options(body[16:], unwanted)))
        elif kind == INTERFACE_DESCRIPTION:
            parts.append(_block(kind, body[:8] + _without_options(body[8:], {OPTION_INTERFACE_SYSTEM})))
        else:
            parts.append(_block(kind, body))
    return b"".join(parts)


def facts(path: Path) -> tuple[str, int]:
    """The link types of a capture file, by name, and its number of frames."""
    content = _content(path)
    if struct.unpack_from("<I", content)[0] != SECTION_HEADER:
        capture = read_pcap(path)
        return LINK_TYPE_NAMES[capture.link_type], len(capture.frames)
    blocks = list(_blocks(content))
    link_types = [body for kind, body in blocks if kind == INTERFACE_DESCRIPTION]
    names = [LINK_TYPE_NAMES[struct.unpack_from("<H", body)[0]] for body in link_types]
    frames = sum(kind in {SIMPLE_PACKET, ENHANCED_PACKET} for kind, _ in blocks)
    return ", ".join(names), frames


def _content(path: Path) -> bytes:
    octets = path.read_bytes()
    return gzip.decompress(octets) if path.suffix == ".gz" else octets


def _padded(octets: bytes) -> bytes:
    return octets + bytes(-len(octets) % 4)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _block(kind: int, body: bytes) -> bytes:
    total = len(body) + 12
    return struct.pack("<II", kind, total) + body + struct.pack("<I", total)


def _blocks(content: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset < len(content):
        kind, total = struct.unpack_from("<II", content, offset)
        yield kind, content[offset + 8 : offset + total - 4]
        offset += total


def _without_options(octets: bytes, unwanted: set[int]) -> bytes:
    kept = b""
    offset = 0
    while offset < len(octets):
        code, length = struct.unpack_from("<HH", octets, offset)
        if code not in unwanted:
            kept += _option(code, octets[offset + 4 : offset + 4 + length])
        offset += 4 + length + (-length % 4)
    return kept
