"""flowtap replay: captures through criteria, once."""

from __future__ import annotations

import contextlib
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from flowtap import Replay, capture_link_type
from flowtap.cli.account import account, print_account, print_criteria, print_written
from flowtap.cli.console import Exit, fail, interrupts, print_json, say
from flowtap.cli.criteria import LoadedCriteria, check_exportable, comment, load_criteria
from flowtap.cli.frame_filter import compile_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowtap import BpfProgram, ReplayReport

__all__ = ["replay"]

POLL_S = 0.1


@click.command()
@click.argument("captures", nargs=-1, metavar="CAPTURE... [BPF WORDS]")
@click.option("-r", "read", multiple=True, metavar="CAPTURE", help="A capture; - is standard input.")
@click.option("--criteria", "criteria_file", metavar="FILE", required=True, help="DTCP ADD requests as text.")
@click.option("-w", "--write", metavar="OUT", help="Write matched frames; .pcapng gives pcapng.")
@click.option("--export", is_flag=True, help="Send the copies.")
@click.option(
    "--inner",
    multiple=True,
    type=click.Choice(["gre", "vxlan", "gtpu", "ipip"]),
    help="Match inside these tunnels as well.",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    metavar="N",
    help="The most threads on one file; as many as there are processors.",
)
@click.option("--fail-on-drop", is_flag=True, help="Exit 5 when a copy was lost.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
@click.option("--quiet", is_flag=True, help="No progress, no report.")
def replay(
    *,
    captures: tuple[str, ...],
    read: tuple[str, ...],
    criteria_file: str,
    write: str | None,
    export: bool,
    inner: tuple[Literal["gre", "vxlan", "gtpu", "ipip"], ...],
    threads: int | None,
    fail_on_drop: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Match captures against criteria; count, write and send what matches.

    Words behind the captures are a further frame filter in tcpdump's language.
    """
    files, words = _files_and_words(captures, read)
    loaded = load_criteria(criteria_file)
    if export:
        check_exportable(loaded, criteria_file)
    report = _run(
        Replay(
            files,
            loaded.table,
            write=write,
            write_comment=comment(loaded),
            export=export,
            bpf=_program(words, files),
            inner=inner,
            threads=threads,
        ),
        show_progress=sys.stderr.isatty() and not quiet and not as_json,
    )
    summary = _summary(report, loaded)
    if as_json:
        print_json(summary)
    elif not quiet:
        # With frames on standard output the report goes where it does not disturb.
        with contextlib.redirect_stdout(sys.stderr if write == "-" else sys.stdout):
            _print(summary, write)
    if report.error is not None:
        fail(report.error)
    if fail_on_drop and (report.stats.dropped or report.stats.refused):
        fail(f"{report.stats.dropped + report.stats.refused} copies were lost", Exit.DATA_LOST)


def _files_and_words(captures: tuple[str, ...], read: tuple[str, ...]) -> tuple[list[str], tuple[str, ...]]:
    """Captures are the leading arguments that are files; the rest is the frame filter."""
    files = list(read)
    at = 0
    while at < len(captures) and (captures[at] == "-" or Path(captures[at]).exists()):
        files.append(captures[at])
        at += 1
    if not files:
        if captures:
            fail(f"{captures[0]}: no such capture file", Exit.FAILED)
        fail("no capture; name at least one file, or - for standard input", Exit.USAGE)
    return files, captures[at:]


def _program(words: Sequence[str], files: list[str]) -> BpfProgram | None:
    if not words:
        return None
    if "-" in files:
        fail("a frame filter needs captures that are files, not standard input", Exit.USAGE)
    link_types = {capture_link_type(path) for path in files} - {None}
    if len(link_types) > 1:
        fail("a frame filter needs captures of one link type", Exit.USAGE)
    for link_type in link_types:
        if link_type is not None:
            return compile_words(words, link_type)
    return None


def _run(replay: Replay, *, show_progress: bool) -> ReplayReport:
    """Runs in a thread, so that signals are seen at once."""
    with ThreadPoolExecutor(max_workers=1) as pool, interrupts(replay.cancel):
        future = pool.submit(replay.run)
        while not future.done():
            wait([future], timeout=POLL_S)
            if show_progress:
                octets = replay.read_octets / 1e6
                print(f"\r{replay.frames:,} frames, {octets:,.0f} MB", end="", file=sys.stderr)
    if show_progress:
        print("\r\033[K", end="", file=sys.stderr)
    return future.result()


def _summary(report: ReplayReport, loaded: LoadedCriteria) -> dict[str, Any]:
    stats = report.stats
    return {
        **account(stats, filtered_out=report.filtered_out, written=report.written),
        "octets": stats.octets,
        "load_s": loaded.load_s,
        "compile_s": loaded.compile_s,
        "elapsed_s": report.elapsed_s,
        "threads": report.threads,
        "interrupted": report.interrupted,
        "error": None
        if report.error is None
        else {"message": report.error, "offset_octets": report.error_offset_octets},
        "destinations": [
            {
                "id": each.id,
                "copies": each.copied,
                "exported": each.exported,
                "dropped": each.dropped,
                "last_error": each.last_error,
            }
            for each in stats.destinations
        ],
    }


def _print(summary: dict[str, Any], write: str | None) -> None:
    print_criteria(summary)
    print_account(summary)
    for each in summary["destinations"]:
        if each["last_error"]:
            say(f"content destination {each['id']}: {each['last_error']}")
    print_written(summary, write)
    rate = summary["frames"] / summary["elapsed_s"] if summary["elapsed_s"] else 0.0
    threads = f", {summary['threads']} threads" if summary["threads"] > 1 else ""
    print(f"{summary['elapsed_s']:.3f} s, {rate / 1e6:.2f} million frames a second{threads}")
    if summary["interrupted"]:
        say("interrupted: the figures are those of the part that was read")
