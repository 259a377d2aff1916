"""The tunnels of a running tap: gates for the data plane, the guard, and who keeps each of them up."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flowtap import Gate
from flowtap.config import read_secret
from flowtap.control import PortError
from flowtap.delivery.connection import load_connection
from flowtap.delivery.credentials import read_tunnel_secrets
from flowtap.delivery.guard import GuardPlan
from flowtap.delivery.strongswan import StrongSwanTunnel
from flowtap.errors import ConfigurationError, TunnelError
from flowtap.service import clock
from flowtap.service.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from flowtap.config import Configuration, LoadedConfiguration
    from flowtap.config.tunnels import TunnelSection
    from flowtap.delivery.associations import ChildAssociation, IkeAssociation
    from flowtap.delivery.credentials import TunnelSecrets
    from flowtap.delivery.tunnel import TunnelStatus

__all__ = ["ACTS", "Tunnels", "check_tunnels", "spool_key"]

_LOG = logging.getLogger(__name__)

KEY_OCTETS: Final = 32
ACTS: Final = ("up", "down", "rekey", "rekey ike")
"""What can be done with a tunnel."""


def spool_key(configuration: LoadedConfiguration) -> bytes | None:
    """The key of copies that wait on disk; None where they are not to outlive the process.

    Raises:
        ConfigurationError: It cannot be read, or is none.
    """
    name, key = configuration.values.spool.key_file, "spool.key_file"
    if name is None:
        return None
    octets = read_secret(configuration, name, key)
    if len(octets) != KEY_OCTETS:
        raise ConfigurationError(f"{key}: holds {len(octets)} octets; {KEY_OCTETS} are right", key=key)
    return octets


def _spool_directory(configuration: LoadedConfiguration) -> str | None:
    """Where copies wait on disk, if any do, or have in an earlier run."""
    values = configuration.values
    directory = configuration.locate(values.spool.directory)
    kinds = {
        *(section.spool for section in values.tunnel.values()),
        *(section.spool for section in values.content_destination.values()),
    }
    return str(directory) if "disk" in kinds or directory.is_dir() else None


def _place(name: str, sections: Mapping[str, TunnelSection]) -> int | None:
    """The number of a tunnel among those between the same gateways; None where it is alone."""

    def gateways(section: TunnelSection) -> tuple[object, object]:
        return section.local_gateway, section.remote_gateway

    same = [each for each, section in sections.items() if gateways(section) == gateways(sections[name])]
    return same.index(name) if len(same) > 1 else None


def _secrets(configuration: LoadedConfiguration) -> dict[str, TunnelSecrets]:
    """What this side of each tunnel proves itself with."""
    return {name: read_tunnel_secrets(configuration, name) for name in configuration.values.tunnel}


def check_tunnels(configuration: LoadedConfiguration) -> tuple[GuardPlan, dict[str, TunnelSecrets]]:
    """What all tunnels need, without anything being started.

    Returns:
        What the guard closes, and what this side of each tunnel proves itself with.

    Raises:
        ConfigurationError: A secret cannot be read, or strongSwan could not be told of a tunnel.
    """
    secrets = _secrets(configuration)
    for name, section in configuration.values.tunnel.items():
        load_connection(name, section, secrets[name])
    return GuardPlan.of(configuration.values), secrets


class Tunnels:
    """All tunnels of a configuration; a gate is shut until its tunnel is up and the guard is sound.

    Made while there are rights: the guard has a process of its own, which keeps one.

    Args:
        configuration: Names them and their secrets.

    Raises:
        ConfigurationError: One of them cannot be.
        DataPlaneError: The guard's process does not start.
    """

    def __init__(self, configuration: LoadedConfiguration) -> None:
        self.sections = configuration.values.tunnel
        self.gates = {
            name: Gate(name, drain_pps=section.drain_pps) for name, section in self.sections.items()
        }
        self.spool_directory = _spool_directory(configuration)
        self.spool_key = spool_key(configuration)
        self.on_change: Callable[[], None] | None = None
        """What is called when a tunnel has come up or gone down."""
        self.local_networks = [each for section in self.sections.values() for each in section.local_networks]
        self._spool = configuration.values.spool
        self._plan, self._secrets = check_tunnels(configuration)
        self._guard: Guard | None = None
        self._tunnels: list[StrongSwanTunnel] = []
        if self.sections:
            guard = self._guard = Guard(self._plan)
            self._tunnels = [
                StrongSwanTunnel(
                    name,
                    section,
                    secrets=self._secrets[name],
                    gate=self.gates[name],
                    guard=guard,
                    on_change=self._changed,
                    place=_place(name, self.sections),
                )
                for name, section in self.sections.items()
            ]

    def refuse_changes(self, configuration: LoadedConfiguration) -> None:
        """Refuses a configuration with other tunnels or secrets, or with another place where copies wait.

        Raises:
            ConfigurationError: It needs a restart, or a secret cannot be read.
        """
        values = configuration.values
        if values.tunnel != self.sections:
            raise ConfigurationError("[tunnel] has changed, which takes a restart", key="tunnel")
        if not self.sections:
            return
        if _secrets(configuration) != self._secrets:
            message = "a secret or a certificate of [tunnel] has changed, which takes a restart"
            raise ConfigurationError(message, key="tunnel")
        if values.spool != self._spool:
            raise ConfigurationError("[spool] has changed, which takes a restart", key="spool")
        if self.spool_directory is None and _spool_directory(configuration) is not None:
            message = 'spool = "disk" is new; its directory is opened at the start, so it takes a restart'
            raise ConfigurationError(message, key="spool")

    def say_what_stays(self, values: Configuration) -> None:
        """Tells of what the guard goes on with, though the configuration has changed."""
        if self.sections and GuardPlan.of(values) != self._plan:
            _LOG.warning(
                "the guard goes on closing the ports of DTCP that it has closed, no others, until a restart"
            )

    def own(self) -> list[tuple[str, str, list[str], list[str]]]:
        """What is never tapped: gateways and networks of every tunnel."""
        return [
            (
                str(section.local_gateway),
                str(section.remote_gateway),
                [str(each) for each in section.local_networks],
                [str(each) for each in section.remote_networks],
            )
            for section in self.sections.values()
        ]

    def _changed(self, *_what: object) -> None:
        if self.on_change is not None:
            self.on_change()

    async def install_guard(self) -> list[str]:
        """Puts the guard in place, and returns what is wrong with it then."""
        return [] if self._guard is None else await self._guard.install()

    async def run(self) -> None:
        """Keeps all of them up until cancelled; then every gate is shut, and the guard stays."""
        try:
            async with asyncio.TaskGroup() as group:
                for each in self._tunnels:
                    group.create_task(each.run())
                group.create_task(asyncio.Event().wait())
        finally:
            for each in self._tunnels:
                each.close()

    def close(self) -> None:
        """Ends the guard's process; the guard itself stays."""
        for gate in self.gates.values():
            gate.shut()
        if self._guard is not None:
            self._guard.close()

    @property
    def guard_state(self) -> str:
        """One word: ``running``, ``ended``, or ``none`` where there is no tunnel."""
        return "none" if self._guard is None else self._guard.state

    async def act(self, name: str, act: str) -> None:
        """Takes a tunnel down, brings it up, or gives it new keys.

        Args:
            name: The tunnel's.
            act: One of `ACTS`.

        Raises:
            PortError: strongSwan has not done it.
        """
        found = next(each for each in self._tunnels if each.name == name)
        try:
            match act:
                case "up":
                    await found.up()
                case "down":
                    await found.down()
                case "rekey":
                    await found.rekey()
                case _:
                    await found.rekey("ike")
        except TunnelError as error:
            raise PortError(f"tunnel {name}: {error}") from None

    def values(self) -> list[dict[str, Any]]:
        """What `show` says of them."""
        now = clock.now()

        def since(monotonic_s: float) -> datetime:
            return clock.wall_at(now, monotonic_s)

        return [
            {"index": index, **_value(each.status, self.sections[each.name], since(each.status.since_s))}
            for index, each in enumerate(self._tunnels, 1)
        ]


