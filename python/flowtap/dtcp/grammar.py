r"""The lexical rules: start lines, parameters, numbers, names, lists, flags, times [DTCP §8]."""

from __future__ import annotations

import re
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from flowtap.dtcp.messages import IdRange, Parameter, Version
from flowtap.dtcp.status import Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowtap.dtcp.limits import Limits

__all__ = [
    "ID_MAX",
    "OFFENDING_LINE",
    "SyntaxFault",
    "address_list",
    "format_time",
    "id_list",
    "id_list_text",
    "name_list",
    "name_list_text",
    "number",
    "parameter",
    "parse_time",
    "present",
    "request_line",
    "response_line",
    "split_lines",
    "words",
]

ID_MAX = 2**64 - 1
"""The highest id that a list can name; ``*`` as an upper end means it."""

OFFENDING_LINE = "X-Error-Line"
"""Parameter of an answer: a line of the request that could not be read at all [DTCP §6.2]."""

_REQUEST_LINE = re.compile(r"([!-~]+)[ \t]+DTCP/(\d{1,4})\.(\d{1,4})[ \t]*", re.IGNORECASE | re.ASCII)
_RESPONSE_LINE = re.compile(
    r"DTCP/(\d{1,4})\.(\d{1,4})[ \t]+(\d{3})(?:[ \t]+(.*))?", re.IGNORECASE | re.ASCII
)
_PARAMETER = re.compile(r"([!-9;-~]+)[ \t]*:([^\x00-\x08\x0a-\x1f\x7f]*)")
_NAME = re.compile(r"(?:[!-+\--\[\]-~]|\\[0-9]{3})+")
_ESCAPE = re.compile(rb"\\([0-9]{3})")
_SPECIAL = re.compile(rb"[^!-+\--\[\]-~]")
_TIME_FORMAT = "%Y-%m-%d %H:%M:%S.%f"


class SyntaxFault(Exception):  # noqa: N818 - it never leaves this package
    """A message, authentic or not, that is wrong.

    Attributes:
        status: The code that answers it.
        info: What is wrong, where, and what would be right.
        parameters: The parameters concerned, as they were given.
    """

    def __init__(self, info: str, *parameters: Parameter, status: Status = Status.BAD_REQUEST) -> None:
        super().__init__(info)
        self.status = status
        self.info = info
        self.parameters = parameters


def split_lines(message: bytes) -> list[str]:
    """The lines of a message without their ends; octets above 0x7E become replacement characters."""
    return [line.rstrip("\r") for line in message.decode("utf-8", "replace").split("\n")]


def request_line(line: str) -> tuple[str, Version]:
    """Reads ``METHOD DTCP/major.minor``.

    Raises:
        SyntaxFault: It is something else.
    """
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise SyntaxFault(
            "line 1: a request begins with a method and a version: ADD DTCP/0.7",
            Parameter(OFFENDING_LINE, line, 1),
        )
    return match[1].upper(), Version(int(match[2]), int(match[3]))


def response_line(line: str) -> tuple[Version, int, str]:
    """Reads ``DTCP/major.minor CODE reason``.

    Raises:
        SyntaxFault: It is something else.
    """
    match = _RESPONSE_LINE.fullmatch(line)
    if match is None:
        raise SyntaxFault("line 1: a response begins with a version and a code: DTCP/0.7 200 OK")
    return Version(int(match[1]), int(match[2])), int(match[3]), (match[4] or "").strip()


def parameter(line: str, number_of_line: int) -> Parameter:
    """Reads ``Name: value``; blanks around the colon and the value do not belong to either.

    Raises:
        SyntaxFault: There is no name or no colon, or the value has control characters.
    """
    match = _PARAMETER.fullmatch(line)
    if match is None:
        raise SyntaxFault(f"line {number_of_line}: a parameter has the form Name: value")
    return Parameter(match[1], match[2].strip(" \t"), number_of_line)


def present(*parameters: Parameter | None) -> tuple[Parameter, ...]:
    """Those parameters that were given."""
    return tuple([given for given in parameters if given is not None])


def number(given: Parameter, highest: int) -> int:
    """Reads an unsigned decimal number up to ``highest``.

    Raises:
        SyntaxFault: It is none, or too large.
    """
    text = given.value
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(highest))):
        info = f"{given.name}: a decimal number from 0 to {highest} is right"
        raise SyntaxFault(info, given)
    value = int(text)
    if value > highest:
        raise SyntaxFault(f"{given.name}: at most {highest} is right", given)
    return value


def _elements(given: Parameter) -> list[str]:
    """Splits at commas; one blank may follow each."""
    first, *others = given.value.split(",")
    return [first, *(element.removeprefix(" ") for element in others)]


