"""Copies that were lost, and when control sources are told of them [DTCP §5.20]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowtap.control.events import CopiesLost
from flowtap.control.model import NANOSECONDS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from flowtap.control.model import Intercept
    from flowtap.control.ports import Loss

__all__ = ["LossWatch"]


class LossWatch:
    """Says of every criterion and destination what was lost, at most once a period."""

    def __init__(self) -> None:
        # By criterion and destination: when it was said last, and the packets and octets of then.
        self._said: dict[tuple[int, str], tuple[int, int, int]] = {}

    def look(
        self, losses: Collection[Loss], running: Mapping[int, Intercept], period_s: int, now_ns: int
    ) -> list[CopiesLost]:
        """What is to be said now."""
        found = []
        for loss in losses:
            intercept = running.get(loss.criteria_id)
            key = (loss.criteria_id, loss.cdest_id)
            said_ns, packets, octets = self._said.get(key, (None, 0, 0))
            if intercept is None or loss.packets <= packets:
                continue
            if said_ns is not None and now_ns - said_ns < period_s * NANOSECONDS:
                continue
            self._said[key] = (now_ns, loss.packets, loss.octets)
            found.append(
                CopiesLost(
                    intercept.csource_id,
                    loss.cdest_id,
                    loss.criteria_id,
                    loss.packets - packets,
                    loss.octets - octets,
                )
            )
        for key in [key for key in self._said if key[0] not in running]:
            del self._said[key]
        return found
