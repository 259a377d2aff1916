"""flowtap bench: how fast this machine is."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowtap.bench.machine import describe
from flowtap.bench.parts import PARTS, Settings
from flowtap.bench.report import HEAD, Figure, PlotError, plot
from flowtap.bench.rounds import in_turn
from flowtap.cli.console import Table, print_json, print_table, say
from flowtap.errors import PermissionMissingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowtap.bench.parts import Case

__all__ = ["bench"]

IMIX_WORD = "imix"
LEAST_OCTETS = 60
MOST_OCTETS = 1514
MOST_HOSTS = 1_000_000
BAR_CELLS = 30


def _length(_context: click.Context, _parameter: click.Parameter, value: str) -> int | None:
    if value == IMIX_WORD:
        return None
    if value.isdigit() and LEAST_OCTETS <= int(value) <= MOST_OCTETS:
        return int(value)
    message = f"{value!r}: imix, or {LEAST_OCTETS} to {MOST_OCTETS} octets, is right"
    raise click.BadParameter(message)


def _hosts(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, ...]:
    words = value.split(",")
    if not all(word.isdigit() and 1 <= int(word) <= MOST_HOSTS for word in words):
        message = f"{value!r}: numbers from 1 to {MOST_HOSTS} with commas between them are right"
        raise click.BadParameter(message)
    return tuple(sorted({int(word) for word in words}))


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(tuple(PARTS)))
@click.option(
    "--packets", type=click.IntRange(1000), default=1_000_000, show_default=True, help="Frames in files."
)
@click.option(
    "--length", callback=_length, default=IMIX_WORD, show_default=True, help="imix, or octets of a frame."
)
@click.option(
    "--ipv6", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Share that is IPv6."
)
@click.option(
    "--hosts", callback=_hosts, default="1,100,10000,100000", show_default=True, help="Hosts tapped."
)
@click.option(
    "--match", type=click.FloatRange(0, 1), default=0.01, show_default=True, help="Share that matches."
)
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=1, show_default=True)
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True)
@click.option(
    "--output", type=click.Path(path_type=Path), help="Write bench.json and a picture to this directory."
)
@click.option(
    "--write-capture", type=click.Path(path_type=Path), help="Only write the traffic as a capture file."
)
@click.option(
    "--write-criteria", type=click.Path(path_type=Path), help="Only write the criteria of the hosts."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
@click.option("--quiet", is_flag=True, help="No progress.")
def bench(
    *,
    parts: tuple[str, ...],
    packets: int,
    length: int | None,
    ipv6: float,
    hosts: tuple[int, ...],
    match: float,
    seed: int,
    rounds: int,
    output: Path | None,
    write_capture: Path | None,
    write_criteria: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure flowtap on this machine: all PARTS, or those named.

    The traffic is made here, the same for the same seed everywhere. The cases of a part are measured in turn,
    round by round; a row has the median of the rounds, and from where to where they went.
    """
    settings = Settings(packets, length, ipv6, hosts, match, seed)
    show = _progress() if sys.stderr.isatty() and not quiet and not as_json else None
    if write_capture is not None or write_criteria is not None:
        _write(settings, write_capture, write_criteria, show)
        return
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    figures: list[Figure] = []
    for part in dict.fromkeys(parts) or PARTS:
        with ExitStack() as stack:
            try:
                offered = PARTS[part](settings, stack)
            except PermissionMissingError as error:
                if parts:
                    raise
                say(f"{part} is left out: {error}")
                continue
            figures += _measure(dict(enumerate(offered)), rounds, show, part)
    result = describe() | {
        "settings": {"packets": packets, "ipv6_share": ipv6, "seed": seed, "rounds": rounds},
        "figures": [figure.as_json() for figure in figures],
    }
    if as_json:
        print_json(result)
    else:
        _print(figures, result)
    if output is not None:
        _keep(output, result, figures)


def _measure(
    cases: dict[int, Case], rounds: int, show: Callable[[str, int, int], None] | None, part: str
) -> list[Figure]:
    progress = None if show is None else lambda done, total: show(part, done, total)
    runs = in_turn({at: case.run for at, case in cases.items()}, rounds, progress)
    if show is not None:
        show("", 0, 0)
    return [Figure.of(cases[at], values) for at, values in runs.items()]


def _progress() -> Callable[[str, int, int], None]:
    """A bar on standard error; nothing left of it when the total is 0."""

    def show(what: str, done: int, total: int) -> None:
        if total == 0:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
            return
        cells = BAR_CELLS * done // total
        bar = "#" * cells + "-" * (BAR_CELLS - cells)
        print(f"\r{what:12} [{bar}] {done}/{total}", end="", file=sys.stderr, flush=True)

    return show


def _write(
    settings: Settings,
    capture: Path | None,
    criteria: Path | None,
    show: Callable[[str, int, int], None] | None,
) -> None:
    if criteria is not None:
        criteria.write_text(settings.plan(settings.hosts[-1], 0).requests())
    if capture is None:
        return
    plan = settings.plan(settings.hosts[-1], settings.match_share)
    total = settings.packets
    progress = None if show is None else lambda done: show("writing", done, total)
    plan.traffic().write(capture, total, progress=progress)
    if show is not None:
        show("", 0, 0)


def _machine(result: dict[str, Any]) -> str:
    return (
        f"flowtap {result['flowtap']}, {result['processors']} x {result['processor']}, {result['kernel']},"
        f" Python {result['python']}"
    )


def _print(figures: list[Figure], result: dict[str, Any]) -> None:
    print_table(Table(HEAD, [figure.row() for figure in figures]))
    print(f"\n{_machine(result)}, load {result['load_average']}")
    print("Mpps: million frames a second, median, and from where to where the rounds went; ns: for one frame")


def _keep(output: Path, result: dict[str, Any], figures: list[Figure]) -> None:
    (output / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
    try:
        plot(figures, _machine(result), output / "bench.svg")
    except PlotError as error:
        say(str(error))
