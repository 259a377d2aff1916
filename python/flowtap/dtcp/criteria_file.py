"""Criteria files: DTCP ADD requests as text, one empty line between requests, LF or CRLF.

This is what the vendor's own command-line client reads. Only the start line is required; Csource-ID,
Seq and Authentication-Info are not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowtap.dtcp import codec, grammar
from flowtap.dtcp.grammar import SyntaxFault
from flowtap.dtcp.limits import Limits
from flowtap.errors import FlowtapError

if TYPE_CHECKING:
    from flowtap.dtcp.messages import Delivery, FilterText, Parameter, Scope, Timeouts

__all__ = ["CriteriaFileEntry", "CriteriaFileError", "parse_criteria_file"]

_NAMES = frozenset(
    {
        *codec.FILTER_PARAMETERS,
        *codec.TIMEOUT_PARAMETERS,
        "action",
        "priority",
        "flags",
        "cdest-id",
        "ipversion",
        "csource-id",
        "seq",
        "authentication-info",
    }
)


class CriteriaFileError(FlowtapError):
    """A criteria file that cannot be used.

    Attributes:
        path: The file.
        line: The line, 1 for the first.
    """

    def __init__(self, path: str, line: int, info: str) -> None:
        super().__init__(f"{path}, line {line}: {info}")
        self.path = path
        self.line = line


@dataclass(frozen=True, slots=True)
class CriteriaFileEntry:
    """One ADD of a criteria file.

    Attributes:
        id: Its number, 1 for the first.
        line: Where it begins.
        cdest_ids: Content destinations; empty where none is named.
        filter: What it matches.
        scope: Where it is asked.
        timeouts: What ends it; nothing where none is given, and with the flag Static.
        deliveries: Outer headers, one for each content destination, or none.
        lines: Line in the file of every parameter, by its lower-case name.
    """

    id: int
    line: int
    cdest_ids: tuple[str, ...]
    filter: FilterText
    scope: Scope
    timeouts: Timeouts
    deliveries: tuple[Delivery, ...]
    lines: dict[str, int]


def parse_criteria_file(text: str, path: str) -> list[CriteriaFileEntry]:
    """Reads a criteria file.

    Args:
        text: What it holds.
        path: Its name, for messages.

    Returns:
        The criteria, numbered in their order.

    Raises:
        CriteriaFileError: A line cannot be read, or what it says cannot be.
    """
    entries: list[CriteriaFileEntry] = []
    block: list[tuple[int, str]] = []
    for at, line in enumerate([*text.split("\n"), ""], start=1):
        stripped = line.rstrip("\r").rstrip()
        if stripped:
            block.append((at, stripped))
        elif block:
            entries.append(_entry(block, len(entries) + 1, path))
            block = []
    if not entries:
        raise CriteriaFileError(path, 1, "no request; at least one, such as ADD DTCP/0.7, is right")
    return entries


def _entry(block: list[tuple[int, str]], number: int, path: str) -> CriteriaFileEntry:
    start, first = block[0]
    try:
        method, version = grammar.request_line(first)
    except SyntaxFault:
        info = "a request begins with a method and a version: ADD DTCP/0.7"
        raise CriteriaFileError(path, start, info) from None
    if method != "ADD":
        raise CriteriaFileError(path, start, f"{method} cannot stand here; only ADD is right")
    if version not in codec.VERSIONS:
        raise CriteriaFileError(path, start, f"{version} is not known; DTCP/0.6 to DTCP/0.8 are")
    given: dict[str, Parameter] = {}
    at = start
    try:
        for at, line in block[1:]:
            each = grammar.parameter(line, at)
            name = each.name.lower()
            if name not in _NAMES and not name.startswith("x-"):
                raise SyntaxFault(f"ADD has no parameter {each.name}", each)
            given.setdefault(name, each)
        # What follows is about the request as a whole where it names no parameter.
        at = start
        flags = codec.flags(given, codec.ADD_FLAGS)
        codec.priority(given)
        parts = codec.add_parts(given, Limits(), version, needs_destination=False)
    except SyntaxFault as fault:
        line_of_fault = fault.parameters[0].line if fault.parameters else at
        info = fault.info.removeprefix(f"line {at}: ")
        raise CriteriaFileError(path, line_of_fault or at, info) from None
    return CriteriaFileEntry(
        id=number,
        line=start,
        cdest_ids=parts.cdest_ids,
        filter=parts.filter,
        scope=parts.scope,
        timeouts=type(parts.timeouts)() if "static" in flags else parts.timeouts,
        deliveries=parts.deliveries,
        lines={name: each.line for name, each in given.items()},
    )
