"""Traffic as means of ten seconds, and what follows from it: warnings, purges [DTCP §5.18, §5.19]."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from flowtap.control.events import Congested
from flowtap.control.model import NANOSECONDS, Count

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from flowtap.control.model import ContentDestination, Intercept, Policy

__all__ = ["WINDOW_NS", "BandwidthMeter", "Congestion"]

WINDOW_NS: Final = 10 * NANOSECONDS
"""Every mean is one of the last ten seconds."""
_NOTHING: Final = Count()
_BITS: Final = 8


class BandwidthMeter:
    """Keeps the counts of the last ten seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, Mapping[int, Count]]] = deque()

    def sample(self, now_ns: int, counts: Mapping[int, Count]) -> None:
        """Takes the counts of this moment."""
        self._samples.append((now_ns, counts))
        # One sample that is older than the window is where the mean begins.
        while len(self._samples) > 1 and now_ns - self._samples[1][0] >= WINDOW_NS:
            self._samples.popleft()

    def rate_bps(self, intercept: Intercept) -> int:
        """Bits a second that one criterion has matched, as a mean of the last ten seconds."""
        if not self._samples:
            return 0
        (first_ns, first), (last_ns, last) = self._samples[0], self._samples[-1]
        number = intercept.criteria_id
        before = first.get(number, intercept.carried)
        octets = last.get(number, _NOTHING).octets - before.octets
        # A criterion that is younger than the window was silent before.
        return max(octets, 0) * _BITS * NANOSECONDS // max(last_ns - first_ns, WINDOW_NS)


class Congestion:
    """Watches the traffic to content destinations that have bounds."""

    def __init__(self) -> None:
        self._congested: set[str] = set()

    def look(
        self, policy: Policy, running: Collection[Intercept], meter: BandwidthMeter
    ) -> tuple[list[Congested], list[tuple[str, Intercept]]]:
        """What the traffic of this moment calls for.

        Returns:
            Warnings, one for each control source with criteria to a destination above its soft limit; and the
            intercepts that must end, each with the destination that is above its hard limit.
        """
        warnings: list[Congested] = []
        purges: list[tuple[str, Intercept]] = []
        for name, destination in policy.content_destinations.items():
            bounds = destination.bandwidth
            if not (bounds.soft_limit_bps or bounds.hard_limit_bps):
                continue
            rates = {
                each.criteria_id: (each, meter.rate_bps(each))
                for each in running
                if each.is_active and name in each.cdest_ids
            }
            total_bps = sum(rate for _, rate in rates.values())
            warnings += self._warnings(
                destination, total_bps, {each.csource_id for each, _ in rates.values()}
            )
            if bounds.hard_limit_bps and total_bps > bounds.hard_limit_bps:
                purges += [(name, each) for each in _purge(policy, bounds.hard_target_bps, total_bps, rates)]
        return warnings, purges

    def _warnings(
        self, destination: ContentDestination, total_bps: int, csource_ids: set[str]
    ) -> list[Congested]:
        bounds = destination.bandwidth
        if not bounds.soft_limit_bps or total_bps < bounds.soft_clear_bps:
            self._congested.discard(destination.id)
            return []
        if total_bps <= bounds.soft_limit_bps or destination.id in self._congested:
            return []
        self._congested.add(destination.id)
        return [Congested(each, destination.id, total_bps, bounds) for each in sorted(csource_ids)]


def _purge(
    policy: Policy, target_bps: int, total_bps: int, rates: Mapping[int, tuple[Intercept, int]]
) -> list[Intercept]:
    """Which intercepts end: the worst priority first, the newest first; silent ones would not help."""

    def worst_first(item: tuple[Intercept, int]) -> tuple[int, int]:
        intercept = item[0]
        source = policy.control_sources.get(intercept.csource_id)
        minimum = source.minimum_priority if source is not None else 0
        return (-(minimum + intercept.priority), -intercept.criteria_id)

    purged = []
    for intercept, rate_bps in sorted(rates.values(), key=worst_first):
        if total_bps <= target_bps:
            break
        if rate_bps:
            purged.append(intercept)
            total_bps -= rate_bps
    return purged
