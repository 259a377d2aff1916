"""Octets that nearly are DTCP, and what has to hold whatever they are.

Messages of every kind are spoiled by a seeded random source, so that a number names a case.
"""

from __future__ import annotations

import random
import tempfile
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scene import PLACES, Scene, now, principal

from flowtap import dtcp
from flowtap.control import FilterFault
from flowtap.control.ports import ScopeFault
from flowtap.dtcp import codec, render
from flowtap.dtcp.grammar import SyntaxFault
from flowtap.dtcp.reply import ReplyError, parse_reply
from flowtap.service.filters import FilterReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["CHECKS", "KEY", "SEEDS", "Tasked", "events", "spoil", "spoiled"]

KEY: Final = dtcp.Key(b"flowtap-lab-key-0001")
NAME: Final = "ttp-md1"
MOMENT: Final = datetime(2026, 3, 2, 10, 15, 30)  # noqa: DTZ001 - the protocol has no zone
LIMITS: Final = dtcp.Limits(message_octets=4_000, lines=60)
DATAGRAM_OCTETS: Final = 1_400
ONE_BY_ONE: Final = 0.1
AFTERWARDS: Final = render.sign(f"NOOP DTCP/0.7\r\nCsource-ID: {NAME}\r\nSeq: 77\r\n", KEY)
ANSWERED: Final = render.sign("DTCP/0.7 299 Fine\r\nTimestamp: 2026-03-02 10:15:30.000\r\nSeq: 77\r\n", KEY)

_DIGEST: Final = b"Authentication-Info:"
_TRANSCRIPTS = sorted((Path(__file__).parents[1] / "transcripts").glob("x*.txt"))
_CLIENTS = (
    """ADD DTCP/0.8
Csource-ID: NAME
Cdest-ID: cd1,cd2
Protocol: 17
Priority: 2
X-JTap-Cdest-Dest-Address: 192.0.2.20,2001:db8::5
X-JTap-Cdest-Dest-Port: 8001,8002
X-JTap-Cdest-Source-Address: 198.51.100.9
X-JTap-Cdest-Source-Port: 49153
X-JTap-Cdest-TTL: 255
X-JTap-Input-Interface: eth0,eth0.7
X-JTap-IP-Version: ipv6
Flags: STATIC
Seq: 1
""",
    """ADD DTCP/0.8
Csource-ID: NAME
Cdest-ID: own
X-JTap-Cdest-Dest-Address: 192.0.2.20
X-JTap-Cdest-Dest-Port: 8001
X-JTap-Cdest-Source-Address: 198.51.100.9
X-JTap-Cdest-Source-Port: 1
X-JTap-VRF-Name: RED
X-Jtap-Filter-Family: ccc
Flags: STATIC
Seq: 1
""",
    """ADD DTCP/0.7
Csource-ID: NAME
Cdest-ID: cd1
Source-Address: 2001:db8::/32,!2001:db8::1
Dest-Address: 192.0.2.1-192.0.2.9
Dest-Port: 53,5060-5070,!5065
Timeout-Idle: 60
Timeout-Bytes: 9
Flags: SendAsync
X-FlowTap-Order: 2026/17
X-FlowTap-Order-End: 2030-01-01T00:00:00Z
Seq: 2
""",
    """REFRESH DTCP/0.7
Csource-ID: NAME
Criteria-ID: 1,3-9
Timeout-Total: 600
Seq: 3
""",
    """LIST DTCP/0.7
Csource-ID: NAME
Flags:  BOTH
Seq: 4
""",
    """DELETE DTCP/0.7
Csource-ID: NAME
Criteria-ID: 0-18446744073709551615
Flags: STATIC
Seq: 5
""",
    """NOOP DTCP/0.6
Csource-ID: NAME
Flags: SendAsync
Seq: 6
""",
)
SEEDS: Final = (
    *(path.read_bytes().replace(b"\n", b"\r\n").partition(_DIGEST)[0] for path in _TRANSCRIPTS),
    *(text.replace("NAME", NAME).replace("\n", "\r\n").encode() for text in _CLIENTS),
)
"""Messages up to their digests: requests, answers and notifications."""

