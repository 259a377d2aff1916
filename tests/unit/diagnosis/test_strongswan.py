from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowtap.config.tunnels import TunnelSection
from flowtap.delivery.retransmission import Retransmission
from flowtap.diagnosis import probes
from flowtap.diagnosis.finding import Unknown, Verdict
from flowtap.diagnosis.strongswan import (
    StrongSwan,
    connections,
    daemon,
    dead_peer,
    plugins,
    read_settings,
    retransmission,
    userspace_esp,
)

LOADED = ("random", "nonce", "openssl", "kernel-netlink", "socket-default", "vici")
STOCK = """\
# strongswan.conf - strongSwan configuration file
#
# Refer to the strongswan.conf(5) manpage for details

charon {
\tload_modular = yes
\tplugins {
\t\tinclude strongswan.d/charon/*.conf
\t}
}

include strongswan.d/*.conf
"""
CHARON_SYSTEMD = """\
charon-systemd {

    # retransmit_tries = 7
    journal {

        # Loglevel for a specific subsystem.
        # <subsystem> = <default>

    }

}
"""


def section(**changes: Any) -> TunnelSection:
    values: dict[str, Any] = {
        "local_gateway": "100.100.100.100",
        "remote_gateway": "123.123.123.123",
        "local_networks": ["100.100.100.101/32"],
        "remote_networks": ["2.2.2.0/27"],
        "pre_shared_key_file": "psk",
    }
    return TunnelSection.model_validate(values | changes)


def swan(*loaded: str, version: str = "5.9.8", has: tuple[str, ...] = ()) -> StrongSwan:
    return StrongSwan("charon-systemd", version, loaded or LOADED, has)


@pytest.mark.parametrize(
    ("version", "verdict"),
    [("5.9.8", "ok"), ("5.9.13", "ok"), ("6.0.0dr1", "ok"), ("5.9.5", "fail"), ("5.10", "ok"), ("", "fail")],
)
def test_versions(version: str, verdict: str) -> None:
    assert daemon(swan(version=version), "/run/charon.vici").verdict == verdict


def test_one_that_does_not_answer() -> None:
    finding = daemon(Unknown("No such file or directory"), "/run/charon.vici")
    assert finding.verdict is Verdict.FAIL
    assert finding.what == "/run/charon.vici: No such file or directory"
    assert "vici_socket" in finding.advice
    assert daemon(Unknown("no", "join the group"), "x").advice == "join the group"


def test_plugins() -> None:
    assert plugins(swan()).verdict is Verdict.OK
    missing = plugins(swan("nonce", "openssl"))
    assert missing.what == "not loaded: socket-default or socket-dynamic, kernel-netlink or kernel-libipsec"
    assert plugins(swan("nonce", "socket-default", "kernel-netlink")).verdict is Verdict.WARN
    wrong_order = swan(*LOADED, "kernel-libipsec")
    assert userspace_esp(wrong_order) is False
    assert "behind kernel-netlink" in plugins(wrong_order).what
    right_order = swan("kernel-libipsec", *LOADED)
    assert userspace_esp(right_order) is True
    assert plugins(right_order).verdict is Verdict.OK
    assert userspace_esp(swan("nonce")) is False
    assert userspace_esp(Unknown("no answer")) == Unknown("no answer")


def test_connections() -> None:
    tunnels = {"ttp": section()}
    assert connections(swan(has=("ttp",)), tunnels).verdict is Verdict.OK
    finding = connections(swan(has=("office",)), tunnels)
    assert finding.verdict is Verdict.WARN
    assert finding.what == "0 of 1 tunnels loaded; not ours: office; not loaded: ttp"


def test_settings_as_the_distribution_has_them(tmp_path: Path) -> None:
    (tmp_path / "strongswan.d" / "charon").mkdir(parents=True)
    path = tmp_path / "strongswan.conf"
    path.write_text(STOCK)
    (tmp_path / "strongswan.d" / "charon-systemd.conf").write_text(CHARON_SYSTEMD)
    (tmp_path / "strongswan.d" / "charon" / "vici.conf").write_text(
        'vici {\n    load = yes\n    socket = "unix:///run/charon.vici" # there\n}\n'
    )
    text = probes.strongswan_settings(path)
    assert isinstance(text, str)
    settings = read_settings(text)
    assert settings["charon.load_modular"] == "yes"
    assert settings["charon.plugins.vici.socket"] == "unix:///run/charon.vici"
    assert retransmission(settings) == Retransmission()
    # One that includes itself ends all the same.
    (tmp_path / "strongswan.d" / "again.conf").write_text("include ../strongswan.conf\nx = 1\n")
    text = probes.strongswan_settings(path)
    assert isinstance(text, str)
    assert read_settings(text)["x"] == "1"
    assert isinstance(probes.strongswan_settings(tmp_path / "none.conf"), Unknown)


def test_settings_on_one_line() -> None:
    text = "charon { retransmit_tries = 3 }\ncharon-systemd {retransmit_base=1.5\n a { b = c } }\nd=e # f\n"
    settings = read_settings(text)
    assert settings == {
        "charon.retransmit_tries": "3",
        "charon-systemd.retransmit_base": "1.5",
        "charon-systemd.a.b": "c",
        "d": "e",
    }
    # What charon-systemd does not say for itself it takes from charon.
    assert retransmission(settings) == Retransmission(3, 4.0, 1.5)


@pytest.mark.parametrize(
    "text",
    [
        f"charon {{ retransmit_tries = {10**9} }}",
        f"charon {{ retransmit_tries = {10**9}\nretransmit_base = 1 }}",
        f"charon {{ retransmit_tries = {10**400}\nretransmit_base = 1 }}",
        "charon { retransmit_timeout = nan }",
    ],
)
def test_a_peer_that_is_as_good_as_never_given_up_is_not_noticed_in_time(text: str) -> None:
    (finding,) = dead_peer(text, "/etc/strongswan.conf", {"ttp": section()})
    assert finding.verdict is Verdict.WARN


def test_dead_peers() -> None:
    quick = "charon-systemd { retransmit_tries = 2\nretransmit_timeout = 1.0\nretransmit_base = 1.5 }"
    tunnels = {"ttp": section(dpd_delay_s=2, dead_peer_s=7)}
    (finding,) = dead_peer(quick, "/etc/strongswan.conf", tunnels)
    assert finding.verdict is Verdict.OK
    (finding,) = dead_peer(quick, "/etc/strongswan.conf", {"ttp": section(dpd_delay_s=2, dead_peer_s=6)})
    assert finding.verdict is Verdict.WARN
    (finding,) = dead_peer(STOCK, "/etc/strongswan.conf", tunnels)
    assert "after 167 s" in finding.what
    for text in (Unknown("Permission denied"), "charon { retransmit_tries = many }"):
        (finding,) = dead_peer(text, "/etc/strongswan.conf", tunnels)
        assert finding.verdict is Verdict.UNKNOWN
    # With IKEv1 strongSwan is told.
    assert dead_peer(STOCK, "x", {"ttp": section(ike_version=1, legacy=True)}) == []
