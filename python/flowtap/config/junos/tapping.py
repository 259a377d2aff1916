"""``services flow-tap``, ``radius-flow-tap`` and ``mobile-flow-tap``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from flowtap.config.junos.draft import Draft
    from flowtap.config.junos.interfaces import Interfaces
    from flowtap.config.junos.reader import Reader
    from flowtap.config.junos.syntax import Node

__all__ = ["map_tapping"]

_NO_CARD: Final = "no services card and no tunnel interface is needed; --interface says what is tapped"
_EXCLUSIVE: Final = (
    ("flow-tap", "dynamic-flow-capture"),
    ("radius-flow-tap", "dynamic-flow-capture"),
    ("mobile-flow-tap", "dynamic-flow-capture"),
    ("mobile-flow-tap", "radius-flow-tap"),
    ("mobile-flow-tap", "flow-tap"),
)
"""What the vendor does not let stand beside each other."""


def map_tapping(reader: Reader, draft: Draft, services: Node | None, interfaces: Interfaces) -> None:
    """Imports the services that tap, and checks what the vendor demands of them."""
    for first, second in _EXCLUSIVE:
        one, other = reader.child(services, first), reader.child(services, second)
        if one is not None and other is not None:
            late = max(one, other, key=lambda each: (each.line, each.column))
            early = other if late is one else one
            reader.ledger.fault(late, f"cannot stand beside services {early.word}; one of them is right")
    _flow_tap(reader, draft, reader.child(services, "flow-tap"), interfaces)
    radius = reader.child(services, "radius-flow-tap")
    if radius is not None:
        _radius(reader, draft, radius, interfaces)
    mobile = reader.child(services, "mobile-flow-tap")
    if mobile is not None:
        reader.ledger.unmapped(mobile, "there are no mobile subscribers here")


def _flow_tap(reader: Reader, draft: Draft, node: Node | None, interfaces: Interfaces) -> None:
    if node is None:
        return
    ledger = reader.ledger
    service, tunnel = reader.one(node, "interface"), reader.one(node, "tunnel-interface")
    if service is not None and tunnel is not None:
        ledger.fault(tunnel, "tunnel-interface cannot stand beside interface; one of them is right")
    if service is not None:
        interfaces.require(service, "inet")
        ledger.ignored(service, _NO_CARD)
    if tunnel is not None:
        interfaces.require(tunnel, "inet", "inet6")
        ledger.ignored(tunnel, _NO_CARD)
    family = reader.child(node, "family")
    known = reader.single(reader.children(family), "family", 3)
    for each in known:
        if reader.chosen(each, ("inet", "inet6", "ccc")) is not None:
            ledger.ignored(each, "all families are tapped; the filter of a criterion decides")
    if "inet6" not in {each.word for each in known}:
        draft.notes.append(
            "services flow-tap: the router tapped IPv4 only. A criterion without addresses matches IPv6 here"
            " as well; X-JTap-IP-Version: 4 bounds it"
        )
    trace = reader.child(node, "traceoptions")
    if trace is not None:
        ledger.ignored(trace, "the log says what happens")


def _radius(reader: Reader, draft: Draft, node: Node, interfaces: Interfaces) -> None:
    ledger = reader.ledger
    _radius_source(reader, draft, node)
    for each in reader.single(reader.children(reader.child(node, "interfaces")), "interfaces", 64):
        unit = interfaces.require(each, "inet")
        if reader.child(unit, "family", "inet", "filter") is not None:
            ledger.fault(each, f"{each.word} has a firewall filter, which it must not have")
        ledger.ignored(each, _NO_CARD)
    instances = [
        *reader.children(reader.child(node, "routing-instance")),
        *reader.children(reader.child(node, "logical-system")),
    ]
    for each in instances[1:]:
        ledger.fault(each, "one routing-instance or logical-system is right")
    for word, reason in (
        ("forwarding-class", "copies have no class of service of their own"),
        ("routing-instance", "copies leave as the host routes them"),
        ("logical-system", "copies leave as the host routes them"),
        (
            "policy",
            "excluded_prefixes would leave out packets in both directions; write it by hand if that is meant",
        ),
        ("snmp", "there is no SNMP; control_source.NAME.notification_targets has notifications in DTCP"),
    ):
        found = reader.child(node, word)
        if found is not None:
            if word == "snmp":
                for target in reader.children(reader.child(found, "notify-targets")):
                    reader.address(target)
            ledger.unmapped(found, reason)
    for word, reason in (
        ("multicast-interception", "multicast is tapped like everything else"),
        ("traceoptions", "the log says what happens"),
    ):
        found = reader.child(node, word)
        if found is not None:
            ledger.ignored(found, reason)


def _radius_source(reader: Reader, draft: Draft, node: Node) -> None:
    source = reader.one(node, "source-ipv4-address")
    if source is None or reader.address_v4(source) is None:
        return
    if reader.child(node.parent, "flow-tap") is not None:
        reason = "clients of services flow-tap name their own; policy.source_addresses can bound them"
        reader.ledger.unmapped(source, reason)
        return
    section = draft.section("policy")
    target = draft.put(section, "source_addresses", [source.word], source)
    reader.ledger.mapped(source, target, "no copy may have another outer source address")
