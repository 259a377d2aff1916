"""The exceptions of flowtap, importable without the extension module.

Every message names what was wrong, where, and what would be right; none contains payload or a
subject's address except where the caller himself gave that value (``CriteriaError.value``).
"""

from __future__ import annotations

__all__ = [
    "CaptureError",
    "ConfigurationError",
    "CriteriaError",
    "DataPlaneError",
    "FlowtapError",
    "PermissionMissingError",
    "TunnelError",
]


class FlowtapError(Exception):
    """Base of everything that flowtap raises on purpose."""


class CriteriaError(FlowtapError, ValueError):
    """A filter that cannot be.

    Attributes:
        field: Name of the field as in ``Criteria``.
        value: The value as given.
        syntax: True if the text cannot be read at all, False if it can be read and makes no sense.
    """

    def __init__(self, message: str, *, field: str, value: str, syntax: bool = False) -> None:
        super().__init__(message)
        self.field = field
        self.value = value
        self.syntax = syntax


class CaptureError(FlowtapError):
    """A capture file that cannot be read or written (any further).

    Attributes:
        path: The file.
        offset_octets: Where the damage begins, None where no position applies.
    """

    def __init__(self, message: str, *, path: str, offset_octets: int | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.offset_octets = offset_octets


class ConfigurationError(FlowtapError):
    """A configuration that cannot be used.

    Attributes:
        key: Path of the wrong key, such as ``dtcp.ssh.listen[0]``.
    """

    def __init__(self, message: str, *, key: str) -> None:
        super().__init__(message)
        self.key = key


class PermissionMissingError(FlowtapError):
    """The process lacks a right.

    Attributes:
        right: Name of the right, such as ``CAP_NET_RAW``.
    """

    def __init__(self, message: str, *, right: str) -> None:
        super().__init__(message)
        self.right = right


class DataPlaneError(FlowtapError):
    """The data plane has failed, or was used after it was stopped or after a fork."""


class TunnelError(FlowtapError):
    """A tunnel, or the program that keeps it up, does not do what was asked."""
