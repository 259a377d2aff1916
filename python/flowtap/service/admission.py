"""Who may try to log in: bounds on attempts and on connections that have not logged in yet.

Silent connections from anywhere must not keep a lawful mediation device out, and a flood of attempts
from one place must not cost more than looking at its address.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Admission", "Ticket"]

MINUTE_S = 60.0


@dataclass(eq=False, slots=True)
class Ticket:
    """One connection's place.

    Attributes:
        prefix: Where it comes from: the address in IPv4, the /64 in IPv6.
        close: Ends the connection.
        is_authenticated: Whether it has left the pool of those that have not.
    """

    prefix: str
    close: Callable[[], None]
    is_authenticated: bool = False


class Admission:
    """Bounds of one service.

    Args:
        connection_limit: Most authenticated connections.
        rate_limit: Most attempts in a minute from one prefix.
        pool: Most connections that have not logged in.
        pool_per_prefix: The same from one prefix.
    """

    def __init__(
        self, *, connection_limit: int, rate_limit: int, pool: int = 100, pool_per_prefix: int = 10
    ) -> None:
        self._connection_limit = connection_limit
        self._rate_limit = rate_limit
        self._pool = pool
        self._pool_per_prefix = pool_per_prefix
        # Insertion order is the order of arrival.
        self._waiting: dict[Ticket, None] = {}
        self._authenticated: set[Ticket] = set()
        self._attempts: dict[str, deque[float]] = {}

    def admit(
        self, address: IPv4Address | IPv6Address, now_s: float, close: Callable[[], None]
    ) -> Ticket | str:
        """Decides on a new connection.

        Args:
            address: The peer.
            now_s: Monotonic time.
            close: Ends the connection; called when another one needs its place.

        Returns:
            A ticket, or why there is none.
        """
        prefix = _prefix(address)
        self._forget(now_s)
        attempts = self._attempts.setdefault(prefix, deque())
        if len(attempts) >= self._rate_limit:
            return f"more than {self._rate_limit} attempts in a minute"
        attempts.append(now_s)
        if sum(ticket.prefix == prefix for ticket in self._waiting) >= self._pool_per_prefix:
            return f"more than {self._pool_per_prefix} connections that have not logged in"
        if len(self._waiting) >= self._pool:
            self._evict()
        ticket = Ticket(prefix, close)
        self._waiting[ticket] = None
        return ticket

    def authenticated(self, ticket: Ticket) -> bool:
        """Moves a connection that has logged in; False where there are too many of them."""
        self._waiting.pop(ticket, None)
        if len(self._authenticated) >= self._connection_limit:
            return False
        ticket.is_authenticated = True
        self._authenticated.add(ticket)
        return True

    def release(self, ticket: Ticket) -> None:
        """Takes a connection's place back when it has ended."""
        self._waiting.pop(ticket, None)
        self._authenticated.discard(ticket)

    def _forget(self, now_s: float) -> None:
        """Lets go of attempts older than a minute, and so of prefixes that are quiet."""
        for prefix in list(self._attempts):
            attempts = self._attempts[prefix]
            while attempts and now_s - attempts[0] > MINUTE_S:
                attempts.popleft()
            if not attempts:
                del self._attempts[prefix]

    def _evict(self) -> None:
        """Ends the oldest waiting connection of the prefix that has most of them."""
        busiest = Counter(ticket.prefix for ticket in self._waiting).most_common(1)[0][0]
        oldest = next(ticket for ticket in self._waiting if ticket.prefix == busiest)
        del self._waiting[oldest]
        oldest.close()


def _prefix(address: IPv4Address | IPv6Address) -> str:
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return str(ip_network((address, 64), strict=False))
    return str(address)
