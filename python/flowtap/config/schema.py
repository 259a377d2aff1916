"""The configuration as types: every key that there is, with its bounds and defaults."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = [
    "Configuration",
    "ContentDestinationSection",
    "ControlSourceSection",
    "DtcpSection",
    "ElementSection",
    "LoginClass",
    "LoginSection",
    "LoginUser",
    "ReplaySection",
    "ShowSection",
    "SshSection",
    "StoreSection",
    "endpoint",
]

Port = Annotated[int, Field(ge=1, le=65_535)]
Name = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[!-+\--~]+$")]
Address = IPv4Address | IPv6Address


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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

    files: Annotated[list[str], Field(min_length=1)]
    pace: Literal["recorded", "fast"] | Annotated[float, Field(gt=0)] = "recorded"
    loop: bool = False
    wait_for_criteria: bool = False


class ElementSection(_Section):
    """The network element: what is tapped."""

    name: str = "flowtap"
    interfaces: list[str] = []
    workers: Annotated[int, Field(ge=1, le=1)] = 1
    replay: ReplaySection | None = None

    @model_validator(mode="after")
    def _has_source(self) -> Self:
        if self.interfaces:
            msg = "interfaces: live capture is not part of this version; give [element.replay] files"
            raise ValueError(msg)
        if self.replay is None:
            msg = "a source is needed: [element.replay] with files"
            raise ValueError(msg)
        return self


class LoginClass(_Section):
    """What users of a class may do; no permission contains another."""

    permissions: list[Literal["flow-tap", "flow-tap-control", "flow-tap-operation"]] = []


class LoginUser(_Section):
    """One login."""

    login_class: Annotated[str, Field(alias="class")]
    uid: Annotated[int, Field(ge=0)] | None = None
    password_hash_file: str | None = None
    authorized_keys_file: str | None = None

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

    key_file: str | None = None
    sequence: Literal["echo", "strict"] = "echo"
    notification_targets: list[str] = []
    notification_version: Literal["0.6", "0.7", "0.8"] | None = None
    allowed_destinations: list[Name] = []
    max_criteria: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    max_lifetime_s: Annotated[int, Field(ge=0, le=86_400)] = 0

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

    @model_validator(mode="after")
    def _one_family(self) -> Self:
        if self.address.version != self.source_address.version:
            msg = "address and source_address must be of one family"
            raise ValueError(msg)
        return self


class SshSection(_Section):
    """DTCP over SSH."""

    listen: Annotated[list[str], Field(min_length=1)] = ["0.0.0.0:32001"]
    host_key_file: str
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


class StoreSection(_Section):
    """The journal and the audit log."""

    path: str = "flowtap.db"


class ShowSection(_Section):
    """The local socket of ``flowtap show``."""

    socket: str = "flowtap.sock"


class Configuration(_Section):
    """A whole configuration file."""

    element: ElementSection
    login: LoginSection = LoginSection()
    control_source: dict[Name, ControlSourceSection] = {}
    content_destination: dict[Name, ContentDestinationSection] = {}
    dtcp: DtcpSection
    store: StoreSection = StoreSection()
    show: ShowSection = ShowSection()

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        for name, user in self.login.user.items():
            if user.login_class not in self.login.classes:
                msg = f"login.user.{name}.class: there is no [login.class.{user.login_class}]"
                raise ValueError(msg)
        for name, source in self.control_source.items():
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
