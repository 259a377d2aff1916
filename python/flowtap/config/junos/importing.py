"""A JUNOS configuration as a whole: every stanza to its reader, and what only all of them together decide."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network
from typing import TYPE_CHECKING, Final

from flowtap.config.junos.capture import Capture
from flowtap.config.junos.draft import HOST_KEY_FILE, Draft
from flowtap.config.junos.interfaces import Interfaces
from flowtap.config.junos.ipsec import Tunnels
from flowtap.config.junos.ledger import NOTHING_LIKE_IT, Ledger, statement
from flowtap.config.junos.login import map_login, map_ssh
from flowtap.config.junos.reader import Reader
from flowtap.config.junos.syntax import parse
from flowtap.config.junos.tapping import map_tapping
from flowtap.config.junos.tokens import JunosError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from ipaddress import IPv4Network, IPv6Network

    from flowtap.config.junos.ipsec import TunnelPlan
    from flowtap.config.junos.ledger import Entry, Fault
    from flowtap.config.junos.syntax import Form, Node

    Network = IPv4Network | IPv6Network

__all__ = ["Import", "import_text"]

_OWN: Final = frozenset({"element", "dtcp"})
"""Sections that are there whatever the router was told."""
_SSH_PORT: Final = 32_001
_ELSEWHERE: Final = {
    "version": "the release of the router's software",
    "chassis": "hardware of the router",
    "interfaces": "interfaces to tap are named by --interface; addresses are this system's own affair",
    "system": "this system has a configuration of its own",
    "services": "is no service about tapping or tunnels",
    "routing-options": "this system has routes of its own",
    "firewall": "this system has a firewall of its own; it must permit TCP 32001, UDP 500 and 4500, and ESP",
}
_OTHER_TUNNELS: Final = "its tunnels are not imported; write a [tunnel.NAME] for each"
_UNRELATED: Final = "is about the router itself"
_GROUPS: Final = "groups are not expanded; show configuration | display inheritance prints the whole"
_APPLY: Final = frozenset({"apply-groups", "apply-groups-except", "apply-path"})


@dataclass(frozen=True, slots=True)
class Import:
    """What became of a configuration.

    Attributes:
        form: How it was written.
        entries: Every statement, once, in the order of the text.
        faults: What cannot be; where there is one, nothing is to be written.
        draft: What is to be written.
    """

    form: Form
    entries: list[Entry]
    faults: list[Fault]
    draft: Draft


def import_text(text: str, interfaces: Mapping[str, str]) -> Import:
    """Makes a configuration out of one of a router.

    Args:
        text: In curly braces or in set lines.
        interfaces: Names of this system's interfaces, by the router's.

    Raises:
        JunosError: It cannot be read.
    """
    tree = parse(text)
    work = _Work(tree.root, interfaces)
    work.map()
    is_about_us = work.ledger.has_mapped or any(names[0] not in _OWN for names in work.draft.sections)
    if not is_about_us and not work.ledger.faults:
        raise JunosError(
            "nothing in it is about flow-tap, capture or IPsec", tree.root.line, tree.root.column
        )
    entries = work.ledger.close(tree)
    return Import(tree.form, entries, work.ledger.faults, work.draft)


class _Work:
    """One import."""

    def __init__(self, root: Node, names: Mapping[str, str]) -> None:
        self.ledger = Ledger()
        self.draft = Draft()
        self._root = root
        self._reader = Reader(self.ledger)
        self._names = names

    def map(self) -> None:
        self._set_aside()
        reader, draft, root = self._reader, self.draft, self._root
        system, services = reader.child(root, "system"), reader.child(root, "services")
        interfaces = Interfaces(reader, reader.child(root, "interfaces"), self._names)
        interfaces.addresses()
        self._element(system)
        interfaces.map(draft)
        logins = map_login(reader, draft, reader.child(system, "login"))
        for name in logins:
            draft.section("control_source", name)
        map_ssh(reader, draft, reader.child(system, "services"))
        tunnels = Tunnels(reader, draft, services, interfaces)
        tunnels.map()
        map_tapping(reader, draft, services, interfaces)
        capture = Capture(
            reader, draft, reader.child(services, "dynamic-flow-capture"), logins, tunnels.plans
        )
        capture.map()
        self._listen(capture, tunnels.plans)
        self._require(tunnels)
        self._routes(reader.child(root, "routing-options", "static", "route"), tunnels.plans)
        if ("policy",) in draft.sections and not draft.sections["policy",]:
            del draft.sections["policy",]
        for node in reader.children(root):
            known = _ELSEWHERE.get(node.word)
            self._rest(node, known or _UNRELATED)

    def _require(self, tunnels: Tunnels) -> None:
        """Where a tunnel is missing nothing may leave without one: not what was meant for it, above all."""
        draft = self.draft
        found = list(self._tunnels_elsewhere())
        for each in found:
            self.ledger.unmapped(each, _OTHER_TUNNELS)
            draft.needed.append(
                f"{statement(each.path)} (line {each.line}): {_OTHER_TUNNELS}, or take policy.require_tunnel"
                " out if no copies go through them"
            )
        if found or not tunnels.is_complete:
            section = draft.section("policy")
            draft.put(section, "require_tunnel", True, note="a tunnel could not be imported")
        elif tunnels.plans:
            draft.notes.append(
                "policy: copies for what lies behind no tunnel leave in clear; require_tunnel = true refuses"
                " them"
            )

    def _tunnels_elsewhere(self) -> Iterator[Node]:
        """IPsec in stanzas that are not read: of other routers, of groups and of logical systems."""
        reader = self._reader
        places = [
            self._root,
            *reader.children(reader.child(self._root, "groups")),
            *reader.children(reader.child(self._root, "logical-systems")),
        ]
        for place in places:
            stanzas = [("security", "ike"), ("security", "ipsec")]
            if place is not self._root:
                stanzas += [("services", "ipsec-vpn"), ("services", "service-set")]
            for names in stanzas:
                found = reader.child(place, *names)
                if found is not None and not all(leaf.inactive for leaf in found.leaves()):
                    yield found

    def _set_aside(self) -> None:
        """What is inactive, and what stands in groups, which nobody has expanded."""
        waiting = [self._root]
        while waiting:
            for child in waiting.pop().children.values():
                if child.inactive:
                    self.ledger.ignored(child, "is inactive")
                elif child.word in _APPLY or (child.word == "groups" and child.parent is self._root):
                    self.ledger.unmapped(child, _GROUPS)
                else:
                    waiting.append(child)

    def _rest(self, node: Node, reason: str) -> None:
        """What nobody has looked at; in the stanzas about tapping that is a loss, elsewhere it is none."""
        if node.word == "services":
            for service in self._reader.children(node):
                if service.word in _OURS:
                    self.ledger.unmapped(service, NOTHING_LIKE_IT)
        elif node.word == "system":
            server = self._reader.child(node, "services", "flow-tap-dtcp")
            if server is not None:
                self.ledger.unmapped(server, NOTHING_LIKE_IT)
        elif node.word == "logical-systems":
            self.ledger.unmapped(node, "what stands in logical systems is not imported")
        self.ledger.ignored(node, reason)

    def _element(self, system: Node | None) -> None:
        name = self._reader.one(system, "host-name")
        if name is not None and self._reader.name(name) is not None:
            section = self.draft.section("element")
            self.ledger.mapped(name, self.draft.put(section, "name", name.word, name))

    def _listen(self, capture: Capture, plans: list[TunnelPlan]) -> None:
        """Where tasking comes to: through the tunnel where it is clear that it must, anywhere otherwise."""
        draft = self.draft
        ssh = draft.section("dtcp", "ssh")
        sources = [names for names in draft.sections if names[0] == "control_source"]
        host = plans[0].host if len(plans) == 1 and self._come_through(sources, plans[0]) else None
        where = "0.0.0.0" if host is None else f"[{host}]" if host.version == 6 else str(host)  # noqa: S104, PLR2004
        why = "" if host is None else f"the one address that tunnel {plans[0].name} is for"
        if self._has_closed_server():
            draft.put(ssh, "listen", [f"127.0.0.1:{_SSH_PORT}"], note="flow-tap-dtcp is deactivated")
            draft.notes.append(
                "dtcp.ssh: the router's flow-tap-dtcp is deactivated, so SSH is heard on this host's loopback"
                " only"
            )
        else:
            draft.put(ssh, "listen", [f"{where}:{_SSH_PORT}"], note=why)
        draft.put(ssh, "host_key_file", HOST_KEY_FILE, note="new; whoever tasks needs its public half")
        if capture.ports:
            origins = [node for node in capture.ports.values() if node is not None]
            udp = draft.section("dtcp", "udp")
            draft.put(
                udp, "listen", [f"{where}:{port}" for port in sorted(capture.ports)], *origins, note=why
            )
        if host is not None:
            for source in sources:
                draft.put(source, "tunnel", plans[0].name, note="tasking comes through it")
            if sources:
                draft.notes.append(
                    f"dtcp: tasking is heard on {host} only, and only through tunnel.{plans[0].name}, because"
                    " that is the one address of this host that the one tunnel is for"
                )
                draft.needed.append(f"dtcp: this host must have the address {host} (listen)")
        elif plans and sources:
            draft.notes.append(
                "dtcp: tasking is heard on every address and in clear, because the tunnels do not say which"
                " one it comes through; control_source.NAME.tunnel and dtcp.ssh.listen bound it"
            )

    def _has_closed_server(self) -> bool:
        """Whether somebody has deactivated the server that tasking over SSH came to."""
        node: Node | None = self._root
        for word in ("system", "services", "flow-tap-dtcp"):
            node = None if node is None else node.children.get(word)
        return node is not None and node.inactive

    def _come_through(self, sources: list[tuple[str, ...]], plan: TunnelPlan) -> bool:
        """Whether no control source is known to be elsewhere than behind the tunnel."""
        for source in sources:
            addresses = self.draft.value(source, "addresses")
            for text in addresses if isinstance(addresses, list) else []:
                if not any(_covers(network, ip_network(text)) for network in plan.remote):
                    return False
        return True

    def _routes(self, routes: Node | None, plans: list[TunnelPlan]) -> None:
        reader = self._reader
        for route in reader.children(routes):
            network = reader.network(route)
            if network is None:
                continue
            leading = [each.word for each in reader.children(reader.child(route, "next-hop"))]
            plan = next((each for each in plans if each.inside is not None and each.inside in leading), None)
            if plan is None:
                self.ledger.ignored(route, "this system has routes of its own")
            elif any(_covers(each, network) for each in plan.remote):
                self.ledger.ignored(route, f"tunnel.{plan.name}.remote_networks says what goes through it")
            else:
                reason = f"goes into tunnel {plan.name}, whose rule does not name it as a destination-address"
                self.ledger.unmapped(route, reason)


def _covers(outer: Network, inner: Network) -> bool:
    return outer.version == inner.version and outer.supernet_of(inner)  # type: ignore[arg-type]


_OURS: Final = frozenset(
    {
        "flow-tap",
        "flow-tap-lite",
        "radius-flow-tap",
        "mobile-flow-tap",
        "dynamic-flow-capture",
        "ipsec-vpn",
        "service-set",
    }
)
