"""DTCP messages as values: what was asked and what is answered, without octets, keys or clocks.

The codec turns octets into these values and back; the control plane sees nothing else of the protocol.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime
    from ipaddress import IPv4Address, IPv6Address

    from flowtap.dtcp.status import Status

__all__ = [
    "AddRequest",
    "AddResult",
    "DeleteRequest",
    "DeleteResult",
    "Delivery",
    "ErrorResult",
    "FilterText",
    "IdRange",
    "ListEntry",
    "ListRequest",
    "ListResult",
    "NoopRequest",
    "NoopResult",
    "Notification",
    "Parameter",
    "RefreshRequest",
    "RefreshResult",
    "Request",
    "Response",
    "Result",
    "Scope",
    "Timeouts",
    "Version",
]


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A protocol version, ``DTCP/major.minor`` [DTCP §8]."""

    major: int
    minor: int

    def __str__(self) -> str:
        """The version as it stands in a start line."""
        return f"DTCP/{self.major}.{self.minor}"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter line as received: name and value without the blanks around them."""

    name: str
    value: str
    line: int = 0
    """Line number within the message, 1 for the start line; 0 where it came from no message."""


@dataclass(frozen=True, slots=True)
class FilterText:
    """The filter of an ADD as it was written; a missing parameter is None and means any value [DTCP §5.4]."""

    source: str | None = None
    destination: str | None = None
    protocol: str | None = None
    source_port: str | None = None
    destination_port: str | None = None
    icmp_type: str | None = None
    icmp_code: str | None = None


@dataclass(frozen=True, slots=True)
class Scope:
    """Where packets must pass for a filter to be asked about them [DTCP App. B].

    Attributes:
        input_interfaces: They come in on one of these; names as they were given.
        output_interfaces: Or they go out on one of these.
        vrf: They come in on an interface of this routing instance; never beside interfaces.
        ip_version: 4 or 6; None for both.
        is_circuit: Layer-2 frames, whatever they carry: ``X-JTap-Filter-Family: ccc``.
    """

    input_interfaces: tuple[str, ...] = ()
    output_interfaces: tuple[str, ...] = ()
    vrf: str | None = None
    ip_version: Literal[4, 6] | None = None
    is_circuit: bool = False

    def parameters(self) -> tuple[tuple[str, str], ...]:
        """The parameters that say it, by name and value."""
        given = (
            ("X-JTap-Input-Interface", ",".join(self.input_interfaces)),
            ("X-JTap-Output-Interface", ",".join(self.output_interfaces)),
            ("X-JTap-VRF-Name", self.vrf or ""),
            ("X-JTap-IP-Version", f"ipv{self.ip_version}" if self.ip_version else ""),
            ("X-JTap-Filter-Family", "ccc" if self.is_circuit else ""),
        )
        return tuple((name, value) for name, value in given if value)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """What ends a criterion; None where the kind was not given. A zero stays a zero [DTCP §5.4.1]."""

    idle_s: int | None = None
    total_s: int | None = None
    packets: int | None = None
    octets: int | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """Outer header of the copies for one content destination, from the X-JTap parameters [DTCP App. B]."""

    address: IPv4Address | IPv6Address
    port: int
    source_address: IPv4Address | IPv6Address
    source_port: int
    ttl: int = 255


@dataclass(frozen=True, slots=True)
class IdRange:
    """One element of a Criteria-ID list: a single id, or an inclusive range (``*`` is 0 or 2**64 - 1)."""

    first: int
    last: int
    single: bool


@dataclass(frozen=True, slots=True)
class AddRequest:
    """ADD: one more criterion for one or two content destinations [DTCP §5.4]."""

    version: Version
    csource_id: str
    seq: str
    """Sequence number exactly as written (decimal digits); responses repeat it [DTCP §4.4.1]."""
    cdest_ids: tuple[str, ...]
    filter: FilterText = FilterText()
    timeouts: Timeouts = Timeouts()
    static: bool = False
    send_async: bool = False
    priority: int = 1
    action: str = "Copy"
    deliveries: tuple[Delivery, ...] = ()
    """One per content destination, in the order of ``cdest_ids``; empty where the ADD named none."""
    scope: Scope = Scope()
    extensions: tuple[Parameter, ...] = ()
    """Every ``X-`` parameter in its order, those that ``deliveries`` was read from included."""


@dataclass(frozen=True, slots=True)
class DeleteRequest:
    """DELETE by ids or by content destination: exactly one of the two is given [DTCP §5.6]."""

    version: Version
    csource_id: str
    seq: str
    criteria_ids: tuple[IdRange, ...] | None = None
    cdest_id: str | None = None
    static: bool = False


@dataclass(frozen=True, slots=True)
class ListRequest:
    """LIST of all criteria of the control source, or of the selected ones [DTCP §5.10]."""

    version: Version
    csource_id: str
    seq: str
    criteria_ids: tuple[IdRange, ...] | None = None
    cdest_id: str | None = None
    criteria: bool = True
    """Include filter, time-outs and flags."""
    stats: bool = False
    """Include what remains, the counters and the refreshes."""


@dataclass(frozen=True, slots=True)
class NoopRequest:
    """NOOP: proves the path end to end [DTCP §5.12]."""

    version: Version
    csource_id: str
    seq: str
    send_async: bool = False


@dataclass(frozen=True, slots=True)
class RefreshRequest:
    """REFRESH: time-outs named here replace what is left of the same kind [DTCP §5.8]."""

    version: Version
    csource_id: str
    seq: str
    timeouts: Timeouts
    criteria_ids: tuple[IdRange, ...] | None = None
    cdest_id: str | None = None


Request: TypeAlias = AddRequest | DeleteRequest | RefreshRequest | ListRequest | NoopRequest


@dataclass(frozen=True, slots=True)
class AddResult:
    """200 to an ADD."""

    criteria_id: int


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """200 to a DELETE."""

    criteria_count: int


@dataclass(frozen=True, slots=True)
class RefreshResult:
    """200 to a REFRESH."""

    criteria_count: int


@dataclass(frozen=True, slots=True)
class ListEntry:
    """One criterion in a LIST reply [DTCP §5.11]. Optional blocks are None where they were not asked for."""

    csource_id: str
    csource_address: IPv4Address | IPv6Address
    cdest_ids: tuple[str, ...]
    criteria_id: int
    added: datetime
    static: bool
    filter: FilterText | None = None
    timeouts: Timeouts | None = None
    send_async: bool = False
    extensions: tuple[Parameter, ...] = ()
    remaining: Timeouts | None = None
    average_bandwidth_bps: int | None = None
    matching_packets: int | None = None
    matching_octets: int | None = None
    refreshes: int | None = None
    last_refresh: datetime | None = None


@dataclass(frozen=True, slots=True)
class ListResult:
    """200 to a LIST: entries in the order of their ids."""

    entries: tuple[ListEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class NoopResult:
    """200 to a NOOP."""


@dataclass(frozen=True, slots=True)
class ErrorResult:
    """Any other code, with the parameters that it concerns and what would be right [DTCP §6.2]."""

    status: Status
    parameters: tuple[Parameter, ...] = ()
    info: str | None = None
    """Plain words for the person at the other end; sent as ``X-Error-Info``."""


Result: TypeAlias = AddResult | DeleteResult | RefreshResult | ListResult | NoopResult | ErrorResult


@dataclass(frozen=True, slots=True)
class Response:
    """One response; ``seq`` repeats the request's value exactly [DTCP §4.4.1]."""

    version: Version
    seq: str
    timestamp: datetime
    result: Result


@dataclass(frozen=True, slots=True)
class Notification:
    """One notification: no Seq, no Csource-ID [DTCP §3.2]."""

    version: Version
    status: Status
    timestamp: datetime
    parameters: tuple[Parameter, ...] = field(default=())
