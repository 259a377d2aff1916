"""DTCP over SSH: one subsystem, no shell, no commands, no forwarding.

Connections are accepted by our own loop, which refuses before any key exchange; asyncssh takes over
those that are admitted.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter, defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import asyncssh

from flowtap.complaints import Complaints
from flowtap.control import PERMISSION_TASK, Principal
from flowtap.dtcp import (
    Dialect,
    Limits,
    ListRequest,
    ListResult,
    Rejected,
    RequestReceived,
    ServerConnection,
)
from flowtap.service import clock
from flowtap.service.listening import open_listening

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime
    from ipaddress import IPv4Network, IPv6Network

    from flowtap.dtcp import Key, RequestRefused, Result, Sequences
    from flowtap.service.admission import Admission, Ticket
    from flowtap.service.logins import Login, Logins
    from flowtap.service.tasking import TaskingLoop

__all__ = ["SUBSYSTEM", "SshService"]

_LOG = logging.getLogger(__name__)

SUBSYSTEM = "flow-tap-dtcp"
LOGIN_TIMEOUT_S = 15
ASKED_MAX = 256
"""Requests of one session that are served at a time."""
WINDOW_OCTETS = 256 << 10
"""What a peer may send before anything of it is taken up."""
BACKLOG = 128
REFUSED_S = 1.0
"""How long a connection stays that has logged in but finds no place."""
LISTS_MAX = 4
"""Lists of one login that are made or not yet taken by the peer, over all its connections."""
RENDERED_AT_ONCE = 32
"""Entries of a list that is written where all answers are; a longer one is written in a thread."""
_RENDERER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lists")
PASSWORDS_MAX = 3
"""Passwords that a connection may try."""
CHANNELS_MAX = 8
"""Channels of one connection that are open at a time."""


class _Session(asyncssh.SSHServerSession[bytes]):
    """One channel.

    Requests are answered in their order. While the peer does not read its answers, or waits for a list, which
    may be long, nothing more of it is taken up, so that what it can make the tap remember stays bounded.
    """

    def __init__(self, service: SshService, server: _Server, login: Login, principal: Principal) -> None:
        self.principal = principal
        self._service = service
        self._server = server
        self._login = login
        self._channel: asyncssh.SSHServerChannel[bytes] | None = None
        self._dtcp = ServerConnection(
            limits=Limits(),
            keys=service,
            principal=login.name,
            sequences=service.sequences,
            dialect=service.dialect,
        )
        self._waiting: deque[RequestReceived | RequestRefused] = deque()
        self._asked = 0
        self._is_listing = False
        self._holds_place = False
        self._rendering: asyncio.Task[None] | None = None
        self._is_full = False
        self._ended = False

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = chan

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncssh's signature
        self._channel = None
        self._server.sessions.discard(self)
        self._service.lists.forget(self, self._login.name)
        if self._holds_place:
            self._holds_place = False
            self._service.lists.give_back(self._login.name)

    def pty_requested(
        self,
        term_type: str,  # noqa: ARG002 - asyncssh's signature
        term_size: tuple[int, int, int, int],  # noqa: ARG002
        term_modes: object,  # noqa: ARG002
    ) -> bool:
        return False

    def subsystem_requested(self, subsystem: str) -> bool:
        allowed = PERMISSION_TASK in self._login.permissions
        if subsystem != SUBSYSTEM or not allowed:
            self._service.complaints.warning(
                (self._login.name, "subsystem"),
                "login %s from %s: subsystem refused%s",
                self._login.name,
                self.principal.address,
                "" if allowed else ": its class may not task",
            )
            return False
        return True

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:  # noqa: ARG002
        self._dtcp.receive_data(data)
        while (event := self._dtcp.next_event()) is not None:
            if isinstance(event, Rejected):
                self._service.complaints.warning(
                    (self._login.name, event.status),
                    "%d %s: login %s from %s: %s",
                    event.status,
                    event.status.reason,
                    self._login.name,
                    self.principal.address,
                    event.reason,
                )
                self._service.tasking.rejected(event)
                continue
            self._server.requests += 1
            self._waiting.append(event)
        self.go_on()

    def eof_received(self) -> bool:
        self._ended = True
        self.go_on()
        # The channel stays open for the answers.
        return True

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self.go_on()

    def answer(self, event: RequestReceived | RequestRefused, result: Result, when: datetime) -> None:
        if isinstance(result, ListResult) and len(result.entries) > RENDERED_AT_ONCE:
            # Nothing was taken up behind a LIST, so nothing overtakes it.
            self._rendering = asyncio.create_task(self._answer_long(event, result, when))
            return
        self._respond(event, result, when)
        self._answered()

    async def _answer_long(
        self, event: RequestReceived | RequestRefused, result: Result, when: datetime
    ) -> None:
        """Renders beside the loop: everybody else's requests are served meanwhile."""
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(_RENDERER, self._respond, event, result, when)
        finally:
            self._rendering = None
            self._answered()
            self.flush()

    def _answered(self) -> None:
        self._asked -= 1
        self._is_listing = False

    def _respond(self, event: RequestReceived | RequestRefused, result: Result, when: datetime) -> None:
        try:
            self._dtcp.respond(event, result, when)
        except LookupError as error:
            # A reload came in between.
            self._service.complaints.warning(
                (self._login.name, "answer"), "login %s gets no answer: %s", self._login.name, error
            )

    def flush(self) -> None:
        if self._rendering is not None:
            return
        data = self._dtcp.data_to_send()
        if self._channel is not None:
            if data:
                self._channel.write(data)
            self.go_on()

    @property
    def _may_write(self) -> bool:
        return not (self._is_full or self._server.is_full)

    @property
    def _may_take_up(self) -> bool:
        """What came another way than through the tunnel that it must come through is not looked at."""
        return self._may_write and self._service.logins.may_be_heard(self._login.name)

    def go_on(self) -> None:
        """Takes up what waits, as far as it may; reads on, or ends, where nothing is left to do."""
        if self._holds_place and not self._is_listing and self._may_write:
            self._holds_place = False
            self._service.lists.give_back(self._login.name)
        while self._waiting and self._asked < ASKED_MAX and not self._is_listing and self._may_take_up:
            event = self._waiting[0]
            if isinstance(event, RequestReceived) and isinstance(event.request, ListRequest):
                if not self._holds_place and not self._service.lists.take(self, self._login.name):
                    break
                self._holds_place = self._is_listing = True
            self._waiting.popleft()
            self._asked += 1
            self._service.tasking.put(self, event)
        if self._channel is None:
            return
        if self._ended and not self._waiting and not self._asked:
            self._channel.exit(0)
        elif self._waiting:
            self._channel.pause_reading()
        else:
            self._channel.resume_reading()


