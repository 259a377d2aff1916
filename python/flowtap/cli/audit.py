"""flowtap audit: prove that the audit log is whole, and hand it out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowtap.cli.console import Exit, fail, open_private, print_json
from flowtap.control import ChainError, verify
from flowtap.service.auditlog import AnchorError, check_anchors, read_audit_log

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["audit"]


def _store_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--store",
        type=click.Path(path_type=Path),
        default=Path("flowtap.db"),
        show_default=True,
        help="The store ([store] path in the configuration); it may be in use.",
    )(command)


@click.group()
def audit() -> None:
    """Prove that the audit log is whole, and hand it out."""


@audit.command(name="verify")
@_store_option
@click.option(
    "--anchors",
    type=click.Path(path_type=Path),
    help="Lines that [audit] anchor_file has collected, kept elsewhere: shows that no end was cut off.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def verify_(*, store: Path, anchors: Path | None, as_json: bool) -> None:
    """Check every record of the audit log against the chain of hashes."""
    rows = list(read_audit_log(store))
    try:
        count = verify(rows)
        kept = 0 if anchors is None else check_anchors(anchors, rows)
    except (ChainError, AnchorError) as error:
        if as_json:
            print_json({"valid": False, "error": str(error)})
        fail(f"{store}: the audit log is not what was written: {error}", Exit.FAILED)
    last = rows[-1].hash if rows else None
    if as_json:
        print_json({"valid": True, "records": count, "anchors": kept, "last_hash": last})
        return
    print(f"{store}: {count:,} records, every hash fits")
    if anchors is not None:
        print(f"{anchors}: {kept:,} anchors, all of them fit")
    if last is not None:
        print(f"the last record has the hash {last}")


@audit.command()
@_store_option
@click.option("--output", type=click.Path(path_type=Path), help="A new file; standard output without it.")
def export(*, store: Path, output: Path | None) -> None:
    """Write the audit log as JSON lines, each record with its number and hash.

    The log names subjects: keep what comes out as well as the store itself.
    """
    if output is None:
        for row in read_audit_log(store):
            sys.stdout.write(_line(row.number, row.hash, row.text))
        return
    try:
        with open_private(output) as writing:
            for row in read_audit_log(store):
                writing.write(_line(row.number, row.hash, row.text))
    except FileExistsError:
        fail(f"{output}: exists; a new file is right", Exit.USAGE)


def _line(number: int, chain_hash: str, text: str) -> str:
    # The text is what was hashed: it goes out as it is.
    return f'{{"number":{number},"hash":{json.dumps(chain_hash)},"record":{text}}}\n'
