"""Fails if `unsafe` occurs in a Rust file that is not on the list of files that may contain it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / "rust"

# File -> why safe code does not do.
ALLOWED = {
    "flowtap-io/src/broker/sys.rs": "a descriptor that comes as a number has no owner yet",
    "flowtap-io/src/export/sys.rs": "socket options and batched sends that no safe crate offers",
    "flowtap-io/src/packet/sys.rs": "packet sockets and the ring that the kernel fills",
    "flowtap-io/tests/packet/sys.rs": "network namespaces and interface settings, for the tests",
    "flowtap-io/src/prefilter/sys.rs": "programs and maps of the kernel's filter",
    "flowtap-io/tests/prefilter/sys.rs": "network namespaces and interface settings, for the tests",
    "flowtap-io/src/usage/sys.rs": "a mapped file, in which several threads count",
    "flowtap-py/src/buffer.rs": "the buffer protocol hands a pointer to the interpreter",
}

# `unsafe_code` and friends are lint names, not code.
UNSAFE = re.compile(r"\bunsafe\b(?!_)")


def code_of(line: str) -> str:
    """The line without a comment that follows."""
    return line.split("//", 1)[0]


def main() -> int:
    """Compares the tree with the list, both ways."""
    found = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.rs")
        if "target" not in path.parts
        and any(UNSAFE.search(code_of(line)) for line in path.read_text().splitlines())
    }
    complaints = [f"{name}: contains unsafe code and is not allowed to" for name in found - ALLOWED.keys()]
    complaints += [f"{name}: listed, but has no unsafe code" for name in ALLOWED.keys() - found]
    print("\n".join(sorted(complaints)) or f"unsafe code in {len(found)} files, all of them listed")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
