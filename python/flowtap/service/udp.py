"""DTCP over UDP: one request a datagram, answered from the address that it was sent to [DTCP §3.1]."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING

from flowtap.complaints import Complaints
from flowtap.control import PERMISSION_TASK, Principal
from flowtap.dtcp import Limits, Rejected, Response, read_request
from flowtap.dtcp.render import render_datagrams
from flowtap.service.listening import open_listening

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    from flowtap.dtcp import Key, RequestReceived, RequestRefused, Result, Sequences
    from flowtap.service.logins import Logins
    from flowtap.service.tasking import TaskingLoop

__all__ = ["UdpService"]

_LOG = logging.getLogger(__name__)

DATAGRAM_OCTETS = 65_535
REPLY_OCTETS = 1400
"""Longest datagram of a LIST: fits every path that is not unusually narrow."""
PENDING_MAX = 1024
"""Unanswered requests; what comes on top is dropped, as the network would."""
READ_AT_ONCE = 64

# Linux's numbers; not every Python has names for them.
_IP_PKTINFO = 8
_IPV6_RECVPKTINFO = 49
_IPV6_PKTINFO = 50
# Answers leave from the address that was asked.
_ASK_FOR_DESTINATION = (socket.IPPROTO_IP, _IP_PKTINFO, 1)
_ASK_FOR_DESTINATION_V6 = (socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
_ADDRESS_V4 = struct.Struct("@i4s4s")
_ADDRESS_V6 = struct.Struct("@16si")


class _Exchange:
    """One request's way back."""

    def __init__(
        self,
        service: UdpService,
        endpoint: socket.socket,
        peer: tuple[str, int],
        control: list[_Control],
        principal: Principal,
    ) -> None:
        self.principal = principal
        self._service = service
        self._endpoint = endpoint
        self._peer = peer
        self._control = control

    def answer(self, event: RequestReceived | RequestRefused, result: Result, when: datetime) -> None:
        self._service.pending -= 1
        key = self._service.logins.own_key_for(event.csource_id)
        if key is None:
            return
        response = Response(event.version, event.seq, when, result)
        for datagram in render_datagrams(response, key, REPLY_OCTETS):
            try:
                self._endpoint.sendmsg([datagram], self._control, 0, self._peer)
            except OSError as error:
                _LOG.warning("an answer was not sent: %s", error.strerror)
                return

    def flush(self) -> None:
        """Every answer was sent at once."""


_Control = tuple[int, int, bytes]


class _OwnKeys:
    """The secrets that prove who sent a datagram: not the vendor's fixed one.

    Nobody is known at an address where he is not expected [DTCP §3.1], nor while the tunnel is down that he
    must come through.
    """

    def __init__(self, logins: Logins, address: IPv4Address | IPv6Address) -> None:
        self._logins = logins
        self._address = address

    def key_for(self, csource_id: str) -> Key | None:
        is_heard = self._logins.objection(csource_id, self._address) is None
        return self._logins.own_key_for(csource_id) if is_heard else None


class UdpService:
    """Reads requests, hands them to the tasking loop, and sends the answers.

    Args:
        listen: Addresses and ports; port 0 for any.
        patient: Addresses in these networks need not be there yet.
        logins: Knows the secrets.
        sequences: The sequence numbers, always checked here.
        tasking: Where requests go.
    """

    def __init__(
        self,
        *,
        listen: list[tuple[str, int]],
        patient: Collection[IPv4Network | IPv6Network] = (),
        logins: Logins,
        sequences: Sequences,
        tasking: TaskingLoop,
    ) -> None:
        self.logins = logins
        self.pending = 0
        self._complaints = Complaints(_LOG)
        self._sequences = sequences
        self._tasking = tasking
        self._limits = Limits(message_octets=DATAGRAM_OCTETS)
        self._sockets = [
            open_listening(
                "dtcp.udp.listen",
                socket.SOCK_DGRAM,
                address,
                port,
                options=[_ASK_FOR_DESTINATION_V6 if ":" in address else _ASK_FOR_DESTINATION],
                patient=patient,
            )
            for address, port in listen
        ]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens, with the real ports."""
        return [listening.getsockname()[:2] for listening in self._sockets]

    async def run(self) -> None:
        """Serves until cancelled."""
        loop = asyncio.get_running_loop()
        for listening in self._sockets:
            loop.add_reader(listening, self._read, listening)
        try:
            await asyncio.Event().wait()
        finally:
            for listening in self._sockets:
                loop.remove_reader(listening)
                listening.close()

    def _read(self, listening: socket.socket) -> None:
        for _ in range(READ_AT_ONCE):
            try:
                data, ancillary, _, peer = listening.recvmsg(DATAGRAM_OCTETS, 256)
            except BlockingIOError:
                return
            except OSError as error:
                # An earlier answer met nobody; that is the peer's business.
                _LOG.debug("a datagram was not read: %s", error.strerror)
                return
            self._take(listening, data, peer, _answer_from(ancillary))

    def _take(
        self, listening: socket.socket, data: bytes, peer: tuple[str, int], control: list[_Control]
    ) -> None:
        address = ip_address(peer[0].partition("%")[0])
        keys = _OwnKeys(self.logins, address)
        event = read_request(data, self._limits, keys, sequences=self._sequences)
        if isinstance(event, Rejected):
            self._complaints.warning(
                (peer[0], event.status),
                "%d %s: from %s: %s",
                event.status,
                event.status.reason,
                peer[0],
                event.reason,
            )
            self._tasking.rejected(event)
            return
        if self.pending >= PENDING_MAX:
            self._complaints.warning(
                event.csource_id, "a request of %s was dropped: too many are waiting", event.csource_id
            )
            return
        # The secret authenticates. A login of that name says what it may do; where there is none, the secret
        # was given to a control source, which may do nothing but task.
        login = self.logins.get(event.csource_id)
        permissions = frozenset({PERMISSION_TASK}) if login is None else login.permissions
        principal = Principal(event.csource_id, permissions, address)
        self.pending += 1
        self._tasking.put(_Exchange(self, listening, peer, control, principal), event)


def _answer_from(ancillary: list[_Control]) -> list[_Control]:
    """Ancillary data that makes the answer leave from the address that the request was sent to."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            _, _, destination = _ADDRESS_V4.unpack(data[: _ADDRESS_V4.size])
            return [(level, kind, _ADDRESS_V4.pack(0, destination, b"\0" * 4))]
        if level == socket.IPPROTO_IPV6 and kind == _IPV6_PKTINFO:
            destination, _ = _ADDRESS_V6.unpack(data[: _ADDRESS_V6.size])
            return [(level, kind, _ADDRESS_V6.pack(destination, 0))]
    return []
