"""What hostile or broken peers do to the control port, and what a lawful one notices of it: nothing."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon import ADD, CAPTURE, FOR_EVER, KEY, OWN_KEY, V7, Tap, end, running, start, write_configuration
from net import counters

from flowtap.cli.local import ask
from flowtap.control import verify
from flowtap.dtcp import ListRequest, NoopRequest, Reply
from flowtap.dtcp.render import render_request, sign
from flowtap.mediation import TaskingClient, TaskingError
from flowtap.mediation.datagram import DatagramTaskingClient
from flowtap.service.auditlog import read_audit_log

pytestmark = pytest.mark.interop


@pytest.fixture
def tap(tmp_path: Path) -> Iterator[Tap]:
    with running(tmp_path, FOR_EVER, '[dtcp.udp]\nlisten = ["127.0.0.1:0"]') as tap:
        yield tap
    assert "192.0.2." not in tap.log


def resident_octets(tap: Tap) -> int:
    fields = Path(f"/proc/{tap.process.pid}/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize()


async def noop(tap: Tap, seq: str = "1") -> int:
    async with tap.client() as client:
        return (await client.request(NoopRequest(V7, "md", seq))).code


def test_a_thousand_silent_connections_keep_nobody_out(tap: Tap) -> None:
    """From a thousand addresses, all of them loopback; the lawful client comes in the middle of them."""
    before = resident_octets(tap)
    silent: list[socket.socket] = []
    try:
        for at in range(1000):
            connection = socket.socket()
            connection.bind((f"127.1.{at // 250}.{at % 250 + 1}", 0))
            connection.settimeout(5)
            connection.connect(("127.0.0.1", tap.port))
            silent.append(connection)
            if at in {400, 999}:
                assert asyncio.run(noop(tap)) == 200
    finally:
        for connection in silent:
            connection.close()
    assert resident_octets(tap) - before < 100 << 20
    assert asyncio.run(noop(tap)) == 200


def test_silent_connections_from_one_address_are_few(tap: Tap) -> None:
    silent = []
    for _ in range(30):
        connection = socket.socket()
        connection.bind(("127.0.0.9", 0))
        connection.connect(("127.0.0.1", tap.port))
        silent.append(connection)
    tap.until("connection from 127.0.0.9 refused: more than 10 connections that have not logged in")
    assert asyncio.run(noop(tap)) == 200
    for connection in silent:
        connection.close()


def test_guessing_passwords_is_slow(tmp_path: Path) -> None:
    """So many attempts a minute from one address, then nothing."""
    write_configuration(tmp_path, FOR_EVER)
    path = tmp_path / "flowtap.toml"
    path.write_text(path.read_text().replace("[dtcp.ssh]\n", "[dtcp.ssh]\nrate_limit = 10\n"))
    tap = start(tmp_path)

    async def guess() -> tuple[int, int]:
        refused = wrong = 0
        for _ in range(15):
            try:
                async with tap.client(password="wrong", timeout_s=5):
                    pytest.fail("was let in")
            except TaskingError as error:
                wrong += "did not accept" in str(error)
                refused += "did not accept" not in str(error)
        return wrong, refused

    # Each attempt costs the guesser an Argon2 hash and its place among those who wait.
    wrong, refused = asyncio.run(guess())
    end(tap)
    assert (wrong, refused) == (10, 5)
    assert "refused: more than 10 attempts in a minute" in tap.log
    assert tap.log.count("wrong password or user from 127.0.0.1") == 10


def test_a_message_without_end(tap: Tap) -> None:
    """Sixty-four megabytes in one line, one session: refused in bounded memory, and the session goes on."""

    async def flood() -> None:
        async with tap.client(timeout_s=30) as client:
            writer = client._writer
            assert writer is not None
            writer.write(b"ADD DTCP/0.7\r\nSource-Address: ")
            for _ in range(64):
                writer.write(b"192.0.2.1," * 104_858)
                await writer.drain()
            writer.write(b"\r\n\r\n")
            reply = await client.request(NoopRequest(V7, "md", "2"))
            assert reply.code == 200

    before = resident_octets(tap)
    asyncio.run(flood())
    assert resident_octets(tap) - before < 32 << 20
    assert "a message of more than 65536 octets" in tap.log


@pytest.mark.ledger("T-043")
def test_answers_that_nobody_reads(tap: Tap) -> None:
    """Thousands of LISTs of a long list, none of whose answers is taken."""

    async def ask_and_do_not_listen() -> int:
        async with tap.client(timeout_s=30) as client:
            writer = client._writer
            assert writer is not None
            for at in range(500):
                lines = ADD.format(at=1, port=9).replace("\n", "\r\n")
                writer.write(sign(f"{lines}\r\nCsource-ID: md\r\nSeq: {at}\r\n", KEY))
            for at in range(500):
                assert (await client._reply()).seq == str(at)
            before = resident_octets(tap)
            for at in range(3000):
                writer.write(render_request(ListRequest(V7, "md", str(at), stats=True), KEY))
            await asyncio.sleep(3)
            return resident_octets(tap) - before

    assert asyncio.run(ask_and_do_not_listen()) < 48 << 20
    assert asyncio.run(noop(tap)) == 200


async def add_many(client: TaskingClient, count: int, padding: int = 0) -> None:
    writer = client._writer
    assert writer is not None
    lines = ADD.format(at=1, port=9).replace("\n", "\r\n")
    for at in range(count):
        writer.write(sign(f"{lines}\r\nX-a: {'a' * padding}\r\nCsource-ID: md\r\nSeq: {at}\r\n", KEY))
        assert (await client._reply()).seq == str(at)


def test_a_window_without_bounds(tap: Tap) -> None:
    """The peer lets a channel send what it likes, and takes nothing from the network."""

    async def ask_and_do_not_listen() -> int:
        async with tap.client(timeout_s=30) as client:
            await add_many(client, 300, 2000)
            connection = client._connection
            assert connection is not None
            writer, _, _ = await connection.open_session(
                subsystem="flow-tap-dtcp", encoding=None, window=1 << 30
            )
            before = resident_octets(tap)
            for at in range(300):
                writer.write(render_request(ListRequest(V7, "md", str(at), stats=True), KEY))
            await asyncio.sleep(0)
            transport = connection._transport
            assert isinstance(transport, asyncio.Transport)
            transport.pause_reading()
            await asyncio.sleep(4)
            grown = resident_octets(tap) - before
            connection.abort()
            return grown

    assert asyncio.run(ask_and_do_not_listen()) < 32 << 20
    assert asyncio.run(noop(tap)) == 200


def test_lists_of_one_login_that_nobody_takes(tap: Tap) -> None:
    """Four are made; the others wait until one of these has been taken."""

    async def unread() -> None:
        async with tap.client(timeout_s=30) as client:
            await add_many(client, 300, 2000)
            connection = client._connection
            assert connection is not None
            channels = [
                await connection.open_session(subsystem="flow-tap-dtcp", encoding=None, window=1024)
                for _ in range(7)
            ]
            before = resident_octets(tap)
            for writer, _, _ in channels:
                writer.write(render_request(ListRequest(V7, "md", "1", stats=True), KEY))
            began = []
            for _, reader, _ in channels:
                try:
                    async with asyncio.timeout(2):
                        began.append(await reader.readexactly(8) == b"DTCP/0.7")
                except TimeoutError:
                    began.append(False)
            assert began == [True] * 4 + [False] * 3
            assert resident_octets(tap) - before < 32 << 20
            # Nobody else notices.
            async with tap.client("md2", OWN_KEY) as other:
                assert (await other.request(NoopRequest(V7, "md2", "1"))).code == 200
            channels[0][0].close()
            async with asyncio.timeout(5):
                assert await channels[4][1].readexactly(8) == b"DTCP/0.7"
            connection.abort()

    asyncio.run(unread())


@pytest.mark.ledger("T-043")
def test_one_octet_a_moment(tap: Tap) -> None:
    """A request that dribbles in disturbs no other session, and is answered when it is there."""
    message = render_request(NoopRequest(V7, "md", "7"), KEY)

    async def dribble() -> None:
        async with tap.client(timeout_s=20) as slow, tap.client() as quick:
            assert slow._writer is not None
            for at, octet in enumerate(message):
                slow._writer.write(bytes([octet]))
                if at % 20 == 0:
                    assert (await quick.request(NoopRequest(V7, "md", str(at)))).code == 200
                await asyncio.sleep(0.005)
            assert (await slow._reply()).seq == "7"

    asyncio.run(dribble())


def test_two_halves_that_end_with_the_session(tap: Tap) -> None:
    """Half a request is none, even when the session ends behind it; nothing of it reaches another session."""
    first, second = (
        sign(
            f"{ADD.format(at=at, port=9)}\r\nCsource-ID: md\r\nSeq: 1\r\n".replace("\n", "\r\n").replace(
                "\r\r", "\r"
            ),
            KEY,
        )
        for at in (1, 2)
    )

    async def interleave() -> None:
        async with tap.client() as one, tap.client() as other:
            assert one._writer is not None
            assert other._writer is not None
            half = len(first) // 2
            one._writer.write(first[:half])
            other._writer.write(second[:half])
            other._writer.write(second[half:])
            assert (await other._reply()).value("criteria-id") == "1"
            one._writer.write(first[half:])
            assert (await one._reply()).value("criteria-id") == "2"
            one._writer.write(first[:half])
            one._writer.write_eof()
        async with tap.client() as client:
            assert len((await client.request(ListRequest(V7, "md", "1"))).entries) == 2

    asyncio.run(interleave())


def test_noise_instead_of_ssh(tap: Tap) -> None:
    for noise in (
        b"GET / HTTP/1.1\r\n\r\n",
        os.urandom(100_000),
        b"SSH-2.0-x\r\n" + os.urandom(100_000),
        b"",
    ):
        with socket.create_connection(("127.0.0.1", tap.port), timeout=5) as connection:
            try:
                connection.sendall(noise)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    pass
            except OSError:
                continue
    assert asyncio.run(noop(tap)) == 200


@pytest.mark.ledger("T-007")
@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a network with a short MTU")
def test_requests_and_answers_in_fragments(tmp_path: Path) -> None:
    """Longer than any packet of the path: IP puts them together again, on both sides [DTCP §3.1]."""
    namespace = f"flowtap-{os.getpid()}"
    inside = ["ip", "netns", "exec", namespace]
    many = ",".join(f"198.51.100.{at}-198.51.100.{at}" for at in range(1, 250))
    (tmp_path / "criteria.txt").write_text(ADD.format(at=1, port=9).replace("192.0.2.1", many))
    udp = '[dtcp.udp]\nlisten = ["127.0.0.1:1814"]'
    write_configuration(tmp_path, FOR_EVER, udp)
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    try:
        subprocess.run([*inside, "ip", "link", "set", "lo", "up", "mtu", "1500"], check=True)
        tap = start(tmp_path, *inside)
        words = [*inside, sys.executable, "-m", "flowtap", "dtcp", "--udp", "127.0.0.1:1814", "--user", "md2"]
        words += ["--key-file", str(tmp_path / "own.key"), "--seq-file", str(tmp_path / "numbers")]
        try:
            subprocess.run([*words, "add", str(tmp_path / "criteria.txt")], check=True, capture_output=True)
            listed = subprocess.run([*words, "--json", "list"], check=True, capture_output=True)
            (entry,) = json.loads(listed.stdout)["entries"]
            assert entry["source-address"] == many
            # One request and one answer were put together out of several packets.
            assert counters(namespace, "Ip")["ReasmOKs"] == 2
        finally:
            end(tap)
    finally:
        subprocess.run(["ip", "netns", "delete", namespace], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system to fill")
@pytest.mark.parametrize("way", ["echo", "strict", "udp"])
def test_a_full_disk(way: str, tmp_path: Path) -> None:
    """New intercepts are refused, running ones go on, stops stop; and the record follows when there is room.

    Also where a sequence number has to be kept before anything is done.
    """
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=True)
    try:
        more = f'[store]\npath = "{disk}/flowtap.db"\n[dtcp.udp]\nlisten = ["127.0.0.1:0"]'
        source = f'files = ["{CAPTURE}"]\npace = 200\nloop = true'
        write_configuration(tmp_path, source, more)
        if way == "strict":
            path = tmp_path / "flowtap.toml"
            path.write_text(
                path.read_text().replace(
                    "[control_source.md]\n", '[control_source.md]\nsequence = "strict"\n'
                )
            )
        tap = start(tmp_path)
        try:
            asyncio.run(fill_and_task(tap, way, disk))
        finally:
            end(tap)
        assert tap.process.returncode == 0
        assert "Traceback" not in tap.log
        verify(read_audit_log(disk / "flowtap.db"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def client_of(tap: Tap, way: str) -> TaskingClient | DatagramTaskingClient:
    if way != "udp":
        return tap.client(timeout_s=30)
    (listening,) = ask(tap.socket, "status")["udp"]
    port = int(listening.rpartition(":")[2])
    return DatagramTaskingClient("127.0.0.1", port, user="md2", key=OWN_KEY)


async def fill_and_task(tap: Tap, way: str, disk: Path) -> None:
    numbers = iter(range(1, 1000))
    async with client_of(tap, way) as client:

        async def written(text: str) -> Reply:
            return await client.request_written(text, str(next(numbers)))

        for _ in range(2):
            assert (await written(ADD.format(at=10, port=9))).code == 200
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as filling:
            try:
                while True:
                    filling.write(b"x" * 4096)
            except OSError:
                assert shutil.disk_usage(disk).free == 0
        # What the database still has room for inside its own files is taken first.
        codes: list[int] = []
        while 500 not in codes:
            assert len(codes) < 500
            codes.append((await written(ADD.format(at=11, port=9))).code)
        running = {each["criteria_id"] for each in ask(tap.socket, "intercepts")["intercepts"]}
        before = {each["id"]: each["packets"] for each in ask(tap.socket, "stats")["criteria"]}
        assert before.keys() == running
        deadline = time.monotonic() + 10
        while ask(tap.socket, "stats")["criteria"][0]["packets"] <= before[1]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert (await written("NOOP DTCP/0.7")).code == 200
        reply = await written("DELETE DTCP/0.7\nCriteria-ID: 1\nFlags: Static")
        assert reply.code == 500
        assert "copying has stopped" in (reply.value("X-Error-Info") or "")
        shown = ask(tap.socket, "intercepts")
        assert [each["criteria_id"] for each in shown["intercepts"]] == sorted(running - {1})
        assert shown["pending_records"] == [1]
        assert 1 not in {each["id"] for each in ask(tap.socket, "stats")["criteria"]}
        filler.unlink()
        deadline = time.monotonic() + 10
        while ask(tap.socket, "intercepts")["pending_records"]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        assert (await written(ADD.format(at=12, port=9))).code == 200
