"""Tunnels and their security associations as text, with the columns that a router prints.

A tunnel is what a router calls a service set, and a child of its IKE association a rule. One that was a
router's has the names that it had there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from flowtap.cli.console import Table, table_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["ike_lines", "ipsec_lines", "service_set_of", "silent_lines", "tunnel_lines"]

_EXCHANGES: Final = {1: "Main", 2: "IKEv2"}
"""Aggressive mode is never used."""
_MATURED: Final = frozenset({"ESTABLISHED", "REKEYING", "REKEYED"})
_CARRYING: Final = frozenset({"INSTALLED", "REKEYING"})
"""Children in other states stay in the list for some seconds, and carry nothing."""
IKE_HEAD: Final = ("Remote Address", "State", "Initiator cookie", "Responder cookie", "Exchange type")
IPSEC_HEAD: Final = ("Direction", "SPI", "AUX-SPI", "Mode", "Type", "Protocol")


def _state(association: Mapping[str, Any]) -> str:
    return "Matured" if association["state"] in _MATURED else "Not matured"


def _exchange(association: Mapping[str, Any]) -> str:
    return _EXCHANGES.get(association["version"], f"version {association['version']}")


def _shown(value: object) -> str:
    """A value; a dash where strongSwan has said nothing, such as of the integrity of AES-GCM."""
    return "-" if value in {None, ""} else str(value)


def _decimal(spi: str) -> str:
    """As a router shows it; an association that is only being made has none."""
    return str(int(spi, 16)) if spi else "-"


def service_set_of(tunnel: Mapping[str, Any]) -> str:
    """What a router would call the tunnel."""
    return str(tunnel["service_set"] or tunnel["name"])


def ike_lines(tunnels: Sequence[Mapping[str, Any]], *, detail: bool = False) -> list[str]:
    """The IKE associations of tunnels."""
    associations = [(tunnel, each) for tunnel in tunnels for each in tunnel["ike"]]
    if detail:
        return [line for tunnel, each in associations for line in _ike_detail(tunnel, each)]
    rows = [
        (
            each["remote_host"],
            _state(each),
            _shown(each["initiator_spi"]),
            _shown(each["responder_spi"]),
            _exchange(each),
        )
        for _, each in associations
    ]
    return table_lines(Table(IKE_HEAD, rows))


def _ike_detail(tunnel: Mapping[str, Any], each: Mapping[str, Any]) -> Iterator[str]:
    yield f"IKE peer {each['remote_host']}"
    yield f"  Service set: {service_set_of(tunnel)}, State: {_state(each)}"
    yield f"  Initiator cookie: {each['initiator_spi']}, Responder cookie: {each['responder_spi']}"
    yield f"  Exchange type: {_exchange(each)}"
    yield f"  Local: {tunnel['local_gateway']}, Remote: {each['remote_host']}"
    yield f"  Lifetime: {_age(each['established_s'])}, {_renewal(each['rekey_s'])}"
    yield "  Algorithms:"
    for name, key in (
        ("Authentication        ", "integrity"),
        ("Encryption            ", "encryption"),
        ("Pseudo random function", "prf"),
        ("Diffie-Hellman group  ", "dh_group"),
    ):
        yield f"   {name}: {_shown(each[key])}"


def _age(established_s: int | None) -> str:
    return "not established" if established_s is None else f"established {established_s} seconds ago"


def _renewal(rekey_s: int | None) -> str:
    return "no renewal planned" if rekey_s is None else f"renewed in {rekey_s} seconds"


def ipsec_lines(tunnels: Sequence[Mapping[str, Any]], *, detail: bool = False) -> list[str]:
    """The IPsec associations of tunnels; a tunnel that has none is left out."""
    lines: list[str] = []
    headed = ""
    for tunnel in tunnels:
        children = [each for each in tunnel["ipsec"] if detail or each["state"] in _CARRYING]
        if not children:
            continue
        if (service_set := service_set_of(tunnel)) != headed:
            lines += [""] if lines else []
            lines.append(f"Service set: {service_set}, IKE Routing-instance: default")
            headed = service_set
        for child in children:
            lines += ["", *_rule_lines(tunnel, child, detail=detail)]
    return lines


def _rule_lines(tunnel: Mapping[str, Any], child: Mapping[str, Any], *, detail: bool) -> Iterator[str]:
    rule, term = tunnel["rule"] or child["name"], tunnel["term"] or "1"
    yield f"  Rule: {rule}, Term: {term}, Tunnel index: {tunnel['index']}"
    yield f"  Local gateway: {tunnel['local_gateway']}, Remote gateway: {tunnel['remote_gateway']}"
    yield (
        f"  IPSec inside interface: {_shown(tunnel['interface'])}, Tunnel MTU: {_shown(tunnel['mtu_octets'])}"
    )
    if detail:
        yield f"  Local identity: {', '.join(child['local'])}"
        yield f"  Remote identity: {', '.join(child['remote'])}"
        yield f"  State: {child['state']}, UDP encapsulation: {'yes' if child['encapsulated'] else 'no'}"
        yield f"  Encryption: {_shown(child['encryption'])}, Authentication: {_shown(child['integrity'])}"
        for way, at in (("Input", "in"), ("Output", "out")):
            yield f"  {way}: {child[f'packets_{at}']} packets, {child[f'octets_{at}']} bytes"
    mode = child["mode"].lower()
    rows = [
        (direction, _decimal(child[spi]), "0", mode, "dynamic", child["protocol"])
        for direction, spi in (("inbound", "spi_in"), ("outbound", "spi_out"))
    ]
    for line in table_lines(Table(IPSEC_HEAD, rows)):
        yield f"    {line}"


def silent_lines(tunnels: Sequence[Mapping[str, Any]], kind: str) -> list[str]:
    """Says of every tunnel without an association why there is none; a router would say nothing."""
    return [
        f"{tunnel['name']}: {tunnel['state']} since {tunnel['since']}: {tunnel['reason']}"
        for tunnel in tunnels
        if not tunnel[kind]
    ]


def tunnel_lines(tunnels: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each tunnel, and what is wrong with its guard: what an operator looks at first."""
    rows = [
        (
            tunnel["name"],
            tunnel["state"],
            tunnel["since"],
            tunnel["remote_gateway"],
            sum(each["packets_in"] for each in tunnel["ipsec"]),
            sum(each["packets_out"] for each in tunnel["ipsec"]),
            tunnel["reason"],
        )
        for tunnel in tunnels
    ]
    head = ("tunnel", "state", "since", "remote gateway", "packets in", "packets out", "reason")
    lines = table_lines(Table(head, rows))
    for tunnel in tunnels:
        lines += [f"{tunnel['name']}: guard: {fault}" for fault in tunnel["guard_faults"]]
    return lines
