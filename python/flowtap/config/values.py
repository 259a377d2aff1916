"""Values of the configuration that several sections have, each with its message."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Annotated, Final

from pydantic import AfterValidator, ConfigDict, Field, PlainValidator

__all__ = [
    "EXCLUDED_MAX",
    "LOCKED",
    "SECTION",
    "Address",
    "Bound",
    "FileName",
    "InterfaceName",
    "Name",
    "NarrowestV4",
    "NarrowestV6",
    "Network",
    "Networks",
    "Port",
]

Port = Annotated[int, Field(ge=1, le=65_535)]
Name = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[!-+\--~]+$")]
# As the kernel takes them (dev_valid_name): 15 octets without slash and white space.
InterfaceName = Annotated[str, Field(pattern=r"^[^\s/:]{1,15}$")]
Address = IPv4Address | IPv6Address


def _network(value: object) -> IPv4Network | IPv6Network:
    """Reads an address or a prefix; one message for both families."""
    try:
        return ip_network(str(value))
    except ValueError as error:
        reason = "has host bits" if "host bits" in str(error) else "is none"
        msg = f"{value!r} {reason}; an address, or a prefix such as 192.0.2.0/24 or 2001:db8::/32, is right"
        raise ValueError(msg) from None


Network = Annotated[IPv4Network | IPv6Network, PlainValidator(_network)]
NarrowestV4 = Annotated[int, Field(ge=0, le=32)]
NarrowestV6 = Annotated[int, Field(ge=0, le=128)]
Bound = Annotated[int, Field(ge=0, le=2**63 - 1)]


def _file_name(value: str) -> str:
    """Refuses what no system call takes, so that it is a fault of the file and not of whoever opens it."""
    if not value or "\0" in value:
        msg = "the name of a file is right: not empty, and without NUL"
        raise ValueError(msg)
    return value


FileName = Annotated[str, AfterValidator(_file_name)]
EXCLUDED_MAX = 1_024
"""Most prefixes of one list, and most exclusions of a control source: the matcher takes twice as many, those
of a filter among them."""
Networks = Annotated[list[Network], Field(max_length=EXCLUDED_MAX)]


SECTION: Final = ConfigDict(extra="forbid", frozen=True)
"""What all sections are like: no key that is not known, and nothing changes."""

LOCKED: Final = "!"
"""In place of a password hash: no password is right, as in shadow(5)."""
