#!/usr/bin/env python3
"""Checks the conformance ledger: every row is there once, and what it names is there too."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEDGER = ROOT / "docs" / "conformance.md"
ROW = re.compile(r"^\| (T-\d{3}) \| ([^|]+) \| (done|open) \| ([^|]*)\| ([^|]*)\|$")
# The numbers that the statements have; the gaps between the groups are left for later ones.
GROUPS = (
    *((1, 16), (20, 29), (30, 31), (40, 66), (70, 88), (90, 109)),
    *((110, 123), (130, 147), (150, 159), (160, 180), (190, 196)),
)
EXPECTED = [f"T-{number:03}" for first, last in GROUPS for number in range(first, last + 1)]


def faults() -> list[str]:
    """What is wrong with the ledger, one line each."""
    found = []
    rows = []
    for line in LEDGER.read_text().splitlines():
        if not line.startswith("| T-"):
            continue
        match = ROW.match(line)
        if match is None:
            found.append(f"cannot be read: {line}")
            continue
        row, _, state, file, test = (part.strip() for part in match.groups())
        rows.append(row)
        if state == "open":
            if file or test:
                found.append(f"{row}: open, but names a file or test")
            continue
        if not file or not (ROOT / file).is_file():
            found.append(f"{row}: no file {file!r}")
        path, _, name = test.partition("::")
        source = ROOT / path
        if not name or not source.is_file():
            found.append(f"{row}: no test file {path!r}")
        elif not re.search(rf"\b(def|fn) {re.escape(name)}\(", source.read_text()):
            found.append(f"{row}: no test {name!r} in {path}")
    found += [f"{row}: is missing" for row in EXPECTED if row not in rows]
    found += [f"{row}: is there twice" for row in set(rows) if rows.count(row) > 1]
    found += [f"{row}: is no row of the ledger" for row in rows if row not in EXPECTED]
    return found


def main() -> int:
    """Prints what is wrong, or how much is done."""
    found = faults()
    for fault in found:
        print(f"conformance: {fault}", file=sys.stderr)
    done = LEDGER.read_text().count(" | done | ")
    print(f"conformance: {done} of {len(EXPECTED)} statements done, the others open")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
