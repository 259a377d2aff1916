"""One peer's conversation, without I/O and without a clock: octets in, events out, answers in, octets out.

Over a stream that belongs to a login the Csource-ID must be the login's name; whether sequence numbers
are checked there is the caller's choice, because the real clients restart and repeat them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from flowtap.dtcp import authentication, codec, grammar
from flowtap.dtcp.grammar import SyntaxFault
from flowtap.dtcp.messages import ErrorResult, Response
from flowtap.dtcp.render import Dialect, render_notification, render_request, render_response
from flowtap.dtcp.reply import Reply, parse_reply
from flowtap.dtcp.sequence import SequenceStep
from flowtap.dtcp.status import Status
from flowtap.dtcp.stream import MessageReader

if TYPE_CHECKING:
    from datetime import datetime

    from flowtap.dtcp.authentication import Key
    from flowtap.dtcp.limits import Limits
    from flowtap.dtcp.messages import Notification, Request, Result, Version
    from flowtap.dtcp.sequence import SequenceWindow

__all__ = [
    "ClientConnection",
    "Event",
    "Keys",
    "Rejected",
    "RequestReceived",
    "RequestRefused",
    "Sequences",
    "ServerConnection",
    "read_request",
]


_METHOD_CHARACTERS: Final = 32


class Keys(Protocol):
    """Knows the shared secrets."""

    def key_for(self, csource_id: str) -> Key | None:
        """The secret of a control source; None where there is no such control source."""


class Sequences(Protocol):
    """Knows the sequence numbers."""

    def window_for(self, csource_id: str) -> SequenceWindow | None:
        """The numbers of a control source; None where they are only repeated, not checked."""


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """An authentic request that can be read; answer it with `ServerConnection.respond`.

    Attributes:
        request: What is asked.
        highest_seq: The highest sequence number so far, to be kept before the request is acted upon;
            None where numbers are not checked.
        rolled_over: Whether the numbers have gone round with this request.
    """

    request: Request
    highest_seq: int | None = None
    rolled_over: bool = False

    @property
    def version(self) -> Version:
        """The version that the answer has."""
        return self.request.version

    @property
    def seq(self) -> str:
        """The sequence number that the answer repeats."""
        return self.request.seq

    @property
    def csource_id(self) -> str:
        """Who asked."""
        return self.request.csource_id


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """An authentic request that is wrong; answer it with its own ``error``.

    Attributes:
        version: The version that the answer has.
        csource_id: Who asked.
        seq: The sequence number that the answer repeats.
        error: The answer.
        highest_seq: As in `RequestReceived`.
        rolled_over: As in `RequestReceived`.
        method: The first word of the request, as far as it has one.
    """

    version: Version
    csource_id: str
    seq: str
    error: ErrorResult
    highest_seq: int | None = None
    rolled_over: bool = False
    method: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message that gets no answer at all and is to be logged [DTCP §4.4].

    Attributes:
        status: The code to log.
        reason: Why, without anything of the message's content.
        seq: The sequence number where it could be read; nobody vouches for it.
        csource_id: The control source that it names, where there is one of that name; nobody vouches for it
            either.
    """

    status: Status
    reason: str
    seq: str | None = None
    csource_id: str | None = None


Event = RequestReceived | RequestRefused | Rejected


