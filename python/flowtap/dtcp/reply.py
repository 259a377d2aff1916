"""Responses as a client reads them, in both dialects, whatever codes a server knows [DTCP §6.1, §8]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowtap.dtcp import authentication, grammar
from flowtap.dtcp.grammar import SyntaxFault

if TYPE_CHECKING:
    from flowtap.dtcp.authentication import Key
    from flowtap.dtcp.messages import Parameter, Version

__all__ = ["Reply", "ReplyError", "parse_reply"]

_ENTRY_STARTS = frozenset({"criteria-count", "criteria-num", "criteria-id"})
_TAIL = frozenset({"seq", "authentication-info"})


class ReplyError(Exception):
    """A response that cannot be read or is not authentic."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One response.

    Attributes:
        version: As in the status line.
        code: The status code; unknown ones are to be understood by their first digit.
        reason: The reason phrase.
        seq: The request's sequence number; None in notifications.
        parameters: Parameters that belong to no LIST entry, in their order.
        entries: LIST entries, each with its parameters in their order.
    """

    version: Version
    code: int
    reason: str
    seq: str | None
    parameters: tuple[Parameter, ...]
    entries: tuple[tuple[Parameter, ...], ...]

    @property
    def is_success(self) -> bool:
        """Whether the code is of the class of successes."""
        return 200 <= self.code < 300  # noqa: PLR2004 - the class is the first digit

    def value(self, name: str) -> str | None:
        """The value of a parameter outside the entries, None where there is none."""
        for given in self.parameters:
            if given.name.lower() == name.lower():
                return given.value
        return None


def parse_reply(message: bytes, key: Key) -> Reply:
    """Reads a response after its digest has been checked.

    Args:
        message: The whole message.
        key: The shared secret.

    Raises:
        ReplyError: The digest is missing or wrong, or the text is no response.
    """
    text, given = authentication.split(message)
    if given is None or not authentication.authenticate(text, given, key):
        raise ReplyError("the reply's Authentication-Info is missing or wrong")
    first, *lines = grammar.split_lines(text.removesuffix(b"\n"))
    try:
        version, code, reason = grammar.response_line(first)
        blocks = _blocks(lines)
    except SyntaxFault as fault:
        raise ReplyError(fault.info) from None
    seq = None
    parameters: list[Parameter] = []
    entries: list[tuple[Parameter, ...]] = []
    is_list = any(_is_numbered(block) for block in blocks)
    for block in blocks:
        for each in block:
            if each.name.lower() == "seq":
                seq = each.value
        rest = [each for each in block if each.name.lower() not in _TAIL]
        if is_list and _is_numbered(block):
            entries.append(tuple(rest))
        else:
            parameters += rest
    return Reply(version, code, reason, seq, tuple(parameters), tuple(entries))


def _is_numbered(block: list[Parameter]) -> bool:
    """Whether a block is a LIST entry: only those carry a number of their own."""
    return any(each.name.lower() == "criteria-num" for each in block)


def _blocks(lines: list[str]) -> list[list[Parameter]]:
    """Cuts at empty lines, and before a parameter that begins an entry when one has begun already.

    Servers differ in whether entries are separated by empty lines; what never happens is that one
    entry has two of the same kind.
    """
    blocks: list[list[Parameter]] = [[]]
    for at, line in enumerate(lines, start=2):
        if not line:
            blocks.append([])
            continue
        given = grammar.parameter(line, at)
        name = given.name.lower()
        names = {each.name.lower() for each in blocks[-1]}
        begins = name in _ENTRY_STARTS and not names & _ENTRY_STARTS
        repeats = name in names and not name.startswith("x-")
        if names and (begins or repeats or name == "seq"):
            blocks.append([])
        blocks[-1].append(given)
    return blocks
