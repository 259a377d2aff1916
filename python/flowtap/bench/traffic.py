"""Whom the measured traffic is from and to, and the criteria that match some of it.

Subscribers have addresses of 100.64.0.0/10 (RFC 6598) and 2001:db8::/32 (RFC 3849), everybody else those
that are set aside for measuring, 198.18.0.0/15 (RFC 2544) and 2001:2::/48 (RFC 5180). Criteria name odd
subscribers, most frames are those of even ones: a host that is tapped has neighbours that are not.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from flowtap import Criteria
from flowtap._flowtap import Traffic

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["IMIX", "Flow", "Plan", "benchmark_flows"]

Flow: TypeAlias = tuple[str, str, int, int, int]
"""Source, destination, protocol, source port, destination port."""

IMIX = None
"""Length of frames that is a mixture: 60, 590 and 1,514 octets, 7 : 4 : 1."""

_SUBSCRIBERS_V4 = 0x64400000
_SUBSCRIBER_BITS = 22
_OTHERS_V4 = 0xC6120000
_OTHER_BITS = 17
_HOST_BITS = _SUBSCRIBER_BITS - 1
_HOST_STEP = 1_000_003
"""Odd, so that the hosts of neighbouring numbers lie far apart and no two are the same."""
_FLOWS = 65_536
_ACTIVE_HOSTS = 4_096
_TCP = 6
_UDP = 17
_PORTS = (53, 80, 443, 5060)
_FIRST_CLIENT_PORT = 1024
_PORT_END = 65_536
_SUBJECTS = 1 << 64
"""Draws for subjects differ from those for all others, whatever the seed."""


def _v4(bits: int) -> str:
    return f"{bits >> 24}.{bits >> 16 & 255}.{bits >> 8 & 255}.{bits & 255}"


def _subscriber(number: int, *, v6: bool) -> str:
    if v6:
        return f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1"
    return _v4(_SUBSCRIBERS_V4 + number)


def _other(number: int, *, v6: bool) -> str:
    return f"2001:2::{number >> 16:x}:{number & 0xFFFF:x}" if v6 else _v4(_OTHERS_V4 + number)


def _below(generator: random.Random, end: int) -> int:
    # Not randrange, whose numbers have changed between versions of Python.
    return generator.getrandbits(32) * end >> 32


def _ports(generator: random.Random) -> tuple[int, int, int]:
    """Protocol, port of the client, port of the service."""
    client = _FIRST_CLIENT_PORT + _below(generator, _PORT_END - _FIRST_CLIENT_PORT)
    return (_TCP, _UDP)[_below(generator, 2)], client, _PORTS[_below(generator, len(_PORTS))]


def benchmark_flows(seed: int, count: int = _FLOWS) -> list[Flow]:
    """Flows between addresses of 198.18.0.0/15 only."""
    generator = random.Random(seed)  # noqa: S311 - repeatable, no secret
    flows: list[Flow] = []
    for _ in range(count):
        addresses = [_other(generator.getrandbits(_OTHER_BITS), v6=False) for _ in range(2)]
        flows.append((addresses[0], addresses[1], *_ports(generator)))
    return flows


@dataclass(frozen=True, slots=True)
class Plan:
    """What the frames are to be, and what is to be found among them.

    Attributes:
        hosts: How many hosts are tapped, each in both directions.
        match_share: Which part of the frames is from or to one of them, 0 to 1.
        active_hosts: How many of the hosts these frames belong to; at most `hosts`.
        length_octets: Length of every frame without its check sequence, or `IMIX`.
        ipv6_share: Which part of the flows and of the hosts is IPv6, 0 to 1.
        seed: Another one gives other frames of the same kind.
    """

    hosts: int = 1
    match_share: float = 0.001
    active_hosts: int = _ACTIVE_HOSTS
    length_octets: int | None = IMIX
    ipv6_share: float = 0.0
    seed: int = 1

    def host(self, number: int) -> str:
        """Address of a tapped host, 0 for the first one."""
        spread = number * _HOST_STEP % (1 << _HOST_BITS)
        # The golden ratio's part spreads the families evenly over every run of hosts.
        is_v6 = (number + 1) * 0.6180339887498949 % 1 > 1 - self.ipv6_share
        return _subscriber(2 * spread + 1, v6=is_v6)

    def criteria(self, deliver_to: Sequence[str] = ()) -> list[Criteria]:
        """Two criteria for each host, numbered from 1."""
        return [
            Criteria(number, source=source, destination=destination, deliver_to=deliver_to)
            for number, (source, destination) in enumerate(self._directions(), start=1)
        ]

    def requests(self, *parameters: str) -> str:
        """The same criteria as a criteria file.

        Args:
            parameters: Further lines of every request.
        """
        return "\n".join(
            "\n".join(
                (
                    "ADD DTCP/0.7",
                    f"Source-Address: {source}" if source else f"Dest-Address: {destination}",
                    *parameters,
                    "",
                )
            )
            for source, destination in self._directions()
        )

    def _directions(self) -> Iterator[tuple[str | None, str | None]]:
        for number in range(self.hosts):
            host = self.host(number)
            yield host, None
            yield None, host

    def flows(self, count: int = _FLOWS) -> list[Flow]:
        """What most frames belong to: subscribers that no criterion names."""
        generator = random.Random(self.seed)  # noqa: S311 - repeatable, no secret
        flows = []
        for _ in range(count):
            is_v6 = _below(generator, 1_000_000) < self.ipv6_share * 1_000_000
            subscriber = _subscriber(2 * generator.getrandbits(_HOST_BITS), v6=is_v6)
            flows.append(self._flow(generator, subscriber, is_up=bool(generator.getrandbits(1))))
        return flows

    def subjects(self) -> list[Flow]:
        """What the other frames belong to: hosts that are tapped, in both directions."""
        generator = random.Random(self.seed ^ _SUBJECTS)  # noqa: S311 - repeatable, no secret
        hosts = [self.host(number) for number in range(min(self.hosts, self.active_hosts))]
        return [self._flow(generator, host, is_up=is_up) for host in hosts for is_up in (True, False)]

    @staticmethod
    def _flow(generator: random.Random, subscriber: str, *, is_up: bool) -> Flow:
        other = _other(generator.getrandbits(_OTHER_BITS), v6=":" in subscriber)
        protocol, client, service = _ports(generator)
        if is_up:
            return subscriber, other, protocol, client, service
        return other, subscriber, protocol, service, client

    def traffic(self) -> Traffic:
        """The frames.

        Raises:
            ValueError: A share is not between 0 and 1, or frames are too long.
        """
        return Traffic(
            self.flows() if self.match_share < 1 else [],
            subjects=self.subjects(),
            subject_share_ppm=round(self.match_share * 1_000_000),
            length_octets=self.length_octets,
            seed=self.seed,
        )
