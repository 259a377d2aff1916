"""The servers of the recorded network: names, web, SSH, telephone, iperf3, netcat."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from captures.processes import Processes, RecordingError, run
from captures.topology import (
    EDGE,
    RELAYED_SUBJECT_NUMBER,
    SERVERS,
    Topology,
    server_ipv4,
    server_ipv6,
    subject,
)

RELAY = Path(__file__).with_name("relay.py")

ECHO_PORT = 7
IPERF_PORT = 5201
SIP_PORT = 5060
AUDIO_PORT = 6000
SSHD = "/usr/sbin/sshd"
USRSCTP = Path("/usr/lib/usrsctp")

# A fixed time for the Last-Modified header: 2024-01-01 00:00:00 UTC.
CONTENT_TIME_S = 1_704_067_200

LARGE_TEXT_RECORDS = 12


@dataclass(frozen=True)
class Scene:
    """What a conversation needs: the network, the running programs, a working directory."""

    topology: Topology
    processes: Processes
    directory: Path


def filler(name: str, octets: int) -> bytes:
    """Octets without meaning, the same ones each time, and hard to compress like real media."""
    return hashlib.shake_128(name.encode()).digest(octets)


def start_all(scene: Scene) -> None:
    """Starts every server and waits until each one answers."""
    start_relay(scene)
    start_name_server(scene)
    start_web_server(scene)
    start_ssh_server(scene)
    start_telephone(scene)
    start_echo(scene)
    start_iperf(scene)
    wait_for_listeners(scene, tcp=(53, 80, 22, IPERF_PORT), udp=(53, SIP_PORT, ECHO_PORT))


def start_relay(scene: Scene) -> None:
    """Connects the subject whose fragments change their order on the way."""
    number = RELAYED_SUBJECT_NUMBER
    process = scene.processes.start(
        "relay",
        *(sys.executable, RELAY, "tap"),
        *(scene.topology.namespace_path(subject(number)), "eth0"),
        *(scene.topology.namespace_path(EDGE), f"line{number}"),
    )
    scene.processes.wait_for_text(process, "relaying")


def start_name_server(scene: Scene) -> None:
    """Dnsmasq with a small zone of documentation names."""
    text = "this text record makes the answer longer than one datagram on the wire; number "
    lines = [
        *("no-resolv", "no-hosts", "bind-interfaces", "user=root", "pid-file=", "log-facility=-"),
        f"listen-address={server_ipv4('dns')},{server_ipv6('dns')}",
        *("edns-packet-max=4096", "local=/example.net/", "local-ttl=300", "auth-ttl=300"),
        f"host-record=www.example.net,{server_ipv4('http')},{server_ipv6('http')}",
        f"host-record=ssh.example.net,{server_ipv4('ssh')},{server_ipv6('ssh')}",
        f"host-record=sip.example.net,{server_ipv4('sip')},{server_ipv6('sip')}",
        "host-record=mail.example.net,198.51.100.25",
        "cname=web.example.net,www.example.net",
        "mx-host=example.net,mail.example.net,10",
        "srv-host=_sip._udp.example.net,sip.example.net,5060,0,10",
        'txt-record=example.net,"v=spf1 mx -all"',
        *(
            f'txt-record=large.example.net,"{text}{index:02d}","{"0123456789" * 16}"'
            for index in range(LARGE_TEXT_RECORDS)
        ),
    ]
    configuration = scene.directory / "dnsmasq.conf"
    configuration.write_text("\n".join(lines) + "\n")
    command = ("dnsmasq", "--keep-in-foreground", f"--conf-file={configuration}")
    scene.processes.start("dnsmasq", *scene.topology.inside(SERVERS, *command))


def start_web_server(scene: Scene) -> None:
    """Lighttpd with a few documents."""
    root = scene.directory / "www"
    root.mkdir()
    paragraph = "<p>An example page with nothing but neutral words in it.</p>\n"
    documents = {
        "index.html": f"<!doctype html>\n<title>Example</title>\n{paragraph * 12}".encode(),
        "style.css": b"body { font-family: serif; margin: 2em }\n" * 20,
        "article.html": f"<!doctype html>\n<title>Article</title>\n{paragraph * 120}".encode(),
        "picture.bin": filler("picture", 24_000),
    }
    for name, content in documents.items():
        document = root / name
        document.write_bytes(content)
        os.utime(document, (CONTENT_TIME_S, CONTENT_TIME_S))
    lines = [
        f'server.document-root = "{root}"',
        "server.port = 80",
        f'server.bind = "{server_ipv4("http")}"',
        f'$SERVER["socket"] == "[{server_ipv6("http")}]:80" {{ }}',
        'server.tag = "lighttpd"',
        'index-file.names = ( "index.html" )',
        'mimetype.assign = ( ".html" => "text/html", ".css" => "text/css",',
        '"" => "application/octet-stream" )',
    ]
    configuration = scene.directory / "lighttpd.conf"
    configuration.write_text("\n".join(lines) + "\n")
    scene.processes.start("lighttpd", *scene.topology.inside(SERVERS, "lighttpd", "-D", "-f", configuration))


def start_ssh_server(scene: Scene) -> None:
    """Sshd with keys that are thrown away afterwards; it serves files and nothing else."""
    for name in ("host_key", "user_key"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", scene.directory / name)
    (scene.directory / "report.bin").write_bytes(filler("report", 12_000))
    lines = [
        f"ListenAddress {server_ipv4('ssh')}",
        f"ListenAddress {server_ipv6('ssh')}",
        f"HostKey {scene.directory / 'host_key'}",
        f"AuthorizedKeysFile {scene.directory / 'user_key.pub'}",
        *("PidFile none", "StrictModes no", "UsePAM no", "PasswordAuthentication no", "UseDNS no"),
        *("PermitRootLogin prohibit-password", "AllowTcpForwarding no", "PrintMotd no"),
        "Subsystem sftp internal-sftp",
        "ForceCommand internal-sftp",
    ]
    configuration = scene.directory / "sshd.conf"
    configuration.write_text("\n".join(lines) + "\n")
    # sshd insists on a directory /run/sshd; it gets a /run that nobody else sees.
    words = f"mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec {SSHD} -D -e -f {configuration}"
    scene.processes.start("sshd", *scene.topology.inside(SERVERS, "sh", "-c", words))


def start_telephone(scene: Scene) -> None:
    """SIPp as the called party on both address families; it sends the audio back that it hears."""
    for name, address in (("ipv4", server_ipv4("sip")), ("ipv6", server_ipv6("sip"))):
        command = (
            *(
                "sipp",
                "-sn",
                "uas",
                "-i",
                address,
                "-p",
                SIP_PORT,
                "-mi",
                address,
                "-mp",
                AUDIO_PORT,
            ),
            *("-rtp_echo", "-nostdin", "-nd"),
        )
        words = [str(word) for word in command]
        scene.processes.start(f"sipp-{name}", *scene.topology.inside(SERVERS, *words))


def start_echo(scene: Scene) -> None:
    """A UDP port that takes everything; nothing comes back."""
    for address in (server_ipv4("echo"), server_ipv6("echo")):
        command = ("nc", "-n", "-k", "-l", "-u", address, str(ECHO_PORT))
        scene.processes.start("netcat", *scene.topology.inside(SERVERS, *command))


def start_iperf(scene: Scene) -> None:
    """iperf3, once for each family: bound to an address it answers from that one."""
    for address in (server_ipv4("echo"), server_ipv6("echo")):
        command = ("iperf3", "-s", "-B", address, "-p", str(IPERF_PORT))
        scene.processes.start("iperf3", *scene.topology.inside(SERVERS, *command))


def wait_for_listeners(
    scene: Scene, tcp: tuple[int, ...], udp: tuple[int, ...], timeout_s: float = 15.0
) -> None:
    """Waits until every port is open inside the namespace of the servers."""
    wanted = {f"tcp:{port}" for port in tcp} | {f"udp:{port}" for port in udp}
    deadline = time.monotonic() + timeout_s
    while True:
        open_ports = set()
        for line in scene.topology.execute(SERVERS, "ss", "-H", "-l", "-n", "-t", "-u").splitlines():
            kind, _, _, _, local, *_ = line.split()
            open_ports.add(f"{kind}:{local.rpartition(':')[2]}")
        if wanted <= open_ports:
            return
        if time.monotonic() > deadline:
            message = f"no server on {', '.join(sorted(wanted - open_ports))} after {timeout_s:g} s"
            raise RecordingError(message)
        time.sleep(0.1)
