"""DTCP over UDP, and the notifications that go with it."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from flowtap.cli.local import ask
from flowtap.cli.main import run
from flowtap.dtcp import Key, ListRequest, NoopRequest, Version
from flowtap.dtcp.render import render_request
from flowtap.dtcp.reply import Reply, parse_reply
from flowtap.mediation import DatagramTaskingClient, TaskingError
from flowtap.service.logins import hash_password

CAPTURE = Path(__file__).parents[1] / "captures" / "plain.pcap"
KEY = Key(b"a key of its own")
V7 = Version(0, 7)
ADD = (
    "ADD DTCP/0.7\nCdest-ID: cd1\nSource-Address: 192.0.2.10\nX-JTap-Cdest-Dest-Address: 127.0.0.1\n"
    "X-JTap-Cdest-Dest-Port: 9\nX-JTap-Cdest-Source-Address: 127.0.0.1\nX-JTap-Cdest-Source-Port: 40003\n"
)

pytestmark = pytest.mark.interop


@dataclass
class Tap:
    directory: Path
    targets: list[socket.socket]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    port: int = 0

    def client(self, user: str = "md", key: Key = KEY, timeout_s: float = 5) -> DatagramTaskingClient:
        return DatagramTaskingClient("127.0.0.1", self.port, user=user, key=key, timeout_s=timeout_s)

    def notification(self, target: int = 0) -> Reply:
        data, _ = self.targets[target].recvfrom(65_536)
        return parse_reply(data, KEY)

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def start(self) -> None:
        with (self.directory / "log").open("wb") as log:
            words = [sys.executable, "-m", "flowtap", "run", "--config", str(self.directory / "flowtap.toml")]
            process = subprocess.Popen(words, stderr=log)
        self.processes.append(process)
        deadline = time.monotonic() + 15
        while "DTCP over UDP on" not in self.log:
            assert process.poll() is None, self.log
            assert time.monotonic() < deadline
            time.sleep(0.05)
        self.port = int(ask(self.directory / "flowtap.sock", "status")["udp"][0].rpartition(":")[2])

    def kill(self) -> None:
        self.processes[-1].kill()
        self.processes[-1].wait()


@pytest.fixture
def tap(tmp_path: Path) -> Iterator[Tap]:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "host_key")], check=True
    )
    (tmp_path / "key").write_bytes(KEY.octets)
    (tmp_path / "key").chmod(0o600)
    targets = []
    for _ in range(3):
        target = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        target.bind(("127.0.0.1", 0))
        target.settimeout(5)
        targets.append(target)
    ports = [target.getsockname()[1] for target in targets]
    (tmp_path / "flowtap.toml").write_text(
        f"""
