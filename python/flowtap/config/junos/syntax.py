"""Curly braces or ``set`` lines: one tree, in which every word is a node.

``user md { uid 5; }`` and ``set user md uid 5`` are the same chain of words, and so are ``[ a b ]`` and two
lines. Which words are keywords is not known here, so nothing has to be known about the vast rest of what
a router can be told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from flowtap.config.junos.tokens import JunosError, Token, tokenize

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["DEPTH_MAX", "STATEMENTS_MAX", "Dropped", "Node", "Tree", "parse"]

DEPTH_MAX: Final = 64
"""Words from the root to the end of a statement; those of real configurations have about 20."""
STATEMENTS_MAX: Final = 500_000
"""Statements and words together; each is a node in memory and a line of the report."""

_ONE_FORM: Final = "a file is either in curly braces or in set lines"
COMMANDS: Final = frozenset({"set", "delete", "deactivate", "activate", "protect", "unprotect"})
_OTHER_COMMANDS: Final = frozenset({"edit", "top", "up", "exit", "rename", "insert", "copy", "annotate"})
_PREFIXES: Final = frozenset({"inactive:", "protect:", "replace:"})
_PREFIX: Final = re.compile(r"[a-z]+:")
_PROMPT: Final = re.compile(r".+@.+[>#]")
Form = Literal["curly", "set"]


@dataclass(slots=True, eq=False)
class Node:
    """A word and what stands under it.

    Attributes:
        word: Without quotation marks.
        line: Where it stood first, counted from 1.
        column: The same, in characters from 1.
        parent: What it stands under; None for the root.
        children: What stands under it, by word, in the order of the text.
        inactive: It, or something above it, is deactivated.
    """

    word: str
    line: int
    column: int
    parent: Node | None = field(default=None, repr=False)
    children: dict[str, Node] = field(default_factory=dict, repr=False)
    inactive: bool = False

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Node):
            return NotImplemented
        return (
            self.word == other.word
            and self.inactive == other.inactive
            and len(self.children) == len(other.children)
            and all(
                one == another
                for one, another in zip(self.children.values(), other.children.values(), strict=True)
            )
        )

    __hash__ = object.__hash__

    @property
    def path(self) -> list[str]:
        """The words from below the root down to this one."""
        words: list[str] = []
        node: Node | None = self
        while node is not None and node.parent is not None:
            words.append(node.word)
            node = node.parent
        return words[::-1]

    def leaves(self) -> Iterator[Node]:
        """The ends of all statements under it, itself where nothing is under it; in the order of the text."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            if node.children:
                waiting.extend(reversed(node.children.values()))
            else:
                yield node


@dataclass(frozen=True, slots=True)
class Dropped:
    """A statement that is not in the tree.

    Attributes:
        words: The statement.
        line: Where it stood.
        column: The same, in characters from 1.
        reason: Why it is not.
    """

    words: tuple[str, ...]
    line: int
    column: int
    reason: str


@dataclass(frozen=True, slots=True)
class Tree:
    """A configuration.

    Attributes:
        root: Without a word; the stanzas stand under it.
        form: How it was written.
        dropped: Statements that others have taken back or repeat, and commands that concern none.
    """

    root: Node
    form: Form
    dropped: list[Dropped] = field(default_factory=list)


def parse(text: str) -> Tree:
    """Reads a configuration in either form.

    Raises:
        JunosError: It cannot be read; line, column and what would be right are told.
    """
    tokens = tokenize(text)
    first = next(tokens, None)
    if first is None:
        raise JunosError("holds no statement", 1, 1)
    if _PROMPT.fullmatch(first.text):
        reason = "a prompt stands here; only what the router printed is right"
        raise JunosError(reason, first.line, first.column)
    form: Form = "set" if first.kind == "word" and first.text in COMMANDS else "curly"
    tree = Tree(Node("", first.line, first.column), form)
    builder = _Builder(tree)
    if form == "set":
        _read_lines(_lines(first, tokens), builder)
    else:
        _read_braces(_chain(first, tokens), builder)
    _hand_down(tree.root)
    return tree


def _chain(first: Token, others: Iterator[Token]) -> Iterator[Token]:
    yield first
    yield from others


