"""Security associations as strongSwan lists them, and whether a child is what was asked for.

What is missing in a listing is None or empty here, so that another release does no harm; what is there must
be of the right kind, because a decision to send rests on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import collapse_addresses, ip_address, ip_network, summarize_address_range
from typing import TYPE_CHECKING, Final

from flowtap.delivery.proposals import Negotiated, Proposal
from flowtap.errors import TunnelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from ipaddress import IPv4Network, IPv6Network

    from flowtap.config.tunnels import TunnelSection
    from flowtap.delivery.vici import Tree, Value

__all__ = [
    "ChildAssociation",
    "ChildDown",
    "ChildRekeyed",
    "IkeAssociation",
    "associations",
    "events",
    "fits",
    "misfits",
    "not_covered",
]

LIVE: Final = frozenset({"INSTALLED", "REKEYING"})
"""States of a child that carries packets."""
DELETES: Final = frozenset({"IKE_DELETE", "CHILD_DELETE", "ISAKMP_DELETE", "QUICK_DELETE"})
"""Tasks that end an association because one side has said so."""


@dataclass(frozen=True, slots=True)
class ChildAssociation:
    """A pair of ESP associations; times are in seconds from now or until now, None where nothing is said."""

    name: str
    unique_id: int
    request_id: int | None
    state: str
    mode: str
    protocol: str
    is_in_udp: bool
    spi_in: str
    """Hexadecimal."""
    spi_out: str
    algorithms: Negotiated
    local_selectors: tuple[str, ...]
    remote_selectors: tuple[str, ...]
    octets_in: int = 0
    octets_out: int = 0
    packets_in: int = 0
    packets_out: int = 0
    use_in_s: int | None = None
    use_out_s: int | None = None
    installed_s: int | None = None
    rekey_in_s: int | None = None
    life_in_s: int | None = None

    @property
    def is_live(self) -> bool:
        """Whether it carries packets."""
        return self.state in LIVE


@dataclass(frozen=True, slots=True)
class IkeAssociation:
    """An IKE association with its children; times as there."""

    name: str
    unique_id: int
    version: int
    state: str
    local_host: str
    local_port: int | None
    local_id: str
    remote_host: str
    remote_port: int | None
    remote_id: str
    is_initiator: bool
    initiator_spi: str
    """The initiator's cookie, as IKEv1 calls it; hexadecimal."""
    responder_spi: str
    algorithms: Negotiated
    pseudo_random_function: str
    established_s: int | None = None
    rekey_in_s: int | None = None
    reauthenticate_in_s: int | None = None
    tasks_queued: tuple[str, ...] = ()
    tasks_active: tuple[str, ...] = ()
    """What this side has asked and the other has not answered."""
    tasks_passive: tuple[str, ...] = ()
    children: tuple[ChildAssociation, ...] = ()


@dataclass(frozen=True, slots=True)
class ChildDown:
    """A child is gone.

    Attributes:
        unique_id: Which one.
        is_said: One side has said so; otherwise the other was given up, or has come back without its memory.
        is_ours: It was this side, which says nothing of the path to the other.
    """

    unique_id: int
    is_said: bool
    is_ours: bool = False


@dataclass(frozen=True, slots=True)
class ChildRekeyed:
    """A child has followed another without a gap."""

    old_id: int
    new_id: int


def associations(listed: Iterable[Tree], name: str) -> tuple[IkeAssociation, ...]:
    """Those of a connection, from the parts of the answer to ``list-sas``.

    Raises:
        TunnelError: A listing is not what it should be.
    """
    return tuple(_ike(name, section) for part in listed for key, section in part.items() if key == name)


def events(kind: str, message: Tree, name: str) -> list[ChildDown | ChildRekeyed]:
    """What an event says of the children of a connection.

    Raises:
        TunnelError: It is not what it should be.
    """
    section = message.get(name)
    if kind not in {"child-updown", "child-rekey"} or section is None:
        return []
    fields = _section("child event", section)
    # Without this word the child went down.
    if kind == "child-updown" and "up" in message:
        return []
    children = _section("child-sas", fields.get("child-sas", {}))
    if kind == "child-rekey":
        return [_rekeyed(_section(key, each)) for key, each in children.items()]
    is_ours = not DELETES.isdisjoint(_list(fields, "tasks-active"))
    is_said = is_ours or not DELETES.isdisjoint(_list(fields, "tasks-passive"))
    found: list[ChildDown | ChildRekeyed] = []
    for key, each in children.items():
        child = _section(key, each)
        # IKEv1 names no task for it, but the child has left its state; one that was lost has not.
        is_over = is_said or child.get("state") == "DELETED"
        found.append(ChildDown(_number(child, "uniqueid"), is_over, is_ours))
    return found


def _rekeyed(child: Tree) -> ChildRekeyed:
    old, new = (_section(which, child.get(which, {})) for which in ("old", "new"))
    return ChildRekeyed(_number(old, "uniqueid"), _number(new, "uniqueid"))


def fits(child: ChildAssociation, section: TunnelSection) -> list[str]:
    """Why a child is not what the configuration asks for, in words; empty if it is."""
    return misfits(child, section.local_networks, section.remote_networks, section.wanted_esp)


