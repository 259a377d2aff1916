"""Sends measured traffic on an interface, as a program of its own: a tap beside it must not slow it down.

python -m flowtap.bench.sender INTERFACE FRAMES [--length imix|OCTETS] [--hosts N] [--match SHARE] [--seed N]
"""

from __future__ import annotations

import argparse
import json
import sys

from flowtap.bench.traffic import IMIX, Plan
from flowtap.errors import FlowtapError

__all__ = ["main"]


def main(words: list[str] | None = None) -> int:
    """Sends, and writes one JSON object: frames, octets, pauses, elapsed_s."""
    parser = argparse.ArgumentParser(prog="flowtap.bench.sender")
    parser.add_argument("interface")
    parser.add_argument("frames", type=int)
    parser.add_argument("--length", type=lambda word: IMIX if word == "imix" else int(word), default=IMIX)
    parser.add_argument("--hosts", type=int, default=1)
    parser.add_argument("--match", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(words)
    plan = Plan(given.hosts, given.match, length_octets=given.length, seed=given.seed)
    try:
        frames, octets, pauses, elapsed_s = plan.traffic().send(given.interface, given.frames)
    except (FlowtapError, ValueError) as error:
        sys.stderr.write(f"flowtap.bench.sender: {error}\n")
        return 1
    result = {"frames": frames, "octets": octets, "pauses": pauses, "elapsed_s": elapsed_s}
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
