"""What happens to intercepts without being asked for; control sources are told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime

    from flowtap.control.model import Bandwidth, Intercept
    from flowtap.dtcp.messages import Timeouts

__all__ = ["Congested", "CopiesLost", "Ended", "Happening", "Purged", "Restarted"]


@dataclass(frozen=True, slots=True)
class Ended:
    """An intercept that a time-out has ended, and what was left of its time-outs then [DTCP §5.17]."""

    intercept: Intercept
    reason: str
    remaining: Timeouts

    @property
    def csource_id(self) -> str:
        """Whose it was."""
        return self.intercept.csource_id


@dataclass(frozen=True, slots=True)
class Congested:
    """The traffic to a content destination is above its soft limit [DTCP §5.18].

    Attributes:
        csource_id: A control source with criteria to that destination.
        cdest_id: The content destination.
        average_bps: Traffic of all control sources to it.
        bandwidth: Its bounds.
    """

    csource_id: str
    cdest_id: str
    average_bps: int
    bandwidth: Bandwidth


@dataclass(frozen=True, slots=True)
class Purged:
    """Intercepts of one control source that were ended because of the hard limit [DTCP §5.19]."""

    csource_id: str
    cdest_id: str
    criteria_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CopiesLost:
    """Copies of one criterion that were not sent, since it was last said [DTCP §5.20]."""

    csource_id: str
    cdest_id: str
    criteria_id: int
    packets: int
    octets: int


@dataclass(frozen=True, slots=True)
class Restarted:
    """What a restart meant for one control source [DTCP §5.14].

    Attributes:
        csource_id: A control source that had criteria.
        restored: How many of them run again.
        total: How many there were.
        silent_from: From when on nothing was copied, as far as that is known.
        silent_to: Until when.
    """

    csource_id: str
    restored: int
    total: int
    silent_from: datetime
    silent_to: datetime


Happening: TypeAlias = Ended | Congested | Purged | CopiesLost
