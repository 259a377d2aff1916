"""Tasks a tap over UDP: requests and replies are datagrams, a LIST may come in several."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from flowtap.dtcp import ReplyError
from flowtap.dtcp.render import render_request, sign
from flowtap.dtcp.reply import Reply, parse_reply
from flowtap.mediation.secure import NoAnswerError, TaskingError, request_text

if TYPE_CHECKING:
    from types import TracebackType

    from flowtap.dtcp import Key, Parameter, Request

__all__ = ["DatagramTaskingClient"]


class _Inbox(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.arrived: asyncio.Queue[bytes | OSError] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:  # noqa: ARG002 - asyncio's
        self.arrived.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        if isinstance(exc, OSError):
            self.arrived.put_nowait(exc)


class DatagramTaskingClient:
    """A mediation device on UDP.

    Nothing is sent twice: no answer means that the request or its answer was lost, or that the tap did
    not believe it, and only a LIST can tell.

    Args:
        host: The tap.
        port: Its port.
        user: The Csource-ID.
        key: The DTCP secret.
        timeout_s: Longest wait for a whole reply.
    """

    def __init__(self, host: str, port: int, *, user: str, key: Key, timeout_s: float = 5.0) -> None:
        self._host = host
        self._port = port
        self._user = user
        self._key = key
        self._timeout_s = timeout_s
        self._inbox = _Inbox()
        self._transport: asyncio.DatagramTransport | None = None

    @property
    def _where(self) -> str:
        return f"{self._host} port {self._port}"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        try:
            self._transport, _ = await loop.create_datagram_endpoint(
                lambda: self._inbox, remote_addr=(self._host, self._port)
            )
        except OSError as error:
            raise TaskingError(f"{self._where}: {error.strerror}") from None
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    async def request(self, request: Request) -> Reply:
        """Sends a request and waits for its reply.

        Raises:
            TaskingError: None came in time, or not all of it.
        """
        return await self.exchange(render_request(request, self._key), request.seq)

    async def request_written(self, text: str, seq: str) -> Reply:
        """Sends a request that was written by hand; see `request_text`.

        Raises:
            TaskingError: None came in time, or not all of it.
        """
        return await self.exchange(sign(request_text(text, self._user, seq), self._key), seq)

    async def exchange(self, message: bytes, seq: str) -> Reply:
        """Sends octets as they are and waits for the reply with that sequence number.

        Raises:
            NoAnswerError: None came in time, or not all of it.
        """
        if self._transport is None:
            raise TaskingError("not connected")
        self._transport.sendto(message)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._reply(seq)
        except TimeoutError:
            raise NoAnswerError(
                f"{self._where}: no answer within {self._timeout_s:g} s; a tap does not answer what it"
                " cannot authenticate: check Csource-ID, key and sequence number",
                is_lost=False,
            ) from None

    async def _reply(self, seq: str) -> Reply:
        """Collects the parts of a reply; entries may come in any order [DTCP §6.1]."""
        entries: dict[int, tuple[Parameter, ...]] = {}
        while True:
            data = await self._inbox.arrived.get()
            if isinstance(data, OSError):
                raise NoAnswerError(f"{self._where}: {data.strerror}", is_lost=True)
            try:
                part = parse_reply(data, self._key)
            except ReplyError:
                # Anybody can send datagrams here; only authentic ones count.
                continue
            if part.seq != seq:
                continue
            for entry in part.entries:
                entries[_number(entry, "criteria-num")] = entry
            total = max((_number(entry, "criteria-count") for entry in part.entries), default=0)
            if set(entries) >= set(range(1, total + 1)):
                ordered = tuple(entries[number] for number in sorted(entries))
                return Reply(part.version, part.code, part.reason, part.seq, part.parameters, ordered)


def _number(entry: tuple[Parameter, ...], name: str) -> int:
    for each in entry:
        if each.name.lower() == name and each.value.isdecimal():
            return int(each.value)
    return 0
