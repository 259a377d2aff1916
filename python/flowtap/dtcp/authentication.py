"""Message authentication: HMAC-SHA1 over the text before the digest's own line [DTCP §4.4.2, RFC 2104]."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

__all__ = ["PARAMETER", "Key", "authenticate", "digest", "split"]

PARAMETER = "Authentication-Info"
"""Name of the parameter that carries the digest; always the last one."""

_PREFIX = PARAMETER.lower().encode() + b":"
_LINE = b"\n" + _PREFIX


@dataclass(frozen=True, slots=True)
class Key:
    """A shared secret; its octets appear in no representation."""

    octets: bytes = field(repr=False)


def digest(text: bytes, key: Key) -> str:
    """The digest of a message's text, as 40 lower-case hexadecimal digits.

    Args:
        text: Every octet from the start line to the line end before the digest's line.
        key: The shared secret.
    """
    return hmac.digest(key.octets, text, "sha1").hex()


def split(message: bytes) -> tuple[bytes, str | None]:
    """Splits a message into the text that is authenticated and the digest that it carries.

    What stands behind the digest's line is disregarded [DTCP §5].

    Args:
        message: A whole message with or without its final empty line.

    Returns:
        The text and the digest as written; None where no line carries one.
    """
    # An empty line in front: the digest's line may be the first one.
    start = b"\n".join((b"", message.lower())).find(_LINE)
    if start < 0:
        return message, None
    line, _, _ = message[start:].partition(b"\n")
    return message[:start], line[len(_PREFIX) :].strip().decode("ascii", "replace")


def authenticate(text: bytes, given: str, key: Key) -> bool:
    """Whether a digest is right; compared in constant time, upper-case digits accepted."""
    expected = digest(text, key).encode()
    return hmac.compare_digest(expected, given.lower().encode("ascii", "replace"))
