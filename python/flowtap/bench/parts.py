"""What `flowtap bench` measures, part by part.

A part prepares its input once and then offers cases, each of which is one run that takes a fraction of a
second.
"""

from __future__ import annotations

import math
import os
import socket
import tempfile
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flowtap import ContentDestination, Criteria, Engine, FilterTable, Replay
from flowtap.bench.live import cable
from flowtap.bench.traffic import IMIX, Plan
from flowtap.errors import DataPlaneError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["PARTS", "Case", "Settings"]

BATCH_FRAMES = 4_096
BATCHES = 24
"""Frames of a part that works in memory: some 35 MB of IMIX, more than the nearest caches hold."""
RUN_S = 0.15
"""A run in memory goes on for at least so long."""
DEVIATIONS = 6
"""A share of random frames is within so many standard deviations; more are a fault, not chance."""
EXPORT_OCTETS = 512
DESTINATION = "cd"
COUNTED = "every frame counted"


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked for.

    Attributes:
        packets: Frames in files.
        length_octets: Length of frames, or `IMIX`.
        ipv6_share: Part of the frames that is IPv6.
        hosts: Numbers of tapped hosts.
        match_share: Part of the frames that matches, where some do.
        seed: For the traffic.
        directory: Where files may be; None for a temporary directory.
    """

    packets: int = 1_000_000
    length_octets: int | None = IMIX
    ipv6_share: float = 0.0
    hosts: tuple[int, ...] = (1, 100, 10_000, 100_000)
    match_share: float = 0.01
    seed: int = 1
    directory: Path | None = None

    def plan(self, hosts: int, match_share: float) -> Plan:
        """The traffic for so many hosts."""
        return Plan(
            hosts=hosts,
            match_share=match_share,
            length_octets=self.length_octets,
            ipv6_share=self.ipv6_share,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure.

    Attributes:
        part: Its part.
        what: What happens to each frame, in words.
        hosts: How many hosts are tapped.
        match_share: Which part of the frames matches.
        length_octets: Length of the frames, or `IMIX`.
        run: Does it once; returns frames and seconds.
    """

    part: str
    what: str
    hosts: int
    match_share: float
    length_octets: int | None
    run: Callable[[], tuple[int, float]]


def _destination(port: int = 30_000) -> dict[str, ContentDestination]:
    return {DESTINATION: ContentDestination("127.0.0.1", port, "127.0.0.1", 0)}


def _batches(plan: Plan) -> list[tuple[bytes, bytes]]:
    return plan.traffic().batches(BATCHES, BATCH_FRAMES)


def _feed(
    table: FilterTable, batches: Sequence[tuple[bytes, bytes]], match_share: float
) -> Callable[[], tuple[int, float]]:
    """Frames in memory through an engine, again and again until some time has passed."""
    expected = _Expected(match_share, len(batches) * BATCH_FRAMES)

    def run() -> tuple[int, float]:
        engine = Engine(table)
        began = time.perf_counter()
        while (elapsed_s := time.perf_counter() - began) < RUN_S:
            for packets, records in batches:
                engine.feed_batch(packets, records)
        stats = engine.stats()
        expected.check(stats.matched, stats.frames)
        return stats.frames, elapsed_s

    return run


@dataclass(frozen=True, slots=True)
class _Expected:
    """How many frames may match where the given share of random ones does.

    Attributes:
        share: Which part of the frames.
        distinct: How many frames there are before they repeat.
    """

    share: float
    distinct: int

    def check(self, matched: int, frames: int) -> None:
        # A figure of a run that did something else would be worse than none.
        deviation = math.sqrt(self.share * (1 - self.share) / self.distinct)
        if frames == 0 or abs(matched / frames - self.share) > DEVIATIONS * deviation:
            message = f"{matched} of {frames} frames matched; about a share of {self.share:.4g} is right"
            raise DataPlaneError(message)


def decode(settings: Settings, _stack: ExitStack) -> list[Case]:
    """Frames in memory, read down to the transport's ports and matched by nothing."""
    batches = _batches(settings.plan(1, 0))
    table = FilterTable.compile([Criteria(1, protocol=17, destination_port=9)])
    what = "ports asked for, none match"
    return [Case("decode", what, 0, 0, settings.length_octets, _feed(table, batches, 0))]


def match(settings: Settings, _stack: ExitStack) -> list[Case]:
    """Frames in memory against few and many hosts, counted."""
    cases = []
    misses = _batches(settings.plan(1, 0))
    for hosts in settings.hosts:
        table = FilterTable.compile(settings.plan(hosts, 0).criteria())
        run = _feed(table, misses, 0)
        cases.append(Case("match", "nothing matches", hosts, 0, settings.length_octets, run))
    for hosts in settings.hosts:
        plan = settings.plan(hosts, settings.match_share)
        table = FilterTable.compile(plan.criteria())
        run = _feed(table, _batches(plan), settings.match_share)
        cases.append(Case("match", "some match", hosts, settings.match_share, settings.length_octets, run))
    return cases


