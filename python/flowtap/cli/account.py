"""The account of a replay or a capture: what both have, as values and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowtap.cli.console import Table, print_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowtap import Stats

__all__ = ["account", "print_account", "print_criteria", "print_written"]


def account(stats: Stats, *, filtered_out: int, written: int, with_criteria: bool = True) -> dict[str, Any]:
    """What was counted, as ``--json`` says it."""
    criteria = stats.criteria if with_criteria else []
    return {
        "frames": stats.frames,
        "undecodable": stats.undecodable,
        "own": stats.own,
        "filtered_out": filtered_out,
        "matched": stats.matched,
        "copies": stats.copied,
        "refused": stats.refused,
        "exported": stats.exported,
        "dropped": stats.dropped,
        "written": written,
        "criteria": [{"id": each.id, "packets": each.packets, "octets": each.octets} for each in criteria],
    }


def print_criteria(summary: Mapping[str, Any]) -> None:
    """A table of what every criterion has matched."""
    rows = [(each["id"], each["packets"], each["octets"]) for each in summary["criteria"]]
    print_table(Table(("criteria", "packets", "octets"), rows))


def print_account(summary: Mapping[str, Any]) -> None:
    """What was counted, in words."""
    print(
        f"{summary['frames']:,} frames captured, {summary['undecodable']:,} undecodable,"
        f" {summary['matched']:,} matched, {summary['copies']:,} copied"
    )
    if summary["filtered_out"]:
        print(f"{summary['filtered_out']:,} frames kept away by the frame filter")
    if summary.get("duplicates"):
        print(f"{summary['duplicates']:,} packets were seen again and not copied twice")
    if summary["refused"]:
        print(f"{summary['refused']:,} copies refused: too long for their destinations, or above a limit")
    if summary["exported"] or summary["dropped"]:
        print(f"{summary['exported']:,} copies exported, {summary['dropped']:,} dropped")


def print_written(summary: Mapping[str, Any], write: str | None) -> None:
    """Where matched frames are now."""
    if write is not None and write != "-":
        print(f"{summary['written']:,} frames written to {write}")