def _value(status: TunnelStatus, section: TunnelSection, since: datetime) -> dict[str, Any]:
    interface = section.interface
    mtu_octets = None
    if interface is not None:
        with suppress(OSError, ValueError):
            mtu_octets = int((Path("/sys/class/net") / interface / "mtu").read_text())
    return {
        "name": status.name,
        "state": status.state.value,
        "reason": status.reason,
        "since": since.isoformat(timespec="seconds"),
        "service_set": section.service_set,
        "rule": section.rule,
        "term": section.term,
        "interface": interface,
        "mtu_octets": mtu_octets,
        "local_gateway": str(section.local_gateway),
        "remote_gateway": str(section.remote_gateway),
        "local_networks": [str(each) for each in section.local_networks],
        "remote_networks": [str(each) for each in section.remote_networks],
        "legacy": section.legacy,
        "guard_faults": list(status.guard_faults),
        "ike": [_ike_value(each) for each in status.associations],
        "ipsec": [_child_value(child) for each in status.associations for child in each.children],
    }


def _ike_value(ike: IkeAssociation) -> dict[str, Any]:
    return {
        "remote_host": ike.remote_host,
        "state": ike.state,
        "initiator_spi": ike.initiator_spi,
        "responder_spi": ike.responder_spi,
        "version": ike.version,
        "encryption": ike.algorithms.encryption,
        "integrity": ike.algorithms.integrity,
        "prf": ike.pseudo_random_function,
        "dh_group": ike.algorithms.group,
        "established_s": ike.established_s,
        "rekey_s": ike.rekey_in_s,
    }


def _child_value(child: ChildAssociation) -> dict[str, Any]:
    return {
        "name": child.name,
        "state": child.state,
        "mode": child.mode,
        "protocol": child.protocol,
        "spi_in": child.spi_in,
        "spi_out": child.spi_out,
        "encryption": child.algorithms.encryption,
        "integrity": child.algorithms.integrity,
        "local": list(child.local_selectors),
        "remote": list(child.remote_selectors),
        "packets_in": child.packets_in,
        "packets_out": child.packets_out,
        "octets_in": child.octets_in,
        "octets_out": child.octets_out,
        "encapsulated": child.is_in_udp,
    }
