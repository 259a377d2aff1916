"""Checks of interfaces, addresses, routes and lengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from flowtap.diagnosis.addresses import first_inside
from flowtap.diagnosis.finding import Finding, Unknown, fail, ok, unknown, warn

if TYPE_CHECKING:
    from collections.abc import Collection

    from flowtap.config.schema import ContentDestinationSection
    from flowtap.config.tunnels import TunnelSection
    from flowtap.config.values import Address

__all__ = [
    "Interface",
    "copy_length",
    "gateway",
    "interface",
    "longest_inside",
    "source",
    "speakers",
    "tunnel_interface",
    "way",
]

_IFF_UP: Final = 1
USUAL_OCTETS: Final = 1_500
"""The longest packet of Ethernet, as subjects send it."""
_HEADERS: Final = {4: 28, 6: 48}
"""IP and UDP, as FlowTap puts them in front of a copy."""
_IP: Final = {4: 20, 6: 40}
_UDP: Final = 8
_ESP: Final = 8
"""SPI and sequence number [RFC 4303 §2]."""
_TRAILER: Final = 2


@dataclass(frozen=True, slots=True)
class Interface:
    """What the kernel says of one: its flags, its state in words, its MTU."""

    flags: int
    state: str
    mtu_octets: int


def interface(name: str, found: Interface | None) -> Finding:
    """An interface that is tapped."""
    if found is None:
        return fail(
            "interface", f"{name}: there is none of that name here", f"correct [element] interfaces: {name}"
        )
    if not found.flags & _IFF_UP:
        return fail("interface", f"{name}: is down", f"ip link set {name} up")
    if found.state in {"down", "lowerlayerdown", "notpresent"}:
        return warn("interface", f"{name}: is up, but has no carrier", "look at the cable and the other end")
    return ok("interface", f"{name}: is up")


def tunnel_interface(tunnel: str, name: str, found: Interface | None, tapped: Collection[str]) -> Finding:
    """The interface of a tunnel: there, up, and not tapped."""
    what = f"tunnel {tunnel}: {name}"
    if name in tapped:
        return fail(
            "tunnel interface",
            f"{what} is tapped, so every copy would be copied again",
            f"take {name} out of [element] interfaces",
        )
    if found is None:
        return fail(
            "tunnel interface",
            f"{what}: there is none of that name here",
            f"ip link add {name} type xfrm if_id N, or start strongSwan where {name} is kernel-libipsec's",
        )
    if not found.flags & _IFF_UP:
        return fail("tunnel interface", f"{what} is down", f"ip link set {name} up")
    return ok("tunnel interface", f"{what} is up, MTU {found.mtu_octets}")


def gateway(tunnel: str, section: TunnelSection, addresses: Collection[Address]) -> Finding:
    """Whether this host has the address that a tunnel begins at."""
    address = section.local_gateway
    what = f"tunnel {tunnel}: local_gateway {address}"
    if address in addresses:
        return ok("local gateway", f"{what} is this host's")
    length = address.max_prefixlen
    return fail(
        "local gateway", f"{what} is no address of this host", f"ip addr add {address}/{length} dev lo"
    )


def speakers(tunnel: str, section: TunnelSection, addresses: Collection[Address]) -> list[Finding]:
    """Whether this host has an address that may speak through a tunnel, in each of its families."""
    findings = []
    for version in sorted({each.version for each in section.local_networks}):
        networks = [each for each in section.local_networks if each.version == version]
        named = ", ".join(map(str, networks))
        found = first_inside(addresses, networks, version)
        if found is None:
            example = f"{networks[0][0]}/{networks[0].max_prefixlen}"
            findings.append(
                fail(
                    "local networks",
                    f"tunnel {tunnel}: no address of this host lies in {named}",
                    f"give this host one, such as ip addr add {example} dev lo",
                )
            )
        else:
            findings.append(ok("local networks", f"tunnel {tunnel}: {found} is this host's, in {named}"))
    return findings


def source(name: str, section: ContentDestinationSection, addresses: Collection[Address]) -> Finding:
    """Whether copies leave from an address of this host."""
    what = f"content destination {name}: source_address {section.source_address}"
    if section.source_address in addresses:
        return ok("source address", f"{what} is this host's")
    return warn(
        "source address",
        f"{what} is no address of this host, so the right CAP_NET_RAW is needed to send from it",
        "give this host the address, or see that the right is there",
    )


def way(tunnel: str, section: TunnelSection, path_mtu: int | Unknown) -> Finding:
    """Whether there is a route to the other end of a tunnel."""
    what = f"tunnel {tunnel}: {section.remote_gateway}"
    if isinstance(path_mtu, Unknown):
        return fail(
            "route", f"{what} cannot be reached: {path_mtu.why}", "add a route to it, or a default route"
        )
    return ok("route", f"{what} is reached, path MTU {path_mtu}")


# --- lengths ----------------------------------------------------------------------------------


def _cipher(proposal: str) -> tuple[int, int]:
    """Octets of the initialisation vector, and what lengths are multiples of."""
    if "gcm" in proposal or "ccm" in proposal or "chacha" in proposal:
        return 8, 4
    return (8, 8) if "3des" in proposal else (16, 16)


def _check_value(proposal: str) -> int:
    """Octets of the integrity check value; the longest where the name is not known."""
    words = proposal.split("-")
    for word in words:
        if word.startswith("chacha"):
            return 16
        if "gcm" in word or "ccm" in word:
            tail = word.rpartition("cm")[2]
            return {"8": 8, "64": 8, "12": 12, "96": 12}.get(tail, 16)
    lengths = {"sha1": 12, "md5": 12, "aesxcbc": 12, "sha256": 16, "sha384": 24, "sha512": 32}
    return max((length for name, length in lengths.items() if name in words), default=32)


def longest_inside(path_mtu: int, proposal: str, version: int, *, encapsulated: bool) -> int:
    """The longest packet that fits into one packet of ESP [RFC 4303 §2].

    Args:
        path_mtu: Towards the other gateway.
        proposal: Of ESP, in strongSwan's words.
        version: Of the gateways' addresses.
        encapsulated: Whether UDP lies around it [RFC 3948].
    """
    vector, block = _cipher(proposal)
    room = path_mtu - _IP[version] - (_UDP if encapsulated else 0) - _ESP - vector - _check_value(proposal)
    return room // block * block - _TRAILER


def copy_length(name: str, section: ContentDestinationSection, way: str, mtu: int | Unknown) -> Finding:
    """Whether copies of the usual longest packets fit.

    Args:
        name: Of the content destination.
        section: It.
        way: The way there, in words.
        mtu: The longest packet that fits on it.
    """
    headers = _HEADERS[section.address.version]
    about = f"content destination {name}, {way}"
    if isinstance(mtu, Unknown):
        return unknown("copy length", mtu, about)
    copy = USUAL_OCTETS + headers
    if copy <= mtu:
        return ok("copy length", f"{about}: {copy} octets, of {mtu} that fit")
    longest = mtu - headers
    if section.oversize == "refuse":
        return fail(
            "copy length",
            f"{about}: copies of packets longer than {longest} octets are refused (MTU {mtu})",
            f'an MTU of {copy} on the whole way, or oversize = "fragment"',
        )
    return warn(
        "copy length",
        f"{about}: copies of packets longer than {longest} octets are sent in fragments (MTU {mtu})",
        f"an MTU of {copy} on the whole way is best; else see that the mediation device and firewalls before"
        " it take fragments",
    )
