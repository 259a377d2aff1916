"""flowtap demo: the whole system on recorded packets, on this machine.

A tap and a mediation device run as programs of their own. The device logs in over SSH, adds criteria in
DTCP, and writes what arrives; then three accounts are compared: what is in the recording, what the tap
counted, what the device has in its files.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import asyncssh
import click

from flowtap import Replay, explain
from flowtap.cli.console import Table, fail, print_table
from flowtap.cli.criteria import load_criteria
from flowtap.cli.local import ask
from flowtap.dtcp import Key
from flowtap.mediation import TaskingClient
from flowtap.service.logins import hash_password

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["demo"]

CONTROL_SOURCE = "ttp-md1"
PACKETS_PER_SECOND = 600
START_TIMEOUT_S = 15.0
PLAY_TIMEOUT_S = 15.0
IDLE_S = 0.6


@dataclass(frozen=True, slots=True)
class _Order:
    """One criterion of the scene."""

    what: str
    lines: tuple[str, ...]


ORDERS = (
    _Order("everything that one subscriber sends", ("Source-Address: 192.0.2.10",)),
    _Order("the voice that another one receives", ("Dest-Address: 192.0.2.20", "Protocol: 17")),
    _Order("web pages and fragments, out of a VLAN", ("Source-Address: 192.0.2.30/32",)),
    _Order("IPv6 inside PPPoE inside a VLAN", ("Dest-Address: 2001:db8:1::40",)),
)


@click.command()
@click.option("--keep", type=click.Path(path_type=Path), help="Keep everything in this new directory.")
def demo(*, keep: Path | None) -> None:
    """Show the whole system on recorded packets; nothing leaves this machine."""
    with ExitStack() as stack:
        if keep is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flowtap-demo-")))
        else:
            directory = keep
            try:
                directory.mkdir(mode=0o700, parents=True)
            except FileExistsError:
                fail(f"{keep}: exists; a new directory is right")
        capture = stack.enter_context(resources.as_file(resources.files("flowtap") / "demo" / "demo.pcapng"))
        _scene(directory, capture)
    if keep is not None:
        print(f"configuration, journal and received packets are in {keep}")


def _say(step: int, text: str) -> None:
    print(f"[{step}/6] {text}", flush=True)


def _scene(directory: Path, capture: Path) -> None:
    _say(1, "keys, a login that may do nothing but task, and the tap's configuration")
    password = _prepare(directory, capture)
    with ExitStack() as stack:
        _say(2, "the mediation device starts to listen")
        mediation, ports = stack.enter_context(_mediation(directory))
        _say(3, "the tap starts; its source is a recording, played once tasked")
        stack.enter_context(_tap(directory))
        status = ask(directory / "flowtap.sock", "status")
        _say(4, f"the device logs in over SSH as {CONTROL_SOURCE} and adds {len(ORDERS)} criteria in DTCP")
        ids = asyncio.run(_task(directory, status["ssh"][0], password, ports))
        _say(5, f"the recording runs at {PACKETS_PER_SECOND} packets a second; matches are copied and sent")
        stats = _play(directory)
        _say(6, "the device deletes its criteria, logs out, and closes its files")
        asyncio.run(_end(directory, status["ssh"][0], password, ids))
        arrived = _arrived(mediation)
    _compare(directory, capture, ports, stats, arrived)


def _prepare(directory: Path, capture: Path) -> str:
    key = asyncssh.generate_private_key("ssh-ed25519")
    _private(directory / "host_key", key.export_private_key())
    public = key.export_public_key().decode().split()
    (directory / "host_key.pub").write_text(" ".join(public[:2]) + "\n")
    password = secrets.token_urlsafe(18)
    _private(directory / "ttp.hash", hash_password(password).encode())
    (directory / "flowtap.toml").write_text(
        f"""\
[element]
name = "demo"

[element.replay]
files = ["{capture}"]
pace = {PACKETS_PER_SECOND}
wait_for_criteria = {len(ORDERS)}

[login.class.tasker]
permissions = ["flow-tap-operation"]

[login.user.{CONTROL_SOURCE}]
class = "tasker"
password_hash_file = "ttp.hash"

[control_source.{CONTROL_SOURCE}]