def misfits(
    child: ChildAssociation,
    local: Sequence[IPv4Network | IPv6Network],
    remote: Sequence[IPv4Network | IPv6Network],
    proposals: Sequence[str],
) -> list[str]:
    """Why a child is not what was asked for, in words; empty if it is.

    Args:
        child: What was negotiated.
        local: What of this host it must carry.
        remote: What behind the other gateway it must carry.
        proposals: What was proposed for ESP.
    """
    found = []
    if not child.is_live:
        found.append(f"its state is {child.state or 'unknown'}, not INSTALLED")
    if child.mode != "TUNNEL":
        found.append(f"its mode is {child.mode or 'unknown'}, not TUNNEL")
    if child.protocol != "ESP":
        found.append(f"its protocol is {child.protocol or 'unknown'}, not ESP")
    for side, wanted, selectors in (
        ("local", local, child.local_selectors),
        ("remote", remote, child.remote_selectors),
    ):
        if left_out := not_covered(wanted, selectors):
            names = ", ".join(map(str, left_out))
            found.append(f"the other side leaves out {names} of {side}_networks")
    if not any(Proposal.read(each).covers(child.algorithms) for each in proposals):
        found.append(f"{child.algorithms} was negotiated, which was not proposed")
    return found


def not_covered(
    wanted: Sequence[IPv4Network | IPv6Network], selectors: Iterable[str]
) -> list[IPv4Network | IPv6Network]:
    """Networks that no selector carries; one for some protocol or ports alone carries none."""
    covered = [network for each in selectors for network in _networks(each)]
    v4 = list(collapse_addresses(each for each in covered if each.version == 4))  # noqa: PLR2004 - IPv4
    v6 = list(collapse_addresses(each for each in covered if each.version == 6))  # noqa: PLR2004 - IPv6
    return [
        each
        for each in wanted
        if not (
            any(each.subnet_of(other) for other in v4)
            if each.version == 4  # noqa: PLR2004 - IPv4
            else any(each.subnet_of(other) for other in v6)
        )
    ]


def _networks(selector: str) -> list[IPv4Network | IPv6Network]:
    """What a selector carries whole; nothing where it is for some protocol or ports alone."""
    first, between, last = selector.partition("..")
    try:
        if not between:
            return [ip_network(selector)]
        return list(summarize_address_range(ip_address(first), ip_address(last)))
    except (ValueError, TypeError):
        return []


def _ike(name: str, value: Value) -> IkeAssociation:
    fields = _section(name, value)
    children = _section("child-sas", fields.get("child-sas", {}))
    return IkeAssociation(
        name=name,
        unique_id=_number(fields, "uniqueid"),
        version=_number(fields, "version"),
        state=_string(fields, "state"),
        local_host=_string(fields, "local-host"),
        local_port=_maybe(fields, "local-port"),
        local_id=_string(fields, "local-id"),
        remote_host=_string(fields, "remote-host"),
        remote_port=_maybe(fields, "remote-port"),
        remote_id=_string(fields, "remote-id"),
        is_initiator=_string(fields, "initiator") == "yes",
        initiator_spi=_string(fields, "initiator-spi"),
        responder_spi=_string(fields, "responder-spi"),
        algorithms=_algorithms(fields),
        pseudo_random_function=_string(fields, "prf-alg"),
        established_s=_maybe(fields, "established"),
        rekey_in_s=_maybe(fields, "rekey-time"),
        reauthenticate_in_s=_maybe(fields, "reauth-time"),
        tasks_queued=_list(fields, "tasks-queued"),
        tasks_active=_list(fields, "tasks-active"),
        tasks_passive=_list(fields, "tasks-passive"),
        children=tuple(_child(key, each) for key, each in children.items()),
    )


def _child(key: str, value: Value) -> ChildAssociation:
    fields = _section(key, value)
    return ChildAssociation(
        name=_string(fields, "name"),
        unique_id=_number(fields, "uniqueid"),
        request_id=_maybe(fields, "reqid"),
        state=_string(fields, "state"),
        mode=_string(fields, "mode"),
        protocol=_string(fields, "protocol"),
        is_in_udp=_string(fields, "encap") == "yes",
        spi_in=_string(fields, "spi-in"),
        spi_out=_string(fields, "spi-out"),
        algorithms=_algorithms(fields),
        local_selectors=_list(fields, "local-ts"),
        remote_selectors=_list(fields, "remote-ts"),
        octets_in=_maybe(fields, "bytes-in") or 0,
        octets_out=_maybe(fields, "bytes-out") or 0,
        packets_in=_maybe(fields, "packets-in") or 0,
        packets_out=_maybe(fields, "packets-out") or 0,
        use_in_s=_maybe(fields, "use-in"),
        use_out_s=_maybe(fields, "use-out"),
        installed_s=_maybe(fields, "install-time"),
        rekey_in_s=_maybe(fields, "rekey-time"),
        life_in_s=_maybe(fields, "life-time"),
    )


def _algorithms(fields: Tree) -> Negotiated:
    return Negotiated(
        _string(fields, "encr-alg"),
        _maybe(fields, "encr-keysize"),
        _string(fields, "integ-alg"),
        _string(fields, "dh-group"),
    )


def _section(key: str, value: Value) -> Tree:
    if not isinstance(value, dict):
        raise TunnelError(f"strongSwan says of {key} what cannot be understood: a section was expected")
    return value


def _list(fields: Tree, key: str) -> tuple[str, ...]:
    value = fields.get(key, [])
    if not isinstance(value, list):
        raise TunnelError(f"strongSwan says of {key} what cannot be understood: a list was expected")
    return tuple(value)


def _string(fields: Tree, key: str) -> str:
    value = fields.get(key, "")
    if not isinstance(value, str):
        raise TunnelError(f"strongSwan says of {key} what cannot be understood: a word was expected")
    return value


def _maybe(fields: Tree, key: str) -> int | None:
    return _number(fields, key) if key in fields else None


def _number(fields: Tree, key: str) -> int:
    value = _string(fields, key)
    # As the program writes numbers; Python would read more than these.
    if not (value.isascii() and value.removeprefix("-").isdigit() and len(value) <= len(str(-(2**64)))):
        raise TunnelError(f"strongSwan says of {key} what cannot be understood: a number was expected")
    return int(value)
