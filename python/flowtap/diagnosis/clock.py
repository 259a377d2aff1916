"""Checks of the clock, which ends of orders and strict sequence numbers depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from flowtap.diagnosis.finding import Finding, Unknown, ok, unknown, warn

__all__ = ["Discipline", "clock"]

_TIME_ERROR: Final = 5
_STA_UNSYNC: Final = 0x40
_MOST_ERROR_US: Final = 1_000_000
_ADVICE: Final = "run systemd-timesyncd or chrony; orders end, and audit records are dated, by this clock"


@dataclass(frozen=True, slots=True)
class Discipline:
    """What adjtimex(2) says."""

    state: int
    status: int
    most_error_us: int


def clock(found: Discipline | Unknown) -> Finding:
    """Whether something keeps the clock right."""
    if isinstance(found, Unknown):
        return unknown("clock", found)
    if found.state == _TIME_ERROR or found.status & _STA_UNSYNC:
        return warn("clock", "is not synchronised", _ADVICE)
    if found.most_error_us > _MOST_ERROR_US:
        return warn("clock", f"may be wrong by {found.most_error_us / 1e6:.1f} s", _ADVICE)
    return ok("clock", f"synchronised, wrong by {found.most_error_us / 1e3:.0f} ms at most")
