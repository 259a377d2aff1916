"""Reads filters with the compiled core."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowtap import AddressSpace, Criteria, CriteriaError
from flowtap.control.ports import FilterFault

if TYPE_CHECKING:
    from flowtap.control.ports import Reach
    from flowtap.dtcp import FilterText, Scope
    from flowtap.service.places import Places

__all__ = ["FilterReach", "FilterReader", "FilterSpace"]


class FilterReach:
    """A filter that was read.

    Attributes:
        criteria: It, compiled.
    """

    def __init__(self, criteria: Criteria) -> None:
        self.criteria = criteria
        self.narrowness = criteria.narrowness


class FilterReader:
    """Reads filters for an element with these interfaces.

    Args:
        places: Its interfaces and routing instances.
    """

    def __init__(self, places: Places) -> None:
        self._places = places

    def __call__(self, text: FilterText, scope: Scope) -> FilterReach:
        """Reads one.

        Raises:
            FilterFault: It cannot be compiled.
            ScopeFault: It names an interface or routing instance that is not tapped.
        """
        try:
            return FilterReach(
                Criteria(
                    0,
                    source=text.source,
                    destination=text.destination,
                    protocol=text.protocol,
                    source_port=text.source_port,
                    destination_port=text.destination_port,
                    icmp_type=text.icmp_type,
                    icmp_code=text.icmp_code,
                    input_interfaces=self._places.inputs(scope),
                    output_interfaces=self._places.outputs(scope),
                    ip_version=scope.ip_version,
                    circuit=scope.is_circuit,
                )
            )
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