def _hand_down(root: Node) -> None:
    """What stands under something inactive is inactive too."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        for child in node.children.values():
            child.inactive = child.inactive or node.inactive
            waiting.append(child)


class _Builder:
    """Puts statements into a tree and bounds it."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._count = 0

    def counted(self, token: Token) -> None:
        self._count += 1
        if self._count > STATEMENTS_MAX:
            reason = f"more than {STATEMENTS_MAX:,} statements; leave out what is not about flow-tap"
            raise JunosError(reason, token.line, token.column)

    def descend(self, node: Node, words: Sequence[Token], depth: int) -> tuple[Node, bool]:
        """Follows words from a node, and makes those that are not there; tells whether one was made."""
        made = False
        for word in words:
            depth += 1
            if depth > DEPTH_MAX:
                reason = f"more than {DEPTH_MAX} words deep; no statement of a router is"
                raise JunosError(reason, word.line, word.column)
            child = node.children.get(word.text)
            if child is None:
                self.counted(word)
                child = Node(word.text, word.line, word.column, node)
                node.children[word.text] = child
                made = True
            node = child
        return node, made

    def state(self, node: Node, words: Sequence[Token], ends: Sequence[Token], depth: int) -> list[Node]:
        """Adds a statement: words, and either nothing behind them or one of the words of a list.

        Returns:
            Its ends.
        """
        stem, is_new = self.descend(node, words, depth)
        found = []
        for end in ends:
            leaf, made = self.descend(stem, [end], depth + len(words))
            if not made:
                self._repeated(leaf, end)
            found.append(leaf)
        if not ends:
            if not is_new:
                self._repeated(stem, words[0])
            found.append(stem)
        return found

    def _repeated(self, node: Node, token: Token) -> None:
        self.counted(token)
        reason = f"repeats line {node.line}, column {node.column}"
        self.drop(node.path, token, reason)

    def drop(self, words: Iterable[str], token: Token, reason: str) -> None:
        self.tree.dropped.append(Dropped(tuple(words), token.line, token.column, reason))

    def find(self, node: Node, words: Sequence[Token]) -> Node | None:
        """Follows words from a node that must all be there."""
        for word in words:
            child = node.children.get(word.text)
            if child is None:
                return None
            node = child
        return node

    def remove(self, node: Node, reason: str) -> None:
        """Takes a node out, and remembers every statement that goes with it."""
        for leaf in node.leaves():
            self.tree.dropped.append(Dropped(tuple(leaf.path), leaf.line, leaf.column, reason))
        if node.parent is not None:
            del node.parent.children[node.word]


# -- curly braces ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Statement:
    """What has been read of a statement."""

    prefixes: list[str] = field(default_factory=list)
    words: list[Token] = field(default_factory=list)
    list_begin: Token | None = None
    ends: list[Token] = field(default_factory=list)
    is_list_open: bool = False

    def add(self, token: Token) -> None:
        if len(self.words) > DEPTH_MAX or len(self.ends) > STATEMENTS_MAX:
            reason = "a statement without an end; ';' is right behind every statement"
            raise JunosError(reason, self.words[0].line, self.words[0].column)
        if self.is_list_open:
            self.ends.append(token)
        elif self.list_begin is not None:
            raise JunosError("a list ends its statement; ';' is right here", token.line, token.column)
        elif token.kind == "word" and not self.words and token.text in _PREFIXES:
            self.prefixes.append(token.text)
        elif token.kind == "word" and not self.words and _PREFIX.fullmatch(token.text):
            reason = f"{token.text!r} is not read; of such words {', '.join(sorted(_PREFIXES))} are right"
            raise JunosError(reason, token.line, token.column)
        else:
            self.words.append(token)

    def open_list(self, token: Token) -> None:
        if not self.words or self.list_begin is not None:
            raise JunosError("a list stands behind a word, once: name [ a b ];", token.line, token.column)
        self.list_begin = token
        self.is_list_open = True

    def close_list(self, token: Token) -> None:
        if not self.is_list_open:
            raise JunosError("']' closes no '['", token.line, token.column)
        if not self.ends:
            raise JunosError("a list without a word; [ a b ] is right", token.line, token.column)
        self.is_list_open = False

    @property
    def is_empty(self) -> bool:
        return not self.words and not self.prefixes

    def refuse_open_list(self, token: Token) -> None:
        if self.is_list_open and self.list_begin is not None:
            begin = self.list_begin
            reason = f"the list of line {begin.line}, column {begin.column} has no end; ']' is right"
            raise JunosError(reason, token.line, token.column)


@dataclass(frozen=True, slots=True)
class _Open:
    """A brace that is open."""

    node: Node
    depth: int
    token: Token | None


def _read_braces(tokens: Iterator[Token], builder: _Builder) -> None:
    stack = [_Open(builder.tree.root, 0, None)]
    statement = _Statement()
    token: Token | None = None
    for token in tokens:
        if token.kind in {"word", "string"}:
            statement.add(token)
            _refuse_command(statement, stack[-1].depth)
        elif token.kind == "[":
            statement.open_list(token)
        elif token.kind == "]":
            statement.close_list(token)
        else:
            statement.refuse_open_list(token)
            if token.kind == "{":
                stack.append(_open_brace(statement, stack[-1], token, builder))
            elif token.kind == ";":
                _end_statement(statement, stack[-1], token, builder)
            else:
                _close_brace(statement, stack, token)
            statement = _Statement()
    if not statement.is_empty:
        last = token or statement.words[-1]
        raise JunosError("the text ends within a statement; ';' is missing", last.line, last.column)
    if len(stack) > 1 and stack[-1].token is not None:
        brace = stack[-1].token
        raise JunosError("this '{' is never closed; '}' is missing", brace.line, brace.column)


