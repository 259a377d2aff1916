"""Associations as they are listed, and children that are not what was asked for."""

from __future__ import annotations

from typing import Any

import pytest
from sections import child, section

from flowtap.delivery.associations import ChildDown, ChildRekeyed, associations, events, fits
from flowtap.delivery.proposals import Negotiated
from flowtap.errors import TunnelError

LISTED: dict[str, Any] = {
    # As strongSwan 5.9.8 lists it.
    "md": {
        "uniqueid": "1",
        "version": "1",
        "state": "ESTABLISHED",
        "local-host": "100.100.100.100",
        "local-port": "4500",
        "local-id": "100.100.100.100",
        "remote-host": "123.123.123.123",
        "remote-port": "4500",
        "remote-id": "123.123.123.123",
        "initiator": "yes",
        "initiator-spi": "2ad24c1afdc56383",
        "responder-spi": "50fd4953810b32b1",
        "nat-remote": "yes",
        "nat-any": "yes",
        "encr-alg": "3DES_CBC",
        "integ-alg": "HMAC_SHA1_96",
        "prf-alg": "PRF_HMAC_SHA1",
        "dh-group": "MODP_1024",
        "established": "0",
        "rekey-time": "13009",
        "tasks-active": ["QUICK_MODE"],
        "child-sas": {
            "md-content-2": {
                "name": "md-content",
                "uniqueid": "2",
                "reqid": "1",
                "state": "INSTALLED",
                "mode": "TUNNEL",
                "protocol": "ESP",
                "encap": "yes",
                "spi-in": "0e7bbeaa",
                "spi-out": "463e036b",
                "encr-alg": "3DES_CBC",
                "integ-alg": "HMAC_SHA1_96",
                "bytes-in": "84",
                "packets-in": "1",
                "use-in": "0",
                "bytes-out": "168",
                "packets-out": "2",
                "rekey-time": "2908",
                "life-time": "3600",
                "install-time": "0",
                "local-ts": ["100.100.100.101/32"],
                "remote-ts": ["2.2.2.0/27"],
            }
        },
    }
}


def test_a_listing_is_read() -> None:
    (found,) = associations([LISTED, {"another": {}}], "md")
    assert (found.unique_id, found.version, found.state) == (1, 1, "ESTABLISHED")
    assert (found.remote_host, found.remote_port) == ("123.123.123.123", 4500)
    assert found.is_initiator
    assert found.initiator_spi == "2ad24c1afdc56383"
    assert (found.established_s, found.rekey_in_s, found.reauthenticate_in_s) == (0, 13009, None)
    assert found.tasks_active == ("QUICK_MODE",)
    assert str(found.algorithms) == "3DES_CBC/HMAC_SHA1_96/MODP_1024"
    (one,) = found.children
    assert (one.name, one.unique_id, one.is_live, one.is_in_udp) == ("md-content", 2, True, True)
    assert (one.octets_in, one.packets_out, one.use_in_s, one.use_out_s) == (84, 2, 0, None)
    assert one.remote_selectors == ("2.2.2.0/27",)


def test_what_is_missing_does_no_harm() -> None:
    (found,) = associations([{"md": {"uniqueid": "7", "version": "2"}}], "md")
    assert (found.state, found.children, found.established_s, found.local_port) == ("", (), None, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"md": "word"},
        {"md": {"version": "2"}},
        {"md": {"uniqueid": "x", "version": "2"}},
        {"md": {"uniqueid": "1\n", "version": "2"}},
        {"md": {"uniqueid": "٣", "version": "2"}},
        {"md": {"uniqueid": "1" * 30, "version": "2"}},
        {"md": {"uniqueid": ["1"], "version": "2"}},
        {"md": {"uniqueid": "1", "version": "2", "tasks-active": "IKE_DPD"}},
        {"md": {"uniqueid": "1", "version": "2", "child-sas": []}},
        {"md": {"uniqueid": "1", "version": "2", "child-sas": {"a-1": {}}}},
    ],
)
def test_what_is_of_the_wrong_kind_is_refused(wrong: Any) -> None:
    with pytest.raises(TunnelError, match="cannot be understood"):
        associations([wrong], "md")


