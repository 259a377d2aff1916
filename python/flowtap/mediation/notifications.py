"""Receives the notifications of a tap [DTCP §3.2]."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from flowtap.dtcp import Key, Reply, ReplyError
from flowtap.dtcp.reply import parse_reply
from flowtap.mediation.secure import TaskingError

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Notifications"]

WAITING_MAX = 4_096
"""Notifications that wait to be taken; what comes on top is dropped, as the network would."""


class _Inbox(asyncio.DatagramProtocol):
    def __init__(self, key: Key) -> None:
        self.arrived: asyncio.Queue[Reply] = asyncio.Queue(WAITING_MAX)
        self._key = key

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:  # noqa: ARG002 - asyncio's
        try:
            notification = parse_reply(data, self._key)
        except ReplyError:
            # Anybody can send datagrams here; only authentic ones count.
            return
        # What carries a sequence number is a response [DTCP §8].
        if notification.seq is None and not self.arrived.full():
            self.arrived.put_nowait(notification)


class Notifications:
    """The notifications that arrive at an address: open it with ``async with``, take them with ``async for``.

    Args:
        host: The address that the tap was told.
        port: Its port; 0 for any.
        key: The DTCP secret.
    """

    def __init__(self, host: str, port: int, *, key: Key) -> None:
        self._where = (host, port)
        self._inbox = _Inbox(key)
        self._transport: asyncio.DatagramTransport | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, with the real port."""
        if self._transport is None:
            return self._where
        host, port = self._transport.get_extra_info("sockname")[:2]
        return host, port

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        try:
            self._transport, _ = await loop.create_datagram_endpoint(
                lambda: self._inbox, local_addr=self._where
            )
        except OSError as error:
            host, port = self._where
            raise TaskingError(f"{host} port {port}: {error.strerror}") from None
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

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Reply:
        return await self._inbox.arrived.get()
