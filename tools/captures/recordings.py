"""Each capture: where it is recorded, with what, and what happens meanwhile."""

from __future__ import annotations

import contextlib
import gzip
import re
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from captures.capture_files import without_machine
from captures.processes import RecordingError
from captures.services import RELAY, USRSCTP, Scene
from captures.topology import (
    CORE_IPV4,
    EDGE,
    SERVERS,
    server_ipv4,
    subject,
    subject_ipv4,
)

from captures import conversations as talk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# Late answers and the last frames on their way into the file.
SETTLE_S = 0.6
BUFFER_KIB = 32_768

VXLAN_IDENTIFIER = 5001
VXLAN_PORT = 4789
NEAR_TUNNEL_END = "203.0.113.1"


@dataclass(frozen=True)
class Recording:
    """One capture file that is recorded."""

    name: str
    happening: Callable[[Scene], None]
    content: str
    programs: tuple[str, ...]
    interfaces: tuple[str, ...] = ("access",)
    words: tuple[str, ...] = ()
    namespace: str = EDGE
    recorder: str = "tcpdump"
    surroundings: Callable[[Scene], contextlib.AbstractContextManager[None]] | None = None
    unless: Callable[[], str | None] = lambda: None


def plain(scene: Scene) -> None:
    """ARP, ICMP, TCP and UDP over IPv4."""
    scene.topology.forget_neighbours()
    talk.ping(scene, 10, 4, "-c", "4")
    talk.measure(scene, 10, 4, "-n", "20000", "-l", "2000")
    talk.measure(scene, 20, 4, "-u", "-n", "4000", "-l", "400", "-b", "2M")
    talk.refused(scene, 10, 4)
    talk.send_datagram(scene, 10, 4, "a datagram that somebody takes\n")
    talk.send_datagram(scene, 10, 4, "a datagram that nobody takes\n", port=9)
    talk.trace(scene, 20, 4)


def ipv6(scene: Scene) -> None:
    """Neighbour discovery, listener reports, TCP, UDP, extension headers."""
    scene.topology.forget_neighbours()
    talk.ping(scene, 10, 6, "-c", "4")
    # A new address makes its host report the group and ask whether the address is taken.
    scene.topology.execute(subject(20), "sysctl", "-q", "-w", "net.ipv6.conf.eth0.accept_dad=1")
    scene.topology.ip(subject(20), "address add 2001:db8:1::21/64 dev eth0")
    time.sleep(2.5)
    scene.topology.ip(subject(20), "address delete 2001:db8:1::21/64 dev eth0")
    talk.measure(scene, 10, 6, "-n", "20000", "-l", "2000")
    talk.measure(scene, 20, 6, "-u", "-n", "4000", "-l", "400", "-b", "2M")
    talk.refused(scene, 10, 6)
    talk.send_datagram(scene, 10, 6, "a datagram that somebody takes\n")
    talk.send_datagram(scene, 10, 6, "a datagram that nobody takes\n", port=9)
    talk.trace(scene, 20, 6)
    talk.send_options(scene, 10, 6)


def options(scene: Scene) -> None:
    """IPv4 options and IPv6 extension headers, whole and fragmented."""
    for version in (4, 6):
        talk.send_options(scene, 20, version)
    talk.ping(scene, 20, 4, "-c", "2", "-R")
    talk.ping(scene, 20, 4, "-c", "2", "-T", "tsonly")


def fragments(scene: Scene) -> None:
    """Large echo requests and datagrams, in order and out of order."""
    for version in (4, 6):
        talk.ping(scene, 10, version, "-c", "2", "-s", "4000")
        talk.ping(scene, 30, version, "-c", "4", "-s", "4000")
        talk.measure(scene, 30, version, "-u", "-n", "8000", "-l", "4000", "-b", "2M")
        talk.look_up(scene, 10, version, "+bufsize=4096 +ignore large.example.net TXT")


def dns(scene: Scene) -> None:
    """Questions over UDP and TCP, over both address families."""
    for version in (4, 6):
        talk.look_up(
            *(scene, 10, version, "www.example.net A", "www.example.net AAAA", "web.example.net A"),
            *(
                "example.net MX",
                "example.net TXT",
                "_sip._udp.example.net SRV",
                "nowhere.example.net A",
            ),
            *("-x 198.51.100.80", "-x 2001:db8:2::80", "+tcp www.example.net A"),
        )
        # Too long for the size that is asked for: the answer is cut, and dig asks again over TCP.
        talk.look_up(scene, 20, version, "+bufsize=512 large.example.net TXT")


def http(scene: Scene) -> None:
    """Several requests on a connection, a form, a missing page, over both address families."""
    for version in (4, 6):
        talk.browse(scene, 10, version, paths=("/", "/style.css", "/article.html"))
        talk.browse(scene, 20, version, "--head", paths=("/picture.bin",))
        talk.browse(scene, 20, version, "--data", "question=what", paths=("/missing",))
    talk.browse(scene, 20, 4, paths=("/picture.bin",))