def test_a_child_as_asked_for_fits() -> None:
    assert fits(child(), section()) == []
    assert fits(child(state="REKEYING"), section()) == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"state": "DELETED"}, "its state is DELETED"),
        ({"state": "REKEYED"}, "its state is REKEYED"),
        ({"state": "ROUTED"}, "its state is ROUTED"),
        ({"mode": "TRANSPORT"}, "its mode is TRANSPORT"),
        ({"mode": ""}, "its mode is unknown"),
        ({"protocol": "AH"}, "its protocol is AH"),
        ({"algorithms": Negotiated("NULL", None, "HMAC_SHA2_256_128", "")}, "NULL/HMAC_SHA2_256_128 was"),
        ({"algorithms": Negotiated("AES_GCM_16", 128, "", "")}, "AES_GCM_16_128 was negotiated"),
        ({"remote_selectors": ("10.9.0.0/25",)}, "leaves out 10.9.0.0/24 of remote_networks"),
        ({"remote_selectors": ()}, "leaves out 10.9.0.0/24 of remote_networks"),
        ({"remote_selectors": ("10.9.0.0/24[udp]",)}, "leaves out 10.9.0.0/24"),
        ({"remote_selectors": ("10.9.0.0/24[udp/9000]",)}, "leaves out 10.9.0.0/24"),
        ({"remote_selectors": ("10.9.0.0..10.9.0.254",)}, "leaves out 10.9.0.0/24"),
        ({"remote_selectors": ("2001:db8::..10.9.0.254",)}, "leaves out 10.9.0.0/24"),
        ({"remote_selectors": ("dynamic",)}, "leaves out 10.9.0.0/24"),
        ({"local_selectors": ("192.0.2.2/32",)}, "leaves out 192.0.2.1/32 of local_networks"),
    ],
)
def test_every_misfit_is_named(changes: dict[str, Any], fault: str) -> None:
    (found,) = fits(child(**changes), section())
    assert fault in found


@pytest.mark.parametrize(
    "selectors",
    [
        ("10.9.0.0/25", "10.9.0.128/25"),
        ("10.9.0.128/25", "10.9.0.0/25", "2001:db8::/64"),
        ("10.9.0.0..10.9.0.255",),
        ("10.8.255.0..10.9.1.7",),
        ("0.0.0.0/0",),
    ],
)
def test_networks_are_covered_by_several_selectors(selectors: tuple[str, ...]) -> None:
    assert fits(child(remote_selectors=selectors), section()) == []


def test_both_families_must_be_covered() -> None:
    both = section(
        local_networks=["192.0.2.1", "2001:db8:1::1"], remote_networks=["10.9.0.0/24", "2001:db8:9::/48"]
    )
    assert len(fits(child(), both)) == 2
    whole = child(
        local_selectors=("192.0.2.1/32", "2001:db8:1::1/128"),
        remote_selectors=("10.9.0.0/24", "2001:db8:9::/48"),
    )
    assert fits(whole, both) == []


def gone(fields: dict[str, Any], state: str) -> dict[str, Any]:
    lost = {"name": "md-content", "uniqueid": "4", "state": state}
    return {"md": {"uniqueid": "1", "state": "ESTABLISHED", **fields, "child-sas": {"md-content-4": lost}}}


@pytest.mark.parametrize(
    ("fields", "state", "down"),
    [
        ({"tasks-passive": ["IKE_DELETE"]}, "INSTALLED", ChildDown(4, is_said=True)),
        ({"tasks-passive": ["CHILD_DELETE"]}, "DELETED", ChildDown(4, is_said=True)),
        ({"tasks-passive": ["INFORMATIONAL"]}, "DELETED", ChildDown(4, is_said=True)),
        (
            {"tasks-active": ["QUICK_DELETE"], "tasks-queued": ["ISAKMP_DELETE"]},
            "DELETED",
            ChildDown(4, is_said=True, is_ours=True),
        ),
        ({"tasks-active": ["IKE_DELETE"]}, "INSTALLED", ChildDown(4, is_said=True, is_ours=True)),
        # Dead-peer detection of IKEv2 and of IKEv1; and who comes back without its memory.
        ({"tasks-active": ["IKE_DPD"]}, "INSTALLED", ChildDown(4, is_said=False)),
        ({}, "INSTALLED", ChildDown(4, is_said=False)),
    ],
)
def test_who_has_said_that_a_child_ends(fields: dict[str, Any], state: str, down: ChildDown) -> None:
    assert events("child-updown", gone(fields, state), "md") == [down]


def test_other_events_say_nothing_of_children() -> None:
    down = gone({}, "INSTALLED")
    assert events("child-updown", {"up": "yes", **down}, "md") == []
    assert events("ike-updown", down, "md") == []
    assert events("child-updown", down, "another") == []
    assert events("child-updown", {"md": {"uniqueid": "1"}}, "md") == []


def test_a_child_follows_another() -> None:
    both = {"old": {"uniqueid": "6", "state": "REKEYED"}, "new": {"uniqueid": "7", "state": "INSTALLED"}}
    message: Any = {"md": {"uniqueid": "1", "child-sas": {"md-content": both}}}
    assert events("child-rekey", message, "md") == [ChildRekeyed(6, 7)]
    del both["new"]
    with pytest.raises(TunnelError):
        events("child-rekey", message, "md")
