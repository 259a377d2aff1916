"""Sockets that DTCP is heard at, also at addresses such as this host gets later."""

from __future__ import annotations

import errno
import logging
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from flowtap.errors import ConfigurationError, PermissionMissingError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from ipaddress import IPv4Network, IPv6Network

__all__ = ["open_listening"]

_LOG = logging.getLogger(__name__)

_FREEBIND: Final = {
    socket.AF_INET: (socket.IPPROTO_IP, 15),  # IP_FREEBIND
    socket.AF_INET6: (socket.IPPROTO_IPV6, 78),  # IPV6_FREEBIND
}


def open_listening(
    key: str,
    kind: socket.SocketKind,
    address: str,
    port: int,
    *,
    options: Sequence[tuple[int, int, int]],
    patient: Collection[IPv4Network | IPv6Network],
    backlog: int | None = None,
) -> socket.socket:
    """A socket that does not block, bound.

    Args:
        key: That of the configuration which names the address.
        kind: Of streams or datagrams.
        address: Where it is to listen.
        port: Its port.
        options: Further options: level, name, value.
        patient: An address in these networks is a tunnel's and may be there with its interface, no sooner;
            whoever speaks to it is heard as soon as it is.
        backlog: Connections that wait to be accepted; None where there are none.

    Raises:
        ConfigurationError: The system refuses.
        PermissionMissingError: A right is missing.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = socket.socket(family, kind)
    where = f"{key}: {address} port {port}"
    try:
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for option in options:
            listening.setsockopt(*option)
        _bind(listening, address, port, patient)
        if backlog is not None:
            listening.listen(backlog)
    except PermissionError:
        listening.close()
        raise PermissionMissingError(
            f"{where}: needs the right CAP_NET_BIND_SERVICE", right="CAP_NET_BIND_SERVICE"
        ) from None
    except OSError as error:
        listening.close()
        raise ConfigurationError(f"{where}: {error.strerror}", key=key) from None
    listening.setblocking(False)
    return listening


def _bind(
    listening: socket.socket, address: str, port: int, patient: Collection[IPv4Network | IPv6Network]
) -> None:
    try:
        listening.bind((address, port))
    except OSError as error:
        may_come_later = any(ip_address(address) in each for each in patient)
        if error.errno != errno.EADDRNOTAVAIL or not may_come_later:
            raise
        listening.setsockopt(*_FREEBIND[listening.family], 1)
        listening.bind((address, port))
        _LOG.warning(
            "DTCP listens at %s port %d, which is no address of this host yet; nobody is heard there before",
            address,
            port,
        )