def _refuse_command(statement: _Statement, depth: int) -> None:
    if depth == 0 and statement.words and statement.words[0].text in COMMANDS:
        first = statement.words[0]
        reason = f"{first.text!r} begins a line of the other form; {_ONE_FORM}"
        raise JunosError(reason, first.line, first.column)


def _target(statement: _Statement, place: _Open, builder: _Builder) -> None:
    """``replace:`` takes back what was stated before."""
    if "replace:" in statement.prefixes:
        before = builder.find(place.node, statement.words)
        if before is not None:
            first = statement.words[0]
            builder.remove(before, f"replaced in line {first.line}, column {first.column}")


def _open_brace(statement: _Statement, place: _Open, token: Token, builder: _Builder) -> _Open:
    if not statement.words:
        raise JunosError("'{' without a name before it", token.line, token.column)
    if statement.list_begin is not None:
        raise JunosError("a list ends its statement; ';' is right here", token.line, token.column)
    _target(statement, place, builder)
    node, _ = builder.descend(place.node, statement.words, place.depth)
    node.inactive = node.inactive or "inactive:" in statement.prefixes
    return _Open(node, place.depth + len(statement.words), token)


def _end_statement(statement: _Statement, place: _Open, token: Token, builder: _Builder) -> None:
    if not statement.words:
        raise JunosError("';' without a statement before it", token.line, token.column)
    _target(statement, place, builder)
    for end in builder.state(place.node, statement.words, statement.ends, place.depth):
        end.inactive = end.inactive or "inactive:" in statement.prefixes


def _close_brace(statement: _Statement, stack: list[_Open], token: Token) -> None:
    if not statement.is_empty:
        raise JunosError("';' is missing before this '}'", token.line, token.column)
    if len(stack) == 1:
        raise JunosError("this '}' closes no '{'", token.line, token.column)
    stack.pop()


# -- set lines ---------------------------------------------------------------------------------------------


def _lines(first: Token, others: Iterator[Token]) -> Iterator[list[Token]]:
    """Tokens by line; a string that has several does not end its line."""
    line = [first]
    for token in others:
        if token.line != line[-1].last_line:
            yield line
            line = []
        elif len(line) > STATEMENTS_MAX:
            reason = f"more than {STATEMENTS_MAX:,} words in a line; one statement a line is right"
            raise JunosError(reason, line[0].line, line[0].column)
        line.append(token)
    yield line


def _read_lines(lines: Iterable[list[Token]], builder: _Builder) -> None:
    root = builder.tree.root
    for tokens in lines:
        command, *rest = tokens
        if command.text not in COMMANDS or command.kind != "word":
            raise JunosError(_no_command(command), command.line, command.column)
        statement = _Statement()
        for token in rest:
            if token.kind in {"word", "string"}:
                # No prefix stands in this form.
                statement.ends.append(token) if statement.is_list_open else _add_plain(statement, token)
            elif token.kind == "[":
                statement.open_list(token)
            elif token.kind == "]":
                statement.close_list(token)
            else:
                reason = (
                    f"{token.kind!r} stands in no set line; a file is either in curly braces or in set lines"
                )
                raise JunosError(reason, token.line, token.column)
        statement.refuse_open_list(tokens[-1])
        if not statement.words:
            reason = f"{command.text} names no statement; {command.text} system login is right, for instance"
            raise JunosError(reason, command.line, command.column)
        if command.text == "set":
            builder.state(root, statement.words, statement.ends, 0)
        else:
            _change(command, statement, builder)


def _add_plain(statement: _Statement, token: Token) -> None:
    if statement.list_begin is not None:
        raise JunosError("a list ends its line", token.line, token.column)
    statement.words.append(token)


def _no_command(token: Token) -> str:
    if token.text in _OTHER_COMMANDS:
        return f"{token.text!r} is not read; write the whole statement: set system login class tasker"
    known = ", ".join(sorted(COMMANDS))
    return f"a line begins with one of {known}; {_ONE_FORM}"


def _change(command: Token, statement: _Statement, builder: _Builder) -> None:
    root = builder.tree.root
    paths = [[*statement.words, end] for end in statement.ends] or [statement.words]
    for words in paths:
        node = builder.find(root, words)
        if node is None:
            builder.counted(command)
            stated = (command.text, *(word.text for word in words))
            builder.drop(stated, command, f"{command.text} names nothing that was set before")
        elif command.text == "delete":
            builder.remove(node, f"deleted in line {command.line}")
        elif command.text in {"deactivate", "activate"}:
            node.inactive = command.text == "deactivate"
