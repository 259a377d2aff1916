"""Proposals in strongSwan's words (swanctl.conf(5)), and what it says was negotiated of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["Negotiated", "Proposal"]


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The algorithms of an association; empty where there is none of a kind.

    Attributes:
        encryption: Such as ``AES_GCM_16``.
        key_bits: Of its key, where several are possible.
        integrity: Such as ``HMAC_SHA2_256_128``; empty where the encryption does it too.
        group: Of the key exchange, such as ``ECP_384``.
    """

    encryption: str
    key_bits: int | None
    integrity: str
    group: str

    def __str__(self) -> str:
        bits = f"_{self.key_bits}" if self.key_bits else ""
        named = (f"{self.encryption}{bits}", self.integrity, self.group)
        return "/".join(each for each in named if each) or "nothing"


_PLAIN: Final = {
    "3des": "3DES_CBC",
    "blowfish": "BLOWFISH_CBC",
    "cast128": "CAST_CBC",
    "des": "DES_CBC",
}
_CIPHER: Final = re.compile(
    r"(?P<name>aes|camellia)(?P<bits>128|192|256)?(?P<mode>ctr|(?:gcm|ccm)(?P<icv>8|12|16|64|96|128))?"
)
_ICV_OCTETS: Final = {"64": "8", "96": "12", "128": "16"}
_CHACHA: Final = {"chacha20poly1305": "CHACHA20_POLY1305"}
_INTEGRITY: Final = {
    "aescmac": "AES_CMAC_96",
    "aesxcbc": "AES_XCBC_96",
    "md5": "HMAC_MD5_96",
    "sha": "HMAC_SHA1_96",
    "sha1": "HMAC_SHA1_96",
    "sha256": "HMAC_SHA2_256_128",
    "sha256_96": "HMAC_SHA2_256_96",
    "sha384": "HMAC_SHA2_384_192",
    "sha512": "HMAC_SHA2_512_256",
    "sha2_256": "HMAC_SHA2_256_128",
    "sha2_256_96": "HMAC_SHA2_256_96",
    "sha2_384": "HMAC_SHA2_384_192",
    "sha2_512": "HMAC_SHA2_512_256",
}
_GROUP: Final = re.compile(r"(?P<kind>modp|ecp)(?P<bits>\d{3,4})(?P<form>bp|s\d{3})?")
_CURVES: Final = {
    "curve25519": "CURVE_25519",
    "curve448": "CURVE_448",
    "x25519": "CURVE_25519",
    "x448": "CURVE_448",
}
_BESIDE: Final = re.compile(r"prf[a-z0-9_]+|esn|noesn|ke[1-7]_[a-z0-9_]+")
"""Words that are not looked at here: pseudo-random functions, sequence numbers, further key exchanges."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What may be negotiated: any combination of one algorithm of each kind."""

    encryption: frozenset[tuple[str, int | None]]
    integrity: frozenset[str]
    groups: frozenset[str]

    @classmethod
    def read(cls, text: str) -> Proposal:
        """Reads one.

        Raises:
            ValueError: It has a word that is not known here, or no encryption: nobody could say whether what
                was negotiated is what was asked for.
        """
        encryption: set[tuple[str, int | None]] = set()
        integrity: set[str] = set()
        groups: set[str] = set()
        for word in text.split("-"):
            if (cipher := _cipher(word)) is not None:
                encryption.add(cipher)
            elif word in _INTEGRITY:
                integrity.add(_INTEGRITY[word])
            elif (group := _group(word)) is not None:
                groups.add(group)
            elif not _BESIDE.fullmatch(word):
                msg = f"{text}: {word!r} is no algorithm that can be told from what was negotiated"
                raise ValueError(msg)
        if not encryption:
            msg = f"{text}: has no encryption; one such as aes256gcm16 is right"
            raise ValueError(msg)
        return cls(frozenset(encryption), frozenset(integrity), frozenset(groups))

    def covers(self, negotiated: Negotiated) -> bool:
        """Whether that is one of its combinations.

        The first child of an IKEv2 association has no key exchange of its own, so none is none too few.
        """
        if not negotiated.encryption:
            return False
        known = {(negotiated.encryption, negotiated.key_bits), (negotiated.encryption, None)}
        if not known & self.encryption:
            return False
        if negotiated.group and negotiated.group not in self.groups:
            return False
        if _authenticates(negotiated.encryption):
            return not negotiated.integrity
        return negotiated.integrity in self.integrity


def _cipher(word: str) -> tuple[str, int | None] | None:
    if word in _PLAIN:
        return _PLAIN[word], None
    if word in _CHACHA:
        return _CHACHA[word], None
    found = _CIPHER.fullmatch(word)
    if found is None:
        return None
    name, mode, icv = found["name"].upper(), found["mode"], found["icv"]
    if icv is not None:
        mode = f"{mode.removesuffix(icv).upper()}_{_ICV_OCTETS.get(icv, icv)}"
    # "aes" alone is AES with 128 bits.
    return f"{name}_{(mode or 'cbc').upper()}", int(found["bits"] or 128)


def _group(word: str) -> str | None:
    if word in _CURVES:
        return _CURVES[word]
    found = _GROUP.fullmatch(word)
    if found is None:
        return None
    form = f"_{found['form'].removeprefix('s').upper()}" if found["form"] else ""
    return f"{found['kind'].upper()}_{found['bits']}{form}"


def _authenticates(encryption: str) -> bool:
    return "_GCM_" in encryption or "_CCM_" in encryption or "POLY1305" in encryption
