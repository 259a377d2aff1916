"""The guard with real nftables and real packets: nothing leaves in clear, nothing comes in, and damage is noticed.

No tunnel is there, so whatever arrives at the next hop has leaked. A packet to another network shows that the
observer sees what there is to see.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from daemon import end, start, write_configuration
from net import PYTHON, Net

from flowtap.cli.local import ask
from flowtap.config import load
from flowtap.delivery.guard import ClosedPort, GuardedTunnel, GuardPlan

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces"),
]

NOBODY = 65_534
HERE, NEXT, SUBJECT = "198.51.100.2", "198.51.100.1", "10.9.0.2"
SPEAKER, DEVICE = "100.100.100.101", "2.2.2.2"
HERE6, NEXT6, SPEAKER6 = "2001:db8:a::2", "2001:db8:a::1", "2001:db8:b::31"
NETWORKS = tuple(map(ip_network, ("2.2.2.0/27", "2001:db8:c::/64")))
PORTS = (
    ClosedPort("udp", ip_address(SPEAKER), 1814, ("ipsec0",)),
    ClosedPort("tcp", ip_address(SPEAKER), 32_001, ("ipsec0",)),
)
PLANS = {
    "interface": GuardPlan((GuardedTunnel("ttp", NETWORKS, "ipsec0"),), PORTS),
    "policy": GuardPlan((GuardedTunnel("ttp", NETWORKS, None),), PORTS),
}
COUNT = 4

NETFILTER = """
import json, sys
from flowtap.cli.local import ask
from flowtap.config import load
from flowtap.delivery.guard import GuardPlan
from flowtap.errors import FlowtapError
from flowtap.delivery.netfilter import Netfilter
verb, plan = sys.argv[1], GuardPlan.from_json(sys.argv[2])
try:
    done = Netfilter().remove() if verb == "remove" else getattr(Netfilter(), verb)(plan)
except FlowtapError as error:
    done = f"{type(error).__name__}: {error}"
print(json.dumps(done))
"""
WATCH = """
import json, socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
s.bind((sys.argv[1], 0))
s.settimeout(0.2)
counts = {}
print("ready", flush=True)
sys.stdin.readline()
while True:
    try:
        data, (_, protocol, kind, *_) = s.recvfrom(65535)
    except TimeoutError:
        break
    if kind == 4:  # what this end sends itself
        continue
    to = data[16:20] if protocol == 0x800 else data[24:40] if protocol == 0x86DD else b""
    name = socket.inet_ntop(socket.AF_INET if len(to) == 4 else socket.AF_INET6, to) if to else str(protocol)
    counts[name] = counts.get(name, 0) + 1
print(json.dumps(counts))
"""
SEND = """
import json, socket, struct, sys

def send(way, source, to, count):
    six = ":" in to
    family = socket.AF_INET6 if six else socket.AF_INET
    if way == "raw":
        s = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    else:
        s = socket.socket(family, socket.SOCK_DGRAM)
        if way == "foreign":  # IP_TRANSPARENT, IPV6_TRANSPARENT
            s.setsockopt(*((socket.IPPROTO_IPV6, 75, 1) if six else (socket.IPPROTO_IP, 19, 1)))
        if way == "bound":
            s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"up0")
        if source:
            s.bind((source, 0))
    data = b"x" * 64
    if way == "raw":
        udp = struct.pack("!HHHH", 9, 9, 72, 0) + data
        if six:
            head = struct.pack("!IHBB", 6 << 28, len(udp), 17, 64)
            head += socket.inet_pton(family, source) + socket.inet_pton(family, to)
        else:
            head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
            head += socket.inet_aton(source) + socket.inet_aton(to)
        data = head + udp
    said = set()
    for _ in range(count):
        try:
            s.sendto(data, (to, 0 if way == "raw" else 9))
        except OSError as error:
            said.add(error.errno)
    return sorted(said)

print(json.dumps([send(*job) for job in json.loads(sys.argv[1])]))
"""
HEAR = """
import json, socket, sys
address, port = sys.argv[1], int(sys.argv[2])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((address, port))
s.settimeout(0.2)
print("ready", flush=True)
sys.stdin.readline()
heard = []
while True:
    try:
        heard.append(s.recvfrom(100)[1][0])
    except TimeoutError:
        break
