"""Makes all checks of a configuration on this host, in the order in which things depend on each other."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowtap._flowtap import host_addresses, rights_held
from flowtap.config.schema import endpoint
from flowtap.config.tunnels import tunnel_to
from flowtap.config.values import Address
from flowtap.delivery.guard import GuardPlan
from flowtap.diagnosis import clock, files, firewall, kernel, network, probes, running, strongswan
from flowtap.diagnosis.finding import Finding, Unknown, unknown
from flowtap.diagnosis.firewall import Opening
from flowtap.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from flowtap.config import LoadedConfiguration
    from flowtap.config.tunnels import TunnelSection
    from flowtap.diagnosis.strongswan import StrongSwan

__all__ = ["Answers", "examine", "examine_host", "openings", "openings_before"]

_Endpoint = tuple[str, Address, int]
_IKE_PORTS = (500, 4_500)


@dataclass(frozen=True, slots=True)
class Answers:
    """What the running tap has said, or why it has not."""

    status: Mapping[str, Any] | Unknown
    tunnels: Mapping[str, Mapping[str, Any]] | Unknown

    def tunnel(self, name: str) -> Mapping[str, Any] | Unknown:
        """What it has said of one tunnel."""
        if isinstance(self.tunnels, Unknown):
            return self.tunnels
        return self.tunnels.get(name, Unknown("the running tap does not have this tunnel"))


def examine_host() -> list[Finding]:
    """What can be said without any configuration."""
    return [kernel.version(os.uname().release), clock.clock(probes.discipline())]


def examine(configuration: LoadedConfiguration, answers: Answers, settings: Path) -> list[Finding]:
    """Makes all checks.

    Args:
        configuration: A configuration that loads.
        answers: What the running tap has said.
        settings: ``strongswan.conf``.
    """
    addresses = host_addresses()
    return [
        *_files(configuration),
        *examine_host(),
        *_rights(configuration, answers),
        *_interfaces(configuration),
        *_tunnels(configuration, answers, settings, addresses),
        *_destinations(configuration, answers, addresses),
        *_ports(configuration, answers),
    ]


def _files(configuration: LoadedConfiguration) -> Iterator[Finding]:
    secrets = []
    for key, path, is_secret in files.named_files(configuration):
        state = probes.file_state(path)
        yield (files.private if is_secret else files.trusted)(key, path, state)
        if is_secret and not isinstance(state, Unknown):
            secrets.append((path, state))
    place = configuration.path.absolute().parent
    state = probes.file_state(place)
    yield files.folder(place, state)
    if not isinstance(state, Unknown):
        yield files.one_owner(place, state, secrets)


def _rights(configuration: LoadedConfiguration, answers: Answers) -> Iterator[Finding]:
    values = configuration.values
    yield running.tap(answers.status)
    yield from running.rights(
        answers.status,
        rights_held(),
        is_live=values.element.replay is None,
        has_tunnels=bool(values.tunnel),
    )
    yield running.exclusion(answers.status)


def _interfaces(configuration: LoadedConfiguration) -> Iterator[Finding]:
    for name in configuration.values.element.interfaces:
        yield network.interface(name, probes.interface(name))


# --- tunnels ----------------------------------------------------------------------------------


def _tunnels(
    configuration: LoadedConfiguration, answers: Answers, settings: Path, addresses: Sequence[Address]
) -> Iterator[Finding]:
    tunnels = configuration.values.tunnel
    if not tunnels:
        return
    daemons = {
        path: probes.strongswan(path)
        for path in {configuration.locate(section.vici_socket) for section in tunnels.values()}
    }
    for path, found in sorted(daemons.items()):
        yield strongswan.daemon(found, str(path))
        if not isinstance(found, Unknown):
            of_it = {
                name: each for name, each in tunnels.items() if configuration.locate(each.vici_socket) == path
            }
            yield strongswan.plugins(found)
            yield strongswan.connections(found, of_it)
    yield from strongswan.dead_peer(probes.strongswan_settings(settings), str(settings), tunnels)
    yield from _kernel(tunnels, next(iter(daemons.values())))
    yield from running.guard_rules(_guard_faults(configuration))
    tapped = configuration.values.element.interfaces
    for name, section in tunnels.items():
        tunnel = answers.tunnel(name)
        yield network.gateway(name, section, addresses)
        yield network.way(name, section, probes.path_mtu(section.remote_gateway, section.local_gateway))
        yield from network.speakers(name, section, addresses)
        if section.interface is not None:
            found_interface = probes.interface(section.interface)
            yield network.tunnel_interface(name, section.interface, found_interface, tapped)
            if found_interface is not None:
                yield kernel.reverse_path(probes.reverse_path(section.interface), section.interface)
        yield running.tunnel_state(name, tunnel, datetime.now(UTC))
        yield from running.guard(name, tunnel)
        yield from running.negotiated(name, section, tunnel)


def _guard_faults(configuration: LoadedConfiguration) -> list[str] | Unknown:
    """What is wrong with the guard's rules."""
    try:
        return probes.guard_faults(GuardPlan.of(configuration.values))
    except ConfigurationError as error:
        return [str(error)]


