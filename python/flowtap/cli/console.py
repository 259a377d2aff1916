"""What every command shares: exit status, messages, tables, progress."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from types import FrameType
    from typing import TextIO

__all__ = [
    "CommandError",
    "Exit",
    "Table",
    "cell",
    "fail",
    "interrupts",
    "open_private",
    "print_json",
    "print_table",
    "say",
    "table_lines",
]


class Exit(IntEnum):
    """Exit status of every command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    INVALID = 3
    RIGHT_MISSING = 4
    DATA_LOST = 5


class CommandError(Exception):
    """Ends the command with a message and a status."""

    def __init__(self, message: str, status: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.status = status


def fail(message: str, status: Exit = Exit.FAILED) -> NoReturn:
    """Ends the command.

    Raises:
        CommandError: Always.
    """
    raise CommandError(message, status)


def open_private(path: Path) -> TextIO:
    """Makes a file that nobody else may read, and opens it for writing.

    Raises:
        FileExistsError: There is something of that name, be it a link.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_EXCL
    return os.fdopen(os.open(path, flags, 0o600), "w")


def say(message: str) -> None:
    """Writes a line for the person at the terminal; standard output stays for results."""
    print(message, file=sys.stderr)


def print_json(value: object) -> None:
    """Writes one JSON value as one line."""
    print(json.dumps(value, separators=(", ", ": ")))


@dataclass(frozen=True, slots=True)
class Table:
    """A table: head and rows, numbers to the right."""

    head: Sequence[str]
    rows: Iterable[Sequence[object]]


def print_table(table: Table) -> None:
    """Writes a table in plain text, so that it can be piped and read by anything."""
    for line in table_lines(table):
        print(line)


def table_lines(table: Table) -> list[str]:
    """The lines of a table: columns are at least two spaces apart."""
    rows = [[cell(value) for value in row] for row in table.rows]
    numeric = [
        bool(rows)
        and all(isinstance(row[at], int | float) and not isinstance(row[at], bool) for row in table.rows)
        for at in range(len(table.head))
    ]
    widths = [max([len(head), *(len(row[at]) for row in rows)]) for at, head in enumerate(table.head)]
    lines = []
    for row in [list(table.head), *rows]:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def cell(value: object) -> str:
    """A value as a person reads it; a dash where there is none."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value) if value is not None and value != "" else "-"


@contextmanager
def interrupts(first: Callable[[], None]) -> Iterator[None]:
    """Calls ``first`` at the first INT or TERM; a second one ends the program at once."""
    seen = 0

    def received(number: int, _frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        if seen > 1:
            os._exit(128 + number)
        first()

    before = {number: signal.signal(number, received) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
