"""What is shown to whom: accounts to those who may look, filters to their owner alone.

The answers are plain values. Whoever may only look (``flow-tap``) sees numbers, never what they are about:
not a filter, not an order, not where an ADD came from.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from flowtap.control import (
    PERMISSION_APPROVE,
    PERMISSION_TASK,
    PERMISSION_VIEW,
    Principal,
    Refused,
)
from flowtap.control import lifetime as lifetimes
from flowtap.control.authorize import FILTER_NAMES
from flowtap.dtcp import Status
from flowtap.service import clock
from flowtap.service.tunnels import ACTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowtap import Stats
    from flowtap.control import ControlPlane, Count, Intercept
    from flowtap.service.dataplane import TapDataPlane
    from flowtap.service.sequences import SequenceState
    from flowtap.service.tasking import TaskingLoop
    from flowtap.service.tunnels import Tunnels

__all__ = ["Views", "may_view", "stats_value"]

_LOG = logging.getLogger(__name__)

EXPORT_COLUMNS: Final = (
    "refused",
    "exported",
    "dropped",
    "in_spool",
    "resent",
    "exported_in_doubt",
    "recovered",
)
"""What became of the copies for a destination."""


def stats_value(stats: Stats) -> dict[str, Any]:
    """An account as plain values."""
    return {
        "frames": stats.frames,
        "octets": stats.octets,
        "undecodable": stats.undecodable,
        "own": stats.own,
        "duplicates": stats.duplicates,
        "matched": stats.matched,
        "wanted": stats.wanted,
        "copied": stats.copied,
        "refused": stats.refused,
        "exported": stats.exported,
        "in_queue": stats.in_queue,
        "in_spool": stats.in_spool,
        "recovered": stats.recovered,
        "dropped": stats.dropped,
        "generation": stats.generation,
        "criteria": [
            {"id": each.id, "packets": each.packets, "octets": each.octets, "copies": each.copies}
            for each in stats.criteria
        ],
        "content_destinations": [
            {
                "id": each.id,
                "wanted": each.wanted,
                "copied": each.copied,
                **{column: getattr(each, column) for column in EXPORT_COLUMNS},
                "last_error": each.last_error,
            }
            for each in stats.destinations
        ],
        "captures": [
            {
                "interface": each.interface,
                "up": each.is_up,
                "received": each.received,
                "dropped": each.dropped,
                "freezes": each.freezes,
                "super_frames_whole": each.super_frames_whole,
                "reopened": each.reopened,
                "filter": each.filter,
            }
            for each in stats.captures
        ],
    }


class Views:
    """Answers questions about a running tap.

    Args:
        control: The control plane; asked in its own thread.
        tasking: Knows that thread, and the accounts of the control sources.
        data_plane: Knows the accounts of the tap.
        sequences: Knows the sequence numbers.
        tunnels: Those of the tap.
    """

    def __init__(
        self,
        control: ControlPlane,
        tasking: TaskingLoop,
        data_plane: TapDataPlane,
        sequences: SequenceState,
        tunnels: Tunnels,
    ) -> None:
        self._control = control
        self._tasking = tasking
        self._data_plane = data_plane
        self._sequences = sequences
        self._tunnels = tunnels

    async def stats(self, principal: Principal) -> dict[str, Any]:
        """The account of the tap.

        Raises:
            Refused: The login may not look.
            PortError: The data plane failed.
        """
        may_view(principal)
        return stats_value(await self._tasking.act(self._data_plane.stats))

    async def intercepts(self, principal: Principal) -> dict[str, Any]:
        """Intercepts: one's own whole; those that wait for one's approval whole; others as numbers.

        Raises:
            Refused: The login may neither task, nor approve, nor look.
            PortError: The data plane failed.
        """
        if principal.permissions.isdisjoint({PERMISSION_TASK, PERMISSION_APPROVE, PERMISSION_VIEW}):
            raise _missing(PERMISSION_VIEW)
        return await self._tasking.act(self._intercepts, principal)

    def _intercepts(self, principal: Principal) -> dict[str, Any]:
        counts = self._data_plane.counts()
        found = []
        for each in self._control.intercepts:
            is_own = PERMISSION_TASK in principal.permissions and each.csource_id == principal.login
            approves = PERMISSION_APPROVE in principal.permissions and not each.is_active
            if is_own or approves or PERMISSION_VIEW in principal.permissions:
                count = counts.get(each.criteria_id, each.carried)
                value = self._numbers(each, count)
                found.append(value | (_content(each, count) if is_own or approves else {}))
        # Whose these were is not known any more; others must not learn their ids.
        pending = self._control.pending_ends if PERMISSION_VIEW in principal.permissions else ()
        return {"intercepts": found, "pending_records": list(pending)}

    def _numbers(self, intercept: Intercept, count: Count) -> dict[str, Any]:
        return {
            "criteria_id": intercept.criteria_id,
            "control_source": intercept.csource_id,
            "state": intercept.state.value,
            "static": intercept.static,
            "added": intercept.added.isoformat(),
            "packets": count.packets,
            "octets": count.octets,
            "average_bandwidth_bps": self._control.bandwidth_bps(intercept),
            "refreshes": intercept.refreshes,
        }

    async def control_sources(self, principal: Principal) -> dict[str, Any]:
        """The accounts of the control sources, with the columns of the vendor's MIB.

        Raises:
            Refused: The login may not look.
        """
        may_view(principal)
        return {"control_sources": await self._tasking.act(self._control_sources)}

    def _control_sources(self) -> list[dict[str, Any]]:
        now_ns = clock.now().monotonic_ns
        found = []
        for name in self._control.policy.control_sources:
            own = self._control.own(name)
            bandwidth_bps = sum(map(self._control.bandwidth_bps, own))
            found.append(
                {
                    "control_source": name,
                    **self._tasking.accounts[name].columns(own, bandwidth_bps, now_ns),
                    "sequence_number": self._sequences.highest(name),
                }
            )
        return found

    async def content_destinations(self, principal: Principal) -> dict[str, Any]:
        """The accounts of the content destinations, of those that tasking has created as well.

        Raises:
            Refused: The login may not look.
            PortError: The data plane failed.
        """
        may_view(principal)
        return {"content_destinations": await self._tasking.act(self._content_destinations)}

    def _content_destinations(self) -> list[dict[str, Any]]:
        counts = self._data_plane.counts()
        exports = {each.id: each for each in self._data_plane.stats().destinations}
        by_name: dict[str, list[Intercept]] = {name: [] for name in self._control.policy.content_destinations}
        for each in self._control.intercepts:
            for name in each.cdest_ids:
                by_name.setdefault(name, []).append(each)
        return [
            {
                "content_destination": name,
                "configured": name in self._control.policy.content_destinations,
                "criteria": len(members),
                "matched_packets": _sum(counts, members, "packets"),
                "matched_octets": _sum(counts, members, "octets"),
                "average_bandwidth_bps": sum(map(self._control.bandwidth_bps, members)),
                **{
                    column: sum(getattr(each, column) for each in _labels(exports, name))
                    for column in EXPORT_COLUMNS
                },
                "last_error": next(
                    (each.last_error for each in _labels(exports, name) if each.last_error), None
                ),
            }
            for name, members in by_name.items()
        ]

    # --- what changes something ---------------------------------------------------------------

    async def approve(self, principal: Principal, argument: object) -> dict[str, Any]:
        """Lets intercepts begin to copy.

        Raises:
            Refused: See `ControlPlane.approve`.
            TypeError: The argument is no list of ids.
        """
        criteria_ids = _ids(argument)
        await self._tasking.act(self._control.approve, principal, criteria_ids, clock.now())
        return {"approved": criteria_ids}

    async def reject(self, principal: Principal, argument: object) -> dict[str, Any]:
        """Ends intercepts that wait for approval.

        Raises:
            Refused: See `ControlPlane.reject`.
            TypeError: The argument is no list of ids.
        """
        criteria_ids = _ids(argument)
        await self._tasking.act(self._control.reject, principal, criteria_ids, clock.now())
        return {"rejected": criteria_ids}

    async def clear_criteria(self, principal: Principal, argument: object) -> dict[str, Any]:
        """Ends intercepts for the operator.

        Raises:
            Refused: See `ControlPlane.clear`.
            TypeError: The argument is no list of ids.
        """
        criteria_ids = _ids(argument)
        await self._tasking.act(self._control.clear, principal, criteria_ids, clock.now())
        return {"ended": criteria_ids}

    async def clear_sequence(self, principal: Principal, argument: object) -> dict[str, Any]:
        """Forgets the sequence numbers of a control source.

        Raises:
            Refused: See `ControlPlane.reset_sequence`.
            TypeError: The argument is no name.
        """
        if not isinstance(argument, str):
            raise TypeError
        csource_id = argument
        await self._tasking.act(self._control.reset_sequence, principal, csource_id, clock.now())
        self._sequences.forget(csource_id)
        return {"control_source": csource_id}

    async def change_tunnel(self, principal: Principal, argument: object) -> dict[str, Any]:
        """Takes a tunnel down, brings it up, or gives it new keys.

        Raises:
            Refused: See `ControlPlane.change_tunnel`.
            PortError: strongSwan has not done it.
            TypeError: The argument says something else.
        """
        name = argument.get("name") if isinstance(argument, dict) else None
        act = argument.get("do") if isinstance(argument, dict) else None
        if not isinstance(name, str) or act not in ACTS:
            raise TypeError(f"the name of a tunnel, and to do one of {', '.join(ACTS)}, is right")
        change = partial(self._control.change_tunnel, tunnels=list(self._tunnels.sections))
        await self._tasking.act(change, principal, name, act, clock.now())
        _LOG.warning("tunnel %s: %s, by %s", name, act, principal.login)
        await self._tunnels.act(name, act)
        return {"tunnel": name}


def _ids(argument: object) -> list[int]:
    """Criteria ids as the local socket brings them, each once."""
    if not isinstance(argument, list) or not all(type(each) is int for each in argument):
        raise TypeError
    return list(dict.fromkeys(argument))


def _missing(permission: str) -> Refused:
    return Refused(Status.BAD_REQUEST, f"the login's class has no permission {permission}")


def may_view(principal: Principal) -> None:
    """Checks that the login may look at the tap.

    Raises:
        Refused: It may not.
    """
    if PERMISSION_VIEW not in principal.permissions:
        raise _missing(PERMISSION_VIEW)


def _content(intercept: Intercept, count: Count) -> dict[str, Any]:
    """What only the owner may see."""
    left = lifetimes.remaining(intercept, count, clock.now().monotonic_ns)
    times = ("idle_s", "total_s", "packets", "octets")
    return {
        "login": intercept.login,
        "content_destinations": list(intercept.cdest_ids),
        "filter": {
            name: value
            for field, name in FILTER_NAMES.items()
            if (value := getattr(intercept.filter, field)) is not None
        }
        | dict(intercept.scope.parameters()),
        "order": intercept.order or None,
        "approved_by": intercept.approved_by or None,
        "timeouts": {name: getattr(intercept.timeouts, name) for name in times},
        "remaining": {name: getattr(left, name) for name in times},
    }


def _sum(counts: Mapping[int, Count], members: list[Intercept], name: str) -> int:
    return sum(getattr(counts.get(each.criteria_id, each.carried), name) for each in members)


def _labels(exports: Mapping[str, Any], name: str) -> list[Any]:
    """The outer headers that stand behind one name: it, and it with a number."""
    return [each for label, each in exports.items() if label == name or label.startswith(f"{name}#")]
