"""Checks of ports: who has them, and whether this host's own firewall lets in what must come."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

from flowtap.diagnosis.finding import Finding, Unknown, fail, ok, unknown, warn

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

__all__ = ["Opening", "Taken", "blocked", "ike_port", "listening", "own_port", "read_sockets"]

_TCP_LISTEN: Final = "0A"
_ESP: Final = 50
_DEEPEST: Final = 16
"""Jumps between chains, as the kernel bounds them (NFT_JUMP_STACK_SIZE)."""


@dataclass(frozen=True, slots=True)
class Opening:
    """Something that must come in: a protocol, and its port where it has ports."""

    protocol: str
    port: int | None = None
    versions: tuple[int, ...] = (4, 6)

    def __str__(self) -> str:
        return f"{self.protocol.upper()} {self.port}" if self.port else self.protocol.upper()

    @property
    def words(self) -> str:
        """The match in nft's words."""
        return f"{self.protocol} dport {self.port}" if self.port else f"meta l4proto {self.protocol}"


@dataclass(frozen=True, slots=True)
class Taken:
    """A socket that has a port: which address, and which program where that may be known."""

    protocol: str
    port: int
    address: str
    inode: int
    program: str = ""


def read_sockets(protocol: str, text: str) -> list[Taken]:
    """Reads ``/proc/net/tcp``, ``udp`` and their like: the sockets that hear something."""
    found = []
    for line in text.splitlines()[1:]:
        words = line.split()
        if protocol == "tcp" and words[3] != _TCP_LISTEN:
            continue
        address, _, port = words[1].partition(":")
        found.append(Taken(protocol, int(port, 16), _address(address), int(words[9])))
    return found


def _address(text: str) -> str:
    """An address as the kernel writes it: words of 32 bits in this machine's order (little-endian)."""
    octets = bytes.fromhex(text)
    return str(ip_address(b"".join(octets[at : at + 4][::-1] for at in range(0, len(octets), 4))))


def listening(taken: Collection[Taken], protocol: str, port: int, address: str) -> list[Taken]:
    """Those that stand in the way of hearing on an address and port."""
    wanted = ip_address(address)
    return [
        each
        for each in taken
        if (each.protocol, each.port) == (protocol, port)
        and (wanted.is_unspecified or each.address == address or ip_address(each.address).is_unspecified)
        # A socket for all of IPv6 hears IPv4 as well, unless it says otherwise.
        and (ip_address(each.address).version == wanted.version or ip_address(each.address).is_unspecified)
    ]


def own_port(
    protocol: str, address: str, port: int, taken: Collection[Taken], *, tap_listens: bool
) -> Finding:
    """A port that the tap itself listens on."""
    what = f"{protocol.upper()} {port}"
    users = listening(taken, protocol, port, address)
    if tap_listens:
        return ok("port", f"{what} is the running tap's")
    if not users:
        return ok("port", f"{what} is free for the tap")
    if not any(each.program for each in users):
        return unknown("port", Unknown(f"{what} is taken; by whom, only root may see"))
    return fail(
        "port",
        f"{what} is taken by {_programs(users)}",
        "end that program, or give the tap another port in listen",
    )


def ike_port(port: int, address: str, taken: Collection[Taken]) -> Finding:
    """A port of IKE, which strongSwan listens on."""
    users = listening(taken, "udp", port, address)
    what = f"UDP {port}"
    if not users:
        return warn("port", f"{what}: nobody listens", "start strongSwan (charon-systemd)")
    named = [each.program for each in users if each.program]
    if not named:
        return unknown("port", Unknown(f"{what} is taken; by whom, only root may see"))
    if all(each.startswith("charon") for each in named):
        return ok("port", f"{what} is strongSwan's")
    return fail(
        "port", f"{what} is taken by {_programs(users)}", "end that program, so that strongSwan has it"
    )


def _programs(users: Sequence[Taken]) -> str:
    names = sorted({each.program or "a program that only root may see" for each in users})
    return ", ".join(names)


# --- nftables ---------------------------------------------------------------------------------