[element.replay]
files = ["{CAPTURE}"]
pace = 200
loop = true
[control_source.md]
key_file = "key"
notification_targets = ["127.0.0.1:{ports[0]}", "127.0.0.1:{ports[1]}"]
[control_source.md2]
key_file = "key"
notification_targets = ["127.0.0.1:{ports[2]}"]
notification_version = "0.6"
[dtcp.udp]
listen = ["127.0.0.1:0"]
[dtcp.ssh]
listen = ["127.0.0.1:0"]
host_key_file = "host_key"
"""
    )
    tap = Tap(tmp_path, targets)
    tap.start()
    yield tap
    for process in tap.processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=10)
    for target in targets:
        target.close()
    assert "Traceback" not in tap.log


@pytest.mark.ledger("T-052", "T-150")
def test_tasking_and_replays(tap: Tap) -> None:
    """Added, listed, and no message is believed twice, not even after a restart."""

    async def task() -> None:
        async with tap.client() as client:
            assert (await client.request_written(ADD + "Flags: Static", "100")).value("Criteria-ID") == "1"
            listed = await client.request(ListRequest(V7, "md", "101", stats=True))
            assert len(listed.entries) == 1
            values = {each.name: each.value for each in listed.entries[0]}
            assert values["Csource-Address"] == "127.0.0.1"

    async def again(seq: int) -> None:
        # Longer than a second: of those in one second only the first is in the log.
        async with tap.client(timeout_s=1.1) as client:
            await client.request(NoopRequest(V7, "md", str(seq)))

    asyncio.run(task())
    asyncio.run(again(99))
    for seq in (100, 99, 400):
        with pytest.raises(TaskingError, match="no answer"):
            asyncio.run(again(seq))
    assert tap.log.count("498 Invalid Sequence Number") == 3
    tap.kill()
    tap.start()
    # A restart says what it meant, to the one that had something.
    for target in (0, 1):
        reply = tap.notification(target)
        assert reply.code == 599
        moment = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"
        info = f"restarted; 1 of 1 criteria restored; not copying {moment} to {moment}"
        assert re.fullmatch(info, reply.value("Alert-Info") or "")
    with pytest.raises(TaskingError, match="no answer"):
        asyncio.run(again(101))
    asyncio.run(again(102))


def test_a_long_list_comes_in_parts(tap: Tap) -> None:
    async def many() -> None:
        async with tap.client() as client:
            for seq in range(1, 61):
                assert (await client.request_written(ADD + "Flags: Static", str(seq))).code == 200
            listed = await client.request(ListRequest(V7, "md", "61", stats=True))
            ids = [
                int(each.value) for entry in listed.entries for each in entry if each.name == "Criteria-ID"
            ]
            assert ids == list(range(1, 61))

    asyncio.run(many())


@pytest.mark.ledger("T-022", "T-023", "T-055", "T-097", "T-147", "T-151", "T-152", "T-153")
def test_notifications(tap: Tap) -> None:
    async def task() -> None:
        async with tap.client() as client:
            await client.request(NoopRequest(V7, "md", "1", send_async=True))
            await client.request(NoopRequest(V7, "md", "2"))
            await client.request_written(ADD + "Timeout-Packets: 5\nTimeout-Idle: 600\nFlags: SendAsync", "3")
            await client.request_written(ADD + "Timeout-Packets: 5", "4")
        async with tap.client("md2") as client:
            await client.request(NoopRequest(V7, "md2", str(2**64 - 1)))
            await client.request(NoopRequest(V7, "md2", "0"))

    asyncio.run(task())
    for target in (0, 1):
        noop = tap.notification(target)
        assert (noop.code, str(noop.version), noop.seq) == (131, "DTCP/0.7", None)
    rolled = tap.notification(2)
    assert (rolled.code, str(rolled.version)) == (130, "DTCP/0.6")
    ended = tap.notification()
    assert ended.code == 390
    values = {each.name: each.value for each in ended.parameters}
    assert list(values) == [
        *(
            "Criteria-ID",
            "Timeout-Idle",
            "Timeout-Packets",
            "Remaining-Idle",
            "Remaining-Packets",
            "Timestamp",
        ),
    ]
    assert (values["Criteria-ID"], values["Timeout-Packets"], values["Remaining-Packets"]) == ("1", "5", "0")
    # The other one had not asked for a notification.
    tap.targets[0].settimeout(1.5)
    with pytest.raises(TimeoutError):
        tap.notification()
    assert "criteria 2 of md ended: packets" in tap.log
    assert "the sequence numbers of md2 have gone round" in tap.log


def test_a_login_of_that_name_says_what_it_may_do(tap: Tap) -> None:
    """The secret says who it is; a class without flow-tap-operation tasks as little as over SSH."""
    path = tap.directory / "flowtap.toml"
    good = path.read_text()
    (tap.directory / "hash").write_text(hash_password("right"))
    (tap.directory / "hash").chmod(0o600)

    async def one(seq: str) -> int:
        async with tap.client() as client:
            return (await client.request_written(ADD + "Flags: Static", seq)).code

    def reload(permission: str) -> None:
        path.write_text(
            f'{good}[login.class.some]\npermissions = ["{permission}"]\n'
            '[login.user.md]\nclass = "some"\npassword_hash_file = "hash"\n'
        )
        before = tap.log.count("reloaded ")
        tap.processes[-1].send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while tap.log.count("reloaded ") == before:
            assert time.monotonic() < deadline, tap.log
            time.sleep(0.02)

    assert asyncio.run(one("1")) == 200
    reload("flow-tap")
    assert asyncio.run(one("2")) == 400
    reload("flow-tap-operation")
    assert asyncio.run(one("3")) == 200


def test_what_is_no_request_costs_few_lines(tap: Tap) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as noise:
        for number in range(500):
            noise.sendto(b"x", ("127.0.0.1", tap.port))
            if number % 50 == 49:
                # The socket's buffer has room for some three hundred.
                time.sleep(0.1)
    time.sleep(0.5)
    test_what_is_no_request_is_ignored(tap)
    assert 0 < tap.log.count("497 Invalid Authentication: from 127.0.0.1") < 20


def test_what_is_no_request_is_ignored(tap: Tap) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as noise:
        for data in (
            b"",
            b"x" * 60_000,
            b"\0" * 1400,
            render_request(NoopRequest(V7, "md", "5"), Key(b"Juniper")),
        ):
            noise.sendto(data, ("127.0.0.1", tap.port))

    async def one() -> int:
        async with tap.client() as client:
            return (await client.request(NoopRequest(V7, "md", "1"))).code

    assert asyncio.run(one()) == 200


@pytest.mark.ledger("T-006")
def test_the_command_line_client(
    tap: Tap, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tap.directory / "state"))
    words = [
        "dtcp",
        "--udp",
        f"127.0.0.1:{tap.port}",
        "--user",
        "md",
        "--key-file",
        str(tap.directory / "key"),
    ]
    assert run([*words, "noop"]) == 0
    assert run([*words, "list"]) == 0
    assert run(["dtcp", "--udp", "127.0.0.1:1", "--user", "md", "noop"]) == 2
    assert run(["dtcp", "--user", "md", "noop"]) == 2
    assert "200 OK" in capsys.readouterr().out
    # Numbers go on from one call to the next, or the tap would believe none.
    (kept,) = (tap.directory / "state" / "flowtap" / "sequence-numbers").iterdir()
    assert kept.read_text() == "2\n"
    assert run([*words, "--seq", "7", "--seq-file", str(kept), "noop"]) == 2
    words[2] = "127.0.0.1:1"
    assert run([*words, "--timeout-s", "0.3", "noop"]) == 1
