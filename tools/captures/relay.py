"""Carries frames between two tap (or tun) devices and changes the order of fragments on the way.

    python relay.py tap|tun NAMESPACE-FILE INTERFACE NAMESPACE-FILE INTERFACE

Towards the second device it holds back the first fragment of every other datagram and the middle
fragments of the ones between, so that a recording there holds datagrams whose ports come last as
well as datagrams whose end comes before their middle. It runs until it gets a signal.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import selectors
import struct
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000

FRAME_OCTETS = 65_536
HOLD_BACK_S = 0.02

ETHER_TYPE_IPV4 = 0x0800
ETHER_TYPE_IPV6 = 0x86DD
ETHERNET_OCTETS = 14
MORE_FRAGMENTS_IPV4 = 0x2000
OFFSET_IPV4 = 0x1FFF
MORE_FRAGMENTS_IPV6 = 0x0001
OFFSET_IPV6 = 0xFFF8
FRAGMENT_HEADER = 44


def fragment_of(frame: bytes) -> tuple[int, bool] | None:
    """Offset (in octets) and more-fragments flag if an Ethernet frame holds a fragment."""
    ether_type = int.from_bytes(frame[12:14], "big")
    if ether_type == ETHER_TYPE_IPV4 and len(frame) >= ETHERNET_OCTETS + 20:
        (word,) = struct.unpack_from(">H", frame, ETHERNET_OCTETS + 6)
        offset, more = (word & OFFSET_IPV4) * 8, bool(word & MORE_FRAGMENTS_IPV4)
        return (offset, more) if offset or more else None
    long_enough = len(frame) >= ETHERNET_OCTETS + 48
    if ether_type == ETHER_TYPE_IPV6 and long_enough and frame[20] == FRAGMENT_HEADER:
        (word,) = struct.unpack_from(">H", frame, ETHERNET_OCTETS + 42)
        return word & OFFSET_IPV6, bool(word & MORE_FRAGMENTS_IPV6)
    return None


class Reordering:
    """Decides which fragments wait."""

    def __init__(self) -> None:
        self._datagrams = 0

    def waits(self, frame: bytes) -> bool:
        """Whether a frame is held back; the kernel hands fragments over in order."""
        fragment = fragment_of(frame)
        if fragment is None:
            return False
        offset, more = fragment
        if offset == 0:
            self._datagrams += 1
            return self._datagrams % 2 == 1
        return more and self._datagrams % 2 == 0


@dataclass
class Line:
    """One direction: where frames come from, where they go, and which of them wait."""

    source: int
    sink: int
    reordering: Reordering | None
    held: list[tuple[float, bytes]] = field(default_factory=list)


def open_device(namespace: Path, interface: str, mode: int) -> int:
    """Attaches to an existing tap or tun device of a namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with namespace.open() as stream:
        # A thread sees the devices of the namespace it is in at the moment of opening.
        if libc.setns(stream.fileno(), CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(namespace))
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", interface.encode(), mode | IFF_NO_PI))
    return descriptor


def receive(line: Line) -> None:
    """Reads everything that is there and passes it on, or has it wait."""
    while True:
        try:
            frame = os.read(line.source, FRAME_OCTETS)
        except BlockingIOError:
            return
        if line.reordering is not None and line.reordering.waits(frame):
            line.held.append((time.monotonic() + HOLD_BACK_S, frame))
        else:
            os.write(line.sink, frame)


def release(line: Line) -> None:
    """Passes the frames on that have waited long enough."""
    now = time.monotonic()
    due = [frame for moment, frame in line.held if moment <= now]
    line.held = [waiting for waiting in line.held if waiting[0] > now]
    for frame in due:
        os.write(line.sink, frame)


def main(words: list[str]) -> None:
    """Relays until a signal ends the process."""
    kind, left_namespace, left_interface, right_namespace, right_interface = words
    mode = {"tap": IFF_TAP, "tun": IFF_TUN}[kind]
    left = open_device(Path(left_namespace), left_interface, mode)
    right = open_device(Path(right_namespace), right_interface, mode)
    reordering = Reordering() if mode == IFF_TAP else None
    lines = (Line(left, right, reordering), Line(right, left, None))
    selector = selectors.DefaultSelector()
    for line in lines:
        selector.register(line.source, selectors.EVENT_READ, line)
    print("relaying", flush=True)
    while True:
        waiting = any(line.held for line in lines)
        for key, _ in selector.select(HOLD_BACK_S / 4 if waiting else None):
            receive(key.data)
        for line in lines:
            release(line)


if __name__ == "__main__":
    main(sys.argv[1:])
