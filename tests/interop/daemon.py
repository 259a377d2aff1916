"""A daemon of its own for every test, and ways to it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flowtap.cli.local import ask
from flowtap.dtcp import Key, Version
from flowtap.mediation import TaskingClient
from flowtap.service.logins import hash_password

CAPTURE = Path(__file__).parents[1] / "captures" / "plain.pcap"
KEY = Key(b"Juniper")
OWN_KEY = Key(b"a key of its own")
V7 = Version(0, 7)
ADD = (
    "ADD DTCP/0.7\nCdest-ID: cd{at}\nSource-Address: 192.0.2.{at}\nX-JTap-Cdest-Dest-Address: 127.0.0.1\n"
    "X-JTap-Cdest-Dest-Port: {port}\nX-JTap-Cdest-Source-Address: 127.0.0.1\n"
    "X-JTap-Cdest-Source-Port: 40001\nFlags: STATIC"
)
ONCE = f'files = ["{CAPTURE}"]\npace = "fast"\nwait_for_criteria = true'
"""A source: a recording, played once when the first criterion is there."""
FOR_EVER = f'files = ["{CAPTURE}"]\npace = 50\nloop = true'
"""A source: the same recording, slowly and again and again."""


@dataclass
class Tap:
    directory: Path
    process: subprocess.Popen[bytes]
    port: int

    def client(
        self, user: str = "md", key: Key = KEY, password: str = "right", timeout_s: float = 5
    ) -> TaskingClient:
        return TaskingClient(
            "127.0.0.1",
            self.port,
            user=user,
            key=key,
            password=password,
            known_hosts=self.directory / "known_hosts",
            timeout_s=timeout_s,
        )

    def openssh(self, *words: str, data: bytes = b"", user: str = "md") -> subprocess.CompletedProcess[bytes]:
        options = [
            *("-p", str(self.port), "-i", str(self.directory / "id"), "-F", "none"),
            *("-o", f"UserKnownHostsFile={self.directory / 'known_hosts'}", "-o", "IdentitiesOnly=yes"),
            *("-o", "PasswordAuthentication=no", "-o", "BatchMode=yes"),
        ]
        return subprocess.run(
            ["ssh", *options, f"{user}@127.0.0.1", *words],
            input=data,
            capture_output=True,
            timeout=20,
            check=False,
        )

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    @property
    def socket(self) -> Path:
        return self.directory / "flowtap.sock"

    def until(self, words: str) -> None:
        """Waits until the log says something."""
        deadline = time.monotonic() + 10
        while words not in self.log:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def reload(self, before: str, after: str) -> None:
        """Changes the configuration and has it taken over."""
        path = self.directory / "flowtap.toml"
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))
        count = self.log.count("reloaded ")
        self.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while self.log.count("reloaded ") == count:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)


def write_configuration(directory: Path, source: str, extra: str = "") -> None:
    for name in ("host_key", "id"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)], check=True
        )
    (directory / "hash").write_text(hash_password("right"))
    (directory / "own.key").write_bytes(OWN_KEY.octets)
    for name in ("hash", "own.key"):
        (directory / name).chmod(0o600)
    (directory / "flowtap.toml").write_text(
        f"""
[element.replay]
{source}
[login.class.tasker]
permissions = ["flow-tap-operation"]
[login.class.reader]
permissions = ["flow-tap", "flow-tap-control"]
[login.user.md]
class = "tasker"
password_hash_file = "hash"
authorized_keys_file = "id.pub"
[login.user.md2]
class = "tasker"
password_hash_file = "hash"
[login.user.reader]
class = "reader"
password_hash_file = "hash"
authorized_keys_file = "id.pub"
[control_source.md]
[control_source.md2]
key_file = "own.key"
[dtcp.ssh]
listen = ["127.0.0.1:0"]
host_key_file = "host_key"
{extra}
"""
    )


def start(directory: Path, *inside: str) -> Tap:
    """Starts the daemon of a configuration, in a network namespace where words lead into one."""
    with (directory / "log").open("ab") as log:
        said_before = log.tell()
        process = subprocess.Popen(
            [*inside, sys.executable, "-m", "flowtap", "run", "--config", str(directory / "flowtap.toml")],
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 30
        while b"DTCP over SSH on" not in (directory / "log").read_bytes()[said_before:]:
            assert process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        port = int(ask(directory / "flowtap.sock", "status")["ssh"][0].rpartition(":")[2])
    except BaseException:
        process.kill()
        process.wait()
        raise
    public = (directory / "host_key.pub").read_text()
    (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}")
    return Tap(directory, process, port)


@contextmanager
def running(directory: Path, source: str, extra: str = "") -> Iterator[Tap]:
    """A daemon with a configuration of its own, until the block ends; it must end well."""
    write_configuration(directory, source, extra)
    tap = start(directory)
    try:
        yield tap
    finally:
        end(tap)
    assert tap.process.returncode == 0
    assert "Traceback" not in tap.log


def end(tap: Tap) -> None:
    if tap.process.poll() is None:
        tap.process.send_signal(signal.SIGTERM)
    tap.process.wait(timeout=10)