class _Lists:
    """Places for long answers: few of each login, from the request until the peer has taken them."""

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()
        self._waiting: defaultdict[str, dict[_Session, None]] = defaultdict(dict)

    def take(self, session: _Session, login: str) -> bool:
        """Takes a place; where there is none, the session goes on when there is."""
        if self._taken[login] >= LISTS_MAX:
            self._waiting[login][session] = None
            return False
        self._waiting[login].pop(session, None)
        self._taken[login] += 1
        return True

    def give_back(self, login: str) -> None:
        """Gives a place back, to whoever of the login has waited longest."""
        self._taken[login] -= 1
        first = next(iter(self._waiting[login]), None)
        if first is not None:
            del self._waiting[login][first]
            asyncio.get_running_loop().call_soon(first.go_on)

    def forget(self, session: _Session, login: str) -> None:
        """Lets a session wait no longer."""
        self._waiting[login].pop(session, None)


class _Server(asyncssh.SSHServer):
    """One connection."""

    def __init__(self, service: SshService, ticket: Ticket, peer: str) -> None:
        self._service = service
        self._ticket = ticket
        self._peer = peer
        self._connection: asyncssh.SSHServerConnection | None = None
        self._objection: str | None = None
        self.login: Login | None = None
        self.since: datetime | None = None
        self.requests = 0
        self.sessions: set[_Session] = set()
        self.is_full = False
        self._passwords = 0
        self._has_source = False

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        # A channel is told only of its own window, which the peer may make as wide as it likes. Whether the
        # network takes anything is told to the transport's protocol: the connection, which does nothing then.
        for name, method in (("pause_writing", self._pause), ("resume_writing", self._resume)):
            setattr(conn, name, method)

    def _pause(self) -> None:
        self.is_full = True

    def _resume(self) -> None:
        self.is_full = False
        for session in list(self.sessions):
            session.go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._service.admission.release(self._ticket)
        self._service.sessions.discard(self)
        if exc is not None and not self._ticket.is_authenticated:
            self._service.complaints.warning(
                (self._peer, "login"), "no login from %s: %s", self._peer, type(exc).__name__
            )

    def begin_auth(self, username: str) -> bool:
        self.login = self._service.logins.get(username)
        self._has_source = self._service.logins.key_for(username) is not None
        self._objection = self._service.logins.objection(username, ip_address(self._peer))
        if self.login is not None and self.login.authorized_keys is not None and self._connection:
            if self._objection is None:
                self._connection.set_authorized_keys(self.login.authorized_keys)
            else:
                _LOG.warning("login %s from %s: %s", username, self._peer, self._objection)
        return True

    # The same ways for every name, so that nobody learns which names there are.
    def password_auth_supported(self) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    async def validate_password(self, username: str, password: str) -> bool:
        # Counted before it is looked at: a peer may send the next without waiting. The first one is the
        # attempt that was counted when it connected.
        self._passwords += 1
        if self._passwords > PASSWORDS_MAX:
            raise asyncssh.PermissionDenied("too many passwords")
        if self._passwords > 1 and not self._service.admission.attempt(self._ticket, time.monotonic()):
            raise asyncssh.PermissionDenied("too many attempts")
        is_right = await self._service.logins.check_password(username, password)
        if not is_right:
            _LOG.warning("wrong password or user from %s", self._peer)
        elif self._objection is not None:
            _LOG.warning("login %s from %s: %s", username, self._peer, self._objection)
        may_log_in = is_right and self._objection is None
        if self._passwords == PASSWORDS_MAX and not may_log_in:
            raise asyncssh.PermissionDenied("too many passwords")
        return may_log_in

    def auth_completed(self) -> None:
        login = self.login
        if login is None or self._connection is None or not self.may_stay():
            # A reload came in between.
            self.close()
            return
        if not self._service.admission.authenticated(self._ticket, login.name, self._service.logins.names):
            self._service.complaints.warning(
                (login.name, "places"),
                "login %s from %s refused: connection_limit is reached, or the rest is kept for other logins",
                login.name,
                self._peer,
            )
            # Ended a moment later, so that the refusal of its first channel can say why.
            asyncio.get_running_loop().call_later(REFUSED_S, self.close)
            return
        self.since = clock.now().wall
        self._service.sessions.add(self)
        _LOG.info("login %s from %s", login.name, self._peer)

    def session_requested(self) -> _Session | bool:
        if self.login is None:
            return False
        if not self._ticket.is_authenticated:
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_RESOURCE_SHORTAGE,
                f"too many connections of {self.login.name}, or of all logins",
            )
        if len(self.sessions) >= CHANNELS_MAX:
            self._service.complaints.warning(
                (self.login.name, "channels"),
                "login %s from %s: more than %d channels in one connection refused",
                self.login.name,
                self._peer,
                CHANNELS_MAX,
            )
            return False
        # Counted now: many may be asked for before the first is open.
        principal = Principal(self.login.name, self.login.permissions, ip_address(self._peer))
        session = _Session(self._service, self, self.login, principal)
        self.sessions.add(session)
        return session

    def may_stay(self) -> bool:
        """Whether it could log in as it has done, and for as much, now."""
        logins, login = self._service.logins, self.login
        return (
            login is not None
            and logins.get(login.name) == login
            and logins.may_come_from(login.name, ip_address(self._peer))
            and (not self._has_source or logins.key_for(login.name) is not None)
        )

    def close(self) -> None:
        """Ends the connection."""
        if self._connection is not None:
            self._connection.close()

    def value(self) -> dict[str, Any]:
        """What `show` says of it."""
        return {
            "login": "" if self.login is None else self.login.name,
            "address": self._peer,
            "since": "" if self.since is None else self.since.isoformat(timespec="seconds"),
            "requests": self.requests,
        }


