"""Ends that the journal could not take, kept where a full disk does not matter.

An intercept whose end is not on record would run again after a restart. When the database cannot be written,
its number goes into this small file, whose blocks were allocated while there was room.
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
_NUMBER: Final = struct.Struct("<Q")
IDS_MAX: Final = FILE_OCTETS // _NUMBER.size - 1
"""As many as the file holds beside their count."""


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
            os.posix_fallocate(self._file, 0, FILE_OCTETS)
        except OSError as error:
            raise ConfigurationError(
                f"store.path: {path}: cannot be made: {error.strerror}", key="store.path"
            ) from None
        self.ids = self._read()

    def _read(self) -> frozenset[int]:
        octets = os.pread(self._file, FILE_OCTETS, 0)
        (count,) = _NUMBER.unpack_from(octets)
        whole = octets[_NUMBER.size : _NUMBER.size * (1 + min(count, IDS_MAX))]
        return frozenset(number for (number,) in _NUMBER.iter_unpack(whole))

    def keep(self, ids: Collection[int]) -> bool:
        """Marks exactly these criteria as ended.

        Returns:
            Whether that is on the disk.
        """
        kept = sorted(ids)[:IDS_MAX]
        octets = b"".join(map(_NUMBER.pack, [len(kept), *kept]))
        try:
            os.pwrite(self._file, octets, 0)
            os.fdatasync(self._file)
        except OSError as error:
            _LOG.error("the end of %d criteria is on no disk: %s", len(ids), error.strerror)
            return False
        self.ids = frozenset(kept)
        return len(kept) == len(ids)

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self._file)
