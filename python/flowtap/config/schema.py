"""The configuration as types: every key that there is, with its bounds and defaults."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from flowtap.config.tunnels import (
    Octets,
    SpoolKind,
    SpoolSection,
    TunnelSection,
    refuse_short_resend,
    tunnel_to,
)
from flowtap.config.values import (
    EXCLUDED_MAX,
    SECTION,
    Address,
    Bound,
    FileName,
    InterfaceName,
    Name,
    NarrowestV4,
    NarrowestV6,
    Network,
    Networks,
    Port,
)

__all__ = [
    "AuditSection",
    "Configuration",
    "ContentDestinationSection",
    "ControlSourceSection",
    "DtcpSection",
    "ElementSection",
    "LoginClass",
    "LoginSection",
    "LoginUser",
    "PolicySection",
    "ReplaySection",
    "ShowSection",
    "SshSection",
    "StoreSection",
    "VrfSection",
    "endpoint",
]

Tunnel = Literal["gre", "vxlan", "gtpu", "ipip"]
Permission = Literal["flow-tap", "flow-tap-control", "flow-tap-operation", "flow-tap-approval", "all"]


class _Section(BaseModel):
    model_config = SECTION


def endpoint(text: str) -> tuple[str, int]:
    """Reads ``ADDRESS:PORT``, an IPv6 address in brackets.

    Raises:
        ValueError: It is something else.
    """
    address, _, port = text.rpartition(":")
    bare = address.removeprefix("[").removesuffix("]")
    try:
        host = IPv6Address(bare) if address.startswith("[") else IPv4Address(bare)
        number = int(port) if port.isdecimal() else 65_536
    except ValueError:
        number = 65_536
        host = None
    if host is None or number > 65_535:  # noqa: PLR2004 - the highest port
        msg = f"{text!r}: ADDRESS:PORT is right, such as 0.0.0.0:32001 or [::]:32001"
        raise ValueError(msg)
    return str(host), number


UDP_PORT = 1814
"""The port of DTCP over UDP where none is given."""


def _udp_endpoint(text: str) -> tuple[str, int]:
    try:
        return str(IPv4Address(text)), UDP_PORT
    except ValueError:
        host, port = endpoint(text)
    return (f"[{host}]" if ":" in host else host), port


class ReplaySection(_Section):
    """Captures instead of interfaces."""

    files: Annotated[list[FileName], Field(min_length=1)]
    pace: Literal["recorded", "fast"] | Annotated[float, Field(gt=0, allow_inf_nan=False)] = "recorded"
    loop: bool = False
    wait_for_criteria: bool | Bound = False
    """Begin when so many criteria are active; true stands for 1."""
    interfaces: list[InterfaceName] = []
    """Those that the captures may name; frames of captures without names come in on the first."""


class VrfSection(_Section):
    """A routing instance: packets that come in on these interfaces belong to it."""

    interfaces: Annotated[list[InterfaceName], Field(min_length=1)]


class ElementSection(_Section):
    """The network element: what is tapped."""

    name: str = "flowtap"
    interfaces: list[InterfaceName] = []
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Workers that share each interface."""
    direction: Literal["ingress", "both"] = "ingress"
    """Packets are tapped where they come in, or leave if this host made them; or whichever way they go."""
    promiscuous: bool = False
    deduplicate_ms: Annotated[int, Field(ge=0, le=60_000)] = 0
    inner: list[Tunnel] = []
    """Tunnels whose inner packets criteria are matched against as well."""
    prefilter: bool = True
    ring_mib: Annotated[int, Field(ge=2, le=16_384)] = 64
    """The ring of each worker."""
    hardware_timestamps: bool = False
    replay: ReplaySection | None = None
    vrf: dict[Name, VrfSection] = {}
    interface_names: dict[Name, InterfaceName] = {}
    """Other names of interfaces, such as those that a router had in this place."""

    @model_validator(mode="after")
    def _has_source(self) -> Self:
        if bool(self.interfaces) == (self.replay is not None):
            msg = "one source is right: interfaces, or [element.replay] with files"
            raise ValueError(msg)
        if len(set(self.interfaces)) < len(self.interfaces):
            msg = "interfaces: one is given twice"
            raise ValueError(msg)
        captured = self.interfaces if self.replay is None else self.replay.interfaces
        named = [(f"interface_names.{name}", [system]) for name, system in self.interface_names.items()]
        named += [(f"vrf.{name}.interfaces", section.interfaces) for name, section in self.vrf.items()]
        for key, interfaces in named:
            for each in interfaces:
                if each not in captured:
                    msg = f"{key}: {each} is not among the interfaces of this element"
                    raise ValueError(msg)
        return self


class LoginClass(_Section):
    """What users of a class may do; no permission contains another.

    ``all`` stands for those that look at the tap and change it; to task and to approve is never part of it.
    """

    permissions: list[Permission] = []


