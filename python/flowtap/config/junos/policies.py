"""Policies and proposals of IKE and IPsec, as parts of a tunnel."""

from __future__ import annotations

import binascii
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from flowtap.config.junos.proposals import GROUPS, esp_proposal, ike_proposal, is_weak
from flowtap.config.junos.secrets import deobfuscate, is_obfuscated, is_sealed, secret_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flowtap.config.junos.ipsec import Parts
    from flowtap.config.junos.reader import Reader
    from flowtap.config.junos.syntax import Node

__all__ = ["IkePolicy", "IpsecPolicy"]

_LIFETIME_LOW_S, _LIFETIME_HIGH_S = 180, 86_400
_ADDRESS_IDS: Final = frozenset(
    {"ipv4_addr", "ipv4-addr", "inet", "ipv6_addr", "ipv6-addr", "ipv6_address", "inet6"}
)
_NAME_IDS: Final = frozenset({"fqdn", "hostname", "ufqdn", "user-at-hostname", "user_at_hostname"})
_KEY_IDS: Final = frozenset({"key_id", "key-id"})
_METHODS: Final = (
    "pre-shared-keys",
    "rsa-signatures",
    "dsa-signatures",
    "ecdsa-signatures-256",
    "ecdsa-signatures-384",
)
_SEALED: Final = "is encrypted with the router's master password"
_READ_BY_ALL: Final = "$9$ is no encryption: whoever has seen the file knows the secret"
_CERTIFICATE: Final = ("certificate_file", "private_key_file", "authority_file")


class _Policy(ABC):
    """What both kinds have in common."""

    kind: str

    def __init__(self, reader: Reader, vpn: Node | None, node: Node) -> None:
        self._reader = reader
        self._ledger = reader.ledger
        self._node = node
        self._known = reader.child(vpn, self.kind, "proposal")

    def _proposals(self, parts: Parts) -> Iterator[Node]:
        reader = self._reader
        named = reader.single(reader.children(reader.child(self._node, "proposals")), "proposals", 64)
        if not named:
            reason = f"names no proposals; write out the {self.kind} proposals that both sides have agreed on"
            self._ledger.fault(self._node, reason)
        for each in named:
            proposal = reader.child(self._known, each.word)
            if proposal is None:
                self._ledger.fault(each, f"there is no ipsec-vpn {self.kind} proposal {each.word!r}")
                continue
            parts.explained.append((each, f"the proposal is part of the tunnel: {self.kind} {each.word}"))
            yield proposal

    def _lifetime(self, parts: Parts, proposal: Node, key: str) -> None:
        """The shortest one counts where proposals differ."""
        lifetime = self._reader.number(proposal, "lifetime-seconds", _LIFETIME_LOW_S, _LIFETIME_HIGH_S)
        if lifetime is None:
            return
        place, seconds = lifetime
        before = parts.values.get(key)
        if before is not None and isinstance(before[0], int):
            parts.put(key, min(seconds, before[0]), *before[1], place)
        else:
            parts.put(key, seconds, place)

    def _add(
        self, parts: Parts, key: str, read: Callable[[Node], tuple[str, list[Node]] | None], lifetime: str
    ) -> None:
        words: list[str] = []
        origins: list[Node] = []
        for proposal in self._proposals(parts):
            self._check(parts, proposal)
            self._lifetime(parts, proposal, lifetime)
            found = read(proposal)
            if found is not None:
                words.append(found[0])
                origins += found[1]
        if words:
            parts.put(key, list(dict.fromkeys(words)), *origins)
            if any(map(is_weak, words)):
                parts.put("legacy", True)

    @abstractmethod
    def _check(self, parts: Parts, proposal: Node) -> None:
        """Says what of a proposal cannot be."""


class IpsecPolicy(_Policy):
    """Phase 2: what ESP does."""

    kind = "ipsec"

    def add_to(self, parts: Parts) -> None:
        """Adds its proposals."""
        reader = self._reader
        keys = reader.one(reader.child(self._node, "perfect-forward-secrecy"), "keys")
        chosen = reader.chosen(keys, GROUPS)
        group = GROUPS[chosen] if chosen is not None else None
        if keys is not None and group is not None:
            parts.explained.append((keys, "the group is part of esp_proposals"))
        self._add(parts, "esp_proposals", lambda node: esp_proposal(reader, node, group), "esp_lifetime_s")

    def _check(self, parts: Parts, proposal: Node) -> None:
        protocol = self._reader.one(proposal, "protocol")
        chosen = self._reader.chosen(protocol, ("esp", "ah", "bundle"))
        if protocol is None or chosen is None:
            return
        if chosen == "esp":
            parts.explained.append((protocol, "a tunnel is always ESP"))
        else:
            parts.obstacles.append((protocol, f"protocol {chosen}: nothing may leave in clear; esp is right"))
        octets = self._reader.child(proposal, "lifetime-kilobytes")
        if octets is not None:
            self._ledger.unmapped(octets, "keys change with time; esp_lifetime_s says how often")


