"""Addresses to listen at, also such as this host gets later."""

from __future__ import annotations

import errno
import logging
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

__all__ = ["bind", "may_come_later"]

_LOG = logging.getLogger(__name__)

_FREEBIND: Final = {
    socket.AF_INET: (socket.IPPROTO_IP, 15),  # IP_FREEBIND
    socket.AF_INET6: (socket.IPPROTO_IPV6, 78),  # IPV6_FREEBIND
}


def may_come_later(
    address: IPv4Address | IPv6Address, local_networks: Collection[IPv4Network | IPv6Network]
) -> bool:
    """Whether an address is a tunnel's: it may be there with the tunnel's interface, and no sooner."""
    return any(address in each for each in local_networks if each.version == address.version)


def bind(listening: socket.socket, address: str, port: int, *, is_patient: bool) -> None:
    """Binds a socket.

    Args:
        listening: The socket.
        address: Where it is to listen.
        port: Its port.
        is_patient: The address need not be there yet; whoever speaks to it is heard as soon as it is.

    Raises:
        OSError: The system refuses.
    """
    try:
        listening.bind((address, port))
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL or not is_patient:
            raise
        listening.setsockopt(*_FREEBIND[listening.family], 1)
        listening.bind((address, port))
        _LOG.warning(
            "DTCP listens at %s port %d, which is no address of this host yet; nobody is heard there before",
            address,
            port,
        )
