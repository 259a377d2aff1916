"""Network namespaces that a test makes and removes, and programs inside them."""

from __future__ import annotations

import itertools
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from flowtap.cli.local import ask

HERE = Path(__file__).parent
PYTHON = sys.executable
_NUMBERS = itertools.count(1)

SEND_UDP = """
import json, socket, sys, time
job = json.load(sys.stdin)
family = socket.AF_INET6 if ":" in job["to"] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
if job.get("source"):
    s.bind((job["source"], job.get("source_port", 0)))
s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
for number in range(job["count"]):
    s.sendto(number.to_bytes(4, "big") + b"x" * (job["octets"] - 4), (job["to"], job["port"]))
    if job["pause_s"]:
        time.sleep(job["pause_s"])
"""
SEND_FRAMES = """
import json, socket, sys
job = json.load(sys.stdin)
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((job["interface"], 0))
for frame in job["frames"]:
    s.send(bytes.fromhex(frame))
"""

AS_NOBODY = """
import importlib, os, sys
from flowtap.cli.main import COMMANDS, run
# Before he may read little: this interpreter may lie where he cannot go.
importlib.import_module(f"flowtap.cli.{COMMANDS[sys.argv[1]][0]}")
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sys.exit(run(sys.argv[1:]))
"""
"""Runs a command of flowtap as somebody without rights."""


