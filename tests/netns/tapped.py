"""The tap of the operator, tasked by the mediation device through the tunnel, and a subject behind it.

The tap captures the interface that carries its own tunnel.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from daemon import write_configuration
from net import PYTHON, Net, show, until
from tasking import SERVER_PORT, add, numbers
from topology import INTERNET, MD, OPERATOR_SIDE, TAP, Ipsec, Profile

SUBJECT, SUBJECT_ROUTER = "192.0.2.77", "192.0.2.1"
COPIES_PORT, SSH_PORT = 30_000, 32_001

SINK = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
s.bind(("0.0.0.0", 9000))
print("listens", flush=True)
while True:
    s.recv(65535)
"""


def toml(value: Any) -> str:
    """A value as TOML has it."""
    return json.dumps(value)


class Tapped:
    """The daemon in the operator's namespace, and everybody around it.

    Args:
        ipsec: The namespaces, with strongSwan at both ends.
        directory: For the daemon.
        profile: The tunnel; None where the directory has a configuration already.
        section: Further values of the tunnel.
    """

    def __init__(self, ipsec: Ipsec, directory: Path, profile: Profile | None, **section: Any) -> None:
        self.ipsec, self.net, self.directory = ipsec, ipsec.net, directory
        self.subject = self._add_subject(self.net)
        if profile is not None:
            # With ESP in user space the tunnel has a device, which the guard knows.
            values = ipsec.section(profile, interface="ipsec0", **section)
            lines = "\n".join(f"{key} = {toml(value)}" for key, value in values.items())
            self.write(f"[tunnel.ttp]\n{lines}\n[policy]\nrequire_tunnel = true")
        self.user = "md"
        self.credentials = ("--identity", str(directory / "id"))
        self.process: subprocess.Popen[str] | None = None
        self._mediation: subprocess.Popen[str] | None = None

    def _add_subject(self, net: Net) -> str:
        subject = net.namespace("s")
        net.veth((subject, "sub0", f"{SUBJECT}/24"), (self.ipsec.operator, "op1", f"{SUBJECT_ROUTER}/24"))
        net.run(subject, "ip", "route", "add", "default", "via", SUBJECT_ROUTER)
        net.run(self.ipsec.internet, "ip", "route", "add", "192.0.2.0/24", "via", OPERATOR_SIDE)
        net.run(self.ipsec.operator, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        # Whoever the subject talks to does not answer, so that what is counted is what he has sent.
        server = net.start(self.ipsec.internet, PYTHON, "-c", SINK, stdout=subprocess.PIPE)
        assert server.stdout is not None
        assert server.stdout.readline() == "listens\n"
        return subject

    def write(self, more: str, element: str = 'interfaces = ["op0"]\ndirection = "both"') -> None:
        """The daemon's configuration."""
        write_configuration(self.directory, "")
        path = self.directory / "flowtap.toml"
        text = path.read_text().replace("[element.replay]\n", f"[element]\n{element}\n")
        text = text.replace("127.0.0.1:0", f"{TAP}:{SSH_PORT}")
        path.write_text(text.replace("[control_source.md]", '[control_source.md]\ntunnel = "ttp"') + more)
        public = (self.directory / "host_key.pub").read_text()
        (self.directory / "known_hosts").write_text(f"[{TAP}]:{SSH_PORT} {public}")

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def start(self) -> None:
        """Starts the daemon and waits until it listens."""
        before = self.log.count("DTCP over SSH on") if (self.directory / "log").exists() else 0
        with (self.directory / "log").open("a") as log:
            words = (PYTHON, "-m", "flowtap", "run", "--config", str(self.directory / "flowtap.toml"))
            process = self.net.start(self.ipsec.operator, *words, stderr=log)
        self.process = process

        def listens() -> bool:
            assert process.poll() is None, self.log
            return self.log.count("DTCP over SSH on") > before

        until("the daemon listens", listens, 20)

    def end(self, number: int = signal.SIGTERM) -> None:
        """Ends the daemon."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(timeout=20)
        assert "Traceback" not in self.log, self.log

    def tunnel(self) -> dict[str, Any]:
        """What the daemon says of its tunnel."""
        (found,) = show(self.directory, "security-associations")["tunnels"]
        value: dict[str, Any] = found
        return value

    def until_tunnel(self, *states: str, seconds: float = 15) -> None:
        """Waits for a state of the tunnel."""
        until(f"the tunnel is {' or '.join(states)}", lambda: self.tunnel()["state"] in states, seconds)

    def stats(self) -> dict[str, Any]:
        return show(self.directory, "stats")

    def destination(self) -> dict[str, Any]:
        """The account of the only content destination."""
        (found,) = self.stats()["content_destinations"]
        value: dict[str, Any] = found
        return value

    def dtcp(self, *words: str) -> str:
        """Tasks from the mediation device, with the program's client."""
        return self.net.run(
            self.ipsec.md,
            *(PYTHON, "-m", "flowtap", "dtcp", "--ssh", f"{TAP}:{SSH_PORT}", "--user", self.user),
            *(*self.credentials, "--known-hosts", str(self.directory / "known_hosts")),
            *words,
        )

    def add(self, *lines: str, source: str = TAP, port: int = COPIES_PORT, cdest: str = "md1") -> None:
        """Adds one criterion."""
        criteria = self.directory / "criteria"
        criteria.write_text(add(*lines, to=(MD, port), source=source, cdest=cdest))
        self.dtcp("add", str(criteria))

    def mediate(self) -> None:
        """Starts to receive copies at the mediation device."""
        self._mediation = self.net.start(
            self.ipsec.md,
            *(sys.executable, "-m", "flowtap", "mediate", "--listen", f"{MD}:{COPIES_PORT}"),
            *("--write-dir", str(self.directory / "received"), "--json"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._mediation.stderr is not None
        assert "listening on" in self._mediation.stderr.readline()

    def send(self, count: int, *, octets: int = 100, pause_s: float = 0.0005) -> None:
        """Numbered datagrams of the subject."""
        self.net.send_udp(self.subject, INTERNET, count, port=SERVER_PORT, octets=octets, pause_s=pause_s)

    def sending(self, count: int, *, octets: int = 100, pause_s: float) -> subprocess.Popen[str]:
        """The same beside the test."""
        from net import SEND_UDP  # noqa: PLC0415 - one place uses it

        process = self.net.start(self.subject, PYTHON, "-c", SEND_UDP, stdin=subprocess.PIPE)
        job = {"to": INTERNET, "count": count, "port": SERVER_PORT, "octets": octets, "pause_s": pause_s}
        assert process.stdin is not None
        process.stdin.write(json.dumps(job))
        process.stdin.close()
        return process

    def until_delivered(self, seconds: float = 20) -> dict[str, Any]:
        """Waits until nothing waits any more; returns the account of the destination."""

        def is_delivered() -> bool:
            stats = self.stats()
            return not stats["in_queue"] and not stats["in_spool"]

        until("nothing waits", is_delivered, seconds)
        return self.destination()

    def arrived(self) -> list[int]:
        """Ends the mediation device; the numbers of the datagrams that it has received, in their order."""
        assert self._mediation is not None
        time.sleep(0.3)
        self._mediation.send_signal(signal.SIGINT)
        output, _ = self._mediation.communicate(timeout=20)
        assert json.loads(output)["undecodable"] == 0
        return [
            number
            for path in sorted((self.directory / "received").glob("*.pcapng"))
            for number in numbers(path)
        ]
