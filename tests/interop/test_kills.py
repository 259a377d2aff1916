"""Killed at any moment: what was acknowledged is there, what was ended stays ended, and all accounts agree."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from daemon import CAPTURE, OWN_KEY
from nursery import Child, Nursery

from flowtap._flowtap import rights_held
from flowtap.cli.local import ask
from flowtap.control import verify
from flowtap.dtcp import AddRequest, DeleteRequest, FilterText, IdRange, Key, Parameter, Timeouts, Version
from flowtap.dtcp.render import render_request
from flowtap.dtcp.reply import parse_reply
from flowtap.service.auditlog import read_audit_log

pytestmark = pytest.mark.interop

V7 = Version(0, 7)
KILLS = 1000 if os.environ.get("HYPOTHESIS_PROFILE") == "slow" else 50
"""Of each of two walks."""
AHEAD_MAX = 100
"""Requests without an answer; a number more than 256 ahead of those that were seen is never accepted."""
DELIVERY = tuple(
    Parameter(f"X-JTap-Cdest-{name}", value)
    for name, value in (
        ("Dest-Address", "127.0.0.1"),
        ("Dest-Port", "9"),
        ("Source-Address", "127.0.0.1"),
        ("Source-Port", "40007"),
    )
)


class Walk:
    """A daemon that is killed again and again while it is tasked over UDP."""

    def __init__(self, directory: Path, seed: int, rights: list[str]) -> None:
        self.directory = directory
        self.nursery = Nursery()
        self.rights = rights
        self.random = random.Random(seed)  # noqa: S311 - repeatable, no secret
        self.seq = 0
        self.answered = 0
        """The highest number that the tap has certainly seen."""
        self.key = Key(OWN_KEY.octets)
        self.asked: dict[str, AddRequest | DeleteRequest] = {}
        self.added: set[int] = set()
        self.deleted: set[int] = set()
        self.doomed: set[int] = set()
        """Ids that a DELETE without an answer has named: they may be there or not."""
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / "host_key")], check=True
        )
        (directory / "key").write_bytes(OWN_KEY.octets)
        (directory / "key").chmod(0o600)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (directory / "flowtap.toml").write_text(
            f"""
