"""What another policy means for intercepts that run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flowtap.control.authorize import EXCLUDED_MAX, Refused, standing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowtap.control.model import Intercept, Policy
    from flowtap.control.ports import Filters

__all__ = ["Due", "due"]


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be done for a policy to rule.

    Attributes:
        refused: Intercepts that must end, each with why.
        narrower: Intercepts that exclude more from now on; to be done whatever becomes of the rest.
        wider: Intercepts that exclude less, or in another order, once that is done.
    """

    refused: list[tuple[Intercept, str]] = field(default_factory=list)
    narrower: list[Intercept] = field(default_factory=list)
    wider: list[Intercept] = field(default_factory=list)


def due(intercepts: Iterable[Intercept], policy: Policy, filters: Filters) -> Due:
    """Holds what runs against a policy."""
    found = Due()
    for intercept in intercepts:
        try:
            source = standing(intercept, policy, filters)
        except Refused as fault:
            found.refused.append((intercept, f"no longer permitted: {fault.info}"))
            continue
        before, after = intercept.excluded, source.excluded
        # What is excluded besides must not be copied any more, whatever becomes of the rest.
        both = tuple(dict.fromkeys([*after, *before]))
        is_more, is_less = len(both) > len(before), len(both) > len(after)
        if is_more:
            is_short = len(both) <= EXCLUDED_MAX
            found.narrower.append(replace(intercept, excluded=both if is_less and is_short else after))
        if is_less or (before != after and not is_more):
            found.wider.append(replace(intercept, excluded=after))
    return found
