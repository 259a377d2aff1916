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
    r"error|fail|unable|invalid|unacceptable|mismatch|not supported|denied|refused"
    r"|received \w+ (?:error )?notify"
    r"|no (?:private key|shared key|trusted|acceptable|matching|proposal|IKE config|issuer|local address)"
    r"|could not|not found|cannot|untrusted|expired|revoked|unreachable|not established after",
    re.IGNORECASE,
)
_PLAIN: Final = re.compile(
    r"^(?:parsed|generating) |failed to establish CHILD_SA|message parsing failed|processing failed"
    r"|establish(?:ing|ment of) .* failed|initiating .* failed|ignore malformed",
    re.IGNORECASE,
)
"""What these say is known, or said better by the line beside them."""
_SILENCE: Final = re.compile(r"sending retransmit|giving up after|peer not responding", re.IGNORECASE)
_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e]")
_MEANINGS: Final = (
    (
        re.compile(r"function not implemented|requested type not found|inbound and outbound ipsec sa"),
        "the kernel of this host has no ESP: it needs esp4 and esp6 (CONFIG_INET_ESP, CONFIG_INET6_ESP)",
    ),
    (
        re.compile(r"no local address found in traffic selector|error installing route"),
        "there is no route through it: an address of this host must lie in local_networks",
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
    (re.compile(r"unreachable"), "there is no way to the other gateway"),
)


class Reasons:
    """The last lines that tell why."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=KEPT)
        self._is_silent = False
        self._is_stale = False

    def clear(self) -> None:
        """What was is over."""
        self._lines.clear()
        self._is_silent = False
        self._is_stale = False

    def begin(self) -> None:
        """There is another attempt: what it tells takes the place of what was told."""
        self._is_stale = True

    def tell(self, line: str) -> None:
        """Keeps a line of the log if it tells a reason."""
        line = _UNPRINTABLE.sub("?", line)[:LINE_OCTETS]
        is_silence = bool(_SILENCE.search(line))
        if not is_silence and (not _TELLING.search(line) or _PLAIN.search(line)):
            return
        if self._is_stale:
            self.clear()
        if is_silence:
            # A wrong secret has this consequence, too, and tells more by itself.
            self._is_silent = True
        elif line not in self._lines:
            self._lines.append(line)

    def __str__(self) -> str:
        """What is wrong, and the lines that say so; empty where nothing is known."""
        if not self._lines:
            return "the other gateway does not answer" if self._is_silent else ""
        lines = "; ".join(self._lines)
        meaning = next((words for sign, words in _MEANINGS if sign.search(lines.lower())), None)
        return f"{meaning} (strongSwan: {lines})" if meaning else f"strongSwan: {lines}"
