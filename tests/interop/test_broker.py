"""Two processes: the one that the network reaches has no right at all, the other gives descriptors."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon import ADD, FOR_EVER, Tap, end, start, write_configuration

from flowtap.cli.local import ask

NET_RAW = 1 << 13
FOREIGN = "192.0.2.77"

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up"),
]


@pytest.fixture
def tap(tmp_path: Path) -> Iterator[Tap]:
    write_configuration(tmp_path, FOR_EVER)
    tap = start(tmp_path)
    yield tap
    end(tap)


def capabilities(status: Path) -> dict[str, int]:
    lines = (line.partition(":") for line in status.read_text().splitlines())
    return {name: int(value, 16) for name, _, value in lines if name.startswith("Cap")}


def children(process_id: int) -> list[int]:
    words = Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()
    return [int(word) for word in words]


def until(what: str, true: Any) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def task(tap: Tap, port: int) -> None:
    """Tasks copies with a source address that is not this host's."""
    text = ADD.format(at=10, port=port).replace(
        "Cdest-Source-Address: 127.0.0.1", f"Cdest-Source-Address: {FOREIGN}"
    )

    async def add() -> int:
        async with tap.client() as client:
            return (await client.request_written(text, "1")).code

    assert asyncio.run(add()) == 200


def test_rights_are_in_the_broker_alone(tap: Tap) -> None:
    main = tap.process.pid
    threads = list(Path(f"/proc/{main}/task").glob("*/status"))
    assert len(threads) > 1
    for status in threads:
        assert not any(capabilities(status).values()), status.read_text()
    assert "NoNewPrivs:\t1" in Path(f"/proc/{main}/status").read_text()
    (broker,) = children(main)
    held = capabilities(Path(f"/proc/{broker}/status"))
    assert held["CapEff"] & NET_RAW
    assert held["CapEff"] == held["CapPrm"]
    assert not held["CapEff"] & 1  # CAP_CHOWN, of those that root has
    assert held["CapBnd"] == held["CapEff"]
    # It has one socket, the pair's, and hears nothing of the network.
    links = {str(path.readlink()) for path in Path(f"/proc/{broker}/fd").iterdir()}
    assert len([link for link in links if link.startswith("socket:")]) == 1, links
    told = ask(tap.socket, "status")
    assert told["broker"] == "running"
    assert "CAP_NET_RAW" in told["broker_rights"]
    assert told["own_rights"] == []
    tap.until("runs as root: without capabilities, but root's files are open to it")


def test_copies_leave_with_a_foreign_source_address(tap: Tap) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as arrival:
        arrival.bind(("127.0.0.1", 0))
        arrival.settimeout(10)
        task(tap, arrival.getsockname()[1])
        _, (source, port) = arrival.recvfrom(4096)
    assert (source, port) == (FOREIGN, 40001)


def test_without_its_broker_it_taps_on_and_says_so(tap: Tap) -> None:
    (broker,) = children(tap.process.pid)
    os.kill(broker, signal.SIGKILL)
    tap.until("the broker has ended")
    assert ask(tap.socket, "status")["broker"] == "ended"
    task(tap, 9)
    until("copies are dropped", lambda: ask(tap.socket, "stats")["dropped"])
    (destination,) = ask(tap.socket, "content-destinations")["content_destinations"]
    assert "the broker does not answer" in destination["last_error"]
    assert tap.process.poll() is None


def test_the_broker_ends_with_the_daemon(tap: Tap) -> None:
    (broker,) = children(tap.process.pid)
    # A signal of the terminal or of the service manager is for the daemon.
    os.kill(broker, signal.SIGTERM)
    os.kill(broker, signal.SIGINT)
    assert ask(tap.socket, "status")["broker"] == "running"
    tap.process.kill()
    tap.process.wait()
    until("the broker ends", lambda: not Path(f"/proc/{broker}/status").exists())


def test_started_without_rights_there_is_nothing_to_keep(tmp_path: Path) -> None:
    write_configuration(tmp_path, FOR_EVER)
    drop = ("import os, sys; from flowtap._flowtap import keep_rights; keep_rights([]);"
            " os.execv(sys.argv[1], sys.argv[1:])")  # fmt: skip
    tap = start(tmp_path, sys.executable, "-c", drop)
    try:
        assert children(tap.process.pid) == []
        tap.until("no broker: this process was started without the right CAP_NET_RAW")
        assert ask(tap.socket, "status")["broker"] == "none"
        task(tap, 9)
        until("copies are dropped", lambda: ask(tap.socket, "stats")["dropped"])
        (destination,) = ask(tap.socket, "content-destinations")["content_destinations"]
        assert "CAP_NET_RAW" in destination["last_error"]
    finally:
        end(tap)


def test_code_in_the_current_directory_is_not_the_brokers(tmp_path: Path) -> None:
    """It is started with all rights: a package of that name that lies about must not become it."""
    for name in ("flowtap", "asyncio"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"open({str(tmp_path / 'taken')!r}, 'w')\n")
    words = (
        "from flowtap.service.broker import Broker; broker = Broker([]); print(broker.state); broker.close()"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", words], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "running\n"
    assert not (tmp_path / "taken").exists()


def test_requests_that_are_none_end_the_broker() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "flowtap.service.broker_process", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stderr=subprocess.DEVNULL,
        )
        ours.settimeout(20)
        assert ours.recv(100).startswith(b"ready")
        ours.sendall(b"1 packet lo\n")
        assert ours.recv(100) == b"1 no the configuration names no such interface\n"
        ours.sendall(b"x" * 300)
        assert process.wait(timeout=10) == 1


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_daemon_that_is_killed_while_its_broker_starts(has_begun: bool) -> None:
    """Nobody hears any more that it is ready, or nobody has read it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    words = [sys.executable, "-m", "flowtap.service.broker_process", str(theirs.fileno())]
    with theirs:
        if not has_begun:
            ours.close()
        process = subprocess.Popen(words, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE)
    if has_begun:
        assert select.select([ours], [], [], 20)[0]
        ours.close()
    assert process.communicate(timeout=20)[1] == b""
    assert process.returncode == 0