def name_list(given: Parameter, limits: Limits) -> tuple[str, ...]:
    r"""Reads names; ``\ddd`` stands for the octet of that number, which then separates nothing.

    Raises:
        SyntaxFault: A name is empty, too long, or has characters that names cannot have.
    """
    names = tuple(_elements(given))
    for name in names:
        if not _NAME.fullmatch(name) or len(name) > limits.name_octets:
            info = (
                f"{given.name}: names of 1 to {limits.name_octets} printable characters without"
                " blanks, separated by commas, are right"
            )
            raise SyntaxFault(info, given)
    return tuple(_unescaped(given, name) for name in names)


def _unescaped(given: Parameter, name: str) -> str:
    """The text that a name stands for; names go into logs and tables, so it must be printable."""
    try:
        octets = _ESCAPE.sub(lambda match: bytes([int(match[1])]), name.encode("ascii"))
        text = octets.decode("utf-8")
    except ValueError:
        text = ""
    if not text or not text.isprintable():
        info = f"{given.name}: escapes that stand for UTF-8 text without control characters are right"
        raise SyntaxFault(info, given)
    return text


def name_list_text(names: Sequence[str]) -> str:
    """Writes names as `name_list` reads them."""

    def escaped(name: str) -> bytes:
        if name.isalnum() and name.isascii():
            return name.encode("ascii")
        octets = name.encode("utf-8", "replace")
        return _SPECIAL.sub(lambda match: b"\\%03d" % match[0][0], octets)

    return b",".join(map(escaped, names)).decode("ascii")


def id_list(given: Parameter, limits: Limits) -> tuple[IdRange, ...]:
    """Reads criteria ids: ``N``, ``N-N``, ``N-*``, ``*-N`` and ``*``, separated by commas.

    Raises:
        SyntaxFault: An element is none of these, a range is the wrong way round, or there are too many.
    """
    elements = _elements(given)
    if len(elements) > limits.list_elements:
        info = f"{given.name}: lists of more than {limits.list_elements} elements are not implemented"
        raise SyntaxFault(info, given, status=Status.NOT_IMPLEMENTED)
    return tuple(_id_range(given, element) for element in elements)


def _id_range(given: Parameter, element: str) -> IdRange:
    if element == "*":
        return IdRange(0, ID_MAX, single=False)
    first, dash, last = element.partition("-")
    if not dash:
        value = _id(given, element)
        return IdRange(value, value, single=True)
    lower = 0 if first == "*" else _id(given, first)
    upper = ID_MAX if last == "*" else _id(given, last)
    if lower > upper or (first, last) == ("*", "*"):
        info = f"{given.name}: in a range the lower id comes first; * alone means all"
        raise SyntaxFault(info, given)
    return IdRange(lower, upper, single=False)


def _id(given: Parameter, text: str) -> int:
    try:
        return number(Parameter(given.name, text), ID_MAX)
    except SyntaxFault as fault:
        # What is named as wrong is the parameter as it was given.
        raise SyntaxFault(fault.info, given) from None


def id_list_text(ids: Sequence[IdRange]) -> str:
    """Writes criteria ids as `id_list` reads them."""

    def end(value: int, open_end: int) -> str:
        return "*" if value == open_end else str(value)

    def element(ids: IdRange) -> str:
        if ids.single:
            return str(ids.first)
        if (ids.first, ids.last) == (0, ID_MAX):
            return "*"
        return f"{end(ids.first, 0)}-{end(ids.last, ID_MAX)}"

    return ",".join(map(element, ids))


def words(given: Parameter) -> tuple[str, ...]:
    """Reads flags: words separated by commas, in lower case."""
    return tuple(element.strip().lower() for element in given.value.split(","))


def address_list(given: Parameter) -> tuple[IPv4Address | IPv6Address, ...]:
    """Reads addresses separated by commas.

    Raises:
        SyntaxFault: One is no address; the code is that of vendor parameters [DTCP App. B].
    """
    try:
        addresses = tuple(ip_address(element) for element in _elements(given))
    except ValueError:
        addresses = ()
    # A zone means something on one host only.
    if not addresses or any(getattr(address, "scope_id", None) for address in addresses):
        info = f"{given.name}: IPv4 or IPv6 addresses without zones, separated by commas, are right"
        raise SyntaxFault(info, given, status=Status.JTAP_FAILURE)
    return addresses


def format_time(moment: datetime) -> str:
    """Writes a time with milliseconds and without a zone [DTCP §8]."""
    return moment.replace(tzinfo=None).isoformat(" ", "milliseconds")


def parse_time(text: str) -> datetime | None:
    """Reads a time as `format_time` writes it; None for anything else."""
    try:
        return datetime.strptime(text, _TIME_FORMAT)  # noqa: DTZ007 - the protocol has no zone
    except ValueError:
        return None
