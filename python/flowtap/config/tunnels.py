"""The sections about protected paths: ``[tunnel.NAME]`` and ``[spool]``.

The proposals are in strongSwan's words, because strongSwan negotiates them (swanctl.conf(5), ``proposals``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from flowtap.config.values import SECTION, Address, FileName, InterfaceName, Name, Networks

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Network, IPv6Network

__all__ = ["SpoolKind", "SpoolSection", "TunnelSection", "tunnel_to"]

SpoolKind = Literal["none", "memory", "disk"]
MODERN_IKE: Final = "aes256gcm16-prfsha384-ecp384"
MODERN_ESP: Final = "aes256gcm16-ecp384"
LEGACY_IKE: Final = "3des-sha1-modp1024"
LEGACY_ESP: Final = "3des-sha1"
WEAK: Final = frozenset(
    {
        "3des",
        "blowfish",
        "cast128",
        "des",
        "md5",
        "modp768",
        "modp1024",
        "modp1536",
        "prfmd5",
        "prfsha1",
        "sha1",
    }
)
"""Algorithms that are negotiated only where the tunnel is legacy (RFC 8221, RFC 8247)."""
NO_SECRECY: Final = frozenset({"null", "aes128gmac", "aes192gmac", "aes256gmac"})
"""Encryption that is none; never negotiated."""
_PROPOSAL: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9_]+)*")
Octets = Annotated[int, Field(ge=1 << 16, le=1 << 40)]


class _Section(BaseModel):
    model_config = SECTION


class TunnelSection(_Section):
    """A tunnel to a trusted third party: IKE by strongSwan, ESP by the kernel."""

    local_gateway: Address
    remote_gateway: Address
    local_networks: Annotated[Networks, Field(min_length=1)]
    """What of this host may speak through it: the source addresses of copies, and where it is tasked."""
    remote_networks: Annotated[Networks, Field(min_length=1)]
    """What lies behind it. Nothing for there ever leaves in another way."""
    legacy: bool = False
    """Permits IKEv1 and algorithms that are no longer recommended; said in the log at every start."""
    ike_version: Literal[1, 2] = 2
    ike_proposals: list[str] = []
    esp_proposals: list[str] = []
    ike_lifetime_s: Annotated[int, Field(ge=60, le=30 * 86_400)] = 14_400
    esp_lifetime_s: Annotated[int, Field(ge=30, le=86_400)] = 3_600
    local_id: str | None = None
    remote_id: str | None = None
    pre_shared_key_file: FileName | None = None
    certificate_file: FileName | None = None
    private_key_file: FileName | None = None
    authority_file: FileName | None = None
    """The certificate that the other side's must be signed by."""
    dpd_delay_s: Annotated[int, Field(ge=1, le=60)] = 2
    """After so much silence the other side is asked whether it lives."""
    dead_peer_s: Annotated[int, Field(ge=2, le=600)] = 15
    """How long it takes at most to notice that it does not. With IKEv1 strongSwan is told; with IKEv2 its
    own retransmission settings decide, which must fit (``flowtap config strongswan``)."""
    interface: InterfaceName | None = None
    """The XFRM interface or TUN device that it has; none in the kernel's policy mode."""
    interface_id: Annotated[int, Field(ge=1, le=2**32 - 1)] | None = None
    """The number that an XFRM interface was made with (``if_id``)."""
    vici_socket: FileName = "/run/charon.vici"
    spool: SpoolKind = "memory"
    """Where copies wait while it is down, unless their content destination says otherwise."""
    spool_octets: Octets = 64 << 20
    resend_s: Annotated[int, Field(ge=0, le=3_600)] = 0
    drain_pps: Annotated[int, Field(ge=1, le=10_000_000)] = 5_000
    """How many copies that waited leave in a second when it is up again, beyond what comes in meanwhile."""
    service_set: Name | None = None
    """What a router called it; ``show`` says so in a router's words, and nothing else asks."""
    rule: Name | None = None
    term: Name | None = None

    @field_validator("ike_proposals", "esp_proposals")
    @classmethod
    def _are_proposals(cls, value: list[str]) -> list[str]:
        for each in value:
            if not _PROPOSAL.fullmatch(each):
                msg = f"{each!r}: algorithms with dashes between them are right, such as {MODERN_IKE}"
                raise ValueError(msg)
            if none := NO_SECRECY.intersection(each.split("-")):
                msg = f"{each}: {min(none)} does not encrypt, and nothing may leave in clear"
                raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _is_as_strong_as_said(self) -> Self:
        if self.legacy:
            return self
        if self.ike_version == 1:
            msg = "ike_version: IKEv1 needs legacy = true; 2 is right"
            raise ValueError(msg)
        for each in (*self.ike_proposals, *self.esp_proposals):
            if weak := WEAK.intersection(each.split("-")):
                msg = f"{each}: {min(weak)} is no longer recommended and needs legacy = true"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _can_authenticate(self) -> Self:
        certificates = (self.certificate_file, self.private_key_file, self.authority_file)
        given = sum(each is not None for each in certificates)
        if (self.pre_shared_key_file is None) == (given == 0) or given not in {0, len(certificates)}:
            msg = (
                "one of two is right: pre_shared_key_file, or certificate_file with private_key_file and"
                " authority_file"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.interface_id is not None and self.interface is None:
            msg = "interface_id: is the number of an interface; interface is right beside it"
            raise ValueError(msg)
        if self.local_gateway.version != self.remote_gateway.version:
            msg = "local_gateway and remote_gateway must be of one family"
            raise ValueError(msg)
        for gateway in (self.local_gateway, self.remote_gateway):
            if gateway.is_unspecified or gateway.is_multicast:
                msg = f"{gateway}: the address of one host is right for a gateway"
                raise ValueError(msg)
        networks = [(each, other) for each in self.local_networks for other in self.remote_networks]
        if not any(each.version == other.version for each, other in networks):
            msg = "local_networks and remote_networks have no family in common"
            raise ValueError(msg)
        if any(each.overlaps(other) for each, other in networks if each.version == other.version):
            msg = "local_networks and remote_networks overlap"
            raise ValueError(msg)
        if any(self.remote_gateway in each for each in self.remote_networks):
            msg = "remote_gateway lies in remote_networks; the tunnel would have to carry itself"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _resends_long_enough(self) -> Self:
        refuse_short_resend(self.resend_s, self.spool, self)
        if self.dead_peer_s <= self.dpd_delay_s:
            msg = "dead_peer_s must be above dpd_delay_s"
            raise ValueError(msg)
        return self

    @property
    def wanted_ike(self) -> list[str]:
        """The proposals for IKE: as given, or those of the profile."""
        return self.ike_proposals or [LEGACY_IKE if self.legacy and self.ike_version == 1 else MODERN_IKE]

    @property
    def wanted_esp(self) -> list[str]:
        """The proposals for ESP: as given, or those of the profile."""
        return self.esp_proposals or [LEGACY_ESP if self.legacy and self.ike_version == 1 else MODERN_ESP]

    def has_remote(self, address: Address) -> bool:
        """Whether an address lies behind the tunnel."""
        return _is_in(address, self.remote_networks)

    def has_local(self, address: Address) -> bool:
        """Whether an address of this host may speak through the tunnel."""
        return _is_in(address, self.local_networks)


def _is_in(address: Address, networks: list[IPv4Network | IPv6Network]) -> bool:
    return any(address in each for each in networks if address.version == each.version)


def tunnel_to(tunnels: Mapping[str, TunnelSection], address: Address) -> str | None:
    """The tunnel that an address lies behind; None where it is reached in clear."""
    return next((name for name, section in tunnels.items() if section.has_remote(address)), None)


def refuse_short_resend(resend_s: int, spool: SpoolKind, tunnel: TunnelSection) -> None:
    """Refuses to keep less than what may be lost before a loss is noticed.

    Raises:
        ValueError: It is less, or there is no spool to keep it in.
    """
    if resend_s and spool == "none":
        msg = 'resend_s needs a spool to keep copies in: spool = "memory" or "disk"'
        raise ValueError(msg)
    if resend_s and resend_s < tunnel.dead_peer_s:
        msg = f"resend_s: 0, or at least the {tunnel.dead_peer_s} s of dead_peer_s, is right"
        raise ValueError(msg)


class SpoolSection(_Section):
    """Where copies wait on disk."""

    directory: FileName = "spool"
    key_file: FileName | None = None
    """32 octets, of systemd's credential store for instance. With it copies are delivered after a restart
    too; without it their key is in memory alone, and what waits at the end is lost."""
