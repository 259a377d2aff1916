"""Intercepts as the journal keeps them, and what a restart makes of them.

Lifetimes run on the monotonic clock, which a boot begins anew. Within one boot they go on as if nothing had
happened; across boots the wall clock tells how much time has passed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from datetime import datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

from flowtap.control import lifetime
from flowtap.control.authorize import Refused, standing
from flowtap.control.model import NANOSECONDS, Count, Intercept, Now, State
from flowtap.dtcp.messages import Delivery, FilterText, Parameter, Scope, Timeouts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from flowtap.control.model import Policy
    from flowtap.control.ports import Filters

__all__ = ["JournalError", "JournalRow", "Restoration", "Usage", "from_text", "restore", "to_text"]

_FORMAT = 1
_ENCODE: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def _names(kind: type[Intercept | FilterText | Scope | Timeouts]) -> tuple[str, ...]:
    return tuple(each.name for each in fields(kind))


_INTERCEPT: Final = _names(Intercept)
_FILTER: Final = _names(FilterText)
_SCOPE: Final = _names(Scope)
_TIMEOUTS: Final = _names(Timeouts)


class JournalError(Exception):
    """A row of the journal that cannot be read; the text holds nothing of it."""


@dataclass(frozen=True, slots=True)
class JournalRow:
    """One intercept as it was written last.

    Attributes:
        criteria_id: Its number.
        csource_id: Whose it is.
        text: What `to_text` made of it; None where the journal was switched off then.
        boot_id: The boot in which it was written.
        written: When that was, on both clocks of that boot.
    """

    criteria_id: int
    csource_id: str
    text: str | None
    boot_id: str
    written: Now


@dataclass(frozen=True, slots=True)
class Usage:
    """What an earlier run has counted.

    Attributes:
        counts: By criteria id, since it was added; the last match on the monotonic clock of that boot.
        boot_id: That boot.
        is_final: Whether nothing can have been copied since: the run ended in order.
        until: The last sign of life.
    """

    counts: Mapping[int, Count]
    boot_id: str
    is_final: bool
    until: Now | None = None


@dataclass(frozen=True, slots=True)
class Restoration:
    """What a restart makes of the journal.

    Attributes:
        restored: What runs again.
        ended: What does not, and why.
    """

    restored: tuple[Intercept, ...]
    ended: tuple[tuple[JournalRow, str], ...]


def to_text(intercept: Intercept) -> str:
    """An intercept as one line."""
    values: dict[str, Any] = {
        **{name: getattr(intercept, name) for name in _INTERCEPT},
        "format": _FORMAT,
        "csource_address": str(intercept.csource_address),
        "deliveries": [
            [str(each.address), each.port, str(each.source_address), each.source_port, each.ttl]
            for each in intercept.deliveries
        ],
        "filter": {name: getattr(intercept.filter, name) for name in _FILTER},
        "scope": {name: getattr(intercept.scope, name) for name in _SCOPE},
        "timeouts": [getattr(intercept.timeouts, name) for name in _TIMEOUTS],
        "extensions": [[each.name, each.value] for each in intercept.extensions],
        "added": intercept.added.isoformat(),
        "last_refresh": intercept.last_refresh.isoformat(),
        "carried": [intercept.carried.packets, intercept.carried.octets],
        "state": intercept.state.value,
    }
    return _ENCODE(values)


def from_text(text: str) -> Intercept:
    """The intercept that a line holds.

    Raises:
        JournalError: It cannot be read.
    """
    try:
        values = json.loads(text)
        if values.pop("format") != _FORMAT:
            raise JournalError("the journal was written by another version")
        packets, octets = values["carried"]
        return Intercept(
            **values
            | {
                "csource_address": ip_address(values["csource_address"]),
                "cdest_ids": tuple(values["cdest_ids"]),
                "deliveries": tuple(map(_delivery, values["deliveries"])),
                "refuse_oversize": tuple(values["refuse_oversize"]),
                "filter": FilterText(**values["filter"]),
                "scope": _scope(values["scope"]),
                "timeouts": Timeouts(*values["timeouts"]),
                "extensions": tuple(Parameter(name, value) for name, value in values["extensions"]),
                "added": datetime.fromisoformat(values["added"]),
                "last_refresh": datetime.fromisoformat(values["last_refresh"]),
                "carried": Count(packets, octets),
                "excluded": tuple(values["excluded"]),
                "state": State(values["state"]),
            }
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        raise JournalError("the journal's row cannot be read") from None


def _scope(values: dict[str, Any]) -> Scope:
    return Scope(
        **values | {name: tuple(values[name]) for name in ("input_interfaces", "output_interfaces")},
    )


def _delivery(values: list[Any]) -> Delivery:
    address, port, source_address, source_port, ttl = values
    return Delivery(ip_address(address), port, ip_address(source_address), source_port, ttl)


def restore(
    rows: Iterable[JournalRow],
    usage: Usage,
    policy: Policy,
    filters: Filters,
    *,
    ended_without_record: Collection[int],
    boot_id: str,
    now: Now,
) -> Restoration:
    """Decides what of the journal runs again: what can be read, is still lawful, and has not run out.

    A budget of packets or octets goes on where it is known what was used. After a crash of the whole machine
    it is not, and the budget counts as used up: a crash may shorten an intercept, never lengthen it.
    """
    restored: list[Intercept] = []
    ended: list[tuple[JournalRow, str]] = []
    for row in rows:
        if row.criteria_id in ended_without_record:
            ended.append((row, "ended when the journal could not be written"))
            continue
        if row.text is None:
            ended.append((row, "restart"))
            continue
        try:
            intercept = _moved(from_text(row.text), row, usage, boot_id, now)
            source = standing(intercept, policy, filters)
        except JournalError:
            ended.append((row, "the journal's row cannot be read"))
            continue
        except Refused as refused:
            ended.append((row, f"no longer permitted: {refused.info}"))
            continue
        is_known = usage.is_final or usage.boot_id == boot_id
        budgets = intercept.timeouts.packets or intercept.timeouts.octets
        if budgets and intercept.is_active and not is_known:
            ended.append((row, "time-out: what is left of a budget is not known after a crash"))
            continue
        reason = lifetime.reason_to_end(intercept, intercept.carried, now.monotonic_ns)
        if reason is not None:
            ended.append((row, f"time-out: {reason}"))
            continue
        restored.append(replace(intercept, excluded=source.excluded))
    return Restoration(tuple(restored), tuple(ended))


def _moved(intercept: Intercept, row: JournalRow, usage: Usage, boot_id: str, now: Now) -> Intercept:
    """The intercept on this boot's clock, with what earlier runs have counted."""
    count = usage.counts.get(intercept.criteria_id, intercept.carried)
    shift_ns = 0 if row.boot_id == boot_id else _shift_ns(row.written, now)
    idle_since_ns = intercept.idle_since_ns + shift_ns
    last_match_ns = count.last_match_ns
    if last_match_ns is not None and usage.boot_id == boot_id:
        idle_since_ns = max(idle_since_ns, last_match_ns)
    elif last_match_ns is not None and usage.until is not None:
        idle_since_ns = max(idle_since_ns, last_match_ns + _shift_ns(usage.until, now))
    end_ns, added_ns = intercept.order_end_ns, intercept.added_ns
    return replace(
        intercept,
        total_since_ns=intercept.total_since_ns + shift_ns,
        idle_since_ns=idle_since_ns,
        order_end_ns=None if end_ns is None else end_ns + shift_ns,
        added_ns=None if added_ns is None else added_ns + shift_ns,
        carried=Count(count.packets, count.octets),
    )


def _shift_ns(then: Now, now: Now) -> int:
    """What to add to a moment on the monotonic clock of another boot."""
    passed = now.wall.timestamp() - then.wall.timestamp()
    # A wall clock that was set back tells nothing: no time has passed then.
    passed_ns = max(int(passed * NANOSECONDS), 0)
    return now.monotonic_ns - passed_ns - then.monotonic_ns