class ServerConnection:
    """The server's end of one stream.

    Args:
        limits: Bounds of what the peer may send.
        keys: The shared secrets.
        principal: The login's name where the stream belongs to a login.
        sequences: The sequence numbers, None where they are not checked.
        dialect: The form of the answers.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        keys: Keys,
        principal: str | None = None,
        sequences: Sequences | None = None,
        dialect: Dialect = Dialect.VENDOR,
    ) -> None:
        self._sequences = sequences
        self._limits = limits
        self._keys = keys
        self._principal = principal
        self._dialect = dialect
        self._reader = MessageReader(limits)
        self._output = bytearray()

    def receive_data(self, data: bytes) -> None:
        """Takes octets as they came."""
        self._reader.feed(data)

    def next_event(self) -> Event | None:
        """What the octets so far say next; None when more are needed."""
        try:
            message = self._reader.next_message()
        except LookupError:
            return None
        if message is None:
            return _too_long(self._limits)
        return read_request(
            message, self._limits, self._keys, principal=self._principal, sequences=self._sequences
        )

    def respond(self, event: RequestReceived | RequestRefused, result: Result, now: datetime) -> None:
        """Queues the answer to a request.

        Args:
            event: The request's event.
            result: What came of it.
            now: Wall time for the answer's Timestamp.
        """
        response = Response(event.version, event.seq, now, result)
        self.send(response, event.csource_id)

    def send(self, message: Response | Notification, csource_id: str) -> None:
        """Queues a message, signed with the control source's secret.

        Raises:
            LookupError: There is no such control source any more.
        """
        key = self._keys.key_for(csource_id)
        if key is None:
            raise LookupError("the control source has no key any more")
        if isinstance(message, Response):
            self._output += render_response(message, self._dialect, key)
        else:
            self._output += render_notification(message, key)

    def data_to_send(self) -> bytes:
        """Everything that is to be sent now; empty when there is nothing."""
        data = bytes(self._output)
        self._output.clear()
        return data


def read_request(
    message: bytes,
    limits: Limits,
    keys: Keys,
    *,
    principal: str | None = None,
    sequences: Sequences | None = None,
) -> Event:
    """Reads one whole message of a control source.

    Who, digest and sequence number come first, over the octets as they came; then what it says.

    Args:
        message: The octets.
        limits: Bounds of what a peer may send.
        keys: The shared secrets.
        principal: The login's name where the message came over a login's stream.
        sequences: The sequence numbers, None where they are not checked.
    """
    if len(message) > limits.message_octets or message.rstrip(b"\r\n").count(b"\n") >= limits.lines:
        return _too_long(limits)
    text, given = authentication.split(message)
    if given is None:
        return Rejected(Status.INVALID_AUTHENTICATION, "no Authentication-Info as the last line")
    try:
        envelope = codec.open_envelope(text, limits)
    except SyntaxFault as fault:
        return Rejected(Status.INVALID_AUTHENTICATION, fault.info)
    rejected = _unauthentic(envelope, text, given, keys, principal)
    if rejected is not None:
        return rejected
    window = None if sequences is None else sequences.window_for(envelope.csource_id)
    step = SequenceStep.FIRST if window is None else window.accept(int(envelope.seq))
    if step is None:
        reason = "the sequence number was used before or is too far away"
        return Rejected(Status.INVALID_SEQUENCE_NUMBER, reason, envelope.seq, envelope.csource_id)
    highest = None if window is None else window.highest
    rolled_over = step is SequenceStep.ROLLED_OVER
    try:
        request = codec.parse_request(envelope, limits)
    except SyntaxFault as fault:
        error = ErrorResult(fault.status, fault.parameters, fault.info)
        version = _answered_version(envelope.start_line)
        method = envelope.start_line.partition(" ")[0][:_METHOD_CHARACTERS]
        return RequestRefused(version, envelope.csource_id, envelope.seq, error, highest, rolled_over, method)
    return RequestReceived(request, highest, rolled_over)


def _too_long(limits: Limits) -> Rejected:
    reason = f"a message of more than {limits.message_octets} octets or {limits.lines} lines"
    return Rejected(Status.INVALID_AUTHENTICATION, reason)


def _unauthentic(
    envelope: codec.Envelope, text: bytes, given: str, keys: Keys, principal: str | None
) -> Rejected | None:
    """Why nobody vouches for a message; None where somebody does."""
    key = keys.key_for(envelope.csource_id)
    if key is None:
        return Rejected(Status.UNKNOWN_CONTROL_SOURCE, "the Csource-ID is not configured", envelope.seq)
    if principal is not None and envelope.csource_id != principal:
        reason = "the Csource-ID is not the login's name"
        return Rejected(Status.UNKNOWN_CONTROL_SOURCE, reason, envelope.seq)
    if not authentication.authenticate(text, given, key):
        reason = "the digest does not fit the text"
        return Rejected(Status.INVALID_AUTHENTICATION, reason, envelope.seq, envelope.csource_id)
    return None


def _answered_version(start_line: str) -> Version:
    """The request's own version where it is served, else the nearest one that is [DTCP §6.7]."""
    try:
        version = grammar.request_line(start_line)[1]
    except SyntaxFault:
        return codec.VERSIONS[1]
    return min(max(version, codec.VERSIONS[0]), codec.VERSIONS[-1])


class ClientConnection:
    """The client's end of one stream.

    Args:
        key: The shared secret.
        limits: Bounds of what the server may send.
    """

    def __init__(self, *, key: Key, limits: Limits) -> None:
        self._key = key
        self._limits = limits
        self._reader = MessageReader(limits)
        self._output = bytearray()
        self._lines = bytearray()
        self._too_long = False

    def send(self, request: Request) -> None:
        """Queues a request."""
        self._output += render_request(request, self._key)

    def send_signed(self, message: bytes) -> None:
        """Queues octets as they are: a message that was signed elsewhere."""
        self._output += message

    def data_to_send(self) -> bytes:
        """Everything that is to be sent now; empty when there is nothing."""
        data = bytes(self._output)
        self._output.clear()
        return data

    def receive_data(self, data: bytes) -> None:
        """Takes octets as they came."""
        self._reader.feed(data)

    @property
    def pending_octets(self) -> int:
        """Octets of a reply that is not whole yet."""
        return len(self._lines) + self._reader.pending_octets

    def next_reply(self) -> Reply | None:
        """The next response; None when more octets are needed.

        A response in the draft's form may have empty lines inside: it ends behind its digest.

        Raises:
            ReplyError: It cannot be read or is not authentic.
        """
        while True:
            try:
                piece = self._reader.next_message()
            except LookupError:
                return None
            if piece is None:
                self._lines.clear()
                continue
            self._lines += piece
            if len(self._lines) > self._limits.message_octets:
                # The rest is skipped, up to the digest that ends it.
                self._lines.clear()
                self._too_long = True
            if authentication.split(piece)[1] is not None:
                message = bytes(self._lines)
                self._lines.clear()
                if not self._too_long:
                    return parse_reply(message, self._key)
                self._too_long = False
