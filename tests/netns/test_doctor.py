"""flowtap doctor: on a host where all is well it finds nothing; each thing that is broken is found."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from local_socket import CHILD, IKE, TUNNEL, answering
from net import AS_NOBODY, Net, until
from sections import HOW_TO

from flowtap.config import load
from flowtap.service.logins import hash_password

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces"),
]
CHARON = """
charon-systemd {
  load = random nonce drbg openssl hmac kdf pem pkcs1 pkcs8 x509 pubkey constraints %s socket-default vici
  retransmit_tries = 2
  retransmit_timeout = 1.0
  retransmit_base = 1.5
  journal { default = -1 }
  plugins { vici { socket = unix://%s } }
}
"""
CONFIGURATION = """
[element]
interfaces = ["op0"]
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
[dtcp.ssh]
host_key_file = "host_key"
[dtcp.udp]
listen = ["0.0.0.0"]
"""
STATUS = {
    "name": "flowtap",
    "ssh": ["0.0.0.0:32001"],
    "udp": ["0.0.0.0:1814"],
    "error": None,
    "broker_rights": ["CAP_BPF", "CAP_NET_ADMIN", "CAP_NET_RAW"],
    "exclusion": "proven",
}
MODERN = {
    **TUNNEL,
    "name": "ttp",
    "interface": "ipsec0",
    "mtu_octets": 1400,
    "ike": [{**IKE, "version": 2, "encryption": "AES_GCM_16", "integrity": None, "prf": "PRF_HMAC_SHA2_384"}],
    "ipsec": [{**CHILD, "encryption": "AES_GCM_16", "integrity": None}],
}
MODERN["ike"][0]["dh_group"] = "ECP_384"  # type: ignore[index]
Findings = list[dict[str, str]]


class Host:
    """An operator's host with strongSwan, in a namespace; the tap's socket says what a test wants."""

    def __init__(self, net: Net, directory: Path, views: dict[str, Any]) -> None:
        self.net, self.directory, self.views = net, directory, views
        self.inside = net.namespace("op")
        far = net.namespace("far")
        net.veth((self.inside, "op0", "198.51.100.2/30"), (far, "net0", "198.51.100.1/30"))
        for words in (
            "addr add 100.100.100.100/32 dev lo",
            "addr add 100.100.100.101/32 dev lo",
            "route add default via 198.51.100.1",
        ):
            self.ip(words)
        self.charon: subprocess.Popen[str] | None = None

    def ip(self, words: str) -> None:
        self.net.run(self.inside, "ip", *words.split())

    def start_charon(self, kernel: str = "kernel-libipsec kernel-netlink") -> None:
        settings = self.directory / "strongswan.conf"
        settings.write_text(CHARON % (kernel, self.directory / "vici"))
        environment = {**os.environ, "STRONGSWAN_CONF": str(settings)}
        self.charon = self.net.start(self.inside, shutil.which("charon-systemd") or "", env=environment)
        until("charon listens", (self.directory / "vici").is_socket, 20)

    def stop_charon(self) -> None:
        assert self.charon is not None
        self.charon.terminate()
        self.charon.wait(timeout=10)
        (self.directory / "vici").unlink(missing_ok=True)

    def install_guard(self) -> None:
        """Puts the guard's rules there, where this version has one."""
        try:
            guard = importlib.import_module("flowtap.delivery.guard")
        except ImportError:
            return
        plan = guard.GuardPlan.of(load(self.directory / "flowtap.toml").values)
        self.net.run(self.inside, "nft", "-f", "-", data=guard.ruleset(plan))
        for network in guard.rules(plan):
            self.ip(f"rule add pref {guard.PREFERENCE} to {network} unreachable")

    def change(self, before: str, after: str) -> None:
        path = self.directory / "flowtap.toml"
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))

    def tunnel(self, **changes: Any) -> None:
        self.views["security-associations"] = {"tunnels": [{**MODERN, **changes}]}

    def doctor(self, *words: str) -> subprocess.CompletedProcess[str]:
        settings = str(self.directory / "strongswan.conf")
        return subprocess.run(
            [
                *("ip", "netns", "exec", self.inside, sys.executable, "-m", "flowtap", "doctor"),
                *("--config", str(self.directory / "flowtap.toml"), "--strongswan-conf", settings, *words),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=50,
        )

    def findings(self) -> Findings:
        done = self.doctor("--json")
        assert "Traceback" not in done.stderr, done.stderr
        value = json.loads(done.stdout)
        found: Findings = value["findings"]
        assert done.returncode == (1 if value["counts"]["fail"] else 0)
        return found


@pytest.fixture
def host() -> Iterator[Host]:
    # A short path: that of a socket may have 107 octets.
    with tempfile.TemporaryDirectory(prefix="ftd") as place:
        directory = Path(place)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / "host_key")], check=True
        )
        (directory / "flowtap.toml").write_text(
            CONFIGURATION + HOW_TO + 'interface = "ipsec0"\nvici_socket = "vici"\n'
        )
        (directory / "hash").write_text(hash_password("right"))
        (directory / "psk").write_text("a secret")
        for name in ("hash", "psk"):
            (directory / name).chmod(0o600)
        views = {"status": dict(STATUS), "security-associations": {"tunnels": [MODERN]}}
        with Net() as net, answering(directory / "flowtap.sock", views):
            made = Host(net, directory, views)
            made.start_charon()
            made.install_guard()
            yield made


