"""The local socket: one JSON object a line asks, one answers.

The kernel says which user asks. He is the login whose ``uid`` he has; root and the tap's own user, who could
look anyway, may see accounts and change the tap, but see no filter either.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
from collections import Counter
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

from flowtap.complaints import Complaints
from flowtap.control import PERMISSION_CHANGE, PERMISSION_VIEW, PortError, Principal, Refused
from flowtap.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from flowtap.service.logins import Logins

__all__ = ["ShowService"]

_LOG = logging.getLogger(__name__)

QUESTION_OCTETS: Final = 65_536
STRANGERS_OCTETS: Final = 1_024
QUESTION_S: Final = 5
"""How long somebody may take to ask, and then to take his answer."""
CONNECTIONS_MAX: Final = 32
CONNECTIONS_PER_USER: Final = 8
STRANGERS_MAX: Final = 8
"""Connections of users who have no permission at all, together: one may have very many names."""
BACKLOG: Final = 128
_PEER: Final = struct.Struct("iII")
_HERE: Final = ip_address("127.0.0.1")


class ShowService:
    """Answers who is allowed to ask.

    Args:
        path: Where the socket is; a socket that nobody listens to any more is replaced.
        logins: Knows the users.
        shows: What can be asked for, by name.
        acts: What can be done, by name; with the argument that stands beside the name.

    Raises:
        ConfigurationError: The socket cannot be made.
    """

    def __init__(
        self,
        path: Path,
        logins: Logins,
        shows: Mapping[str, Callable[[Principal], Awaitable[dict[str, Any]]]],
        acts: Mapping[str, Callable[[Principal, Any], Awaitable[dict[str, Any]]]],
    ) -> None:
        self.logins = logins
        self._path = path
        self._shows = shows
        self._acts = acts
        self._socket = _listen(path)
        self._complaints = Complaints(_LOG)
        self._open: Counter[int | None] = Counter()
        """Connections by user; None for those who have no permission."""

    async def run(self) -> None:
        """Answers until cancelled."""
        loop = asyncio.get_running_loop()
        connections: set[asyncio.Task[None]] = set()
        try:
            while True:
                try:
                    accepted, _ = await loop.sock_accept(self._socket)
                except OSError as error:
                    self._complaints.warning("accept", "a question could not be taken: %s", error.strerror)
                    await asyncio.sleep(0.1)
                    continue
                uid = _uid(accepted)
                principal = self._principal(uid)
                place = uid if principal.permissions else None
                if not self._has_room(place):
                    self._complaints.warning("room", "questions of %s are too many", principal.login)
                    accepted.close()
                    # Whoever comes again and again must not be all that the loop looks at.
                    await asyncio.sleep(0)
                    continue
                self._open[place] += 1
                task = asyncio.create_task(self._serve(accepted, principal, place))
                connections.add(task)
                task.add_done_callback(connections.discard)
        finally:
            self._socket.close()
            self._path.unlink(missing_ok=True)
            for task in connections:
                task.cancel()
            await asyncio.gather(*connections, return_exceptions=True)

    def _has_room(self, place: int | None) -> bool:
        bound = STRANGERS_MAX if place is None else CONNECTIONS_PER_USER
        return self._open[place] < bound and self._open.total() < CONNECTIONS_MAX

    async def _serve(self, accepted: socket.socket, principal: Principal, place: int | None) -> None:
        writer = None
        try:
            limit = QUESTION_OCTETS if principal.permissions else STRANGERS_OCTETS
            reader, writer = await asyncio.open_unix_connection(sock=accepted, limit=limit)
            async with asyncio.timeout(QUESTION_S):
                question = await reader.readline()
            answer = await self._answer(question, principal)
            writer.write(json.dumps(answer).encode() + b"\n")
            async with asyncio.timeout(QUESTION_S):
                await writer.drain()
        except (OSError, TimeoutError, ValueError) as error:
            _LOG.debug("a question was not answered: %s", type(error).__name__)
            if writer is not None:
                # What nobody takes is not kept.
                writer.transport.abort()
        finally:
            self._open[place] -= 1
            if not self._open[place]:
                del self._open[place]
            if writer is not None:
                writer.close()
            else:
                accepted.close()

    def _principal(self, uid: int) -> Principal:
        login = self.logins.of_uid(uid)
        if login is not None:
            return Principal(login.name, login.permissions, _HERE)
        is_own = uid in {0, os.geteuid()}
        return Principal(
            f"uid {uid}", frozenset({PERMISSION_VIEW, PERMISSION_CHANGE} if is_own else ()), _HERE
        )

    async def _answer(self, question: bytes, principal: Principal) -> dict[str, Any]:
        if not principal.permissions:
            # Before anything is looked at: neither the control plane nor its records concern him.
            self._complaints.warning(principal.login, "%s asked, who may ask nothing", principal.login)
            return {"error": "the login's class has no permission", "refused": True}
        try:
            asked = json.loads(question)
        except (ValueError, RecursionError):
            asked = None
        show = asked.get("show") if isinstance(asked, dict) else None
        act = asked.get("do") if isinstance(asked, dict) else None
        try:
            if isinstance(show, str) and show in self._shows:
                return await self._shows[show](principal)
            if isinstance(act, str) and act in self._acts and isinstance(asked, dict):
                return await self._act(act, principal, asked.get("with"))
        except Refused as refused:
            return {"error": refused.info, "refused": True}
        except PortError as error:
            return {"error": str(error)}
        names = ", ".join(sorted(self._shows))
        return {"error": f'ask {{"show": NAME}} with one of {names}'}

    async def _act(
        self,
        name: str,
        principal: Principal,
        argument: Any,  # noqa: ANN401 - as it came
    ) -> dict[str, Any]:
        try:
            answer = await self._acts[name](principal, argument)
        except TypeError:
            return {"error": f"{name}: the argument is not of its kind"}
        except Refused as refused:
            self._complaints.warning(
                (principal.login, name), "%s was refused to %s: %s", name, principal.login, refused.info
            )
            raise
        _LOG.info("%s by %s", name, principal.login)
        return answer


def _uid(connection: socket.socket) -> int:
    _, uid, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return int(uid)


def _listen(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            _replace_if_dead(path)
        # Everybody may ask; who he is decides what he is told.
        before = os.umask(0o111)
        try:
            listening.bind(str(path))
        finally:
            os.umask(before)
        # Who finds the socket may ask at once; answers come when the daemon runs.
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        reason = error.strerror or str(error)
        raise ConfigurationError(f"show.socket: {path}: {reason}", key="show.socket") from None
    return listening


def _replace_if_dead(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
