#!/usr/bin/env python3
"""flowtap replay beside tcpdump on the same capture, in one run, on this machine.

    python bench/peers.py [--packets 4000000] [--json FILE]

The capture is made once and kept in the target directory. Every program runs three times, in turn, and its
best time counts; tcpdump's time is its wall time with its own filter compilation, flowtap's is elapsed_s, with
load_s and compile_s beside it.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from traffic import SUBJECT, hosts, write_capture

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 3
TCPDUMP_LIMIT_S = 150


def request(*lines: str) -> str:
    return "\n".join(("ADD DTCP/0.7", *lines)) + "\n"


def criteria_file(path: Path, count: int) -> Path:
    """One subject, and hosts that do not occur."""
    requests = [request(f"Source-Address: {SUBJECT[0]}"), request(f"Dest-Address: {SUBJECT[0]}")]
    requests += [request(f"Source-Address: {host}") for host in hosts(count - 1)]
    path.write_text("\n".join(requests))
    return path


def replay(capture: Path, criteria: Path) -> dict[str, Any]:
    words = [sys.executable, "-m", "flowtap", "replay", str(capture), "--criteria", str(criteria)]
    done = subprocess.run([*words, "-w", "/dev/null", "--json"], capture_output=True, check=True)
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def tcpdump(capture: Path, expression: str, directory: Path) -> float | None:
    """Wall time, None where it does not end in time."""
    path = directory / "expression"
    path.write_text(expression)
    began = time.perf_counter()
    try:
        words = ["tcpdump", "-r", str(capture), "-w", "/dev/null", "-F", str(path)]
        subprocess.run(words, check=True, capture_output=True, timeout=TCPDUMP_LIMIT_S)
    except subprocess.TimeoutExpired:
        return None
    return time.perf_counter() - began


def measure(capture: Path, packets: int, count: int, directory: Path) -> dict[str, Any]:
    criteria = criteria_file(directory / f"criteria-{count}", count)
    expression = " or ".join(f"host {host}" for host in [SUBJECT[0], *hosts(count - 1)])
    ours: list[dict[str, Any]] = []
    theirs: list[float | None] = []
    for _ in range(ROUNDS):
        ours.append(replay(capture, criteria))
        if not theirs or (theirs[-1] is not None and theirs[-1] < TCPDUMP_LIMIT_S / ROUNDS):
            theirs.append(tcpdump(capture, expression, directory) if count <= 1000 else None)
    best = min(ours, key=lambda each: each["elapsed_s"])
    known = [each for each in theirs if each is not None]
    return {
        "hosts": count,
        "packets": packets,
        "matched": best["matched"],
        "elapsed_s": best["elapsed_s"],
        "load_s": best["load_s"],
        "compile_s": best["compile_s"],
        "tcpdump_s": min(known) if known else None,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packets", type=int, default=4_000_000)
    parser.add_argument("--json", type=Path, default=ROOT / "bench" / "results" / "peers.json")
    arguments = parser.parse_args()
    if shutil.which("tcpdump") is None:
        print("bench: tcpdump is not installed", file=sys.stderr)
        return 1
    directory = ROOT / "target" / "bench"
    directory.mkdir(parents=True, exist_ok=True)
    capture = directory / f"imix-{arguments.packets}.pcap"
    if not capture.exists():
        print(f"bench: writing {capture.name}", file=sys.stderr)
        write_capture(capture, arguments.packets)
    capture.read_bytes()  # into the page cache
    rows = [measure(capture, arguments.packets, count, directory) for count in (1, 10, 100, 1000, 100_000)]
    print("hosts    flowtap Mpps   tcpdump Mpps   flowtap/tcpdump   load_s   compile_s")
    for row in rows:
        ours = row["packets"] / row["elapsed_s"] / 1e6
        other = row["tcpdump_s"]
        # Above 1,000 hosts tcpdump is not asked: it would compile for hours.
        theirs = f"{row['packets'] / other / 1e6:12.2f}" if other else "-".rjust(12)
        ratio = f"{other / row['elapsed_s']:15.1f}" if other else "-".rjust(15)
        print(
            f"{row['hosts']:>7}  {ours:12.2f}   {theirs}   {ratio}   {row['load_s']:6.2f}   {row['compile_s']:9.3f}"
        )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    machine = {
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    result = {"commit": commit.stdout.strip(), **machine, "rows": rows}
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
