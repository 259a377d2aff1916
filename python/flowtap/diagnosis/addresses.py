"""The addresses of this host, as the kernel lists them under ``/proc/net``."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from ipaddress import IPv4Network, IPv6Network

__all__ = ["first_inside", "host_addresses", "local_ipv4", "local_ipv6"]


def local_ipv4(fib_trie: Iterable[str]) -> list[IPv4Address]:
    """Reads ``/proc/net/fib_trie`` line by line: a leaf's address, and below it that it is this host's.

    A router with all routes of the Internet has some millions of lines there.
    """
    found: dict[IPv4Address, None] = {}
    leaf = ""
    for line in fib_trie:
        words = line.split()
        if words[:1] == ["|--"]:
            leaf = words[1]
        elif words == ["/32", "host", "LOCAL"]:
            found[IPv4Address(leaf)] = None
    return list(found)


def local_ipv6(if_inet6: Iterable[str]) -> list[IPv6Address]:
    """Reads ``/proc/net/if_inet6``: an address as 32 hexadecimal digits first in each line."""
    return [IPv6Address(int(line.split()[0], 16)) for line in if_inet6 if line.strip()]


def host_addresses() -> list[IPv4Address | IPv6Address]:
    """Every address of this host, in this network namespace."""
    return [
        *local_ipv4(_read(Path("/proc/net/fib_trie"))),
        *local_ipv6(_read(Path("/proc/net/if_inet6"))),
    ]


def _read(path: Path) -> Iterator[str]:
    """The lines of a file; a kernel without the family has no such file."""
    with suppress(OSError), path.open() as lines:
        yield from lines


def first_inside(
    addresses: Iterable[IPv4Address | IPv6Address],
    networks: Iterable[IPv4Network | IPv6Network],
    version: int,
) -> IPv4Address | IPv6Address | None:
    """The first address of a family that lies in one of the networks."""
    inside = [each for each in networks if each.version == version]
    return next(
        (each for each in addresses if each.version == version and any(each in net for net in inside)), None
    )