class Net:
    """Namespaces and the veth pairs between them; gone with the last line of the test."""

    def __init__(self) -> None:
        self._prefix = f"ft{os.getpid()}x{next(_NUMBERS)}"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    def namespace(self, name: str) -> str:
        """A namespace with its loopback up."""
        full = f"{self._prefix}{name}"
        subprocess.run(["ip", "netns", "add", full], check=True)
        self._stack.callback(subprocess.run, ["ip", "netns", "delete", full], check=True)
        self.run(full, "ip", "link", "set", "lo", "up")
        # What a kernel says of its own accord is no part of any count.
        for family in ("all", "default"):
            self.run(full, "sysctl", "-qw", f"net.ipv6.conf.{family}.disable_ipv6=1")
        return full

    def run(self, inside: str, *words: str, data: str | None = None) -> str:
        """Runs a program inside a namespace and returns what it prints."""
        done = subprocess.run(
            ["ip", "netns", "exec", inside, *words],
            input=data,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    def veth(self, one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
        """A pair between (namespace, interface, address with length); an empty address is none."""
        # Each end is made where it belongs, so that no name is ever seen elsewhere.
        subprocess.run(
            [
                *("ip", "link", "add", one[1], "netns", one[0], "type", "veth"),
                *("peer", "name", other[1], "netns", other[0]),
            ],
            check=True,
        )
        for inside, interface, address in (one, other):
            if address:
                family = ["-6"] if ":" in address else []
                if family:
                    self.run(inside, "sysctl", "-qw", f"net.ipv6.conf.{interface}.disable_ipv6=0")
                self.run(
                    inside,
                    "ip",
                    *family,
                    "addr",
                    "add",
                    address,
                    "dev",
                    interface,
                    *(["nodad"] if family else []),
                )
            self.run(inside, "ip", "link", "set", interface, "up")

    def address(self, inside: str, interface: str) -> bytes:
        """The hardware address of an interface."""
        (link,) = json.loads(self.run(inside, "ip", "-j", "link", "show", "dev", interface))
        return bytes.fromhex(link["address"].replace(":", ""))

    def send_udp(
        self,
        inside: str,
        to: str,
        count: int,
        *,
        port: int = 9000,
        octets: int = 100,
        pause_s: float = 0.0005,
        source: str = "",
    ) -> None:
        """Numbered datagrams."""
        job = {"to": to, "count": count, "port": port, "octets": octets, "pause_s": pause_s, "source": source}
        self.run(inside, PYTHON, "-c", SEND_UDP, data=json.dumps(job))

    def send_frames(self, inside: str, interface: str, frames: Sequence[bytes]) -> None:
        """Frames, octet by octet."""
        job = {"interface": interface, "frames": [frame.hex() for frame in frames]}
        self.run(inside, PYTHON, "-c", SEND_FRAMES, data=json.dumps(job))

    def tapper(
        self, inside: str, interfaces: Sequence[str], criteria: Sequence[dict[str, Any]], **options: Any
    ) -> Tapper:
        """A tap in a process of its own."""
        tapper = Tapper(
            inside, {"interfaces": list(interfaces), "criteria": list(criteria), "options": options}
        )
        self._stack.callback(tapper.end)
        return tapper

    def start(self, inside: str, *words: str, **streams: Any) -> subprocess.Popen[str]:
        """Starts a program inside a namespace; it ends with the test at the latest."""
        process = subprocess.Popen(["ip", "netns", "exec", inside, *words], text=True, **streams)
        self._stack.callback(_end, process)
        return process


def counters(inside: str, protocol: str) -> dict[str, int]:
    """What the kernel has counted of a protocol (``Udp``, ``Ip``) in a namespace; nothing before it has begun to."""
    words = ["ip", "netns", "exec", inside, "cat", "/proc/net/snmp"]
    listed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    named = [line.split()[1:] for line in listed.splitlines() if line.startswith(f"{protocol}:")]
    return {name: int(value) for name, value in zip(*named, strict=True)} if named else {}


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


class Tapper:
    """`Tap.live` in another process and namespace, asked over a pipe."""

    def __init__(self, inside: str, job: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", inside, PYTHON, str(HERE / "tapper.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._exchange(job) == "started"

    def _exchange(self, question: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the tap has ended"
        return json.loads(answer)

    def stats(self, pause_s: float = 0.05) -> dict[str, Any]:
        """The account of this moment; after the pause what the kernel holds back is there."""
        time.sleep(pause_s)
        value: dict[str, Any] = self._exchange({"do": "stats"})
        return value

    def packets(self) -> dict[int, int]:
        """Packets by criterion."""
        return {each["id"]: each["packets"] for each in self.stats()["criteria"]}

    def change(self, remove: Sequence[int] = (), add: Sequence[dict[str, Any]] = ()) -> int:
        """Changes the table; returns its generation."""
        return int(self._exchange({"do": "change", "remove": list(remove), "add": list(add)}))

    def open(self, tunnel: str) -> None:
        """Opens the gate of a tunnel."""
        self._exchange({"do": "open", "tunnel": tunnel})

    def shut(self, tunnel: str, in_doubt_s: float = 0.0) -> None:
        """Shuts the gate of a tunnel."""
        self._exchange({"do": "shut", "tunnel": tunnel, "in_doubt_s": in_doubt_s})

    def events(self) -> list[str]:
        """What has happened to interfaces."""
        value: list[str] = self._exchange({"do": "events"})
        return value

    def end(self) -> None:
        """Ends it."""
        if self._process.poll() is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(timeout=20)
        assert self._process.stdout is not None
        self._process.stdout.close()
        assert self._process.returncode == 0


def until(what: str, true: Any, seconds: float = 10) -> None:
    """Waits until something is true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def show(directory: Path, what: str) -> dict[str, Any]:
    """What a daemon says over its local socket."""
    return ask(directory / "flowtap.sock", what)


def udp_packet(
    source: str, destination: str, payload: bytes, *, port: int = 9000, identification: int = 0
) -> bytes:
    """An IPv4 packet with a UDP datagram without checksum."""

    def octets(address: str) -> bytes:
        return bytes(int(each) for each in address.split("."))

    udp = struct.pack("!HHHH", 40_000, port, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), identification, 0, 64, 17, 0)
    head += octets(source) + octets(destination)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return head[:10] + struct.pack("!H", checksum) + head[12:] + udp
