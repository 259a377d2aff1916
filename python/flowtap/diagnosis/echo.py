"""ICMP echo from a given address of this host: one request, one reply.

Three ways, the one with the fewest rights first: the kernel's own echo sockets (``net.ipv4.ping_group_range``
says who may have one), raw sockets, the system's ``ping``. None of them binds to a device: which way a packet
takes, and whether it may, is decided by routes, policies and the guard, as for copies.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import socket
import struct
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, Protocol

from flowtap.errors import PermissionMissingError

if TYPE_CHECKING:
    from flowtap.config.values import Address

__all__ = ["Echo", "EchoError", "ProgramEcho", "Reply", "SocketEcho", "open_echo"]

DATA_OCTETS: Final = 56
"""As ping sends when nothing else is said."""
_TOKEN_OCTETS: Final = 8
_HEAD: Final = struct.Struct("!BBHHH")
_RECEIVED_OCTETS: Final = 65_535
_ANCILLARY_OCTETS: Final = 128
# linux/in.h; Python's socket module has no name for it.
_IP_RECVTTL: Final = 12
_TYPES: Final = {4: (8, 0), 6: (128, 129)}
"""Request and reply [RFC 792, RFC 4443 §4]."""
_REPLY_LINE: Final = re.compile(r"^(\d+) bytes from .*?(?:ttl=(\d+)) time=([\d.]+) ms", re.MULTILINE)


class EchoError(Exception):
    """An echo could not be sent; the message is the system's."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply: octets of the ICMP message, hops left, and how long it took."""

    octets: int
    ttl: int | None
    time_ms: float


class Echo(Protocol):
    """A way to send echoes."""

    def once(self, sequence: int, timeout_s: float) -> Reply | None:
        """Sends one request and waits for its reply.

        Raises:
            EchoError: It could not be sent.
        """

    def close(self) -> None:
        """Ends it."""


def open_echo(source: Address, destination: Address) -> Echo:
    """The first way that is there and permitted.

    Raises:
        EchoError: The source address is not this host's.
        PermissionMissingError: There is none.
    """
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        with suppress(PermissionError):
            return SocketEcho(source, destination, kind)
    program = shutil.which("ping")
    if program is None:
        raise PermissionMissingError(
            "no socket for echoes may be opened, and there is no ping: the right CAP_NET_RAW, or a group in"
            " net.ipv4.ping_group_range, is needed",
            right="CAP_NET_RAW",
        )
    return ProgramEcho(program, source, destination)


class SocketEcho:
    """Echoes over a socket.

    Raises:
        PermissionError: This process may have none of that kind.
        EchoError: The source address is not this host's.
    """

    def __init__(self, source: Address, destination: Address, kind: socket.SocketKind) -> None:
        self._version = destination.version
        self._destination = str(destination)
        family = socket.AF_INET if self._version == 4 else socket.AF_INET6  # noqa: PLR2004 - of IP
        protocol = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
        self._is_raw = kind == socket.SOCK_RAW
        self._token = secrets.token_bytes(_TOKEN_OCTETS)
        self._identifier = secrets.randbits(16)
        self._socket = socket.socket(family, kind, protocol)
        try:
            if family == socket.AF_INET:
                self._socket.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
            else:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
            self._socket.bind((str(source), 0))
        except OSError as error:
            self._socket.close()
            raise EchoError(f"the source address {source}: {error.strerror}") from None

    def once(self, sequence: int, timeout_s: float) -> Reply | None:
        """See `Echo.once`."""
        request, reply = _TYPES[self._version]
        message = _message(request, self._identifier, sequence, self._token)
        sent = time.monotonic()
        try:
            self._socket.sendto(message, (self._destination, 0))
        except OSError as error:
            raise EchoError(os.strerror(error.errno or errno.EIO)) from None
        while (left_s := sent + timeout_s - time.monotonic()) > 0:
            self._socket.settimeout(left_s)
            try:
                data, ancillary, _, peer = self._socket.recvmsg(_RECEIVED_OCTETS, _ANCILLARY_OCTETS)
            except TimeoutError:
                return None
            except OSError as error:
                # What somebody on the way has answered, such as that there is no route.
                raise EchoError(os.strerror(error.errno or errno.EIO)) from None
            time_ms = (time.monotonic() - sent) * 1_000
            if ip_address(peer[0].partition("%")[0]) != ip_address(self._destination):
                continue
            icmp = self._without_header(data)
            if self._is_reply(icmp, reply, sequence):
                return Reply(len(icmp), _hops(ancillary), time_ms)
        return None

    def _without_header(self, data: bytes) -> bytes:
        if self._is_raw and self._version == 4:  # noqa: PLR2004 - of IP
            return data[(data[0] & 0x0F) * 4 :] if data else data
        return data

    def _is_reply(self, icmp: bytes, kind: int, sequence: int) -> bool:
        if len(icmp) < _HEAD.size:
            return False
        got_kind, _, _, _, got_sequence = _HEAD.unpack_from(icmp)
        return (
            got_kind == kind
            and got_sequence == sequence & 0xFFFF
            and icmp[_HEAD.size : _HEAD.size + _TOKEN_OCTETS] == self._token
        )

    def close(self) -> None:
        """See `Echo.close`."""
        self._socket.close()


def _message(kind: int, identifier: int, sequence: int, token: bytes) -> bytes:
    """An echo request; the kernel completes the checksum of ICMPv6, and takes ours for ICMP."""
    data = token + bytes(range(DATA_OCTETS - len(token)))
    head = _HEAD.pack(kind, 0, 0, identifier, sequence & 0xFFFF)
    return _HEAD.pack(kind, 0, _checksum(head + data), identifier, sequence & 0xFFFF) + data


def _checksum(data: bytes) -> int:
    """The Internet checksum of an even number of octets [RFC 1071]."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def _hops(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if (level, kind) in {
            (socket.IPPROTO_IP, socket.IP_TTL),
            (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT),
        }:
            hops: int = struct.unpack_from("=i", data)[0]
            return hops
    return None


class ProgramEcho:
    """Echoes by the system's ping, where this process has no right to a socket.

    Args:
        program: Where it is.
        source: What to send from.
        destination: What to send to.
    """

    def __init__(self, program: str, source: Address, destination: Address) -> None:
        family = "-4" if destination.version == 4 else "-6"  # noqa: PLR2004 - of IP
        self._words = [program, family, "-n", "-c", "1", "-I", str(source)]
        self._destination = str(destination)

    def once(self, sequence: int, timeout_s: float) -> Reply | None:  # noqa: ARG002 - ping counts itself
        """See `Echo.once`."""
        words = [*self._words, "-W", f"{timeout_s:.3f}", self._destination]
        try:
            done = subprocess.run(  # noqa: S603 - no shell, and addresses that were read as such
                words,
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout_s + 5,
                env={"LC_ALL": "C"},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EchoError(getattr(error, "strerror", None) or "ping does not end") from None
        found = _REPLY_LINE.search(done.stdout)
        if found is not None:
            return Reply(int(found[1]), int(found[2]), float(found[3]))
        if said := done.stderr.strip():
            raise EchoError(said.splitlines()[-1].removeprefix("ping: "))
        return None

    def close(self) -> None:
        """See `Echo.close`."""
