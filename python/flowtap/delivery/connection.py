"""What strongSwan is told of a tunnel: its connection, and what it proves itself with."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Final

from flowtap.delivery.proposals import Proposal
from flowtap.errors import ConfigurationError, TunnelError

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

    from flowtap.config.tunnels import TunnelSection
    from flowtap.delivery.credentials import TunnelSecrets
    from flowtap.delivery.vici import Given, Tree

__all__ = [
    "WantedChild",
    "load_connection",
    "load_secrets",
    "refuse_old",
    "shared_secret_id",
    "wanted_children",
]

OLDEST: Final = (5, 9, 8)
"""The first release that was tried; before 5.9.6 there is no ``trap|start``."""
NAME_OCTETS: Final = 200
"""strongSwan writes a number behind names, and has 255 octets for both."""
PAIRS_MAX: Final = 64
"""Children of an IKEv1 tunnel: as many negotiations, one after the other."""
REKEY_SHARE: Final = 0.9
"""Keys are changed when so much of their lifetime is over."""
_RESERVED: Final = "up"
"""A name that strongSwan's events use for something else."""


@dataclass(frozen=True, slots=True)
class WantedChild:
    """A child that must be there for the tunnel to be up."""

    name: str
    local: tuple[IPv4Network | IPv6Network, ...]
    remote: tuple[IPv4Network | IPv6Network, ...]


def wanted_children(name: str, section: TunnelSection) -> tuple[WantedChild, ...]:
    """The children of a tunnel: one for everything, or with IKEv1 one for each pair of networks.

    IKEv1 negotiates one network on each side at a time (RFC 2409 §5.5).

    Raises:
        ConfigurationError: There is no such connection: too many pairs, or a name or an algorithm that
            cannot be.
    """
    _refuse(name, section)
    child = f"{name}-content"
    if section.ike_version != 1:
        return (WantedChild(child, tuple(section.local_networks), tuple(section.remote_networks)),)
    pairs = [
        (local, remote)
        for local, remote in product(section.local_networks, section.remote_networks)
        if local.version == remote.version
    ]
    if len(pairs) > PAIRS_MAX:
        key = f"tunnel.{name}.remote_networks"
        msg = (
            f"{key}: IKEv1 negotiates {len(pairs)} pairs of networks one by one;"
            f" at most {PAIRS_MAX} are right"
        )
        raise ConfigurationError(msg, key=key)
    if len(pairs) == 1:
        ((local, remote),) = pairs
        return (WantedChild(child, (local,), (remote,)),)
    return tuple(
        WantedChild(f"{child}-{number}", (local,), (remote,))
        for number, (local, remote) in enumerate(pairs, 1)
    )


def _refuse(name: str, section: TunnelSection) -> None:
    if len(name.encode()) > NAME_OCTETS or name == _RESERVED:
        key = f"tunnel.{name}"
        msg = (
            f"{key}: a name of at most {NAME_OCTETS} octets, other than {_RESERVED!r}, is right for a tunnel"
        )
        raise ConfigurationError(msg, key=key)
    for what, proposals in (("ike", section.wanted_ike), ("esp", section.wanted_esp)):
        key = f"tunnel.{name}.{what}_proposals"
        for each in proposals:
            try:
                Proposal.read(each)
            except ValueError as error:
                raise ConfigurationError(f"{key}: {error}", key=key) from None