def of(findings: Findings, verdict: str) -> dict[str, str]:
    """What was found with a verdict, by check; of several the last one."""
    return {each["check"]: each["what"] for each in findings if each["verdict"] == verdict}


def test_all_is_well(host: Host) -> None:
    findings = host.findings()
    assert of(findings, "fail") == {}
    # What this kernel lacks, what a virtual machine's clock is like, and what is so everywhere.
    assert of(findings, "warn").keys() <= {"clock", "kernel ESP", "strongSwan connections", "copy length"}
    assert "1372 octets are sent in fragments (MTU 1400)" in of(findings, "warn")["copy length"]
    assert of(findings, "unknown").keys() <= {"guard"}
    well = of(findings, "ok")
    for check, what in (
        ("strongSwan", "charon-systemd 5."),
        ("dead peer", "noticed after 7 s"),
        ("route", "path MTU 1500"),
        ("tunnel interface", "ipsec0 is up, MTU 1400"),
        ("negotiated", "all networks are covered, AES_GCM_16"),
        ("local networks", "100.100.100.101 is this host's"),
        ("port", "UDP 4500 is strongSwan's"),
    ):
        assert what in well[check]
    done = host.doctor()
    assert done.returncode == 0
    assert done.stdout.startswith("ok       configuration")
    *_, counted, let_in = done.stdout.splitlines()
    assert " 0 fail, " in counted
    assert let_in.endswith(" must let in: TCP 32001, UDP 1814, UDP 500, UDP 4500, ESP")


def _interface_down(host: Host) -> None:
    host.ip("link set op0 down")


def _interface_gone(host: Host) -> None:
    host.change('interfaces = ["op0"]', 'interfaces = ["op0", "op1"]')


def _readable(host: Host) -> None:
    (host.directory / "psk").chmod(0o644)


def _folder(host: Host) -> None:
    host.directory.chmod(0o777)


def _foreign_secret(host: Host) -> None:
    os.chown(host.directory, 65_534, 65_534)


def _refused(host: Host) -> None:
    host.change("port = 30000", 'port = 30000\noversize = "refuse"')


def _tapped_tunnel(host: Host) -> None:
    host.change('interfaces = ["op0"]', 'interfaces = ["op0", "ipsec0"]')


def _no_right(host: Host) -> None:
    host.views["status"]["broker_rights"] = ["CAP_NET_RAW"]


def _not_excluded(host: Host) -> None:
    host.views["status"]["exclusion"] = "ESP between the gateways was matched"


def _no_esp(host: Host) -> None:
    host.stop_charon()
    host.start_charon("kernel-netlink")


