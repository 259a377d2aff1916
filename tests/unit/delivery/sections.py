"""Tunnels and associations that several tests want."""

from __future__ import annotations

from typing import Any

from flowtap.config.tunnels import TunnelSection
from flowtap.delivery.associations import ChildAssociation, IkeAssociation
from flowtap.delivery.proposals import Negotiated

MODERN = Negotiated("AES_GCM_16", 256, "", "")

HOW_TO = """
[tunnel.ttp]
local_gateway = "100.100.100.100"
remote_gateway = "123.123.123.123"
local_networks = ["100.100.100.101/32"]
remote_networks = ["2.2.2.0/27"]
pre_shared_key_file = "psk"
"""
"""The how-to's tunnel, in a configuration's words; further keys may follow."""


def section(**changes: Any) -> TunnelSection:
    """A tunnel; the values are those of the configuration."""
    values: dict[str, Any] = {
        "local_gateway": "198.51.100.2",
        "remote_gateway": "203.0.113.2",
        "local_networks": ["192.0.2.1/32"],
        "remote_networks": ["10.9.0.0/24"],
        "pre_shared_key_file": "secret",
    }
    return TunnelSection.model_validate(values | changes)


def legacy(**changes: Any) -> TunnelSection:
    """One as the how-to has it."""
    return section(legacy=True, ike_version=1, **changes)


def child(unique_id: int = 1, **changes: Any) -> ChildAssociation:
    """A child that is what was asked for."""
    values: dict[str, Any] = {
        "name": "md-content",
        "unique_id": unique_id,
        "request_id": 1,
        "state": "INSTALLED",
        "mode": "TUNNEL",
        "protocol": "ESP",
        "is_in_udp": False,
        "spi_in": "c1",
        "spi_out": "c2",
        "algorithms": MODERN,
        "local_selectors": ("192.0.2.1/32",),
        "remote_selectors": ("10.9.0.0/24",),
    }
    return ChildAssociation(**(values | changes))


def ike(*children: ChildAssociation, unique_id: int = 1, **changes: Any) -> IkeAssociation:
    """An association with children."""
    values: dict[str, Any] = {
        "name": "md",
        "unique_id": unique_id,
        "version": 2,
        "state": "ESTABLISHED",
        "local_host": "198.51.100.2",
        "local_port": 500,
        "local_id": "198.51.100.2",
        "remote_host": "203.0.113.2",
        "remote_port": 500,
        "remote_id": "203.0.113.2",
        "is_initiator": True,
        "initiator_spi": "a1",
        "responder_spi": "a2",
        "algorithms": MODERN,
        "pseudo_random_function": "PRF_HMAC_SHA2_384",
        "children": tuple(children),
    }
    return IkeAssociation(**(values | changes))
