"""The network that the captures are recorded in: subjects, an edge router that records, servers.

    subject 10, 20, 40 -- veth --+
                                 | bridge "access"   [edge]   "core" -- veth -- servers
    subject 30 -- tap -- relay --+  192.0.2.1/24              198.51.100.1/24

The relay swaps the order of fragments, which the recording machine's kernel cannot do by itself.
All addresses are documentation addresses, all MAC addresses are locally administered and fixed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from captures.processes import RecordingError, run

if TYPE_CHECKING:
    from types import TracebackType

EDGE = "edge"
SERVERS = "servers"
SUBJECT_NUMBERS = (10, 20, 30, 40)
RELAYED_SUBJECT_NUMBER = 30

ACCESS_IPV4 = "192.0.2.1"
ACCESS_IPV6 = "2001:db8:1::1"
CORE_IPV4 = "198.51.100.1"
CORE_IPV6 = "2001:db8:2::1"
SERVER_NUMBERS = {"dns": 53, "http": 80, "ssh": 22, "sip": 60, "echo": 7}

# What would leave checksums and segments to hardware that is not there.
OFFLOADS = ("rx", "tx", "sg", "tso", "gso", "gro")


def subject(number: int) -> str:
    """The namespace of a subject."""
    return f"subject{number}"


def subject_ipv4(number: int) -> str:
    """The IPv4 address of a subject."""
    return f"192.0.2.{number}"


def subject_ipv6(number: int) -> str:
    """The IPv6 address of a subject."""
    return f"2001:db8:1::{number}"


def server_ipv4(service: str) -> str:
    """The IPv4 address of a service."""
    return f"198.51.100.{SERVER_NUMBERS[service]}"


def server_ipv6(service: str) -> str:
    """The IPv6 address of a service."""
    return f"2001:db8:2::{SERVER_NUMBERS[service]}"


def subject_mac(number: int) -> str:
    """The MAC address of a subject."""
    return f"02:00:5e:00:01:{number:02d}"


@dataclass(frozen=True)
class End:
    """One end of a link."""

    namespace: str
    interface: str
    mac: str


class Topology:
    """The namespaces and links; leaving the `with` block removes them."""

    def __init__(self) -> None:
        # Two recordings at a time do not meet: the names carry the process id.
        self._prefix = f"flowtap-captures-{os.getpid()}-"
        self._created: list[str] = []

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Removes the namespaces; their links and addresses go with them."""
        for name in reversed(self._created):
            run("ip", "netns", "delete", name, accept=(0, 1, 255))
        self._created.clear()

    def namespace_path(self, namespace: str) -> Path:
        """The file that stands for a namespace."""
        return Path("/run/netns") / (self._prefix + namespace)

    def inside(self, namespace: str, *command: str | Path) -> list[str]:
        """The words that run `command` inside a namespace."""
        return ["ip", "netns", "exec", self._prefix + namespace, *(str(word) for word in command)]

    def execute(
        self,
        namespace: str,
        *command: str | Path,
        timeout_s: float = 60.0,
        accept: tuple[int, ...] = (0,),
    ) -> str:
        """Runs a program inside a namespace to its end and returns its output."""
        return run(*self.inside(namespace, *command), timeout_s=timeout_s, accept=accept)

    def ip(self, namespace: str, words: str) -> None:
        """Runs `ip` with the given words inside a namespace."""
        run("ip", "-n", self._prefix + namespace, *words.split())

    def forget_neighbours(self) -> None:
        """Empties the neighbour tables, so that a recording starts with the first question."""
        for namespace in (EDGE, SERVERS, *map(subject, SUBJECT_NUMBERS)):
            for family in ("-4", "-6"):
                self.ip(namespace, f"{family} neigh flush all")

    def quieten(self, namespace: str, interface: str) -> None:
        """Switches the offloads of an interface off."""
        settings = [word for offload in OFFLOADS for word in (offload, "off")]
        # Some of them are fixed on some interfaces; ethtool says so and sets the others.
        self.execute(namespace, "ethtool", "-K", interface, *settings, accept=(0, 1, 80))

    def _add_namespace(self, namespace: str, *, forwarding: bool = False) -> None:
        name = self._prefix + namespace
        run("ip", "netns", "add", name)
        self._created.append(name)
        settings = {
            "net.ipv6.conf.default.accept_dad": 0,
            "net.ipv6.conf.default.accept_ra": 0,
            "net.ipv6.conf.default.router_solicitations": 0,
            "net.ipv6.conf.all.forwarding": int(forwarding),
            "net.ipv4.ip_forward": int(forwarding),
            # Every unreachable and every time-out gets its ICMP message, however many there are.
            "net.ipv4.icmp_ratelimit": 0,
            "net.ipv6.icmp.ratelimit": 0,
            "net.ipv4.ping_group_range": "0 0",
        }
        words = [f"{key}={value}" for key, value in settings.items()]
        self.execute(namespace, "sysctl", "-q", "-w", *words)
        self.ip(namespace, "link set lo up")
        self.quieten(namespace, "lo")

    def _build(self) -> None:
        self._add_namespace(EDGE, forwarding=True)
        self._add_namespace(SERVERS)
        self.ip(
            EDGE,
            "link add access address 02:00:5e:00:01:01 type bridge mcast_snooping 0 stp_state 0",
        )
        self._link(End(EDGE, "core", "02:00:5e:00:02:01"), End(SERVERS, "eth0", "02:00:5e:00:02:02"))
        for number in SUBJECT_NUMBERS:
            self._add_namespace(subject(number))
            port = End(EDGE, f"line{number}", f"02:00:5e:00:03:{number:02d}")
            line = End(subject(number), "eth0", subject_mac(number))
            if number == RELAYED_SUBJECT_NUMBER:
                self._add_tap(port)
                self._add_tap(line)
            else:
                self._link(port, line)
            self.ip(EDGE, f"link set line{number} master access")
        self._address()

    def _link(self, left: End, right: End) -> None:
        self.ip(
            left.namespace,
            f"link add {left.interface} address {left.mac} type veth"
            f" peer name {right.interface} address {right.mac}"
            f" netns {self._prefix}{right.namespace}",
        )
        for end in (left, right):
            self.quieten(end.namespace, end.interface)

    def _add_tap(self, end: End) -> None:
        self.ip(end.namespace, f"tuntap add dev {end.interface} mode tap")
        self.ip(end.namespace, f"link set {end.interface} address {end.mac}")
        self.quieten(end.namespace, end.interface)

    def _address(self) -> None:
        for interface, ipv4, ipv6 in (
            ("access", ACCESS_IPV4, ACCESS_IPV6),
            ("core", CORE_IPV4, CORE_IPV6),
        ):
            self.ip(EDGE, f"address add {ipv4}/24 dev {interface}")
            self.ip(EDGE, f"address add {ipv6}/64 dev {interface} nodad")
            self.quieten(EDGE, interface)
            self.ip(EDGE, f"link set {interface} up")
        for service in SERVER_NUMBERS:
            self.ip(SERVERS, f"address add {server_ipv4(service)}/24 dev eth0")
            self.ip(SERVERS, f"address add {server_ipv6(service)}/64 dev eth0 nodad")
        self._bring_up(SERVERS, CORE_IPV4, CORE_IPV6)
        for number in SUBJECT_NUMBERS:
            self.ip(EDGE, f"link set line{number} up")
            self.ip(subject(number), f"address add {subject_ipv4(number)}/24 dev eth0")
            self.ip(subject(number), f"address add {subject_ipv6(number)}/64 dev eth0 nodad")
            self._bring_up(subject(number), ACCESS_IPV4, ACCESS_IPV6)

    def _bring_up(self, namespace: str, router_ipv4: str, router_ipv6: str) -> None:
        self.ip(namespace, "link set eth0 up")
        self.ip(namespace, f"-4 route add default via {router_ipv4}")
        self.ip(namespace, f"-6 route add default via {router_ipv6}")


def require_root() -> None:
    """Refuses to go on without the right to make network namespaces."""
    if os.geteuid() != 0:
        message = "network namespaces need root: run this with sudo"
        raise RecordingError(message)
