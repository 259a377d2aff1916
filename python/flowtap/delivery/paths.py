"""Which tunnel leads to a content destination, and where its copies wait while that is down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from flowtap.config import Configuration
    from flowtap.config.tunnels import SpoolKind

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
    """The ways to all content destinations of a configuration, and to those that tasking creates.

    Args:
        values: A configuration that is valid as a whole.
    """

    def __init__(self, values: Configuration) -> None:
        self._values = values

    def to(self, cdest_id: str, address: IPv4Address | IPv6Address) -> Path | None:
        """The way to an address, as the content destination of that name wants it; None where it is in clear.

        The address alone decides about the tunnel, so that no tasking leads around it.
        """
        name = self._values.tunnel_to(address)
        if name is None:
            return None
        section = self._values.tunnel[name]
        wanted = self._values.content_destination.get(cdest_id)
        path = Path(name, section.spool, section.spool_octets, section.resend_s)
        if wanted is None:
            return path
        return Path(
            name,
            path.spool if wanted.spool is None else wanted.spool,
            path.spool_octets if wanted.spool_octets is None else wanted.spool_octets,
            path.resend_s if wanted.resend_s is None else wanted.resend_s,
        )
