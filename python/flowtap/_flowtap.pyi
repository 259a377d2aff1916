from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from os import PathLike
from socket import socket
from types import TracebackType
from typing import Literal, Self, TypeAlias, final

from typing_extensions import Buffer

__all__ = [
    "AddressSpace",
    "BpfProgram",
    "CaptureStats",
    "ContentDestination",
    "Copy",
    "CopyBatch",
    "Criteria",
    "CriterionStats",
    "DestinationStats",
    "Engine",
    "Explanation",
    "FilterTable",
    "Gate",
    "LinkType",
    "RateLimit",
    "Receiver",
    "Replay",
    "ReplayReport",
    "Stats",
    "Tap",
    "Traffic",
    "UsageFile",
    "UsageRecord",
    "__version__",
    "capture_link_type",
    "explain",
    "host_addresses",
    "interface_link_type",
    "interfaces",
    "keep_rights",
    "rights_held",
    "serve_broker",
]

__version__: str

_Address: TypeAlias = str | IPv4Address | IPv6Address
_Network: TypeAlias = _Address | IPv4Network | IPv6Network
# Local gateway, remote gateway, local networks, remote networks.
_OwnTunnel: TypeAlias = tuple[_Address, _Address, Sequence[_Network], Sequence[_Network]]
# What criteria may be matched inside of.
_Tunnel: TypeAlias = Literal["gre", "vxlan", "gtpu", "ipip"]

