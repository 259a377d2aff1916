"""Rule sets of a packet-classification benchmark as criteria, and packets drawn from them.

The sets are those of the classifier's own tests; a README beside them says where they come from.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from flowtap.bench.traffic import Flow

DIRECTORY = Path(__file__).resolve().parent.parent / "rust/flowtap-core/tests/data/classbench"
ANY_PORT = (0, 65_535)
BENCHMARK_ADDRESSES = IPv4Network("198.18.0.0/15")
FLOWS = 131_072
"""Flows drawn from a set: more than there are rules, so that most rules occur."""


@dataclass(frozen=True)
class Rule:
    """One rule; a protocol of None means any."""

    source: IPv4Network
    destination: IPv4Network
    source_port: tuple[int, int]
    destination_port: tuple[int, int]
    protocol: int | None

    def is_about(self, network: IPv4Network) -> bool:
        """Whether some packet from and to addresses of a network matches."""
        return self.source.overlaps(network) and self.destination.overlaps(network)

    def request(self) -> str:
        """The rule as a DTCP ADD."""
        lines = ["ADD DTCP/0.7"]
        if self.source.prefixlen:
            lines.append(f"Source-Address: {self.source}")
        if self.destination.prefixlen:
            lines.append(f"Dest-Address: {self.destination}")
        if self.protocol is not None:
            lines.append(f"Protocol: {self.protocol}")
        if self.source_port != ANY_PORT:
            lines.append("Source-Port: {}-{}".format(*self.source_port))
        if self.destination_port != ANY_PORT:
            lines.append("Dest-Port: {}-{}".format(*self.destination_port))
        return "\n".join((*lines, ""))

    def flow(self, generator: random.Random) -> Flow:
        """A flow that matches, and other rules by chance."""

        def address(network: IPv4Network) -> str:
            host = generator.getrandbits(32) & int(network.hostmask)
            return str(IPv4Address(int(network.network_address) | host))

        def port(ports: tuple[int, int]) -> int:
            return ports[0] + (generator.getrandbits(32) * (ports[1] - ports[0] + 1) >> 32)

        protocol = (6, 17)[generator.getrandbits(1)] if self.protocol is None else self.protocol
        ports = (port(self.source_port), port(self.destination_port))
        return address(self.source), address(self.destination), protocol, *ports


def names() -> list[str]:
    """The sets that are there."""
    return [path.name for path in sorted(DIRECTORY.glob("*_*0"))]


def rules(name: str) -> list[Rule]:
    """The rules of a set."""
    return [_rule(line) for line in (DIRECTORY / name).read_text().splitlines()]


def _rule(line: str) -> Rule:
    source, destination, source_port, destination_port, protocol = line.removeprefix("@").split("\t")[:5]
    number, _, mask = protocol.partition("/")

    def ports(text: str) -> tuple[int, int]:
        first, last = map(int, text.split(" : "))
        return first, last

    return Rule(
        IPv4Network(source, strict=False),
        IPv4Network(destination, strict=False),
        ports(source_port),
        ports(destination_port),
        int(number, 16) if mask == "0xFF" else None,
    )


def requests(chosen: Sequence[Rule]) -> str:
    """A criteria file, rule by rule."""
    return "\n".join(rule.request() for rule in chosen)


def flows(chosen: Sequence[Rule], seed: int) -> list[Flow]:
    """Flows drawn from rules, each rule equally often."""
    generator = random.Random(seed)
    return [chosen[generator.getrandbits(32) * len(chosen) >> 32].flow(generator) for _ in range(FLOWS)]
