"""``interfaces``: the host has its own, but what the services of the router relied on is checked."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Address, IPv6Address

    from flowtap.config.junos.draft import Draft
    from flowtap.config.junos.reader import Reader
    from flowtap.config.junos.syntax import Node

__all__ = ["SERVICE_INTERFACE", "Interfaces"]

SERVICE_INTERFACE: Final = re.compile(
    r"(?:sp|ms|mams|rms|rsp|ams|dfc|mo|vt|lt|fti|si|es|gr|ip|mt|pd|pe)-?[0-9].*"
)
"""Cards and devices that only a router has."""
_LOGICAL: Final = re.compile(r"([^\s.]+)\.([0-9]{1,10})")
UNIT_MAX: Final = 2**32 - 1


class Interfaces:
    """The interfaces of the router.

    Args:
        reader: Reads.
        node: The stanza; None where there is none.
        names: Names of this system, by the router's.
    """

    def __init__(self, reader: Reader, node: Node | None, names: Mapping[str, str]) -> None:
        self._reader = reader
        self._ledger = reader.ledger
        self._node = node
        self._names = names

    def unit(self, logical: Node) -> Node | None:
        """The unit that a statement names, such as sp-0/3/0.1; a fault where there is none."""
        match = _LOGICAL.fullmatch(logical.word)
        if match is None or int(match[2]) > UNIT_MAX:
            reason = f"{logical.word!r} is no logical interface; one such as sp-0/3/0.0 is right"
            self._ledger.fault(logical, reason)
            return None
        unit = self._reader.child(self._node, match[1], "unit", match[2])
        if unit is None:
            reason = (
                f"there is no {logical.word}; interfaces {match[1]} unit {match[2]} with family inet is right"
            )
            if self._node is None:
                reason += "; the text has no interfaces at all: print the whole configuration"
            self._ledger.fault(logical, reason)
        return unit

    def require(self, logical: Node, *families: str) -> Node | None:
        """Checks that a unit is there and has these families."""
        unit = self.unit(logical)
        if unit is not None:
            for family in families:
                if self._reader.child(unit, "family", family) is None:
                    self._ledger.fault(logical, f"{logical.word} needs family {family} here")
        return unit

    def addresses(self) -> list[IPv4Address | IPv6Address]:
        """All addresses; those that cannot be are faults."""
        reader = self._reader
        found = []
        for interface in reader.children(self._node):
            for unit in reader.children(reader.child(interface, "unit")):
                for family in ("inet", "inet6"):
                    for each in reader.children(reader.child(unit, "family", family, "address")):
                        address = reader.interface_address(each)
                        if address is not None:
                            found.append(address)
        return found

    def map(self, draft: Draft) -> None:
        """Writes the interfaces that were named on the command line; those of the file are ignored."""
        section = draft.section("element")
        if self._names:
            systems = list(dict.fromkeys(self._names.values()))
            draft.put(section, "interfaces", systems, note="--interface")
            renamed = draft.section("element", "interface_names")
            for name, system in self._names.items():
                draft.put(renamed, name, system, note="--interface")
        else:
            draft.stand_in(
                section,
                "interfaces",
                ["eth0"],
                "element.interfaces: nothing names the interfaces to tap; --interface NAME=eth0, or the key"
                " itself, is right",
            )
        for interface in self._reader.children(self._node):
            if interface.word in self._names:
                reason = f"is {self._names[interface.word]} here; its addresses are this system's own affair"
            elif SERVICE_INTERFACE.fullmatch(interface.word):
                reason = "a service interface has no counterpart; what it did is done in software"
            else:
                reason = "interfaces to tap are named by --interface; addresses are this system's own affair"
            self._ledger.ignored(interface, reason)
        if self._node is not None:
            self._ledger.ignored(self._node, "inactive interfaces are not needed either")
