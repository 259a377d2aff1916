"""Both forms are read into one tree; what cannot be read is told with its place."""

from __future__ import annotations

import time

import pytest

from flowtap.config.junos import JunosError, decode, parse, syntax
from flowtap.config.junos.syntax import DEPTH_MAX, STATEMENTS_MAX
from flowtap.config.junos.tokens import TEXT_OCTETS_MAX, WORD_CHARACTERS_MAX


def statements(text: str) -> list[str]:
    return [" ".join(leaf.path) for leaf in parse(text).root.leaves()]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a;", ["a"]),
        ("a b c;", ["a b c"]),
        ("a { b; c d; }", ["a b", "a c d"]),
        ("a{b;}", ["a b"]),
        ("a { }", ["a"]),
        ("a [ b c ];", ["a b", "a c"]),
        ("a{b [c d];}", ["a b c", "a b d"]),
        ("a { b; }\nc;\r\na { d; }", ["a b", "a d", "c"]),
        ("a { b { c; } } a { b { d; } }", ["a b c", "a b d"]),
        ("## Last commit: 2008-01-13 by operator\nversion 8.2R2.4;\na;", ["version 8.2R2.4", "a"]),
        ("# one { \n/* two; } */ a /* three */ b; # four\n", ["a b"]),
        ('a "b {};#/* c";', ["a b {};#/* c"]),
        (r'a "say \"b\" \\ \n";', ['a say "b" \\ \\n']),
        ('a "";', ["a "]),
        ('a "two\nlines" b;', ["a two\nlines b"]),
        ("a 192.0.2.1/24 2001:db8::1;", ["a 192.0.2.1/24 2001:db8::1"]),
        ("a <ge-*/*>;", ["a <ge-*/*>"]),
        ("a b#c;", ["a b#c"]),
        ("\ufeffa;", ["a"]),
        ("a { protect: b; }", ["a b"]),
        ("a { b 1; replace: b 2; }", ["a b 1", "a b 2"]),
        ("a { b { c; } replace: b { d; } }", ["a b d"]),
        ("a { 2001:db8::; }", ["a 2001:db8::"]),
        ("set a b\nset a c d", ["a b", "a c d"]),
        ("# comment\nset a [ b c ] # comment\n\nset d", ["a b", "a c", "d"]),
        ('set a "two\nlines" b\nset c', ["a two\nlines b", "c"]),
        ("set a b c\nset a d\ndelete a b", ["a d"]),
        ("set a b\ndelete a", [""]),
        ("set a b\nset a c\ndelete a [ b ]", ["a c"]),
        ("set a b\nprotect a b", ["a b"]),
    ],
)
def test_accepted(text: str, found: list[str]) -> None:
    assert statements(decode(text.encode())) == found


@pytest.mark.parametrize(
    ("text", "inactive"),
    [
        ("a { inactive: b { c; } d; }", ["a b c"]),
        ("inactive: a { b; c { d; } }", ["a b", "a c d"]),
        ("a { inactive: b c; }", ["a b c"]),
        ("a { inactive: b [ c d ]; e; }", ["a b c", "a b d"]),
        ("a { inactive: protect: b; }", ["a b"]),
        ('a { "inactive:" b; }', []),
        ("set a b c\nset a d\ndeactivate a b", ["a b c"]),
        ("set a b c\ndeactivate a\nactivate a", []),
        ("set a b c\ndeactivate a b\nset a b d", ["a b c", "a b d"]),
    ],
)
def test_inactive(text: str, inactive: list[str]) -> None:
    assert [" ".join(leaf.path) for leaf in parse(text).root.leaves() if leaf.inactive] == inactive


