"""The intercepts that there are, and the ways to find them without asking every one."""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING

from flowtap.control import lifetime

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from flowtap.control.model import Intercept

__all__ = ["Intercepts"]

_NONE: Mapping[int, Intercept] = MappingProxyType({})


class Intercepts:
    """Intercepts by id, by control source and by content destination."""

    def __init__(self) -> None:
        self._all: dict[int, Intercept] = {}
        self._own: dict[str, dict[int, Intercept]] = {}
        self._timed: dict[int, Intercept] = {}
        self._destinations: dict[str, Counter[str]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, criteria_id: int) -> bool:
        return criteria_id in self._all

    @property
    def by_id(self) -> Mapping[int, Intercept]:
        """All of them; a view."""
        return MappingProxyType(self._all)

    def own(self, csource_id: str) -> Mapping[int, Intercept]:
        """Those of one control source; a view."""
        own = self._own.get(csource_id)
        return _NONE if own is None else MappingProxyType(own)

    @property
    def timed(self) -> Collection[Intercept]:
        """Those that something other than a DELETE can end; a view."""
        return self._timed.values()

    def destinations(self, csource_id: str) -> Mapping[str, int]:
        """Content destinations of one control source, and how many of its intercepts use each; a view."""
        return MappingProxyType(self._destinations.get(csource_id, {}))

    def put(self, intercepts: Iterable[Intercept]) -> None:
        """Takes intercepts in, in place of those with the same ids."""
        for each in intercepts:
            before = self._all.get(each.criteria_id)
            if before is not None:
                self._forget(before)
            # One that takes the place of another keeps its place in the order of ids.
            self._all[each.criteria_id] = each
            self._own.setdefault(each.csource_id, {})[each.criteria_id] = each
            self._destinations.setdefault(each.csource_id, Counter()).update(each.cdest_ids)
            if lifetime.ends(each):
                self._timed[each.criteria_id] = each

    def remove(self, criteria_ids: Iterable[int]) -> None:
        """Lets go of intercepts.

        Raises:
            KeyError: One is not there.
        """
        for number in criteria_ids:
            intercept = self._all.pop(number)
            self._forget(intercept)
            own = self._own[intercept.csource_id]
            del own[number]
            if not own:
                del self._own[intercept.csource_id]

    def _forget(self, intercept: Intercept) -> None:
        """Takes an intercept out of what is not ordered by id."""
        used = self._destinations[intercept.csource_id]
        used.subtract(intercept.cdest_ids)
        for name in intercept.cdest_ids:
            if not used[name]:
                del used[name]
        if not used:
            del self._destinations[intercept.csource_id]
        self._timed.pop(intercept.criteria_id, None)
