"""The audit log as a chain: every record carries the hash of the one before it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

__all__ = ["FIRST_HASH", "AuditRecord", "AuditRow", "ChainError", "chain_hash", "verify"]

_ENCODE: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode
FIRST_HASH: Final = "0" * 64
"""What the first record carries as the hash before it."""


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One act.

    Attributes:
        when: Wall time.
        event: ``start``, ``stop``, ``refuse`` or ``restart``.
        login: Who asked; empty for the tap itself.
        csource_id: The control source.
        criteria_id: The criterion, None where none came to be.
        detail: What was asked and why it ended so, as text pairs. Never payload.
    """

    when: datetime
    event: str
    login: str
    csource_id: str
    criteria_id: int | None
    detail: tuple[tuple[str, str], ...] = ()

    def canonical(self) -> str:
        """The record as one line of text that depends on nothing but its values."""
        values = {
            "when": self.when.isoformat(),
            "event": self.event,
            "login": self.login,
            "csource_id": self.csource_id,
            "criteria_id": self.criteria_id,
            "detail": [list(pair) for pair in self.detail],
        }
        return _ENCODE(values)


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One stored record: its number, its canonical text, its hash."""

    number: int
    text: str
    hash: str


class ChainError(Exception):
    """An audit log that was changed.

    Attributes:
        number: The first record that does not fit.
    """

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"audit record {number}: {reason}")
        self.number = number


def chain_hash(previous: str, number: int, text: str) -> str:
    """The hash of a record: SHA-256 over the hash before it, its number and its text."""
    return hashlib.sha256(f"{previous}\n{number}\n{text}".encode()).hexdigest()


def verify(rows: Iterable[AuditRow]) -> int:
    """Checks a chain from its first record on.

    Returns:
        How many records there are.

    Raises:
        ChainError: A record is missing or was changed.
    """
    previous = FIRST_HASH
    count = 0
    for expected, row in enumerate(rows, start=1):
        if row.number != expected:
            raise ChainError(expected, "is missing")
        if row.hash != chain_hash(previous, row.number, row.text):
            raise ChainError(row.number, "was changed")
        previous = row.hash
        count = expected
    return count
