"""What becomes of every statement, each exactly once, and never with the text of a secret."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from flowtap.config.junos.emit import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowtap.config.junos.syntax import Node, Tree

__all__ = ["Entry", "Fault", "Ledger", "Outcome", "statement"]

Outcome = Literal["mapped", "ignored", "unmapped"]

_SECRET_FOLLOWS: Final = re.compile(
    r"(?:.*-)?(?:passwords?|passwd|passphrase|secret|key|keys|pin|token|credentials?|community|md5"
    r"|plain-text-password-value|ascii-text|hexadecimal|certificate|ssh-[a-z0-9]+)"
)
"""Behind such a word nothing is shown, in the stanzas that are ours and in all others."""
_FORMS: Final = frozenset({"ascii-text", "hexadecimal"})
"""How a secret is written stands before it."""
_OBFUSCATED: Final = re.compile(r"\$[0-9a-z]{1,8}\$")
_WITH_LOGIN: Final = re.compile(r"://[^/]*@")
"""The address of a server with a login in it."""
NOTHING_LIKE_IT: Final = "flowtap has nothing like it"
_HIDDEN: Final = "..."
STATEMENT_CHARACTERS_MAX: Final = 400
WORD_CHARACTERS_MAX: Final = 120


def statement(words: Sequence[str]) -> str:
    """A statement as ``set`` lines write it, without secrets, and no longer than a person wants to read."""
    shown: list[str] = []
    for at, word in enumerate(words):
        if _OBFUSCATED.match(word) or _WITH_LOGIN.search(word):
            shown.append(_HIDDEN)
            break
        shown.append(quoted(_plain(word[:WORD_CHARACTERS_MAX])))
        if len(word) > WORD_CHARACTERS_MAX:
            shown[-1] += _HIDDEN
        if at + 1 < len(words) and _SECRET_FOLLOWS.fullmatch(word) and words[at + 1] not in _FORMS:
            shown.append(_HIDDEN)
            break
    return _short(" ".join(shown))


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _short(text: str) -> str:
    shown = _plain(text[:STATEMENT_CHARACTERS_MAX])
    return shown if len(text) <= STATEMENT_CHARACTERS_MAX else shown + _HIDDEN


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of one statement.

    Attributes:
        line: Where it stands, counted from 1; the place of its last word.
        column: The same, in characters from 1.
        statement: In ``set`` words, without secrets.
        outcome: Mapped, ignored because nothing is lost by that, or not mapped although it meant something.
        target: The key that it went to; None unless it is mapped.
        reason: Why it was ignored or could not be mapped, or what to know of how it was mapped.
    """

    line: int
    column: int
    statement: str
    outcome: Outcome
    target: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """Something in the configuration that cannot be: nothing is imported.

    Attributes:
        line: Where, counted from 1.
        column: Where, in characters from 1.
        statement: In ``set`` words, without secrets.
        reason: What is wrong and what would be right.
    """

    line: int
    column: int
    statement: str
    reason: str


@dataclass(slots=True)
class Ledger:
    """Takes down what becomes of every statement."""

    _faults: dict[Fault, None] = field(default_factory=dict)
    _entries: dict[Node, Entry] = field(default_factory=dict)

    def mapped(self, node: Node, target: str, reason: str | None = None) -> None:
        """All statements under a node, or itself, have become a key."""
        self._claim(node, "mapped", target, reason)

    def ignored(self, node: Node, reason: str) -> None:
        """They are not needed here."""
        self._claim(node, "ignored", None, reason)

    def unmapped(self, node: Node, reason: str) -> None:
        """They mean something that is not imported."""
        self._claim(node, "unmapped", None, reason)

    def fault(self, node: Node, reason: str) -> None:
        """They cannot be."""
        self._faults.setdefault(Fault(node.line, node.column, statement(node.path), _short(reason)))
        self.unmapped(node, reason)

    @property
    def faults(self) -> list[Fault]:
        """All of them, each once, in the order of the text."""
        return sorted(self._faults, key=lambda each: (each.line, each.column))

    @property
    def has_mapped(self) -> bool:
        """Whether anything has become a key."""
        return any(entry.outcome == "mapped" for entry in self._entries.values())

    def is_claimed(self, node: Node) -> bool:
        """Whether something has become of the statement that ends here."""
        return node in self._entries

    def _claim(self, node: Node, outcome: Outcome, target: str | None, reason: str | None) -> None:
        """The first who says something about a statement knows it best."""
        for leaf in node.leaves():
            if leaf not in self._entries:
                text = statement(leaf.path)
                self._entries[leaf] = Entry(leaf.line, leaf.column, text, outcome, target, reason)

    def close(self, tree: Tree) -> list[Entry]:
        """Every statement of the text, in its order."""
        if tree.root.children:
            reason = (
                "was not looked at, because something else cannot be" if self._faults else NOTHING_LIKE_IT
            )
            self.unmapped(tree.root, reason)
        dropped = [
            Entry(each.line, each.column, statement(each.words), "ignored", None, each.reason)
            for each in tree.dropped
        ]
        return sorted([*self._entries.values(), *dropped], key=lambda each: (each.line, each.column))
