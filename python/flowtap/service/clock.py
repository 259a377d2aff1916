"""The clocks, read at one moment, and the boot that one of them counts from."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from pathlib import Path

from flowtap.control.model import NANOSECONDS, Now

__all__ = ["boot_id", "now", "wall_at", "wall_ns"]


def now() -> Now:
    """This moment: the element's local time, with its offset, and monotonic time."""
    wall = datetime.now().astimezone()
    return Now(wall=wall, monotonic_ns=time.monotonic_ns())


def wall_ns(moment: Now) -> int:
    """A moment on the wall clock as nanoseconds since the Unix epoch."""
    return int(moment.wall.timestamp() * 1_000_000) * 1_000


def wall_at(moment: Now, monotonic_s: float) -> datetime:
    """What the wall clock showed, or will show, at a time of the monotonic one."""
    return moment.wall + timedelta(seconds=monotonic_s - moment.monotonic_ns / NANOSECONDS)


def boot_id() -> str:
    """The name that the kernel has given to this boot; monotonic time begins with it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
