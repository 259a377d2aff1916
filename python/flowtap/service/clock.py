"""The two clocks, read at one moment."""

from __future__ import annotations

import time
from datetime import datetime

from flowtap.control.model import Now

__all__ = ["now"]


def now() -> Now:
    """This moment: the element's local time, with its offset, and monotonic time."""
    wall = datetime.now().astimezone()
    return Now(wall=wall, monotonic_ns=time.monotonic_ns())
