"""The clocks, read at one moment, and the boot that one of them counts from."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

from flowtap.control.model import Now

__all__ = ["boot_id", "now", "wall_ns"]


def now() -> Now:
    """This moment: the element's local time, with its offset, and monotonic time."""
    wall = datetime.now().astimezone()
    return Now(wall=wall, monotonic_ns=time.monotonic_ns())


def wall_ns(moment: Now) -> int:
    """A moment on the wall clock as nanoseconds since the Unix epoch."""
    return int(moment.wall.timestamp() * 1_000_000) * 1_000


def boot_id() -> str:
    """The name that the kernel has given to this boot; monotonic time begins with it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
