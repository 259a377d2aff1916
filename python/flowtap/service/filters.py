"""Reads filters with the compiled core."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowtap import AddressSpace, Criteria, CriteriaError
from flowtap.control.ports import FilterFault

if TYPE_CHECKING:
    from flowtap.control.ports import Reach
    from flowtap.dtcp import FilterText

__all__ = ["FilterReach", "FilterSpace", "read_filter"]


class FilterReach:
    """A filter that was read.

    Attributes:
        criteria: It, compiled.
    """

    def __init__(self, text: FilterText) -> None:
        self.criteria = Criteria(
            0,
            source=text.source,
            destination=text.destination,
            protocol=text.protocol,
            source_port=text.source_port,
            destination_port=text.destination_port,
            icmp_type=text.icmp_type,
            icmp_code=text.icmp_code,
        )
        self.narrowness = self.criteria.narrowness


def read_filter(text: FilterText) -> FilterReach:
    """Reads a filter.

    Raises:
        FilterFault: It cannot be compiled.
    """
    try:
        return FilterReach(text)
    except CriteriaError as error:
        raise FilterFault(error.field, error.value, str(error), is_syntax=error.syntax) from None


class FilterSpace:
    """Addresses that a policy allows.

    Args:
        prefixes: Addresses and prefixes; at least one.
    """

    def __init__(self, prefixes: list[str]) -> None:
        self._space = AddressSpace(",".join(prefixes))

    def covers(self, reach: Reach, /) -> bool:
        """Whether every packet that a filter can match has an address in the space."""
        return isinstance(reach, FilterReach) and self._space.covers(reach.criteria)
