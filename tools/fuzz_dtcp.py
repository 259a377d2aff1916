#!/usr/bin/env python3
"""Spoils messages of the protocol for some seconds: nothing may come of it but answers, errors and silence.

tools/fuzz_dtcp.py SECONDS [FIRST]

Cases are numbered; one that is wrong is named, and `FIRST` begins with it again.
"""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(TESTS / "fuzz"), str(TESTS / "unit" / "control")]


def main(words: list[str]) -> int:
    """Looks at cases for a while; returns the exit status."""
    from dtcp_octets import spoil  # noqa: PLC0415 - it is found only now

    first = int(words[1]) if words[1:] else 0
    count = spoil(float(words[0]), first)
    print(f"fuzz_dtcp: cases {first} to {first + count - 1}, nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
