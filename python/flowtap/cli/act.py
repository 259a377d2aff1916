"""flowtap approve, reject, clear: what the operator's own people do to a running tap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flowtap.cli.console import Exit, fail
from flowtap.cli.local import order, socket_option

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["approve", "clear", "reject"]


def _ids(text: str) -> list[int]:
    """Reads a list such as 3,7-9.

    Raises:
        CommandError: It is none.
    """
    found: list[int] = []
    for element in text.split(","):
        first, dash, last = element.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            fail(f"{text!r}: criteria ids such as 3,7-9 are right", Exit.USAGE)
        found += range(int(first), int(last or first) + 1)
    return found


@click.command()
@click.argument("ids")
@socket_option
def approve(*, ids: str, path: Path) -> None:
    """Let criteria begin to copy that somebody else has asked for: IDS is a list such as 3,7-9."""
    answer = order(path, "approve", _ids(ids))
    print(f"approved: {len(answer['approved'])} criteria")


@click.command()
@click.argument("ids")
@socket_option
def reject(*, ids: str, path: Path) -> None:
    """End criteria that wait for approval: IDS is a list such as 3,7-9."""
    answer = order(path, "reject", _ids(ids))
    print(f"rejected: {len(answer['rejected'])} criteria")


@click.group()
def clear() -> None:
    """End criteria, or forget sequence numbers, for the operator."""


@clear.command()
@click.argument("ids")
@socket_option
def criteria(*, ids: str, path: Path) -> None:
    """End criteria, whoever they belong to: IDS is a list such as 3,7-9."""
    answer = order(path, "clear criteria", _ids(ids))
    print(f"ended: {len(answer['ended'])} criteria")


@clear.command(name="sequence-number")
@click.argument("control_source")
@socket_option
def sequence_number(*, control_source: str, path: Path) -> None:
    """Let the next sequence number of a control source be any."""
    order(path, "clear sequence-number", control_source)
    print(f"{control_source}: the next sequence number may be any")