def ssh(scene: Scene) -> None:
    """File transfers, over both address families."""
    talk.copy_file(scene, 10, 4)
    talk.copy_file(scene, 20, 6)


def voip(scene: Scene) -> None:
    """Telephone calls, over both address families."""
    talk.call(scene, 20, 4, 2_000)
    talk.call(scene, 10, 6, 1_000)


def icmp(scene: Scene) -> None:
    """Echo of several sizes, unreachable ports, run-out hop counts, over both address families."""
    for version in (4, 6):
        for size in ("0", "8", "56", "1000"):
            talk.ping(scene, 10, version, "-c", "2", "-s", size)
        talk.ping(scene, 10, version, "-c", "2", "-t", "1")
        talk.send_datagram(scene, 20, version, "a datagram that nobody takes\n", port=9)
        talk.trace(scene, 20, version)


def sctp(scene: Scene) -> None:
    """An association in user space."""
    talk.associate(scene, 10, 4)


def a_little(scene: Scene) -> None:
    """A bit of everything."""
    for version in (4, 6):
        talk.ping(scene, 10, version, "-c", "2")
        talk.look_up(scene, 10, version, "www.example.net A")
        talk.browse(scene, 10, version, paths=("/",))


def a_little_through_the_tunnel(scene: Scene) -> None:
    """A bit of everything, from the subject with the tunnel."""
    for version in (4, 6):
        talk.ping(scene, 40, version, "-c", "3")
        talk.look_up(scene, 40, version, "www.example.net A", "example.net MX")
        talk.browse(scene, 40, version, paths=("/", "/article.html"))


def a_little_overlay(scene: Scene) -> None:
    """A bit of everything over IPv4, from the subject behind the overlay."""
    talk.ping(scene, 20, 4, "-c", "3")
    talk.browse(scene, 20, 4, paths=("/", "/article.html"))


def demo(scene: Scene) -> None:
    """Four subjects at the same time."""
    scene.topology.forget_neighbours()
    with ThreadPoolExecutor() as pool:
        subjects = (demo_reader, demo_caller, demo_fragments, demo_dual_stack)
        for future in [pool.submit(happening, scene) for happening in subjects]:
            future.result()


def demo_reader(scene: Scene) -> None:
    """Subject 10 reads pages and fetches a file."""
    for version in (4, 6):
        talk.look_up(scene, 10, version, "www.example.net A", "www.example.net AAAA")
        talk.browse(scene, 10, version, paths=("/", "/style.css", "/article.html"))
        time.sleep(0.3)
    talk.look_up(scene, 10, 4, "ssh.example.net A", "ssh.example.net AAAA")
    talk.copy_file(scene, 10, 4)
    talk.ping(scene, 10, 4, "-c", "10")
    for _ in range(3):
        talk.look_up(scene, 10, 4, "www.example.net A")
        talk.browse(scene, 10, 4, paths=("/", "/style.css"))
        time.sleep(0.2)
    talk.ping(scene, 10, 6, "-c", "5")


def demo_caller(scene: Scene) -> None:
    """Subject 20 makes a telephone call and looks at a page afterwards."""
    talk.look_up(scene, 20, 4, "_sip._udp.example.net SRV", "sip.example.net A")
    talk.call(scene, 20, 4, 4_000)
    talk.browse(scene, 20, 4, paths=("/",))


def demo_fragments(scene: Scene) -> None:
    """Subject 30 is the one whose fragments change their order."""
    talk.look_up(scene, 30, 4, "www.example.net A")
    talk.ping(scene, 30, 4, "-c", "4", "-s", "3000")
    talk.browse(scene, 30, 4, paths=("/", "/article.html"))
    talk.look_up(scene, 30, 4, "+bufsize=4096 +ignore large.example.net TXT")
    talk.measure(scene, 30, 4, "-u", "-n", "9000", "-l", "3000", "-b", "2M")
    talk.ping(scene, 30, 6, "-c", "2", "-s", "3000")


def demo_dual_stack(scene: Scene) -> None:
    """Subject 40 uses IPv6 first."""
    talk.look_up(scene, 40, 6, "www.example.net AAAA", "sip.example.net AAAA")
    talk.browse(scene, 40, 6, paths=("/", "/style.css"))
    talk.call(scene, 40, 6, 1_500)
    talk.copy_file(scene, 40, 6)
    talk.look_up(scene, 40, 4, "www.example.net A", "example.net MX", "-x 198.51.100.80")
    talk.browse(scene, 40, 4, paths=("/", "/style.css"))
    talk.ping(scene, 40, 4, "-c", "5")


