"""The guard: rules of the kernel that let nothing leave in clear for what lies behind a tunnel, nor come in.

It stands outside strongSwan, because strongSwan takes its own policies away when it ends. Two layers:

* nftables, table ``inet flowtap_guard``: whatever leaves for a remote network without IPsec, and not through
  the tunnel's interface, is dropped, whoever sends it: this host or one that it forwards for, with whichever
  source address, through raw sockets and sockets that are bound to an interface. What comes in clear from
  there is dropped before anybody hears it.
* A rule of the routing policy for each remote network: where strongSwan's own routing table (rule 220) has no
  way, there is none. It makes a send fail at once with a clear error, and routes of others cannot be taken.
  The way to an XFRM interface therefore belongs into table 220.

The first layer is the one that holds; the second one can be passed with a socket that is bound to an
interface. What the guard cannot see: packet sockets, which send below it, and packets to whose destination
another rule of this host gives another address before the guard has seen it.

Here is what the rules are and what is wrong with those that are there; nothing here does anything.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from ipaddress import (
    IPv4Network,
    IPv6Network,
    collapse_addresses,
    ip_address,
    ip_network,
)
from typing import TYPE_CHECKING, Final, Literal

from flowtap.config.schema import endpoint
from flowtap.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from flowtap.config import Configuration
    from flowtap.config.values import Address

__all__ = [
    "PREFERENCE",
    "TABLE",
    "Chain",
    "ClosedPort",
    "Drop",
    "GuardPlan",
    "GuardedTunnel",
    "chains",
    "removal",
    "rules",
    "ruleset",
]

Network = IPv4Network | IPv6Network
TABLE: Final = "flowtap_guard"
PREFERENCE: Final = 221
"""The place of the routing policy's rules: right behind strongSwan's own, which is 220."""
LAST: Final = 300
"""Behind all that changes packets on their way out."""
FIRST: Final = -300
"""Before all else on the way in (``raw``)."""
FAMILIES: Final = {4: "ip", 6: "ip6"}
_INTERFACE: Final = re.compile(r"[A-Za-z0-9._@+-]+")
"""Names that nftables takes as they are; ``*`` would stand for any end."""


@dataclass(frozen=True, slots=True)
class GuardedTunnel:
    """What is reached through one tunnel only.

    Attributes:
        name: The tunnel's.
        remote_networks: What lies behind it, no two of which overlap or could be one.
        interface: The tunnel's; None in the kernel's policy mode.
    """

    name: str
    remote_networks: tuple[Network, ...]
    interface: str | None


@dataclass(frozen=True, slots=True)
class ClosedPort:
    """A place where DTCP is heard, if it comes through a tunnel.

    Attributes:
        protocol: TCP for SSH, UDP for datagrams.
        address: The address of this host.
        port: The port.
        interfaces: Those of the tunnels that it may come through; tunnels in policy mode have none.
    """

    protocol: Literal["tcp", "udp"]
    address: Address
    port: int
    interfaces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GuardPlan:
    """What the guard has to hold."""

    tunnels: tuple[GuardedTunnel, ...]
    ports: tuple[ClosedPort, ...] = ()

    @classmethod
    def of(cls, values: Configuration) -> GuardPlan:
        """The plan of a configuration.

        Ports: what comes in clear with a source address of a remote network is dropped whatever it is for, so
        a control source that must come through a tunnel is known by its address. A port of DTCP is closed to
        all else that is in clear only where nobody could miss it: it listens at an address that lies in
        ``local_networks`` (and not at all addresses of this host), and every control source that can use it
        has a ``tunnel``. Otherwise the address may serve others as well, whose packets are not the guard's to
        drop.

        Raises:
            ConfigurationError: The name of an interface is none that nftables can be told.
        """
        tunnels = []
        for name, section in sorted(values.tunnel.items()):
            if section.interface is not None and not _INTERFACE.fullmatch(section.interface):
                key = f"tunnel.{name}.interface"
                message = (
                    f"{key}: {section.interface!r}: letters, digits and . _ @ + - are right for the guard"
                )
                raise ConfigurationError(message, key=key)
            tunnels.append(GuardedTunnel(name, tuple(_collapsed(section.remote_networks)), section.interface))
        return cls(tuple(tunnels), tuple(_closed_ports(values)))

    def to_json(self) -> str:
        """As text in one line."""
        value = {
            "tunnels": [
                {
                    "name": tunnel.name,
                    "remote_networks": [str(each) for each in tunnel.remote_networks],
                    "interface": tunnel.interface,
                }
                for tunnel in self.tunnels
            ],
            "ports": [
                {
                    "protocol": each.protocol,
                    "address": str(each.address),
                    "port": each.port,
                    "interfaces": list(each.interfaces),
                }
                for each in self.ports
            ],
        }
        return json.dumps(value, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> GuardPlan:
        """Reads what ``to_json`` wrote, in another process of ours.

        Raises:
            ValueError: It is something else.
        """
        try:
            value = json.loads(text)
            tunnels = tuple(
                GuardedTunnel(
                    str(each["name"]),
                    tuple(ip_network(network) for network in each["remote_networks"]),
                    None if each["interface"] is None else _named(each["interface"]),
                )
                for each in value["tunnels"]
            )
            ports = tuple(
                ClosedPort(
                    {"tcp": "tcp", "udp": "udp"}[each["protocol"]],  # type: ignore[arg-type]  # one of the two
                    ip_address(each["address"]),
                    int(each["port"]),
                    tuple(_named(name) for name in each["interfaces"]),
                )
                for each in value["ports"]
            )
        except (KeyError, TypeError, ValueError) as error:
            msg = f"what the guard has to hold cannot be read: {error}"
            raise ValueError(msg) from None
        return cls(tunnels, ports)


def _named(name: str) -> str:
    if not _INTERFACE.fullmatch(name):
        msg = f"{name!r} is no name of an interface"
        raise ValueError(msg)
    return name


def _collapsed(networks: Iterable[Network]) -> Iterator[Network]:
    """Each address once, in the order of the addresses, IPv4 first."""
    given = list(networks)
    yield from collapse_addresses(each for each in given if isinstance(each, IPv4Network))
    yield from collapse_addresses(each for each in given if isinstance(each, IPv6Network))


def _closed_ports(values: Configuration) -> Iterator[ClosedPort]:
    sources = values.control_source
    over_ssh = [source.tunnel for name, source in sources.items() if name in values.login.user]
    over_udp = [source.tunnel for source in sources.values() if source.key_file is not None]
    listeners: list[tuple[Literal["tcp", "udp"], str, list[str | None]]] = [
        *(("tcp", text, over_ssh) for text in values.dtcp.ssh.listen),
        *(("udp", text, over_udp) for text in values.dtcp.udp.listen),
    ]
    for protocol, text, used in listeners:
        host, port = endpoint(text)
        address = ip_address(host)
        tunnels = {name for name in used if name is not None}
        inside = any(values.tunnel[name].has_local(address) for name in tunnels)
        if port == 0 or not inside or None in used:
            continue
        named = {values.tunnel[name].interface for name in tunnels}
        yield ClosedPort(protocol, address, port, tuple(sorted(each for each in named if each is not None)))


@dataclass(frozen=True, slots=True)
class Drop:
    """One rule of nftables: packets to or from these networks that came or go in clear are dropped.

    Attributes:
        field: Which of the addresses is meant.
        networks: Of one family.
        port: Protocol and destination port; None for whatever there is.
        way: Which interface is asked for.
        interfaces: Those that packets in clear may take all the same.
        security: Where it stands that there is IPsec: in the route or with the packet.
        words: What is dropped, for people.
    """

    field: Literal["saddr", "daddr"]
    networks: tuple[Network, ...]
    way: Literal["iifname", "oifname"]
    interfaces: tuple[str, ...]
    security: Literal["rt", "meta"]
    words: str
    port: tuple[str, int] | None = None

    @property
    def family(self) -> str:
        """The protocol's name in nftables."""
        return FAMILIES[self.networks[0].version]

    def __str__(self) -> str:
        parts = [self.family, self.field, _choice([str(each) for each in self.networks])]
        if self.port is not None:
            parts += [self.port[0], "dport", str(self.port[1])]
        if self.interfaces:
            parts += [self.way, "!=", _choice([f'"{each}"' for each in self.interfaces])]
        return " ".join([*parts, self.security, "ipsec missing counter drop"])


