"""What is wrong with a guard that is there: missing, changed, added, in words.

Everything that is not exactly as it was installed counts: a rule that accepts before the guard's own is
enough to let everything through. Handles and counters are the kernel's.
"""

from __future__ import annotations

import json
from collections import Counter
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any, Final

from flowtap.delivery.guard import PREFERENCE, TABLE, chains, rules

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator

    from flowtap.config.values import Address
    from flowtap.delivery.guard import Chain, Drop, GuardPlan, Network

__all__ = ["faults", "stale_rules"]

_Form = tuple["Hashable", ...]
_FOREIGN: Final = "foreign"
_UNREACHABLE: Final = frozenset({"priority", "src", "dst", "dstlen", "action"})
"""What a rule of the routing policy says that holds for everything; a further key would make it narrower."""


def faults(plan: GuardPlan, nft_json: object, rules_json: object) -> list[str]:
    """What is not as it has to be; an empty list is a sound guard.

    Args:
        plan: What the guard has to hold.
        nft_json: What ``nft -j list table inet flowtap_guard`` gave; None where there is no such table.
        rules_json: What ``ip -4 -j rule show`` and ``ip -6 -j rule show`` gave, one list behind the other.
    """
    return [*_table_faults(plan, nft_json), *_rule_faults(plan, rules_json)]


def _table_faults(plan: GuardPlan, listed: object) -> Iterator[str]:
    if listed is None:
        yield f"nftables: there is no table inet {TABLE}"
        return
    items = listed.get("nftables") if isinstance(listed, dict) else None
    if not isinstance(items, list) or not all(isinstance(each, dict) for each in items):
        yield f"nftables: what is listed of table inet {TABLE} cannot be understood"
        return
    found: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        for kind, value in item.items():
            found.setdefault(kind, []).append(value if isinstance(value, dict) else {})
    if not any(each.get("family") == "inet" and each.get("name") == TABLE for each in found.get("table", [])):
        yield f"nftables: there is no table inet {TABLE}"
        return
    if any("flags" in each for each in found["table"]):
        # nft 1.0.6 knows no better than to print some other octets as their names.
        yield f"nftables: table inet {TABLE} has flags; dormant, it would drop nothing"
    for kind in sorted(found.keys() - {"metainfo", "table", "chain", "rule"}):
        yield f"nftables: table inet {TABLE} has a {kind} that is not the guard's"
    expected = {chain.name: chain for chain in chains(plan)}
    there = {str(each.get("name")): each for each in found.get("chain", [])}
    for name in sorted(there.keys() - expected.keys()):
        yield f"nftables: table inet {TABLE} has a chain {name} that is not the guard's"
    for name, chain in expected.items():
        if name not in there:
            yield f"nftables: the chain {name} is missing"
            continue
        yield from _chain_faults(chain, there[name])
        in_chain = [each for each in found.get("rule", []) if each.get("chain") == name]
        yield from _drop_faults(chain, [_form(each.get("expr")) for each in in_chain])


def _chain_faults(chain: Chain, found: dict[str, Any]) -> Iterator[str]:
    for key, right in (
        ("type", "filter"),
        ("hook", chain.hook),
        ("prio", chain.priority),
        ("policy", "accept"),
    ):
        if found.get(key) != right:
            what = "none" if found.get(key) is None else json.dumps(found[key])
            yield f"nftables: the chain {chain.name} has as {key} {what}; {right} is right"


def _drop_faults(chain: Chain, found: list[_Form]) -> Iterator[str]:
    expected = [_expected(drop) for drop in chain.drops]
    if found == expected:
        return
    missing = Counter(expected) - Counter(found)
    foreign = Counter(found) - Counter(expected)
    for drop, form in zip(chain.drops, expected, strict=True):
        if form in missing:
            yield f"nftables: the chain {chain.name} does not drop {drop.words}"
    for form, count in foreign.items():
        times = f", {count} times" if count > 1 else ""
        yield (
            f"nftables: the chain {chain.name} has a rule that is not the guard's (verdict {form[-1]}){times}"
        )
    if not missing and not foreign:
        yield f"nftables: the rules of the chain {chain.name} are in another order"


