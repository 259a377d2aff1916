"""A live interface: what a tap costs the sender, and whether it sees everything.

Three network namespaces: a sender, the tap's host at the other end of a cable, and behind that a receiver of
copies. The sender sends as fast as the interface takes frames.
"""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flowtap.bench.namespaces import Host, Network, missing_right
from flowtap.bench.rounds import Spread
from flowtap.bench.traffic import Plan
from programs import EXAMPLES, Program, start, version
from row import Row
from scale import Scale

SHORT_OCTETS = 60
SETTLE_S = 0.3
"""From the last frame sent to the signal that ends a tap: what it has not read by then it would never read."""
HOST = Plan().host(0)
"""A host that none of the frames is from or to, unless some are to match."""


@dataclass(frozen=True)
class Tap:
    """A program beside the interface.

    Attributes:
        words: The program.
        ready: What it says when it has begun.
        counts: What it says in the end of the frames that it got and lost; None for an end by itself.
    """

    words: tuple[str | Path, ...]
    ready: str
    counts: Callable[[str], tuple[int, int]]
    ends_by_itself: bool = False


@dataclass(frozen=True)
class Wire:
    """The hosts."""

    sender: Host
    tap: Host


@dataclass(frozen=True)
class Sending:
    """What one run gave.

    Attributes:
        rate_pps: The sender's rate.
        got: Frames that the tap saw, None where there was none.
        lost: Frames that it says it lost.
    """

    rate_pps: float
    got: int | None = None
    lost: int | None = None


@contextlib.contextmanager
def wire() -> Iterator[Wire]:
    with Network() as network:
        sender, tap = network.host(), network.host()
        network.cable(sender, "a0", tap, "b0")
        sender.set_up("a0")
        tap.set_up("b0")
        yield Wire(sender, tap)


def numbers(pattern: str) -> Callable[[str], tuple[int, int]]:
    """Finds how many frames were got, and how many lost, in a program's last words."""

    def find(text: str) -> tuple[int, int]:
        match = re.search(pattern, text, re.DOTALL)
        if match is None:
            return 0, 0
        return int(match["got"]), int(match["lost"])

    return find


def taps(expression: str) -> dict[str, Tap]:
    """The programs, with an expression in libpcap's language; those that are not installed are left out."""
    got_lost = r"(?P<got>\d+) packets? received by filter.*?(?P<lost>\d+) packets? dropped by kernel"
    words = tuple(expression.split())
    found = {
        "ring reader": Tap(
            (EXAMPLES / "ring_reader", "b0", "walk"),
            "ready",
            numbers(r'"frames": (?P<got>\d+).*"dropped": (?P<lost>\d+)'),
            ends_by_itself=True,
        ),
        "ring reader that matches": Tap(
            (EXAMPLES / "ring_reader", "b0", "match"),
            "ready",
            numbers(r'"frames": (?P<got>\d+).*"dropped": (?P<lost>\d+)'),
            ends_by_itself=True,
        ),
        "tcpdump": Tap(
            ("tcpdump", "-i", "b0", "-w", "/dev/null", *words),
            "listening on",
            numbers(got_lost),
        ),
        "dumpcap": Tap(
            ("dumpcap", "-i", "b0", "-w", "/dev/null", "-f", expression),
            "Capturing on",
            numbers(r"received/dropped on interface 'b0': (?P<got>\d+)/(?P<lost>\d+)"),
        ),
        "netsniff-ng": Tap(
            ("netsniff-ng", "--in", "b0", "--out", "/dev/null", "--silent", "-V", *words),
            "Running!",
            numbers(r"(?P<got>\d+)\s+packets incoming.*?(?P<lost>\d+)\s+packets failed filter"),
        ),
    }
    return {
        name: tap
        for name, tap in found.items()
        if name.startswith("ring") or version(str(tap.words[0])) is not None
    }