@final
class LinkType:
    """Link types by their registry number."""

    NULL: LinkType
    ETHERNET: LinkType
    RAW: LinkType
    LOOP: LinkType
    LINUX_COOKED: LinkType
    LINUX_COOKED2: LinkType
    IPV4: LinkType
    IPV6: LinkType
    def __new__(cls, number: int) -> Self: ...
    @property
    def number(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Criteria:
    """One packet filter; every field a number, a DTCP list string or None (any)."""

    def __new__(
        cls,
        id: int,
        *,
        source: str | None = None,
        destination: str | None = None,
        protocol: int | str | None = None,
        source_port: int | str | None = None,
        destination_port: int | str | None = None,
        icmp_type: int | str | None = None,
        icmp_code: int | str | None = None,
        deliver_to: Sequence[str] = (),
        timeout_idle_s: float | None = None,
        timeout_total_s: float | None = None,
        timeout_packets: int | None = None,
        timeout_octets: int | None = None,
        total_since_ns: int | None = None,
        idle_since_ns: int | None = None,
        own: bool = False,
        ip_version: Literal[4, 6] | None = None,
        input_interfaces: Sequence[str] = (),
        output_interfaces: Sequence[str] = (),
        circuit: bool = False,
        usage: UsageRecord | None = None,
        rate: RateLimit | None = None,
    ) -> Self: ...
    @property
    def id(self) -> int: ...
    @property
    def source(self) -> str | None: ...
    @property
    def destination(self) -> str | None: ...
    @property
    def protocol(self) -> str | None: ...
    @property
    def source_port(self) -> str | None: ...
    @property
    def destination_port(self) -> str | None: ...
    @property
    def icmp_type(self) -> str | None: ...
    @property
    def icmp_code(self) -> str | None: ...
    @property
    def deliver_to(self) -> tuple[str, ...]: ...
    def normal_form(self) -> str: ...
    def overlaps(self, other: Criteria) -> bool: ...
    def same_filter(self, other: Criteria) -> bool: ...
    def narrowness(self, family: Literal[4, 6]) -> int | None: ...

@final
class RateLimit:
    """The most that may be copied a second, shared by all criteria that have it; 0 for any number."""

    def __new__(cls, packets_per_s: int = 0, bits_per_s: int = 0) -> Self: ...
    def set(self, packets_per_s: int, bits_per_s: int) -> None: ...

@final
class AddressSpace:
    """Addresses that a policy allows, as a DTCP list."""

    def __new__(cls, addresses: str) -> Self: ...
    def covers(self, criteria: Criteria) -> bool: ...

@final
class ContentDestination:
    """Where copies go, and the outer header they get."""

    def __new__(
        cls,
        address: str,
        port: int,
        source_address: str,
        source_port: int = 65534,
        ttl: int = 255,
        oversize: Literal["fragment", "refuse"] = "fragment",
        *,
        tunnel: str | None = None,
        spool: Literal["none", "memory", "disk"] = "none",
        spool_octets: int = ...,
        resend_s: float = 0.0,
    ) -> Self: ...
    @property
    def address(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def source_address(self) -> str: ...
    @property
    def source_port(self) -> int: ...
    @property
    def ttl(self) -> int: ...
    @property
    def oversize(self) -> str: ...
    @property
    def tunnel(self) -> str | None: ...
    @property
    def spool(self) -> Literal["none", "memory", "disk"]: ...
    @property
    def spool_octets(self) -> int: ...
    @property
    def resend_s(self) -> float: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Gate:
    """Whether copies may leave through a tunnel; shut at first.

    When `shut` returns, the last copy has left. What was sent in the last `in_doubt_s` before it may not have
    arrived: it is sent again where the destination keeps it, and counted as `exported_in_doubt` otherwise.
    What waited leaves with `drain_pps` copies in a second, beyond what comes in meanwhile: nobody answers
    that one has arrived, and what overruns a buffer on the way is lost silently.
    """

    def __new__(cls, tunnel: str, *, drain_pps: int = 5_000) -> Self: ...
    @property
    def tunnel(self) -> str: ...
    @property
    def drain_pps(self) -> int: ...
    @property
    def is_open(self) -> bool: ...
    def open(self) -> None: ...
    def shut(self, in_doubt_s: float = 0.0) -> None: ...

@final
class FilterTable:
    """All active criteria, compiled; immutable."""

    @staticmethod
    def compile(
        criteria: Iterable[Criteria],
        destinations: Mapping[str, ContentDestination] | None = None,
    ) -> FilterTable: ...
    def changed(
        self,
        remove: Sequence[int],
        add: Iterable[Criteria],
        destinations: Mapping[str, ContentDestination] | None = None,
    ) -> FilterTable: ...
    def __len__(self) -> int: ...
    @property
    def memory_octets(self) -> int: ...

@final
class BpfProgram:
    """A classic BPF program, verified; instructions as (code, jt, jf, k)."""

    def __new__(cls, instructions: Iterable[tuple[int, int, int, int]]) -> Self: ...
    def run(self, frame: Buffer, wire_length_octets: int | None = None) -> int: ...

@final
class Copy:
    """One outer datagram; the buffer protocol gives its octets."""

    @property
    def criteria_id(self) -> int: ...
    @property
    def destination_id(self) -> str: ...
    @property
    def timestamp_ns(self) -> int: ...
    @property
    def original_length_octets(self) -> int: ...
    def __len__(self) -> int: ...
    def __bytes__(self) -> bytes: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class CopyBatch:
    """Many copies in one arena; the buffer protocol gives all their octets in order."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Copy]: ...
    def __getitem__(self, index: int, /) -> Copy: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class CaptureStats:
    """What a capture on one interface has counted."""

    @property
    def interface(self) -> str: ...
    @property
    def is_up(self) -> bool: ...
    @property
    def received(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    @property
    def freezes(self) -> int: ...
    @property
    def super_frames_whole(self) -> int: ...
    @property
    def filtered_out(self) -> int: ...
    @property
    def reopened(self) -> int: ...
    @property
    def filter(self) -> str: ...

@final
class CriterionStats:
    @property
    def id(self) -> int: ...
    @property
    def packets(self) -> int: ...
    @property
    def octets(self) -> int: ...
    @property
    def copies(self) -> int: ...
    @property
    def last_match_ns(self) -> int | None: ...

@final
class DestinationStats:
    @property
    def id(self) -> str: ...
    @property
    def wanted(self) -> int: ...
    @property
    def copied(self) -> int: ...
    @property
    def refused(self) -> int: ...
    @property
    def exported(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    @property
    def in_spool(self) -> int: ...
    @property
    def resent(self) -> int: ...
    @property
    def exported_in_doubt(self) -> int: ...
    @property
    def recovered(self) -> int: ...
    @property
    def lost(self) -> list[tuple[int, int, int]]: ...
    @property
    def last_error(self) -> str | None: ...

@final
class Stats:
    """A frozen account; ``check`` has been applied, so the equations of the accounts hold."""

    @property
    def frames(self) -> int: ...
    @property
    def octets(self) -> int: ...
    @property
    def undecodable(self) -> int: ...
    @property
    def own(self) -> int: ...
    @property
    def duplicates(self) -> int: ...
    @property
    def captures(self) -> list[CaptureStats]: ...
    @property
    def written(self) -> int: ...
    @property
    def matched(self) -> int: ...
    @property
    def wanted(self) -> int: ...
    @property
    def copied(self) -> int: ...
    @property
    def refused(self) -> int: ...
    @property
    def exported(self) -> int: ...
    @property
    def in_queue(self) -> int: ...
    @property
    def in_spool(self) -> int: ...
    @property
    def recovered(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    @property
    def generation(self) -> int: ...
    @property
    def criteria(self) -> list[CriterionStats]: ...
    def criterion(self, id: int) -> CriterionStats | None: ...
    @property
    def destinations(self) -> list[DestinationStats]: ...

@final
class Engine:
    """Match and encapsulate inside somebody else's tap.

    It sends nothing, so it refuses nothing either: copies for a destination behind a tunnel come out like all
    others, and whoever sends them sees to it that they take the tunnel.
    """

    def __new__(
        cls,
        table: FilterTable,
        link_type: LinkType = ...,
        *,
        mtu_octets: int = 1500,
        inner: Sequence[_Tunnel] = ...,
        interface: str | None = None,
        tunnels: Sequence[_OwnTunnel] = ...,
    ) -> Self: ...
    def feed(
        self,
        frame: Buffer,
        *,
        timestamp_ns: int = 0,
        original_length_octets: int | None = None,
    ) -> CopyBatch: ...
    def feed_batch(self, packets: Buffer, records: Buffer) -> CopyBatch: ...
    def flush(self) -> CopyBatch: ...
    def install(self, table: FilterTable) -> None: ...
    def prove_exclusion(self) -> int: ...
    def stats(self) -> Stats: ...

@final
class Tap:
    """The running data plane."""

    @staticmethod
    def from_pcap(
        path: str,
        table: FilterTable,
        *,
        mtu_octets: int = 1500,
        batch_frames: int = 4096,
        inner: Sequence[_Tunnel] = ...,
    ) -> Tap: ...
    @staticmethod
    def replay(
        files: Sequence[str],
        table: FilterTable,
        *,
        pace: Literal["recorded", "fast"] | float = "recorded",
        loop: bool = False,
        wait_for_criteria: int = 0,
        export: bool = True,
        broker: socket | None = None,
        interface: str | None = None,
        inner: Sequence[_Tunnel] = ...,
        gates: Sequence[Gate] = ...,
        spool_directory: str | None = None,
        spool_key: bytes | None = None,
    ) -> Tap: ...
    @staticmethod
    def live(
        interfaces: str | Sequence[str],
        table: FilterTable,
        *,
        workers: int = 1,
        export: bool | socket | None = None,
        promiscuous: bool = False,
        direction: Literal["ingress", "both"] = "ingress",
        deduplicate_ms: int = 0,
        inner: Sequence[_Tunnel] = ...,
        prefilter: bool = True,
        hardware_timestamps: bool = False,
        ring_octets: int = ...,
        block_ms: int = 4,
        own: Sequence[tuple[int, _Address | None, int]] = ...,
        bpf: BpfProgram | None = None,
        write: str | None = None,
        write_comment: str | None = None,
        snapshot_octets: int | None = None,
        frames_max: int | None = None,
        broker: socket | None = None,
        gates: Sequence[Gate] = ...,
        spool_directory: str | None = None,
        spool_key: bytes | None = None,
    ) -> Tap: ...
    def exclude(self, own: Sequence[tuple[int, _Address | None, int]]) -> None: ...
    def exclude_tunnels(self, tunnels: Sequence[_OwnTunnel]) -> None: ...
    def prove_exclusion(self) -> int: ...
    def start(self) -> None: ...
    def events(self) -> list[str]: ...
    def install(self, table: FilterTable) -> int: ...
    def stats(self) -> Stats: ...
    def stop(self, timeout_s: float = 2.0) -> Stats: ...
    @property
    def finished(self) -> bool: ...
    @property
    def error(self) -> str | None: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> CopyBatch: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

@final
class ReplayReport:
    """What one replay did; `stats` holds the account, times are in seconds."""

    @property
    def stats(self) -> Stats: ...
    @property
    def elapsed_s(self) -> float: ...
    @property
    def filtered_out(self) -> int: ...
    @property
    def written(self) -> int: ...
    @property
    def error(self) -> str | None: ...
    @property
    def error_offset_octets(self) -> int | None: ...
    @property
    def interrupted(self) -> bool: ...
    @property
    def threads(self) -> int: ...

@final
class Replay:
    """One pass over capture files: match, count, write matched frames, export copies.

    `threads` is the most that work on one file, None for as many as there are processors.
    The outcome is the same.
    """

    def __new__(
        cls,
        files: Sequence[str],
        table: FilterTable,
        *,
        write: str | None = None,
        write_comment: str | None = None,
        export: bool = False,
        bpf: BpfProgram | None = None,
        inner: Sequence[_Tunnel] = ...,
        threads: int | None = None,
    ) -> Self: ...
    def run(self) -> ReplayReport: ...
    def cancel(self) -> None: ...
    @property
    def frames(self) -> int: ...
    @property
    def read_octets(self) -> int: ...

@final
class Explanation:
    """What was decoded of one frame, and what every criterion said to it."""

    @property
    def frame(self) -> int: ...
    @property
    def layers(self) -> list[str]: ...
    @property
    def source(self) -> str | None: ...
    @property
    def destination(self) -> str | None: ...
    @property
    def protocol(self) -> int | None: ...
    @property
    def source_port(self) -> int | None: ...
    @property
    def destination_port(self) -> int | None: ...
    @property
    def icmp_type(self) -> int | None: ...
    @property
    def icmp_code(self) -> int | None: ...
    @property
    def fragment(self) -> tuple[int, bool] | None: ...
    @property
    def vlan(self) -> list[int]: ...
    @property
    def mpls(self) -> list[int]: ...
    @property
    def stop(self) -> tuple[str, str] | None: ...
    @property
    def matched(self) -> list[int]: ...
    @property
    def rejected(self) -> list[tuple[int, str]]: ...
    @property
    def timestamp_ns(self) -> int: ...
    @property
    def octets(self) -> int: ...

def capture_link_type(path: str) -> LinkType | None: ...
def explain(path: str, table: FilterTable | None = None) -> Iterator[Explanation]: ...

@final
class Receiver:
    """Sockets of a mediation device: receives copies at speed and writes one pcapng a stream."""

    def __new__(cls, listen: Sequence[tuple[str, int]], directory: str) -> Self: ...
    @property
    def addresses(self) -> list[tuple[str, int]]: ...
    def poll(self, timeout_s: float) -> int: ...
    @property
    def packets(self) -> int: ...
    @property
    def undecodable(self) -> int: ...
    @property
    def streams(self) -> list[tuple[str, int, int, int, int]]: ...
    def close(self) -> None: ...

@final
class UsageRecord:
    """The counts of one criterion in a usage file; while it is held, the criterion counts there."""

@final
class UsageFile:
    """What criteria have used, in a file that outlives the process."""

    def __new__(cls, path: str, boot_id: bytes) -> Self: ...
    def reserve(
        self, id: int, packets: int, octets: int, last_match_ns: int | None, now_ns: int
    ) -> UsageRecord: ...
    def publish(self) -> None: ...
    def write(self, stats: Stats, wall_ns: int, monotonic_ns: int) -> None: ...
    def finish(self) -> None: ...

def host_addresses() -> list[IPv4Address | IPv6Address]: ...
def interface_link_type(name: str) -> LinkType: ...
def interfaces() -> list[tuple[str, bool]]: ...

@final
class Traffic:
    """Seeded frames, for measuring: drawn from flows, the same wherever the seed is the same.

    A flow is source, destination, protocol, source port and destination port. Lengths are without the
    frame check sequence; None gives IMIX (60, 590 and 1,514 octets, 7 : 4 : 1).
    """

    def __new__(
        cls,
        flows: Sequence[tuple[str, str, int, int, int]],
        *,
        subjects: Sequence[tuple[str, str, int, int, int]],
        subject_share_ppm: int,
        length_octets: int | None,
        seed: int,
    ) -> Self: ...
    def write(
        self, path: str | PathLike[str], frames: int, *, progress: Callable[[int], object] | None = None
    ) -> None: ...
    def batches(self, batches: int, frames: int) -> list[tuple[bytes, bytes]]: ...
    def send(self, interface: str, frames: int) -> tuple[int, int, int, float]: ...

def keep_rights(names: Sequence[str], *, ambient: bool = False) -> None: ...
def rights_held() -> list[str]: ...
def serve_broker(descriptor: int, interfaces: Sequence[str]) -> None: ...
