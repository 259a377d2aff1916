"""flowtap mediate: the other end, which receives copies and keeps them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from flowtap import Receiver
from flowtap.cli.console import Exit, Table, fail, interrupts, print_json, print_table, say

__all__ = ["mediate", "parse_endpoint"]

POLL_S = 0.05


def parse_endpoint(text: str) -> tuple[str, int]:
    """Reads ``ADDRESS:PORT``; an IPv6 address stands in brackets.

    Raises:
        CommandError: It is something else.
    """
    address, _, port = text.rpartition(":")
    if not address or not port.isdecimal() or int(port) > 65_535:  # noqa: PLR2004 - the highest port
        fail(f"{text!r}: ADDRESS:PORT is right, such as 192.0.2.9:30000 or [::1]:30000", Exit.USAGE)
    return address.removeprefix("[").removesuffix("]"), int(port)


@click.command()
@click.option("--listen", multiple=True, required=True, metavar="ADDR:PORT", help="Where copies arrive.")
@click.option("--write-dir", required=True, type=click.Path(path_type=Path), help="For the files.")
@click.option("--packets", type=click.IntRange(1), help="End after so many packets.")
@click.option("--idle-s", type=click.FloatRange(0, min_open=True), help="End after so long without one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def mediate(
    *,
    listen: tuple[str, ...],
    write_dir: Path,
    packets: int | None,
    idle_s: float | None,
    as_json: bool,
) -> None:
    """Receive copies and write one pcapng file a stream, without the outer headers."""
    try:
        write_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        fail(f"{write_dir}: cannot be made: {error.strerror}")
    receiver = Receiver([parse_endpoint(text) for text in listen], str(write_dir))
    for address, port in receiver.addresses:
        say(f"listening on {address} port {port}")
    ended = False

    def end() -> None:
        nonlocal ended
        ended = True

    with interrupts(end):
        last, last_count = time.monotonic(), 0
        while not ended:
            count = receiver.poll(POLL_S)
            now = time.monotonic()
            if count > last_count:
                last, last_count = now, count
            if packets is not None and count >= packets:
                break
            if idle_s is not None and now - last >= idle_s:
                break
        receiver.close()
    summary = _summary(receiver)
    if as_json:
        print_json(summary)
    else:
        keys = ("source", "source_port", "destination_port", "packets", "octets")
        rows = [[stream[key] for key in keys] for stream in summary["streams"]]
        print_table(Table([key.replace("_", " ") for key in keys], rows))


def _summary(receiver: Receiver) -> dict[str, Any]:
    keys = ("source", "source_port", "destination_port", "packets", "octets")
    return {
        "streams": [dict(zip(keys, stream, strict=True)) for stream in receiver.streams],
        "undecodable": receiver.undecodable,
    }
