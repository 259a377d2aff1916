"""flowtap show: what a running tap does, as far as the one who asks may know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flowtap.cli.console import Table, print_json, print_table
from flowtap.cli.local import ask, socket_option

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["show"]

TOTALS = ("frames", "undecodable", "own", "matched", "wanted", "copied", "refused", "exported", "dropped")
COLUMNS = {
    "intercepts": (
        *("criteria_id", "control_source", "state", "static", "packets", "octets"),
        *("average_bandwidth_bps", "added"),
    ),
    "content-destinations": (
        *("content_destination", "configured", "criteria", "matched_packets", "matched_octets"),
        *("average_bandwidth_bps", "exported", "dropped", "refused", "last_error"),
    ),
    "sessions": ("login", "address", "since", "requests"),
}
WHAT = ("intercepts", "control-sources", "content-destinations", "sessions", "stats", "status")


@click.command()
@click.argument("what", type=click.Choice(WHAT))
@socket_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def show(*, what: str, path: Path, as_json: bool) -> None:
    """Ask a running tap for its accounts or its state.

    What you see depends on who you are: filters are shown to their owner alone, and while they wait for
    approval to those who may approve.
    """
    answer = ask(path, what)
    if as_json:
        print_json(answer)
    elif what == "status":
        for key, value in answer.items():
            print(f"{key}: {', '.join(value) if isinstance(value, list) else value}")
    elif what == "stats":
        _print_stats(answer)
    elif what == "control-sources":
        for at, source in enumerate(answer["control_sources"]):
            _print_source(source, is_first=at == 0)
    else:
        _print_rows(answer[what.replace("-", "_")], COLUMNS[what])
        for intercept in answer.get("intercepts", ()):
            _print_filter(intercept)


def _print_rows(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    head = [column.replace("_", " ") for column in columns]
    print_table(Table(head, [[row[column] for column in columns] for row in rows]))


def _print_filter(intercept: dict[str, Any]) -> None:
    """What only the owner, or who may approve it, is told."""
    if "filter" not in intercept:
        return
    filters = [f"{name}: {value}" for name, value in intercept["filter"].items()] or ["everything"]
    times = [f"{name} {value}" for name, value in intercept["remaining"].items() if value is not None]
    print(f"\ncriteria {intercept['criteria_id']} to {', '.join(intercept['content_destinations'])}")
    for line in filters:
        print(f"  {line}")
    if intercept["order"]:
        print(f"  order: {intercept['order']}")
    if times:
        print(f"  left: {', '.join(times)}")


def _print_source(source: dict[str, Any], *, is_first: bool) -> None:
    if not is_first:
        print()
    print(f"control source: {source['control_source']}")
    for name, value in source.items():
        # What never happened is left out; a machine reads it with --json.
        if value and name != "control_source":
            print(f"  {name.replace('_', ' ')}: {value:,}")


def _print_stats(stats: dict[str, Any]) -> None:
    print(f"{stats['name']}: " + ", ".join(f"{stats[name]:,} {name}" for name in TOTALS))
    for name, columns in (
        ("criteria", ("id", "packets", "octets", "copies")),
        ("content_destinations", ("id", "wanted", "copied", "refused", "exported", "dropped", "last_error")),
        ("captures", ("interface", "up", "received", "dropped", "freezes", "super_frames_whole", "filter")),
    ):
        if stats[name]:
            print()
            head = [name.replace("_", " "), *(column.replace("_", " ") for column in columns[1:])]
            print_table(Table(head, [[each[column] for column in columns] for each in stats[name]]))
