"""Which of this host's addresses speaks for a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

__all__ = ["first_inside"]


def first_inside(
    addresses: Iterable[IPv4Address | IPv6Address],
    networks: Iterable[IPv4Network | IPv6Network],
    version: int,
) -> IPv4Address | IPv6Address | None:
    """The first address of a family that lies in one of the networks."""
    inside = [each for each in networks if each.version == version]
    return next(
        (each for each in addresses if each.version == version and any(each in net for net in inside)), None
    )
