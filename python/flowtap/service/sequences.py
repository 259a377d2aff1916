"""Sequence numbers of all control sources: kept in the store, one window each for every way in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowtap.dtcp import SequenceWindow

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SequenceState", "StrictOnly"]


class SequenceState:
    """The windows of all control sources, for peers whose numbers are checked.

    Args:
        highest: The highest numbers of earlier runs.
    """

    def __init__(self, highest: Mapping[str, int]) -> None:
        self._windows = {name: SequenceWindow(number) for name, number in highest.items()}

    def window_for(self, csource_id: str) -> SequenceWindow | None:
        """The numbers of a control source."""
        return self._windows.setdefault(csource_id, SequenceWindow())

    def highest(self, csource_id: str) -> int | None:
        """The highest number of a control source; None where it has used none."""
        window = self._windows.get(csource_id)
        return None if window is None else window.highest

    def forget(self, csource_id: str) -> None:
        """Lets the next number of a control source be any."""
        self._windows.pop(csource_id, None)


class StrictOnly:
    """The same windows for SSH, where most control sources only have their numbers repeated.

    Args:
        state: The windows.
        strict: Control sources whose numbers are checked over SSH too.
    """

    def __init__(self, state: SequenceState, strict: frozenset[str]) -> None:
        self._state = state
        self._strict = strict

    def apply(self, strict: frozenset[str]) -> None:
        """Takes over other control sources whose numbers are checked; open sessions notice at once."""
        self._strict = strict

    def window_for(self, csource_id: str) -> SequenceWindow | None:
        """The numbers of a control source; None where they are only repeated."""
        return self._state.window_for(csource_id) if csource_id in self._strict else None
