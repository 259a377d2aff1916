"""flowtap config import-junos: a router's configuration becomes a folder of flowtap's."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from pydantic import TypeAdapter, ValidationError

from flowtap.cli.console import Exit, fail, print_json, say
from flowtap.config.junos import (
    FolderError,
    Import,
    JunosError,
    check,
    decode,
    import_text,
    report_object,
    report_of_error,
    write,
)
from flowtap.config.junos.tokens import TEXT_OCTETS_MAX
from flowtap.config.values import InterfaceName, Name

__all__ = ["import_junos"]

STANDARD_INPUT = "-"
FAULTS_SHOWN = 50
UNMAPPED_SHOWN = 200
"""Somebody has to read them; the report has all."""
_ROUTER = TypeAdapter[str](Name)
_SYSTEM = TypeAdapter[str](InterfaceName)


@click.command(name="import-junos")
@click.argument("file")
@click.option(
    "--interface",
    "interfaces",
    multiple=True,
    metavar="NAME=eth0",
    help="An interface to tap: the router's name for it and this system's. Repeatable.",
)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The folder to make.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one object.")
@click.option("--replace", is_flag=True, help="Put an existing folder aside.")
def import_junos(
    *, file: str, interfaces: tuple[str, ...], output: Path, as_json: bool, replace: bool
) -> None:
    """Make a configuration folder out of a router's configuration, in curly braces or set lines.

    FILE is what 'show configuration' or 'show configuration | display set' printed; - is standard input.
    """
    names = _names(interfaces)
    source = "standard input" if file == STANDARD_INPUT else file
    try:
        imported = import_text(decode(_read(file)), names)
    except JunosError as error:
        if as_json:
            print_json(report_of_error(error, source))
        fail(f"{source}:{error}\nnothing was written", Exit.INVALID)
    if faults := _faults(imported, source):
        if as_json:
            print_json(report_object(imported, source))
        fail("\n".join([*faults, "nothing was written"]), Exit.INVALID)
    try:
        former = write(imported, source, output, replace=replace)
    except FolderError as error:
        fail(f"{error}\nnothing was written")
    except OSError as error:
        fail(f"{output}: {error.strerror or error}\nnothing was written")
    if former is not None:
        say(f"what was in {output} is now in {former}")
    if as_json:
        print_json(report_object(imported, source))
    else:
        _print(imported, source, output)


def _faults(imported: Import, source: str) -> list[str]:
    """What is wrong in the router's configuration, or else what flowtap's own has against what came out."""
    faults = [
        f"{source}:{each.line}:{each.column}: {each.statement}: {each.reason}"
        for each in imported.faults[:FAULTS_SHOWN]
    ]
    if more := len(imported.faults) - len(faults):
        faults.append(f"{source}: and {more:,} more")
    if not faults and (refused := check(imported)):
        faults = [f"{source}: as flowtap's configuration: {each}" for each in refused]
        faults += [f"{source}: still needed: {each}" for each in imported.draft.needed]
    return faults


def _read(file: str) -> bytes:
    if file == STANDARD_INPUT:
        return sys.stdin.buffer.read(TEXT_OCTETS_MAX + 1)
    with Path(file).open("rb") as reading:
        return reading.read(TEXT_OCTETS_MAX + 1)


def _names(interfaces: tuple[str, ...]) -> dict[str, str]:
    names: dict[str, str] = {}
    for each in interfaces:
        name, is_pair, system = each.partition("=")
        try:
            known, names[_ROUTER.validate_python(name)] = name in names, _SYSTEM.validate_python(system)
        except ValidationError:
            known = True
        if known or not is_pair:
            fail(f"--interface {each}: NAME=eth0, once for every NAME, is right", Exit.USAGE)
    return names


def _print(imported: Import, source: str, output: Path) -> None:
    counts = report_object(imported, source)["counts"]
    total = len(imported.entries)
    print(
        f"{source}: {total} statements: {counts['mapped']} mapped, {counts['ignored']} ignored,"
        f" {counts['unmapped']} could not be mapped"
    )
    unmapped = [entry for entry in imported.entries if entry.outcome == "unmapped"]
    for entry in unmapped[:UNMAPPED_SHOWN]:
        print(f"  {entry.line}:{entry.column}: {entry.statement}: {entry.reason}")
    if len(unmapped) > UNMAPPED_SHOWN:
        more = len(unmapped) - UNMAPPED_SHOWN
        print(f"  and {more:,} more that could not be mapped; import-report.txt has them")
    for note in imported.draft.notes:
        print(f"  note: {note}")
    print(f"{output}: written; import-report.txt says what became of every statement")
    if imported.draft.needed:
        print("still needed:")
        for text in imported.draft.needed:
            print(f"  * {text}")
