"""One program in Python that wants the packets of some hosts, in the way of one library.

    python bench/consume.py WAY CAPTURE HOSTS_FILE

It prints one JSON object: frames (read), matched, elapsed_s. The hosts file has one IPv4 address a line.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowtap import FilterTable

SOURCE = slice(26, 30)
DESTINATION = slice(30, 34)
"""Where the addresses of IPv4 stand behind an Ethernet header without tags."""

MTU_OCTETS = 1_600
"""Long enough that no copy becomes two."""

Result = tuple[int | None, int]
Consumer = Callable[[str], Result]
"""Reads a capture to its end; frames, where the library tells, and how many of them matched."""


def _table(hosts: list[str]) -> FilterTable:
    from flowtap import ContentDestination, Criteria, FilterTable  # noqa: PLC0415 - one way of several

    destination = {"cd": ContentDestination("192.0.2.1", 30_000, "192.0.2.2")}
    criteria = [Criteria(2 * at + 1, source=host, deliver_to=["cd"]) for at, host in enumerate(hosts)]
    criteria += [Criteria(2 * at + 2, destination=host, deliver_to=["cd"]) for at, host in enumerate(hosts)]
    return FilterTable.compile(criteria, destination)


def _addresses(hosts: list[str]) -> set[bytes]:
    return {socket.inet_aton(host) for host in hosts}


def flowtap_tap(hosts: list[str]) -> Consumer:
    from flowtap import Tap  # noqa: PLC0415

    table = _table(hosts)

    def consume(path: str) -> Result:
        matched = octets = 0
        with Tap.from_pcap(path, table, mtu_octets=MTU_OCTETS) as tap:
            for batch in tap:
                for copy in batch:
                    matched += 1
                    octets += len(copy)
            return tap.stats().frames, matched

    return consume


def pcapy_and_engine(hosts: list[str]) -> Consumer:
    import pcapy  # noqa: PLC0415

    from flowtap.adapters.pcapy import copies  # noqa: PLC0415

    table = _table(hosts)

    def consume(path: str) -> Result:
        batches = copies(pcapy.open_offline(path), table, mtu_octets=MTU_OCTETS)
        return None, sum(1 for batch in batches for _ in batch)

    return consume


def pcapy_loop(hosts: list[str]) -> Consumer:
    import pcapy  # noqa: PLC0415

    known = _addresses(hosts)

    def consume(path: str) -> Result:
        frames = matched = octets = 0

        def each(_header: object, data: bytes) -> None:
            nonlocal frames, matched, octets
            frames += 1
            if data[SOURCE] in known or data[DESTINATION] in known:
                matched += 1
                octets += len(data)

        pcapy.open_offline(path).loop(0, each)
        return frames, matched

    return consume


def pcapy_next(hosts: list[str]) -> Consumer:
    import pcapy  # noqa: PLC0415

    known = _addresses(hosts)

    def consume(path: str) -> Result:
        frames = matched = 0
        reader = pcapy.open_offline(path)
        while (pair := reader.next())[0] is not None:
            data = pair[1]
            frames += 1
            if data[SOURCE] in known or data[DESTINATION] in known:
                matched += 1
        return frames, matched

    return consume


def pcapy_next_batch(hosts: list[str]) -> Consumer:
    import struct  # noqa: PLC0415

    import pcapy  # noqa: PLC0415

    known = _addresses(hosts)

    def consume(path: str) -> Result:
        frames = matched = 0
        reader = pcapy.open_offline(path)
        # The end is an empty second element; the pair itself is never false.
        while (batch := reader.next_batch(4096))[1]:
            data, records = batch
            for _, _, at, _ in struct.iter_unpack("IIII", records):
                frames += 1
                if data[at + 26 : at + 30] in known or data[at + 30 : at + 34] in known:
                    matched += 1
        return frames, matched

    return consume


def dpkt_reader(hosts: list[str]) -> Consumer:
    import dpkt  # noqa: PLC0415

    known = _addresses(hosts)

    def consume(path: str) -> Result:
        frames = matched = 0
        with Path(path).open("rb") as file:
            for _, data in dpkt.pcap.Reader(file):
                frames += 1
                packet = dpkt.ethernet.Ethernet(data).data
                if packet.src in known or packet.dst in known:
                    matched += 1
        return frames, matched

    return consume


def scapy_reader(hosts: list[str]) -> Consumer:
    from scapy.layers.inet import IP  # noqa: PLC0415
    from scapy.utils import PcapReader  # noqa: PLC0415

    known = set(hosts)

    def consume(path: str) -> Result:
        frames = matched = 0
        with PcapReader(path) as reader:
            for packet in reader:
                frames += 1
                if packet[IP].src in known or packet[IP].dst in known:
                    matched += 1
        return frames, matched

    return consume


WAYS: dict[str, Callable[[list[str]], Consumer]] = {
    "flowtap Tap": flowtap_tap,
    "pcapy-ng loop": pcapy_loop,
    "pcapy-ng next": pcapy_next,
    "pcapy-ng next_batch": pcapy_next_batch,
    "pcapy-ng and Engine": pcapy_and_engine,
    "dpkt": dpkt_reader,
    "scapy": scapy_reader,
}


def main() -> int:
    way, path, hosts_file = sys.argv[1:]
    consume = WAYS[way](Path(hosts_file).read_text().split())
    began = time.perf_counter()
    frames, matched = consume(path)
    elapsed_s = time.perf_counter() - began
    print(json.dumps({"frames": frames, "matched": matched, "elapsed_s": elapsed_s}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