class SshService:
    """Listens, admits, and hands what is asked to the tasking loop.

    Args:
        listen: Addresses and ports; port 0 for any.
        patient: Addresses in these networks need not be there yet.
        host_key: The private host key.
        logins: Who may log in.
        admission: How many may try.
        tasking: Where requests go.
        sequences: The sequence numbers of those control sources whose numbers are checked.
        dialect: The form of the answers.
    """

    def __init__(
        self,
        *,
        listen: list[tuple[str, int]],
        patient: Collection[IPv4Network | IPv6Network] = (),
        host_key: asyncssh.SSHKey,
        logins: Logins,
        admission: Admission,
        tasking: TaskingLoop,
        sequences: Sequences,
        dialect: Dialect,
    ) -> None:
        self.sequences = sequences
        self.logins = logins
        self.sessions: set[_Server] = set()
        self.admission = admission
        self.tasking = tasking
        self.dialect = dialect
        self.complaints = Complaints(_LOG)
        self.lists = _Lists()
        self._sockets = [
            open_listening(
                "dtcp.ssh.listen",
                socket.SOCK_STREAM,
                address,
                port,
                options=[(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)],
                patient=patient,
                backlog=BACKLOG,
            )
            for address, port in listen
        ]
        self._connections: set[asyncio.Task[None]] = set()
        self._options = asyncssh.SSHServerConnectionOptions(
            server_host_keys=[host_key],
            encoding=None,
            # What unpacks to a thousand times its size would undo every other bound.
            compression_algs=["none"],
            window=WINDOW_OCTETS,
            allow_pty=False,
            agent_forwarding=False,
            kbdint_auth=False,
            login_timeout=LOGIN_TIMEOUT_S,
            keepalive_interval=30,
            keepalive_count_max=4,
        )

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens, with the real ports."""
        return [listening.getsockname()[:2] for listening in self._sockets]

    def key_for(self, csource_id: str) -> Key | None:
        """The DTCP secret of a control source, as configured now."""
        return self.logins.key_for(csource_id)

    def apply(self, logins: Logins) -> None:
        """Takes over other logins.

        Connections end of users who are not what they were: other permissions, another password, other keys,
        an address that they may no longer come from, no control source any more.
        """
        self.logins = logins
        for session in list(self.sessions):
            if not session.may_stay():
                session.close()

    def ways_changed(self) -> None:
        """A tunnel has come up or gone down: what has waited for it is taken up."""
        for connection in list(self.sessions):
            for session in list(connection.sessions):
                session.go_on()

    def session_values(self) -> list[dict[str, Any]]:
        """Who is logged in, the longest first."""
        return sorted((each.value() for each in self.sessions), key=lambda value: str(value["since"]))

    async def run(self) -> None:
        """Accepts connections until cancelled; then ends all of them."""
        try:
            async with asyncio.TaskGroup() as group:
                for listening in self._sockets:
                    group.create_task(self._accept(listening))
        finally:
            for listening in self._sockets:
                listening.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peer = await loop.sock_accept(listening)
            except OSError as error:
                # Out of descriptors: connections that end will free some.
                _LOG.warning("a connection could not be accepted: %s", error.strerror)
                await asyncio.sleep(0.1)
                continue
            address = ip_address(peer[0].partition("%")[0])
            address = getattr(address, "ipv4_mapped", None) or address
            ticket = self.admission.admit(address, time.monotonic(), partial(_abort, accepted))
            if isinstance(ticket, str):
                self.complaints.warning((address, ticket), "connection from %s refused: %s", address, ticket)
                accepted.close()
                continue
            task = asyncio.create_task(self._serve(accepted, ticket, str(address)))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _serve(self, accepted: socket.socket, ticket: Ticket, peer: str) -> None:
        accepted.setblocking(False)
        try:
            connection = await asyncssh.run_server(
                accepted,
                options=self._options,
                server_factory=lambda: _Server(self, ticket, peer),
            )
            async with connection:
                await connection.wait_closed()
        except Exception as error:  # noqa: BLE001 - asyncssh hands on whatever a packet has made it raise
            _LOG.info("connection from %s ended: %s", peer, type(error).__name__)
        finally:
            self.admission.release(ticket)


def _abort(accepted: socket.socket) -> None:
    """Ends a connection at once; whoever serves it notices."""
    try:
        accepted.shutdown(socket.SHUT_RDWR)
    except OSError:
        _LOG.debug("a connection had ended already")
