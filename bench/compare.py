#!/usr/bin/env python3
"""One version of flowtap against another, in one run: did this change make it faster or slower?

    python bench/compare.py BASE [HEAD] [--rounds N] [--instructions] [--only CASE]...

Both are commits; HEAD is the present one unless named. Each is checked out beside the other in the target directory
and built in release mode. They run in turn, so that a busy minute of the machine counts for both. With
--instructions callgrind counts the instructions of the same work, which does not depend on what else the machine
does: on a noisy one that is the figure to trust.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import captures
import rules
from files import PLAN, criteria_file
from flowtap.bench.rounds import Spread, in_turn
from flowtap.bench.traffic import Plan
from flowtap.cli.console import Table, print_table
from programs import ROOT, ProgramError, run

PACKETS = 4_000_000
COUNTED_PACKETS = 100_000
"""Callgrind makes a program some fifty times slower."""
RULE_PACKETS = 500_000
SINGLE_REPLAY = """
from flowtap import Replay
from flowtap.cli.criteria import load_criteria
Replay([sys.argv[1]], load_criteria(sys.argv[2]).table, write="/dev/null", threads=1).run()
"""
MANY = "100,000 hosts"
INSTRUCTIONS = re.compile(r"Collected : (\d+)")


@dataclass(frozen=True)
class Version:
    """A commit that is built.

    Attributes:
        name: What it was called.
        commit: Its hash.
        package: Where its Python package is.
    """

    name: str
    commit: str
    package: Path

    def python(self, code: str) -> list[str]:
        """The words that run code with its package, which goes before the one that is installed."""
        return [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(self.package)!r})\n{code}"]


@dataclass(frozen=True)
class Case:
    """Work that both versions do.

    Attributes:
        capture: The file that is read.
        criteria: Its criteria.
        packets: How many packets the file has.
    """

    capture: Path
    criteria: Path
    packets: int

    def words(self, version: Version) -> list[str | Path]:
        return [
            *version.python("from flowtap.cli.main import main; main()"),
            "replay",
            self.capture,
            "--criteria",
            self.criteria,
            "-w",
            "/dev/null",
            "--json",
        ]

    def elapsed_s(self, version: Version) -> float:
        value: float = run(self.words(version)).json["elapsed_s"]
        return value

    def instructions(self, version: Version) -> float:
        """Instructions for one packet: those for all, less those for a capture of one."""
        one = captures.capture("one", PLAN.traffic(), 1)
        return (self._counted(version, self.capture) - self._counted(version, one)) / (self.packets - 1)

    def _counted(self, version: Version, capture: Path) -> int:
        valgrind = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null")
        # Not the command, which looks at the clock while it waits; and hashes that are the same each time.
        words: list[str | Path] = [*valgrind, *version.python(SINGLE_REPLAY), capture, self.criteria]
        done = run(["env", "PYTHONHASHSEED=0", *words], timeout_s=900)
        match = INSTRUCTIONS.search(done.errors)
        if match is None:
            message = f"callgrind said nothing of instructions: {done.errors[-300:]}"
            raise ProgramError(message)
        return int(match[1])


def git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        message = f"git {' '.join(words)}: {done.stderr.strip()}"
        raise ProgramError(message)
    return done.stdout.strip()


def built(name: str) -> Version:
    """Checks a commit out and builds its extension; quick where that was done before."""
    commit = git("rev-parse", "--short", f"{name}^{{commit}}")
    tree = captures.DIRECTORY / "versions" / commit
    if not tree.exists():
        git("worktree", "prune")
        git("worktree", "add", "--detach", "-f", str(tree), commit)
    package = tree / "python"
    extension = package / "flowtap" / "_flowtap.abi3.so"
    if not extension.exists():
        print(f"compare: building {name} ({commit})", file=sys.stderr, flush=True)
        # One target directory for both: what they have in common is compiled once.
        target = captures.DIRECTORY / "versions" / "target"
        environment = os.environ | {"CARGO_TARGET_DIR": str(target), "PYO3_BUILD_EXTENSION_MODULE": "1"}
        words = ["cargo", "build", "-q", "--release", "-p", "flowtap-py"]
        subprocess.run(words, cwd=tree, env=environment, check=True)
        shutil.copyfile(target / "release" / "lib_flowtap.so", extension)
    return Version(name, commit, package)


def cases(packets: int, rule_packets: int) -> dict[str, Case]:
    few = captures.capture("imix", PLAN.traffic(), packets)
    half = Plan(hosts=1000, match_share=0.5)
    matching = captures.capture("half", half.traffic(), packets)
    found = {
        "1 host": Case(few, criteria_file(1), packets),
        MANY: Case(few, criteria_file(100_000), packets),
        "half matches": Case(matching, captures.text_file("half.txt", half.requests()), packets),
        "IPv6": Case(
            captures.capture("v6", replace(PLAN, ipv6_share=1).traffic(), packets),
            captures.text_file("v6.txt", replace(PLAN, ipv6_share=1).requests()),
            packets,
        ),
    }
    for name in rules.names():
        chosen = rules.rules(name)
        capture = captures.capture(name, captures.drawn(rules.flows(chosen, 1)), rule_packets)
        found[name] = Case(capture, captures.text_file(f"{name}.txt", rules.requests(chosen)), rule_packets)
    return found


def wall_time(base: Version, head: Version, only: list[str], rounds: int) -> None:
    chosen = {name: case for name, case in cases(PACKETS, RULE_PACKETS).items() if name in only or not only}
    told = None
    if sys.stderr.isatty():

        def told(done: int, total: int) -> None:
            print(f"\r\033[K{done}/{total}", end="", file=sys.stderr, flush=True)

    runs = in_turn(
        {(name, at): partial(case.elapsed_s, at) for name, case in chosen.items() for at in (base, head)},
        rounds,
        told,
    )
    print_table(
        Table(
            ("case", "base ns", "head ns", "head/base", "from", "to"),
            [row(name, case, runs[name, base], runs[name, head]) for name, case in chosen.items()],
        )
    )
    print(f"\nns for one packet, median of {rounds} rounds in turn; from, to: head/base in single rounds")


def row(name: str, case: Case, base: list[float], head: list[float]) -> tuple[object, ...]:
    # Rounds are compared one by one: what was going on in that minute counts for both.
    ratios = Spread.of([there / here for here, there in zip(base, head, strict=True)])
    each = [Spread.of(values).median / case.packets * 1e9 for values in (base, head)]
    return (
        name,
        *(f"{ns:.1f}" for ns in each),
        *(f"{ratio:.3f}" for ratio in (ratios.median, ratios.least, ratios.most)),
    )


def instructions(base: Version, head: Version, only: list[str]) -> None:
    rows = []
    found = cases(COUNTED_PACKETS, COUNTED_PACKETS)
    for name, case in found.items():
        # Reading many criteria would take most of the time and is not what is counted.
        if name not in (only or {*found} - {MANY}):
            continue
        counts = [case.instructions(version) for version in (base, head)]
        rows.append((name, *(f"{count:.1f}" for count in counts), f"{counts[1] / counts[0]:.4f}"))
    print_table(Table(("case", "base", "head", "head/base"), rows))
    print("\ninstructions for one packet, counted by callgrind")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base")
    parser.add_argument("head", nargs="?", default="HEAD")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--instructions", action="store_true")
    parser.add_argument("--only", action="append", default=[], metavar="CASE")
    given = parser.parse_args()
    try:
        base, head = built(given.base), built(given.head)
        print(f"base {base.commit} ({base.name}), head {head.commit} ({head.name})")
        if given.instructions:
            if shutil.which("valgrind") is None:
                print("compare: --instructions needs valgrind", file=sys.stderr)
                return 1
            instructions(base, head, given.only)
        else:
            wall_time(base, head, given.only, given.rounds)
    except (ProgramError, subprocess.CalledProcessError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