@contextlib.contextmanager
def tun_pair(scene: Scene) -> Iterator[None]:
    """A tunnel of bare IP packets between subject 40 and the servers."""
    ends = (subject(40), SERVERS)
    for namespace in ends:
        scene.topology.ip(namespace, "tuntap add dev tun0 mode tun")
        scene.topology.ip(namespace, "link set tun0 up")
    words = [word for end in ends for word in (scene.topology.namespace_path(end), "tun0")]
    relay = scene.processes.start("relay-tun", sys.executable, RELAY, "tun", *words)
    try:
        scene.processes.wait_for_text(relay, "relaying")
        for family, there, here in (
            ("-4", "198.51.100.0/24", "192.0.2.40/32"),
            ("-6", "2001:db8:2::/64", "2001:db8:1::40/128"),
        ):
            scene.topology.ip(subject(40), f"{family} route add {there} dev tun0")
            scene.topology.ip(SERVERS, f"{family} route add {here} dev tun0")
        yield
    finally:
        scene.processes.stop(relay)
        for namespace in ends:
            scene.topology.ip(namespace, "link delete tun0")


@contextlib.contextmanager
def overlay(scene: Scene) -> Iterator[None]:
    """VXLAN between edge router and servers, for subject 20 and the web server over IPv4."""
    far = server_ipv4("echo")
    for namespace, local, remote, device, mac in (
        (EDGE, CORE_IPV4, far, "core", "02:00:5e:00:04:01"),
        (SERVERS, far, CORE_IPV4, "eth0", "02:00:5e:00:04:02"),
    ):
        scene.topology.ip(
            namespace,
            f"link add overlay address {mac} type vxlan id {VXLAN_IDENTIFIER}"
            f" local {local} remote {remote} dstport {VXLAN_PORT} dev {device}",
        )
    scene.topology.ip(EDGE, f"address add {NEAR_TUNNEL_END}/24 dev overlay")
    try:
        for namespace in (EDGE, SERVERS):
            scene.topology.quieten(namespace, "overlay")
            scene.topology.ip(namespace, "link set overlay up")
        scene.topology.ip(EDGE, f"route add {server_ipv4('http')}/32 dev overlay")
        scene.topology.ip(SERVERS, f"route add {NEAR_TUNNEL_END}/32 dev overlay src {server_ipv4('http')}")
        scene.topology.ip(SERVERS, f"route add {subject_ipv4(20)}/32 via {NEAR_TUNNEL_END} dev overlay")
        yield
    finally:
        for namespace in (EDGE, SERVERS):
            scene.topology.ip(namespace, "link delete overlay")


def no_user_space_sctp() -> str | None:
    """Why no SCTP can be recorded, if it cannot."""
    return None if (USRSCTP / "tsctp").exists() else "needs Debian's package libusrsctp-examples"


