"""From the text of a JUNOS configuration to words, strings and brackets, each with its place."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from flowtap.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["TEXT_OCTETS_MAX", "WORD_CHARACTERS_MAX", "JunosError", "Token", "decode", "tokenize"]

TEXT_OCTETS_MAX: Final = 32 << 20
"""Routers with the longest configurations that are known of have a quarter of this."""
WORD_CHARACTERS_MAX: Final = 65_536
"""A certificate inside quotation marks has some thousands."""

Kind = Literal["word", "string", "{", "}", "[", "]", ";"]

_BLANKS: Final = re.compile(r"[ \t\r\n\f]+")
_WORD: Final = re.compile(r'[^\s{}\[\];"]+')
# Within quotation marks a backslash protects what follows; nothing is tried twice.
_STRING: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_ESCAPED: Final = re.compile(r'\\(["\\])')
_LONE_RETURN: Final = re.compile(r"\r(?!\n)")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")


class JunosError(ConfigurationError):
    """A JUNOS configuration that cannot be read.

    Attributes:
        line: Where, counted from 1.
        column: Where in the line, in characters from 1.
        reason: What is wrong and what would be right, without the place.
    """

    def __init__(self, reason: str, line: int, column: int) -> None:
        super().__init__(f"{line}:{column}: {reason}", key=f"{line}:{column}")
        self.reason = reason
        self.line = line
        self.column = column


class Token(NamedTuple):
    """A word or a bracket.

    Attributes:
        kind: A word as it stands, one that stood in quotation marks, or the bracket itself.
        text: Without quotation marks and their escapes.
        line: Where it begins, counted from 1.
        column: Where it begins, in characters from 1.
        last_line: The line in which it ends; only a string can have several.
    """

    kind: Kind
    text: str
    line: int
    column: int
    last_line: int


def decode(content: bytes) -> str:
    """The text of a file.

    Raises:
        JunosError: It is too long, is not UTF-8, or holds control characters or lone carriage returns.
    """
    if len(content) > TEXT_OCTETS_MAX:
        reason = f"more than {TEXT_OCTETS_MAX:,} octets; leave out what is not about flow-tap"
        raise JunosError(reason, 1, 1)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8-sig", "replace")
        raise JunosError("is not UTF-8 text", *_place(before)) from None
    if found := _CONTROL.search(text):
        reason = f"a control character (0x{ord(found[0]):02X}); plain text is right"
        raise JunosError(reason, *_place(text[: found.start()]))
    if found := _LONE_RETURN.search(text):
        # A comment would go on to the end of the text, and hide what is in the lines below it.
        reason = "a carriage return without a line feed behind it; LF or CRLF is right at the end of a line"
        raise JunosError(reason, *_place(text[: found.start()]))
    return text


def _place(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - before.rfind("\n")


class _Cursor:
    """Knows line and column of a position that only goes forward."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._line_begin = 0

    def place(self, position: int) -> tuple[int, int]:
        passed = self._text.count("\n", self._at, position)
        if passed:
            self._line += passed
            self._line_begin = self._text.rfind("\n", self._at, position) + 1
        self._at = position
        return self._line, position - self._line_begin + 1


def tokenize(text: str) -> Iterator[Token]:
    """Reads words, strings and brackets; comments and blanks separate them and are left out.

    Raises:
        JunosError: A comment or a string has no end, a word is too long, or something stands without a
            blank beside a string or a comment.
    """
    cursor = _Cursor(text)
    at = 0
    needs_blank = False
    while at < len(text):
        if blanks := _BLANKS.match(text, at):
            at = blanks.end()
            needs_blank = False
            continue
        line, column = cursor.place(at)
        first = text[at]
        if first == "#" or text.startswith("/*", at):
            at = _behind_comment(text, at, line, column)
            needs_blank = False
            continue
        if first in "{}[];":
            yield Token(first, first, line, column, line)  # type: ignore[arg-type]
            at += 1
            needs_blank = False
            continue
        match = (_STRING if first == '"' else _WORD).match(text, at)
        if match is None:
            reason = (
                'a string without an end; " is right where it ends'
                if first == '"'
                else f"{first!r} stands here; a word, a string or a bracket is right"
            )
            raise JunosError(reason, line, column)
        if needs_blank:
            raise JunosError("a blank is missing before this word", line, column)
        yield _word(match[0], line, column)
        at = match.end()
        needs_blank = True


def _behind_comment(text: str, at: int, line: int, column: int) -> int:
    if text[at] == "#":
        end = text.find("\n", at)
        return len(text) if end < 0 else end
    end = text.find("*/", at + 2)
    if end < 0:
        raise JunosError("a comment without an end; */ is right where it ends", line, column)
    return end + 2


def _word(text: str, line: int, column: int) -> Token:
    if len(text) > WORD_CHARACTERS_MAX:
        reason = f"a word of {len(text):,} characters; at most {WORD_CHARACTERS_MAX:,} are read"
        raise JunosError(reason, line, column)
    if text.startswith('"'):
        return Token("string", _ESCAPED.sub(r"\1", text[1:-1]), line, column, line + text.count("\n"))
    # Wildcards of groups (<ge-*/*>) look like comments and are none.
    if "/*" in text and not text.startswith("<"):
        reason = "/* inside a word; a blank before the comment, or quotation marks around the word, are right"
        raise JunosError(reason, line, column)
    return Token("word", text, line, column, line)