def load_connection(
    name: str, section: TunnelSection, secrets: TunnelSecrets, place: int | None = None
) -> dict[str, Given]:
    """The message of ``load-conn``. The connection has the tunnel's name.

    Args:
        name: The tunnel's.
        section: What is asked for.
        secrets: What this side proves itself with.
        place: Its number among the tunnels between the same gateways; None where it is alone.

    Raises:
        ConfigurationError: There is no such connection.
    """
    local, remote = _local(section, secrets), _remote(section, secrets)
    rekey_s = int(section.ike_lifetime_s * REKEY_SHARE)
    over_s = section.ike_lifetime_s - rekey_s
    connection: dict[str, Given] = {
        "version": str(section.ike_version),
        "aggressive": "no",
        "local_addrs": [str(section.local_gateway)],
        "remote_addrs": [str(section.remote_gateway)],
        "proposals": section.wanted_ike,
        # With IKEv1 the other side is told of both together, and is asked anew before all ends.
        "rekey_time": f"{rekey_s}s",
        "over_time": f"{over_s}s",
        "dpd_delay": f"{section.dpd_delay_s}s",
        "keyingtries": "0",
        # The gateways are what the configuration says, and no other addresses.
        "mobike": "no",
        "local": local,
        "remote": remote,
        "children": {each.name: _child(each, section) for each in wanted_children(name, section)},
    }
    if place is not None:
        # strongSwan puts the children of connections that are equal in all these times under one association,
        # which has the name of the first; and who says that he is new ends what the other side has of him.
        connection |= {"rand_time": f"{over_s + place}s", "unique": "never"}
    if section.interface_id is not None:
        connection |= {"if_id_in": str(section.interface_id), "if_id_out": str(section.interface_id)}
    if section.ike_version == 1:
        connection["dpd_timeout"] = f"{section.dead_peer_s}s"
    return {name: connection}


def _child(wanted: WantedChild, section: TunnelSection) -> dict[str, Given]:
    return {
        "mode": "tunnel",
        "local_ts": [str(each) for each in wanted.local],
        "remote_ts": [str(each) for each in wanted.remote],
        "esp_proposals": section.wanted_esp,
        "life_time": f"{section.esp_lifetime_s}s",
        "rekey_time": f"{int(section.esp_lifetime_s * REKEY_SHARE)}s",
        "start_action": "trap|start",
        "close_action": "trap|start",
        "dpd_action": "restart",
    }


def _local(section: TunnelSection, secrets: TunnelSecrets) -> dict[str, Given]:
    if secrets.pre_shared_key is not None:
        return {"auth": "psk", "id": _ids(section)[0]}
    local: dict[str, Given] = {"auth": "pubkey", "certs": list(secrets.certificates[:1])}
    if section.local_id is not None:
        # Otherwise it is what the certificate says of its subject.
        local["id"] = section.local_id
    return local


def _remote(section: TunnelSection, secrets: TunnelSecrets) -> dict[str, Given]:
    if secrets.pre_shared_key is not None:
        return {"auth": "psk", "id": _ids(section)[1]}
    remote: dict[str, Given] = {"auth": "pubkey", "cacerts": list(secrets.authorities)}
    if section.remote_id is not None:
        remote["id"] = section.remote_id
    return remote


def _ids(section: TunnelSection) -> list[str]:
    """Who the two sides are where they share a secret."""
    return [
        section.local_id or str(section.local_gateway),
        section.remote_id or str(section.remote_gateway),
    ]


def shared_secret_id(name: str) -> str:
    """What strongSwan knows the tunnel's shared secret by."""
    return f"{name}-secret"


def load_secrets(
    name: str, section: TunnelSection, secrets: TunnelSecrets
) -> list[tuple[str, dict[str, Given]]]:
    """The commands, with their messages, by which strongSwan learns what this side proves itself with."""
    if secrets.pre_shared_key is not None:
        shared: dict[str, Given] = {
            "id": shared_secret_id(name),
            "type": "IKE",
            "data": secrets.pre_shared_key,
            "owners": _ids(section),
        }
        return [("load-shared", shared)]
    commands: list[tuple[str, dict[str, Given]]] = [
        ("load-cert", {"type": "X509", "flag": "NONE", "data": each}) for each in secrets.certificates[1:]
    ]
    if secrets.private_key is not None:
        commands.append(("load-key", {"type": "any", "data": secrets.private_key}))
    return commands


def refuse_old(version: Tree) -> None:
    """Refuses a release of strongSwan that was never tried with this.

    Args:
        version: The answer to ``version``.

    Raises:
        TunnelError: It is too old, or does not say what it is.
    """
    text = version.get("version", "")
    found = re.match(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?", text) if isinstance(text, str) else None
    oldest = ".".join(map(str, OLDEST))
    if found is None:
        raise TunnelError(f"strongSwan does not say which release it is; {oldest} or newer is right")
    if tuple(int(each or 0) for each in found.groups()) < OLDEST:
        raise TunnelError(f"strongSwan {found[0]} is too old; {oldest} or newer is right")