BROKEN: dict[str, tuple[Callable[[Host], None], str, str]] = {
    "interface down": (_interface_down, "interface", "op0: is down"),
    "interface gone": (_interface_gone, "interface", "op1: there is none"),
    "no charon": (Host.stop_charon, "strongSwan", "No such file"),
    "readable secret": (_readable, "secret", "psk: others can read it (0644)"),
    "open folder": (_folder, "folder", "others can put files there"),
    "foreign secret": (_foreign_secret, "owner", "belongs to uid 65534, but not"),
    "no gateway address": (
        lambda host: host.ip("addr del 100.100.100.100/32 dev lo"),
        "local gateway",
        "100.100.100.100 is no address of this host",
    ),
    "no local address": (
        lambda host: host.ip("addr del 100.100.100.101/32 dev lo"),
        "local networks",
        "no address of this host lies in 100.100.100.101/32",
    ),
    "no route": (
        lambda host: host.ip("route del default"),
        "route",
        "123.123.123.123 cannot be reached: Network is unreachable",
    ),
    "refused copies": (_refused, "copy length", "longer than 1372 octets are refused"),
    "tapped tunnel": (_tapped_tunnel, "tunnel interface", "ipsec0 is tapped"),
    "no right": (_no_right, "rights", "the running tap's broker has no CAP_NET_ADMIN"),
    "not excluded": (_not_excluded, "own traffic", "was matched"),
    "no ESP": (_no_esp, "kernel ESP", "no ESP for IPv4"),
    "tunnel down": (
        lambda host: host.tunnel(state="down", reason="nobody answers"),
        "tunnel",
        "nobody answers",
    ),
    "guard": (
        lambda host: host.tunnel(guard_faults=["chain out: is missing"]),
        "guard",
        "chain out: is missing",
    ),
    "narrowed": (
        lambda host: host.tunnel(
            ipsec=[{**CHILD, "encryption": "AES_GCM_16", "integrity": None, "remote": ["2.2.2.0/28"]}]
        ),
        "negotiated",
        "remote_networks: 2.2.2.0/27 is not covered",
    ),
    "weak": (lambda host: host.tunnel(ipsec=[CHILD]), "negotiated", "HMAC_SHA1_96 is no longer recommended"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_thing_that_is_broken_is_found(name: str, host: Host) -> None:
    breaks, check, what = BROKEN[name]
    breaks(host)
    found = [(each["check"], each["what"]) for each in host.findings() if each["verdict"] == "fail"]
    assert any(each == check and what in said for each, said in found), found


def test_ports_that_are_taken(host: Host) -> None:
    listening = (
        "import socket, sys; s = socket.create_server(('', 32001)); print(flush=True); sys.stdin.read()"
    )
    taker = host.net.start(
        host.inside, sys.executable, "-c", listening, stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    assert taker.stdout is not None
    taker.stdout.readline()
    # The running tap's own.
    assert "port" not in of(host.findings(), "fail")
    host.views["status"]["ssh"] = []
    assert of(host.findings(), "fail")["port"].startswith("TCP 32001 is taken by python")
    host.stop_charon()
    findings = host.findings()
    assert of(findings, "warn")["port"] == "UDP 4500: nobody listens"


def test_a_firewall_that_drops(host: Host) -> None:
    host.net.run(
        host.inside,
        *("nft", "add table inet filter; add chain inet filter input"),
        "{ type filter hook input priority 0; policy drop; }; add rule inet filter input udp dport 500 accept",
    )
    findings = host.findings()
    shut = {each["what"]: each["advice"] for each in findings if each["check"] == "firewall"}
    assert [what.removeprefix("chain inet filter input drops ") for what in shut] == [
        *("TCP 32001", "UDP 1814", "nftables lets UDP 500 in", "UDP 4500", "ESP"),
    ]
    assert (
        shut["chain inet filter input drops ESP"]
        == "nft insert rule inet filter input meta l4proto esp accept"
    )
    for what, advice in shut.items():
        if "drops" in what:
            host.net.run(host.inside, *advice.split())
    assert "firewall" not in of(host.findings(), "warn")


def test_without_a_tap(host: Host) -> None:
    host.change("[tunnel.ttp]", '[show]\nsocket = "none.sock"\n[tunnel.ttp]')
    findings = host.findings()
    assert "is the tap running?" in of(findings, "warn")["tap"]
    # Never well, of what nobody has looked at.
    assert {"tunnel", "negotiated", "own traffic"} <= of(findings, "unknown").keys()
    assert not {"tunnel", "negotiated", "own traffic"} & of(findings, "ok").keys()


def test_a_configuration_that_does_not_load(host: Host) -> None:
    host.change("port = 30000", "port = 0")
    (first, *others) = host.findings()
    assert (first["check"], first["verdict"]) == ("configuration", "fail")
    assert "content_destination.cd1.port" in first["what"]
    assert [each["check"] for each in others] == ["kernel", "clock"]


def test_settings_that_notice_a_dead_peer_late(host: Host) -> None:
    path = host.directory / "strongswan.conf"
    (host.directory / "more").mkdir()
    (host.directory / "more" / "a.conf").write_text("charon-systemd { retransmit_tries = 5 }\n")
    path.write_text(path.read_text() + "include more/*.conf\n")
    assert "noticed after 23 s; dead_peer_s is 15" in of(host.findings(), "warn")["dead peer"]
    path.unlink()
    assert "No such file" in of(host.findings(), "unknown")["dead peer"]


def test_somebody_without_rights(host: Host) -> None:
    """He may see little, and is told so instead of that all is well."""
    host.directory.chmod(0o755)
    settings = str(host.directory / "strongswan.conf")
    done = subprocess.run(
        [
            *("ip", "netns", "exec", host.inside, sys.executable, "-c", AS_NOBODY, "doctor", "--json"),
            *("--config", str(host.directory / "flowtap.toml"), "--strongswan-conf", settings),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert "Traceback" not in done.stderr
    findings = json.loads(done.stdout)["findings"]
    assert "firewall" in of(findings, "unknown")
    assert "nftables" in of(findings, "unknown")
    assert of(findings, "unknown")["port"] == "UDP 4500 is taken; by whom, only root may see"
    assert "may not be opened" in of(findings, "fail")["strongSwan"]
