"""Bounds of what one peer may send; beyond them a message is refused, never kept in memory."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one connection.

    Attributes:
        message_octets: Longest message, its empty line included.
        lines: Most lines of a message.
        name_octets: Longest control source or content destination name; the vendor's MIB has 48, so
            longer names would not fit into it, but names that come from a certificate may be longer.
        list_elements: Most elements of a Criteria-ID list.
        filter_elements: Most elements of a list in a filter; the matcher reads twice as many, exclusions
            among them.
    """

    message_octets: int = 65_536
    lines: int = 256
    name_octets: int = 255
    list_elements: int = 4_096
    filter_elements: int = 1_024
