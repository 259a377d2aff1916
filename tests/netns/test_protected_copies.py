"""Copies through a tunnel that ends on the tap's own host: all of them arrive, and nothing leaves in clear."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from net import PYTHON, until
from scapy.layers.inet import IP, UDP
from scapy.layers.ipsec import ESP, SecurityAssociation
from tapped import COPIES_PORT, SSH_PORT, SUBJECT, Tapped
from topology import MD, OPERATOR_GATEWAY, REMOTE_GATEWAY, TAP, Ipsec, Profile, ipsec, needs_root

from flowtap.service.auditlog import read_audit_log

pytestmark = needs_root()
__all__ = ["ipsec"]

PROFILES: tuple[Profile, ...] = ("how_to", "modern")


@pytest.fixture
def tapped(ipsec: Ipsec, tmp_path: Path) -> Iterator[Tapped]:
    """The tap with a tunnel that is up, and somebody who receives."""
    ipsec.load_peer("modern")
    made = Tapped(ipsec, tmp_path, "modern")
    made.start()
    made.until_tunnel("up")
    made.mediate()
    yield made
    made.end()


@pytest.mark.parametrize("profile", PROFILES)
def test_criteria_come_and_copies_go_through_the_tunnel(
    ipsec: Ipsec, tmp_path: Path, profile: Profile
) -> None:
    ipsec.operator_charon.stop()
    ipsec.operator_charon.start(log_keys=True)
    ipsec.load_peer(profile)
    observer = ipsec.observer()
    tapped = Tapped(ipsec, tmp_path, profile)
    tapped.start()
    tapped.until_tunnel("up")
    tapped.mediate()
    # Over SSH from the mediation device, which reaches the tap through the tunnel only.
    tapped.add(f"Source-Address: {SUBJECT}")
    tapped.send(100)
    account = tapped.until_delivered()
    assert (account["copied"], account["exported"], account["dropped"]) == (100, 100, 0)
    assert observer.in_clear() == []
    copies = decrypted(observer.protected(), ipsec.operator_charon.log)
    numbers = [int.from_bytes(bytes(each[UDP].payload)[28:32], "big") for each in copies]
    assert numbers == list(range(100))
    for copy in copies:
        assert (copy[IP].src, copy[IP].dst) == (TAP, MD)
        assert (copy[UDP].sport, copy[UDP].dport) == (50_000, COPIES_PORT)
    tapped.end()
    assert tapped.arrived() == list(range(100))


def decrypted(packets: list[bytes], log: str) -> list[IP]:
    """The copies inside of what was seen, with the keys that charon has logged: the operator is the initiator."""
    keys = logged_keys(log)
    if "integrity initiator key" in keys:
        legacy = {"auth_algo": "HMAC-SHA1-96", "auth_key": keys["integrity initiator key"]}
        options = {"crypt_algo": "3DES", **legacy}
    else:
        # The last four octets are the salt.
        options = {"crypt_algo": "AES-GCM"}
    key = keys["encryption initiator key"]
    (spi,) = re.findall(r"with SPIs [0-9a-f]{8}_i ([0-9a-f]{8})_o", log)
    association: Any = SecurityAssociation(  # type: ignore[no-untyped-call]
        ESP,
        spi=int(spi, 16),
        crypt_key=key,
        tunnel_header=IP(src=OPERATOR_GATEWAY, dst=REMOTE_GATEWAY),
        nat_t_header=UDP(sport=4500, dport=4500),
        **options,
    )
    found = []
    for octets in packets:
        packet = IP(octets)
        payload = bytes(packet[UDP].payload) if UDP in packet else b""
        # IKE on this port has four zeros in front.
        if packet.src == OPERATOR_GATEWAY and payload[:4] == bytes.fromhex(spi):
            inner = association.decrypt(packet)
            if UDP in inner and inner[UDP].dport == COPIES_PORT:
                found.append(inner)
    return found


def logged_keys(log: str) -> dict[str, bytes]:
    """Keys by what they are for, of the last child."""
    keys: dict[str, bytes] = {}
    name = ""
    for line in log.splitlines():
        _, _, text = line.partition("[CHD] ")
        if begin := re.match(r"((?:encryption|integrity) \w+ key) => ", text):
            name = begin[1]
            keys[name] = b""
        elif name and (octets := re.match(r" *\d+: ((?:[0-9A-F]{2} )+)", text)):
            keys[name] += bytes.fromhex(octets[1])
        else:
            name = ""
    return keys


def test_no_frame_of_the_tunnel_is_tapped(tapped: Tapped) -> None:
    """Everything is wanted, on the interface that carries the tunnel, whichever way it goes."""
    tapped.add("Source-Address: *")
    tapped.send(200, octets=1400)
    account = tapped.until_delivered()
    assert (account["copied"], account["exported"], account["dropped"]) == (200, 200, 0)
    until("the tunnel's own packets are counted", lambda: tapped.stats()["own"] >= 200)
    assert tapped.stats()["matched"] == 200
    assert sorted(tapped.arrived()) == list(range(200))


def test_a_new_key_loses_nothing(tapped: Tapped) -> None:
    tapped.add(f"Source-Address: {SUBJECT}")
    sender = tapped.sending(6_000, pause_s=0.0005)
    with tapped.ipsec.operator_charon.session() as session:
        for what in ({"child": "ttp-content"}, {"ike": "ttp"}, {"child": "ttp-content"}):
            session.rekey(what)
    sender.wait(timeout=30)
    account = tapped.until_delivered()
    assert (account["exported"], account["exported_in_doubt"], account["resent"]) == (6_000, 0, 0)
    assert tapped.arrived() == list(range(6_000))


SENDER = """
import socket, struct, sys
source, to, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
def attempt(what, send):
    try:
        for _ in range(4):
            send()
        print(what, "sent")
    except OSError as error:
        print(what, error.strerror)
