"""Speaks with strongSwan over its local socket: VICI, the versatile IKE control interface.

Octets become typed trees here, and nothing but text goes further. A connection carries one command at a time,
and replies have no numbers: whoever gives up waiting gives up the connection, so that a late reply is never
taken for that to the next command.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vici.exception import DeserializationException
from vici.protocol import FiniteStream, Message, Packet

from flowtap.errors import TunnelError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

__all__ = ["DaemonGoneError", "Heard", "RefusedError", "Reply", "Tree", "Value", "Vici"]

SEGMENT_OCTETS: Final = 512 * 1024
"""Longest message of the protocol."""
QUEUED_MAX: Final = 4096
"""Events that wait to be read, of each who listens, and parts of one streamed reply."""
CONNECT_S: Final = 2.0
REQUEST_S: Final = 5.0

Value = str | list[str] | dict[str, "Value"]
Tree = dict[str, Value]
Given = str | bytes | list[str] | list[bytes] | dict[str, "Given"]
"""What a request may consist of; secrets are octets."""


class DaemonGoneError(TunnelError):
    """strongSwan is not there, has ended, or does not answer as it should."""


class RefusedError(TunnelError):
    """strongSwan has refused or failed a command.

    Attributes:
        streamed: What it has said meanwhile.
    """

    def __init__(self, message: str, streamed: list[Tree]) -> None:
        super().__init__(message)
        self.streamed = streamed


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a command, with what was streamed before it."""

    message: Tree
    streamed: list[Tree] = field(default_factory=list)


class Heard:
    """Events of some kinds, as they come.

    Args:
        lossy: Kinds that nobody waits for: they are there with the next other one or at the time limit, and
            where too many come the oldest are left out.
    """

    def __init__(self, lossy: frozenset[str]) -> None:
        self._lossy = lossy
        self._queue: deque[tuple[str, Tree]] = deque()
        self._news = asyncio.Event()
        self._end: DaemonGoneError | None = None

    @property
    def ended(self) -> DaemonGoneError | None:
        """Why nothing more comes; None while something may."""
        return self._end

    async def wait(self, timeout_s: float) -> list[tuple[str, Tree]]:
        """Everything that has come; nothing where nothing comes in time.

        Raises:
            DaemonGoneError: The connection has ended, and all that came before it was taken.
        """
        if not self._news.is_set() and self._end is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._news.wait()
        taken = self.taken()
        if not taken and self._end is not None:
            raise DaemonGoneError(str(self._end))
        return taken

    def taken(self) -> list[tuple[str, Tree]]:
        """What has come so far."""
        self._news.clear()
        taken = list(self._queue)
        self._queue.clear()
        return taken

    def put(self, name: str, message: Tree) -> None:
        """Takes an event.

        Raises:
            DaemonGoneError: Too many wait that must not be lost.
        """
        if self._end is not None:
            return
        if len(self._queue) >= QUEUED_MAX:
            at = next((at for at, (kind, _) in enumerate(self._queue) if kind in self._lossy), None)
            if at is None:
                raise DaemonGoneError(f"more than {QUEUED_MAX} events of strongSwan wait to be read")
            del self._queue[at]
        self._queue.append((name, message))
        if name not in self._lossy:
            self._news.set()

    def end(self, error: DaemonGoneError) -> None:
        """Nothing more comes."""
        self._end = error
        self._news.set()


