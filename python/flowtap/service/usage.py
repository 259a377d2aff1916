"""What the workers of a run have counted, as they leave it behind for the next one.

Every worker keeps a file beside the store: a header with its last sign of life, then one record a criterion.
It writes records of budgets before it sends what has used them, so that a process that is killed at any
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
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["HEADER", "MAGIC", "RECORD", "read_usage", "usage_paths"]

MAGIC: Final = b"FLTPUSE1"
HEADER: Final = struct.Struct("<8s16sIIQQ16x")
"""Magic, boot id, flags, octets of a record, wall and monotonic time in nanoseconds."""
RECORD: Final = struct.Struct("<QQQQ")
"""Criterion (0: none), packets, octets, last match on the monotonic clock (0: none)."""
FINAL: Final = 1
"""The worker has ended in order: nothing was copied since."""


def usage_paths(store: Path) -> list[Path]:
    """The files that belong to a store."""
    return sorted(store.parent.glob(f"{store.name}-usage-*"))


def read_usage(paths: Iterable[Path]) -> Usage:
    """Reads what an earlier run has counted; a file that cannot be read tells nothing."""
    counts: dict[int, Count] = {}
    boots: set[str] = set()
    is_final = True
    until: Now | None = None
    for path in paths:
        try:
            octets = path.read_bytes()
            magic, boot, flags, record_octets, wall_ns, monotonic_ns = HEADER.unpack_from(octets)
        except (OSError, struct.error):
            octets = b""
            magic, boot, flags, record_octets, wall_ns, monotonic_ns = b"", b"", 0, 0, 0, 0
        if magic != MAGIC or record_octets != RECORD.size:
            # What is not known is not final, and belongs to no boot.
            boots.add("")
            is_final = False
            continue
        boots.add(str(uuid.UUID(bytes=boot)))
        is_final &= bool(flags & FINAL)
        last = Now(datetime.fromtimestamp(wall_ns / NANOSECONDS).astimezone(), monotonic_ns)
        until = last if until is None or last.wall > until.wall else until
        whole = len(octets) - (len(octets) - HEADER.size) % RECORD.size
        for criteria_id, packets, matched, last_match_ns in RECORD.iter_unpack(octets[HEADER.size : whole]):
            if criteria_id:
                counts[criteria_id] = _sum(
                    counts.get(criteria_id), Count(packets, matched, last_match_ns or None)
                )
    boot_id = boots.pop() if len(boots) == 1 else ""
    return Usage(counts, boot_id, is_final and until is not None, until)


def _sum(one: Count | None, other: Count) -> Count:
    if one is None:
        return other
    last = max(one.last_match_ns or 0, other.last_match_ns or 0)
    return Count(one.packets + other.packets, one.octets + other.octets, last or None)
