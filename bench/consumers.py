"""Programs in Python that want the packets of some hosts: flowtap's way beside those of other libraries."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import captures
from consume import WAYS
from files import mpps, summary, told
from flowtap.bench.traffic import Plan
from programs import ROOT, ProgramError, Run, run
from row import Row, at_least
from scale import Scale

PLAN = Plan(hosts=1_000, match_share=0.01)
SLOWER = {"dpkt": 10, "scapy": 100}
"""These read a part of what the others read; they would take minutes."""


def consume(way: str, capture: Path, hosts: Path) -> Run:
    return run([sys.executable, ROOT / "bench" / "consume.py", way, capture, hosts])


def rows(scale: Scale) -> list[Row]:
    hosts = captures.text_file("python-hosts.txt", "\n".join(PLAN.host(at) for at in range(PLAN.hosts)))
    packets = {way: scale.python_packets // SLOWER.get(way, 1) for way in WAYS}
    cases = {
        way: partial(consume, way, captures.capture("python", PLAN.traffic(), packets[way]), hosts)
        for way in WAYS
    }
    # The slow ones need no repetition: nobody comes near them.
    runs = scale.in_turn({way: cases[way] for way in WAYS if way not in SLOWER})
    runs |= scale.in_turn({way: cases[way] for way in SLOWER}, 1)
    check(runs, packets)
    found = {way: summary(each, packets[way]) for way, each in runs.items()}
    ours, loop = found["flowtap Tap"], found["pcapy-ng loop"]
    others = ", ".join(
        f"{way} {mpps(each):.3g}"
        for way, each in found.items()
        if way not in {"flowtap Tap", "pcapy-ng loop"}
    )
    return [
        at_least(
            "matched packets to a Python consumer, 1 % match, against a pcapy-ng loop",
            6,
            mpps(ours) / mpps(loop),
            note=f"{told(ours)} and {told(loop)} Mpps; {others}",
            measured=found,
        )
    ]


def check(runs: dict[str, list[Run]], packets: dict[str, int]) -> None:
    """Who reads the same must find the same."""
    seen: dict[int, set[Any]] = {}
    for way, each in runs.items():
        for one in each:
            result = one.json
            if result["frames"] not in {None, packets[way]}:
                message = f"{way}: {result['frames']} of {packets[way]} frames"
                raise ProgramError(message)
            seen.setdefault(packets[way], set()).add(result["matched"])
    if any(len(matched) != 1 for matched in seen.values()):
        message = f"the ways do not agree on what matches: {seen}"
        raise ProgramError(message)
