"""``services dynamic-flow-capture``: control sources over UDP and content destinations with limits."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from flowtap.config.junos.secrets import deobfuscate, is_obfuscated, is_sealed, secret_file

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from flowtap.config.junos.draft import Draft
    from flowtap.config.junos.ipsec import TunnelPlan
    from flowtap.config.junos.reader import Reader
    from flowtap.config.junos.syntax import Node

__all__ = ["Capture"]

_GROUPS_MAX: Final = 16
_SOURCES_MAX: Final = 64
_DESTINATIONS_MAX: Final = 64
_ID_CHARACTERS_MAX: Final = 48
_GROUP_CHARACTERS_MAX: Final = 64
_KEY_CHARACTERS_MAX: Final = 20
_LIST_MAX: Final = 8
_ALLOWED_MAX: Final = 16
_PRIORITY_MAX: Final = 255
_PORT_MAX: Final = 65_535
_RATE_MAX: Final = 1_024_000
_UDP_PORT: Final = 1_814
_NO_BOUND: Final = "a packet is copied to every content destination that asked for it"
_NO_CARD: Final = "there is no services card whose load would have to be watched"


class Capture:
    """Imports the stanza.

    Args:
        reader: Reads.
        draft: Is written to.
        node: The stanza; None where there is none.
        logins: Users who task over SSH, and so are control sources too.
        plans: Tunnels that were imported.
    """

    def __init__(
        self, reader: Reader, draft: Draft, node: Node | None, logins: list[str], plans: list[TunnelPlan]
    ) -> None:
        self._reader = reader
        self._ledger = reader.ledger
        self._draft = draft
        self._node = node
        self._logins = logins
        self._plans = plans
        self.ports: dict[int, Node | None] = {}
        """Ports that tasking over UDP comes to, each with a statement that says so."""

    def map(self) -> None:
        """Writes control sources and content destinations."""
        reader, node = self._reader, self._node
        if node is None:
            return
        everywhere = self._period(node, "g-duplicates-dropped-periodicity")
        self._duplicates(node, "g-max-duplicates")
        groups = reader.children(reader.child(node, "capture-group"))
        for late in groups[_GROUPS_MAX:]:
            self._ledger.fault(late, f"at most {_GROUPS_MAX} capture groups are right")
        periods = [everywhere] if everywhere is not None else []
        for group in groups[:_GROUPS_MAX]:
            reader.name(group, _GROUP_CHARACTERS_MAX)
            own = self._period(group, "duplicates-dropped-periodicity")
            periods += [own] if own is not None else []
            self._duplicates(group, "max-duplicates")
            self._card(group)
            destinations = self._destinations(group)
            self._sources(group, None if len(groups) == 1 else destinations)
        self._write_period(periods)
        traces = reader.child(node, "traceoptions")
        if traces is not None:
            self._ledger.ignored(traces, "the log says what happens")

    def _period(self, node: Node, word: str) -> tuple[Node, int] | None:
        return self._reader.number(node, word, 1, 255)

    def _write_period(self, periods: list[tuple[Node, int]]) -> None:
        """One holds for everybody; a group's own goes before the general one."""
        if not periods:
            return
        section = self._draft.section("policy")
        place, number = periods[-1]
        target = self._draft.put(section, "duplicates_dropped_period_s", number, place)
        self._ledger.mapped(place, target)
        for other, value in periods[:-1]:
            if value == number:
                self._ledger.mapped(other, target)
            else:
                where = f"line {place.line}, column {place.column}"
                reason = f"one value holds for all groups; that of {where} was taken"
                self._ledger.unmapped(other, reason)

    def _duplicates(self, node: Node, word: str) -> None:
        if (found := self._reader.number(node, word, 1, 64)) is not None:
            self._ledger.unmapped(found[0], _NO_BOUND)

    def _card(self, group: Node) -> None:
        reader, ledger = self._reader, self._ledger
        for each in reader.single(reader.children(reader.child(group, "interfaces")), "interfaces", 1):
            ledger.ignored(each, "a service interface has no counterpart; --interface says what is tapped")
        if (rate := reader.rate(group, "input-packet-rate-threshold", "packets")) is not None:
            if rate[1] > _RATE_MAX:
                ledger.fault(rate[0], f"input-packet-rate-threshold: at most {_RATE_MAX:,} are right")
            ledger.ignored(rate[0], _NO_CARD)
        memory = reader.child(group, "pic-memory-threshold")
        if (share := reader.number(memory, "percentage", 10, 100)) is not None:
            ledger.ignored(share[0], _NO_CARD)

    # -- control sources -----------------------------------------------------------------------------------

    def _sources(self, group: Node, destinations: list[str] | None) -> None:
        sources = self._reader.children(self._reader.child(group, "control-source"))
        for late in sources[_SOURCES_MAX:]:
            self._ledger.fault(late, f"at most {_SOURCES_MAX} control sources in a group are right")
        for source in sources[:_SOURCES_MAX]:
            self._source(source, destinations)

    def _source(self, node: Node, destinations: list[str] | None) -> None:
        reader, ledger, draft = self._reader, self._ledger, self._draft
        name = reader.name(node, _ID_CHARACTERS_MAX)
        if name is None:
            return
        section = ("control_source", name)
        if section in draft.sections and name not in self._logins:
            ledger.unmapped(node, "another capture group has a control source of this name")
            return
        has_key = self._shared_key(node, name)
        if not has_key and name not in self._logins:
            self._check_only(node)
            reason = "it has neither a shared-key nor a login of its name, so nobody could act for it"
            ledger.unmapped(node, reason)
            return
        self._addresses(node, section)
        self._targets(node, section)
        self._priority(node, section)
        allowed = reader.single(
            reader.children(reader.child(node, "allowed-destinations")), "allowed-destinations", _ALLOWED_MAX
        )
        names = [each for each in allowed if reader.name(each, _ID_CHARACTERS_MAX) is not None]
        if names:
            target = draft.put(section, "allowed_destinations", [each.word for each in names], *names)
            for each in names:
                ledger.mapped(each, target)
        elif destinations:
            draft.put(section, "allowed_destinations", destinations, note="those of its capture group")
        port = self._port(node)
        if has_key and port is None:
            self.ports.setdefault(_UDP_PORT, None)
        silent = reader.child(node, "no-syslog")
        if silent is not None:
            ledger.unmapped(silent, "what is said about a control source cannot be left out of the log")

    def _check_only(self, node: Node) -> None:
        """What cannot be is told even of a control source that is not imported."""
        reader = self._reader
        for each in reader.children(reader.child(node, "source-addresses")):
            reader.address_v4(each)
        reader.number(node, "service-port", 1, _PORT_MAX)

    def _shared_key(self, node: Node, name: str) -> bool:
        given = self._reader.one(node, "shared-key")
        if given is None:
            return False
        section = self._draft.section("control_source", name)
        secret, note = given.word.encode(), None
        if is_sealed(given.word):
            file = self._draft.file(name, ".key", b"")
            self._draft.needed.append(
                f"control_source.{name}.key_file: only the router can read its secret; write it into {file}"
            )
            self._ledger.unmapped(given, "is encrypted with the router's master password")
            self._draft.put(section, "key_file", file, given, note="empty until the secret is written")
            return True
        if is_obfuscated(given.word):
            try:
                secret = deobfuscate(given.word)
            except ValueError as error:
                self._ledger.fault(given, f"shared-key: {error}")
                return False
            note = "$9$ is no encryption: whoever has seen the file knows the secret"
        if not 1 <= len(secret) <= _KEY_CHARACTERS_MAX:
            self._ledger.fault(given, f"shared-key: 1 to {_KEY_CHARACTERS_MAX} characters are right")
            return False
        file = self._draft.file(name, ".key", secret_file(secret))
        self._ledger.mapped(given, self._draft.put(section, "key_file", file, given), note)
        return True

    def _addresses(self, node: Node, section: tuple[str, ...]) -> None:
        reader = self._reader
        given = reader.single(
            reader.children(reader.child(node, "source-addresses")), "source-addresses", _LIST_MAX
        )
        good = [each for each in given if reader.address_v4(each) is not None]
        if good:
            target = self._draft.put(section, "addresses", [each.word for each in good], *good)
            for each in good:
                self._ledger.mapped(each, target)

    def _targets(self, node: Node, section: tuple[str, ...]) -> None:
        reader = self._reader
        given = reader.children(reader.child(node, "notification-targets"))
        for late in given[_LIST_MAX:]:
            self._ledger.fault(late, f"notification-targets: at most {_LIST_MAX} are right")
        targets, origins = [], []
        for each in given[:_LIST_MAX]:
            if not each.children:
                self._ledger.fault(each, "notification-targets: ADDRESS port NUMBER is right")
                continue
            address, port = reader.address_v4(each), reader.number(each, "port", 1, _PORT_MAX)
            if address is not None and port is not None:
                targets.append(f"{address}:{port[1]}")
                origins.append(port[0])
        if targets:
            target = self._draft.put(section, "notification_targets", targets, *origins)
            for each in origins:
                self._ledger.mapped(each, target)

    def _priority(self, node: Node, section: tuple[str, ...]) -> None:
        if (priority := self._reader.number(node, "minimum-priority", 0, _PRIORITY_MAX)) is None:
            return
        place, number = priority
        if number == _PRIORITY_MAX:
            self._ledger.unmapped(place, "255 leaves no priority to its criteria; at most 254 is right")
            return
        self._ledger.mapped(place, self._draft.put(section, "minimum_priority", number, place))

    def _port(self, node: Node) -> int | None:
        if (port := self._reader.number(node, "service-port", 1, _PORT_MAX)) is None:
            return None
        place, number = port
        self.ports[number] = self.ports.get(number) or place
        self._ledger.mapped(place, "dtcp.udp.listen", "every control source may use every port")
        return number

    # -- content destinations ------------------------------------------------------------------------------

    def _destinations(self, group: Node) -> list[str]:
        given = self._reader.children(self._reader.child(group, "content-destination"))
        for late in given[_DESTINATIONS_MAX:]:
            reason = f"at most {_DESTINATIONS_MAX} content destinations in a group are right"
            self._ledger.fault(late, reason)
        names = (self._destination(each) for each in given[:_DESTINATIONS_MAX])
        return [name for name in names if name is not None]

    def _destination(self, node: Node) -> str | None:
        reader, ledger, draft = self._reader, self._ledger, self._draft
        name = reader.name(node, _ID_CHARACTERS_MAX)
        address = reader.one(node, "address")
        ttl = reader.number(node, "ttl", 1, 255)
        limits = self._limits(node)
        if name is None:
            return None
        if ("content_destination", name) in draft.sections:
            ledger.unmapped(node, "another capture group has a content destination of this name")
            return None
        if address is None:
            ledger.fault(node, "names no address; address 192.0.2.9 is right, for instance")
            return None
        target = reader.address_v4(address)
        if target is None:
            return None
        section = draft.section("content_destination", name)
        ledger.mapped(address, draft.put(section, "address", address.word, address))
        draft.stand_in(
            section,
            "port",
            1,
            f"content_destination.{name}.port: the mediation device's UDP port; the router sent IP in IP",
        )
        self._source_address(section, name, target)
        for key, found in (("ttl", ttl), *limits):
            if found is not None:
                ledger.mapped(found[0], draft.put(section, key, found[1], found[0]))
        return name

    def _source_address(self, section: tuple[str, ...], name: str, address: IPv4Address) -> None:
        """What lies behind a tunnel is sent from the address that the tunnel is for, where there is one."""
        behind = [plan for plan in self._plans if any(address in network for network in plan.remote)]
        host = behind[0].host if behind else None
        if host is not None:
            note = f"the one address that tunnel {behind[0].name} is for"
            self._draft.put(section, "source_address", str(host), note=note)
            return
        stand_in = behind[0].local[0].network_address if behind else "192.0.2.1"
        self._draft.stand_in(
            section,
            "source_address",
            str(stand_in),
            f"content_destination.{name}.source_address: the outer source address; the router had its card's",
        )

    def _limits(self, node: Node) -> list[tuple[str, tuple[Node, int] | None]]:
        words = ("soft-limit-clear", "soft-limit", "hard-limit-target", "hard-limit")
        found = [(word, self._reader.rate(node, word)) for word in words]
        values = {word: rate for word, rate in found if rate is not None}
        for low, high in (("soft-limit-clear", "soft-limit"), ("hard-limit-target", "hard-limit")):
            alone = [word for word in (low, high) if self._reader.child(node, word) is not None]
            if len(alone) == 1:
                missing = high if alone[0] == low else low
                place = self._reader.child(node, alone[0])
                self._ledger.fault(place or node, f"{alone[0]} without {missing}; both are needed")
        for low, high in itertools.pairwise(words):
            if low in values and high in values and values[low][1] >= values[high][1]:
                self._ledger.fault(values[low][0], f"{low} must be below {high}")
        return [(f"{word.replace('-', '_')}_bps", rate) for word, rate in found]