_REQUESTS: Final = tuple(seed for seed in SEEDS if b"Csource-ID" in seed and not seed.startswith(b"DTCP"))
_TOKENS: Final = (
    *(
        b"",
        b" ",
        b"\t",
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\0",
        b"\x7f",
        b"\xff",
        b"\xc3\x28",
        b"\xc3\xa9",
    ),
    *(
        b":",
        b": ",
        b",",
        b",,",
        b"-",
        b"!",
        b"*",
        b"!*",
        b"\\",
        b"\\000",
        b"\\255",
        b"\\044",
        b"/",
        b"/33",
        b"%25",
    ),
    *(
        b"0",
        b"-1",
        b"256",
        b"65536",
        b"4294967296",
        b"18446744073709551615",
        b"18446744073709551616",
        b"9" * 5_000,
    ),
    *(b"ipv6", b"ipv4", b"::", b"::/0", b"0.0.0.0/0", b"192.0.2.300", b"9-1", b"fe80::1%eth0", b"X" * 300),
    *(b"ADD ", b"LIST ", b"Redirect", b"SendAsync", b"STATIC", b"BLUE", b"eth0,eth9", b"ttp-md1", b"cd1,cd1"),
)
_LINES: Final = (
    *sorted({line for seed in SEEDS for line in seed.splitlines(keepends=True)}),
    *(b"Criteria-ID: 1-0\r\n", b"Csource-ID: nobody\r\n", b"X-Own: \xe2\x80\xa8\r\n", b"X-Own: a\\010b\r\n"),
    *(
        b"X-: \r\n",
        b": x\r\n",
        b" x\r\n",
        b"Colour: red\r\n",
        b"Timeout-Packets: 99999999999999999999\r\n",
        b"Action: Block\r\n",
    ),
    *(b"Timeout-Bytes: 99999999999999999999\r\n", b"Timeout-Idle: x\r\n", b"X-JTap-VRF-Name: BLUE\r\n"),
    *(b"X-FlowTap-Order-End: 9999-12-31T23:59:59+14:00\r\n", b"X-UserName: a\r\n", _DIGEST + b" 00\r\n"),
)
_VERSIONS: Final = (b"DTCP/0.6", b"DTCP/0.8", b"DTCP/0.9", b"DTCP/99999999999.1", b"dtcp/0.7", b"DTCP/0.07")


def _replaced(octets: bytearray, at: int, source: random.Random) -> bytearray:
    """Something else in the place of a few octets."""
    which = source.randrange(3)
    if which == 0:
        octets[at:at] = source.choice(_TOKENS)
    elif which == 1:
        octets[at : at + source.randrange(1, 9)] = source.choice(_TOKENS)
    else:
        octets[at : at + 1] = bytes([source.randrange(256)])
    return octets


def _shuffled(octets: bytearray, _at: int, source: random.Random) -> bytearray:
    """Other lines, or the same in another order."""
    lines: list[bytes] = bytes(octets).splitlines(keepends=True)
    if source.random() < 0.5:
        source.shuffle(lines)
        lines = lines[: source.randrange(len(lines) + 1)]
    else:
        lines.insert(source.randrange(1, len(lines) + 2), source.choice(_LINES))
    return bytearray(b"".join(lines))


def _revalued(octets: bytearray, at: int, source: random.Random) -> bytearray:
    """Another value behind a colon, or another version."""
    if source.random() < 0.2:
        return octets.replace(b"DTCP/0.7", source.choice(_VERSIONS))
    colon = octets.find(b": ", at)
    end = octets.find(b"\r\n", colon)
    if 0 <= colon < end:
        octets[colon + 2 : end] = source.choice(_TOKENS).strip(b"\r\n")
    return octets