def _expected(drop: Drop) -> _Form:
    """The form that a rule has in any words that nft may find for it."""
    form: list[Hashable] = [(drop.family, drop.field, "==", _joined(map(_ends, drop.networks)))]
    if drop.port is not None:
        protocol, port = drop.port
        form.append((protocol, "dport", "==", port))
    if drop.interfaces:
        form.append(("meta", drop.way, "!=", frozenset(drop.interfaces)))
    return (*form, (drop.security, "ipsec", "==", False), "drop")


def _form(expressions: object) -> _Form:
    """The same of what nft lists; whatever is not understood makes a form that no rule of the guard has."""
    if not isinstance(expressions, list):
        return (_FOREIGN, "unknown")
    try:
        form = [each for each in map(_expression, expressions) if each is not None]
    except (AttributeError, KeyError, TypeError, ValueError):
        return (_FOREIGN, "unknown")
    if not form or not isinstance(form[-1], str):
        form.append("none")
    return tuple(form)


def _expression(value: dict[str, Any]) -> Hashable | None:
    ((kind, inside),) = value.items()
    if kind == "counter":
        return None
    if kind != "match":
        return str(kind)
    ((key, left),) = inside["left"].items()
    op, right = inside["op"], inside["right"]
    if key == "payload" and left["field"] in {"saddr", "daddr"}:
        return (left["protocol"], left["field"], op, _joined(_listed(right)))
    if key == "payload" and isinstance(right, int):
        return (left["protocol"], left["field"], op, right)
    if key in {"meta", "rt"} and set(left) == {"key"}:
        if isinstance(right, bool):
            return (key, left["key"], op, right)
        names = right["set"] if isinstance(right, dict) else [right]
        return (key, left["key"], op, frozenset(map(str, names)))
    return (_FOREIGN, json.dumps(value))


def _ends(network: Network) -> tuple[Address, Address]:
    return network.network_address, network.broadcast_address


def _listed(right: str | dict[str, Any]) -> Iterator[tuple[Address, Address]]:
    """First and last address of everything that the right side of a match names."""
    if isinstance(right, str):
        yield ip_address(right), ip_address(right)
    elif "prefix" in right:
        yield _ends(ip_network(f"{right['prefix']['addr']}/{right['prefix']['len']}"))
    elif "range" in right:
        first, last = right["range"]
        yield ip_address(first), ip_address(last)
    else:
        for each in right["set"]:
            yield from _listed(each)


def _joined(ranges: Iterable[tuple[Address, Address]]) -> tuple[tuple[int, int], ...]:
    """Sorted, and what touches made one: nft writes ranges where prefixes were given."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted((int(first), int(last)) for first, last in ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return tuple(joined)


def _rule_faults(plan: GuardPlan, listed: object) -> Iterator[str]:
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        yield "routing policy: what is listed of its rules cannot be understood"
        return
    there = set(_unreachable(listed))
    for network in rules(plan):
        if network not in there:
            yield f"routing policy: there is no rule {PREFERENCE} that calls {network} unreachable"


def stale_rules(plan: GuardPlan | None, listed: list[dict[str, Any]]) -> list[Network]:
    """Networks that are called unreachable at the guard's place, but not by this plan."""
    wanted = set() if plan is None else set(rules(plan))
    return sorted(set(_unreachable(listed)) - wanted, key=str)


def _unreachable(listed: Iterable[dict[str, Any]]) -> Iterator[Network]:
    for each in listed:
        is_whole = each.keys() <= _UNREACHABLE and each.get("src") == "all"
        if is_whole and each.get("priority") == PREFERENCE and each.get("action") == "unreachable":
            try:
                address = ip_address(str(each.get("dst")))
                yield ip_network((address, each.get("dstlen", address.max_prefixlen)))
            except ValueError:
                continue
