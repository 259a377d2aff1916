"""Secrets as a JUNOS configuration has them: crypt hashes, and ``$9$``, which only keeps them from a glance.

``$9$`` is no encryption: letters are numbers in an alphabet of 65, in four families; the first letter's
family tells how many letters of salt follow it; every octet is a sum of the distances between
neighbouring letters, each with a weight from a list of seven that go round.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["deobfuscate", "is_crypt_hash", "is_obfuscated", "is_sealed", "secret_file"]

_OBFUSCATED: Final = "$9$"
_SEALED: Final = "$8$"
"""Encrypted with the router's master password, which is in no configuration."""
_CRYPT: Final = re.compile(r"\$(?:1|2[abxy]?|5|6|sha1|md5|y|7)\$[!-~]+")

_FAMILIES: Final = ("QzF3n6/9CAtpu0O", "B1IREhcSyrleKvMW8LXx", "7N-dVbwsY2g4oaJZGUDj", "iHkq.mPf5T")
_ALPHABET: Final = "".join(_FAMILIES)
_VALUE: Final = {letter: at for at, letter in enumerate(_ALPHABET)}
_SALT_LETTERS: Final = {
    letter: len(_FAMILIES) - 1 - at for at, family in enumerate(_FAMILIES) for letter in family
}
_WEIGHTS: Final = (
    (1, 4, 32),
    (1, 16, 32),
    (1, 8, 32),
    (1, 64),
    (1, 32),
    (1, 4, 16, 128),
    (1, 32, 64),
)


def is_crypt_hash(text: str) -> bool:
    """Whether a text is what crypt(3) makes of a password."""
    return _CRYPT.fullmatch(text) is not None


def is_obfuscated(text: str) -> bool:
    """Whether it is written so that it is not read at a glance."""
    return text.startswith(_OBFUSCATED)


def is_sealed(text: str) -> bool:
    """Whether only the router itself can read it."""
    return text.startswith(_SEALED)


def deobfuscate(text: str) -> bytes:
    """What an obfuscated text says.

    Raises:
        ValueError: It is damaged; the message does not show it.
    """
    letters = text.removeprefix(_OBFUSCATED)
    if not letters or any(letter not in _VALUE for letter in letters):
        msg = "is no $9$ text: it has letters that no such text has, or none"
        raise ValueError(msg)
    before = letters[0]
    at = 1 + _SALT_LETTERS[before]
    octets = bytearray()
    while at < len(letters):
        weights = _WEIGHTS[len(octets) % len(_WEIGHTS)]
        group = letters[at : at + len(weights)]
        if len(group) < len(weights):
            msg = "is no $9$ text: its end is missing"
            raise ValueError(msg)
        octet = 0
        for letter, weight in zip(group, weights, strict=True):
            distance = (_VALUE[letter] - _VALUE[before]) % len(_ALPHABET) - 1
            octet += distance * weight
            before = letter
        octets.append(octet % 256)
        at += len(weights)
    if not octets:
        msg = "is no $9$ text: it says nothing"
        raise ValueError(msg)
    return bytes(octets)


def secret_file(secret: bytes) -> bytes:
    """What a file holds from which ``read_secret`` reads exactly this: it cuts one line end off."""
    return secret + (b"\r\n" if secret.endswith(b"\r") else b"\n")
