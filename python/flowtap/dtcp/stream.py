"""Finds messages in a stream of octets: lines, ended by an empty one, in bounded memory [DTCP §8]."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowtap.dtcp.limits import Limits

__all__ = ["MessageReader"]

_END = re.compile(rb"\n\r?\n")
_EMPTY = (b"\n", b"\r\n")


class MessageReader:
    """Cuts a stream into messages, whatever pieces it comes in.

    A message ends with an empty line; lines end with CRLF, or with LF alone as some clients write
    them. Empty lines in front of a message are skipped. What is longer than the limits is skipped to
    the next empty line and reported once, as None.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._messages: deque[bytes | None] = deque()
        self._message = bytearray()
        self._line_start = 0
        self._lines = 0
        self._skipping = False

    def feed(self, data: bytes) -> None:
        """Takes the next piece of the stream."""
        at_start = not (self._message or self._skipping)
        for piece in _lines(data[self._take_whole(data) :] if at_start else data):
            self._take(piece)

    def _take_whole(self, data: bytes) -> int:
        """Takes what is whole and within the limits at once; line by line comes to the same and is slower.

        Returns:
            Where it stopped.
        """
        start = 0
        while (end := _END.search(data, start)) is not None and not data.startswith(_EMPTY, start):
            message = data[start : end.end()]
            lines = message.count(b"\n") - 1
            if len(message) > self._limits.message_octets or lines > self._limits.lines:
                break
            self._messages.append(message)
            start = end.end()
        return start

    def next_message(self) -> bytes | None:
        """The next whole message, its final empty line included.

        Returns:
            None in place of a message that was too long.

        Raises:
            LookupError: There is none yet.
        """
        if not self._messages:
            raise LookupError
        return self._messages.popleft()

    @property
    def pending_octets(self) -> int:
        """Octets of a message that is not whole yet."""
        return len(self._message)

    def _take(self, piece: bytes) -> None:
        self._message += piece
        if not piece.endswith(b"\n"):
            self._bound()
            return
        line = bytes(self._message[self._line_start :])
        self._line_start = len(self._message)
        if line in {b"\n", b"\r\n"}:
            self._end()
            return
        self._lines += 1
        self._bound()

    def _bound(self) -> None:
        """Lets go of a message that is too long, but of its last octets, which may begin the end."""
        too_long = len(self._message) > self._limits.message_octets
        if too_long or self._lines > self._limits.lines or self._skipping:
            self._skipping = True
            rest = self._message[self._line_start :]
            # Of an unfinished line two octets tell whether it will be empty.
            self._message = rest[:2]
            self._line_start = 0

    def _end(self) -> None:
        if self._skipping:
            self._messages.append(None)
        elif self._lines > 0:
            self._messages.append(bytes(self._message))
        self._message.clear()
        self._line_start = 0
        self._lines = 0
        self._skipping = False


def _lines(data: bytes) -> list[bytes]:
    """Splits after every LF and nowhere else; ``bytes.splitlines`` also splits after a lone CR."""
    pieces = data.split(b"\n")
    lines = [piece + b"\n" for piece in pieces[:-1]]
    if pieces[-1]:
        lines.append(pieces[-1])
    return lines
