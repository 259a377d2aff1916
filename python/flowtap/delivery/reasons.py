"""Why a tunnel does not come up, from what strongSwan logs meanwhile.

Its log tells everything it does; the few lines that tell a reason are kept, and what they mean for whoever
has to repair it is said where it is not plain. No line at the level that is read has a secret.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Final

__all__ = ["Reasons"]

KEPT: Final = 3
LINE_OCTETS: Final = 160
"""The other side has a say in what is logged."""
_TELLING: Final = re.compile(
    r"error|fail|unable|invalid|unacceptable|mismatch|giving up|not supported|denied|refused"
    r"|no (?:private key|shared key|trusted|acceptable|matching|proposal|IKE config|issuer|local address)"
    r"|could not|not found|cannot|untrusted|expired|revoked|unreachable|retransmit 1 ",
    re.IGNORECASE,
)
_PLAIN_FAILURE: Final = re.compile(r"establish(?:ing|ment of) .* failed|initiating .* failed", re.IGNORECASE)
"""That it failed is known."""
_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e]")
_MEANINGS: Final = (
    (
        re.compile(r"function not implemented|requested type not found|inbound and outbound ipsec sa"),
        "the kernel of this host has no ESP: it needs esp4 and esp6 (CONFIG_INET_ESP, CONFIG_INET6_ESP)",
    ),
    (
        re.compile(r"no local address found in traffic selector"),
        "no address of local_networks is an address of this host",
    ),
    (
        re.compile(r"no_prop|no proposal"),
        "the other side takes none of the proposals",
    ),
    (
        re.compile(r"ts_unacceptable|no acceptable traffic selectors|invalid_id"),
        "the other side does not take these networks",
    ),
    (
        re.compile(r"no trusted|no issuer|untrusted"),
        "the other side's certificate is not of the authority",
    ),
    (
        re.compile(r"auth_failed|authentication_failed|mac mismatched|authentication of .* failed"),
        "one side does not prove itself to the other: the secret or the certificate is another one",
    ),
    (
        re.compile(
            r"could not decrypt|payload_malformed|invalid hash|integrity check failed|decryption failed"
            r"|payload type .* was not encrypted"
        ),
        "the pre-shared key is probably another one than the other side has",
    ),
    (re.compile(r"no shared key found"), "strongSwan has no pre-shared key for these two"),
    (
        re.compile(r"retransmit|giving up|unreachable|not established after"),
        "the other side does not answer",
    ),
)


class Reasons:
    """The last lines that tell why."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=KEPT)

    def clear(self) -> None:
        """What was is over."""
        self._lines.clear()

    def tell(self, line: str) -> None:
        """Keeps a line of the log if it tells a reason."""
        line = _UNPRINTABLE.sub("?", line)[:LINE_OCTETS]
        if _TELLING.search(line) and not _PLAIN_FAILURE.search(line) and line not in self._lines:
            self._lines.append(line)

    def __str__(self) -> str:
        """What is wrong, and the lines that say so; empty where nothing is known."""
        if not self._lines:
            return ""
        lines = "; ".join(self._lines)
        meaning = next((words for sign, words in _MEANINGS if sign.search(lines.lower())), None)
        return f"{meaning} (strongSwan: {lines})" if meaning else f"strongSwan: {lines}"
