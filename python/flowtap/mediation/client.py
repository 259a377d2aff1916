"""A client that does not lose count: it numbers requests, tries again, and adds no criterion twice.

The protocol has no retransmission: a request that got no answer may have been lost on either way, or not
believed. It is sent again with a new number. ADD is not idempotent, so before it is sent again the client
looks whether the first one arrived [DTCP §4.4.1].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol, Self

from flowtap.dtcp import AddRequest, Key, ListRequest, Parameter, Reply, Status, Version, codec
from flowtap.dtcp.grammar import SyntaxFault, name_list_text
from flowtap.dtcp.limits import Limits
from flowtap.dtcp.render import render_request, sign
from flowtap.mediation.datagram import DatagramTaskingClient
from flowtap.mediation.numbers import SequenceNumbers
from flowtap.mediation.secure import NoAnswerError, TaskingClient, TaskingError, request_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from types import TracebackType

    from flowtap.dtcp import DeleteRequest, NoopRequest, RefreshRequest, Request

__all__ = ["Client", "RefusedError", "entry_values"]

VERSION: Final = Version(0, 7)
ATTEMPTS: Final = 3


class RefusedError(TaskingError):
    """The tap has answered with something else than success.

    Attributes:
        reply: The answer.
    """

    def __init__(self, reply: Reply) -> None:
        info = reply.value("X-Error-Info")
        super().__init__(f"{reply.code} {reply.reason}" + (f": {info}" if info else ""))
        self.reply = reply


class _Connection(Protocol):
    """A way to the tap."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...

    async def exchange(self, message: bytes, seq: str) -> Reply: ...


@dataclass(frozen=True, slots=True)
class _Draft:
    """A request that has no number yet.

    Attributes:
        method: What it asks for.
        added: What an ADD asks for, where we can read it.
        complete: Numbers and signs it.
    """

    method: str
    added: AddRequest | None
    complete: Callable[[str], bytes]


def entry_values(entry: Iterable[Parameter]) -> dict[str, str]:
    """The parameters of a LIST entry by their lower-case names, the first of a name [DTCP §5]."""
    values: dict[str, str] = {}
    for each in entry:
        values.setdefault(each.name.lower(), each.value)
    return values


