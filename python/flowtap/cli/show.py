"""flowtap show: what a running tap does."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import click

from flowtap.cli.console import Exit, Table, fail, print_json, print_table

__all__ = ["ask", "show"]

TIMEOUT_S = 10.0


def ask(path: Path, what: str) -> dict[str, Any]:
    """Asks a running tap over its local socket.

    Raises:
        CommandError: There is none, it may not be asked, or it has no answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(TIMEOUT_S)
        try:
            asking.connect(str(path))
            asking.sendall(json.dumps({"show": what}).encode() + b"\n")
            with asking.makefile("rb") as reader:
                answer: dict[str, Any] = json.loads(reader.readline())
        except PermissionError:
            fail(f"{path}: only the user of the tap may ask", Exit.RIGHT_MISSING)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "no answer"
            fail(f"{path}: {reason}; is the tap running?")
    if "error" in answer and len(answer) == 1:
        fail(str(answer["error"]))
    return answer


@click.command()
@click.argument("what", type=click.Choice(["stats", "status"]))
@click.option(
    "--socket",
    "path",
    type=click.Path(path_type=Path),
    default=Path("flowtap.sock"),
    show_default=True,
    help="The tap's local socket ([show] socket in its configuration).",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of tables.")
def show(*, what: str, path: Path, as_json: bool) -> None:
    """Ask a running tap for its account or its state."""
    answer = ask(path, what)
    if as_json:
        print_json(answer)
    elif what == "status":
        for key, value in answer.items():
            print(f"{key}: {', '.join(value) if isinstance(value, list) else value}")
    else:
        _print_stats(answer)


def _print_stats(stats: dict[str, Any]) -> None:
    total = ("frames", "undecodable", "own", "matched", "wanted", "copied", "refused", "exported", "dropped")
    print(f"{stats['name']}: " + ", ".join(f"{stats[name]:,} {name}" for name in total))
    for name, columns in (
        ("criteria", ("id", "packets", "octets", "copies")),
        ("content_destinations", ("id", "wanted", "copied", "refused", "exported", "dropped", "last_error")),
    ):
        if stats[name]:
            print()
            head = [name.replace("_", " "), *(column.replace("_", " ") for column in columns[1:])]
            print_table(Table(head, [[each[column] for column in columns] for each in stats[name]]))