class LoginUser(_Section):
    """One login."""

    login_class: Annotated[str, Field(alias="class")]
    uid: Annotated[int, Field(ge=0, le=2**32 - 2)] | None = None
    password_hash_file: FileName | None = None
    authorized_keys_file: FileName | None = None

    @model_validator(mode="after")
    def _can_log_in(self) -> Self:
        if self.password_hash_file is None and self.authorized_keys_file is None:
            msg = "password_hash_file or authorized_keys_file is needed"
            raise ValueError(msg)
        return self


class LoginSection(_Section):
    """Classes and users."""

    classes: Annotated[dict[Name, LoginClass], Field(alias="class")] = {}
    user: dict[Name, LoginUser] = {}


class ControlSourceSection(_Section):
    """One control source; its name is the login's."""

    key_file: FileName | None = None
    tunnel: Name | None = None
    """The tunnel that it must come through; nothing of it is heard on another way."""
    sequence: Literal["echo", "strict"] = "echo"
    notification_targets: list[str] = []
    notification_version: Literal["0.6", "0.7", "0.8"] | None = None
    addresses: list[Network] = []
    allowed_destinations: list[Name] = []
    allowed_prefixes: Networks = []
    excluded_prefixes: Networks = []
    narrowest_prefix_v4: NarrowestV4 = 0
    narrowest_prefix_v6: NarrowestV6 = 0
    max_criteria: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    max_packets_per_s: Bound = 0
    max_bits_per_s: Bound = 0
    max_lifetime_s: Annotated[int, Field(ge=0, le=86_400)] = 0
    minimum_priority: Annotated[int, Field(ge=0, le=254)] = 0
    require_order: bool = False
    require_approval: bool = False

    @field_validator("notification_targets")
    @classmethod
    def _endpoints(cls, value: list[str]) -> list[str]:
        for text in value:
            endpoint(text)
        return value


class ContentDestinationSection(_Section):
    """One content destination and its outer header."""

    address: Address
    port: Port
    source_address: Address
    source_port: Port = 65_534
    ttl: Annotated[int, Field(ge=1, le=255)] = 255
    oversize: Literal["fragment", "refuse"] = "fragment"
    tunnel: Name | None = None
    spool: SpoolKind | None = None
    """Where copies wait while the tunnel is down; as the tunnel says where nothing is said here."""
    spool_octets: Octets | None = None
    resend_s: Annotated[int, Field(ge=0, le=3_600)] | None = None
    """What was sent so shortly before a loss was noticed is sent again."""
    soft_limit_bps: Bound = 0
    soft_limit_clear_bps: Bound = 0
    hard_limit_bps: Bound = 0
    hard_limit_target_bps: Bound = 0

    @model_validator(mode="after")
    def _one_family(self) -> Self:
        if self.address.version != self.source_address.version:
            msg = "address and source_address must be of one family"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _of_one_host(self) -> Self:
        """The kernel would put another address in the place of one that is no host's."""
        source = self.source_address
        if self.address.is_unspecified:
            msg = "address is unspecified; the address that copies go to is right"
            raise ValueError(msg)
        if source.is_unspecified or source.is_multicast or source == IPv4Address("255.255.255.255"):
            msg = "source_address is unspecified, a group's or everybody's; the address of one host is right"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _limits_are_in_order(self) -> Self:
        for name, low, high in (
            ("soft_limit_clear_bps and soft_limit_bps", self.soft_limit_clear_bps, self.soft_limit_bps),
            ("hard_limit_target_bps and hard_limit_bps", self.hard_limit_target_bps, self.hard_limit_bps),
        ):
            if (low or high) and not 0 < low < high:
                msg = f"{name}: both are needed, and the first must be below the second"
                raise ValueError(msg)
        if self.soft_limit_bps and self.hard_limit_bps and self.soft_limit_bps >= self.hard_limit_target_bps:
            msg = "soft_limit_bps must be below hard_limit_target_bps"
            raise ValueError(msg)
        return self


class SshSection(_Section):
    """DTCP over SSH."""

    listen: Annotated[list[str], Field(min_length=1)] = ["0.0.0.0:32001"]
    host_key_file: FileName
    connection_limit: Annotated[int, Field(ge=1, le=250)] = 75
    rate_limit: Annotated[int, Field(ge=1, le=250)] = 150
    dialect: Literal["vendor", "draft"] = "vendor"

    @field_validator("listen")
    @classmethod
    def _endpoints(cls, value: list[str]) -> list[str]:
        for text in value:
            endpoint(text)
        return value


class UdpSection(_Section):
    """DTCP over UDP; only for control sources with a key_file."""

    listen: list[str] = []

    @field_validator("listen")
    @classmethod
    def _endpoints(cls, value: list[str]) -> list[str]:
        return [f"{host}:{port}" for host, port in map(_udp_endpoint, value)]


class DtcpSection(_Section):
    """The tasking protocol."""

    ssh: SshSection
    udp: UdpSection = UdpSection()