def encapsulate(settings: Settings, _stack: ExitStack) -> list[Case]:
    """Frames in memory that all match, each copied behind its outer header."""
    cases = []
    for hosts in (settings.hosts[0], settings.hosts[-1]):
        plan = settings.plan(hosts, 1)
        table = FilterTable.compile(plan.criteria([DESTINATION]), _destination())
        run = _feed(table, _batches(plan), 1)
        cases.append(Case("encapsulate", "every frame copied", hosts, 1, settings.length_octets, run))
    return cases


def _directory(settings: Settings, stack: ExitStack) -> Path:
    if settings.directory is not None:
        return settings.directory
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flowtap-bench-")))


def _replay(replay: Callable[[], Replay], expected: _Expected) -> Callable[[], tuple[int, float]]:
    def run() -> tuple[int, float]:
        report = replay().run()
        if report.error is not None:
            raise DataPlaneError(report.error)
        stats = report.stats
        expected.check(stats.matched, stats.frames)
        if stats.dropped or stats.exported not in {0, stats.copied}:
            reasons = {each.last_error for each in stats.destinations if each.last_error}
            message = f"{stats.dropped} of {stats.copied} copies were not sent: {', '.join(reasons)}"
            raise DataPlaneError(message)
        return stats.frames, report.elapsed_s

    return run


def replay(settings: Settings, stack: ExitStack) -> list[Case]:
    """A capture file against few and many hosts; the frames that match are written to nowhere."""
    # Every number of hosts reads the same file, so only the first host occurs in it.
    plan = replace(settings.plan(1, settings.match_share), active_hosts=1)
    capture = _directory(settings, stack) / "traffic.pcap"
    plan.traffic().write(capture, settings.packets)
    cases = []
    for hosts in settings.hosts:
        table = FilterTable.compile(settings.plan(hosts, 0).criteria())
        for threads in dict.fromkeys((1, len(os.sched_getaffinity(0)))):

            def begin(table: FilterTable = table, threads: int = threads) -> Replay:
                return Replay([str(capture)], table, write="/dev/null", threads=threads)

            run = _replay(begin, _Expected(settings.match_share, settings.packets))
            what = f"file to /dev/null, {threads} thread{'s' * (threads > 1)}"
            cases.append(Case("replay", what, hosts, settings.match_share, settings.length_octets, run))
    return cases


def _sink() -> socket.socket:
    """A socket that nobody reads and that has no room, so that receiving costs as little as it can."""
    sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
    sink.bind(("127.0.0.1", 0))
    return sink


def export(settings: Settings, stack: ExitStack) -> list[Case]:
    """A capture file whose frames all match, each copy sent over the loopback interface."""
    directory = _directory(settings, stack)
    sink = stack.enter_context(closing(_sink()))
    table = FilterTable.compile(
        Plan(ipv6_share=settings.ipv6_share).criteria([DESTINATION]), _destination(sink.getsockname()[1])
    )
    cases = []
    for length_octets in dict.fromkeys((EXPORT_OCTETS, settings.length_octets)):
        plan = replace(settings.plan(1, 1), length_octets=length_octets)
        capture = directory / f"export-{length_octets or 'imix'}.pcap"
        plan.traffic().write(capture, settings.packets)

        def begin(capture: Path = capture) -> Replay:
            return Replay([str(capture)], table, export=True)

        run = _replay(begin, _Expected(1, settings.packets))
        cases.append(Case("export", "file to loopback", 1, 1, length_octets, run))
    return cases


def live(settings: Settings, stack: ExitStack) -> list[Case]:
    """Frames on an interface, nobody beside, and with a tap at the other end: the sender's rate."""
    wire = cable(stack)
    plan = settings.plan(1, 0)

    def case(what: str, hosts: int, run: Callable[[], tuple[int, float]]) -> Case:
        return Case("live", what, hosts, float(what == COUNTED), settings.length_octets, run)

    cases = [case("sender alone", 0, partial(wire.send, plan, settings.packets))]
    for hosts in dict.fromkeys((settings.hosts[0], settings.hosts[-1])):
        tap = ("--hosts", str(hosts))
        cases.append(case("nothing matches", hosts, partial(wire.send_tapped, plan, settings.packets, *tap)))
    run = partial(wire.send_tapped, plan, settings.packets, "--everything")
    return [*cases, case(COUNTED, 1, run)]


PARTS: dict[str, Callable[[Settings, ExitStack], list[Case]]] = {
    "decode": decode,
    "match": match,
    "encapsulate": encapsulate,
    "replay": replay,
    "export": export,
    "live": live,
}
"""Every part by its name; what it opens is closed with the stack."""
