"""What strongSwan is told."""

from __future__ import annotations

from typing import Any

import pytest
from sections import legacy, section

from flowtap.delivery.connection import (
    load_connection,
    load_secrets,
    refuse_old,
    wanted_children,
)
from flowtap.delivery.credentials import TunnelSecrets
from flowtap.errors import ConfigurationError, TunnelError

SECRET = TunnelSecrets(pre_shared_key=b"se\xffcret")
CERTIFIED = TunnelSecrets(certificates=(b"own", b"between"), private_key=b"key", authorities=(b"ca",))
CERTIFICATES = {
    "pre_shared_key_file": None,
    "certificate_file": "c",
    "private_key_file": "k",
    "authority_file": "a",
}


def test_a_modern_tunnel() -> None:
    made: Any = load_connection("md", section(), SECRET)["md"]
    assert made == {
        "version": "2",
        "aggressive": "no",
        "local_addrs": ["198.51.100.2"],
        "remote_addrs": ["203.0.113.2"],
        "proposals": ["aes256gcm16-prfsha384-ecp384"],
        "rekey_time": "12960s",
        "over_time": "1440s",
        "dpd_delay": "2s",
        "keyingtries": "0",
        "mobike": "no",
        "local": {"auth": "psk", "id": "198.51.100.2"},
        "remote": {"auth": "psk", "id": "203.0.113.2"},
        "children": {
            "md-content": {
                "mode": "tunnel",
                "local_ts": ["192.0.2.1/32"],
                "remote_ts": ["10.9.0.0/24"],
                "esp_proposals": ["aes256gcm16-ecp384"],
                "life_time": "3600s",
                "rekey_time": "3240s",
                "start_action": "trap|start",
                "close_action": "trap|start",
                "dpd_action": "restart",
            }
        },
    }


def test_an_xfrm_interface_has_a_number() -> None:
    made: Any = load_connection("md", section(interface="ipsec-md", interface_id=42), SECRET)["md"]
    assert (made["if_id_in"], made["if_id_out"]) == ("42", "42")


def test_a_tunnel_as_the_how_to_has_it() -> None:
    made: Any = load_connection("md", legacy(ike_lifetime_s=86_400), SECRET)["md"]
    assert (made["version"], made["aggressive"]) == ("1", "no")
    assert made["proposals"] == ["3des-sha1-modp1024"]
    assert made["children"]["md-content"]["esp_proposals"] == ["3des-sha1"]
    # The other side is told of the sum.
    assert (made["rekey_time"], made["over_time"]) == ("77760s", "8640s")
    assert not {"rand_time", "unique"} & set(made)
    assert (made["dpd_delay"], made["dpd_timeout"]) == ("2s", "15s")


def test_names_of_the_sides() -> None:
    named = section(local_id="tap.example", remote_id="ttp.example")
    made: Any = load_connection("md", named, SECRET)["md"]
    assert (made["local"]["id"], made["remote"]["id"]) == ("tap.example", "ttp.example")
    ((_, shared),) = load_secrets("md", named, SECRET)
    assert shared["owners"] == ["tap.example", "ttp.example"]


def test_a_shared_secret() -> None:
    assert load_secrets("md", section(), SECRET) == [
        (
            "load-shared",
            {
                "id": "md-secret",
                "type": "IKE",
                "data": b"se\xffcret",
                "owners": ["198.51.100.2", "203.0.113.2"],
            },
        )
    ]


def test_certificates() -> None:
    certified = section(**CERTIFICATES)
    made: Any = load_connection("md", certified, CERTIFIED)["md"]
    # Who it is, the certificate says; whoever has one of the authority's is the other side.
    assert made["local"] == {"auth": "pubkey", "certs": [b"own"]}
    assert made["remote"] == {"auth": "pubkey", "cacerts": [b"ca"]}
    assert load_secrets("md", certified, CERTIFIED) == [
        ("load-cert", {"type": "X509", "flag": "NONE", "data": b"between"}),
        ("load-key", {"type": "any", "data": b"key"}),
    ]
    named: Any = load_connection(
        "md", section(**CERTIFICATES, local_id="CN=tap", remote_id="CN=ttp"), CERTIFIED
    )["md"]
    assert (named["local"]["id"], named["remote"]["id"]) == ("CN=tap", "CN=ttp")


def test_ikev2_has_one_child_for_everything() -> None:
    (child,) = wanted_children("md", section(remote_networks=["10.9.0.0/24", "10.10.0.0/24"]))
    assert len(child.remote) == 2


def test_ikev1_has_a_child_for_each_pair_of_one_family() -> None:
    made = wanted_children(
        "md",
        legacy(
            local_networks=["192.0.2.1", "192.0.2.2", "2001:db8::1"],
            remote_networks=["10.9.0.0/24", "2001:db8:9::/48"],
        ),
    )
    assert [(each.name, str(each.local[0]), str(each.remote[0])) for each in made] == [
        ("md-content-1", "192.0.2.1/32", "10.9.0.0/24"),
        ("md-content-2", "192.0.2.2/32", "10.9.0.0/24"),
        ("md-content-3", "2001:db8::1/128", "2001:db8:9::/48"),
    ]


@pytest.mark.parametrize(
    ("name", "changes", "key", "reason"),
    [
        ("x" * 201, {}, f"tunnel.{'x' * 201}", "at most 200 octets"),
        ("up", {}, "tunnel.up", "other than 'up'"),
        ("md", {"esp_proposals": ["aes256-rot13"]}, "tunnel.md.esp_proposals", "rot13"),
        ("md", {"ike_proposals": ["sha256-ecp384"]}, "tunnel.md.ike_proposals", "no encryption"),
    ],
)
def test_what_cannot_be_is_refused(name: str, changes: dict[str, Any], key: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as refused:
        load_connection(name, section(**changes), SECRET)
    assert refused.value.key == key


def test_too_many_pairs_are_refused() -> None:
    many = [f"10.9.{number}.0/24" for number in range(65)]
    assert len(wanted_children("md", legacy(remote_networks=many[:64]))) == 64
    with pytest.raises(ConfigurationError, match="65 pairs"):
        wanted_children("md", legacy(remote_networks=many))


@pytest.mark.parametrize("version", ["5.9.8", "5.9.11", "5.10.0", "6.0.0rc1", "6.0.3", "6.1"])
def test_a_release_that_will_do(version: str) -> None:
    refuse_old({"version": version})


@pytest.mark.parametrize("version", ["5.9.7", "5.9", "5.8.12", "4.6.4", "5.9.7dr2"])
def test_a_release_that_is_too_old(version: str) -> None:
    with pytest.raises(TunnelError, match=r"5\.9\.8 or newer is right"):
        refuse_old({"version": version})


@pytest.mark.parametrize("answer", [{}, {"version": ""}, {"version": "unknown"}, {"version": ["5.9.8"]}])
def test_a_release_that_is_not_said(answer: Any) -> None:
    with pytest.raises(TunnelError, match="does not say"):
        refuse_old(answer)


def test_secrets_are_not_printed() -> None:
    for each in (SECRET, CERTIFIED):
        assert repr(each) == "TunnelSecrets()"
