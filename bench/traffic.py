"""Seeded traffic for the benchmarks: IMIX frames between many hosts, one pair of which is the subject.

Sizes are those of the simple IMIX: 7 of 64 octets, 4 of 594, 1 of 1,518. The same seed gives the same
file everywhere.
"""

from __future__ import annotations

import argparse
import random
import struct
from pathlib import Path

__all__ = ["SUBJECT", "hosts", "write_capture"]

SUBJECT = ("198.18.0.1", "198.19.0.1")
SEED = 20_260_302
SIZES = (64,) * 7 + (594,) * 4 + (1518,)
BLOCK_PACKETS = 50_000
"""Frames that are made one by one; a longer capture repeats them with later time stamps."""
SUBJECT_SHARE = 1 / 1000
SNAP_OCTETS = 262_144
PCAP_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, SNAP_OCTETS, 1)


def hosts(count: int) -> list[str]:
    """Hosts of the range that the traffic is not in, so that they cost a look-up and match nothing."""
    return [f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}" for number in range(1, count + 1)]


def _frame(rng: random.Random, size: int) -> bytes:
    if rng.random() < SUBJECT_SHARE:
        source, destination = (bytes(map(int, address.split("."))) for address in SUBJECT)
    else:
        source = struct.pack(">I", 0xC6120000 + rng.randrange(2, 0x10000))
        destination = struct.pack(">I", 0xC6130000 + rng.randrange(2, 0x10000))
    length = size - 14
    protocol = rng.choice((6, 17))
    ports = struct.pack(">HH", rng.randrange(1024, 65536), rng.choice((53, 80, 443, 5060)))
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, length, 0, 0, 64, protocol, 0, source, destination)
    payload = ports + struct.pack(">HH", length - 20, 0)
    return b"\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x08\x00" + (header + payload).ljust(
        length, b"\0"
    )


def write_capture(path: Path, packets: int) -> None:
    """Writes a pcap file with so many IMIX frames."""
    rng = random.Random(SEED)
    frames = [_frame(rng, rng.choice(SIZES)) for _ in range(min(packets, BLOCK_PACKETS))]
    with path.open("wb") as file:
        file.write(PCAP_HEADER)
        written = 0
        while written < packets:
            # One block lasts one second.
            second = 1_700_000_000 + written // BLOCK_PACKETS
            part = frames[: packets - written]
            file.write(
                b"".join(
                    struct.pack("<IIII", second, at * 1_000_000 // BLOCK_PACKETS, len(frame), len(frame))
                    + frame
                    for at, frame in enumerate(part)
                )
            )
            written += len(part)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("packets", type=int)
    arguments = parser.parse_args()
    write_capture(arguments.path, arguments.packets)
