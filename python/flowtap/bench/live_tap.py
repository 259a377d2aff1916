"""A live tap as a program of its own, in the network where the measured interface is.

python -m flowtap.bench.live_tap INTERFACE [--hosts N | --everything] [--workers N] [--no-prefilter]
                                 [--export ADDRESS PORT SOURCE_ADDRESS SOURCE_PORT]

It says "ready" when it captures, and in the end, on INT or TERM, writes one JSON object with its account.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from typing import TYPE_CHECKING, Any

from flowtap import ContentDestination, Criteria, FilterTable, Tap
from flowtap.bench.traffic import Plan
from flowtap.errors import FlowtapError

if TYPE_CHECKING:
    from flowtap import Stats

__all__ = ["main"]

DESTINATION = "cd"
END = {signal.SIGINT, signal.SIGTERM}


def _table(given: argparse.Namespace) -> FilterTable:
    to = [DESTINATION] if given.export else []
    if given.everything:
        criteria = [Criteria(1, source="0.0.0.0/0", deliver_to=to), Criteria(2, source="::/0", deliver_to=to)]
    else:
        criteria = Plan(hosts=given.hosts).criteria(to)
    if not given.export:
        return FilterTable.compile(criteria)
    address, port, source_address, source_port = given.export
    destination = ContentDestination(address, int(port), source_address, int(source_port))
    return FilterTable.compile(criteria, {DESTINATION: destination})


def _account(stats: Stats) -> dict[str, Any]:
    return {
        "frames": stats.frames,
        "matched": stats.matched,
        "copied": stats.copied,
        "refused": stats.refused,
        "exported": stats.exported,
        "dropped": stats.dropped,
        "kernel_dropped": sum(each.dropped for each in stats.captures),
        "freezes": sum(each.freezes for each in stats.captures),
        "filter": sorted({each.filter for each in stats.captures}),
    }


def main(words: list[str] | None = None) -> int:
    """Taps until it is told to end."""
    parser = argparse.ArgumentParser(prog="flowtap.bench.live_tap")
    parser.add_argument("interface")
    parser.add_argument("--hosts", type=int, default=1)
    parser.add_argument("--everything", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--no-prefilter", action="store_true")
    parser.add_argument("--export", nargs=4)
    given = parser.parse_args(words)
    # Blocked before the tap starts threads, so that only the wait below takes them.
    signal.pthread_sigmask(signal.SIG_BLOCK, END)
    try:
        table = _table(given)
        tap = Tap.live(
            given.interface,
            table,
            workers=given.workers,
            export=bool(given.export),
            prefilter=not given.no_prefilter,
        )
        with tap:
            tap.start()
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            signal.sigwait(END)
            stats = tap.stop()
    except FlowtapError as error:
        sys.stderr.write(f"flowtap.bench.live_tap: {error}\n")
        return 1
    sys.stdout.write(json.dumps(_account(stats)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