def spoiled(source: random.Random) -> bytes:
    """A message, or several, that nearly are right; mostly signed, so that they are looked at further."""
    octets = bytearray(source.choice(SEEDS if source.random() < 0.5 else _REQUESTS))
    for _ in range(source.randrange(4)):
        spoil_it = source.choice((_replaced, _shuffled, _revalued, _revalued))
        octets = spoil_it(octets, source.randrange(len(octets) + 1), source)
    message = bytes(octets)
    if source.random() < 0.7:
        # Without them nothing else is looked at.
        for line in (f"Csource-ID: {NAME}\r\n".encode(), b"Seq: 9\r\n"):
            if b"\n" + line.partition(b":")[0] not in message:
                message = message.rstrip(b"\r\n") + b"\r\n" + line
    if source.random() < 0.9:
        message += f"Authentication-Info: {dtcp.authentication.digest(message, KEY)}\r\n".encode()
    if source.random() < 0.9:
        message += b"\r\n"
    return message + spoiled(source) if source.random() > 0.8 else message


class _Keys:
    def key_for(self, csource_id: str) -> dtcp.Key | None:
        return KEY if csource_id == NAME else None


class _Windows:
    def __init__(self) -> None:
        self._window = dtcp.SequenceWindow()

    def window_for(self, csource_id: str) -> dtcp.SequenceWindow | None:
        return self._window if csource_id == NAME else None


def _pieces(octets: bytes, source: random.Random) -> list[bytes]:
    """The octets, cut anywhere."""
    cuts = sorted(source.randrange(len(octets) + 1) for _ in range(source.randrange(9)))
    return [octets[first:last] for first, last in zip([0, *cuts], [*cuts, len(octets)], strict=True)]


def _ways(octets: bytes, source: random.Random) -> Iterator[list[bytes]]:
    """The same octets whole, in pieces of any length, and now and then one by one, which takes long."""
    yield [octets]
    yield _pieces(octets, source)
    if source.random() < ONE_BY_ONE:
        yield [octets[at : at + 1] for at in range(len(octets))]


# --- what has to hold ------------------------------------------------------------------------------


def events(pieces: list[bytes], *, strict: bool = False) -> Iterator[dtcp.Event]:
    """What a server's end makes of a stream that comes in these pieces."""
    sequences = _Windows() if strict else None
    connection = dtcp.ServerConnection(limits=LIMITS, keys=_Keys(), principal=NAME, sequences=sequences)
    for piece in pieces:
        connection.receive_data(piece)
        while (event := connection.next_event()) is not None:
            yield event


def check_server(octets: bytes, source: random.Random) -> None:
    """However a stream is cut, the same is read from it; what is answered can be read; the next request is served."""
    # An empty line ends what has not ended.
    stream = octets + b"\n\r\n" + AFTERWARDS
    strict = source.random() < 0.5
    whole, *others = [list(events(pieces, strict=strict)) for pieces in _ways(stream, source)]
    assert all(each == whole for each in others)
    last = whole[-1]
    if not strict:
        assert isinstance(last, dtcp.RequestReceived)
        assert last.request == dtcp.NoopRequest(dtcp.Version(0, 7), NAME, "77")
    for event in whole:
        if isinstance(event, dtcp.Rejected):
            assert event.status.is_silent
            assert event.reason.isascii()
        elif isinstance(event, dtcp.RequestRefused):
            _check_answer(event, event.error)


def _check_answer(event: dtcp.RequestReceived | dtcp.RequestRefused, result: dtcp.Result) -> None:
    response = dtcp.Response(event.version, event.seq, MOMENT, result)
    written = [render.render_response(response, each, KEY) for each in render.Dialect]
    written += render.render_datagrams(response, KEY, DATAGRAM_OCTETS)
    code = result.status.as_of(event.version) if isinstance(result, dtcp.ErrorResult) else dtcp.Status.OK
    for octets in written:
        reply = parse_reply(octets, KEY)
        assert (reply.code, reply.seq, reply.version) == (code, event.seq, event.version)
        assert not any(character < " " for line in octets.decode().split("\r\n") for character in line)