[dtcp.ssh]
listen = ["127.0.0.1:0"]
host_key_file = "host_key"
"""
    )
    return password


def _private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


@contextmanager
def _program(*words: str, errors: IO[Any] | int) -> Iterator[subprocess.Popen[str]]:
    """A flowtap of its own; ended with the scene, whatever happens."""
    process = subprocess.Popen(  # noqa: S603 - ourselves
        [sys.executable, "-P", "-m", "flowtap", *words],
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@contextmanager
def _mediation(directory: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    listen = ["--listen=127.0.0.1:0"] * len(ORDERS)
    words = ("mediate", *listen, f"--write-dir={directory / 'received'}", "--json")
    with _program(*words, errors=subprocess.PIPE) as process:
        ports = []
        for _ in ORDERS:
            line = process.stderr.readline() if process.stderr is not None else ""
            match = re.search(r"port (\d+)", line)
            if match is None:
                fail(f"the mediation device did not start: {line.strip()}")
            ports.append(int(match[1]))
        yield process, ports


@contextmanager
def _tap(directory: Path) -> Iterator[None]:
    log = directory / "tap.log"
    with (
        log.open("w") as errors,
        _program("run", f"--config={directory / 'flowtap.toml'}", errors=errors) as process,
    ):
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (directory / "flowtap.sock").exists() or "port" not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                fail(f"the tap did not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield


def _client(directory: Path, endpoint: str, password: str) -> TaskingClient:
    address, _, port = endpoint.rpartition(":")
    known_hosts = directory / "known_hosts"
    known_hosts.write_text(f"[{address}]:{port} {(directory / 'host_key.pub').read_text()}")
    return TaskingClient(
        address,
        int(port),
        user=CONTROL_SOURCE,
        key=Key(b"Juniper"),
        password=password,
        known_hosts=known_hosts,
    )


def _requests(ports: list[int], source_port: int) -> list[str]:
    return [
        "\n".join(
            (
                "ADD DTCP/0.7",
                f"Cdest-ID: cd{at}",
                *order.lines,
                "X-JTap-Cdest-Dest-Address: 127.0.0.1",
                f"X-JTap-Cdest-Dest-Port: {port}",
                "X-JTap-Cdest-Source-Address: 127.0.0.1",
                f"X-JTap-Cdest-Source-Port: {source_port}",
                "Flags: Static",
            )
        )
        for at, (order, port) in enumerate(zip(ORDERS, ports, strict=True), start=1)
    ]


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _task(directory: Path, endpoint: str, password: str, ports: list[int]) -> list[int]:
    requests = _requests(ports, _free_port())
    _private(directory / "criteria.txt", ("\n\n".join(requests) + "\n").encode())
    ids = []
    async with _client(directory, endpoint, password) as client:
        for seq, request in enumerate(requests, start=1):
            reply = await client.request_written(request, str(seq))
            criteria_id = reply.value("Criteria-ID")
            if criteria_id is None:
                fail(f"ADD was answered {reply.code} {reply.reason}: {reply.value('X-Error-Info')}")
            print(f"      ADD -> {reply.code} {reply.reason}, criteria {criteria_id}: {ORDERS[seq - 1].what}")
            ids.append(int(criteria_id))
    return ids


def _play(directory: Path) -> dict[str, Any]:
    deadline = time.monotonic() + PLAY_TIMEOUT_S
    while not ask(directory / "flowtap.sock", "status")["finished"]:
        if time.monotonic() > deadline:
            fail("the recording did not end in time")
        time.sleep(0.1)
    return ask(directory / "flowtap.sock", "stats")


async def _end(directory: Path, endpoint: str, password: str, ids: list[int]) -> None:
    text = ",".join(map(str, ids))
    async with _client(directory, endpoint, password) as client:
        reply = await client.request_written(
            f"DELETE DTCP/0.7\nCriteria-ID: {text}\nFlags: Static", str(len(ids) + 1)
        )
        print(f"      DELETE -> {reply.code} {reply.reason}, {reply.value('Criteria-Count')} criteria")
        reply = await client.request_written("LIST DTCP/0.7\nFlags: Both", str(len(ids) + 2))
        print(f"      LIST -> {reply.code} {reply.reason}, {len(reply.entries)} criteria left")


def _arrived(mediation: subprocess.Popen[str]) -> dict[str, Any]:
    import json  # noqa: PLC0415 - only here

    time.sleep(IDLE_S)
    mediation.send_signal(signal.SIGINT)
    output, _ = mediation.communicate(timeout=10)
    value: dict[str, Any] = json.loads(output)
    return value


def _compare(
    directory: Path, capture: Path, ports: list[int], stats: dict[str, Any], arrived: dict[str, Any]
) -> None:
    """Recording, tap and mediation device must say the same of every criterion."""
    recorded = Replay([str(capture)], load_criteria(str(directory / "criteria.txt")).table).run()
    by_port = {stream["destination_port"]: stream for stream in arrived["streams"]}
    in_files = _in_files(directory)
    rows = []
    agree = True
    for at, (order, port) in enumerate(zip(ORDERS, ports, strict=True)):
        seen, destination = stats["criteria"][at], stats["content_destinations"][at]
        stream = by_port.get(port, {"packets": 0, "octets": 0})
        file_packets = in_files.get(port, 0)
        rows.append(
            (at + 1, order.what, seen["packets"], destination["copied"], stream["packets"], stream["octets"])
        )
        counts = {
            recorded.stats.criteria[at].packets,
            seen["packets"],
            seen["copies"],
            destination["copied"],
            destination["exported"],
            stream["packets"],
            file_packets,
        }
        octets = {recorded.stats.criteria[at].octets, seen["octets"], stream["octets"]}
        agree = agree and len(counts) == 1 and len(octets) == 1 and seen["packets"] > 0
    print()
    print_table(Table(("criteria", "what", "seen", "copied", "arrived", "octets"), rows))
    print(
        f"\n{stats['frames']:,} frames in the recording, {stats['undecodable']} without IP,"
        f" {stats['matched']:,} matched, {stats['copied']:,} copied, {stats['exported']:,} sent,"
        f" {sum(stream['packets'] for stream in arrived['streams']):,} arrived"
    )
    if not agree:
        fail("the accounts do not agree")
    print("accounts agree")


def _in_files(directory: Path) -> dict[int, int]:
    """Packets in each of the mediation device's files, by destination port."""
    return {
        int(path.stem.rpartition("_")[2]): sum(1 for _ in explain(str(path)))
        for path in (directory / "received").glob("*.pcapng")
    }
