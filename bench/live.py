"""A live interface: what a tap costs the sender, and whether it sees everything.

Three network namespaces: a sender, the tap's host at the other end of a cable, and behind that a receiver of
copies. The sender sends as fast as the interface takes frames.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import export
from flowtap import Engine, FilterTable
from flowtap.bench.namespaces import Host, Network, missing_right
from flowtap.bench.rounds import Spread
from flowtap.bench.traffic import Plan
from programs import EXAMPLES, Program, ProgramError, running, start, version
from row import Row, at_least
from scale import Scale

SHORT_OCTETS = 60
SETTLE_S = 0.3
"""From the last frame sent to the signal that ends a tap: what it has not read by then it would never read."""
SENT_AGAIN_AND_AGAIN = 4_096
"""Frames that the sender makes in advance and repeats."""
NOTHING = Plan(match_share=0, length_octets=SHORT_OCTETS)
MANY_HOSTS = 100_000
SOME = Plan(hosts=1_000, match_share=0.1, length_octets=SHORT_OCTETS)
HOST = NOTHING.host(0)
"""A host that none of the frames of NOTHING is from or to."""
FLOWTAP = (sys.executable, "-m", "flowtap.bench.live_tap", "b0")
OURS = "flowtap"


@dataclass(frozen=True)
class Account:
    """What a tap says in the end.

    Attributes:
        got: Frames that it got.
        lost: Frames that it or the kernel lost.
        whole: All of it, where it is flowtap's.
    """

    got: int
    lost: int
    whole: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tap:
    """A program beside the interface.

    Attributes:
        words: The program.
        ready: What it says when it has begun.
        account: Reads what it says in the end.
        ends_by_itself: Whether it needs no signal.
    """

    words: tuple[str | Path, ...]
    ready: str
    account: Callable[[str], Account]
    ends_by_itself: bool = False


@dataclass(frozen=True)
class Wire:
    """The hosts."""

    sender: Host
    tap: Host
    sink: Host


@dataclass(frozen=True)
class Sending:
    """What one run gave.

    Attributes:
        rate_pps: The sender's rate.
        account: What the tap says; None where there was none.
        arrived: Copies that reached the receiver.
    """

    rate_pps: float
    account: Account | None = None
    arrived: int = 0


@contextlib.contextmanager
def wire() -> Iterator[Wire]:
    with Network() as network:
        sender, tap, sink = network.host(), network.host(), network.host()
        network.cable(sender, "a0", tap, "b0")
        network.cable(tap, "t0", sink, "s0")
        sender.set_up("a0")
        tap.set_up("b0")
        tap.set_up("t0", f"{export.TAP}/24")
        sink.set_up("s0", f"{export.SINK}/24")
        with running([*sink.inside, sys.executable, "-c", export.SINK_PROGRAM], ready="ready"):
            yield Wire(sender, tap, sink)


def numbers(pattern: str) -> Callable[[str], Account]:
    """Finds how many frames were got, and how many lost, in a program's last words."""

    def find(text: str) -> Account:
        match = re.search(pattern, text, re.DOTALL)
        if match is None:
            message = f"no account in a tap's last words: {text[-300:]}"
            raise ProgramError(message)
        return Account(int(match["got"]), int(match["lost"]))

    return find


def flowtap_account(text: str) -> Account:
    whole: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    return Account(whole["matched"], whole["kernel_dropped"] + whole["dropped"], whole)


def flowtap(*words: str) -> Tap:
    """Our own, in its own program like the others."""
    return Tap((*FLOWTAP, *words), "ready", flowtap_account)


