"""Sequence numbers of a client; a tap that checks them believes no number twice [DTCP §4.4.1]."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from flowtap.errors import FlowtapError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["NumbersError", "SequenceNumbers"]

_MODULUS: Final = 2**64


class NumbersError(FlowtapError):
    """A file of sequence numbers that cannot be used."""


class SequenceNumbers:
    """One number after the other, each on disk before it is used.

    Args:
        path: Where the last number is kept; None where nobody checks.
        first: The first number where nothing is kept yet.

    Raises:
        NumbersError: The file holds no number, or cannot be read.
    """

    def __init__(self, path: Path | None = None, *, first: int = 1) -> None:
        self._path = path
        self._last = (first - 1) % _MODULUS
        if path is not None:
            self._last = self._read(path, self._last)

    @staticmethod
    def _read(path: Path, otherwise: int) -> int:
        try:
            text = path.read_text().strip()
        except FileNotFoundError:
            return otherwise
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "is not text"
            raise NumbersError(f"{path}: cannot be read: {reason}") from None
        if not (text.isdecimal() and text.isascii() and int(text) < _MODULUS):
            raise NumbersError(f"{path}: one number from 0 to 2^64-1 is right")
        return int(text)

    def next(self) -> int:
        """The next number.

        Raises:
            NumbersError: It cannot be kept.
        """
        number = (self._last + 1) % _MODULUS
        if self._path is not None:
            beside = self._path.with_name(f"{self._path.name}.new")
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with beside.open("w") as writing:
                    writing.write(f"{number}\n")
                    writing.flush()
                    os.fsync(writing.fileno())
                beside.replace(self._path)
            except OSError as error:
                raise NumbersError(f"{self._path}: cannot be written: {error.strerror}") from None
        self._last = number
        return number