print(json.dumps(sorted(heard)))
"""


@dataclass
class Scene:
    """The tap's host, the next hop on its way out, and a host that it forwards for."""

    net: Net
    host: str
    next_hop: str
    subject: str

    def netfilter(self, verb: str, plan: GuardPlan, *before: str) -> Any:
        done = self.net.run(self.host, *before, PYTHON, "-c", NETFILTER, verb, plan.to_json())
        return json.loads(done)

    def nft(self, *words: str) -> None:
        self.net.run(self.host, "nft", *words)

    def send(self, *jobs: tuple[str, str, str], inside: str = "") -> list[list[int]]:
        """Sends a few datagrams each way; the errors that sending gave."""
        text = json.dumps([(*job, COUNT) for job in jobs])
        said: list[list[int]] = json.loads(self.net.run(inside or self.host, PYTHON, "-c", SEND, text))
        return said

    def ask(self, inside: str, program: str, *words: str) -> Question:
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        return Question(self.net.start(inside, PYTHON, "-c", program, *words, **streams))


@dataclass
class Question:
    """A program that says a line when it is ready, and answers when it is told to."""

    process: subprocess.Popen[str]

    def __post_init__(self) -> None:
        self.first = self.line()

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the program has ended"
        return line.strip()

    def answer(self, word: str = "") -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return json.loads(self.line())


