"""flowtap ping: whether the other end of a tunnel answers, through the tunnel and in no other way."""

from __future__ import annotations

import statistics
import threading
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from flowtap._flowtap import host_addresses
from flowtap.cli.console import CommandError, Exit, fail, interrupts, print_json, say
from flowtap.cli.local import ask, configuration_option, socket_of, socket_option
from flowtap.diagnosis.addresses import first_inside
from flowtap.diagnosis.echo import DATA_OCTETS, EchoError, Reply, open_echo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from flowtap.config.values import Address
    from flowtap.diagnosis.echo import Echo

__all__ = ["ping"]

_CARRYING: Final = frozenset({"up", "suspect"})
"""States in which the tunnel protects what is sent; a suspect one waits for its other end to answer."""


@dataclass
class _Account:
    sent: int = 0
    replies: list[tuple[int, Reply]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    refusal: str | None = None


@dataclass(frozen=True)
class _Asking:
    """Whom to ask about which tunnel."""

    local: Path
    name: str

    def refusal(self) -> str | None:
        """Why nothing more is sent."""
        try:
            tunnels = _tunnels(self.local)
        except CommandError as error:
            return str(error)
        for each in tunnels:
            if each["name"] == self.name:
                return _refusal(each)
        return f"tunnel {self.name}: the tap has it no more"


@click.command()
@click.argument("address")
@socket_option
@configuration_option
@click.option("--tunnel", "name", help="The tunnel; the one that ADDRESS lies behind where none is named.")
@click.option("--count", type=click.IntRange(1, 1_000_000), default=5, show_default=True)
@click.option("--source", help="An address of this host; the first that may speak through the tunnel.")
@click.option("--interval-s", type=click.FloatRange(0.1, 60), default=1.0, show_default=True)
@click.option("--timeout-s", type=click.FloatRange(0.1, 60), default=2.0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object at the end.")
def ping(
    *,
    address: str,
    path: Path,
    configuration: Path | None,
    name: str | None,
    count: int,
    source: str | None,
    interval_s: float,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Send ICMP echoes to ADDRESS through a tunnel, from an address that may speak through it.

    The tap is asked before each one whether the tunnel is up; while it is not, nothing is sent.
    """
    destination = _address(address, "ADDRESS")
    local = socket_of(path, configuration)
    tunnel = _tunnel(_tunnels(local), destination, name)
    if (refusal := _refusal(tunnel)) is not None:
        fail(refusal)
    if tunnel["state"] != "up":
        say(f"tunnel {tunnel['name']} is {tunnel['state']}: {tunnel['reason']}")
    origin = _origin(tunnel, destination, source)
    if not as_json:
        print(f"PING {destination} from {origin} through {tunnel['name']}: {DATA_OCTETS} data bytes")
    try:
        echo = open_echo(origin, destination)
    except EchoError as error:
        fail(f"{destination}: {error}")
    account = _Account()
    try:
        asking = _Asking(local, tunnel["name"])
        _run(echo, account, asking, str(destination), (count, interval_s, timeout_s), quiet=as_json)
    finally:
        echo.close()
    times_ms = [reply.time_ms for _, reply in account.replies]
    if as_json:
        print_json(_value(tunnel["name"], origin, destination, account, times_ms))
    else:
        _print_summary(destination, account, times_ms)
    if not account.replies:
        fail(account.refusal or f"{destination}: no reply through {tunnel['name']}")


def _run(
    echo: Echo,
    account: _Account,
    asking: _Asking,
    destination: str,
    pace: tuple[int, float, float],
    *,
    quiet: bool,
) -> None:
    count, interval_s, timeout_s = pace
    ended = threading.Event()
    with interrupts(ended.set):
        for sequence in range(count):
            if sequence and ended.wait(interval_s):
                return
            # A tunnel may go down between two echoes.
            account.refusal = asking.refusal()
            if account.refusal is not None:
                say(account.refusal)
                return
            account.sent += 1
            try:
                reply = echo.once(sequence, timeout_s)
            except EchoError as error:
                account.errors.append(str(error))
                if not quiet:
                    print(f"ping: icmp_seq={sequence}: {error}")
                continue
            if reply is not None:
                account.replies.append((sequence, reply))
            if not quiet:
                print(_line(destination, sequence, reply))


def _line(destination: str, sequence: int, reply: Reply | None) -> str:
    if reply is None:
        return f"no reply: icmp_seq={sequence}"
    ttl = "" if reply.ttl is None else f" ttl={reply.ttl}"
    return f"{reply.octets} bytes from {destination}: icmp_seq={sequence}{ttl} time={reply.time_ms:.3f} ms"


def _address(text: str, what: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        fail(f"{what}: {text!r}: an IPv4 or IPv6 address is right", Exit.USAGE)


def _tunnels(local: Path) -> list[dict[str, Any]]:
    tunnels: list[dict[str, Any]] = ask(local, "security-associations")["tunnels"]
    return tunnels


def _contains(networks: Sequence[str], address: Address) -> bool:
    return any(address in ip_network(each) for each in networks)


def _tunnel(tunnels: Sequence[dict[str, Any]], destination: Address, name: str | None) -> dict[str, Any]:
    if name is not None and name not in {each["name"] for each in tunnels}:
        names = ", ".join(each["name"] for each in tunnels) or "none"
        fail(f"tunnel {name}: the tap has none of that name; it has {names}")
    for each in tunnels:
        if name in {None, each["name"]} and _contains(each["remote_networks"], destination):
            return each
    return _no_tunnel(tunnels, destination, name)


def _no_tunnel(tunnels: Sequence[dict[str, Any]], destination: Address, name: str | None) -> NoReturn:
    behind = [f"{', '.join(each['remote_networks'])} behind {each['name']}" for each in tunnels]
    named = "any tunnel" if name is None else f"tunnel {name}"
    fail(f"{destination} does not lie behind {named}; there are {'; '.join(behind) or 'no tunnels'}")


def _refusal(tunnel: Mapping[str, Any]) -> str | None:
    """Why nothing is sent."""
    if tunnel["state"] in _CARRYING:
        return None
    faults = "".join(f"; guard: {each}" for each in tunnel["guard_faults"])
    return f"tunnel {tunnel['name']} is {tunnel['state']}: {tunnel['reason']}{faults}; nothing is sent"


def _origin(tunnel: Mapping[str, Any], destination: Address, source: str | None) -> Address:
    networks = tunnel["local_networks"]
    if source is not None:
        given = _address(source, "--source")
        if given.version != destination.version or not _contains(networks, given):
            fail(f"--source {given}: an address in {', '.join(networks)} is right for {tunnel['name']}")
        return given
    found = first_inside(host_addresses(), map(ip_network, networks), destination.version)
    if found is None:
        fail(
            f"no address of this host lies in {', '.join(networks)}, the local networks of {tunnel['name']};"
            " give this host one, such as on its loopback interface"
        )
    return found


def _value(
    name: str, origin: Address, destination: Address, account: _Account, times_ms: Sequence[float]
) -> dict[str, Any]:
    return {
        "tunnel": name,
        "source": str(origin),
        "destination": str(destination),
        "sent": account.sent,
        "received": len(account.replies),
        "minimum_ms": min(times_ms, default=None),
        "average_ms": statistics.fmean(times_ms) if times_ms else None,
        "maximum_ms": max(times_ms, default=None),
        "replies": [
            {"sequence": sequence, "octets": reply.octets, "ttl": reply.ttl, "time_ms": reply.time_ms}
            for sequence, reply in account.replies
        ],
        "errors": account.errors,
        "refusal": account.refusal,
    }


def _print_summary(destination: Address, account: _Account, times_ms: Sequence[float]) -> None:
    lost = 100 * (account.sent - len(times_ms)) // account.sent if account.sent else 0
    print(f"\n--- {destination} ping statistics ---")
    print(
        f"{account.sent} packets transmitted, {len(times_ms)} packets received, {lost}% packet loss",
    )
    if times_ms:
        values = (min(times_ms), statistics.fmean(times_ms), max(times_ms), statistics.pstdev(times_ms))
        print(f"round-trip min/avg/max/stddev = {'/'.join(f'{each:.3f}' for each in values)} ms")
