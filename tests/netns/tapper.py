"""A live tap that is asked over a pipe: one JSON object a line."""

from __future__ import annotations

import json
import socket
import sys
from typing import Any

from flowtap import ContentDestination, Criteria, FilterTable, Gate, Stats, Tap


def account(stats: Stats) -> dict[str, Any]:
    names = ("frames", "undecodable", "own", "duplicates", "matched", "wanted", "copied", "refused")
    return {
        **{name: getattr(stats, name) for name in (*names, "exported", "dropped", "in_queue", "generation")},
        **{name: getattr(stats, name) for name in ("in_spool", "recovered")},
        "destinations": {
            each.id: {
                name: getattr(each, name)
                for name in ("exported", "dropped", "in_spool", "resent", "exported_in_doubt", "last_error")
            }
            for each in stats.destinations
        },
        "criteria": [
            {"id": each.id, "packets": each.packets, "octets": each.octets, "copies": each.copies}
            for each in stats.criteria
        ],
        "captures": [
            {
                name: getattr(each, name)
                for name in (
                    "interface",
                    "is_up",
                    "received",
                    "dropped",
                    "super_frames_whole",
                    "reopened",
                    "filter",
                )
            }
            for each in stats.captures
        ],
    }


def main() -> None:
    job = json.loads(sys.stdin.readline())
    options = job["options"]
    destinations = {
        name: ContentDestination(**values) for name, values in options.pop("destinations", {}).items()
    }
    if isinstance(options.get("export"), list):
        given = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        given.bind(tuple(options["export"]))
        options["export"] = given
    gates = {name: Gate(name) for name in options.pop("gates", [])}
    if gates:
        options["gates"] = list(gates.values())
    table = FilterTable.compile([Criteria(**each) for each in job["criteria"]], destinations)
    tunnels = [tuple(each) for each in options.pop("tunnels", [])]
    tap = Tap.live(job["interfaces"], table, **options)
    tap.exclude_tunnels(tunnels)
    tap.prove_exclusion()
    tap.start()
    print(json.dumps("started"), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        answer: Any = None
        if asked["do"] == "stats":
            answer = account(tap.stats())
        elif asked["do"] == "events":
            answer = tap.events()
        elif asked["do"] == "open":
            gates[asked["tunnel"]].open()
        elif asked["do"] == "shut":
            gates[asked["tunnel"]].shut(asked["in_doubt_s"])
        elif asked["do"] == "change":
            table = table.changed(asked["remove"], [Criteria(**each) for each in asked["add"]])
            answer = tap.install(table)
        print(json.dumps(answer), flush=True)
    tap.stop()


main()