@pytest.fixture
def scene() -> Iterator[Scene]:
    with Net() as net:
        host, next_hop, subject = (net.namespace(name) for name in "hns")
        net.veth((host, "up0", f"{HERE}/30"), (next_hop, "up0", f"{NEXT}/30"))
        net.veth((host, "in0", "10.9.0.1/24"), (subject, "eth0", f"{SUBJECT}/24"))
        for inside, mine in ((host, HERE6), (next_hop, NEXT6)):
            net.run(inside, "sysctl", "-qw", "net.ipv6.conf.up0.disable_ipv6=0")
            net.run(inside, "ip", "-6", "addr", "add", f"{mine}/64", "dev", "up0", "nodad")
        net.run(host, "sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=0")
        net.run(host, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        net.run(host, "ip", "addr", "add", f"{SPEAKER}/32", "dev", "lo")
        net.run(host, "ip", "-6", "addr", "add", f"{SPEAKER6}/128", "dev", "lo")
        net.run(host, "ip", "route", "add", "default", "via", NEXT)
        net.run(host, "ip", "-6", "route", "add", "default", "via", NEXT6)
        net.run(subject, "ip", "route", "add", "default", "via", "10.9.0.1")
        # The next hop answers for everybody, so that a socket that is bound to the interface finds somebody there too.
        net.run(next_hop, "sysctl", "-qw", "net.ipv4.conf.up0.proxy_arp=1", "net.ipv4.ip_forward=1")
        net.run(next_hop, "sysctl", "-qw", "net.ipv4.neigh.up0.proxy_delay=0")
        net.run(next_hop, "ip", "route", "add", "2.2.0.0/16", "dev", "lo")
        net.run(next_hop, "ip", "addr", "add", f"{DEVICE}/32", "dev", "lo")
        net.run(next_hop, "ip", "route", "add", f"{SPEAKER}/32", "via", HERE)
        yield Scene(net, host, next_hop, subject)


# How a datagram may leave, and with which source address.
WAYS = {
    "ordinary": ("udp", ""),
    "speaker": ("udp", SPEAKER),
    "foreign": ("foreign", "192.0.2.77"),
    "raw": ("raw", "192.0.2.78"),
    "bound": ("bound", SPEAKER),
    "forwarded": ("udp", SUBJECT),
    "ordinary6": ("udp", ""),
    "speaker6": ("udp", SPEAKER6),
    "foreign6": ("foreign", "2001:db8:f::7"),
    "raw6": ("raw", SPEAKER6),
    "bound6": ("bound", SPEAKER6),
}


def leaks(scene: Scene) -> tuple[dict[str, int], dict[str, int], dict[str, list[int]]]:
    """What arrived by every way for the network behind the tunnel, and for one beside it; what senders were told."""
    # Each way has destinations of its own.
    behind = {name: f"2001:db8:c::{at}" if "6" in name else f"2.2.2.{at}" for at, name in enumerate(WAYS, 2)}
    beside = {name: f"2001:db8:d::{at}" if "6" in name else f"2.2.3.{at}" for at, name in enumerate(WAYS, 2)}
    observer = scene.ask(scene.next_hop, WATCH, "up0")
    told: dict[str, list[int]] = {}
    for inside, names in (
        (scene.subject, ["forwarded"]),
        (scene.host, [name for name in WAYS if name != "forwarded"]),
    ):
        jobs = [(*WAYS[name], to[name]) for to in (behind, beside) for name in names]
        told.update(zip(names, scene.send(*jobs, inside=inside), strict=False))
    seen = observer.answer()
    arrived = [{name: seen.get(address, 0) for name, address in to.items()} for to in (behind, beside)]
    return arrived[0], arrived[1], told


def test_without_a_guard_everything_leaves(scene: Scene) -> None:
    everything = dict.fromkeys(WAYS, COUNT)
    behind, beside, told = leaks(scene)
    assert behind == beside == everything
    assert not any(told.values())


@pytest.mark.parametrize("kind", ["interface", "policy"])
def test_nothing_leaves(scene: Scene, kind: str) -> None:
    assert scene.netfilter("install", PLANS[kind]) == []
    behind, beside, told = leaks(scene)
    assert behind == dict.fromkeys(WAYS, 0)
    assert beside == dict.fromkeys(WAYS, COUNT)
    # Whoever sends here is told at once.
    assert [name for name, errors in told.items() if not errors] == ["forwarded"]


def test_nothing_leaves_where_nftables_is_alone(scene: Scene) -> None:
    """Routes may be anybody's; the first layer holds without the second."""
    assert scene.netfilter("install", PLANS["interface"]) == []
    for family, network in zip(("-4", "-6"), map(str, NETWORKS), strict=True):
        scene.net.run(scene.host, "ip", family, "rule", "delete", "pref", "221", "to", network)
    behind, beside, told = leaks(scene)
    assert behind == dict.fromkeys(WAYS, 0)
    assert beside == dict.fromkeys(WAYS, COUNT)
    # EPERM.
    assert all(told[name] == [1] for name in ("ordinary", "speaker", "foreign", "raw", "bound", "speaker6"))


def test_routes_alone_can_be_passed(scene: Scene) -> None:
    """What lies on a socket's own interface needs no route: why there is more than one layer."""
    assert scene.netfilter("install", PLANS["interface"]) == []
    scene.nft("flush ruleset")
    behind, _, told = leaks(scene)
    assert behind == {name: COUNT if name == "bound" else 0 for name in WAYS}
    # ENETUNREACH.
    assert told["speaker"] == [101]


def heard(scene: Scene, address: str, port: int, *sources: str) -> list[str]:
    """Which senders at the next hop are heard."""
    listener = scene.ask(scene.host, HEAR, address, str(port))
    for source in sources:
        scene.net.send_udp(scene.next_hop, address, 2, port=port, source=source)
    said: list[str] = listener.answer()
    return said


def test_forged_requests_in_clear_are_not_heard(scene: Scene) -> None:
    assert heard(scene, SPEAKER, 1814, DEVICE, NEXT) == [NEXT] * 2 + [DEVICE] * 2
    assert scene.netfilter("install", PLANS["interface"]) == []
    assert heard(scene, SPEAKER, 1814, DEVICE, NEXT) == []
    # From the third party's network nothing at all is heard, from others what is for other ports.
    assert heard(scene, SPEAKER, 1815, DEVICE, NEXT) == [NEXT] * 2
    assert heard(scene, HERE, 1814, DEVICE, NEXT) == [NEXT] * 2
    # This host itself needs no tunnel.
    listener = scene.ask(scene.host, HEAR, SPEAKER, "1814")
    scene.net.send_udp(scene.host, SPEAKER, 1, port=1814)
    assert listener.answer() == [SPEAKER]


def test_requests_through_the_tunnel_s_interface_are_heard(scene: Scene) -> None:
    plan = GuardPlan(
        (GuardedTunnel("ttp", NETWORKS, "up0"),), (ClosedPort("udp", ip_address(SPEAKER), 1814, ("up0",)),)
    )
    # A tunnel's device is none of Ethernet, and the guard says so; its rules are there all the same.
    (fault,) = scene.netfilter("install", plan)
    assert "up0 is an Ethernet device" in fault
    assert heard(scene, SPEAKER, 1814, DEVICE, NEXT) == [NEXT] * 2 + [DEVICE] * 2
    observer = scene.ask(scene.next_hop, WATCH, "up0")
    # The routing policy has no way; strongSwan, or the operator, puts it into table 220.
    assert scene.send(("udp", SPEAKER, DEVICE)) == [[101]]
    scene.net.run(scene.host, "ip", "rule", "add", "pref", "220", "lookup", "220")
    scene.net.run(scene.host, "ip", "route", "add", "2.2.2.0/27", "via", NEXT, "table", "220")
    assert scene.send(("udp", SPEAKER, DEVICE)) == [[]]
    assert observer.answer()[DEVICE] == COUNT


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        ("flush ruleset", "there is no table inet flowtap_guard"),
        ("flush chain inet flowtap_guard out", "the chain out does not drop IPv4"),
        ("delete chain inet flowtap_guard post", "the chain post is missing"),
        ("insert rule inet flowtap_guard out accept", "a rule that is not the guard's (verdict accept)"),
        ("insert rule inet flowtap_guard in ip saddr 2.2.2.2 accept", "(verdict accept)"),
        ("add rule inet flowtap_guard post ip daddr 9.9.9.9 drop", "(verdict drop)"),
        ("add set inet flowtap_guard s { type ipv4_addr; }", "has a set that is not the guard's"),
        ("add chain inet flowtap_guard mine", "has a chain mine that is not the guard's"),
        ("add table inet flowtap_guard { flags dormant; }", ""),
    ],
)
def test_damage_is_noticed_and_repaired(scene: Scene, damage: str, fault: str) -> None:
    plan = PLANS["interface"]
    assert scene.netfilter("install", plan) == []
    if damage.startswith("delete chain"):
        scene.nft("flush chain inet flowtap_guard post")
    scene.nft(damage)
    found = scene.netfilter("verify", plan)
    assert found
    assert fault in " ".join(found), found
    assert scene.netfilter("install", plan) == []
    assert scene.netfilter("verify", plan) == []


