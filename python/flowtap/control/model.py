"""What the control plane knows: who may task, where copies may go, what runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime
    from ipaddress import IPv4Address, IPv6Address

    from flowtap.dtcp.messages import Delivery, FilterText, Parameter, Timeouts

__all__ = [
    "PERMISSION_TASK",
    "ContentDestination",
    "ControlSource",
    "Count",
    "Intercept",
    "Now",
    "Principal",
]

PERMISSION_TASK: Final = "flow-tap-operation"
"""The permission to task; it is part of no other one."""

NANOSECONDS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Now:
    """One moment on both clocks: the wall for records, the monotonic one for lifetimes."""

    wall: datetime
    monotonic_ns: int


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, as the transport has authenticated him."""

    login: str
    permissions: frozenset[str]
    address: IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class ControlSource:
    """What one control source may do.

    Attributes:
        id: Its Csource-ID; over SSH the login's name.
        allowed_destinations: Content destinations that it may use; empty for all.
        max_criteria: Most criteria at one time.
        max_lifetime_s: Longest lifetime of a criterion, static ones too; 0 for no bound.
    """

    id: str
    allowed_destinations: frozenset[str] = frozenset()
    max_criteria: int = 10_000
    max_lifetime_s: int = 0


@dataclass(frozen=True, slots=True)
class ContentDestination:
    """A content destination of the configuration.

    Attributes:
        id: Its Cdest-ID.
        delivery: The outer header of its copies.
        refuse_oversize: Count what is longer than the path allows instead of fragmenting it.
    """

    id: str
    delivery: Delivery
    refuse_oversize: bool = False


@dataclass(frozen=True, slots=True)
class Intercept:
    """An authorised, running criterion.

    Attributes:
        criteria_id: Its number, never used again.
        csource_id: Whose it is.
        csource_address: Where the ADD came from.
        login: Who asked.
        cdest_ids: Content destinations.
        deliveries: The outer header of each.
        refuse_oversize: For each, whether too long copies are counted instead of fragmented.
        filter: What it matches, as written.
        timeouts: What ends it; nothing where it is static and policy sets no end.
        static: As asked.
        send_async: As asked.
        priority: As asked.
        extensions: ``X-`` parameters as they were given.
        added: When it was accepted, on the wall clock.
        total_since_ns: From when on the total lifetime runs, on the monotonic clock.
        idle_since_ns: From when on idleness counts; a later match counts instead.
        packets_base: Matched packets when their budget was given.
        octets_base: Matched octets when theirs was.
        refreshes: How often it was refreshed.
        last_refresh: When it was last, the time of its addition before that.
    """

    criteria_id: int
    csource_id: str
    csource_address: IPv4Address | IPv6Address
    login: str
    cdest_ids: tuple[str, ...]
    deliveries: tuple[Delivery, ...]
    refuse_oversize: tuple[bool, ...]
    filter: FilterText
    timeouts: Timeouts
    static: bool
    send_async: bool
    priority: int
    extensions: tuple[Parameter, ...]
    added: datetime
    total_since_ns: int
    idle_since_ns: int
    last_refresh: datetime
    packets_base: int = 0
    octets_base: int = 0
    refreshes: int = 0


@dataclass(frozen=True, slots=True)
class Count:
    """What the data plane has counted for one criterion."""

    packets: int = 0
    octets: int = 0
    last_match_ns: int | None = None
