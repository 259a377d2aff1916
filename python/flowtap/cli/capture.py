"""flowtap capture: interfaces through criteria, until a signal or enough frames."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Literal

import click

from flowtap import BpfProgram, Criteria, FilterTable, Tap, interface_link_type, interfaces
from flowtap.cli.account import account, print_account, print_criteria, print_written
from flowtap.cli.console import Exit, fail, interrupts, print_json, say
from flowtap.cli.criteria import LoadedCriteria, check_exportable, comment, load_criteria
from flowtap.cli.frame_filter import compile_words

if TYPE_CHECKING:
    from types import FrameType

    from flowtap import Stats

__all__ = ["capture"]

LOOK_S = 0.05
KIB = 1024
DEFAULT_RING_KIB = 64 * KIB
STOP_S = 10.0


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("words", nargs=-1, metavar="[BPF WORDS]")
@click.option(
    "-i", "names", multiple=True, required=True, metavar="IFACE", help="An interface; any: all that are up."
)
@click.option(
    "-w", "write", metavar="OUT", help="Write matched frames; .pcapng gives pcapng, - standard output."
)
@click.option("-c", "count", type=click.IntRange(1), metavar="N", help="End after so many matched frames.")
@click.option(
    "-s", "snapshot", type=click.IntRange(0), metavar="N", help="Octets of each frame that are written."
)
@click.option(
    "-B",
    "ring_kib",
    type=click.IntRange(2 * KIB),
    default=DEFAULT_RING_KIB,
    show_default=True,
    metavar="KIB",
    help="The ring of each worker.",
)
@click.option("-p", "not_promiscuous", is_flag=True, help="Only frames that the interface takes anyway.")
@click.option(
    "--criteria", "criteria_file", metavar="FILE", help="DTCP ADD requests as text; everything without it."
)
@click.option(
    "--direction",
    type=click.Choice(["ingress", "both"]),
    help="Where packets enter, or leave if this host made them (default with criteria); or each way.",
)
@click.option(
    "--inner",
    multiple=True,
    type=click.Choice(["gre", "vxlan", "gtpu", "ipip"]),
    help="Match inside these tunnels as well.",
)
@click.option(
    "--deduplicate-ms",
    type=click.IntRange(0, 60_000),
    default=0,
    help="Copy a packet once that is seen again within this time.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Workers that share each interface.",
)
@click.option("--no-prefilter", is_flag=True, help="No eBPF in the kernel.")
@click.option("--export", is_flag=True, help="Send the copies.")
@click.option("--fail-on-drop", is_flag=True, help="Exit 5 when a frame or a copy was lost.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a report.")
@click.option("--quiet", is_flag=True, help="No report.")
def capture(**given: Any) -> None:  # noqa: ANN401 - click's own values
    """Capture interfaces; count, write and send what matches the criteria, or everything.

    Words behind the options are a further frame filter in tcpdump's language. Signals: INT and TERM end it,
    USR1 prints counters.
    """
    names = _names(given["names"])
    loaded = None
    if given["criteria_file"] is not None:
        loaded = load_criteria(given["criteria_file"])
    if given["export"]:
        if loaded is None:
            fail("--export needs --criteria, which say where copies go", Exit.USAGE)
        check_exportable(loaded, given["criteria_file"])
    tap = _tap(names, loaded, given)
    began = time.monotonic()
    stats = _until_ended(tap, quiet=given["quiet"] or given["as_json"])
    summary = _summary(stats, loaded, time.monotonic() - began)
    if given["as_json"]:
        print_json(summary)
    elif not given["quiet"]:
        # With frames on standard output the report goes where it does not disturb.
        with contextlib.redirect_stdout(sys.stderr if given["write"] == "-" else sys.stdout):
            _print(summary, given["write"])
    if tap.error is not None:
        fail(tap.error)
    lost = sum(each.dropped for each in stats.captures) + stats.dropped + stats.refused
    if given["fail_on_drop"] and lost:
        fail(f"{lost} frames or copies were lost", Exit.DATA_LOST)


def _names(given: tuple[str, ...]) -> list[str]:
    known = dict(interfaces())
    if "any" in given:
        return [name for name, is_up in known.items() if is_up]
    for name in given:
        if name not in known:
            fail(f"no interface {name}; there are: {', '.join(known)}", Exit.FAILED)
    return list(dict.fromkeys(given))


def _tap(names: list[str], loaded: LoadedCriteria | None, given: dict[str, Any]) -> Tap:
    # Whole frames, whatever they carry: what tcpdump shows without a filter.
    table = FilterTable.compile([Criteria(1, circuit=True)]) if loaded is None else loaded.table
    direction: Literal["ingress", "both"] = given["direction"] or ("both" if loaded is None else "ingress")
    return Tap.live(
        names,
        table,
        workers=given["workers"],
        export=given["export"],
        promiscuous=not given["not_promiscuous"],
        direction=direction,
        deduplicate_ms=given["deduplicate_ms"],
        inner=given["inner"],
        prefilter=not given["no_prefilter"],
        ring_octets=given["ring_kib"] * KIB,
        bpf=_program(given["words"], names),
        write=given["write"],
        write_comment=None if loaded is None else comment(loaded),
        snapshot_octets=given["snapshot"] or None,
        frames_max=given["count"],
    )


def _program(words: tuple[str, ...], names: list[str]) -> BpfProgram | None:
    if not words:
        return None
    link_types = {interface_link_type(name) for name in names}
    if len(link_types) > 1:
        fail("a frame filter needs interfaces of one link type", Exit.USAGE)
    return compile_words(words, link_types.pop())


def _until_ended(tap: Tap, *, quiet: bool) -> Stats:
    ended = threading.Event()

    def counters(_number: int, _frame: FrameType | None) -> None:
        say(_line(tap.stats()))

    before = signal.signal(signal.SIGUSR1, counters)
    try:
        with interrupts(ended.set):
            tap.start()
            while not ended.wait(LOOK_S) and not tap.finished:
                for event in tap.events():
                    if not quiet:
                        say(event)
            return tap.stop(STOP_S)
    finally:
        signal.signal(signal.SIGUSR1, before)


def _line(stats: Stats) -> str:
    received = sum(each.received for each in stats.captures)
    dropped = sum(each.dropped for each in stats.captures)
    return (
        f"{received:,} frames received, {dropped:,} dropped by the kernel,"
        f" {stats.matched:,} matched, {stats.copied:,} copied, {stats.exported:,} sent"
    )


def _summary(stats: Stats, loaded: LoadedCriteria | None, elapsed_s: float) -> dict[str, Any]:
    captures = [
        {
            "interface": each.interface,
            "received": each.received,
            "dropped": each.dropped,
            "freezes": each.freezes,
            "super_frames_whole": each.super_frames_whole,
            "reopened": each.reopened,
            "filter": each.filter,
        }
        for each in stats.captures
    ]
    return {
        "interfaces": captures,
        **account(
            stats,
            filtered_out=sum(each.filtered_out for each in stats.captures),
            written=stats.written,
            with_criteria=loaded is not None,
        ),
        "duplicates": stats.duplicates,
        "elapsed_s": elapsed_s,
    }


def _print(summary: dict[str, Any], write: str | None) -> None:
    if summary["criteria"]:
        print_criteria(summary)
    for each in summary["interfaces"]:
        print(
            f"{each['interface']}: {each['received']:,} frames received,"
            f" {each['dropped']:,} dropped by the kernel; filter: {each['filter']}"
        )
        if each["freezes"]:
            print(f"{each['interface']}: the ring was full {each['freezes']:,} times; -B makes it longer")
        if each["super_frames_whole"]:
            count = f"{each['super_frames_whole']:,}"
            print(f"{each['interface']}: {count} super-frames could not be cut and are whole")
    print_account(summary)
    print_written(summary, write)
