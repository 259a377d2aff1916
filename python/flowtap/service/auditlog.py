"""The audit log for readers: of a store that may be in use, without changing anything in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sql
from sqlalchemy.exc import SQLAlchemyError

from flowtap.control.audit import AuditRow
from flowtap.errors import FlowtapError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["AnchorError", "AuditLogError", "check_anchors", "read_audit_log"]

_PAGE_ROWS: Final = 1_000
_QUERY: Final = sql.text(
    "SELECT number, text, hash FROM audit WHERE number > :after ORDER BY number LIMIT :rows"
)
_FIELDS: Final = 3


class AuditLogError(FlowtapError):
    """A store whose audit log cannot be read."""


class AnchorError(Exception):
    """An anchor that the audit log does not fit."""


def read_audit_log(path: Path) -> Iterator[AuditRow]:
    """Reads the audit log from its first record on.

    Raises:
        AuditLogError: It cannot be read.
    """
    if not path.is_file():
        raise AuditLogError(f"{path}: no such store; --store names it")
    engine = sql.create_engine(sql.URL.create("sqlite", database=f"file:{_quoted(path)}", query=_READ_ONLY))
    after = 0
    try:
        while True:
            with engine.connect() as connection:
                rows = connection.execute(_QUERY, {"after": after, "rows": _PAGE_ROWS}).all()
            if not rows:
                return
            yield from (AuditRow(row.number, row.text, row.hash) for row in rows)
            after = rows[-1].number
    except SQLAlchemyError:
        raise AuditLogError(f"{path}: is no store whose audit log can be read") from None
    finally:
        engine.dispose()


_READ_ONLY: Final = {"mode": "ro", "uri": "true"}


def _quoted(path: Path) -> str:
    """A path as SQLite's own addresses want it."""
    from urllib.parse import quote  # noqa: PLC0415 - one function of it

    return quote(str(path.resolve()))


def check_anchors(path: Path, rows: Sequence[AuditRow]) -> int:
    """Holds the audit log against anchors that were kept elsewhere.

    Returns:
        How many there are.

    Raises:
        AnchorError: A record that an anchor names is not there, or is another one.
        AuditLogError: The file cannot be read.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text"
        raise AuditLogError(f"{path}: cannot be read: {reason}") from None
    for at, line in enumerate(lines, start=1):
        words = line.split()
        if len(words) != _FIELDS or not words[1].isdecimal():
            raise AuditLogError(f"{path}, line {at}: time, number and hash are right")
        number = int(words[1])
        if number > len(rows):
            raise AnchorError(f"record {number} of {words[0]} is missing")
        if rows[number - 1].hash != words[2]:
            raise AnchorError(f"record {number} of {words[0]} is another one")
    return len(lines)
