"""The control plane: a real daemon, tasked over one SSH session while 10,000 criteria are active."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

import captures
from flowtap.bench.rounds import Spread
from flowtap.bench.traffic import Plan
from flowtap.dtcp import ClientConnection, Limits, Reply
from flowtap.dtcp.render import sign
from flowtap.mediation.secure import REPLY_OCTETS, SUBSYSTEM, request_text
from programs import ROOT, ProgramError
from row import Row, at_least, at_most
from scale import Scale

sys.path.insert(0, str(ROOT / "tests" / "interop"))

from daemon import KEY, Tap, end, start, write_configuration

USER = "md"
IN_FLIGHT = 64
PACE_PPS = 20_000
"""Half of these frames match the criterion that the first copy is waited for: one each 0.1 ms."""
TIMEOUT_S = 120.0
READ_OCTETS = 1 << 16
END_OF_REPLY = b"\r\n\r\n"
TIMED_ADDS = 20


@dataclass
class Session:
    """One SSH session of a mediation device that keeps many requests in flight."""

    reader: asyncssh.SSHReader[bytes]
    writer: asyncssh.SSHWriter[bytes]
    dtcp: ClientConnection
    seq: int = 0

    def message(self, text: str) -> bytes:
        self.seq += 1
        return sign(request_text(text, USER, str(self.seq)), KEY)

    async def _read(self) -> bytes:
        data = await self.reader.read(READ_OCTETS)
        if not data:
            message = "the daemon ended the session"
            raise ProgramError(message)
        return data

    def _next(self) -> Reply | None:
        reply = self.dtcp.next_reply()
        if reply is not None and reply.code != 200:
            message = f"{reply.code} {reply.reason}: {reply.value('X-Error-Info')}"
            raise ProgramError(message)
        return reply

    async def replies(self) -> list[Reply]:
        """At least one reply, and all that came with it."""
        found: list[Reply] = []
        while not found:
            self.dtcp.receive_data(await self._read())
            while (reply := self._next()) is not None:
                found.append(reply)
        return found

    async def all_of(self, texts: list[str], in_flight: int) -> float:
        """Sends requests, so many of them before the first is answered; returns the seconds it took."""
        # Signing is the device's business and not what is measured.
        waiting = [self.message(text) for text in texts]
        began = time.perf_counter()
        sent = done = 0
        while done < len(waiting):
            room = min(done + in_flight, len(waiting))
            if room > sent:
                self.writer.write(b"".join(waiting[sent:room]))
                sent = room
            done += len(await self.replies())
        return time.perf_counter() - began

    async def one(self, text: str) -> tuple[Reply, float]:
        """Sends one request; its reply, and how long it took until that had come whole."""
        message = self.message(text)
        began = time.perf_counter()
        self.writer.write(message)
        octets = bytearray()
        # An empty line ends a reply of the vendor's form, and there is none within it.
        while not octets.endswith(END_OF_REPLY):
            octets += await self._read()
        elapsed_s = time.perf_counter() - began
        self.dtcp.receive_data(bytes(octets))
        reply = self._next()
        assert reply is not None
        return reply, elapsed_s


@contextlib.contextmanager
def daemon(directory: Path) -> Iterator[Tap]:
    """A daemon whose source is a capture, played again and again at a given rate."""
    plan = Plan(match_share=1, active_hosts=1, length_octets=60)
    capture = captures.capture("control", plan.traffic(), 100_000)
    source = f'files = ["{capture}"]\npace = {PACE_PPS}\nloop = true'
    write_configuration(directory, source)
    path = directory / "flowtap.toml"
    text = path.read_text().replace("[control_source.md]\n", "[control_source.md]\nmax_criteria = 1000000\n")
    path.write_text(text)
    tap = start(directory)
    try:
        yield tap
    finally:
        end(tap)


@contextlib.asynccontextmanager
async def session(tap: Tap) -> AsyncIterator[Session]:
    async with asyncssh.connect(
        "127.0.0.1",
        tap.port,
        config=None,
        username=USER,
        client_keys=[str(tap.directory / "id")],
        known_hosts=str(tap.directory / "known_hosts"),
        agent_path=None,
    ) as connection:
        writer, reader, _ = await connection.open_session(subsystem=SUBSYSTEM, encoding=None)
        limits = Limits(message_octets=REPLY_OCTETS, lines=REPLY_OCTETS)
        yield Session(reader, writer, ClientConnection(key=KEY, limits=limits))


def add(host: str, port: int) -> str:
    delivery = [
        f"X-JTap-Cdest-{name}: {value}"
        for name, value in (
            ("Dest-Address", "127.0.0.1"),
            ("Dest-Port", port),
            ("Source-Address", "127.0.0.1"),
            ("Source-Port", 40_001),
        )
    ]
    return "\n".join(("ADD DTCP/0.7", "Cdest-ID: cd1", f"Source-Address: {host}", *delivery, "Flags: Static"))


def resident_octets(tap: Tap) -> int:
    """Memory that the daemon has."""
    for line in Path(f"/proc/{tap.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


@dataclass
class Figures:
    """What was measured; rates are a second, times in seconds."""

    many: list[float]
    single: list[float]
    first_copy_s: list[float]
    list_s: list[float]
    octets_each: float


async def first_copies(tasked: Session, receiver: socket.socket, host: str, count: int) -> list[float]:
    """From sending an ADD to the arrival of the first copy."""
    loop = asyncio.get_running_loop()
    port: int = receiver.getsockname()[1]
    times = []
    for _ in range(count):
        message = tasked.message(add(host, port))
        with contextlib.suppress(BlockingIOError):
            while receiver.recv(2048):
                pass
        began = time.perf_counter()
        tasked.writer.write(message)
        await asyncio.wait_for(loop.sock_recv(receiver, 2048), TIMEOUT_S)
        times.append(time.perf_counter() - began)
        (reply,) = await tasked.replies()
        await tasked.one(f"DELETE DTCP/0.7\nCriteria-ID: {reply.value('Criteria-ID')}\nFlags: Static")
    return times


async def measure(tap: Tap, scale: Scale, told: Callable[[int, int], object]) -> Figures:
    plan = Plan(hosts=10_000_000)
    active, more, alone = scale.control_active, scale.control_adds, scale.control_adds // 8
    # The capture's host is the first; none of these occurs in it.
    hosts = iter(range(1, plan.hosts))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        port: int = receiver.getsockname()[1]

        def adds(count: int) -> list[str]:
            return [add(plan.host(next(hosts)), port) for _ in range(count)]

        async with session(tap) as tasked:
            steps = 2 + 3 * scale.rounds
            told(0, steps)
            before = resident_octets(tap)
            await tasked.all_of(adds(active), 1024)
            octets_each = (resident_octets(tap) - before) / active
            many, single, listed = [], [], []
            for at in range(scale.rounds):
                told(1 + 3 * at, steps)
                many.append(more / await tasked.all_of(adds(more), IN_FLIGHT))
                told(2 + 3 * at, steps)
                single.append(alone / await tasked.all_of(adds(alone), 1))
                told(3 + 3 * at, steps)
                reply, list_s = await tasked.one("LIST DTCP/0.7\nFlags: Both")
                listed.append(list_s * active / len(reply.entries))
            told(steps - 1, steps)
            times = await first_copies(tasked, receiver, plan.host(0), TIMED_ADDS)
    return Figures(many, single, times, listed, octets_each)


def rows(scale: Scale) -> list[Row]:
    def told(done: int, total: int) -> None:
        if scale.progress is not None:
            scale.progress(done, total)

    with tempfile.TemporaryDirectory(prefix="flowtap-bench-") as name, daemon(Path(name)) as tap:
        found = asyncio.run(asyncio.wait_for(measure(tap, scale, told), scale.control_limit_s))
    many, single = Spread.of(found.many), Spread.of(found.single)
    first = Spread.of([each * 1e3 for each in found.first_copy_s])
    listed = Spread.of(found.list_s)
    active = f"{scale.control_active:,} criteria active"
    measured: dict[str, Any] = {
        "adds_per_s": found.many,
        "single_adds_per_s": found.single,
        "first_copy_s": found.first_copy_s,
        "list_s": found.list_s,
        "octets_each": found.octets_each,
    }
    return [
        at_least(
            f"ADDs over one SSH session, {IN_FLIGHT} in flight, {active}",
            2000,
            many.median,
            unit="a second",
            note=f"{many.least:.0f} to {many.most:.0f}",
            measured=measured,
        ),
        at_least(
            f"ADDs one at a time, {active}",
            300,
            single.median,
            unit="a second",
            note=f"{single.least:.0f} to {single.most:.0f}",
        ),
        at_most(
            f"from an ADD sent to the first copy received, {active}",
            10,
            first.median,
            unit="ms",
            note=f"{first.least:.1f} to {first.most:.1f}; a matching frame each {2e3 / PACE_PPS:.1f} ms",
        ),
        at_most(
            f"LIST of {scale.control_active:,}",
            1,
            listed.median,
            unit="s",
            note=f"{listed.least:.2f} to {listed.most:.2f}",
        ),
        Row(
            "the daemon's memory for one active criterion, table included",
            "reported",
            f"{found.octets_each:,.0f} octets",
            note="growth of its resident memory while the criteria came",
        ),
    ]