class PolicySection(_Section):
    """What holds for every control source."""

    source_addresses: list[Network] = []
    excluded_prefixes: Networks = []
    narrowest_prefix_v4: NarrowestV4 = 0
    narrowest_prefix_v6: NarrowestV6 = 0
    max_criteria: Annotated[int, Field(ge=1, le=10_000_000)] = 1_000_000
    max_content_destinations: Annotated[int, Field(ge=0, le=1_000_000)] = 1_000
    duplicates_dropped_period_s: Annotated[int, Field(ge=1, le=255)] = 30
    require_tunnel: bool = False
    """Content leaves through tunnels only."""
    require_order: bool = False
    require_approval: bool = False


class StoreSection(_Section):
    """The journal and the audit log."""

    path: FileName = "flowtap.db"
    journal: bool = True


class AuditSection(_Section):
    """Where the end of the audit log is written down for others to keep."""

    anchor_file: FileName | None = None


class ShowSection(_Section):
    """The local socket of ``flowtap show``."""

    socket: FileName = "flowtap.sock"


class Configuration(_Section):
    """A whole configuration file."""

    element: ElementSection
    login: LoginSection = LoginSection()
    control_source: dict[Name, ControlSourceSection] = {}
    content_destination: dict[Name, ContentDestinationSection] = {}
    dtcp: DtcpSection
    policy: PolicySection = PolicySection()
    store: StoreSection = StoreSection()
    audit: AuditSection = AuditSection()
    show: ShowSection = ShowSection()
    spool: SpoolSection = SpoolSection()
    tunnel: dict[Name, TunnelSection] = {}

    @model_validator(mode="after")
    def _tunnels_lead_apart(self) -> Self:
        networks = [(name, each) for name, section in self.tunnel.items() for each in section.remote_networks]
        for at, (name, each) in enumerate(networks):
            for other, beside in networks[:at]:
                if other != name and each.version == beside.version and each.overlaps(beside):
                    msg = f"tunnel.{name}.remote_networks: {each} overlaps {beside} of tunnel.{other}"
                    raise ValueError(msg)
        for name, source in self.control_source.items():
            if source.tunnel is not None and source.tunnel not in self.tunnel:
                msg = f"control_source.{name}.tunnel: there is no [tunnel.{source.tunnel}]"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _copies_find_their_tunnel(self) -> Self:
        for name, destination in self.content_destination.items():
            key = f"content_destination.{name}"
            through = tunnel_to(self.tunnel, destination.address)
            if destination.tunnel is not None and destination.tunnel not in self.tunnel:
                msg = f"{key}.tunnel: there is no [tunnel.{destination.tunnel}]"
                raise ValueError(msg)
            if destination.tunnel not in {None, through}:
                msg = f"{key}.address: does not lie in the remote_networks of tunnel.{destination.tunnel}"
                raise ValueError(msg)
            if through is None:
                if self.policy.require_tunnel:
                    msg = f"{key}.address: lies behind no tunnel, and policy.require_tunnel demands one"
                    raise ValueError(msg)
                if destination.spool not in {None, "none"} or destination.resend_s:
                    msg = f"{key}: spool and resend_s are for destinations behind a tunnel"
                    raise ValueError(msg)
                continue
            section = self.tunnel[through]
            if not section.has_local(destination.source_address):
                msg = f"{key}.source_address: does not lie in the local_networks of tunnel.{through}"
                raise ValueError(msg)
            spool = section.spool if destination.spool is None else destination.spool
            resend_s = section.resend_s if destination.resend_s is None else destination.resend_s
            try:
                refuse_short_resend(resend_s, spool, section)
            except ValueError as error:
                msg = f"{key}: {error}"
                raise ValueError(msg) from None
        return self

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        for name, user in self.login.user.items():
            if user.login_class not in self.login.classes:
                msg = f"login.user.{name}.class: there is no [login.class.{user.login_class}]"
                raise ValueError(msg)
        uids = [user.uid for user in self.login.user.values() if user.uid is not None]
        if len(set(uids)) < len(uids):
            # Who asks over the local socket is known by his uid alone, and nobody approves his own request.
            msg = "login.user: two users have the same uid; every user needs one of his own"
            raise ValueError(msg)
        everybody = self.policy.excluded_prefixes
        for name, source in self.control_source.items():
            if len({*everybody, *source.excluded_prefixes}) > EXCLUDED_MAX:
                msg = (
                    f"control_source.{name}.excluded_prefixes: together with those of [policy] more than"
                    f" {EXCLUDED_MAX:,}; fewer, wider prefixes are right"
                )
                raise ValueError(msg)
            if name not in self.login.user and not (source.key_file is not None and self.dtcp.udp.listen):
                msg = (
                    f"control_source.{name}: there is no [login.user.{name}] for SSH, and no key_file with"
                    " [dtcp.udp] listen for UDP, so nobody can act for it"
                )
                raise ValueError(msg)
            # Destinations that are created by tasking have names that the configuration does not know.
            if len(set(source.allowed_destinations)) < len(source.allowed_destinations):
                msg = f"control_source.{name}.allowed_destinations: a name is given twice"
                raise ValueError(msg)
        return self