def _kernel(tunnels: Mapping[str, TunnelSection], found: StrongSwan | Unknown) -> Iterator[Finding]:
    config = probes.kernel_config()
    userspace = strongswan.userspace_esp(found)
    for version in sorted({section.local_gateway.version for section in tunnels.values()}):
        yield kernel.esp(probes.try_esp(version), config, userspace=userspace, version=version)
    names = [section.interface for section in tunnels.values() if section.interface is not None]
    if userspace is not True:
        yield kernel.xfrm_interface(probes.try_xfrm_interface(), config, wanted=bool(names))
    yield kernel.tun(exists=Path("/dev/net/tun").exists(), userspace=userspace)
    yield kernel.nftables(probes.ruleset(), needed=True)


def _destinations(
    configuration: LoadedConfiguration, answers: Answers, addresses: Sequence[Address]
) -> Iterator[Finding]:
    values = configuration.values
    for name, section in values.content_destination.items():
        yield network.source(name, section, addresses)
        through = tunnel_to(values.tunnel, section.address)
        if through is None:
            mtu = probes.path_mtu(section.address, section.source_address)
            yield network.copy_length(name, section, "in clear", mtu)
        else:
            inside = _inside_mtu(values.tunnel[through], answers.tunnel(through))
            yield network.copy_length(name, section, f"through tunnel {through}", inside)


def _inside_mtu(section: TunnelSection, tunnel: Mapping[str, Any] | Unknown) -> int | Unknown:
    """The longest packet that a tunnel takes whole."""
    if not isinstance(tunnel, Unknown) and tunnel["mtu_octets"] is not None:
        return int(tunnel["mtu_octets"])
    if section.interface is not None and (found := probes.interface(section.interface)) is not None:
        return found.mtu_octets
    outside = probes.path_mtu(section.remote_gateway, section.local_gateway)
    if isinstance(outside, Unknown):
        return outside
    version = section.remote_gateway.version
    return min(
        network.longest_inside(outside, proposal, version, encapsulated=True)
        for proposal in section.wanted_esp
    )


# --- ports ------------------------------------------------------------------------------------


def openings_before(configuration: LoadedConfiguration) -> list[Opening]:
    """What firewalls before this host must let in; what only comes through a tunnel they never see."""
    try:
        closed = GuardPlan.of(configuration.values).ports
    except ConfigurationError:
        closed = ()
    through: set[_Endpoint] = {(each.protocol, each.address, each.port) for each in closed}
    return _openings(configuration, through)


def openings(configuration: LoadedConfiguration) -> list[Opening]:
    """What this host's own firewall must let in, where what has come through a tunnel passes as well."""
    return _openings(configuration, set())


def _openings(configuration: LoadedConfiguration, through: set[_Endpoint]) -> list[Opening]:
    values = configuration.values
    found: dict[Opening, None] = {}
    for protocol, listen in (("tcp", values.dtcp.ssh.listen), ("udp", values.dtcp.udp.listen)):
        for address, port in map(endpoint, listen):
            is_hidden = ip_address(address).is_loopback or (protocol, ip_address(address), port) in through
            if port and not is_hidden:
                found[Opening(protocol, port, (ip_address(address).version,))] = None
    for section in values.tunnel.values():
        versions = (section.local_gateway.version,)
        found |= {Opening("udp", port, versions): None for port in _IKE_PORTS}
        found[Opening("esp", None, versions)] = None
    return list(found)


def _ports(configuration: LoadedConfiguration, answers: Answers) -> Iterator[Finding]:
    values = configuration.values
    taken = probes.sockets()
    for protocol, listen in (("tcp", values.dtcp.ssh.listen), ("udp", values.dtcp.udp.listen)):
        for address, port in map(endpoint, listen):
            # Port 0 is any one that is free.
            if port:
                is_own = _listens(answers, protocol, port)
                yield firewall.own_port(protocol, address, port, taken, tap_listens=is_own)
    for gateway in {str(section.local_gateway): None for section in values.tunnel.values()}:
        for port in _IKE_PORTS:
            yield firewall.ike_port(port, gateway, taken)
    yield from firewall.blocked(probes.ruleset(), openings(configuration))
    if tables := probes.legacy_tables():
        reason = Unknown(
            f"there are rules of the older iptables too ({', '.join(tables)}), which are not looked at",
            "see iptables-legacy -L INPUT",
        )
        yield unknown("firewall", reason)


def _listens(answers: Answers, protocol: str, port: int) -> bool:
    """Whether the running tap is who listens."""
    if isinstance(answers.status, Unknown):
        return False
    listening = answers.status.get("ssh" if protocol == "tcp" else "udp", ())
    return any(each.rpartition(":")[2] == str(port) for each in listening)
