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
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

from flowtap.control import PERMISSION_CHANGE, PERMISSION_VIEW, PortError, Principal, Refused
from flowtap.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from flowtap.service.logins import Logins

__all__ = ["ShowService"]

_LOG = logging.getLogger(__name__)

QUESTION_OCTETS: Final = 65_536
QUESTION_S: Final = 5
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

    async def run(self) -> None:
        """Answers until cancelled."""
        server = await asyncio.start_unix_server(self._serve, sock=self._socket, limit=QUESTION_OCTETS)
        try:
            async with server:
                await server.serve_forever()
        finally:
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(QUESTION_S):
                question = await reader.readline()
            answer = await self._answer(question, self._principal(writer.get_extra_info("socket")))
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        except (OSError, TimeoutError, ValueError) as error:
            _LOG.debug("a question was not answered: %s", type(error).__name__)
        finally:
            writer.close()

    def _principal(self, connection: socket.socket) -> Principal:
        _, uid, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        login = self.logins.of_uid(uid)
        if login is not None:
            return Principal(login.name, login.permissions, _HERE)
        is_own = uid in {0, os.geteuid()}
        return Principal(
            f"uid {uid}", frozenset({PERMISSION_VIEW, PERMISSION_CHANGE} if is_own else ()), _HERE
        )

    async def _answer(self, question: bytes, principal: Principal) -> dict[str, Any]:
        try:
            asked = json.loads(question)
        except ValueError:
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
            _LOG.warning("%s was refused to %s: %s", name, principal.login, refused.info)
            raise
        _LOG.info("%s by %s", name, principal.login)
        return answer


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
        listening.listen()
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
