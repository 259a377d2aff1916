"""Which sequence numbers are new: a window ahead of the highest one, and one behind it [DTCP §4.4.1].

A number up to 256 ahead becomes the highest; one up to 256 behind is accepted once, because several
requests may be under way at a time. Numbers have 64 bits and go round.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

__all__ = ["WINDOW", "SequenceStep", "SequenceWindow"]

WINDOW: Final = 256
"""How far ahead, and how far behind, a number may be."""
_MODULUS: Final = 2**64
_ALL_SEEN: Final = (1 << WINDOW) - 1


class SequenceStep(Enum):
    """What a number that was accepted did."""

    FIRST = "first"
    AHEAD = "ahead"
    BEHIND = "behind"
    ROLLED_OVER = "rolled over"


class SequenceWindow:
    """The numbers of one control source.

    Args:
        highest: The highest number of an earlier run; everything behind it counts as seen. None where
            there is none: then the first number may be any.
    """

    def __init__(self, highest: int | None = None) -> None:
        self.highest = highest
        # Bit n stands for the number n + 1 behind the highest one.
        self._seen = 0 if highest is None else _ALL_SEEN

    def accept(self, number: int) -> SequenceStep | None:
        """Takes a number from an authentic message.

        Returns:
            None where it was seen before or lies outside both windows: such a message gets no answer.
        """
        if self.highest is None:
            self.highest = number
            return SequenceStep.FIRST
        ahead = (number - self.highest) % _MODULUS
        if 1 <= ahead <= WINDOW:
            # The old highest number is `ahead` behind the new one now.
            self._seen = ((self._seen << ahead) | (1 << (ahead - 1))) & _ALL_SEEN
            rolled_over = number < self.highest
            self.highest = number
            return SequenceStep.ROLLED_OVER if rolled_over else SequenceStep.AHEAD
        behind = (self.highest - number) % _MODULUS
        bit = 1 << (behind - 1) if 1 <= behind <= WINDOW else 0
        if not bit or self._seen & bit:
            return None
        self._seen |= bit
        return SequenceStep.BEHIND
