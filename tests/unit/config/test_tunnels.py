"""Tunnels in the configuration: what fits together, and what is refused."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest
from sections import HOW_TO

from flowtap.config import load
from flowtap.delivery.paths import Path as ProtectedWay
from flowtap.delivery.paths import Paths
from flowtap.errors import ConfigurationError

GOOD = (
    """
[element]
interfaces = ["eth0"]
[login.class.tasker]
permissions = ["flow-tap-operation"]
[login.user.md]
class = "tasker"
password_hash_file = "hash"
[control_source.md]
tunnel = "ttp"
[content_destination.cd1]
address = "2.2.2.2"
port = 30000
source_address = "100.100.100.101"
tunnel = "ttp"
spool = "disk"
[content_destination.clear]
address = "192.0.2.9"
port = 30000
source_address = "192.0.2.1"
"""
    + HOW_TO
    + """
spool_octets = 1000000
resend_s = 20
[dtcp.ssh]
listen = ["127.0.0.1:32001"]
host_key_file = "host_key"
"""
)


def write(directory: Path, text: str) -> Path:
    path = directory / "flowtap.toml"
    path.write_text(text)
    return path


def test_profiles(tmp_path: Path) -> None:
    tunnel = load(write(tmp_path, GOOD)).values.tunnel["ttp"]
    assert (tunnel.ike_version, tunnel.wanted_ike) == (2, ["aes256gcm16-prfsha384-ecp384"])
    assert tunnel.wanted_esp == ["aes256gcm16-ecp384"]
    old = GOOD.replace("resend_s = 20", "legacy = true\nike_version = 1")
    tunnel = load(write(tmp_path, old)).values.tunnel["ttp"]
    assert (tunnel.wanted_ike, tunnel.wanted_esp) == (["3des-sha1-modp1024"], ["3des-sha1"])


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("resend_s = 20", "ike_version = 1", "IKEv1 needs legacy"),
        ("resend_s = 20", 'ike_proposals = ["3des-sha1-modp1024"]', "needs legacy"),
        ("resend_s = 20", 'esp_proposals = ["aes256-sha1"]', "needs legacy"),
        ("resend_s = 20", 'legacy = true\nesp_proposals = ["null-sha256"]', "does not encrypt"),
        ("resend_s = 20", 'esp_proposals = ["aes256gcm16 ecp384"]', "with dashes"),
        ("resend_s = 20", "interface_id = 42", "the number of an interface"),
        ("resend_s = 20", "resend_s = 14", "at least the 15 s of dead_peer_s"),
        ("resend_s = 20", 'resend_s = 20\nspool = "none"', "needs a spool"),
        ("resend_s = 20", "dpd_delay_s = 15", "above dpd_delay_s"),
        ("resend_s = 20", "spool_octet = 1", "there is no such key"),
        ('pre_shared_key_file = "psk"', "", "one of two is right"),
        ('pre_shared_key_file = "psk"', 'certificate_file = "c"', "one of two is right"),
        ('"100.100.100.100"', '"2001:db8::1"', "of one family"),
        ('"123.123.123.123"', '"2.2.2.3"', "carry itself"),
        ('"123.123.123.123"', '"0.0.0.0"', "one host"),
        ('["2.2.2.0/27"]', '["2001:db8::/64"]', "no family in common"),
        ('["100.100.100.101/32"]', '["2.2.2.1/32"]', "overlap"),
        ('["2.2.2.0/27"]', '["2.2.2.2.2"]', "an address, or a prefix"),
        ('["2.2.2.0/27"]', "[]", "at least 1 item"),
        ('"100.100.100.101"\n', '"100.100.100.102"\n', "local_networks of tunnel.ttp"),
        ('tunnel = "ttp"\nspool', 'tunnel = "other"\nspool', "there is no [tunnel.other]"),
        ('[control_source.md]\ntunnel = "ttp"', '[control_source.md]\ntunnel = "other"', "no [tunnel.other]"),
        ('"192.0.2.9"', '"192.0.2.9"\ntunnel = "ttp"', "remote_networks of tunnel.ttp"),
        ('"192.0.2.9"', '"192.0.2.9"\nspool = "memory"', "behind a tunnel"),
        ("[dtcp.ssh]", "[policy]\nrequire_tunnel = true\n[dtcp.ssh]", "content_destination.clear.address"),
        ('spool = "disk"', 'spool = "none"', "content_destination.cd1: resend_s needs a spool"),
    ],
)
def test_faults(tmp_path: Path, before: str, after: str, words: str) -> None:
    assert before in GOOD
    with pytest.raises(ConfigurationError) as caught:
        load(write(tmp_path, GOOD.replace(before, after)))
    assert words in str(caught.value)


def test_tunnels_lead_to_different_networks(tmp_path: Path) -> None:
    begin = GOOD.index("[tunnel.ttp]")
    second = GOOD[begin : GOOD.index("[dtcp.ssh]")].replace("tunnel.ttp", "tunnel.other")
    with pytest.raises(ConfigurationError, match=r"2\.2\.2\.0/27 overlaps 2\.2\.2\.0/27 of tunnel\.ttp"):
        load(write(tmp_path, GOOD + second))
    load(write(tmp_path, GOOD + second.replace("2.2.2.0/27", "2.2.2.32/27")))


def test_the_address_alone_decides_about_the_tunnel(tmp_path: Path) -> None:
    values = load(write(tmp_path, GOOD.replace('tunnel = "ttp"\nspool', "spool"))).values
    paths = Paths(values.tunnel, values.content_destination)
    assert paths.to("cd1", ip_address("2.2.2.2")) == ProtectedWay("ttp", "disk", 1_000_000, 20)
    assert paths.to("tasked", ip_address("2.2.2.3")) == ProtectedWay("ttp", "memory", 1_000_000, 20)
    assert paths.to("clear", ip_address("192.0.2.9")) is None
    assert paths.to("cd1", ip_address("2001:db8::1")) is None
