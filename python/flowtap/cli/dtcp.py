"""flowtap dtcp: task a tap as a mediation device does."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowtap.cli.console import CommandError, Exit, Table, fail, print_json, print_table
from flowtap.cli.mediate import parse_endpoint
from flowtap.config import without_line_end
from flowtap.dtcp import Key
from flowtap.mediation import Client, SequenceNumbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowtap.dtcp import Reply

__all__ = ["dtcp"]

DEFAULT_KEY = b"Juniper"
VERSION = "DTCP/0.7"


@dataclass(frozen=True, slots=True)
class _Target:
    """Whom to task, and as whom."""

    host: str
    port: int
    is_udp: bool
    user: str
    key: Key
    password: str | None = field(repr=False)
    identity: Path | None
    known_hosts: Path | None
    timeout_s: float
    attempts: int
    numbers: SequenceNumbers
    as_json: bool


@click.group()
@click.option("--ssh", "ssh", metavar="HOST:PORT", help="The tap, over SSH.")
@click.option("--udp", "udp", metavar="HOST:PORT", help="The tap, over UDP; needs --key-file.")
@click.option("--user", required=True, help="Login name, which is also the Csource-ID.")
@click.option("--password-file", type=click.Path(path_type=Path), help="Login by password.")
@click.option("--identity", type=click.Path(path_type=Path), help="Login by this private key.")
@click.option("--known-hosts", type=click.Path(path_type=Path), help="File with the tap's host key.")
@click.option("--key-file", type=click.Path(path_type=Path), help="DTCP secret; the vendor's without it.")
@click.option("--seq", type=click.IntRange(0, 2**64 - 1), help="First sequence number.")
@click.option(
    "--seq-file",
    type=click.Path(path_type=Path),
    help="Where the last sequence number is kept; over UDP in the user's state directory without it.",
)
@click.option("--timeout-s", type=click.FloatRange(0, min_open=True), default=5.0, show_default=True)
@click.option(
    "--attempts",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How often a request is sent; an ADD only after a LIST has shown that it is missing.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a reply.")
@click.pass_context
def dtcp(  # noqa: PLR0917 - click hands them by name
    context: click.Context,
    ssh: str | None,
    udp: str | None,
    user: str,
    password_file: Path | None,
    identity: Path | None,
    known_hosts: Path | None,
    key_file: Path | None,
    seq: int | None,
    seq_file: Path | None,
    timeout_s: float,
    attempts: int,
    as_json: bool,
) -> None:
    """Task a tap as a mediation device does."""
    given = ssh or udp
    if given is None or (ssh is not None and udp is not None):
        fail("dtcp: --ssh HOST:PORT or --udp HOST:PORT is right, not both", Exit.USAGE)
    if udp is not None and key_file is None:
        fail("dtcp: over UDP only a key proves who asks: name it with --key-file", Exit.USAGE)
    if seq is not None and seq_file is not None:
        fail("dtcp: --seq or --seq-file is right, not both", Exit.USAGE)
    host, port = parse_endpoint(given)
    if udp is not None and seq is None and seq_file is None:
        seq_file = _state_directory() / f"{user}@{udp}"
    context.obj = _Target(
        host=host,
        port=port,
        is_udp=udp is not None,
        user=user,
        key=Key(DEFAULT_KEY if key_file is None else without_line_end(_read(key_file))),
        password=None if password_file is None else _read(password_file).decode("utf-8", "replace").strip(),
        identity=identity,
        known_hosts=known_hosts,
        timeout_s=timeout_s,
        attempts=attempts,
        numbers=SequenceNumbers(seq_file, first=1 if seq is None else seq),
        as_json=as_json,
    )


def _state_directory() -> Path:
    """Where the user's programs keep what they need again."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "flowtap" / "sequence-numbers"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        fail(f"{path}: cannot be read: {error.strerror}", Exit.USAGE)


def _requests(path: Path) -> list[str]:
    """The requests of a file, separated by empty lines."""
    text = _read(path).decode("utf-8", "replace")
    return [block for block in re.split(r"(?:\r?\n){2,}", text) if block.strip()]


def _exchange(target: _Target, requests: Sequence[str]) -> None:
    """Sends requests one after the other; ends with an error if one was not answered with success."""
    failed = asyncio.run(_exchange_all(target, requests))
    if failed:
        raise CommandError(f"{failed} of {len(requests)} requests were refused")


def _client(target: _Target) -> Client:
    if target.is_udp:
        return Client.over_udp(
            target.host,
            target.port,
            user=target.user,
            key=target.key,
            numbers=target.numbers,
            timeout_s=target.timeout_s,
            attempts=target.attempts,
        )
    return Client.over_ssh(
        target.host,
        target.port,
        user=target.user,
        key=target.key,
        password=target.password,
        identity=target.identity,
        known_hosts=target.known_hosts,
        numbers=target.numbers,
        timeout_s=target.timeout_s,
        attempts=target.attempts,
    )


