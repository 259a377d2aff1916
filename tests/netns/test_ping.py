"""flowtap ping: through a tunnel that is up, from an address that may, and otherwise not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from local_socket import TUNNEL, answering
from net import AS_NOBODY, Net, counters

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces"),
]
LOCAL, REMOTE = "100.100.100.101", "2.2.2.2"
LOCAL6, REMOTE6 = "2001:db8:100::101", "2001:db8:2::2"
UP = {
    **TUNNEL,
    "name": "ttp",
    "local_networks": [f"{LOCAL}/32", f"{LOCAL6}/128"],
    "remote_networks": ["2.2.2.0/27", "2001:db8:2::/64"],
}


class Scene:
    def __init__(self, net: Net, operator: str, socket: Path, views: dict[str, Any]) -> None:
        self.net, self.operator, self.socket, self.views = net, operator, socket, views

    def ping(
        self, *words: str, as_nobody: bool = False, places: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Pings from the operator's namespace, three times unless words say otherwise."""
        program = ["-c", AS_NOBODY] if as_nobody else ["-m", "flowtap"]
        words = ("--socket", str(self.socket), "--count", "3", "--interval-s", "0.1", *words)
        return subprocess.run(
            [
                shutil.which("ip") or "",
                "netns",
                "exec",
                self.operator,
                sys.executable,
                *program,
                "ping",
                *words,
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=40,
            env=None if places is None else {**os.environ, "PATH": places},
        )

    def let_everybody_in(self) -> None:
        """The test's own directories are private."""
        for directory in self.socket.parents:
            if directory == Path(tempfile.gettempdir()):
                return
            directory.chmod(0o755)

    def group_range(self, text: str) -> None:
        self.net.run(self.operator, "sysctl", "-qw", f"net.ipv4.ping_group_range={text}")

    def state(self, **changes: Any) -> None:
        self.views["security-associations"] = {"tunnels": [{**UP, **changes}]}

    def echoes(self) -> int:
        """Echo requests that have left the operator's host."""
        return counters(self.operator, "IcmpMsg").get("OutType8", 0)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A pair of hosts; the wire stands for the tunnel, of which the tap's socket says that it is up."""
    views = {"security-associations": {"tunnels": [UP]}}
    with Net() as net, answering(tmp_path / "s", views) as socket:
        operator, device = net.namespace("op"), net.namespace("md")
        net.veth((operator, "op0", "198.51.100.2/30"), (device, "md0", "198.51.100.1/30"))
        for inside, interface, near, near6, gateway, gateway6, far, far6 in (
            (operator, "op0", LOCAL, LOCAL6, "198.51.100.1", "fd00::1", "2.2.2.0/27", "2001:db8:2::/64"),
            (device, "md0", REMOTE, REMOTE6, "198.51.100.2", "fd00::2", LOCAL, LOCAL6),
        ):
            net.run(inside, "sysctl", "-qw", f"net.ipv6.conf.{interface}.accept_dad=0")
            for name in ("all", "lo", interface):
                net.run(inside, "sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=0")
            own6 = "fd00::2/64" if inside == operator else "fd00::1/64"
            net.run(inside, "ip", "-6", "addr", "add", own6, "dev", interface, "nodad")
            net.run(inside, "ip", "addr", "add", f"{near}/32", "dev", "lo")
            net.run(inside, "ip", "-6", "addr", "add", f"{near6}/128", "dev", "lo", "nodad")
            net.run(inside, "ip", "route", "add", far, "via", gateway)
            net.run(inside, "ip", "-6", "route", "add", far6, "via", gateway6)
        yield Scene(net, operator, socket, views)


@pytest.mark.parametrize("group_range", ["0 0", "1 0"], ids=["echo socket", "raw socket"])
def test_both_families(scene: Scene, group_range: str) -> None:
    scene.group_range(group_range)
    done = scene.ping(REMOTE)
    assert done.returncode == 0, done.stderr
    first, *_, counted, times = done.stdout.splitlines()
    assert first == f"PING {REMOTE} from {LOCAL} through ttp: 56 data bytes"
    assert f"64 bytes from {REMOTE}: icmp_seq=2 ttl=64 time=" in done.stdout
    assert counted == "3 packets transmitted, 3 packets received, 0% packet loss"
    assert times.startswith("round-trip min/avg/max/stddev = ")
    value = json.loads(scene.ping(REMOTE6, "--json").stdout)
    assert (value["source"], value["sent"], value["received"], value["errors"]) == (LOCAL6, 3, 3, [])
    assert [each["ttl"] for each in value["replies"]] == [64, 64, 64]
    assert 0 < value["minimum_ms"] <= value["average_ms"] <= value["maximum_ms"] < 1_000


def test_who_has_no_right_to_a_socket_lets_the_system_ping(scene: Scene) -> None:
    scene.let_everybody_in()
    scene.group_range("1 0")
    for to in (REMOTE, REMOTE6):
        done = scene.ping(to, as_nobody=True)
        assert done.returncode == 0, (done.stdout, done.stderr)
        assert "3 packets received" in done.stdout


def test_neither_socket_nor_ping(scene: Scene) -> None:
    scene.let_everybody_in()
    scene.group_range("1 0")
    done = scene.ping(REMOTE, as_nobody=True, places="/nowhere")
    assert done.returncode == 4
    assert "the right CAP_NET_RAW" in done.stderr


@pytest.mark.parametrize("state", ["down", "connecting", "blocked"])
def test_nothing_is_tried_while_the_tunnel_is_not_up(scene: Scene, state: str) -> None:
    scene.state(state=state, reason="nobody answers", guard_faults=["chain out: is missing"])
    before = scene.echoes()
    done = scene.ping(REMOTE)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"tunnel ttp is {state}: nobody answers; guard: chain out: is missing" in done.stderr
    assert scene.echoes() == before
    scene.state()
    assert scene.ping(REMOTE, "--count", "1").returncode == 0
    assert scene.echoes() > before


def test_the_tap_is_asked_before_each_echo(scene: Scene) -> None:
    process = scene.net.start(
        scene.operator,
        *(sys.executable, "-m", "flowtap", "ping", REMOTE, "--socket", str(scene.socket)),
        *("--count", "200", "--interval-s", "0.1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    while "icmp_seq=1" not in (line := process.stdout.readline()):
        assert line
    scene.state(state="down", reason="its peer is dead")
    out, err = process.communicate(timeout=20)
    # Replies came, so that it has not failed.
    assert process.returncode == 0
    assert "tunnel ttp is down: its peer is dead" in err
    assert "icmp_seq=150" not in out
    assert "packets transmitted" in out


def test_no_reply(scene: Scene) -> None:
    done = scene.ping("2.2.2.3", "--timeout-s", "0.3")
    assert done.returncode == 1
    assert "100% packet loss" in done.stdout
    assert "no reply through ttp" in done.stderr
    # What the guard does with what would leave in clear.
    scene.net.run(
        scene.operator,
        *("nft", "add table inet g; add chain inet g o { type filter hook output priority 0; };"),
        "add rule inet g o ip daddr 2.2.2.0/27 drop",
    )
    done = scene.ping(REMOTE)
    assert done.returncode == 1
    assert "ping: icmp_seq=0: Operation not permitted" in done.stdout


def test_words_that_are_wrong(scene: Scene) -> None:
    for words, status, said in (
        (
            ["192.0.2.1"],
            1,
            "does not lie behind any tunnel; there are 2.2.2.0/27, 2001:db8:2::/64 behind ttp",
        ),
        (["192.0.2.1", "--tunnel", "ttp"], 1, "does not lie behind tunnel ttp"),
        ([REMOTE, "--tunnel", "other"], 1, "the tap has none of that name; it has ttp"),
        ([REMOTE, "--source", "198.51.100.2"], 1, "--source 198.51.100.2: an address in"),
        ([REMOTE, "--source", LOCAL6], 1, f"--source {LOCAL6}: an address in"),
        (["2.2.2.2.2"], 2, "an IPv4 or IPv6 address is right"),
        ([REMOTE, "--source", "x"], 2, "--source: 'x'"),
        ([REMOTE, "--socket", "/nowhere"], 1, "is the tap running?"),
    ):
        done = scene.ping(*words)
        assert (done.returncode, done.stdout) == (status, ""), words
        assert said in done.stderr
    scene.state(local_networks=["100.100.100.111/32"])
    assert "no address of this host lies in 100.100.100.111/32" in scene.ping(REMOTE).stderr
    done = scene.ping(REMOTE, "--source", "100.100.100.111")
    assert done.returncode == 1
    assert "the source address 100.100.100.111: Cannot assign" in done.stderr