RECORDINGS = (
    Recording(
        "scene.pcap.gz",
        demo,
        "what the demo's capture is made from",
        ("dnsmasq", "dig", "lighttpd", "curl", "sshd", "sftp", "sipp", "ping", "iperf3"),
        words=("--time-stamp-precision=nano",),
    ),
    Recording(
        "plain.pcap",
        plain,
        "ARP; ICMP echo, port unreachable, time exceeded; TCP transfer and refused "
        "connection; UDP with and without a taker",
        ("ping", "iperf3", "nc", "traceroute"),
    ),
    Recording(
        "ipv6.pcap",
        ipv6,
        "neighbour discovery, duplicate address detection, MLD with hop-by-hop header; ICMPv6 "
        "echo and errors; TCP; UDP plain, with hop-by-hop and destination options, and fragmented "
        "behind them",
        ("ping", "iperf3", "nc", "traceroute", "options.py"),
    ),
    Recording(
        "options.pcap",
        options,
        "IPv4 record route and timestamp options, whole and fragmented; IPv6 extension "
        "headers; nanosecond timestamps",
        ("options.py", "ping"),
        words=("--time-stamp-precision=nano",),
    ),
    Recording(
        "fragments.pcap",
        fragments,
        "fragmented ICMP and UDP, IPv4 and IPv6; those of subject 30 (192.0.2.30, "
        "2001:db8:1::30) out of order: the first one last, or the middle one last; a "
        "fragmented DNS answer",
        ("ping", "iperf3", "dig", "dnsmasq", "relay.py"),
    ),
    Recording(
        "dns.pcap",
        dns,
        "A, AAAA, CNAME, MX, TXT, SRV, PTR, no such name; over UDP, TCP, and cut off then TCP; IPv4 and IPv6",
        ("dig", "dnsmasq"),
    ),
    Recording(
        "http.pcap",
        http,
        "GET, HEAD, POST, 404, several requests on a connection; IPv4 and IPv6",
        ("curl", "lighttpd"),
    ),
    Recording("ssh.pcap", ssh, "key exchange, login, SFTP transfer; IPv4 and IPv6", ("sftp", "sshd")),
    Recording(
        "voip.pcap",
        voip,
        "SIP calls (port 5060) with RTP (G.711, 20 ms; ports 7000 and 6000), IPv4 and IPv6",
        ("sipp",),
    ),
    Recording(
        "icmp.pcap",
        icmp,
        "echo of 0 to 1,000 octets, port unreachable, time exceeded; ICMP and ICMPv6",
        ("ping", "nc", "traceroute"),
    ),
    Recording(
        "sctp.pcap",
        sctp,
        "an association from INIT to SHUTDOWN COMPLETE, port 5001, IPv4; SCTP in user space, "
        "for the kernel of the recording machine has none",
        ("tsctp",),
        unless=no_user_space_sctp,
    ),
    Recording(
        "any.pcap",
        a_little,
        "cooked capture version 2 of all interfaces of the router: each packet at the "
        "bridge port, the bridge and the core link",
        ("ping", "dig", "dnsmasq", "curl", "lighttpd"),
        interfaces=("any",),
    ),
    Recording(
        "any-sll1.pcap",
        a_little,
        "the same with cooked capture version 1",
        ("ping", "dig", "dnsmasq", "curl", "lighttpd"),
        interfaces=("any",),
        words=("-y", "LINUX_SLL"),
    ),
    Recording(
        "snapped.pcap",
        a_little,
        "only the first 68 octets of each frame were captured",
        ("ping", "dig", "dnsmasq", "curl", "lighttpd"),
        words=("-s", "68"),
    ),
    Recording(
        "interfaces.pcapng",
        a_little,
        "two interfaces, nanosecond timestamps: each packet once on the access "
        "side and once on the core side of the router",
        ("ping", "dig", "dnsmasq", "curl", "lighttpd"),
        interfaces=("access", "core"),
        recorder="dumpcap",
    ),
    Recording(
        "raw.pcap",
        a_little_through_the_tunnel,
        "bare IPv4 and IPv6 packets of a tun device",
        ("ping", "dig", "dnsmasq", "curl", "lighttpd", "relay.py"),
        interfaces=("tun0",),
        namespace=subject(40),
        surroundings=tun_pair,
    ),
    Recording(
        "vxlan.pcap",
        a_little_overlay,
        "VXLAN 5001 of the kernel, UDP 4789, between 198.51.100.1 and 198.51.100.7",
        ("ping", "curl", "lighttpd"),
        interfaces=("core",),
        words=("udp", "port", "4789"),
        surroundings=overlay,
    ),
)


def record(scene: Scene, recording: Recording, output: Path) -> None:
    """Records one capture.

    Raises:
        RecordingError: a program failed, or the recorder lost frames.
    """
    stack = contextlib.ExitStack()
    with stack:
        if recording.surroundings is not None:
            stack.enter_context(recording.surroundings(scene))
        temporary = scene.directory / recording.name
        process = scene.processes.start(
            recording.recorder,
            *scene.topology.inside(recording.namespace, *_recorder_words(recording, temporary)),
        )
        said = "Capturing on" if recording.recorder == "dumpcap" else "listening on"
        scene.processes.wait_for_text(process, said)
        # The recorder says so a moment before it is so.
        time.sleep(SETTLE_S)
        recording.happening(scene)
        time.sleep(SETTLE_S)
        scene.processes.stop(process, signal.SIGINT)
        _require_no_loss(recording.name, scene.processes.log_of(process))
    content = temporary.read_bytes()
    if recording.recorder == "dumpcap":
        content = without_machine(content)
    if recording.name.endswith(".gz"):
        content = gzip.compress(content, mtime=0)
    (output / recording.name).write_bytes(content)


def _recorder_words(recording: Recording, path: Path) -> list[str]:
    interfaces = [word for interface in recording.interfaces for word in ("-i", interface)]
    if recording.recorder == "dumpcap":
        return ["dumpcap", "-q", *interfaces, "-w", str(path)]
    # -Z root: the working directory belongs to root, and tcpdump would become somebody else.
    # On "any" a slot of the ring is as long as the longest frame; the usual 2 MiB hold only eight.
    common = ["-n", "-Z", "root", "-U", "--immediate-mode", "-B", str(BUFFER_KIB)]
    return ["tcpdump", *common, *interfaces, "-w", str(path), *recording.words]


def _require_no_loss(name: str, log: str) -> None:
    lost = [int(number) for number in re.findall(r"(\d+) packets dropped", log)]
    lost += [int(number) for number in re.findall(r"received/dropped on interface '[^']*': \d+/(\d+)", log)]
    if any(lost) or not lost:
        message = f"{name}: the recorder lost frames or did not say:\n{log[-1000:]}"
        raise RecordingError(message)