def test_chains_elsewhere_and_rules_of_the_routing_policy(scene: Scene) -> None:
    plan = PLANS["interface"]
    assert scene.netfilter("install", plan) == []
    text = scene.net.run(scene.host, "nft", "list", "table", "inet", "flowtap_guard")
    for before, after, fault in (
        ("hook output priority 300", "hook output priority 0", "has as prio 0; 300 is right"),
        ("hook output", "hook forward", "has as hook"),
        ("policy accept", "policy drop", "has as policy"),
        ('oifname != "ipsec0"', 'oifname != "up0"', "does not drop"),
        ("2.2.2.0/27", "2.2.2.0/28", "does not drop"),
        ("rt ipsec missing ", "", "does not drop"),
        ("drop", "accept", "(verdict accept)"),
    ):
        assert before in text
        changed = f"delete table inet flowtap_guard\n{text.replace(before, after)}"
        scene.net.run(scene.host, "nft", "-f", "-", data=changed)
        found = scene.netfilter("verify", plan)
        assert any(fault in each for each in found), (before, found)
    scene.netfilter("install", plan)
    scene.net.run(scene.host, "ip", "rule", "delete", "pref", "221", "to", "2.2.2.0/27")
    scene.net.run(
        scene.host, "ip", "rule", "add", "pref", "221", "fwmark", "1", "to", "2.2.2.0/27", "unreachable"
    )
    (fault,) = scene.netfilter("verify", plan)
    assert fault == "routing policy: there is no rule 221 that calls 2.2.2.0/27 unreachable"
    assert scene.netfilter("install", plan) == []


def test_a_new_configuration_takes_the_place_of_the_old(scene: Scene) -> None:
    assert scene.netfilter("install", PLANS["interface"]) == []
    other = GuardPlan((GuardedTunnel("b", (ip_network("3.3.3.0/24"),), None),))
    assert scene.netfilter("install", other) == []
    assert scene.netfilter("verify", PLANS["interface"]) != []
    assert "2.2.2.0" not in scene.net.run(scene.host, "ip", "rule")
    assert scene.netfilter("remove", other) is None
    assert "221" not in scene.net.run(scene.host, "ip", "rule")
    assert scene.send(("udp", SPEAKER, DEVICE)) == [[]]
    # Nothing is there to be removed.
    assert scene.netfilter("remove", other) is None


def test_many_networks(scene: Scene) -> None:
    networks = tuple(ip_network((0x0A000000 + 512 * number, 24)) for number in range(1_024))
    plan = GuardPlan((GuardedTunnel("wide", networks, None),))
    assert scene.netfilter("install", plan) == []
    assert scene.netfilter("verify", GuardPlan((GuardedTunnel("wide", networks[:-1], None),))) != []


def test_a_sound_guard_keeps_its_counters(scene: Scene) -> None:
    plan = PLANS["interface"]
    scene.netfilter("install", plan)
    scene.net.run(scene.host, "ip", "rule", "delete", "pref", "221", "to", "2.2.2.0/27")
    scene.send(("udp", SPEAKER, DEVICE))
    scene.net.run(scene.host, "ip", "rule", "add", "pref", "221", "to", "2.2.2.0/27", "unreachable")
    assert scene.netfilter("install", plan) == []
    counted = scene.net.run(scene.host, "nft", "list", "table", "inet", "flowtap_guard")
    assert f"counter packets {COUNT} " in counted


