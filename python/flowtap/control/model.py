"""What the control plane knows: who may task, where copies may go, what runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

from flowtap.dtcp.messages import Scope

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    from flowtap.control.ports import Space
    from flowtap.dtcp.messages import Delivery, FilterText, Parameter, Timeouts

__all__ = [
    "PERMISSION_APPROVE",
    "PERMISSION_CHANGE",
    "PERMISSION_TASK",
    "PERMISSION_VIEW",
    "Bandwidth",
    "ContentDestination",
    "ControlSource",
    "Count",
    "Intercept",
    "Now",
    "Policy",
    "Principal",
    "ProtectedPath",
    "State",
]

PERMISSION_VIEW: Final = "flow-tap"
"""The permission to see the configuration and the accounts of the tap, never a filter."""
PERMISSION_CHANGE: Final = "flow-tap-control"
"""The permission to change the tap: clear sequence numbers, end intercepts."""
PERMISSION_TASK: Final = "flow-tap-operation"
"""The permission to task; it is part of no other one."""
PERMISSION_APPROVE: Final = "flow-tap-approval"
"""The permission to approve what somebody else has tasked; it is part of no other one."""

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
        allowed_space: Addresses of which every packet that it taps must have one; None for any.
        excluded: Addresses whose packets are never copied for it (minimisation).
        narrowest_v4: Criteria must be at least as narrow as an IPv4 prefix of this length; 0 for no bound.
        narrowest_v6: The same for IPv6.
        max_criteria: Most criteria at one time.
        max_lifetime_s: Longest lifetime of a criterion from its ADD on, static ones too; 0 for no bound.
        minimum_priority: Is added to the priority of its criteria; the lower number is the better one.
        needs_order: Every ADD must name an order and its end.
        needs_approval: Every ADD must be approved by somebody else before anything is copied.
    """

    id: str
    allowed_destinations: frozenset[str] = frozenset()
    allowed_space: Space | None = None
    excluded: tuple[str, ...] = ()
    narrowest_v4: int = 0
    narrowest_v6: int = 0
    max_criteria: int = 10_000
    max_lifetime_s: int = 0
    minimum_priority: int = 0
    needs_order: bool = False
    needs_approval: bool = False


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bounds of the traffic to one content destination, means of ten seconds in bits a second; 0 for none.

    Attributes:
        soft_limit_bps: Above it the control sources concerned are told.
        soft_clear_bps: Below it they would be told again.
        hard_limit_bps: Above it criteria are ended,
        hard_target_bps: until what is left stays below this.
    """

    soft_limit_bps: int = 0
    soft_clear_bps: int = 0
    hard_limit_bps: int = 0
    hard_target_bps: int = 0


@dataclass(frozen=True, slots=True)
class ContentDestination:
    """A content destination of the configuration.

    Attributes:
        id: Its Cdest-ID.
        delivery: The outer header of its copies.
        refuse_oversize: Count what is longer than the path allows instead of fragmenting it.
        bandwidth: Bounds of its traffic.
    """

    id: str
    delivery: Delivery
    refuse_oversize: bool = False
    bandwidth: Bandwidth = Bandwidth()


@dataclass(frozen=True, slots=True)
class ProtectedPath:
    """A tunnel, as far as it decides where copies may come from.

    Attributes:
        local: What of this host may speak through it.
        remote: What lies behind it and is reached in no other way.
    """

    local: tuple[IPv4Network | IPv6Network, ...]
    remote: tuple[IPv4Network | IPv6Network, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """What the configuration says about tasking.

    Attributes:
        control_sources: By Csource-ID.
        content_destinations: By Cdest-ID.
        outer_sources: Source addresses that outer headers may have; empty for any.
        max_criteria: Most criteria of all control sources together.
        max_content_destinations: Most content destinations that the tasking of one control source may create.
        duplicates_dropped_period_s: How often a control source is told that copies are lost.
        protected: The tunnels.
        needs_tunnel: Whether content leaves through tunnels only.
    """

    control_sources: Mapping[str, ControlSource]
    content_destinations: Mapping[str, ContentDestination]
    outer_sources: tuple[IPv4Network | IPv6Network, ...] = ()
    max_criteria: int = 1_000_000
    max_content_destinations: int = 1_000
    duplicates_dropped_period_s: int = 30
    protected: tuple[ProtectedPath, ...] = ()
    needs_tunnel: bool = False


class State(Enum):
    """What an intercept does."""

    PENDING = "pending"
    ACTIVE = "active"


@dataclass(frozen=True, slots=True)
class Count:
    """What the data plane has counted for one criterion since it was added."""

    packets: int = 0
    octets: int = 0
    last_match_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Intercept:
    """An authorised criterion.

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
        last_refresh: When it was refreshed last, the time of its addition before that.
        refreshes: How often it was refreshed.
        packets_base: Matched packets when their budget was given.
        octets_base: Matched octets when theirs was.
        carried: What the data plane counts on from: earlier runs of the tap have counted that much.
        excluded: Addresses whose packets are not copied, whatever the filter says.
        order: The order that it carries out; empty where none was named.
        order_end_ns: When that order ends, on the monotonic clock.
        added_ns: When it was accepted, on the monotonic clock.
        state: Whether it copies.
        approved_by: The login that has approved it; empty where that was not needed.
        scope: Where packets must pass, as written.
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
    refreshes: int = 0
    packets_base: int = 0
    octets_base: int = 0
    carried: Count = field(default=Count())
    excluded: tuple[str, ...] = ()
    order: str = ""
    order_end_ns: int | None = None
    added_ns: int | None = None
    state: State = State.ACTIVE
    approved_by: str = ""
    scope: Scope = field(default=Scope())

    @property
    def is_active(self) -> bool:
        """Whether it copies."""
        return self.state is State.ACTIVE
