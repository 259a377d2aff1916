"""Reads values out of the tree: numbers in their ranges, addresses, names, each with its fault."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Network, IPv6Network

    from flowtap.config.junos.ledger import Ledger
    from flowtap.config.junos.syntax import Node

__all__ = ["Reader"]

_NAME: Final = re.compile(r"[!-+\--~]+")
_NUMBER: Final = re.compile(r"[0-9]{1,19}")
_SUFFIXES: Final = {"k": 1_000, "m": 1_000_000, "g": 1_000_000_000}
_RATE: Final = re.compile(r"([0-9]{1,18})([kmg]?)")
NAME_CHARACTERS_MAX: Final = 255


class Reader:
    """Looks at active statements only.

    Args:
        ledger: Where faults go, and what is set several times.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def children(self, node: Node | None) -> list[Node]:
        """What stands under a node; nothing under none."""
        return [] if node is None else [child for child in node.children.values() if not child.inactive]

    def child(self, node: Node | None, *words: str) -> Node | None:
        """What a chain of words leads to."""
        for word in words:
            if node is None:
                return None
            node = node.children.get(word)
            if node is not None and node.inactive:
                return None
        return node

    def one(self, node: Node | None, word: str) -> Node | None:
        """The value of a statement that has one; where several are set the last one counts."""
        name = self.child(node, word)
        if name is None:
            return None
        values = self.children(name)
        if not values:
            if not name.children:
                self.ledger.fault(name, f"{word} has no value")
            return None
        *before, last = values
        for each in before:
            self.ledger.ignored(each, f"replaced in line {last.line}, column {last.column}")
        if last.children:
            reason = f"more words stand behind the value of {word}; a statement of their own is right"
            self.ledger.fault(next(last.leaves()), reason)
            return None
        return last

    def single(self, values: Iterable[Node], what: str, most: int) -> list[Node]:
        """Words of a list, of which there are at most so many and that nothing follows."""
        found = []
        for at, each in enumerate(values, start=1):
            if at > most:
                self.ledger.fault(each, f"{what}: at most {most:,} are right")
                break
            if each.children:
                self.ledger.fault(next(each.leaves()), f"{what}: nothing stands behind {each.word!r}")
                continue
            found.append(each)
        return found

    def number(self, node: Node | None, word: str, low: int, high: int) -> tuple[Node, int] | None:
        """A number in a range."""
        value = self.one(node, word)
        if value is None:
            return None
        number = int(value.word) if _NUMBER.fullmatch(value.word) else -1
        if not low <= number <= high:
            self.ledger.fault(value, f"{word}: a number from {low:,} to {high:,} is right")
            return None
        return value, number

    def rate(self, node: Node | None, word: str, what: str = "bits") -> tuple[Node, int] | None:
        """Bits a second or packets a second, with k, m or g behind the number."""
        value = self.one(node, word)
        if value is None:
            return None
        match = _RATE.fullmatch(value.word)
        number = int(match[1]) * _SUFFIXES.get(match[2], 1) if match is not None else 0
        if not 0 < number < 2**63:
            self.ledger.fault(value, f"{word}: {what} a second are right, such as 800000, 800k or 2m")
            return None
        return value, number

    def address(self, node: Node) -> IPv4Address | IPv6Address | None:
        """The address of one host."""
        try:
            return ip_address(node.word)
        except ValueError:
            self.ledger.fault(node, f"{node.word!r} is no address; one such as 192.0.2.1 is right")
            return None

    def address_v4(self, node: Node) -> IPv4Address | None:
        """The same, where the vendor takes IPv4 only."""
        try:
            return IPv4Address(node.word)
        except ValueError:
            self.ledger.fault(node, f"{node.word!r} is no IPv4 address; one such as 192.0.2.1 is right")
            return None

    def network(self, node: Node) -> IPv4Network | IPv6Network | None:
        """A prefix, or an address, which is a prefix of one host."""
        try:
            return ip_network(node.word)
        except ValueError:
            self.ledger.fault(node, self._no_network(node.word))
            return None

    def _no_network(self, text: str) -> str:
        try:
            return f"{text!r} has host bits; {ip_network(text, strict=False)} is right"
        except ValueError:
            return f"{text!r} is no prefix; one such as 192.0.2.0/24 is right"

    def interface_address(self, node: Node) -> IPv4Address | IPv6Address | None:
        """The address of an interface, with the length of its network behind it."""
        try:
            ip_network(node.word, strict=False)
            return ip_address(node.word.partition("/")[0])
        except ValueError:
            reason = f"{node.word!r} is no address of an interface; one such as 192.0.2.1/24 is right"
            self.ledger.fault(node, reason)
            return None

    def name(self, node: Node, most: int = NAME_CHARACTERS_MAX) -> str | None:
        """A name that flowtap's configuration takes."""
        if not self.is_name(node.word, most):
            reason = f"a name of 1 to {most} letters, digits and signs, without blanks and commas, is right"
            self.ledger.fault(node, reason)
            return None
        return node.word

    def is_name(self, word: str, most: int = NAME_CHARACTERS_MAX) -> bool:
        """Whether flowtap's configuration takes a word as a name."""
        return len(word) <= most and _NAME.fullmatch(word) is not None

    def chosen(self, value: Node | None, choices: Iterable[str]) -> str | None:
        """A keyword out of several."""
        if value is None:
            return None
        known = list(choices)
        if value.word not in known:
            self.ledger.fault(value, f"{value.word!r} is none; one of {', '.join(known)} is right")
            return None
        return value.word