[element.replay]
files = ["{CAPTURE}"]
pace = 2000
loop = true
[control_source.md]
key_file = "key"
max_criteria = 1000000
[dtcp.udp]
listen = ["127.0.0.1:{self.port}"]
[dtcp.ssh]
listen = ["127.0.0.1:0"]
host_key_file = "host_key"
"""
        )
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(("127.0.0.1", self.port))
        self.socket.setblocking(False)

    def start(self) -> Child:
        process = self.nursery.start(self.directory, self.rights)
        deadline = time.monotonic() + 20
        path = self.directory / "flowtap.sock"
        while True:
            assert not process.has_ended, (self.directory / "log").read_text()
            assert time.monotonic() < deadline
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(path)) == 0:
                    return process
            time.sleep(0.005)

    def close(self) -> None:
        self.socket.close()
        self.nursery.close()

    def send(self) -> None:
        """One more ADD or DELETE, without waiting for anything."""
        self.seq += 1
        seq = str(self.seq)
        request: AddRequest | DeleteRequest
        alive = sorted(self.added - self.deleted)
        if alive and self.random.random() < 0.4:
            number = self.random.choice(alive)
            request = DeleteRequest(
                V7, "md", seq, criteria_ids=(IdRange(number, number, single=True),), static=True
            )
        else:
            source = FilterText(source=f"192.0.2.{self.random.randrange(1, 40)}")
            is_static = self.random.random() < 0.7
            times = Timeouts() if is_static else Timeouts(total_s=3600, packets=10**9)
            request = AddRequest(
                V7, "md", seq, ("cd1",), source, times, static=is_static, extensions=DELIVERY
            )
        self.asked[seq] = request
        try:
            self.socket.send(render_request(request, self.key))
        except OSError:
            # Nobody listens any more.
            return

    def receive(self) -> None:
        """Takes what has been acknowledged."""
        while True:
            try:
                reply = parse_reply(self.socket.recv(65_536), self.key)
            except BlockingIOError:
                return
            except OSError:
                continue
            assert reply.seq is not None
            self.answered = max(self.answered, int(reply.seq))
            request = self.asked.pop(reply.seq)
            if isinstance(request, AddRequest):
                assert reply.code == 200
                self.added.add(int(reply.value("Criteria-ID") or 0))
            elif reply.code == 200:
                assert request.criteria_ids is not None
                self.deleted.add(request.criteria_ids[0].first)

    def round(self) -> None:
        if self.random.random() < 0.2:
            # Killed while it restores, before anybody could ask it anything.
            process = self.nursery.start(self.directory, self.rights)
            time.sleep(self.random.random() * 0.4)
            status = process.end(signal.SIGKILL)
            assert status == -signal.SIGKILL, status
        process = self.start()
        self.agree()
        # So many answers and not so much time, so that a slow machine does as much as a quick one.
        wanted = len(self.added) + len(self.deleted) + self.random.randrange(12)
        # What nobody answered before the last kill is not waited for.
        unanswered = self.seq - self.answered
        deadline = time.monotonic() + 20
        while len(self.added) + len(self.deleted) <= wanted:
            assert time.monotonic() < deadline, (self.directory / "log").read_text()[-2000:]
            for _ in range(self.random.choice([1, 1, 3, 20])):
                if self.seq - self.answered < AHEAD_MAX + unanswered:
                    self.send()
            answered = self.answered
            self.receive()
            if self.answered > answered:
                unanswered = 0
            time.sleep(self.random.choice([0, 0.001, 0.004]))
        status = process.end(signal.SIGKILL)
        assert status == -signal.SIGKILL, status
        self.receive()
        # Numbers that the tap may have seen are behind it for good.
        self.seq += 1
        for request in self.asked.values():
            if isinstance(request, DeleteRequest) and request.criteria_ids is not None:
                self.doomed.add(request.criteria_ids[0].first)
        self.asked.clear()

    def agree(self) -> None:
        """Data plane, registry, journal and audit log say the same, and it fits what was acknowledged."""
        shown = {
            each["criteria_id"] for each in ask(self.directory / "flowtap.sock", "intercepts")["intercepts"]
        }
        active = {each["id"] for each in ask(self.directory / "flowtap.sock", "stats")["criteria"]}
        started: set[int] = set()
        stopped: set[int] = set()
        rows = list(read_audit_log(self.directory / "flowtap.db"))
        verify(rows)
        for row in rows:
            record: dict[str, Any] = json.loads(row.text)
            if record["event"] == "start":
                started.add(record["criteria_id"])
            if record["event"] == "stop":
                stopped.add(record["criteria_id"])
        assert shown == active == started - stopped
        assert self.added <= started
        assert self.deleted <= stopped
        # An acknowledged criterion is only gone if somebody asked for that.
        assert self.added - self.deleted - self.doomed <= shown
        # What was carried out without its answer having arrived is found now.
        self.deleted |= (self.added & self.doomed) - shown
        self.added |= shown
        self.doomed &= shown


@pytest.mark.timeout(KILLS * 10)
def test_killed_again_and_again(tmp_path: Path) -> None:
    """Two daemons at once, one with a broker beside it."""
    with ThreadPoolExecutor() as executor:
        walks = [
            executor.submit(take, tmp_path / str(seed), seed, rights)
            for seed, rights in ((1, rights_held()), (2, []))
        ]
        for walk in walks:
            walk.result()


def take(directory: Path, seed: int, rights: list[str]) -> None:
    directory.mkdir()
    with closing(Walk(directory, seed, rights)) as walk:
        for _ in range(KILLS):
            walk.round()
        process = walk.start()
        walk.agree()
        assert process.end(signal.SIGTERM) == 0
    log = (directory / "log").read_text()
    assert "Traceback" not in log, log[log.index("Traceback") :][:2000]
    # Every restart that had something to go on with has said so.
    assert len(re.findall(r"md: Server Restart: Alert-Info restarted; \d+ of \d+", log)) > KILLS * 0.8
    assert len(walk.added) > 3 * KILLS
    assert len(walk.deleted) > KILLS
