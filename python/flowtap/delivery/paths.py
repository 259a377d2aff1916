"""Which tunnel leads to a content destination, and where its copies wait while that is down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowtap.config.tunnels import tunnel_to

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Address, IPv6Address

    from flowtap.config.schema import ContentDestinationSection
    from flowtap.config.tunnels import SpoolKind, TunnelSection

__all__ = ["Path", "Paths"]


@dataclass(frozen=True, slots=True)
class Path:
    """The protected way to one content destination.

    Attributes:
        tunnel: Its name.
        spool: Where copies wait while it is down.
        spool_octets: How much may wait there.
        resend_s: What was sent so shortly before a loss was noticed is sent again; 0 for nothing.
    """

    tunnel: str
    spool: SpoolKind
    spool_octets: int
    resend_s: int


class Paths:
    """The ways to all content destinations, and to those that tasking creates.

    Args:
        tunnels: By name.
        destinations: Those of the configuration, by name.
    """

    def __init__(
        self,
        tunnels: Mapping[str, TunnelSection],
        destinations: Mapping[str, ContentDestinationSection],
    ) -> None:
        self._tunnels = tunnels
        self._destinations = destinations

    def to(self, cdest_id: str, address: IPv4Address | IPv6Address) -> Path | None:
        """The way to an address, as the content destination of that name wants it; None where it is in clear.

        The address alone decides about the tunnel, so that no tasking leads around it.
        """
        name = tunnel_to(self._tunnels, address)
        if name is None:
            return None
        section = self._tunnels[name]
        wanted = self._destinations.get(cdest_id)
        path = Path(name, section.spool, section.spool_octets, section.resend_s)
        if wanted is None:
            return path
        return Path(
            name,
            path.spool if wanted.spool is None else wanted.spool,
            path.spool_octets if wanted.spool_octets is None else wanted.spool_octets,
            path.resend_s if wanted.resend_s is None else wanted.resend_s,
        )
