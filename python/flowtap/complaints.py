"""Log lines that anybody can cause: few in a second, and how many were left out."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = ["Complaints"]

LINES_PER_S: Final = 50
"""Lines in a second, whoever causes them: addresses can be made up."""


class Complaints:
    """Warnings about peers, one in a second about the same.

    Args:
        log: Where they go.
        monotonic_s: Says how late it is.
    """

    def __init__(self, log: logging.Logger, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._monotonic_s = monotonic_s
        self._second = 0
        self._said: set[Hashable] = set()
        self._left_out = 0

    def warning(self, about: Hashable, text: str, *args: object) -> None:
        """Logs a warning unless there was one about the same in this second, or too many about others.

        Args:
            about: What is not said twice: a peer, with the kind of complaint where there are several.
            text: As for a logger.
            args: As for a logger.
        """
        self._say(logging.WARNING, about, text, *args)

    def info(self, about: Hashable, text: str, *args: object) -> None:
        """The same for good news that anybody can cause as often."""
        self._say(logging.INFO, about, text, *args)

    def _say(self, level: int, about: Hashable, text: str, *args: object) -> None:
        second = int(self._monotonic_s())
        if second != self._second:
            self._second = second
            self._said.clear()
        if about in self._said or len(self._said) >= LINES_PER_S:
            self._left_out += 1
            return
        self._said.add(about)
        if self._left_out:
            self._log.warning("%d warnings before this one were left out", self._left_out)
            self._left_out = 0
        self._log.log(level, text, *args)
