"""Where copies go: the vendor's delivery parameters of an ADD [DTCP App. B]."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final

from flowtap.dtcp import grammar
from flowtap.dtcp.grammar import SyntaxFault
from flowtap.dtcp.messages import Delivery, Parameter
from flowtap.dtcp.status import Status

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv6Address

__all__ = ["read_deliveries"]

_EVERYBODY: Final = IPv4Address("255.255.255.255")
_DELIVERY: Final = tuple(
    f"x-jtap-cdest-{name}" for name in ("dest-address", "dest-port", "source-address", "source-port", "ttl")
)


def read_deliveries(
    given: Mapping[str, Parameter], count: int
) -> tuple[tuple[Delivery, ...], Mapping[str, Parameter]]:
    """Reads the vendor's delivery parameters [DTCP App. B]; none given means a configured destination.

    Returns:
        The outer headers, and the parameters that say so: those of an earlier ADD where they are the same.

    Raises:
        SyntaxFault: Some are missing, cannot be read, or make no outer header.
    """
    named = [given.get(name) for name in _DELIVERY]
    if not any(named):
        return (), {}
    *needed, ttl = named
    missing = [name for name, each in zip(_DELIVERY, needed, strict=False) if each is None]
    if missing:
        raise SyntaxFault(
            "missing: " + ", ".join(name.title().replace("-Jtap-", "-JTap-") for name in missing),
            status=Status.JTAP_FAILURE,
        )
    return _read(*grammar.present(*needed), ttl=ttl, count=count)


# A control source names the same few destinations again and again; its intercepts share what was read.
@lru_cache(maxsize=64)
def _read(
    address_parameter: Parameter,
    port_parameter: Parameter,
    source_parameter: Parameter,
    source_port_parameter: Parameter,
    *,
    ttl: Parameter | None,
    count: int,
) -> tuple[tuple[Delivery, ...], Mapping[str, Parameter]]:
    addresses = grammar.address_list(address_parameter)
    ports = _numbers(port_parameter)
    sources = grammar.address_list(source_parameter)
    source_ports = _numbers(source_port_parameter)
    if not len(addresses) == len(ports) == count:
        raise SyntaxFault(
            "Cdest-ID, X-JTap-Cdest-Dest-Address and X-JTap-Cdest-Dest-Port have one entry each, or two each",
            address_parameter,
            port_parameter,
            status=Status.IMPROPER_FILTER,
        )
    hops = 255 if ttl is None else _vendor_number(ttl, ttl.value, 255)
    if len(sources) != 1 or len(source_ports) != 1:
        raise SyntaxFault(
            "X-JTap-Cdest-Source-Address and X-JTap-Cdest-Source-Port: one entry each is right",
            source_parameter,
            source_port_parameter,
            status=Status.JTAP_FAILURE,
        )
    for address in addresses:
        _check_outer(address, sources[0], address_parameter, source_parameter)
    read = grammar.present(address_parameter, port_parameter, source_parameter, source_port_parameter, ttl)
    deliveries = [
        Delivery(address, port, sources[0], source_ports[0], hops)
        for address, port in zip(addresses, ports, strict=True)
    ]
    return tuple(deliveries), {each.name.lower(): each for each in read}


def _check_outer(
    address: IPv4Address | IPv6Address,
    source: IPv4Address | IPv6Address,
    address_parameter: Parameter,
    source_parameter: Parameter,
) -> None:
    """One outer header has addresses of one family, and both must be a host's."""
    if address.version != source.version:
        raise SyntaxFault(
            "X-JTap-Cdest-Dest-Address and -Source-Address must be of one family",
            address_parameter,
            source_parameter,
            status=Status.JTAP_FAILURE,
        )
    for given, host in ((address_parameter, address), (source_parameter, source)):
        is_everybody = host is source and host == _EVERYBODY
        if host.is_unspecified or host.is_multicast or is_everybody:
            raise SyntaxFault(
                f"{given.name}: the address of one host is right",
                given,
                status=Status.JTAP_FAILURE,
            )


def _vendor_number(given: Parameter, text: str, highest: int) -> int:
    try:
        return grammar.number(Parameter(given.name, text, given.line), highest)
    except SyntaxFault as fault:
        raise SyntaxFault(fault.info, given, status=Status.JTAP_FAILURE) from None


def _numbers(given: Parameter) -> tuple[int, ...]:
    ports = tuple(_vendor_number(given, text.strip(), 65_535) for text in given.value.split(","))
    if 0 in ports:
        info = f"{given.name}: ports from 1 to 65535 are right"
        raise SyntaxFault(info, given, status=Status.JTAP_FAILURE)
    return ports