async def _exchange_all(target: _Target, requests: Sequence[str]) -> int:
    failed = 0
    async with _client(target) as client:
        for text in requests:
            reply = await client.send_text(text)
            _report(reply, as_json=target.as_json)
            failed += reply.code != 200  # noqa: PLR2004 - the code of success
    return failed


def _value(reply: Reply) -> dict[str, Any]:
    return {
        "code": reply.code,
        "reason": reply.reason,
        "seq": reply.seq,
        "parameters": {each.name.lower(): each.value for each in reply.parameters},
        "entries": [{each.name.lower(): each.value for each in entry} for entry in reply.entries],
    }


def _report(reply: Reply, *, as_json: bool) -> None:
    if as_json:
        print_json(_value(reply))
        return
    parts = [f"{reply.code} {reply.reason}"]
    parts += [f"{each.name}: {each.value}" for each in reply.parameters if each.name.lower() != "timestamp"]
    print("  ".join(parts))
    if reply.entries:
        entries = [{each.name.lower(): each.value for each in entry} for entry in reply.entries]
        names = list(dict.fromkeys(name for entry in entries for name in entry))
        print_table(Table(names, [[entry.get(name) for name in names] for entry in entries]))
    sys.stdout.flush()


@dtcp.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_obj
def add(target: _Target, file: Path) -> None:
    """Send the ADD requests of a criteria file."""
    requests = _requests(file)
    if not requests:
        fail(f"{file}: no request", Exit.INVALID)
    for request in requests:
        if not request.lstrip().upper().startswith("ADD "):
            fail(f"{file}: only ADD requests are right here; dtcp send takes any", Exit.INVALID)
    _exchange(target, requests)


@dtcp.command()
@click.argument("ids", required=False)
@click.option("--cdest", metavar="NAME", help="All criteria of this content destination.")
@click.option("--static", is_flag=True, help="Static ones too.")
@click.pass_obj
def delete(target: _Target, ids: str | None, cdest: str | None, *, static: bool) -> None:
    """Delete criteria: IDS is a list such as 3,7-9."""
    if (ids is None) == (cdest is None):
        fail("delete: IDS or --cdest NAME is right, not both", Exit.USAGE)
    selector = f"Criteria-ID: {ids}" if ids is not None else f"Cdest-ID: {cdest}"
    flags = "\nFlags: Static" if static or ids is not None else ""
    _exchange(target, [f"DELETE {VERSION}\n{selector}{flags}"])


@dtcp.command()
@click.argument("ids")
@click.argument("timeouts", nargs=-1, required=True, metavar="NAME=VALUE...")
@click.pass_obj
def refresh(target: _Target, ids: str, timeouts: tuple[str, ...]) -> None:
    """Give criteria new time-outs: refresh 3,7-9 Timeout-Idle=600 Timeout-Total=3600."""
    lines = [f"REFRESH {VERSION}", f"Criteria-ID: {ids}"]
    for given in timeouts:
        name, equals, value = given.partition("=")
        if not equals or not name.lower().startswith("timeout-"):
            fail(f"{given!r}: NAME=VALUE is right, such as Timeout-Idle=600", Exit.USAGE)
        lines.append(f"{name}: {value}")
    _exchange(target, ["\n".join(lines)])


@dtcp.command(name="list")
@click.option("--flags", type=click.Choice(["Both", "Criteria", "Stats"]), default="Both", show_default=True)
@click.option("--ids", help="Only these.")
@click.option("--cdest", metavar="NAME", help="Only those of this content destination.")
@click.pass_obj
def list_(target: _Target, *, flags: str, ids: str | None, cdest: str | None) -> None:
    """List the control source's own criteria."""
    if ids is not None and cdest is not None:
        fail("list: --ids or --cdest is right, not both", Exit.USAGE)
    lines = [f"LIST {VERSION}", f"Flags: {flags}"]
    if ids is not None:
        lines.append(f"Criteria-ID: {ids}")
    if cdest is not None:
        lines.append(f"Cdest-ID: {cdest}")
    _exchange(target, ["\n".join(lines)])


@dtcp.command()
@click.option("--async", "send_async", is_flag=True, help="Ask for a notification too.")
@click.pass_obj
def noop(target: _Target, *, send_async: bool) -> None:
    """Prove the path end to end."""
    _exchange(target, [f"NOOP {VERSION}" + ("\nFlags: SendAsync" if send_async else "")])


@dtcp.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_obj
def send(target: _Target, file: Path) -> None:
    """Send the requests of a file, whatever they are; Csource-ID, Seq and digest are completed."""
    requests = _requests(file)
    if not requests:
        fail(f"{file}: no request", Exit.INVALID)
    _exchange(target, requests)
