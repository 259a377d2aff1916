"""flowtap show: what a running tap does, as far as the one who asks may know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flowtap.cli.associations import ike_lines, ipsec_lines, silent_lines, tunnel_lines
from flowtap.cli.console import Table, cell, fail, print_json, print_table, say
from flowtap.cli.flow_capture import (
    control_source_lines,
    destination_lines,
    flow_tap_lines,
    statistics_lines,
)
from flowtap.cli.local import ask, configuration_option, socket_of, socket_option
from flowtap.cli.show_words import Asked, WordError, first_words, read_words

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["show"]

TOTALS = (
    *("frames", "undecodable", "own", "matched", "wanted", "copied", "refused"),
    *("exported", "in_spool", "dropped"),
)
COLUMNS = {
    "intercepts": (
        *("criteria_id", "control_source", "state", "static", "packets", "octets"),
        *("average_bandwidth_bps", "added"),
    ),
    "content-destinations": (
        *("content_destination", "configured", "criteria", "matched_packets", "matched_octets"),
        *("average_bandwidth_bps", "exported", "in_spool", "dropped", "refused", "last_error"),
    ),
    "sessions": ("login", "address", "since", "requests"),
}
_CAPTURE_PAGES = frozenset({"control-source", "content-destination", "statistics"})
_NOTHING = {
    "tunnels": "the configuration has no tunnel",
    "intercepts": "there is no intercept",
    "control_sources": "the configuration has no control source",
    "content_destinations": "there is no content destination, neither configured nor tasked",
}
"""What is said where a router would print nothing at all."""
_SELECTED = {
    "source-identifier": ("control_source",),
    "destination-identifier": ("content_destination",),
    "service-set": ("service_set", "name"),
    "address": ("remote_gateway",),
}
"""By which values of a row a word selects it."""


@click.command(
    epilog=f"WORDS begin with one of {', '.join(first_words())}. Those of a router are taken whole, such as"
    " services ipsec-vpn ike security-associations."
)
@click.argument("words", nargs=-1, required=True)
@socket_option
@configuration_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def show(*, words: tuple[str, ...], path: Path, configuration: Path | None, as_json: bool) -> None:
    """Ask a running tap for its accounts or its state.

    What you see depends on who you are: filters are shown to their owner alone, and while they wait for
    approval to those who may approve.
    """
    try:
        asked = read_words(words)
    except WordError as error:
        raise click.UsageError(str(error)) from None
    path = socket_of(path, configuration)
    answer = ask(path, asked.page.view)
    if asked.page.name == "statistics":
        answer = {"stats": ask(path, "stats"), **answer}
    group = _capture_group(path, asked) if asked.page.name in _CAPTURE_PAGES else ""
    answer = _select(answer, asked)
    if as_json:
        print_json(answer)
    elif asked.page.name in COLUMNS or asked.page.name in {"status", "stats", "control-sources"}:
        _print_own(asked.page.name, answer)
    else:
        _print_like_router(asked, answer, group)


def _capture_group(path: Path, asked: Asked) -> str:
    """The only capture group that there is: the network element.

    Raises:
        CommandError: Another one was asked for.
    """
    name: str = ask(path, "status")["name"]
    wanted = asked.selectors.get("capture-group", name)
    if wanted != name:
        fail(f"capture-group {wanted}: there is none of that name; {name} is the only one")
    return name


def _select(answer: dict[str, Any], asked: Asked) -> dict[str, Any]:
    """What was asked for by name.

    Raises:
        CommandError: There is nothing of that name.
    """
    for word, value in asked.selectors.items():
        if word not in _SELECTED:
            continue
        rows = [row for row in answer[asked.page.rows] if value in _names(row, word)]
        if not rows:
            fail(f"{word} {value}: there is nothing of that name to show")
        answer = {**answer, asked.page.rows: rows}
    return answer


def _names(row: dict[str, Any], word: str) -> list[str]:
    return [row[key] for key in _SELECTED[word]]


def _print_like_router(asked: Asked, answer: dict[str, Any], group: str) -> None:
    detail = asked.level in {"detail", "extensive"}
    match asked.page.name:
        case "ike":
            lines = ike_lines(answer["tunnels"], detail=detail)
        case "ipsec":
            lines = ipsec_lines(answer["tunnels"], detail=detail)
        case "tunnels":
            lines = tunnel_lines(answer["tunnels"])
        case "flow-tap":
            lines = flow_tap_lines(answer["intercepts"], asked.level)
        case "control-source":
            lines = control_source_lines(group, answer["control_sources"], asked.level)
        case "content-destination":
            lines = destination_lines(group, answer["content_destinations"], asked.level)
        case _:
            lines = statistics_lines(group, answer["stats"], answer["control_sources"])
    for line in lines:
        print(line)
    if asked.page.rows in answer and not answer[asked.page.rows]:
        say(_NOTHING[asked.page.rows])
    if asked.page.name in {"ike", "ipsec"}:
        for line in silent_lines(answer["tunnels"], asked.page.name):
            say(line)


def _print_own(what: str, answer: dict[str, Any]) -> None:
    if what == "status":
        for key, value in answer.items():
            print(f"{key}: {cell(', '.join(value) if isinstance(value, list) else value)}")
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


def _export_columns(stats: dict[str, Any]) -> tuple[str, ...]:
    """What is shown of the destinations; what only tunnels have, where there was any of it."""
    protected = [
        column
        for column in ("in_spool", "resent", "exported_in_doubt", "recovered")
        if any(each[column] for each in stats["content_destinations"])
    ]
    return ("id", "wanted", "copied", "refused", "exported", *protected, "dropped", "last_error")


def _print_stats(stats: dict[str, Any]) -> None:
    print(f"{stats['name']}: " + ", ".join(f"{stats[name]:,} {name.replace('_', ' ')}" for name in TOTALS))
    for name, columns in (
        ("criteria", ("id", "packets", "octets", "copies")),
        ("content_destinations", _export_columns(stats)),
        ("captures", ("interface", "up", "received", "dropped", "freezes", "super_frames_whole", "filter")),
    ):
        if stats[name]:
            print()
            head = [name.replace("_", " "), *(column.replace("_", " ") for column in columns[1:])]
            print_table(Table(head, [[each[column] for column in columns] for each in stats[name]]))
