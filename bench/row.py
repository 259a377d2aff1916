"""A row of the table: a figure that was asked for, what was reached, and whether that is enough."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Row:
    """One figure.

    Attributes:
        figure: What it is.
        needed: What it has to be, in words.
        reached: What it is, in words; None where it could not be measured.
        holds: Whether that is enough; None where it could not be measured, or nothing is asked for.
        note: The limit, the spread, what is missing.
        measured: What was measured, for the result file.
    """

    figure: str
    needed: str
    reached: str | None = None
    holds: bool | None = None
    note: str = ""
    measured: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        if self.reached is None:
            return "absent"
        return {True: "pass", False: "short", None: ""}[self.holds]


def number(value: float) -> str:
    """A number with about three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def at_least(figure: str, needed: float, reached: float, unit: str = "times", **more: Any) -> Row:
    """A row for a figure that must be so large."""
    text = f"{number(reached)} {unit}"
    return Row(figure, f"at least {needed:,g} {unit}", text, reached >= needed, **more)


def at_most(figure: str, needed: float, reached: float, unit: str = "times", **more: Any) -> Row:
    """A row for a figure that must not be larger."""
    text = f"{number(reached)} {unit}"
    return Row(figure, f"at most {needed:,g} {unit}", text, reached <= needed, **more)
