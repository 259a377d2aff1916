"""pcapy-ng: its captures through our engine.

``next_batch`` hands over many packets in one piece of memory, with a table of records that say where each
of them is; `Engine.feed_batch` takes both as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from flowtap import Engine, LinkType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowtap import CopyBatch, FilterTable

__all__ = ["Reader", "batches", "copies"]


class Reader(Protocol):
    """What is needed of a ``pcapy.Reader``."""

    def next_batch(self, count: int, /) -> tuple[bytes, bytes]:
        """Up to ``count`` packets, and records of seconds, microseconds, offset and captured length."""

    def datalink(self) -> int:
        """The link type's number."""


def batches(reader: Reader, packets: int = 1024) -> Iterator[tuple[bytes, bytes]]:
    """Packets and records until the capture ends.

    Args:
        reader: An open capture.
        packets: Most packets of one batch.
    """
    while True:
        data, records = reader.next_batch(packets)
        if not records:
            return
        yield data, records


def copies(reader: Reader, table: FilterTable, *, mtu_octets: int = 1500) -> Iterator[CopyBatch]:
    """The copies of a whole capture, batch by batch; batches without copies are left out.

    Args:
        reader: An open capture.
        table: What to match.
        mtu_octets: Longest outer packet.
    """
    engine = Engine(table, link_type=LinkType(reader.datalink()), mtu_octets=mtu_octets)
    for data, records in batches(reader):
        batch = engine.feed_batch(data, records)
        if len(batch):
            yield batch
    rest = engine.flush()
    if len(rest):
        yield rest