class Vici:
    """One connection: commands one after the other, or events.

    Attributes:
        path: The local socket of strongSwan.
    """

    def __init__(self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.path = path
        self._reader = reader
        self._writer = writer
        self._lock = asyncio.Lock()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._heard: dict[str, list[Heard]] = {}
        self._end: DaemonGoneError | None = None
        self._pump = asyncio.create_task(self._read())

    @classmethod
    @asynccontextmanager
    async def connect(cls, path: str) -> AsyncIterator[Vici]:
        """Connects, and closes behind whoever used it.

        Raises:
            DaemonGoneError: There is nobody.
        """
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_unix_connection(path)
        except (OSError, TimeoutError) as error:
            reason = getattr(error, "strerror", None) or "no answer"
            if isinstance(error, PermissionError):
                reason += "; strongswan.conf must have this user's group as the group of charon"
            raise DaemonGoneError(f"strongSwan cannot be reached at {path}: {reason}") from None
        made = cls(path, reader, writer)
        try:
            yield made
        finally:
            made._close(DaemonGoneError("the connection to strongSwan was closed"))
            with suppress(asyncio.CancelledError):
                await made._pump

    async def request(
        self,
        command: str,
        message: Mapping[str, Given] | None = None,
        *,
        stream: str | None = None,
        timeout_s: float = REQUEST_S,
    ) -> Reply:
        """Gives a command and waits for its answer.

        Args:
            command: Its name.
            message: Its arguments.
            stream: The kind of event in which parts of the answer come, for commands that have one.
            timeout_s: How long it may take.

        Raises:
            DaemonGoneError: No answer came in time, or none that can be understood; the connection is closed.
            RefusedError: The answer is that it was not done.
        """
        async with self._whole(f"{command}: no answer from strongSwan within {timeout_s:g} s", timeout_s):
            parts = Heard(frozenset())
            if stream is not None:
                await self._register(stream, parts)
            kind, payload = await self._exchange(Packet.request(command, _written(message or {})))
            if stream is not None:
                await self._unregister(stream, parts)
        streamed = [each for _, each in parts.taken()]
        if kind == Packet.CMD_UNKNOWN:
            raise RefusedError(f"{command}: strongSwan does not know this command", streamed)
        if kind != Packet.CMD_RESPONSE:
            self._close(DaemonGoneError(f"{command}: strongSwan answered with a message of kind {kind}"))
            raise self._ended()
        try:
            answer = _read(payload)
        except DaemonGoneError as error:
            self._close(error)
            raise
        if answer.get("success", "yes") != "yes":
            raise RefusedError(f"{command}: {answer.get('errmsg') or 'strongSwan says no more'}", streamed)
        return Reply(answer, streamed)

    @asynccontextmanager
    async def events(self, *names: str, lossy: frozenset[str] = frozenset()) -> AsyncGenerator[Heard]:
        """Listens to events for as long as the context lasts.

        Args:
            names: Their kinds.
            lossy: Kinds that nobody waits for, and that may be left out.

        Raises:
            DaemonGoneError: The connection has ended.
            RefusedError: strongSwan has no events of such a kind.
        """
        heard = Heard(lossy)
        async with self._whole("no answer from strongSwan to who wants events", REQUEST_S):
            for name in names:
                await self._register(name, heard)
        try:
            yield heard
        except BaseException:
            # Nobody waits for strongSwan's consent where something has gone wrong or ends.
            for name in names:
                self._heard[name].remove(heard)
            raise
        if self._end is None:
            async with self._whole("no answer from strongSwan to who wants no events", REQUEST_S):
                for name in names:
                    await self._unregister(name, heard)

    @asynccontextmanager
    async def _whole(self, late: str, timeout_s: float) -> AsyncIterator[None]:
        """One exchange at a time; one that is not finished ends the connection."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._lock.acquire()
        except TimeoutError:
            # Whoever has the lock has a time limit of its own.
            raise DaemonGoneError(late) from None
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError:
            self._close(DaemonGoneError(late))
            raise self._ended() from None
        except asyncio.CancelledError:
            self._close(DaemonGoneError("the connection to strongSwan was closed: a command was given up"))
            raise
        finally:
            self._lock.release()

    async def _register(self, name: str, heard: Heard) -> None:
        listening = self._heard.setdefault(name, [])
        listening.append(heard)
        if len(listening) > 1:
            return
        kind, _ = await self._exchange(Packet.register_event(name))
        if kind != Packet.EVENT_CONFIRM:
            listening.remove(heard)
            raise RefusedError(f"strongSwan has no events of the kind {name}", [])

    async def _unregister(self, name: str, heard: Heard) -> None:
        self._heard[name].remove(heard)
        if not self._heard[name]:
            await self._exchange(Packet.unregister_event(name))

    async def _exchange(self, packet: bytes) -> tuple[int, bytes]:
        if self._end is not None:
            raise self._ended()
        if len(packet) > SEGMENT_OCTETS:
            raise RefusedError(f"a message to strongSwan has more than {SEGMENT_OCTETS} octets", [])
        self._answer = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(struct.pack("!I", len(packet)) + packet)
            await self._writer.drain()
            return await self._answer
        except OSError:
            # Nobody else waits for it.
            self._answer = None
            self._close(DaemonGoneError("strongSwan has closed the connection"))
            raise self._ended() from None
        finally:
            self._answer = None

    async def _read(self) -> None:
        try:
            while True:
                (length,) = struct.unpack("!I", await self._reader.readexactly(4))
                if not 0 < length <= SEGMENT_OCTETS:
                    raise DaemonGoneError(f"strongSwan announced a message of {length} octets")
                self._take(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError):
            self._close(DaemonGoneError("strongSwan has closed the connection"))
        except DaemonGoneError as error:
            self._close(error)

    def _take(self, segment: bytes) -> None:
        if segment[0] != Packet.EVENT:
            if self._answer is None or self._answer.done():
                raise DaemonGoneError("strongSwan answered though nothing was asked")
            self._answer.set_result((segment[0], segment[1:]))
            return
        begin, length = 2, segment[1:2]
        if not length or len(segment) < (end := begin + length[0]):
            raise DaemonGoneError("an event of strongSwan has no name")
        name = segment[begin:end].decode(errors="backslashreplace")
        if listening := self._heard.get(name):
            message = _read(segment[end:])
            for each in listening:
                each.put(name, message)

    def _close(self, error: DaemonGoneError) -> None:
        """Ends it, once: for who waits, for who listens, and for who asks later."""
        if self._end is not None:
            return
        self._end = error
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        for listening in self._heard.values():
            for each in listening:
                each.end(error)
        self._writer.close()
        if asyncio.current_task() is not self._pump:
            self._pump.cancel()

    def _ended(self) -> DaemonGoneError:
        """The reason, as an exception of its own for each who is told."""
        return DaemonGoneError(str(self._end))


def _written(message: Mapping[str, Given]) -> bytes:
    """The octets of a message.

    Raises:
        RefusedError: A name or a value is too long for the protocol.
    """
    try:
        octets: bytes = Message.serialize(message)
    except struct.error:
        raise RefusedError(
            "a name of more than 255 or a value of more than 65535 octets is too long for strongSwan", []
        ) from None
    return octets


def _read(payload: bytes) -> Tree:
    """The tree of a message.

    Raises:
        DaemonGoneError: It is none.
    """
    try:
        message = Message.deserialize(FiniteStream(payload))
        # The codec passes over what it does not know and takes the end for the rest of a value.
        if Message.serialize(message) != payload:
            raise DaemonGoneError("a message of strongSwan cannot be understood")
        return _text(message)
    except (DeserializationException, struct.error, UnicodeDecodeError, RecursionError):
        raise DaemonGoneError("a message of strongSwan cannot be understood") from None


def _text(section: Mapping[str, object]) -> Tree:
    tree: Tree = {}
    for key, value in section.items():
        if isinstance(value, dict):
            tree[key] = _text(value)
        elif isinstance(value, list):
            tree[key] = [each.decode(errors="backslashreplace") for each in value]
        elif isinstance(value, bytes):
            tree[key] = value.decode(errors="backslashreplace")
    return tree