def _choice(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else f"{{ {', '.join(values)} }}"


@dataclass(frozen=True, slots=True)
class Chain:
    """One chain, and where in a packet's way it is asked."""

    name: str
    hook: str
    priority: int
    drops: tuple[Drop, ...]


def _drops(
    plan: GuardPlan,
    field: Literal["saddr", "daddr"],
    way: Literal["iifname", "oifname"],
    security: Literal["rt", "meta"],
    words: str,
) -> Iterator[Drop]:
    for tunnel in plan.tunnels:
        for version in FAMILIES:
            networks = tuple(each for each in tunnel.remote_networks if each.version == version)
            if networks:
                interfaces = () if tunnel.interface is None else (tunnel.interface,)
                which = f"IPv{version} in clear that {words}, against tunnel.{tunnel.name}"
                yield Drop(field, networks, way, interfaces, security, which)


def _port_drops(plan: GuardPlan) -> Iterator[Drop]:
    for each in plan.ports:
        words = f"DTCP in clear to {each.protocol.upper()} port {each.port}"
        network = (ip_network(each.address),)
        # What this host sends to itself has no tunnel to go through.
        interfaces = (*each.interfaces, "lo")
        yield Drop("daddr", network, "iifname", interfaces, "meta", words, (each.protocol, each.port))


def chains(plan: GuardPlan) -> tuple[Chain, ...]:
    """The chains that have to be there; the second one sees what is forwarded as well."""
    out = tuple(_drops(plan, "daddr", "oifname", "rt", "leaves"))
    inbound = (*_drops(plan, "saddr", "iifname", "meta", "comes in"), *_port_drops(plan))
    return (
        Chain("out", "output", LAST, out),
        Chain("post", "postrouting", LAST, out),
        Chain("in", "input", FIRST, inbound),
    )


def ruleset(plan: GuardPlan) -> str:
    """What ``nft -f`` takes: the table in place of whatever was there, in one step without a gap."""
    lines = [removal(), f"table inet {TABLE} {{"]
    for chain in chains(plan):
        lines += [
            f"\tchain {chain.name} {{",
            f"\t\ttype filter hook {chain.hook} priority {chain.priority}; policy accept;",
            *(f"\t\t{drop}" for drop in chain.drops),
            "\t}",
        ]
    return "\n".join([*lines, "}", ""])


def removal() -> str:
    """What ``nft -f`` takes to have the table no more, whether it is there or not."""
    return f"add table inet {TABLE}\ndelete table inet {TABLE}"


def rules(plan: GuardPlan) -> tuple[Network, ...]:
    """The networks that the routing policy has to call unreachable."""
    return tuple(each for tunnel in plan.tunnels for each in tunnel.remote_networks)
