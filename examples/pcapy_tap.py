"""A pcapy-ng tap that gains matching and encapsulation: batches go to the engine as they come.

python examples/pcapy_tap.py CAPTURE 192.0.2.10
"""

from __future__ import annotations

import sys

import pcapy

from flowtap import ContentDestination, Criteria, Engine, FilterTable, LinkType
from flowtap.adapters.pcapy import batches


def main(capture: str, subject: str) -> int:
    """Counts and copies what one host sends; returns the number of copies."""
    table = FilterTable.compile(
        [Criteria(id=1, source=subject, deliver_to=["cd1"])],
        destinations={
            "cd1": ContentDestination(address="198.51.100.7", port=30000, source_address="198.51.100.1")
        },
    )
    handle = pcapy.open_offline(capture)
    engine = Engine(table, link_type=LinkType(handle.datalink()))
    copies = octets = 0
    for packets, records in batches(handle):
        batch = engine.feed_batch(packets, records)
        copies += len(batch)
        octets += len(memoryview(batch))  # all datagrams in one piece, ready for any transport
    copies += len(engine.flush())
    stats = engine.stats()
    print(f"{stats.frames} frames, {stats.matched} matched, {copies} copies of {octets} octets")
    return copies


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