@pytest.mark.parametrize(
    ("text", "dropped"),
    [
        ("a b; c; a b;", [("a b", 1, 9, "repeats line 1, column 3")]),
        ("a { b; }\na b;", [("a b", 2, 1, "repeats line 1, column 5")]),
        ("a [ b b ];", [("a b", 1, 7, "repeats line 1, column 5")]),
        (
            "a { b 1; c { d; e; } replace: c { f; } }",
            [
                ("a c d", 1, 14, "replaced in line 1, column 31"),
                ("a c e", 1, 17, "replaced in line 1, column 31"),
            ],
        ),
        ("set a b\nset a c\ndelete a b", [("a b", 1, 7, "deleted in line 3")]),
        ("set a\ndelete b c", [("delete b c", 2, 1, "delete names nothing that was set before")]),
        ("set a\ndeactivate b", [("deactivate b", 2, 1, "deactivate names nothing that was set before")]),
    ],
)
def test_what_is_not_in_the_tree_is_remembered(text: str, dropped: list[tuple[str, int, int, str]]) -> None:
    assert [
        (" ".join(each.words), each.line, each.column, each.reason) for each in parse(text).dropped
    ] == dropped


def test_places() -> None:
    root = parse('system {\n\tuser "ä b" {\n  uid 5; } }').root
    places = {leaf.word: (leaf.line, leaf.column) for leaf in root.leaves()}
    assert places == {"5": (3, 7)}
    user = root.children["system"].children["user"]
    assert (user.line, user.column) == (2, 2)
    assert (user.children["ä b"].line, user.children["ä b"].column) == (2, 7)


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("", 1, 1, "holds no statement"),
        ("# nothing\n/* at all */", 1, 1, "holds no statement"),
        ("a { b; ", 1, 3, "'}' is missing"),
        ("a {\n b { c; }\n", 1, 3, "'}' is missing"),
        ("a { b; } }", 1, 10, "closes no '{'"),
        ("a { b }", 1, 7, "';' is missing before this '}'"),
        ("a b", 1, 3, "';' is missing"),
        ("inactive:", 1, 1, "';' is missing"),
        ("a { ; }", 1, 5, "';' without a statement"),
        ("{ a; }", 1, 1, "'{' without a name"),
        ("a { inactive: }", 1, 15, "';' is missing"),
        ("a [ b ;", 1, 7, "']' is right"),
        ("a [ b { c; }", 1, 7, "']' is right"),
        ("a [ ];", 1, 5, "a list without a word"),
        ("[ a ];", 1, 1, "behind a word"),
        ("a [ b [ c ] ];", 1, 7, "behind a word, once"),
        ("a [ b ] [ c ];", 1, 9, "behind a word, once"),
        ("a [ b ] c;", 1, 9, "a list ends its statement"),
        ("a [ b ] { c; }", 1, 9, "a list ends its statement"),
        ("a ];", 1, 3, "closes no '['"),
        ('a "b;\n}', 1, 3, "a string without an end"),
        ("a;\n /* b", 2, 2, "a comment without an end"),
        ('a "b"c;', 1, 6, "a blank is missing"),
        ('a b"c";', 1, 4, "a blank is missing"),
        ("a b/* c */;", 1, 3, "/* inside a word"),
        ("a\x00;", 1, 2, "control character (0x00)"),
        ("a;\nb \x1b[2J;", 2, 3, "control character (0x1B)"),
        ("a\u00a0b;", 1, 2, "a word, a string or a bracket"),
        ("delete: a;", 1, 1, "inactive:, protect:, replace: are right"),
        ("operator@router> show configuration\na;", 1, 1, "a prompt stands here"),
        ("operator@router# set a b", 1, 1, "a prompt stands here"),
        ("a { b; }\nset c d;", 2, 1, "either in curly braces or in set lines"),
        ("a;\ndelete b { c; }", 2, 1, "either in curly braces or in set lines"),
        (f"a;\nset b {'c ' * 70}", 2, 1, "either in curly braces or in set lines"),
        ("# comment\ra;\rb;", 1, 10, "a line feed behind it"),
        ("set a b\nc { d; }", 2, 1, "either in curly braces or in set lines"),
        ("set a b;", 1, 8, "either in curly braces or in set lines"),
        ("set a { b; }", 1, 7, "either in curly braces or in set lines"),
        ("set a\nedit system", 2, 1, "write the whole statement"),
        ("set", 1, 1, "set names no statement"),
        ("set a [ b c", 1, 11, "']' is right"),
        ("set a [ b ] c", 1, 13, "a list ends its line"),
        ("set a\ndelete", 2, 1, "delete names no statement"),
    ],
)
def test_rejected(text: str, line: int, column: int, words: str) -> None:
    with pytest.raises(JunosError) as caught:
        parse(decode(text.encode()))
    assert (caught.value.line, caught.value.column) == (line, column)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{line}:{column}: ")