def check_client(octets: bytes, source: random.Random) -> None:
    """A client reads an answer or says that it cannot, however the stream is cut, and reads the next one."""

    def said(pieces: list[bytes]) -> list[dtcp.Reply | str]:
        client = dtcp.ClientConnection(key=KEY, limits=LIMITS)
        found: list[dtcp.Reply | str] = []
        for piece in pieces:
            client.receive_data(piece)
            while True:
                try:
                    reply = client.next_reply()
                except ReplyError as error:
                    found.append(str(error))
                    continue
                if reply is None:
                    break
                found.append(reply)
            assert client.pending_octets <= 2 * LIMITS.message_octets
        return found

    # An answer ends behind its digest.
    stream = octets + b"\n\r\n" + _DIGEST + b" 00\r\n\r\n" + ANSWERED
    whole, *others = [said(pieces) for pieces in _ways(stream, source)]
    assert all(each == whole for each in others)
    assert isinstance(whole[-1], dtcp.Reply)
    assert (whole[-1].code, whole[-1].seq) == (299, "77")


def check_datagram(octets: bytes, _source: random.Random) -> None:
    """A datagram is a request, one that is refused, or nothing; as an answer it is one or an error."""
    event = dtcp.read_request(octets, LIMITS, _Keys(), sequences=_Windows())
    if isinstance(event, dtcp.RequestRefused):
        _check_answer(event, event.error)
    with suppress(ReplyError):
        parse_reply(octets, KEY)


def check_grammar(octets: bytes, _source: random.Random) -> None:
    """What is no message at all is a fault with words, and a criteria file that is wrong names the line."""
    with suppress(SyntaxFault):
        codec.parse_request(codec.open_envelope(octets, LIMITS), LIMITS)
    text = octets.decode("utf-8", "replace")
    try:
        dtcp.parse_criteria_file(text, "file")
    except dtcp.CriteriaFileError as error:
        assert 1 <= error.line <= len(text.splitlines()) + 1
        assert str(error)


class Tasked:
    """A tap whose control plane is asked whatever can be read."""

    def __init__(self, directory: Path) -> None:
        self._scene = Scene(directory, max_criteria=50)
        policy = self._scene.control.policy
        md = policy.control_sources["md"]
        self._scene.control.apply_policy(
            type(policy)({NAME: type(md)(NAME, max_criteria=50)}, policy.content_destinations), now()
        )
        self._filters = FilterReader(PLACES)

    def check(self, octets: bytes, _source: random.Random) -> None:
        """Whatever is asked is answered, and what then runs can be listed."""
        event = dtcp.read_request(octets, LIMITS, _Keys())
        if not isinstance(event, dtcp.RequestReceived):
            return
        request = event.request
        if isinstance(request, dtcp.AddRequest):
            with suppress(FilterFault, ScopeFault):
                self._filters(request.filter, request.scope)
        result = self._scene.control.handle(principal(NAME), request, now())
        _check_answer(event, result)
        if isinstance(result, dtcp.AddResult):
            listing = dtcp.ListRequest(event.version, NAME, "1", stats=True)
            listed = self._scene.control.handle(principal(NAME), listing, now())
            assert isinstance(listed, dtcp.ListResult)
            response = dtcp.Response(event.version, "1", MOMENT, listed)
            reply = parse_reply(render.render_response(response, render.Dialect.VENDOR, KEY), KEY)
            assert len(reply.entries) == len(self._scene.running)

    def close(self) -> None:
        """Ends it."""
        self._scene.store.close()


CHECKS: Final[tuple[Callable[[bytes, random.Random], None], ...]] = (
    check_server,
    check_client,
    check_datagram,
    check_grammar,
)


class CaseError(Exception):
    """A case that something does not hold for."""


def spoil(seconds: float, first: int) -> int:
    """Looks at one case after the other for a while.

    Returns:
        How many there were.

    Raises:
        CaseError: One is wrong.
    """
    until = time.monotonic() + seconds
    number = first
    memory = Path("/dev/shm")  # noqa: S108 - where there is some
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        tap = Tasked(Path(directory))
        while time.monotonic() < until:
            source = random.Random(number)  # noqa: S311 - to be repeated
            octets = spoiled(source)
            try:
                for check in (*CHECKS, tap.check):
                    check(octets, source)
            except Exception as error:
                raise CaseError(f"case {number}: {octets!r}") from error
            number += 1
        tap.close()
    return number - first
