"""An operator, the Internet, a gateway and a mediation device behind it: four namespaces with two real strongSwan
daemons, as the how-to has them. The Internet would deliver what leaks, so that a test of leaks is honest.

    operator --198.51.100.0/30-- internet --203.0.113.0/30-- gateway --2.2.2.0/27-- md (2.2.2.2)

The operator's gateway is 100.100.100.100, its tap 100.100.100.101; the third party's gateway is 123.123.123.123.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, Self

import pytest
import vici
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from net import Net, counters, until

OPERATOR_GATEWAY, TAP = "100.100.100.100", "100.100.100.101"
REMOTE_GATEWAY, REMOTE_NETWORK, MD = "123.123.123.123", "2.2.2.0/27", "2.2.2.2"
OPERATOR_SIDE, INTERNET = "198.51.100.2", "198.51.100.1"
PASSWORD = "a_password_here"  # noqa: S105 - as the how-to prints it
MARK_PORT = 7

Profile = Literal["how_to", "modern", "certificate"]
Plugins = Literal["libipsec", "netlink"]

_PLUGINS = (
    "random nonce drbg openssl hmac kdf pem pkcs1 pkcs8 x509 pubkey constraints {kernel} socket-default updown"
    " vici counters"
)
_KERNEL = {"libipsec": "kernel-libipsec kernel-netlink", "netlink": "kernel-netlink"}
"""The plugin for ESP in user space must come first. Without it, this is a host whose kernel must have ESP."""
_CONFIGURATION = """\
charon-systemd {{
  load = {plugins}
  install_routes = yes
  # A dead peer is noticed {dead:.2f} s after it was asked.
  retransmit_tries = {tries}
  retransmit_timeout = {timeout}
  retransmit_base = {base}
  filelog {{ f {{ path = {directory}/charon.log
                time_format = %Y-%m-%dT%H:%M:%S
                default = 1
                knl = 2
                chd = {keys}
                flush_line = yes }} }}
  journal {{ default = -1 }}
  plugins {{ vici {{ socket = unix://{directory}/vici }} }}
}}
"""
_TRIES, _TIMEOUT, _BASE = 2, 1.0, 1.5
DEAD_AFTER_S = sum(_TIMEOUT * _BASE**at for at in range(_TRIES + 1))
"""What these settings amount to: 4.75 s."""


class Charon:
    """One daemon of strongSwan, in its namespace and with a directory of its own.

    Args:
        net: Where the namespace is.
        inside: The namespace.
        directory: For its files; the name of a local socket must be short.
    """

    def __init__(self, net: Net, inside: str, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.socket = directory / "vici"
        self._net = net
        self._inside = inside
        self._process: subprocess.Popen[str] | None = None

    def start(self, kernel: Plugins = "libipsec", *, log_keys: bool = False) -> None:
        """Starts it and waits until it listens.

        Args:
            kernel: Who does ESP: the daemon itself, or a kernel that has none.
            log_keys: Whether its log has the keys of ESP, for a test that decrypts.
        """
        assert self._process is None or self._process.poll() is not None
        configuration = self.directory / "strongswan.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                plugins=_PLUGINS.format(kernel=_KERNEL[kernel]),
                directory=self.directory,
                dead=DEAD_AFTER_S,
                tries=_TRIES,
                timeout=_TIMEOUT,
                base=_BASE,
                keys=4 if log_keys else 1,
            )
        )
        self.socket.unlink(missing_ok=True)
        self._process = self._net.start(
            self._inside, "env", f"STRONGSWAN_CONF={configuration}", "/usr/sbin/charon-systemd"
        )
        until("charon listens", self._listens)

    def _listens(self) -> bool:
        with suppress(OSError), self.session():
            return True
        return False

    @property
    def pid(self) -> int:
        """Of the daemon that runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return (self.directory / "charon.log").read_text()

    def signal(self, number: int) -> None:
        """Sends a signal: SIGTERM, SIGKILL, or SIGSTOP and SIGCONT."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        """Ends it as a host that is shut down does: it says so to the other side."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it without a word to anybody."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        assert self._process is not None
        self.signal(number)
        self._process.wait(timeout=20)

    def session(self) -> Session:
        """A connection to it, for what a test wants of it."""
        return Session(self.socket)


class Session:
    """A blocking connection over the package of strongSwan's own."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(10)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self.vici: Any = vici.Session(self._socket)

    def __enter__(self) -> Any:
        return self.vici

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()


@dataclass
class Certificates:
    """An authority with a certificate for each side, as files."""

    directory: Path

    def __post_init__(self) -> None:
        self.directory.mkdir()
        self._key = ec.generate_private_key(ec.SECP384R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        self._write("authority", self._sign(self._name, self._key.public_key(), is_authority=True))
        for who in ("operator", "gateway", "stranger"):
            key = ec.generate_private_key(ec.SECP384R1())
            name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{who}.example")])
            self._write(who, self._sign(name, key.public_key(), is_authority=False), key)

    def _sign(
        self, name: x509.Name, key: ec.EllipticCurvePublicKey, *, is_authority: bool
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateBuilder(self._name, name, key, x509.random_serial_number())
        builder = builder.not_valid_before(now - dt.timedelta(days=1))
        builder = builder.not_valid_after(now + dt.timedelta(days=1))
        constraints = x509.BasicConstraints(ca=is_authority, path_length=None)
        return builder.add_extension(constraints, critical=True).sign(self._key, hashes.SHA384())

    def _write(
        self, who: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey | None = None
    ) -> None:
        self.file(who).write_bytes(certificate.public_bytes(Encoding.PEM))
        if key is not None:
            self.key_file(who).write_bytes(
                key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            )
            self.key_file(who).chmod(0o600)

    def file(self, who: str) -> Path:
        """Somebody's certificate."""
        return self.directory / f"{who}.pem"

    def key_file(self, who: str) -> Path:
        """Somebody's private key."""
        return self.directory / f"{who}.key"


PROPOSALS: dict[Profile, tuple[str, str, str]] = {
    "how_to": ("1", "3des-sha1-modp1024", "3des-sha1"),
    "modern": ("2", "aes256gcm16-prfsha384-ecp384", "aes256gcm16-ecp384"),
    "certificate": ("2", "aes256gcm16-prfsha384-ecp384", "aes256gcm16-ecp384"),
}


class Ipsec:
    """The four namespaces and what is done in them."""

    def __init__(self) -> None:
        self.net = Net()
        self.directory = Path(tempfile.mkdtemp(prefix="ft"))
        self.operator = self.net.namespace("o")
        self.internet = self.net.namespace("i")
        self.gateway = self.net.namespace("g")
        self.md = self.net.namespace("m")
        self._connect()
        self.operator_charon = Charon(self.net, self.operator, self.directory / "o")
        self.gateway_charon = Charon(self.net, self.gateway, self.directory / "g")
        self._certificates: Certificates | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.net.__exit__(*exception)
        finally:
            shutil.rmtree(self.directory)

    def _connect(self) -> None:
        net = self.net
        net.veth((self.operator, "op0", f"{OPERATOR_SIDE}/30"), (self.internet, "net0", f"{INTERNET}/30"))
        net.veth((self.gateway, "ttp0", "203.0.113.2/30"), (self.internet, "net1", "203.0.113.1/30"))
        net.veth((self.md, "md0", f"{MD}/27"), (self.gateway, "ttp1", "2.2.2.1/27"))
        for inside, words in (
            (self.operator, f"addr add {OPERATOR_GATEWAY}/32 dev lo"),
            (self.operator, f"addr add {TAP}/32 dev lo"),
            (self.operator, f"route add default via {INTERNET}"),
            (self.gateway, f"addr add {REMOTE_GATEWAY}/32 dev lo"),
            (self.gateway, "route add default via 203.0.113.1"),
            (self.md, "route add default via 2.2.2.1"),
            (self.internet, f"route add 100.100.100.100/31 via {OPERATOR_SIDE}"),
            (self.internet, f"route add {REMOTE_GATEWAY}/32 via 203.0.113.2"),
            # A network that nobody routes would hide a leak.
            (self.internet, f"route add {REMOTE_NETWORK} via 203.0.113.2"),
        ):
            net.run(inside, "ip", *words.split())
        for inside in (self.internet, self.gateway):
            net.run(inside, "sysctl", "-qw", "net.ipv4.ip_forward=1")

    @property
    def certificates(self) -> Certificates:
        """Made when the first one is wanted."""
        if self._certificates is None:
            self._certificates = Certificates(self.directory / "pki")
        return self._certificates

    # -- both sides' configuration

    def section(self, profile: Profile, **changes: Any) -> dict[str, Any]:
        """What the operator writes into ``[tunnel.NAME]``."""
        values: dict[str, Any] = {
            "local_gateway": OPERATOR_GATEWAY,
            "remote_gateway": REMOTE_GATEWAY,
            "local_networks": [f"{TAP}/32"],
            "remote_networks": [REMOTE_NETWORK],
            "vici_socket": str(self.operator_charon.socket),
            "dpd_delay_s": 1,
            "dead_peer_s": 4,
            # The gateway does ESP in user space, with the usual buffers, on a busy machine.
            "drain_pps": 1_500,
        }
        if profile == "how_to":
            values |= {"legacy": True, "ike_version": 1}
        if profile == "certificate":
            made = self.certificates
            values |= {
                "certificate_file": str(made.file("operator")),
                "private_key_file": str(made.key_file("operator")),
                "authority_file": str(made.file("authority")),
                "remote_id": "CN=gateway.example",
            }
        else:
            password = self.directory / "password"
            password.write_text(PASSWORD)
            password.chmod(0o600)
            values["pre_shared_key_file"] = str(password)
        return values | changes

    def load_peer(
        self,
        profile: Profile,
        *,
        password: str = PASSWORD,
        who: str = "gateway",
        networks: tuple[str, ...] = (REMOTE_NETWORK,),
        tap: tuple[str, ...] = (f"{TAP}/32",),
        child: dict[str, Any] | None = None,
        **changes: Any,
    ) -> None:
        """Tells the gateway's strongSwan of the operator; it waits for it.

        Args:
            profile: As the operator has it.
            password: What it takes for the operator's.
            who: Whose certificate it shows.
            networks: What it offers behind it.
            tap: What it expects on the other side.
            child: Further values of the child.
            changes: Further values of the connection.
        """
        version, ike, esp = PROPOSALS[profile]
        local: dict[str, Any] = {"auth": "psk", "id": REMOTE_GATEWAY}
        remote: dict[str, Any] = {"auth": "psk", "id": OPERATOR_GATEWAY}
        with self.gateway_charon.session() as session:
            if profile == "certificate":
                made = self.certificates
                session.load_key({"type": "any", "data": made.key_file(who).read_bytes()})
                local = {"auth": "pubkey", "certs": [made.file(who).read_bytes()]}
                remote = {
                    "auth": "pubkey",
                    "id": "CN=operator.example",
                    "cacerts": [made.file("authority").read_bytes()],
                }
            else:
                owners = [OPERATOR_GATEWAY, REMOTE_GATEWAY]
                session.load_shared({"id": "psk", "type": "IKE", "data": password, "owners": owners})
            session.load_conn(
                {
                    "operator": {
                        "version": version,
                        "local_addrs": [REMOTE_GATEWAY],
                        "remote_addrs": [OPERATOR_GATEWAY],
                        "proposals": [ike],
                        "mobike": "no",
                        "local": local,
                        "remote": remote,
                        "children": {
                            "content": {
                                "mode": "tunnel",
                                "local_ts": list(networks),
                                "remote_ts": list(tap),
                                "esp_proposals": [esp],
                                **(child or {}),
                            }
                        },
                        **changes,
                    }
                }
            )

    def terminate_at_peer(self, what: Literal["ike", "child"]) -> None:
        """The gateway deletes what there is, and says so."""
        which = {"ike": "operator"} if what == "ike" else {"child": "content"}
        with self.gateway_charon.session() as session:
            for _ in session.terminate({**which, "timeout": "3000"}):
                pass

    # -- the path between them

    def cut(self, toward: Literal["both", "gateway", "operator"] = "both") -> None:
        """The Internet delivers nothing more, without a word to anybody."""
        which = {"both": "", "gateway": 'iifname "net0" ', "operator": 'iifname "net1" '}[toward]
        self.net.run(
            self.internet,
            *("nft", "add table ip cut; add chain ip cut f { type filter hook forward priority 0; };"),
            f"add rule ip cut f {which}counter drop",
        )

    def heal(self) -> None:
        """It does again."""
        self.net.run(self.internet, "nft", "delete", "table", "ip", "cut")

    def overrun(self) -> dict[str, int]:
        """What each end has lost so far because somebody was not given the processor, by place and counted by the kernel.

        ESP in user space passes a device whose queue takes 500 packets, and sockets with the usual buffers; a busy
        machine overruns both without a word to the sender.
        """
        found = {}
        for name, inside in (("operator", self.operator), ("gateway", self.gateway), ("md", self.md)):
            found[f"{name}: UDP sockets"] = counters(inside, "Udp")["RcvbufErrors"]
            for line in self.net.run(inside, "cat", "/proc/net/dev").splitlines()[2:]:
                device, _, counts = line.partition(":")
                dropped = counts.split()
                found[f"{name}: {device.strip()} in"] = int(dropped[3])
                found[f"{name}: {device.strip()} out"] = int(dropped[11])
        return {place: count for place, count in found.items() if count}

    def passes(self) -> bool:
        """Whether a ping from the tap to the mediation device is answered, however it gets there."""
        words = ("ping", "-n", "-q", "-c", "1", "-W", "1", "-I", TAP, MD)
        done = subprocess.run(
            ["ip", "netns", "exec", self.operator, *words], capture_output=True, check=False, timeout=10
        )
        return done.returncode == 0

    def observer(self) -> Observer:
        """Somebody on the Internet who writes down what passes by."""
        return Observer(self)


@dataclass(frozen=True)
class Seen:
    """An IPv4 packet that somebody has seen; ports are None where there are none."""

    source: str
    destination: str
    protocol: int
    source_port: int | None
    destination_port: int | None
    packet: bytes

    @property
    def is_protected(self) -> bool:
        """Whether it is ESP, by itself or in UDP, or the IKE that goes with it, between the gateways."""
        if {self.source, self.destination} != {OPERATOR_GATEWAY, REMOTE_GATEWAY}:
            return False
        if self.protocol == socket.IPPROTO_ICMP:
            # A host that has lost its strongSwan says so of every packet, which it quotes.
            quoted = parse(self.packet[(self.packet[0] & 0xF) * 4 + 8 :])
            return quoted.protocol != socket.IPPROTO_ICMP and quoted.is_protected
        ports = {self.source_port, self.destination_port}
        return self.protocol == socket.IPPROTO_ESP or (
            self.protocol == socket.IPPROTO_UDP and bool(ports & {500, 4500})
        )

    def __str__(self) -> str:
        return (
            f"protocol {self.protocol} {self.source}:{self.source_port}"
            f" > {self.destination}:{self.destination_port}, {len(self.packet)} octets"
        )


class Observer:
    """``tcpdump`` on the link between the operator and the Internet."""

    def __init__(self, ipsec: Ipsec) -> None:
        self._ipsec = ipsec
        self._marks = 0
        self.file = ipsec.directory / f"observed{time.monotonic_ns()}.pcap"
        self._process = ipsec.net.start(
            ipsec.internet,
            *("tcpdump", "-i", "net0", "-w", str(self.file), "-U", "--immediate-mode", "-Z", "root", "ip"),
            stderr=subprocess.PIPE,
        )
        assert self._process.stderr is not None
        assert "listening on" in self._process.stderr.readline()

    def seen(self) -> list[Seen]:
        """All IPv4 packets so far, in order: everything that was sent before this call is among them."""
        self._marks += 1
        mark = b"mark %d" % self._marks
        self._ipsec.net.run(
            self._ipsec.operator,
            *("bash", "-c", f"printf '{mark.decode()}' > /dev/udp/{INTERNET}/{MARK_PORT}"),
        )
        found: list[Seen] = []

        def marked() -> bool:
            found[:] = read_packets(self.file)
            return any(each.packet.endswith(mark) for each in found)

        until("the observer sees the mark", marked)
        return [each for each in found if INTERNET not in {each.source, each.destination}]

    def in_clear(self) -> list[str]:
        """What was seen that is neither IKE nor ESP between the gateways: nothing, if all is well."""
        return [str(each) for each in self.seen() if not each.is_protected]

    def protected(self) -> list[bytes]:
        """The IP packets that are."""
        return [each.packet for each in self.seen() if each.is_protected]

    def stop(self) -> None:
        """It looks no more."""
        self._process.terminate()
        self._process.wait(timeout=10)


def read_packets(file: Path) -> list[Seen]:
    """The IPv4 packets of a capture file that may still be written."""
    data, at, found = file.read_bytes(), 24, []
    ports_of: dict[tuple[bytes, bytes], tuple[int, int]] = {}
    while at + 16 <= len(data):
        (length,) = struct.unpack_from("<I", data, at + 8)
        frame = data[at + 16 : at + 16 + length]
        at += 16 + length
        if len(frame) < length or frame[12:14] != b"\x08\x00":
            continue
        found.append(parse(frame[14:], ports_of))
    return found


def parse(packet: bytes, ports_of: dict[tuple[bytes, bytes], tuple[int, int]] | None = None) -> Seen:
    """An IPv4 packet, or the beginning of one; later fragments have the ports of their first."""
    ports_of = {} if ports_of is None else ports_of
    (total,) = struct.unpack_from("!H", packet, 2)
    packet = packet[:total]
    (fragment,) = struct.unpack_from("!H", packet, 6)
    ports: tuple[int | None, int | None] = (None, None)
    datagram = (packet[4:6], packet[12:20])
    if fragment & 0x1FFF:
        ports = ports_of.get(datagram, ports)
    elif packet[9] in {socket.IPPROTO_TCP, socket.IPPROTO_UDP}:
        ports_of[datagram] = ports = struct.unpack_from("!HH", packet, (packet[0] & 0xF) * 4)
    source, destination = (str(ip_address(packet[at : at + 4])) for at in (12, 16))
    return Seen(source, destination, packet[9], *ports, packet)


@pytest.fixture
def ipsec() -> Iterator[Ipsec]:
    """The namespaces with both daemons running and nothing configured."""
    with Ipsec() as made:
        made.operator_charon.start()
        made.gateway_charon.start()
        yield made


def needs_root() -> list[pytest.MarkDecorator]:
    """What a test file that uses this is marked with."""
    return [
        pytest.mark.netns,
        pytest.mark.skipif(os.geteuid() != 0, reason="only root makes network namespaces"),
    ]
