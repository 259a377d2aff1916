"""A tree as text again, in either form."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowtap.config.junos.syntax import Node

__all__ = ["curly", "quoted", "set_lines"]

# What needs no quotation marks: words that no reader takes for anything else.
_PLAIN: Final = re.compile(r"[A-Za-z0-9$_.:/<>*^+=@!?,|&~%'()-]+")
_RESERVED: Final = re.compile(r"#|/\*|(?:inactive|protect|replace):$")


def quoted(word: str) -> str:
    """A word as it can stand in a configuration."""
    if _PLAIN.fullmatch(word) and not _RESERVED.search(word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def curly(root: Node) -> str:
    """The tree in curly braces, as ``show configuration`` prints it but for the names of its own."""
    return "".join(f"{line}\n" for line in _blocks(root, 0))


def _blocks(parent: Node, depth: int) -> Iterator[str]:
    indent = "    " * depth
    for child in parent.children.values():
        prefix = "inactive: " if child.inactive and not parent.inactive else ""
        words = [quoted(child.word)]
        node = child
        # A chain is one statement; where deactivation begins it must end with the word that is meant.
        while not prefix and len(node.children) == 1:
            (only,) = node.children.values()
            if only.inactive != node.inactive:
                break
            node = only
            words.append(quoted(node.word))
        text = f"{indent}{prefix}{' '.join(words)}"
        if node.children:
            yield f"{text} {{"
            yield from _blocks(node, depth + 1)
            yield f"{indent}}}"
        else:
            yield f"{text};"


def set_lines(root: Node) -> str:
    """The tree in set lines, as ``show configuration | display set`` prints it."""
    stated = [
        f"set {' '.join(map(quoted, leaf.path))}\n" for leaf in root.leaves() if leaf.parent is not None
    ]
    return "".join([*stated, *_deactivated(root)])


def _deactivated(root: Node) -> Iterator[str]:
    for child in root.children.values():
        if child.inactive:
            yield f"deactivate {' '.join(map(quoted, child.path))}\n"
        else:
            yield from _deactivated(child)