def send(where: Wire, frames: int, plan: Plan) -> float:
    """Sends frames and returns their rate."""
    octets = "imix" if plan.length_octets is None else str(plan.length_octets)
    words = ("-m", "flowtap.bench.sender", "a0", str(frames), "--length", octets)
    share = ("--hosts", str(plan.hosts), "--match", str(plan.match_share))
    program = start([*where.sender.inside, sys.executable, *words, *share])
    done = program.end(timeout_s=120).json
    rate: float = done["frames"] / done["elapsed_s"]
    return rate


def beside(where: Wire, tap: Tap | None, frames: int, plan: Plan) -> Sending:
    """Sends frames with a tap at the other end, or without one."""
    if tap is None:
        return Sending(send(where, frames, plan))
    program: Program = start([*where.tap.inside, *tap.words])
    try:
        program.wait_for(tap.ready)
        rate_pps = send(where, frames, plan)
        time.sleep(SETTLE_S)
    finally:
        done = program.end(None if tap.ends_by_itself else signal.SIGINT, timeout_s=30)
    return Sending(rate_pps, *tap.counts(done.output + done.errors))


def told(runs: list[Sending]) -> str:
    rates = Spread.of([each.rate_pps / 1e6 for each in runs])
    return f"{rates.median:.2f} ({rates.least:.2f} to {rates.most:.2f})"


def measured(runs: dict[str, list[Sending]], frames: int) -> dict[str, Any]:
    return {
        name: {
            "mpps": round(Spread.of([run.rate_pps for run in each]).median / 1e6, 3),
            "rounds_mpps": [round(run.rate_pps / 1e6, 3) for run in each],
            "got": [run.got for run in each],
            "lost": [run.lost for run in each],
            "frames": frames,
        }
        for name, each in runs.items()
    }


def nothing_matches(scale: Scale, where: Wire) -> list[Row]:
    """Short frames that nobody wants: what a tap costs whoever sends them."""
    plan = Plan(match_share=0, length_octets=SHORT_OCTETS)
    beside_it: dict[str, Tap | None] = {"no tap": None, **taps(f"host {HOST}")}
    cases = {name: partial(beside, where, tap, scale.live_packets, plan) for name, tap in beside_it.items()}
    runs = scale.in_turn(cases)
    alone = Spread.of([each.rate_pps for each in runs["no tap"]]).median
    shares = {
        name: Spread.of([each.rate_pps for each in runs[name]]).median / alone
        for name in runs
        if name != "no tap"
    }
    theirs = shares.get("tcpdump")
    needed = "tcpdump's own ratio less 0.05" if theirs is None else f"at least {theirs - 0.05:.2f}"
    others = ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
    return [
        Row(
            "live, 60 octets, nothing matches, 100,000 hosts: sender's rate with the tap to without",
            needed,
            note=f"sender alone {told(runs['no tap'])} Mpps; {others}",
            measured=measured(runs, scale.live_packets),
        )
    ]


def everything_matches(scale: Scale, where: Wire) -> list[Row]:
    """Frames that are all wanted and only counted."""
    plan = Plan(match_share=0, length_octets=SHORT_OCTETS)
    beside_it = {name: tap for name, tap in taps("ip").items() if name != "ring reader"}
    cases = {name: partial(beside, where, tap, scale.live_packets, plan) for name, tap in beside_it.items()}
    runs = scale.in_turn(cases)
    lost = {
        name: sum(each.lost or 0 for each in found) / (len(found) * scale.live_packets)
        for name, found in runs.items()
    }
    others = ", ".join(f"{name} loses {share:.1%}" for name, share in lost.items())
    return [
        Row(
            "live, everything matches, counted only: loss at the sender's full rate",
            "none",
            note=others,
            measured=measured(runs, scale.live_packets),
        )
    ]


def rows(scale: Scale) -> list[Row]:
    missing = missing_right()
    if missing is not None:
        return [Row("live on an interface", "see the other rows", note=str(missing))]
    with wire() as where:
        return nothing_matches(scale, where) + everything_matches(scale, where)