def udp(address, device=None):
    def send():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            if device:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
            s.setsockopt(socket.SOL_IP, 19, 1)  # IP_TRANSPARENT
            s.bind((address, 0))
            s.sendto(b"in clear", (to, port))
    return send
def raw():
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as s:
        octets = lambda a: bytes(int(each) for each in a.split("."))
        udp = struct.pack("!HHHH", 50000, port, 16, 0) + b"in clear"
        s.sendto(struct.pack("!BBHHHBBH", 0x45, 0, 36, 1, 0, 64, 17, 0) + octets(source) + octets(to) + udp, (to, 0))
attempt("own", udp(source))
attempt("other", udp("100.100.100.100"))
attempt("foreign", udp("198.18.0.1"))
attempt("bound", udp(source, b"op0"))
attempt("raw", raw)
"""


def try_all_ways(tapped: Tapped) -> str:
    """Sends to the third party's network in every way there is; what the senders were told.

    Whoever asks for its addresses on the uplink gets an answer, as some providers' routers give it.
    """
    ipsec = tapped.ipsec
    ipsec.net.run(ipsec.internet, "sysctl", "-qw", "net.ipv4.conf.net0.proxy_arp=1")
    words = (PYTHON, "-c", SENDER, TAP, MD, str(COPIES_PORT + 1))
    said = ipsec.net.run(ipsec.operator, *words)
    tapped.send(5)
    # Forwarded by this host, from somebody who has no business there.
    ipsec.net.send_udp(tapped.subject, MD, 4, port=COPIES_PORT + 1)
    return said


def test_nothing_leaves_in_clear_whatever_happens(ipsec: Ipsec, tmp_path: Path) -> None:
    """The states and the senders of the leak matrix, one after the other; the observer sees none of it."""
    ipsec.load_peer("modern")
    tapped = Tapped(ipsec, tmp_path, "modern")
    said: dict[str, str] = {}

    def try_everything(state: str) -> None:
        said[state] = try_all_ways(tapped)

    observer = ipsec.observer()
    try_everything("nothing of ours has ever run")
    leaked = len(observer.in_clear())
    # Without a guard everything of it leaves; so the observer would see it.
    assert leaked >= 4 * len(said["nothing of ours has ever run"].splitlines())
    observer.stop()
    observer = ipsec.observer()

    tapped.start()
    tapped.until_tunnel("up")
    tapped.mediate()
    tapped.add(f"Source-Address: {SUBJECT}")
    try_everything("up")
    with ipsec.operator_charon.session() as session:
        # Its associations end with it.
        session.unload_conn({"name": "ttp"})
        try_everything("terminated and unloaded")
    ipsec.gateway_charon.stop()
    try_everything("nobody at the other end")
    ipsec.operator_charon.kill()
    tapped.until_tunnel("down", "connecting")
    try_everything("killed")
    ipsec.operator_charon.start()
    try_everything("started again")
    ipsec.operator_charon.stop()
    try_everything("ended")
    tapped.end(signal.SIGKILL)
    try_everything("the tap was killed")
    assert observer.in_clear() == []
    # The guard is what stops them, so senders are told.
    assert "Operation not permitted" in said["ended"]

    # The copies of all those states wait nowhere any more; but what begins now is delivered.
    ipsec.gateway_charon.start()
    ipsec.operator_charon.start()
    ipsec.load_peer("modern")
    tapped.start()
    tapped.until_tunnel("up")
    tapped.send(7)
    until("they are sent", lambda: tapped.destination()["exported"] == 7)
    tapped.end()
    assert tapped.arrived()[-7:] == list(range(7))
    assert observer.in_clear() == []


def test_nor_where_the_kernel_is_to_do_it_and_cannot(ipsec: Ipsec, tmp_path: Path) -> None:
    """Policies of the kernel, with strongSwan alive, killed and ended; ESP is what this kernel may lack."""
    ipsec.operator_charon.stop()
    ipsec.operator_charon.start("netlink")
    ipsec.load_peer("modern")
    tapped = Tapped(ipsec, tmp_path, "modern")
    path = tmp_path / "flowtap.toml"
    # In policy mode a tunnel has no interface.
    path.write_text(path.read_text().replace('interface = "ipsec0"\n', ""))
    tapped.start()

    def has_trap() -> bool:
        return "2.2.2.0/27" in ipsec.net.run(ipsec.operator, "ip", "xfrm", "policy")

    until("strongSwan has set its trap", has_trap)
    observer = ipsec.observer()
    try_all_ways(tapped)
    ipsec.operator_charon.kill()
    try_all_ways(tapped)
    # Policies of somebody who was killed stay.
    assert has_trap()
    ipsec.operator_charon.start("netlink")
    until("the trap is there again", has_trap)
    ipsec.operator_charon.stop()
    said = try_all_ways(tapped)
    assert "own Operation not permitted" in said or "own Network is unreachable" in said
    tapped.end()
    try_all_ways(tapped)
    assert observer.in_clear() == []


@pytest.mark.parametrize("resend_s", [0, 10])
def test_the_other_end_dies_and_comes_back_under_load(ipsec: Ipsec, tmp_path: Path, resend_s: int) -> None:
    ipsec.load_peer("modern")
    observer = ipsec.observer()
    tapped = Tapped(ipsec, tmp_path, "modern", dead_peer_s=8, resend_s=resend_s)
    tapped.start()
    tapped.until_tunnel("up")
    tapped.mediate()
    tapped.add(f"Source-Address: {SUBJECT}")
    count = 15_000
    sender = tapped.sending(count, pause_s=0.001)
    until("some were sent", lambda: tapped.destination()["exported"] > 1_000)
    ipsec.cut()
    tapped.until_tunnel("down", "connecting", seconds=20)
    ipsec.heal()
    tapped.until_tunnel("up", seconds=20)
    sender.wait(timeout=60)
    account = tapped.until_delivered(30)
    assert (account["copied"], account["exported"], account["dropped"]) == (count, count, 0)
    tapped.end()
    arrived = tapped.arrived()
    lost = set(range(count)) - set(arrived)
    if resend_s:
        assert not lost, f"{sorted(lost)}; lost by the machine: {ipsec.overrun()}"
        assert account["exported_in_doubt"] == 0
        # Whatever came twice was sent again.
        assert len(arrived) - count <= account["resent"]
        assert account["resent"] > 1_000
    else:
        assert 0 < len(lost) <= account["exported_in_doubt"]
        assert account["resent"] == 0
        assert sorted(arrived) == arrived
    assert observer.in_clear() == []


def test_what_waits_is_bounded_and_the_oldest_is_lost(ipsec: Ipsec, tmp_path: Path) -> None:
    ipsec.load_peer("modern")
    tapped = Tapped(ipsec, tmp_path, "modern", spool_octets=65_536)
    tapped.start()
    tapped.until_tunnel("up")
    tapped.mediate()
    tapped.add(f"Source-Address: {SUBJECT}")
    tapped.send(10)
    tapped.until_delivered()
    ipsec.operator_charon.kill()
    tapped.until_tunnel("down", "connecting")
    tapped.send(500, octets=1_000)
    stats = tapped.stats()
    waiting = stats["in_spool"]
    assert 30 < waiting < 65
    assert tapped.destination()["dropped"] == 500 - waiting
    ipsec.operator_charon.start()
    tapped.until_tunnel("up", seconds=20)
    tapped.until_delivered()
    tapped.end()
    assert tapped.arrived() == [*range(10), *range(500 - waiting, 500)]


def test_tasking_is_not_heard_on_another_way(tapped: Tapped) -> None:
    """Somebody else is tasked in clear at the same place; the login that must come through the tunnel is not."""
    keys = (
        "--identity",
        str(tapped.directory / "id"),
        "--known-hosts",
        str(tapped.directory / "known_hosts"),
    )

    def noop(inside: str, user: str) -> int:
        line = [PYTHON, "-m", "flowtap", "dtcp", "--ssh", f"{TAP}:{SSH_PORT}", "--user", user, *keys, "noop"]
        done = subprocess.run(
            ["ip", "netns", "exec", inside, *line], capture_output=True, check=False, timeout=20, text=True
        )
        return done.returncode

    assert noop(tapped.ipsec.md, "md") == 0
    assert noop(tapped.subject, "md") == 1
    assert "login md from 192.0.2.77: not one of its addresses" in tapped.log


def test_nobody_connects_in_clear_where_everybody_must_come_through_the_tunnel(
    ipsec: Ipsec, tmp_path: Path
) -> None:
    ipsec.load_peer("modern")
    tapped = Tapped(ipsec, tmp_path, "modern")
    path = tmp_path / "flowtap.toml"
    path.write_text(path.read_text().replace("[control_source.md2]", '[control_source.md2]\ntunnel = "ttp"'))
    tapped.start()
    tapped.until_tunnel("up")
    connect = f"import socket; socket.create_connection(({TAP!r}, {SSH_PORT}), 2).recv(1)"

    def connects(inside: str) -> bool:
        words = ["ip", "netns", "exec", inside, PYTHON, "-c", connect]
        return subprocess.run(words, capture_output=True, check=False, timeout=20).returncode == 0

    assert connects(ipsec.md)
    assert not connects(tapped.subject)
    tapped.end()


def test_an_operator_takes_the_tunnel_down_and_up(tapped: Tapped) -> None:
    def flowtap(*words: str) -> subprocess.CompletedProcess[str]:
        line = [PYTHON, "-m", "flowtap", "tunnel", *words, "--socket", str(tapped.directory / "flowtap.sock")]
        return subprocess.run(line, capture_output=True, text=True, check=False, timeout=30)

    tapped.add(f"Source-Address: {SUBJECT}")
    assert flowtap("rekey", "ttp").returncode == 0
    assert flowtap("rekey", "ttp", "--ike").returncode == 0
    assert flowtap("down", "ttp").returncode == 0
    assert tapped.tunnel()["state"] == "down"
    tapped.send(20)
    until("they wait", lambda: tapped.stats()["in_spool"] == 20)
    refused = flowtap("rekey", "ttp")
    assert refused.returncode == 1
    assert "tunnel ttp" in refused.stderr
    assert "there are: ttp" in flowtap("up", "other").stderr
    assert flowtap("up", "ttp").returncode == 0
    tapped.until_tunnel("up")
    tapped.until_delivered()
    assert tapped.arrived() == list(range(20))
    records = [json.loads(row.text) for row in read_audit_log(tapped.directory / "flowtap.db")]
    acts = [dict(each["detail"])["act"] for each in records if each["event"] == "tunnel"]
    assert acts == ["rekey", "rekey ike", "down", "rekey", "up"]


def test_copies_on_disk_outlive_the_tap(ipsec: Ipsec, tmp_path: Path) -> None:
    """Ended while they wait: the next run, which has the key, delivers them; nobody else can read them."""
    ipsec.load_peer("modern")
    tapped = Tapped(ipsec, tmp_path, "modern", spool="disk")
    (tmp_path / "spool.key").write_bytes(bytes(range(32)))
    (tmp_path / "spool.key").chmod(0o600)
    with (tmp_path / "flowtap.toml").open("a") as more:
        more.write('\n[spool]\nkey_file = "spool.key"\n')
    tapped.start()
    tapped.until_tunnel("up")
    tapped.mediate()
    tapped.add(f"Source-Address: {SUBJECT}")
    ipsec.operator_charon.kill()
    tapped.until_tunnel("down", "connecting")
    # At most as many as wait in the buffer of a strongSwan that does ESP itself and gets no time to read it.
    count = 200
    tapped.send(count)
    until("all wait", lambda: tapped.stats()["in_spool"] == count)
    tapped.end()
    files = sorted((tmp_path / "spool").iterdir())
    assert sum(path.stat().st_size for path in files) > count * 100
    subject = bytes(int(each) for each in SUBJECT.split("."))
    for path in files:
        content = path.read_bytes()
        assert subject not in content
        assert path.stat().st_mode & 0o777 == 0o600
    ipsec.operator_charon.start()
    tapped.start()
    tapped.until_tunnel("up", seconds=20)
    until(
        "they are delivered",
        lambda: not tapped.stats()["in_spool"] and tapped.stats()["recovered"] == count,
    )
    tapped.end()
    assert tapped.arrived() == list(range(count))
    assert [path.name for path in (tmp_path / "spool").iterdir()] == ["lock"]
