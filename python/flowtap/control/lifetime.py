"""When an intercept ends, and how much of it is left [DTCP §5.4.1].

Time runs on the monotonic clock, so a step of the wall clock neither ends nor extends anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowtap.control.model import NANOSECONDS, Count
from flowtap.dtcp.messages import Timeouts

if TYPE_CHECKING:
    from flowtap.control.model import Intercept

__all__ = ["deadline_ns", "end_ns", "ends", "idle_since_ns", "reason_to_end", "remaining"]


def ends(intercept: Intercept) -> bool:
    """Whether anything but a DELETE can end it."""
    times = intercept.timeouts
    return intercept.order_end_ns is not None or any(
        (times.idle_s, times.total_s, times.packets, times.octets)
    )


def idle_since_ns(intercept: Intercept, count: Count) -> int:
    """Since when nothing has matched; before the clock's beginning where that was in an earlier boot."""
    if count.last_match_ns is None:
        return intercept.idle_since_ns
    return max(intercept.idle_since_ns, count.last_match_ns)


def end_ns(intercept: Intercept) -> int | None:
    """When time alone ends it: its lifetime or its order, whichever is first; None for never."""
    found = []
    if intercept.timeouts.total_s:
        found.append(intercept.total_since_ns + intercept.timeouts.total_s * NANOSECONDS)
    if intercept.order_end_ns is not None:
        found.append(intercept.order_end_ns)
    return min(found, default=None)


def deadline_ns(intercept: Intercept, count: Count) -> int | None:
    """When time ends it if nothing matches any more; None for never."""
    end = end_ns(intercept)
    if not intercept.timeouts.idle_s or not intercept.is_active:
        return end
    idle = idle_since_ns(intercept, count) + intercept.timeouts.idle_s * NANOSECONDS
    return idle if end is None else min(idle, end)


def reason_to_end(intercept: Intercept, count: Count, now_ns: int) -> str | None:
    """What has ended the intercept, None while it runs. A zero is a time-out not used."""
    if intercept.order_end_ns is not None and now_ns >= intercept.order_end_ns:
        return "order"
    left = remaining(intercept, count, now_ns)
    given = intercept.timeouts
    for name, limit, rest in (
        ("total", given.total_s, left.total_s),
        # What waits for approval has had no chance to match.
        ("idle", given.idle_s if intercept.is_active else None, left.idle_s),
        ("packets", given.packets, left.packets),
        ("bytes", given.octets, left.octets),
    ):
        if limit and rest == 0:
            return name
    return None


def remaining(intercept: Intercept, count: Count, now_ns: int) -> Timeouts:
    """What is left of every time-out that was given, seconds rounded up."""
    given = intercept.timeouts

    def seconds(limit: int | None, since_ns: int) -> int | None:
        if limit is None:
            return None
        left_ns = limit * NANOSECONDS - max(now_ns - since_ns, 0)
        return max(-(-left_ns // NANOSECONDS), 0)

    def budget(limit: int | None, used: int) -> int | None:
        return None if limit is None else max(limit - used, 0)

    return Timeouts(
        idle_s=seconds(given.idle_s, idle_since_ns(intercept, count)),
        total_s=seconds(given.total_s, intercept.total_since_ns),
        packets=budget(given.packets, count.packets - intercept.packets_base),
        octets=budget(given.octets, count.octets - intercept.octets_base),
    )
