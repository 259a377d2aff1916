"""Measuring several things in turn, and what is said of them.

One thing after the other would compare a busy minute of the machine with a quiet one. In turn, each of them
gets its share of both.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

__all__ = ["Spread", "in_turn"]

Key = TypeVar("Key", bound="Hashable")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Spread:
    """What several rounds gave.

    Attributes:
        median: The middle one.
        least: The least one.
        most: The greatest one.
    """

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of one value or more."""
        return cls(statistics.median(values), min(values), max(values))

    @property
    def share(self) -> float:
        """How far apart the rounds are, as a part of the median."""
        return (self.most - self.least) / self.median if self.median else 0.0


def in_turn(
    cases: Mapping[Key, Callable[[], Value]],
    rounds: int,
    progress: Callable[[int, int], object] | None = None,
    *,
    limit_s: float = math.inf,
) -> dict[Key, list[Value]]:
    """Runs every case once in every round.

    Args:
        cases: What is measured.
        rounds: How often.
        progress: Told how many runs are done, and of how many.
        limit_s: No further round begins after so long; the first one is made whatever it takes.

    Returns:
        What each case gave, round by round.
    """
    values: dict[Key, list[Value]] = {key: [] for key in cases}
    total = rounds * len(cases)
    began = time.monotonic()
    for number in range(rounds):
        if number and time.monotonic() - began > limit_s:
            break
        for at, (key, run) in enumerate(cases.items()):
            if progress is not None:
                progress(number * len(cases) + at, total)
            values[key].append(run())
    return values
