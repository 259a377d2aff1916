"""How much is measured: everything in half an hour, or less in three minutes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from flowtap.bench import rounds as rounds_

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(frozen=True)
class Scale:
    """Sizes of the measurements.

    Attributes:
        packets: Packets of the large capture.
        passes: How often it is read in one run.
        rule_packets: Packets of captures drawn from rule sets.
        python_packets: Packets for programs in Python.
        export_packets: Copies sent in one run.
        live_packets: Frames sent on an interface in one run.
        control_active: Criteria that are active while the control plane is measured.
        control_adds: Criteria added in one run.
        control_limit_s: When the control plane has taken too long.
        rounds: How often everything is measured.
        limit_s: How long the rounds of one measurement may go on.
        progress: Told how many runs are done, and of how many.
    """

    packets: int = 4_000_000
    passes: int = 10
    rule_packets: int = 1_000_000
    python_packets: int = 1_000_000
    export_packets: int = 1_000_000
    live_packets: int = 4_000_000
    control_active: int = 10_000
    control_adds: int = 4_000
    control_limit_s: float = 600
    rounds: int = 5
    limit_s: float = 150
    progress: Callable[[int, int], object] | None = None

    def in_turn(
        self, cases: Mapping[Key, Callable[[], Value]], rounds: int | None = None
    ) -> dict[Key, list[Value]]:
        """Runs every case once in every round, as often as there is time for."""
        return rounds_.in_turn(cases, rounds or self.rounds, self.progress, limit_s=self.limit_s)


FULL = Scale()
QUICK = Scale(
    passes=1,
    rule_packets=200_000,
    python_packets=200_000,
    export_packets=200_000,
    live_packets=200_000,
    control_adds=1_000,
    control_limit_s=120,
    rounds=3,
    limit_s=15,
)