@pytest.mark.parametrize(
    ("content", "line", "column"),
    [(b"a;\nb \xff;", 2, 3), (b"\xff\xfea\x00", 1, 1), ("ä\n".encode("latin-1"), 1, 1)],
)
def test_other_encodings(content: bytes, line: int, column: int) -> None:
    with pytest.raises(JunosError, match="not UTF-8") as caught:
        decode(content)
    assert (caught.value.line, caught.value.column) == (line, column)


MEBI = 1 << 20


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a {" * MEBI, "words deep"),
        ("{" * MEBI, "without a name"),
        ("a " * MEBI, "a statement without an end"),
        ("a [ " + "b " * MEBI, "a statement without an end"),
        ("a b c d e f g h " * 200 + ";", "a statement without an end"),
        ("set " + "a " * MEBI, "words in a line"),
        ("set " + " ".join(map(str, range(DEPTH_MAX + 1))), "words deep"),
        ("a [ " + " ".join(map(str, range(STATEMENTS_MAX + 1))) + " ];", "more than 500,000 statements"),
        ("a" * (WORD_CHARACTERS_MAX + 1) + ";", "at most 65,536"),
        ('a "' + "b" * MEBI + '";', "at most 65,536"),
        ('"' + "\\" * (2 * MEBI + 1) + '"', "a string without an end"),
        ("/* " * MEBI, "a comment without an end"),
        ("a" * (TEXT_OCTETS_MAX + 1), "more than 33,554,432 octets"),
    ],
)
def test_hostile(text: str, words: str) -> None:
    before = time.process_time()
    with pytest.raises(JunosError, match=words):
        parse(decode(text.encode()))
    assert time.process_time() - before < 20


@pytest.mark.parametrize(
    "text",
    [
        "a b;" * 30,
        "set a\n" + "delete b\n" * 30,
        "a b;" + "a b c;" * 30,
        "".join(f"a {at};" for at in range(30)),
    ],
)
def test_what_repeats_counts_as_well(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syntax, "STATEMENTS_MAX", 20)
    with pytest.raises(JunosError, match="more than 20 statements"):
        parse(text)
    monkeypatch.setattr(syntax, "STATEMENTS_MAX", 50)
    parse(text)


def test_long_texts_take_time_in_proportion() -> None:
    """Everything in one line, or every word in a line of its own: no place is searched for twice."""
    for form in ("s{a %d{b;c;}}", "s\n{\na\n%d\n{\nb\n;\nc\n;\n}\n}\n"):
        durations = []
        for number in (1_000, 20_000):
            text = "".join(form % at for at in range(number))
            before = time.process_time()
            assert sum(1 for _ in parse(text).root.leaves()) == 2 * number
            durations.append(time.process_time() - before)
        # Twenty times as much; a quadratic reader would need four hundred times as long.
        assert durations[1] < 100 * max(durations[0], 0.005)


def test_many_deletions_and_replacements_are_cheap() -> None:
    before = time.process_time()
    tree = parse("set a b\n" + "".join(f"set c {at} d\ndelete c {at}\n" for at in range(15_000)))
    assert len(tree.dropped) == 15_000
    replaced = parse("".join(f"a {{ replace: b {{ c {at}; }} }}" for at in range(15_000)))
    assert len(replaced.dropped) == 14_999
    assert time.process_time() - before < 10