class IkePolicy(_Policy):
    """Phase 1: who the other side is, and how both agree on keys."""

    kind = "ike"

    def add_to(self, parts: Parts) -> None:
        """Adds version, mode, proposals, names and secret."""
        reader = self._reader
        version = reader.one(self._node, "version")
        chosen = reader.chosen(version, ("1", "2"))
        # IKEv1 is what the router does where nothing is said.
        number = 1 if chosen is None else int(chosen)
        parts.put("ike_version", number, *([version] if version is not None else []))
        if number == 1:
            parts.put("legacy", True)
        self._mode(parts, number)
        self._add(parts, "ike_proposals", lambda node: ike_proposal(reader, node), "ike_lifetime_s")
        for word, key in (("local-id", "local_id"), ("remote-id", "remote_id")):
            self._identity(parts, word, key)
        if "certificate_file" not in parts.values:
            self._pre_shared_key(parts)

    def _mode(self, parts: Parts, version: int) -> None:
        mode = self._reader.one(self._node, "mode")
        chosen = self._reader.chosen(mode, ("main", "aggressive"))
        if mode is None or chosen is None:
            return
        if chosen == "main":
            parts.explained.append((mode, "IKEv1 is always main mode"))
        elif version == 1:
            reason = "aggressive mode shows in clear what the key can be guessed from; mode main is right"
            parts.obstacles.append((mode, reason))
        else:
            self._ledger.ignored(mode, "IKEv2 has no modes")

    def _check(self, parts: Parts, proposal: Node) -> None:
        method = self._reader.one(proposal, "authentication-method")
        if method is None or method.word == "pre-shared-keys":
            if method is not None:
                parts.explained.append((method, "as pre_shared_key_file says"))
            return
        if self._reader.chosen(method, _METHODS) is None or "certificate_file" in parts.values:
            return
        for key in _CERTIFICATE:
            parts.put(key, f"{key.removesuffix('_file').replace('_', '-')}.pem")
        parts.explained.append((method, "as certificate_file says"))
        parts.needed.append(
            "certificate_file, private_key_file and authority_file: the certificates lie in the router's own"
            " store; put them into these files"
        )

    def _identity(self, parts: Parts, word: str, key: str) -> None:
        kinds = self._reader.children(self._reader.child(self._node, word))
        if not kinds:
            return
        if kinds[0].word == "any-remote-id":
            parts.put(key, "%any", kinds[0])
            return
        values = self._reader.children(kinds[0])
        if not values:
            self._ledger.fault(kinds[0], f"{word}: a value is missing, such as fqdn md.example")
            return
        if len(kinds) > 1 or len(values) > 1 or values[0].children:
            parts.obstacles.append((kinds[0], f"{word}: names several identities; one is right"))
            return
        kind, value = kinds[0].word, values[0]
        if kind in _ADDRESS_IDS:
            if self._reader.address(value) is not None:
                parts.put(key, value.word, value)
        elif kind in _NAME_IDS:
            parts.put(key, value.word, value)
        elif kind in _KEY_IDS:
            parts.put(key, f"keyid:{value.word}", value)
        else:
            parts.obstacles.append((kinds[0], f"{word}: the kind {kind!r} is not known"))

    def _pre_shared_key(self, parts: Parts) -> None:
        node = self._reader.child(self._node, "pre-shared-key")
        kinds = self._reader.children(node)
        if len(kinds) != 1 or kinds[0].word not in {"ascii-text", "hexadecimal"}:
            reason = "pre-shared-key with ascii-text or hexadecimal is needed"
            self._ledger.fault(node or self._node, reason)
            return
        given = self._reader.one(node, kinds[0].word)
        if given is None:
            return
        parts.secret_origin = given
        text = given.word
        if is_sealed(text):
            parts.secret = b""
            parts.secret_note = _SEALED
            parts.needed.append(
                "pre_shared_key_file: only the router can read its secret; write it into the file"
            )
            return
        secret = self._octets(given, is_hexadecimal=kinds[0].word == "hexadecimal")
        if secret is None:
            return
        if is_obfuscated(text):
            parts.secret_note = _READ_BY_ALL
        if not secret:
            self._ledger.fault(given, "pre-shared-key: is empty")
            return
        parts.secret = secret_file(secret)

    def _octets(self, given: Node, *, is_hexadecimal: bool) -> bytes | None:
        octets = given.word.encode()
        if is_obfuscated(given.word):
            try:
                octets = deobfuscate(given.word)
            except ValueError as error:
                self._ledger.fault(given, f"pre-shared-key: {error}")
                return None
        if not is_hexadecimal:
            return octets
        try:
            return binascii.unhexlify(octets)
        except ValueError:
            self._ledger.fault(
                given, "pre-shared-key: is not hexadecimal; two digits for every octet are right"
            )
            return None
