"""``services service-set`` and ``ipsec-vpn``: every term of a rule in use becomes a tunnel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from flowtap.config.junos.ledger import statement
from flowtap.config.junos.policies import IkePolicy, IpsecPolicy
from flowtap.config.tunnels import TunnelSection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    from flowtap.config.junos.draft import Draft, Value
    from flowtap.config.junos.interfaces import Interfaces
    from flowtap.config.junos.reader import Reader
    from flowtap.config.junos.syntax import Node

__all__ = ["TunnelPlan", "Tunnels"]

_DPD_DELAY_MAX_S: Final = 60
_DEAD_PEER_MAX_S: Final = 600
_THRESHOLD_MAX: Final = 600
_TUNNELS_MAX: Final = 1_000
_NETWORKS_MAX: Final = 2_000
"""Of all tunnels together: each is compared with every other one, because none may lead to two places."""
_FAULTS_MAX: Final = 100
_NAMES_SHOWN: Final = 5
_BESIDE_GATEWAY: Final = frozenset({"routing-instance", "interface", "gw-interface"})
_AS_ROUTED: Final = "IKE leaves as the host routes it"
_ALWAYS: Final = "is always so"
_IN_VPN: Final = {
    "traceoptions": "the log says what happens",
    "establish-tunnels": "a tunnel comes up at once and again after every loss",
    "clear-ike-sas-on-pic-restart": "there is no services card that could restart",
    "clear-ipsec-sas-on-pic-restart": "there is no services card that could restart",
    "no-ipsec-tunnel-in-traceroute": "is about packets that pass the router",
}
_IN_THEN: Final = {
    "initiate-dead-peer-detection": _ALWAYS,
    "clear-dont-fragment-bit": "copies have it clear",
    "syslog": "the log says what happens to a tunnel",
}
_NOT_IN_THEN: Final = {
    "backup-remote-gateway": "a tunnel has one remote gateway; write a second tunnel where there is another",
    "anti-replay-window-size": "the kernel's own window is used",
    "no-anti-replay": "replayed packets are always refused",
    "tunnel-mtu": "the route decides how large packets may be",
}


@dataclass(frozen=True, slots=True)
class TunnelPlan:
    """A tunnel that was imported.

    Attributes:
        name: That of its section.
        local: What may speak through it.
        remote: What lies behind it.
        inside: The router's interface that led into it, None where there was none.
    """

    name: str
    local: list[IPv4Network | IPv6Network]
    remote: list[IPv4Network | IPv6Network]
    inside: str | None

    @property
    def host(self) -> IPv4Address | IPv6Address | None:
        """The one address of this host that speaks through it; None where it could be several."""
        if len(self.local) == 1 and self.local[0].num_addresses == 1:
            return self.local[0].network_address
        return None


@dataclass(frozen=True, slots=True)
class _ServiceSet:
    """What the terms of a service set have in common."""

    node: Node
    gateway: Node | None
    inside: str | None


@dataclass(slots=True)
class Parts:
    """What a tunnel is put together from, before it is known that it works."""

    values: dict[str, tuple[Value, list[Node]]] = field(default_factory=dict)
    names: dict[str, Node] = field(default_factory=dict)
    """What the router called it, by key; ``show`` goes on with that."""
    secret: bytes | None = None
    secret_origin: Node | None = None
    secret_note: str | None = None
    explained: list[tuple[Node, str]] = field(default_factory=list)
    """Statements that are mapped by being explained."""
    needed: list[str] = field(default_factory=list)
    obstacles: list[tuple[Node, str]] = field(default_factory=list)

    def put(self, key: str, value: Value, *origins: Node) -> None:
        self.values[key] = (value, list(origins))


class Tunnels:
    """Imports the stanzas.

    Args:
        reader: Reads.
        draft: Is written to.
        services: Holds them; None where there are none.
        interfaces: Those of the router.
    """

    def __init__(self, reader: Reader, draft: Draft, services: Node | None, interfaces: Interfaces) -> None:
        self._reader = reader
        self._ledger = reader.ledger
        self._draft = draft
        self._services = services
        self._vpn = reader.child(services, "ipsec-vpn")
        self._interfaces = interfaces
        self._count = 0
        self._networks_count = 0
        self._used: set[str] = set()
        self.plans: list[TunnelPlan] = []
        self.is_complete = True
        """No tunnel was left out."""

    def map(self) -> None:
        """Writes a section for every term that a service set uses."""
        reader, ledger = self._reader, self._ledger
        for node in reader.children(reader.child(self._services, "service-set")):
            if len(ledger.faults) > _FAULTS_MAX:
                # One mistake in a rule that a thousand sets use is told often enough.
                break
            self._service_set(node)
        if self._vpn is None:
            return
        establish = reader.one(self._vpn, "establish-tunnels")
        if establish is not None and establish.word == "responder-only":
            ledger.unmapped(establish, "a tunnel is brought up from here as well")
        for word, reason in _IN_VPN.items():
            found = reader.child(self._vpn, word)
            if found is not None:
                ledger.ignored(found, reason)
        self._say_unused(reader.children(reader.child(self._vpn, "rule")))
        for names in (
            *(("rule",), ("rule-set",), ("ike", "proposal"), ("ike", "policy")),
            *(("ipsec", "proposal"), ("ipsec", "policy")),
        ):
            for each in reader.children(reader.child(self._vpn, *names)):
                self._leave(each)

    def _say_unused(self, rules: list[Node]) -> None:
        unused = [rule for rule in rules if rule.word not in self._used]
        if not unused:
            return
        names = [f"{statement([rule.word])} (line {rule.line})" for rule in unused[:_NAMES_SHOWN]]
        names += [f"{len(unused) - len(names):,} more"] if len(unused) > len(names) else []
        self._draft.notes.append(
            f"ipsec-vpn: no service set uses the rules {', '.join(names)}; they are no tunnels, neither on"
            " the router nor here"
        )

    def _leave(self, node: Node) -> None:
        """What is left of a rule, a policy or a proposal is its description, or it is not in use."""
        description = self._reader.child(node, "description")
        if description is not None:
            self._ledger.ignored(description, "a description")
        others = (leaf for leaf in node.leaves() if leaf.parent is not description and not leaf.inactive)
        if not any(map(self._ledger.is_claimed, others)):
            self._ledger.ignored(node, "no tunnel that was imported uses it")

    def _service_set(self, node: Node) -> None:
        reader, ledger = self._reader, self._ledger
        description = reader.child(node, "description")
        if description is not None:
            ledger.ignored(description, "a description")
        if (
            reader.child(node, "ipsec-vpn-rules") is None
            and reader.child(node, "ipsec-vpn-rule-sets") is None
        ):
            ledger.ignored(node, "the service set has no rule of ipsec-vpn")
            return
        gateway = self._gateway(node, reader.child(node, "ipsec-vpn-options"))
        around = _ServiceSet(node, gateway, self._inside(node))
        for reference, rule in self._rules(node):
            self._used.add(rule.word)
            terms = reader.children(reader.child(rule, "term"))
            if not terms:
                ledger.fault(reference, f"the rule {rule.word} has no term")
            for term in terms:
                self._count += 1
                if self._count > _TUNNELS_MAX:
                    ledger.fault(reference, f"more than {_TUNNELS_MAX:,} tunnels; fewer are right")
                    return
                if reader.name(rule) is not None and reader.name(term) is not None:
                    name = rule.word if len(terms) == 1 else f"{rule.word}-{term.word}"
                    self._term(name, around, rule, term)
            ledger.ignored(reference, "its terms have become tunnels, one each")
        for word, reason in (
            ("next-hop-service", "a tunnel needs no service interfaces"),
            ("interface-service", "a tunnel needs no service interfaces"),
        ):
            found = reader.child(node, word)
            if found is not None:
                ledger.ignored(found, reason)

    def _rules(self, node: Node) -> Iterator[tuple[Node, Node]]:
        """Rules that a service set names, each with the statement that names it."""
        reader = self._reader
        for reference in reader.children(reader.child(node, "ipsec-vpn-rules")):
            rule = reader.child(self._vpn, "rule", reference.word)
            if rule is None:
                self._ledger.fault(reference, f"there is no ipsec-vpn rule {reference.word!r}")
            else:
                yield reference, rule
        for reference in reader.children(reader.child(node, "ipsec-vpn-rule-sets")):
            rule_set = reader.child(self._vpn, "rule-set", reference.word)
            if rule_set is None:
                self._ledger.fault(reference, f"there is no ipsec-vpn rule-set {reference.word!r}")
            for each in reader.children(reader.child(rule_set, "rule")):
                rule = reader.child(self._vpn, "rule", each.word)
                if rule is None:
                    self._ledger.fault(each, f"there is no ipsec-vpn rule {each.word!r}")
                else:
                    yield each, rule
            self._ledger.ignored(reference, "the terms of its rules have become tunnels, one each")

    def _inside(self, node: Node) -> str | None:
        """The interface that leads into the service set; both are checked as the vendor does."""
        reader = self._reader
        service = reader.child(node, "next-hop-service")
        if service is None:
            return None
        beside = reader.child(node, "interface-service")
        if beside is not None:
            reason = "interface-service cannot stand beside next-hop-service; one of them is right"
            self._ledger.fault(beside, reason)
        words = {"inside-service-interface": "inside", "outside-service-interface": "outside"}
        found = {word: reader.one(service, word) for word in words}
        for word, domain in words.items():
            logical = found[word]
            if logical is None:
                self._ledger.fault(service, f"names no {word}; both are needed")
                continue
            unit = self._interfaces.require(logical, "inet")
            stated = reader.child(unit, "service-domain")
            if stated is not None and reader.child(stated, domain) is None:
                self._ledger.fault(logical, f"{logical.word} is not of service-domain {domain}")
        inside = found["inside-service-interface"]
        return None if inside is None else inside.word

    def _gateway(self, node: Node, options: Node | None) -> Node | None:
        reader = self._reader
        stated = reader.child(options, "local-gateway")
        given = reader.children(stated)
        gateways = [each for each in given if each.word not in _BESIDE_GATEWAY]
        for each in given:
            if each not in gateways:
                self._ledger.unmapped(each, _AS_ROUTED)
        if not gateways:
            self._ledger.fault(stated or node, "ipsec-vpn-options local-gateway with an address is needed")
            return None
        for each in reader.children(gateways[0]):
            self._ledger.unmapped(each, _AS_ROUTED)
        return gateways[0] if reader.address(gateways[0]) is not None else None

    # -- one term ------------------------------------------------------------------------------------------

    def _term(self, name: str, around: _ServiceSet, rule: Node, term: Node) -> None:
        reader = self._reader
        parts = Parts(names={"service_set": around.node, "rule": rule, "term": term})
        direction = reader.one(rule, "match-direction")
        if reader.chosen(direction, ("input", "output")) is not None and direction is not None:
            parts.explained.append((direction, "a tunnel matches what leaves, and expects what comes"))
        local = self._networks(parts, term, "source-address", "local_networks")
        remote = self._networks(parts, term, "destination-address", "remote_networks")
        then = reader.child(term, "then")
        peer = reader.one(then, "remote-gateway")
        if peer is None:
            parts.obstacles.append((term, "names no remote-gateway"))
        elif reader.address(peer) is not None:
            parts.put("remote_gateway", peer.word, peer)
        if around.gateway is not None:
            parts.put("local_gateway", around.gateway.word, around.gateway)
        self._dynamic(parts, term, then)
        self._dead_peer(parts, then)
        for word, reason in _IN_THEN.items():
            found = reader.child(then, word)
            if found is not None:
                self._ledger.ignored(found, reason)
        for word, reason in _NOT_IN_THEN.items():
            found = reader.child(then, word)
            if found is not None:
                self._ledger.unmapped(found, reason)
        if ("tunnel", name) in self._draft.sections:
            name = f"{around.node.word}-{name}"
        while ("tunnel", name) in self._draft.sections:
            name += "-again"
        self._write(parts, term, TunnelPlan(name, local, remote, around.inside))

    def _networks(self, parts: Parts, term: Node, word: str, key: str) -> list[IPv4Network | IPv6Network]:
        reader = self._reader
        given = reader.single(reader.children(reader.child(term, "from", word)), word, 1_024)
        networks = [(each, network) for each in given if (network := reader.network(each)) is not None]
        self._networks_count += len(networks)
        if self._networks_count > _NETWORKS_MAX:
            self._ledger.fault(term, f"more than {_NETWORKS_MAX:,} networks of all tunnels; fewer are right")
        if networks:
            parts.put(key, [str(network) for _, network in networks], *(each for each, _ in networks))
        elif not given:
            reason = f"from names no {word}; a tunnel has to know what it is for"
            parts.obstacles.append((term, reason))
        return [network for _, network in networks]

    def _dynamic(self, parts: Parts, term: Node, then: Node | None) -> None:
        reader = self._reader
        manual = reader.child(then, "manual")
        if manual is not None:
            parts.obstacles.append((manual, "keys that never change are not used; dynamic is right"))
            return
        dynamic = reader.child(then, "dynamic")
        for word, what, policy in (("ike-policy", "ike", IkePolicy), ("ipsec-policy", "ipsec", IpsecPolicy)):
            named = reader.one(dynamic, word)
            if named is None:
                parts.obstacles.append((term, f"then dynamic names no {word}"))
                continue
            found = reader.child(self._vpn, what, "policy", named.word)
            if found is None:
                self._ledger.fault(named, f"there is no ipsec-vpn {what} policy {named.word!r}")
                continue
            parts.explained.append((named, f"the policy is part of the tunnel: {what} policy {named.word}"))
            policy(reader, self._vpn, found).add_to(parts)

    def _dead_peer(self, parts: Parts, then: Node | None) -> None:
        reader = self._reader
        node = reader.child(then, "dead-peer-detection")
        interval = reader.number(node, "interval", 1, 3_600)
        threshold = reader.number(node, "threshold", 1, _THRESHOLD_MAX)
        if interval is None or threshold is None:
            if node is not None:
                self._ledger.unmapped(node, "interval and threshold together say how long it takes")
            return
        (place, delay_s), (other, times) = interval, threshold
        if delay_s > _DPD_DELAY_MAX_S or not delay_s < delay_s * times <= _DEAD_PEER_MAX_S:
            reason = (
                f"a peer is asked at least every {_DPD_DELAY_MAX_S} s, at least twice, and is dead within"
                f" {_DEAD_PEER_MAX_S} s"
            )
            self._ledger.unmapped(place, reason)
            self._ledger.unmapped(other, reason)
            return
        parts.put("dpd_delay_s", delay_s, place)
        parts.put("dead_peer_s", delay_s * times, place, other)
        parts.explained.append((other, "dead_peer_s is interval times threshold"))

    def _write(self, parts: Parts, term: Node, plan: TunnelPlan) -> None:
        reader, ledger, draft, name = self._reader, self._ledger, self._draft, plan.name
        if not parts.obstacles and not ledger.faults:
            self._try(parts, term)
        if ledger.faults:
            # Nothing will be written; what is missing in a tunnel need not be told as well.
            return
        if parts.obstacles:
            self.is_complete = False
            for node, reason in parts.obstacles:
                ledger.unmapped(node, reason)
            ledger.unmapped(term, "the tunnel could not be imported")
            reasons = "; ".join(reason for _, reason in parts.obstacles)
            draft.needed.append(f"tunnel {name} (line {term.line}) could not be imported: {reasons}")
            return
        section = draft.section("tunnel", name)
        for key, (value, origins) in parts.values.items():
            target = draft.put(section, key, value, *origins)
            for origin in origins:
                ledger.mapped(origin, target)
        if parts.secret is not None and parts.secret_origin is not None:
            origin = parts.secret_origin
            file = draft.file(name, ".psk", parts.secret)
            note = "" if parts.secret else "empty until the secret is written into it"
            target = draft.put(section, "pre_shared_key_file", file, origin, note=note)
            ledger.mapped(origin, target, parts.secret_note)
        for key, node in parts.names.items():
            # A service set may have a name that no section could have; it is then shown as the tunnel's.
            if reader.is_name(node.word):
                draft.put(section, key, node.word, node, note="for show")
        for node, reason in parts.explained:
            ledger.mapped(node, f"tunnel.{name}", reason)
        description = reader.child(term, "description")
        if description is not None:
            ledger.ignored(description, "a description")
        draft.needed += [f"tunnel.{name}.{each}" for each in parts.needed]
        self._say(name, parts)
        self.plans.append(plan)

    def _say(self, name: str, parts: Parts) -> None:
        value, _ = parts.values["local_gateway"]
        self._draft.needed.append(f"tunnel.{name}: this host must have the address {value} (local_gateway)")
        if "legacy" in parts.values:
            self._draft.notes.append(
                f"tunnel.{name}: legacy = true, because of IKEv1 or of algorithms that are no longer"
                " recommended; agree on better ones with the other side"
            )

    def _try(self, parts: Parts, term: Node) -> None:
        """Lets the schema say whether it is a tunnel; what it refuses is an obstacle."""
        values: dict[str, object] = {key: value for key, (value, _) in parts.values.items()}
        if parts.secret is not None:
            values["pre_shared_key_file"] = "key"
        try:
            TunnelSection.model_validate(values)
        except ValidationError as error:
            for each in error.errors(include_url=False):
                key = ".".join(str(part) for part in each["loc"][:1])
                reason = each["msg"].removeprefix("Value error, ")
                origins = parts.values.get(key, (None, [term]))[1] or [term]
                parts.obstacles.append((origins[0], f"{key}: {reason}" if key else reason))
