"""Ends that the journal could not take, kept where a full disk does not matter.

An intercept whose end is not on record would run again after a restart. When the database cannot be written,
its number goes into this small file, whose blocks were allocated while there was room: as many as there are
intercepts, before they begin.
"""

from __future__ import annotations

import logging
import os
import struct
from typing import TYPE_CHECKING, Final

from flowtap.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

__all__ = ["EndMarks"]

_LOG = logging.getLogger(__name__)

FILE_OCTETS: Final = 64 << 10
"""So long it is at least."""
_NUMBER: Final = struct.Struct("<Q")


class EndMarks:
    """The file.

    Args:
        path: Where it is; made, with its blocks, where there is none.

    Raises:
        ConfigurationError: It cannot be made.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._octets = max(os.fstat(self._file).st_size, FILE_OCTETS)
            os.posix_fallocate(self._file, 0, self._octets)
        except OSError as error:
            raise ConfigurationError(
                f"store.path: {path}: cannot be made: {error.strerror}", key="store.path"
            ) from None
        self.ids = self._read()

    @property
    def room(self) -> int:
        """How many it holds, beside their count."""
        return self._octets // _NUMBER.size - 1

    def _read(self) -> frozenset[int]:
        octets = os.pread(self._file, self._octets, 0)
        (count,) = _NUMBER.unpack_from(octets)
        whole = octets[_NUMBER.size : _NUMBER.size * (1 + min(count, self.room))]
        return frozenset(number for (number,) in _NUMBER.iter_unpack(whole))

    def reserve(self, count: int) -> bool:
        """Makes room for so many.

        Returns:
            False where the disk has none.
        """
        octets = self._octets
        while octets < _NUMBER.size * (count + 1):
            octets *= 2
        if octets > self._octets:
            try:
                os.posix_fallocate(self._file, 0, octets)
                os.fsync(self._file)
            except OSError as error:
                _LOG.error("there is no room to mark the end of %d criteria: %s", count, error.strerror)
                return False
            self._octets = octets
        return True

    def keep(self, ids: Collection[int]) -> bool:
        """Marks exactly these criteria as ended.

        Returns:
            Whether that is on the disk.
        """
        kept = sorted(ids)[: self.room]
        octets = b"".join(map(_NUMBER.pack, [len(kept), *kept]))
        try:
            os.pwrite(self._file, octets, 0)
            os.fdatasync(self._file)
        except OSError as error:
            _LOG.error("the end of %d criteria is on no disk: %s", len(ids), error.strerror)
            return False
        self.ids = frozenset(kept)
        if missing := len(ids) - len(kept):
            _LOG.error("the end of %d criteria is on no disk: there is no room for more", missing)
        return not missing

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self._file)
