"""The vendor's words for algorithms in those of strongSwan (swanctl.conf(5), ``proposals``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flowtap.config.tunnels import WEAK

if TYPE_CHECKING:
    from flowtap.config.junos.reader import Reader
    from flowtap.config.junos.syntax import Node

__all__ = ["GROUPS", "esp_proposal", "ike_proposal", "is_weak"]

GROUPS: Final = {
    "group1": "modp768",
    "group2": "modp1024",
    "group5": "modp1536",
    "group14": "modp2048",
    "group15": "modp3072",
    "group16": "modp4096",
    "group19": "ecp256",
    "group20": "ecp384",
    "group21": "ecp521",
    "group24": "modp2048s256",
}
_CIPHERS: Final = {
    "des-cbc": "des",
    "3des-cbc": "3des",
    "aes-128-cbc": "aes128",
    "aes-192-cbc": "aes192",
    "aes-256-cbc": "aes256",
    "aes-128-gcm": "aes128gcm16",
    "aes-192-gcm": "aes192gcm16",
    "aes-256-gcm": "aes256gcm16",
}
_IKE_DIGESTS: Final = {
    "md5": "md5",
    "sha1": "sha1",
    "sha-256": "sha256",
    "sha-384": "sha384",
    "sha-512": "sha512",
}
_ESP_DIGESTS: Final = {
    "hmac-md5-96": "md5",
    "hmac-sha1-96": "sha1",
    "hmac-sha-256-96": "sha256_96",
    "hmac-sha-256-128": "sha256",
    "hmac-sha-384": "sha384",
    "hmac-sha-512": "sha512",
}
_AMBIGUOUS: Final = {
    "hmac-sha2-256": "some releases cut it to 96 bits and others to 128; hmac-sha-256-96 or hmac-sha-256-128,"
    " whichever the other side uses, is right"
}
_COMBINED: Final = "gcm16"

Words = tuple[str, list["Node"]]


def is_weak(proposal: str) -> bool:
    """Whether it needs ``legacy = true``."""
    return not WEAK.isdisjoint(proposal.split("-"))


def ike_proposal(reader: Reader, node: Node) -> Words | None:
    """The proposal for IKE, and the statements that it was made from."""
    cipher = _keyword(reader, node, "encryption-algorithm", _CIPHERS)
    digest = _keyword(reader, node, "authentication-algorithm", _IKE_DIGESTS)
    group = _keyword(reader, node, "dh-group", GROUPS)
    if cipher is None or digest is None or group is None:
        return None
    middle = f"prf{digest[0]}" if cipher[0].endswith(_COMBINED) else digest[0]
    return f"{cipher[0]}-{middle}-{group[0]}", [cipher[1], digest[1], group[1]]


def esp_proposal(reader: Reader, node: Node, group: str | None) -> Words | None:
    """The proposal for ESP, with the group of perfect forward secrecy if there is one."""
    cipher = _keyword(reader, node, "encryption-algorithm", _CIPHERS)
    if cipher is None:
        return None
    parts, origins = [cipher[0]], [cipher[1]]
    if not cipher[0].endswith(_COMBINED):
        digest = _keyword(reader, node, "authentication-algorithm", _ESP_DIGESTS)
        if digest is None:
            return None
        parts.append(digest[0])
        origins.append(digest[1])
    elif (unused := reader.one(node, "authentication-algorithm")) is not None:
        reader.ledger.ignored(unused, "the cipher authenticates by itself")
    if group is not None:
        parts.append(group)
    return "-".join(parts), origins


def _keyword(reader: Reader, node: Node, word: str, table: dict[str, str]) -> tuple[str, Node] | None:
    if reader.child(node, word) is None:
        reader.ledger.fault(node, f"names no {word}; write out what both sides have agreed on")
        return None
    value = reader.one(node, word)
    if value is not None and (reason := _AMBIGUOUS.get(value.word)) is not None:
        reader.ledger.fault(value, f"{value.word}: {reason}")
        return None
    chosen = reader.chosen(value, table)
    return None if chosen is None or value is None else (table[chosen], value)
