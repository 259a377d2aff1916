"""Tasks a tap over SSH: one login, one channel, requests one after the other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

import asyncssh

from flowtap.dtcp import ClientConnection, Limits, ReplyError
from flowtap.dtcp.render import render_request, sign
from flowtap.errors import FlowtapError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from flowtap.dtcp import Key, Reply, Request

__all__ = ["NoAnswerError", "TaskingClient", "TaskingError", "request_text"]

SUBSYSTEM = "flow-tap-dtcp"
READ_OCTETS = 65_536
REPLY_OCTETS = 64 << 20
"""Longest reply: a LIST of very many criteria comes in one piece."""

_REPLACED = ("csource-id", "seq", "authentication-info")


class TaskingError(FlowtapError):
    """The tap could not be reached, did not let us in, or did not answer."""


class NoAnswerError(TaskingError):
    """No answer came: the request may have been carried out.

    Attributes:
        is_lost: Whether the connection is gone too.
    """

    def __init__(self, message: str, *, is_lost: bool) -> None:
        super().__init__(message)
        self.is_lost = is_lost


def request_text(text: str, csource_id: str, seq: str) -> str:
    """Completes a request that was written by hand.

    Args:
        text: Its lines; Csource-ID, Seq and Authentication-Info among them are replaced.
        csource_id: The control source.
        seq: The sequence number.

    Returns:
        All lines that are to be signed, each with its CRLF.
    """
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if line.partition(":")[0].strip().lower() not in _REPLACED]
    return "".join(f"{line}\r\n" for line in [*kept, f"Csource-ID: {csource_id}", f"Seq: {seq}"])


class TaskingClient:
    """A logged-in mediation device.

    Args:
        host: The tap.
        port: Its port.
        user: The login's name, which is also the Csource-ID.
        key: The DTCP secret.
        password: For a login by password.
        identity: Private key file for a login by key.
        known_hosts: File with the tap's host key.
        timeout_s: Longest wait for the login and for each reply.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        user: str,
        key: Key,
        password: str | None = None,
        identity: Path | None = None,
        known_hosts: Path | None = None,
        timeout_s: float = 5.0,
    ) -> None:
        self._host = host
        self._port = port
        self._user = user
        self._key = key
        self._password = password
        self._identity = identity
        self._known_hosts = known_hosts
        self._timeout_s = timeout_s
        limits = Limits(message_octets=REPLY_OCTETS, lines=REPLY_OCTETS)
        self._dtcp = ClientConnection(key=key, limits=limits)
        self._connection: asyncssh.SSHClientConnection | None = None
        self._writer: asyncssh.SSHWriter[bytes] | None = None
        self._reader: asyncssh.SSHReader[bytes] | None = None

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._connect()
        except TimeoutError:
            await self._close()
            raise TaskingError(f"{self._where}: no login within {self._timeout_s:g} s") from None
        except asyncssh.HostKeyNotVerifiable:
            raise TaskingError(
                f"{self._where}: the host key is not known; put it into a known_hosts file and name it"
            ) from None
        except asyncssh.PermissionDenied:
            raise TaskingError(f"{self._where}: the tap did not accept the login {self._user}") from None
        except asyncssh.ChannelOpenError as error:
            await self._close()
            if error.code == asyncssh.OPEN_RESOURCE_SHORTAGE:
                raise TaskingError(f"{self._where}: {error.reason}") from None
            raise TaskingError(f"{self._where}: the tap does not let {self._user} task") from None
        except (OSError, asyncssh.Error, ValueError) as error:
            await self._close()
            reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
            raise TaskingError(f"{self._where}: {reason}") from None
        return self

    @property
    def _where(self) -> str:
        return f"{self._host} port {self._port}"

    async def _connect(self) -> None:
        self._connection = await asyncssh.connect(
            self._host,
            self._port,
            config=None,
            username=self._user,
            password=self._password,
            client_keys=None if self._identity is None else [str(self._identity)],
            known_hosts=() if self._known_hosts is None else str(self._known_hosts),
            agent_path=None,
        )
        self._writer, self._reader, _ = await self._connection.open_session(
            subsystem=SUBSYSTEM, encoding=None
        )

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            await self._connection.wait_closed()
            self._connection = None

    async def request(self, request: Request) -> Reply:
        """Sends a request and waits for its reply.

        Raises:
            TaskingError: None came in time, or one that is not authentic.
        """
        return await self.exchange(render_request(request, self._key), request.seq)

    async def request_written(self, text: str, seq: str) -> Reply:
        """Sends a request that was written by hand; see `request_text`.

        Raises:
            TaskingError: None came in time, or one that is not authentic.
        """
        return await self.exchange(sign(request_text(text, self._user, seq), self._key), seq)

    async def exchange(self, message: bytes, seq: str) -> Reply:
        """Sends octets as they are and waits for the reply with that sequence number.

        Raises:
            NoAnswerError: None came in time, or the connection is gone.
            TaskingError: One came that is not authentic.
        """
        if self._writer is None:
            raise TaskingError("not logged in")
        try:
            self._writer.write(message)
            async with asyncio.timeout(self._timeout_s):
                # An answer that comes late belongs to an earlier request.
                while (reply := await self._reply()).seq != seq:
                    pass
        except TimeoutError:
            raise NoAnswerError(
                f"{self._where}: no answer within {self._timeout_s:g} s; a tap does not answer what it"
                " cannot authenticate: check user and key",
                is_lost=False,
            ) from None
        except ReplyError as error:
            raise TaskingError(f"{self._where}: {error}") from None
        except (OSError, asyncssh.Error):
            raise NoAnswerError(f"{self._where}: the connection is gone", is_lost=True) from None
        return reply

    async def _reply(self) -> Reply:
        while True:
            reply = self._dtcp.next_reply()
            if reply is not None:
                return reply
            data = await self._reader.read(READ_OCTETS) if self._reader is not None else b""
            if not data:
                raise NoAnswerError(f"{self._where}: the tap ended the connection", is_lost=True)
            self._dtcp.receive_data(data)
