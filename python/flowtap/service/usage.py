"""What the criteria of a run have used, as it is left behind for the next one.

A tap keeps a file beside the store: a header with its last sign of life, then one record a criterion. What
has a budget counts in the file itself, before its copies are sent, so that a process that is killed at any
moment leaves the truth behind. Nothing is synchronised to the disk: after a crash of the machine the file
belongs to another boot, and nobody trusts its budgets.
"""

from __future__ import annotations

import struct
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Final

from flowtap.control.journal import Usage
from flowtap.control.model import NANOSECONDS, Count, Now

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["HEADER", "MAGIC", "RECORD", "read_usage", "usage_path"]

MAGIC: Final = b"FLTPUSE1"
HEADER: Final = struct.Struct("<8s16sIIQQ16x")
"""Magic, boot id, flags, octets of a record, wall and monotonic time in nanoseconds."""
RECORD: Final = struct.Struct("<QQQQ")
"""Criterion (0: none), packets, octets, last match on the monotonic clock (0: none)."""
FINAL: Final = 1
"""The run has ended in order: nothing was copied since."""


def usage_path(store: Path) -> Path:
    """The file that belongs to a store."""
    return store.with_name(f"{store.name}-usage")


def read_usage(path: Path) -> Usage:
    """Reads what an earlier run has counted; a file that cannot be read tells nothing."""
    try:
        octets = path.read_bytes()
    except OSError:
        octets = b""
    head = octets[: HEADER.size].ljust(HEADER.size, b"\0")
    magic, boot, flags, record_octets, wall_ns, monotonic_ns = HEADER.unpack(head)
    if magic != MAGIC or record_octets != RECORD.size:
        # What is not known is not final, and belongs to no boot.
        return Usage({}, "", is_final=False)
    whole = len(octets) - (len(octets) - HEADER.size) % RECORD.size
    counts = {
        criteria_id: Count(packets, matched, last_match_ns or None)
        for criteria_id, packets, matched, last_match_ns in RECORD.iter_unpack(octets[HEADER.size : whole])
        if criteria_id
    }
    until = Now(datetime.fromtimestamp(wall_ns / NANOSECONDS).astimezone(), monotonic_ns)
    return Usage(counts, str(uuid.UUID(bytes=boot)), is_final=bool(flags & FINAL), until=until)