class Client:
    """Tasks a tap for one control source; open it with ``async with``.

    Made by `over_ssh` or `over_udp`. Requests go one after the other. A connection that was lost is opened
    again for the next attempt.

    Args:
        connect: Opens a way to the tap.
        user: The Csource-ID.
        key: The DTCP secret.
        numbers: Where sequence numbers come from.
        attempts: How often a request is sent before the client gives up.
    """

    def __init__(
        self,
        connect: Callable[[], _Connection],
        *,
        user: str,
        key: Key,
        numbers: SequenceNumbers,
        attempts: int = ATTEMPTS,
    ) -> None:
        self._connect = connect
        self._user = user
        self._key = key
        self._numbers = numbers
        self._attempts = attempts
        self._connection: _Connection | None = None
        self._known_ids: set[str] = set()

    @classmethod
    def over_ssh(
        cls,
        host: str,
        port: int = 32_001,
        *,
        user: str,
        key: Key | None = None,
        password: str | None = None,
        identity: Path | None = None,
        known_hosts: Path | None = None,
        numbers: SequenceNumbers | None = None,
        timeout_s: float = 5.0,
        attempts: int = ATTEMPTS,
    ) -> Client:
        """A client that logs in over SSH.

        Args:
            host: The tap.
            port: Its port.
            user: The login's name, which is also the Csource-ID.
            key: The DTCP secret; the vendor's fixed one without it.
            password: For a login by password.
            identity: Private key file for a login by key.
            known_hosts: File with the tap's host key.
            numbers: Sequence numbers; from 1 on without them, because over SSH they are only repeated.
            timeout_s: Longest wait for the login and for each reply.
            attempts: How often a request is sent.
        """
        secret = Key(b"Juniper") if key is None else key

        def connect() -> TaskingClient:
            return TaskingClient(
                host,
                port,
                user=user,
                key=secret,
                password=password,
                identity=identity,
                known_hosts=known_hosts,
                timeout_s=timeout_s,
            )

        return cls(connect, user=user, key=secret, numbers=numbers or SequenceNumbers(), attempts=attempts)

    @classmethod
    def over_udp(
        cls,
        host: str,
        port: int = 1814,
        *,
        user: str,
        key: Key,
        numbers: SequenceNumbers,
        timeout_s: float = 2.0,
        attempts: int = ATTEMPTS,
    ) -> Client:
        """A client that sends datagrams.

        Args:
            host: The tap.
            port: Its port.
            user: The Csource-ID.
            key: The DTCP secret.
            numbers: Sequence numbers, kept in a file: a tap believes none that it has seen [DTCP §4.4.1].
            timeout_s: Longest wait for a whole reply.
            attempts: How often a request is sent.
        """

        def connect() -> DatagramTaskingClient:
            return DatagramTaskingClient(host, port, user=user, key=key, timeout_s=timeout_s)

        return cls(connect, user=user, key=key, numbers=numbers, attempts=attempts)

    async def __aenter__(self) -> Self:
        self._connection = await self._connect().__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        if self._connection is not None:
            await self._connection.__aexit__(None, None, None)
            self._connection = None

    # --- what a mediation device does ---------------------------------------------------------

    async def add(self, request: AddRequest) -> int:
        """Adds a criterion; number and control source of the request are replaced.

        Returns:
            Its id.

        Raises:
            RefusedError: The tap does not want it.
            TaskingError: No answer that can be believed.
        """
        reply = _successful(await self.send(request))
        return int(reply.value("Criteria-ID") or 0)

    async def delete(self, request: DeleteRequest) -> int:
        """Deletes criteria.

        Returns:
            How many.

        Raises:
            RefusedError: The tap does not know one of them.
            TaskingError: No answer that can be believed.
        """
        return int(_successful(await self.send(request)).value("Criteria-Count") or 0)

    async def refresh(self, request: RefreshRequest) -> int:
        """Gives criteria new time-outs.

        Returns:
            How many.

        Raises:
            RefusedError: The tap does not want that.
            TaskingError: No answer that can be believed.
        """
        return int(_successful(await self.send(request)).value("Criteria-Count") or 0)

    async def list(self, request: ListRequest | None = None) -> list[dict[str, str]]:
        """Lists the control source's criteria.

        Returns:
            One criterion each, its parameters by their lower-case names.

        Raises:
            RefusedError: The tap does not know what was asked for.
            TaskingError: No answer that can be believed, or not all of it.
        """
        asked = ListRequest(VERSION, self._user, "0", stats=True) if request is None else request
        return [entry_values(entry) for entry in _successful(await self.send(asked)).entries]

    async def noop(self, request: NoopRequest) -> None:
        """Proves the path end to end.

        Raises:
            TaskingError: It is not there.
        """
        _successful(await self.send(request))

    async def ensure(self, wanted: Sequence[AddRequest]) -> tuple[int, ...]:
        """Adds of these criteria what is missing: after a restart, or an outage of either side [DTCP §5.4.1].

        Returns:
            The id of each.

        Raises:
            RefusedError: The tap does not want one of them.
            TaskingError: No answer that can be believed.
        """
        listed = await self.list(ListRequest(VERSION, self._user, "0"))
        ids = []
        for request in wanted:
            found = next((entry for entry in listed if _is_same(entry, request)), None)
            if found is None:
                ids.append(await self.add(request))
            else:
                listed.remove(found)
                ids.append(int(found["criteria-id"]))
        return tuple(ids)

    # --- sending ------------------------------------------------------------------------------

    async def send(self, request: Request) -> Reply:
        """Sends a request and returns its reply, whatever that says.

        Raises:
            TaskingError: No answer that can be believed, after all attempts.
        """
        method = type(request).__name__.removesuffix("Request").upper()
        added = request if isinstance(request, AddRequest) else None

        def complete(seq: str) -> bytes:
            return render_request(replace(request, csource_id=self._user, seq=seq), self._key)

        return await self._send(_Draft(method, added, complete))

    async def send_text(self, text: str) -> Reply:
        """Sends a request that was written by hand: Csource-ID, Seq and digest are completed.

        Raises:
            TaskingError: No answer that can be believed, after all attempts.
        """
        first = text.split(None, 1)
        lines = request_text(text, self._user, "0")
        try:
            request = codec.parse_request(codec.open_envelope(lines.encode(), Limits()), Limits())
        except SyntaxFault:
            # The tap will say what is wrong with it.
            request = None
        added = request if isinstance(request, AddRequest) else None

        def complete(seq: str) -> bytes:
            return sign(request_text(text, self._user, seq), self._key)

        return await self._send(_Draft(first[0].upper() if first else "", added, complete))

    async def _send(self, draft: _Draft) -> Reply:
        repeated = False
        for attempt in range(1, self._attempts + 1):
            try:
                if repeated and draft.method == "ADD":
                    found = await self._find(draft)
                    if found is not None:
                        return found
                reply = await self._exchange(draft)
            except TaskingError as error:
                # What was not answered may have been done; a connection that was never made has done nothing.
                repeated |= isinstance(error, NoAnswerError)
                if attempt == self._attempts:
                    raise
                continue
            if repeated and draft.method == "DELETE" and reply.code == Status.UNKNOWN_CRITERIA_ID:
                # The first one had arrived.
                return replace(reply, code=int(Status.OK), reason=Status.OK.reason)
            self._remember(reply)
            return reply
        raise AssertionError  # pragma: no cover - at least one attempt is made

    async def _exchange(self, draft: _Draft) -> Reply:
        if self._connection is None:
            self._connection = await self._connect().__aenter__()
        seq = str(self._numbers.next())
        try:
            return await self._connection.exchange(draft.complete(seq), seq)
        except NoAnswerError as error:
            if error.is_lost:
                await self._close()
            raise

    def _remember(self, reply: Reply) -> None:
        given = reply.value("Criteria-ID")
        if reply.is_success and given is not None:
            self._known_ids.add(given)
        self._known_ids.update(entry_values(entry).get("criteria-id", "") for entry in reply.entries)

    async def _find(self, draft: _Draft) -> Reply | None:
        """The answer that an ADD would have had whose answer was lost; None where it did not arrive."""
        request = ListRequest(VERSION, self._user, "0")

        def complete(seq: str) -> bytes:
            return render_request(replace(request, seq=seq), self._key)

        reply = await self._exchange(_Draft("LIST", None, complete))
        for entry in reply.entries:
            values = entry_values(entry)
            is_new = values.get("criteria-id") not in self._known_ids
            if is_new and draft.added is not None and _is_same(values, draft.added):
                self._known_ids.add(values["criteria-id"])
                given = Parameter("Criteria-ID", values["criteria-id"])
                return replace(reply, parameters=(given, *reply.parameters), entries=())
        return None


def _successful(reply: Reply) -> Reply:
    if not reply.is_success:
        raise RefusedError(reply)
    return reply


def _is_same(entry: dict[str, str], request: AddRequest) -> bool:
    """Whether a LIST entry shows what an ADD asked for, as far as the tap shows it."""
    if entry.get("cdest-id") != name_list_text(request.cdest_ids):
        return False
    for name, field in codec.FILTER_PARAMETERS.items():
        if entry.get(name, "*") != (getattr(request.filter, field) or "*"):
            return False
    is_static = "static" in entry.get("flags", "").lower()
    for name, field in () if request.static else codec.TIMEOUT_PARAMETERS.items():
        given = getattr(request.timeouts, field)
        if name in entry and entry[name] != str(given):
            return False
    asked = {each.name.lower(): each.value for each in request.extensions}
    shown = {name: value for name, value in entry.items() if name.startswith("x-jtap-")}
    return is_static == request.static and all(
        asked.get(name, value) == value for name, value in shown.items()
    )