def blocked(ruleset: Mapping[str, Any] | Unknown, openings: Collection[Opening]) -> list[Finding]:
    """What a chain for incoming packets drops that must come in, as far as its rules can be understood.

    A rule that also asks for something else (an address, an interface) counts as one that lets it in: who may
    come is the operator's business, that nobody can is worth a word.

    Args:
        ruleset: What ``nft -j list ruleset`` prints.
        openings: What must come in.
    """
    if isinstance(ruleset, Unknown):
        return [unknown("firewall", ruleset)]
    rules = _Rules(deepcopy(ruleset))
    findings = []
    for opening in openings:
        shut = [chain for chain in rules.inputs() if not rules.lets_in(chain, opening)]
        findings += [
            warn(
                "firewall",
                f"chain {family} {table} {name} drops {opening}",
                f"nft insert rule {family} {table} {name} {opening.words} accept",
            )
            for family, table, name in shut
        ]
        if not shut:
            findings.append(ok("firewall", f"nftables lets {opening} in"))
    return findings


_Chain = tuple[str, str, str]
_TRANSPORT: Final = frozenset(
    {"tcp", "udp", "udplite", "icmp", "icmpv6", "igmp", "sctp", "dccp", "esp", "ah", "comp"}
)
_VERSIONS: Final = {"ip": (4,), "ip6": (6,), "inet": (4, 6)}


class _Fit(Enum):
    """How much of what must come in a rule is about."""

    NO = 0
    PART = 1
    WHOLE = 2


class _Rules:
    """Chains and their rules; the members of sets are put in the places where they are named."""

    def __init__(self, ruleset: Mapping[str, Any]) -> None:
        self._chains: dict[_Chain, Mapping[str, Any]] = {}
        self._rules: dict[_Chain, list[list[Any]]] = {}
        sets: dict[tuple[str, str, str], object] = {}
        for each in ruleset.get("nftables", ()):
            if chain := each.get("chain"):
                self._chains[chain["family"], chain["table"], chain["name"]] = chain
            elif rule := each.get("rule"):
                key = (rule["family"], rule["table"], rule["chain"])
                self._rules.setdefault(key, []).append(rule.get("expr", []))
            elif named := each.get("set"):
                members = named.get("elem", [])
                sets[named["family"], named["table"], f"@{named['name']}"] = {"set": members}
        for key, rules in self._rules.items():
            for match in (each["match"] for rule in rules for each in rule if "match" in each):
                if isinstance(match["right"], str):
                    match["right"] = sets.get((*key[:2], match["right"]), match["right"])

    def inputs(self) -> Iterator[_Chain]:
        """The chains that the kernel begins with for packets to this host."""
        for key, chain in self._chains.items():
            if chain.get("hook") == "input" and chain.get("type") == "filter" and key[0] in _VERSIONS:
                yield key

    def lets_in(self, chain: _Chain, opening: Opening) -> bool:
        """Whether something of what must come in can pass a chain."""
        if not set(_VERSIONS[chain[0]]) & set(opening.versions):
            return True
        verdict = self._verdict(chain, opening, 0)
        if verdict is None:
            return bool(self._chains[chain].get("policy", "accept") == "accept")
        return verdict

    def _verdict(self, chain: _Chain, opening: Opening, depth: int) -> bool | None:
        """True and False where a rule decides, None where all let it go on."""
        if depth > _DEEPEST:
            return None
        for expressions in self._rules.get(chain, ()):
            fit = _fit(expressions, opening)
            if fit is _Fit.NO:
                continue
            for statement in _statements(expressions, opening):
                ends, verdict = self._follow(statement, chain, opening, depth)
                # What is decided for a part of it may be otherwise for the rest.
                if verdict is True or (ends and fit is _Fit.WHOLE):
                    return verdict
        return None

    def _follow(
        self, statement: Mapping[str, Any], chain: _Chain, opening: Opening, depth: int
    ) -> tuple[bool, bool | None]:
        """Whether a statement ends the chain, and what has been decided."""
        if "accept" in statement:
            return True, True
        if "drop" in statement or "reject" in statement:
            return True, False
        if "return" in statement:
            return True, None
        for word in ("jump", "goto"):
            if word in statement:
                target = (chain[0], chain[1], statement[word]["target"])
                verdict = self._verdict(target, opening, depth + 1)
                return word == "goto" or verdict is not None, verdict
        return False, None


