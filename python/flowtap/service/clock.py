"""The two clocks, read at one moment."""

from __future__ import annotations

import time
from datetime import datetime

from flowtap.control.model import Now

__all__ = ["now"]


def now() -> Now:
    """This moment: the element's local time, as the protocol writes it, and monotonic time."""
    wall = datetime.now()  # noqa: DTZ005 - the element's local time
    return Now(wall=wall, monotonic_ns=time.monotonic_ns())
