"""The tap on a router: tasked over SSH, every flow copied once, however it goes, and its own traffic never."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tasking
from daemon import write_configuration
from net import PYTHON, Net, show, udp_packet, until

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces"),
]

SUBJECT, NEIGHBOUR, SERVER, DEVICE = "10.1.0.2", "10.4.0.2", "10.2.0.2", "10.3.0.2"
FOREIGN = "198.51.100.1"
PORT = 30_000


@dataclass
class Router:
    net: Net
    directory: Path
    inside: dict[str, str]
    process: subprocess.Popen[str]
    mediation: subprocess.Popen[str]

    def dtcp(self, text: str) -> None:
        """Tasks as the mediation device does, with OpenSSH's keys and the program's client."""
        criteria = self.directory / "criteria"
        criteria.write_text(text)
        self.net.run(
            self.inside["device"],
            *(PYTHON, "-m", "flowtap", "dtcp", "--ssh", "10.3.0.1:32001", "--user", "md"),
            *("--identity", str(self.directory / "id"), "--known-hosts", str(self.directory / "known_hosts")),
            *("add", str(criteria)),
        )

    def stats(self) -> dict[str, Any]:
        return show(self.directory, "stats")

    def arrived(self) -> dict[str, Any]:
        """Ends the mediation device; what it has received."""
        until("copies are sent", lambda: not self.stats()["in_queue"])
        time.sleep(0.3)
        self.mediation.send_signal(signal.SIGINT)
        output, _ = self.mediation.communicate(timeout=20)
        value: dict[str, Any] = json.loads(output)
        return value


def add(*lines: str, source: str = FOREIGN, port: int = PORT, cdest: str = "md1") -> str:
    return tasking.add(*lines, to=(DEVICE, port), source=source, cdest=cdest)


def make(net: Net, directory: Path, element: str) -> Router:
    """Subject and neighbour behind one interface of the router, the server and the device behind others."""
    names = ("router", "switch", "subject", "neighbour", "server", "device")
    inside = {name: net.namespace(name[:3]) for name in names}
    net.run(inside["switch"], "ip", "link", "add", "br0", "type", "bridge")
    net.run(inside["switch"], "ip", "link", "set", "br0", "up")
    for port, (host, address) in enumerate(
        (("router", "10.1.0.1/24"), ("subject", f"{SUBJECT}/24"), ("neighbour", f"{NEIGHBOUR}/24"))
    ):
        net.veth((inside[host], "eth0", address), (inside["switch"], f"port{port}", ""))
        net.run(inside["switch"], "ip", "link", "set", f"port{port}", "master", "br0")
    router = inside["router"]
    net.run(router, "ip", "addr", "add", "10.4.0.1/24", "dev", "eth0")
    net.veth((router, "eth1", "10.2.0.1/24"), (inside["server"], "eth0", f"{SERVER}/24"))
    net.veth((router, "eth2", "10.3.0.1/24"), (inside["device"], "eth0", f"{DEVICE}/24"))
    net.run(router, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.eth0.send_redirects=0")
    net.run(router, "sysctl", "-qw", "net.ipv4.conf.all.send_redirects=0")
    for host, gateway in (
        *(("subject", "10.1.0.1"), ("neighbour", "10.4.0.1")),
        *(("server", "10.2.0.1"), ("device", "10.3.0.1")),
    ):
        net.run(inside[host], "ip", "route", "add", "default", "via", gateway)
    write_configuration(directory, "")
    path = directory / "flowtap.toml"
    text = path.read_text().replace("[element.replay]\n", f"[element]\n{element}\n")
    path.write_text(text.replace("127.0.0.1:0", "10.3.0.1:32001"))
    (directory / "known_hosts").write_text(f"[10.3.0.1]:32001 {(directory / 'host_key.pub').read_text()}")
    log = (directory / "log").open("w")
    process = net.start(router, PYTHON, "-m", "flowtap", "run", "--config", str(path), stderr=log)
    log.close()

    def is_ready() -> bool:
        assert process.poll() is None, (directory / "log").read_text()
        return "DTCP over SSH on" in (directory / "log").read_text()

    until("the daemon listens", is_ready, 20)
    words = ("mediate", "--listen", f"{DEVICE}:{PORT}", "--listen", f"{DEVICE}:{PORT + 1}")
    mediation = net.start(
        inside["device"],
        *(sys.executable, "-m", "flowtap", *words, "--write-dir", str(directory / "received"), "--json"),
        stdout=subprocess.PIPE,
    )
    time.sleep(1)
    return Router(net, directory, inside, process, mediation)


@pytest.fixture
def net() -> Iterator[Net]:
    with Net() as made:
        yield made


def test_every_flow_is_copied_once(net: Net, tmp_path: Path) -> None:
    """Through the router, in and out of one interface, and inside labels, tags and sessions."""
    router = make(net, tmp_path, 'interfaces = ["eth0", "eth1"]\nworkers = 2')
    router.dtcp(add(f"Source-Address: {SUBJECT}", "Protocol: 17", "Dest-Port: 9000"))
    subject = router.inside["subject"]
    net.send_udp(subject, SERVER, 200)
    net.send_udp(subject, NEIGHBOUR, 200)
    hardware = net.address(router.inside["router"], "eth0") + net.address(subject, "eth0")
    packet = udp_packet(SUBJECT, SERVER, b"\x00\x00\x10\x00")
    session = b"\x11\x00\x00\x07" + (len(packet) + 2).to_bytes(2, "big") + b"\x00\x21"
    around = {
        "MPLS": b"\x88\x47" + bytes.fromhex("0001004000020140"),
        "QinQ": bytes.fromhex("88a8000981000007") + b"\x08\x00",
        "PPPoE": b"\x88\x64" + session,
        "PPPoE in a VLAN": bytes.fromhex("81000007") + b"\x88\x64" + session,
    }
    net.send_frames(subject, "eth0", [hardware + each + packet for each in around.values()])
    until("all are counted", lambda: router.stats()["matched"] >= 404)
    stats = router.stats()
    assert stats["content_destinations"][0]["last_error"] is None
    assert (stats["matched"], stats["copied"], stats["exported"]) == (404, 404, 404)
    assert [each["dropped"] for each in stats["captures"]] == [0, 0]
    (stream,) = router.arrived()["streams"]
    assert (stream["source"], stream["source_port"]) == (FOREIGN, 50_000)
    assert stream["packets"] == 404
    (file,) = (tmp_path / "received").glob(f"*_{PORT}.pcapng")
    assert sorted(tasking.numbers(file)) == sorted([*range(200), *range(200), *[4096] * 4])
    # The process that the network reaches captures and sends without any right.
    status = Path(f"/proc/{_daemon(router.process.pid)}/status").read_text()
    assert "CapEff:\t0000000000000000" in status
    assert all("eBPF" in each for each in show(tmp_path, "status")["interfaces"])


def _daemon(process_id: int) -> int:
    """`ip netns exec` becomes the program that it starts."""
    assert b"flowtap" in Path(f"/proc/{process_id}/cmdline").read_bytes()
    return process_id


def test_what_goes_out_is_tapped_where_that_is_asked_for(net: Net, tmp_path: Path) -> None:
    router = make(net, tmp_path, 'interfaces = ["eth0", "eth1"]')
    router.dtcp(
        add("X-JTap-Output-Interface: eth1", f"Source-Address: {SUBJECT}")
        + add(f"Source-Address: {SUBJECT}", "X-JTap-Input-Interface: eth0.0", port=PORT + 1, cdest="md2")
    )
    subject = router.inside["subject"]
    net.send_udp(subject, SERVER, 30)
    net.send_udp(subject, NEIGHBOUR, 20)
    until("all are counted", lambda: router.stats()["matched"] >= 80)
    packets = {each["id"]: each["packets"] for each in router.stats()["criteria"]}
    assert packets == {1: 30, 2: 50}
    streams = {each["destination_port"]: each["packets"] for each in router.arrived()["streams"]}
    assert streams == {PORT: 30, PORT + 1: 50}


def test_the_tap_does_not_tap_itself(net: Net, tmp_path: Path) -> None:
    """Everything is wanted, on the interface too over which copies and tasking go, from an address of the router."""
    router = make(net, tmp_path, 'interfaces = ["eth0", "eth1", "eth2"]\ndirection = "both"')
    router.dtcp(add("Source-Address: *", source="10.3.0.1"))
    net.send_udp(router.inside["subject"], SERVER, 50)
    time.sleep(1)
    stats = router.stats()
    # Each of them enters and leaves; the server answers that nobody listens, and neighbours ask for each other.
    assert 100 <= stats["copied"] < 400
    assert stats["own"] >= stats["exported"] - 10
    assert stats["exported"] == stats["copied"]
    before = stats["copied"]
    time.sleep(1)
    assert router.stats()["copied"] <= before + 5
