"""Who may try to log in: bounds on attempts and on connections that have not logged in yet.

Silent connections from anywhere must not keep a lawful mediation device out, and a flood of attempts
from one place must not cost more than looking at its address.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["Admission", "Ticket"]

MINUTE_S: Final = 60.0
PREFIXES_MAX: Final = 65_536
"""Prefixes whose attempts are remembered; the one that was silent longest is forgotten for a new one."""


@dataclass(eq=False, slots=True)
class Ticket:
    """One connection's place.

    Attributes:
        prefix: Where it comes from: the address in IPv4, the /64 in IPv6.
        family: 4 or 6.
        close: Ends the connection.
        is_authenticated: Whether it has left the pool of those that have not.
        login: Who has logged in.
    """

    prefix: str
    family: int
    close: Callable[[], None]
    is_authenticated: bool = False
    login: str = ""


class Admission:
    """Bounds of one service.

    IPv4 and IPv6 have connection limits of their own; attempts are counted by prefix, and so by family as
    well. A place is kept for every login that has none, as long as these are no more than half of all places:
    one login with many connections does not keep the others out.

    Args:
        connection_limit: Most authenticated connections of a family.
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
        self._waiting_from: Counter[str] = Counter()
        self._authenticated: set[Ticket] = set()
        # The prefix whose last attempt is the oldest comes first.
        self._attempts: OrderedDict[str, deque[float]] = OrderedDict()

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
        address = _bare(address)
        prefix = _prefix(address)
        if not self._attempt(prefix, now_s):
            return f"more than {self._rate_limit} attempts in a minute"
        if self._waiting_from[prefix] >= self._pool_per_prefix:
            return f"more than {self._pool_per_prefix} connections that have not logged in"
        if len(self._waiting) >= self._pool:
            self._evict()
        ticket = Ticket(prefix, address.version, close)
        self._waiting[ticket] = None
        self._waiting_from[prefix] += 1
        return ticket

    def attempt(self, ticket: Ticket, now_s: float) -> bool:
        """Counts one more attempt of a connection beside that which it came with; False for one too many."""
        return self._attempt(ticket.prefix, now_s)

    def authenticated(self, ticket: Ticket, login: str, logins: Collection[str]) -> bool:
        """Moves a connection that has logged in; False where there are too many of them.

        Args:
            ticket: Its place.
            login: Who it is.
            logins: All who may log in.
        """
        self._leave(ticket)
        present = Counter(each.login for each in self._authenticated if each.family == ticket.family)
        room = self._connection_limit - present.total()
        if login in present:
            absent = sum(each not in present for each in logins)
            room -= min(absent, self._connection_limit // 2)
        if room <= 0:
            return False
        ticket.is_authenticated = True
        ticket.login = login
        self._authenticated.add(ticket)
        return True

    def release(self, ticket: Ticket) -> None:
        """Takes a connection's place back when it has ended."""
        self._leave(ticket)
        self._authenticated.discard(ticket)

    def _attempt(self, prefix: str, now_s: float) -> bool:
        self._forget(now_s)
        attempts = self._attempts.setdefault(prefix, deque())
        while attempts and now_s - attempts[0] > MINUTE_S:
            attempts.popleft()
        if len(attempts) >= self._rate_limit:
            return False
        attempts.append(now_s)
        self._attempts.move_to_end(prefix)
        return True

    def _leave(self, ticket: Ticket) -> None:
        """Takes a connection out of the pool of those that have not logged in."""
        if ticket in self._waiting:
            del self._waiting[ticket]
            self._waiting_from[ticket.prefix] -= 1
            if not self._waiting_from[ticket.prefix]:
                del self._waiting_from[ticket.prefix]

    def _forget(self, now_s: float) -> None:
        """Lets go of prefixes that were quiet for a minute, and of the quietest where there are too many."""
        while self._attempts:
            prefix, attempts = next(iter(self._attempts.items()))
            if attempts and now_s - attempts[-1] <= MINUTE_S and len(self._attempts) < PREFIXES_MAX:
                break
            del self._attempts[prefix]

    def _evict(self) -> None:
        """Ends the oldest waiting connection of the prefix that has most of them."""
        busiest = self._waiting_from.most_common(1)[0][0]
        oldest = next(ticket for ticket in self._waiting if ticket.prefix == busiest)
        self._leave(oldest)
        oldest.close()


def _bare(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 socket shows in its own way, or the address itself."""
    return getattr(address, "ipv4_mapped", None) or address


def _prefix(address: IPv4Address | IPv6Address) -> str:
    return str(ip_network((address, 64), strict=False)) if isinstance(address, IPv6Address) else str(address)