def as_nobody(*rights: str) -> tuple[str, ...]:
    """Nobody at all with these rights alone; to read the interpreter, wherever it lies, is one."""
    named = ",".join(f"+{each}" for each in (*rights, "dac_read_search"))
    sets = [f"--{each}=-all,{named}" for each in ("inh-caps", "ambient-caps", "bounding-set")]
    return ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *sets)


CONFIGURATION = """
[element]
interfaces = ["up0"]
[dtcp.ssh]
host_key_file = "key"
[tunnel.ttp]
local_gateway = "100.100.100.100"
remote_gateway = "123.123.123.123"
local_networks = ["100.100.100.101"]
remote_networks = ["2.2.2.0/27", "2001:db8:c::/64"]
pre_shared_key_file = "psk"
interface = "ipsec0"
"""


@pytest.fixture
def for_everybody() -> Iterator[Path]:
    with TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


def test_by_hand(scene: Scene, for_everybody: Path) -> None:
    path = for_everybody / "flowtap.toml"
    path.write_text(CONFIGURATION)
    path.chmod(0o644)

    def guard(*words: str, before: tuple[str, ...] = ()) -> tuple[int, str, str]:
        done = subprocess.run(
            [
                *("ip", "netns", "exec", scene.host, *before),
                *(PYTHON, "-m", "flowtap", "guard", *words, "--config", str(path)),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.returncode, done.stdout, done.stderr

    status, output, _ = guard("verify")
    assert (status, output.splitlines()[0]) == (1, "nftables: there is no table inet flowtap_guard")
    assert len(output.splitlines()) == 3
    status, _, said = guard("install")
    assert (status, "for 2 networks behind ttp" in said) == (0, True)
    assert guard("verify") == (0, "", "")
    assert guard("verify", "--json") == (0, '{"faults": []}\n', "")
    # What it prints is what it does.
    status, shown, _ = guard("show")
    assert status == 0
    scene.net.run(scene.host, "nft", "-f", "-", data=shown)
    assert guard("verify") == (0, "", "")
    for words in (("verify",), ("install",), ("remove", "--yes")):
        status, _, said = guard(*words, before=as_nobody())
        assert (status, "needs the right CAP_NET_ADMIN" in said) == (4, True), said
    status, _, said = guard("remove")
    assert (status, "leaving in clear; give --yes" in said) == (2, True)
    assert guard("verify")[0] == 0
    status, _, said = guard("remove", "--yes")
    assert (status, "the guard is gone: nothing but strongSwan keeps" in said) == (0, True)
    assert guard("verify")[0] == 1
    path.write_text(CONFIGURATION.partition("[tunnel")[0])
    assert [guard(each)[0] for each in ("install", "verify", "show")] == [3, 3, 3]


def test_a_tunnel_s_interface_is_no_ethernet_device(scene: Scene, tmp_path: Path) -> None:
    """Whatever goes through the tunnel's interface is let through; through an uplink it would be in clear."""
    path = tmp_path / "flowtap.toml"
    words = (
        "ip",
        "netns",
        "exec",
        scene.host,
        PYTHON,
        "-m",
        "flowtap",
        "guard",
        "install",
        "--config",
        str(path),
    )
    said = []
    for interface in ("up0", "not-there"):
        path.write_text(CONFIGURATION.replace('"ipsec0"', f'"{interface}"'))
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        said.append((done.returncode, "up0 is an Ethernet device" in done.stdout + done.stderr))
    assert said == [(1, True), (0, False)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_daemon_installs_it_and_leaves_it(scene: Scene, tmp_path: Path, number: signal.Signals) -> None:
    directory = tmp_path
    write_configuration(directory, "", CONFIGURATION.partition('key"')[2])
    (directory / "psk").write_text("secret")
    (directory / "psk").chmod(0o600)
    path = directory / "flowtap.toml"
    path.write_text(path.read_text().replace("[element.replay]", '[element]\ninterfaces = ["up0"]'))
    tap = start(directory, "ip", "netns", "exec", scene.host)
    try:
        said = ask(tap.socket, "status")
        assert (said["guard"], said["broker"], said["own_rights"]) == ("running", "running", [])
        plan = GuardPlan.of(load(path).values)
        assert scene.netfilter("verify", plan) == []
        tap.process.send_signal(number)
        tap.process.wait(timeout=10)
    finally:
        end(tap)
    assert scene.netfilter("verify", plan) == []
    assert scene.send(("udp", SPEAKER, DEVICE)) != [[]]