def others(expression: str) -> dict[str, Tap]:
    """The other programs, with an expression in libpcap's language; what is not installed is left out."""
    words = tuple(expression.split())
    reader = numbers(r'"frames": (?P<got>\d+).*"dropped": (?P<lost>\d+)')
    found = {
        "ring reader": Tap((EXAMPLES / "ring_reader", "b0", "walk"), "ready", reader, ends_by_itself=True),
        "ring reader that matches": Tap(
            (EXAMPLES / "ring_reader", "b0", "match"), "ready", reader, ends_by_itself=True
        ),
        "tcpdump": Tap(
            ("tcpdump", "-i", "b0", "-w", "/dev/null", *words),
            "listening on",
            numbers(r"(?P<got>\d+) packets? received by filter.*?(?P<lost>\d+) packets? dropped by kernel"),
        ),
        "dumpcap": Tap(
            ("dumpcap", "-i", "b0", "-w", "/dev/null", "-f", expression),
            "Capturing on",
            numbers(r"received/dropped on interface 'b0': (?P<got>\d+)/(?P<lost>\d+)"),
        ),
        # Without -A it would change settings of the whole system.
        "netsniff-ng": Tap(
            ("netsniff-ng", "--in", "b0", "--out", "/dev/null", "--silent", "-A", "-S", "64MiB", *words),
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
    done = start([*where.sender.inside, sys.executable, *words, *share]).end(timeout_s=120)
    if done.status != 0:
        raise ProgramError(done.errors.strip())
    rate: float = done.json["frames"] / done.json["elapsed_s"]
    return rate


def beside(where: Wire, tap: Tap | None, frames: int, plan: Plan) -> Sending:
    """Sends frames with a tap at the other end, or without one."""
    if tap is None:
        return Sending(send(where, frames, plan))
    before = export.arrived(where.sink)
    program: Program = start([*where.tap.inside, *tap.words])
    try:
        program.wait_for(tap.ready, timeout_s=60)
        rate_pps = send(where, frames, plan)
        time.sleep(SETTLE_S)
    finally:
        done = program.end(None if tap.ends_by_itself else signal.SIGINT, timeout_s=60)
    return Sending(rate_pps, tap.account(done.output + done.errors), export.arrived(where.sink) - before)


def matching(plan: Plan, frames: int) -> int:
    """How many of the frames that the sender sends match: it repeats the first ones."""

    def count(of: int) -> int:
        engine = Engine(FilterTable.compile(plan.criteria()))
        for packets, records in plan.traffic().batches(1, of):
            engine.feed_batch(packets, records)
        return engine.stats().matched

    times, rest = divmod(frames, SENT_AGAIN_AND_AGAIN)
    return times * count(SENT_AGAIN_AND_AGAIN) + count(rest)


def rates(runs: list[Sending]) -> Spread:
    return Spread.of([each.rate_pps for each in runs])


def told(runs: list[Sending]) -> str:
    spread = rates(runs)
    return f"{spread.median / 1e6:.2f} ({spread.least / 1e6:.2f} to {spread.most / 1e6:.2f})"


def measured(runs: dict[str, list[Sending]], frames: int) -> dict[str, Any]:
    return {
        name: {
            "mpps": round(rates(each).median / 1e6, 3),
            "rounds_mpps": [round(run.rate_pps / 1e6, 3) for run in each],
            "frames": frames,
            "got": [run.account.got for run in each if run.account is not None],
            "lost": [run.account.lost for run in each if run.account is not None],
            "accounts": [run.account.whole for run in each if run.account is not None and run.account.whole],
        }
        for name, each in runs.items()
    }


def nothing_matches(scale: Scale, where: Wire) -> list[Row]:
    """Short frames that nobody wants: what a tap costs whoever sends them."""
    ours = flowtap("--hosts", str(MANY_HOSTS))
    taps: dict[str, Tap | None] = {"no tap": None, OURS: ours, **others(f"host {HOST}")}
    cases = {name: partial(beside, where, tap, scale.live_packets, NOTHING) for name, tap in taps.items()}
    runs = scale.in_turn(cases)
    # Rounds are compared one by one: what was going on in that minute counts for both.
    shares = {
        name: Spread.of(
            [each.rate_pps / alone.rate_pps for each, alone in zip(runs[name], runs["no tap"], strict=True)]
        )
        for name in runs
        if name != "no tap"
    }
    theirs = shares["tcpdump"].median - 0.05 if "tcpdump" in shares else 0.81
    filters = {kind for run in runs[OURS] if run.account for kind in run.account.whole["filter"]}
    beside_it = ", ".join(f"{name} {each.median:.2f}" for name, each in shares.items() if name != OURS)
    spread = shares[OURS]
    return [
        Row(
            f"live, {SHORT_OCTETS} octets, nothing matches, {MANY_HOSTS:,} hosts: sender's rate with tap to without",
            f"at least {theirs:.2f} (tcpdump's less 0.05)",
            f"{spread.median:.2f}",
            spread.median >= theirs,
            note=f"{spread.least:.2f} to {spread.most:.2f}; sender alone {told(runs['no tap'])} Mpps; {beside_it};"
            f" filter: {', '.join(filters)}",
            measured=measured(runs, scale.live_packets),
        )
    ]


def everything_matches(scale: Scale, where: Wire) -> list[Row]:
    """Frames that are all wanted and only counted."""
    taps = {OURS: flowtap("--everything"), **others("ip")}
    del taps["ring reader"]
    cases = {name: partial(beside, where, tap, scale.live_packets, NOTHING) for name, tap in taps.items()}
    runs = scale.in_turn(cases)
    sent = scale.live_packets

    def lost(name: str) -> float:
        return Spread.of([1 - each.account.got / sent for each in runs[name] if each.account]).most

    uncounted = [
        sent - each.account.got - each.account.lost for each in runs[OURS] if each.account is not None
    ]
    if any(uncounted):
        message = f"of {sent} frames that all match, the tap does not account for {uncounted}"
        raise ProgramError(message)
    beside_it = ", ".join(f"{name} {lost(name):.2%}" for name in runs if name != OURS)
    return [
        Row(
            "live, everything matches, counted only: loss at the sender's full rate",
            "none",
            f"{lost(OURS):.4%}",
            lost(OURS) == 0,
            note=f"sender's rate {told(runs[OURS])} Mpps; {beside_it}",
            measured=measured(runs, sent),
        )
    ]


def some_exported(scale: Scale, where: Wire) -> list[Row]:
    """A tenth of the frames is wrapped and sent to another host while the others pass by."""
    delivery = (export.SINK, str(export.PORT), export.TAP, str(export.SOURCE_PORTS["udp"]))
    tap = flowtap("--hosts", str(SOME.hosts), "--export", *delivery)
    cases = {
        "no tap": partial(beside, where, None, scale.live_packets, SOME),
        OURS: partial(beside, where, tap, scale.live_packets, SOME),
    }
    runs = scale.in_turn(cases)
    wanted = matching(SOME, scale.live_packets)
    for each in runs[OURS]:
        check_export(each, wanted)
    shares = Spread.of(
        [each.rate_pps / alone.rate_pps for each, alone in zip(runs[OURS], runs["no tap"], strict=True)]
    )
    lost = [each.account.lost for each in runs[OURS] if each.account is not None]
    return [
        at_least(
            "live, 10 % match, encapsulated and sent to another namespace: sender's rate to without",
            0.7,
            shares.median,
            unit="of its rate",
            note=f"{shares.least:.2f} to {shares.most:.2f}; {told(runs[OURS])} and {told(runs['no tap'])} Mpps;"
            f" of {wanted:,} matching frames {max(lost):,} were lost at most, all of them counted",
            measured=measured(runs, scale.live_packets),
        )
    ]


def check_export(run: Sending, wanted: int) -> None:
    """Nothing may be lost that is not counted."""
    assert run.account is not None
    account = run.account.whole
    # Losses of the kernel are of frames that its filter let through; a few of those might not have matched.
    missing = wanted - account["matched"] - account["kernel_dropped"]
    is_whole = account["copied"] == account["matched"] == account["exported"] + account["dropped"]
    if missing > 0 or not is_whole or run.arrived != account["exported"]:
        message = f"of {wanted} frames that match, {missing} are missing; {run.arrived} arrived: {account}"
        raise ProgramError(message)


def rows(scale: Scale) -> list[Row]:
    missing = missing_right()
    if missing is not None:
        return [Row("live on an interface", "see the other rows", note=str(missing))]
    with wire() as where:
        measurements = (nothing_matches, everything_matches, some_exported)
        return [row for measure in measurements for row in measure(scale, where)]