def _statements(expressions: Sequence[Any], opening: Opening) -> Iterator[Mapping[str, Any]]:
    """What a rule does; of a verdict map what it does with what must come in."""
    for expression in expressions:
        if not isinstance(expression, dict):
            continue
        vmap = expression.get("vmap")
        if vmap is None:
            yield expression
            continue
        data = vmap.get("data")
        for key, statement in data.get("set", ()) if isinstance(data, dict) else ():
            if _matches({"left": vmap.get("key"), "right": key, "op": "=="}, opening) is not False:
                yield statement


def _fit(expressions: Sequence[Any], opening: Opening) -> _Fit:
    """Whether a rule is about what must come in."""
    fit = _Fit.WHOLE
    for expression in expressions:
        match = expression.get("match") if isinstance(expression, dict) else None
        if match is None:
            continue
        found = _matches(match, opening)
        if found is False:
            return _Fit.NO
        if found is None:
            fit = _Fit.PART
    return fit


def _matches(match: Mapping[str, Any], opening: Opening) -> bool | None:
    """Whether one condition holds; None where that depends on what is not known here."""
    left, right, operator = match.get("left"), match.get("right"), match.get("op")
    if not isinstance(left, dict):
        return None
    payload, meta = left.get("payload"), left.get("meta")
    if isinstance(payload, dict) and not _may_have(str(payload.get("protocol")), opening):
        # Neither equal nor unequal: a packet without that header does not match at all.
        return False
    held: bool | None = None
    if isinstance(payload, dict):
        held = _payload(payload, right, opening)
    elif isinstance(meta, dict):
        held = _meta(str(meta.get("key")), right, opening)
    elif isinstance(left.get("ct"), dict) and left["ct"].get("key") == "state":
        # What begins is new.
        held = "new" in _members(right)
    if held is None:
        return None
    return not held if operator == "!=" else held


def _may_have(protocol: str, opening: Opening) -> bool:
    """Whether what must come in may have a header of a protocol."""
    if protocol in {"ip", "ip6"}:
        return {"ip": 4, "ip6": 6}[protocol] in opening.versions
    if protocol == "th":
        return opening.port is not None
    return protocol == opening.protocol or protocol not in _TRANSPORT


def _payload(payload: Mapping[str, Any], right: object, opening: Opening) -> bool | None:
    protocol, name = payload.get("protocol"), payload.get("field")
    if name == "dport" and opening.port is not None:
        return _has(right, opening.port)
    if (protocol, name) in {("ip", "protocol"), ("ip6", "nexthdr")}:
        return _is_protocol(right, opening)
    return None


def _meta(key: str, right: object, opening: Opening) -> bool | None:
    if key in {"iifname", "iif"}:
        # What must come in comes from elsewhere.
        return False if right == "lo" else None
    if key == "l4proto":
        return _is_protocol(right, opening)
    if key == "nfproto":
        return None if len(opening.versions) > 1 else right == {4: "ipv4", 6: "ipv6"}[opening.versions[0]]
    return None


def _is_protocol(right: object, opening: Opening) -> bool:
    numbers = {"tcp": 6, "udp": 17, "esp": _ESP}
    members = _members(right)
    return opening.protocol in members or numbers.get(opening.protocol) in members


def _members(right: object) -> list[Any]:
    if isinstance(right, dict) and "set" in right:
        right = right["set"]
    members = right if isinstance(right, list) else [right]
    # With a time-out or a comment of its own.
    return [each["elem"]["val"] if isinstance(each, dict) and "elem" in each else each for each in members]


def _has(right: object, port: int) -> bool | None:
    for each in _members(right):
        if isinstance(each, dict) and "range" in each:
            low, high = each["range"]
            if low <= port <= high:
                return True
        elif each == port:
            return True
        elif isinstance(each, str):
            # A set that is not listed.
            return None
    return False
