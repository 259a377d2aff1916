#!/usr/bin/env python3
"""Every figure that was asked for, beside other programs, in one run on this machine: `make bench`.

    python bench/run.py [--quick] [--only GROUP]... [--output DIRECTORY]

A row says what was needed, what was reached, and `pass` or `short`; `absent` where this version has nothing to
measure. A result file with everything that was measured, and pictures of it, go to the directory.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import consumers
import control
import export
import files
import live
import programs
from flowtap.bench.machine import describe
from flowtap.cli.console import Table, print_table
from flowtap.errors import FlowtapError
from pictures import draw
from row import Row
from scale import FULL, QUICK, Scale

GROUPS: dict[str, Callable[[Scale], list[Row]]] = {
    "hosts": files.hosts,
    "expressions": files.expressions,
    "threads": files.threads,
    "memory": files.memory,
    "rules": files.rule_sets,
    "consumers": consumers.rows,
    "live": live.rows,
    "export": export.rows,
    "control": control.rows,
}
OTHERS = ("tcpdump", "dumpcap", "netsniff-ng")
LIBRARIES = ("pcapy-ng", "dpkt", "scapy")


def machine() -> dict[str, Any]:
    """The machine, the versions of everything that is measured, and the commit."""
    import importlib.metadata  # noqa: PLC0415 - only here

    versions = {name: programs.version(name) for name in OTHERS}
    versions |= {name: importlib.metadata.version(name) for name in LIBRARIES}
    versions["rustc"] = programs.version("rustc")
    return {**describe(), "commit": commit(), "versions": versions}


def commit() -> str:
    """The commit that is measured, with a plus sign where files differ from it."""
    words = ["git", "describe", "--always", "--abbrev=7", "--dirty=+", "--exclude=*"]
    done = subprocess.run(words, cwd=programs.ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def progress(group: str) -> Callable[[int, int], None] | None:
    if not sys.stderr.isatty():
        return None
    return lambda done, total: print(f"\r\033[K{group}: {done}/{total}", end="", file=sys.stderr, flush=True)


def measured(group: str, scale: Scale) -> list[Row]:
    """The rows of a group; one that says why where it could not be measured."""
    print(f"bench: {group}", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        rows = GROUPS[group](dataclasses.replace(scale, progress=progress(group)))
    except (programs.ProgramError, FlowtapError, TimeoutError) as error:
        rows = [Row(group, "to be measured", note=f"failed: {str(error) or 'not in time'}")]
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    print(f"bench: {group}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller and fewer, in less than three minutes")
    parser.add_argument(
        "--only", action="append", choices=tuple(GROUPS), metavar="GROUP", help=", ".join(GROUPS)
    )
    parser.add_argument("--output", type=Path, default=programs.ROOT / "bench" / "results")
    given = parser.parse_args()
    programs.build_limits()
    result = machine()
    scale = QUICK if given.quick else FULL
    groups = {name: measured(name, scale) for name in GROUPS if name in (given.only or GROUPS)}
    rows = [row for each in groups.values() for row in each]
    print_table(
        Table(
            ("figure", "needed", "reached", ""),
            [(row.figure, row.needed, row.reached, row.verdict) for row in rows],
        )
    )
    print()
    for row in rows:
        if row.note:
            print(f"{row.figure}: {row.note}")
    print(
        f"\n{result['processors']} x {result['processor']}, {result['kernel']}, commit {result['commit']}, ",
        end="",
    )
    print(f"load before {result['load_average']}, after {describe()['load_average']}")
    result |= {
        "quick": given.quick,
        "rows": [
            {"group": name, **dataclasses.asdict(row), "verdict": row.verdict}
            for name, each in groups.items()
            for row in each
        ],
    }
    given.output.mkdir(parents=True, exist_ok=True)
    path = given.output / f"{result['date'][:10]}-{result['commit']}{'-quick' if given.quick else ''}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{path}: everything that was measured")
    for picture in draw(result, given.output):
        print(f"{picture}: a picture of it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
