"""The daemon's side of the guard: a process of its own keeps the right to install it.

The daemon hears the network and has no right at all; it asks for the guard to be put in place and looked at,
and is told what is wrong with it, and at once where somebody changes rules of the kernel. A guard that nobody
can look at counts as one with a fault, so every doubt keeps the gates of tunnels shut. The rules themselves
stay where they are when both processes end.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from typing import TYPE_CHECKING, Final

from flowtap.errors import DataPlaneError
from flowtap.service.companion import end_companion, start_companion
from flowtap.service.guard_process import CHANGED

if TYPE_CHECKING:
    from flowtap.delivery.guard import GuardPlan

__all__ = ["Guard"]

_LOG = logging.getLogger(__name__)

REQUEST_S: Final = 60
"""How long an answer may take: above what the programs of one request may take together."""
_ANSWER_OCTETS: Final = 1 << 20
_PROGRAM: Final = "flowtap.service.guard_process"
_ENDED: Final = "the process that owns the guard has ended, so nobody can look at the guard until a restart"


class Guard:
    """The guard of a configuration's tunnels. To be made before the daemon gives up its rights.

    Args:
        plan: What it has to hold.

    Raises:
        DataPlaneError: Its process does not start.
    """

    def __init__(self, plan: GuardPlan) -> None:
        self._process, ours = start_companion(_PROGRAM, socket.SOCK_STREAM)
        self._socket: socket.socket | None = ours
        self._rest = b""
        self._turn = asyncio.Lock()
        self._asking: set[asyncio.Task[list[str]]] = set()
        self._reading: asyncio.Task[None] | None = None
        self._answers: asyncio.Queue[list[str]] = asyncio.Queue()
        self._changes = 0
        self._news = asyncio.Event()
        try:
            ours.sendall(plan.to_json().encode() + b"\n")
            # Somebody may change a rule at this moment, of which is told right behind.
            first, _, self._rest = ours.recv(_ANSWER_OCTETS).partition(b"\n")
            is_ready = first == b"[]"
        except OSError:
            is_ready = False
        if not is_ready:
            self.close()
            raise DataPlaneError("the process that owns the guard of tunnels does not start")
        ours.setblocking(False)

    @property
    def state(self) -> str:
        """One word for who asks: ``running`` or ``ended``."""
        return "ended" if self._socket is None or self._process.poll() is not None else "running"

    async def install(self) -> list[str]:
        """Puts the guard in place where it is not sound, and returns what is wrong with it then."""
        return await self._ask("install")

    async def verify(self) -> list[str]:
        """Returns what is wrong with the guard; nothing is changed."""
        return await self._ask("verify")

    async def changed(self, seen: int) -> int:
        """Waits until rules of the kernel have changed, or nobody can tell any more.

        Args:
            seen: How many changes the caller knows of.

        Returns:
            How many there were by now.
        """
        self._begin_to_read()
        while self._changes == seen:
            await self._news.wait()
        return self._changes

    async def _ask(self, word: str) -> list[str]:
        # Who is cancelled leaves an answer behind, which must not become that to the next question.
        asking = asyncio.create_task(self._exchange(word))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        return await asyncio.shield(asking)

    async def _exchange(self, word: str) -> list[str]:
        async with self._turn:
            if self._socket is None:
                return [_ENDED]
            self._begin_to_read()
            try:
                async with asyncio.timeout(REQUEST_S):
                    loop = asyncio.get_running_loop()
                    await loop.sock_sendall(self._socket, f"{word}\n".encode())
                    return await self._answers.get()
            except TimeoutError:
                self._hang_up()
                return [f"the process that owns the guard did not answer within {REQUEST_S} s"]
            except OSError:
                self._hang_up()
                return [_ENDED]

    def _begin_to_read(self) -> None:
        if self._reading is None and self._socket is not None:
            self._reading = asyncio.create_task(self._read(self._socket))

    async def _read(self, connection: socket.socket) -> None:
        """Takes what the other process says, whenever it does, until it ends or says what it must not."""
        loop = asyncio.get_running_loop()
        try:
            while more := await loop.sock_recv(connection, 1 << 16):
                *lines, self._rest = (self._rest + more).split(b"\n")
                for line in lines:
                    self._take(json.loads(line))
                if len(self._rest) > _ANSWER_OCTETS:
                    break
        except (OSError, ValueError) as error:
            _LOG.error("the process that owns the guard: %s", error)
        finally:
            connection.close()
            self._socket = None
            self._answers.put_nowait([_ENDED])
            self._tell()

    def _take(self, said: object) -> None:
        """Takes one message.

        Raises:
            ValueError: It is none.
        """
        if said == CHANGED:
            self._tell()
        elif isinstance(said, list) and all(isinstance(each, str) for each in said):
            self._answers.put_nowait(said)
        else:
            msg = "said something that is no answer"
            raise ValueError(msg)

    def _tell(self) -> None:
        self._changes += 1
        self._news.set()
        self._news = asyncio.Event()

    def _hang_up(self) -> None:
        if self._reading is not None and not self._reading.done():
            # It closes what it reads from.
            self._reading.cancel()
        elif self._socket is not None:
            self._socket.close()
        self._socket = None

    def close(self) -> None:
        """Ends the process; the guard itself stays."""
        self._hang_up()
        end_companion(self._process)
