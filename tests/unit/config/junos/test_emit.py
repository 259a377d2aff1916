"""What is written is what was read, in both forms."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowtap.config.junos import Node, curly, parse, set_lines
from flowtap.config.junos.emit import quoted
from flowtap.config.junos.syntax import COMMANDS

CONFIGURATIONS = Path(__file__).parents[3] / "configurations"

# Everything that a text may hold: control characters but line ends are refused before anything is read.
letters = st.characters(exclude_categories=("Cs", "Cc"), include_characters='\n\t\\"{}[];#/*')
words = st.one_of(
    st.sampled_from(
        ["system", "a", "192.0.2.0/24", "sp-0/3/0.1", "inactive:", "#", "/*", "[", "", "set", "fe80::"]
    ),
    st.text(letters, max_size=6),
)
# In curly braces a statement that begins like a set line is refused, quotation marks or not.
first_words = words.filter(lambda word: word not in COMMANDS)


@st.composite
def trees(draw: st.DrawFn) -> Node:
    root = Node("", 1, 1)

    def fill(node: Node, depth: int) -> None:
        strategy = words if depth else first_words
        minimum = 0 if depth else 1
        for word in draw(st.lists(strategy, min_size=minimum, max_size=3 if depth < 3 else 1, unique=True)):
            child = Node(word, 1, 1, node)
            child.inactive = node.inactive or draw(st.integers(0, 5)) == 0
            node.children[word] = child
            if depth < 5 and draw(st.booleans()):
                fill(child, depth + 1)

    fill(root, 0)
    return root


@given(trees())
def test_round_trips(root: Node) -> None:
    from_curly, from_set = parse(curly(root)), parse(set_lines(root))
    assert (from_curly.form, from_set.form) == ("curly", "set")
    assert from_curly.root == root
    assert from_set.root == root
    assert from_curly.dropped == from_set.dropped == []


@given(trees())
def test_any_layout_is_the_same(root: Node) -> None:
    """Line ends are blanks wherever they do not stand in quotation marks."""
    text = curly(root)
    if "\n" not in "".join(leaf.word for leaf in root.leaves()) and all(
        "\n" not in word for leaf in root.leaves() for word in leaf.path
    ):
        assert parse(text.replace("\n", " ")).root == root
        assert parse(text.replace("\n", "\r\n\t")).root == root


@given(trees(), trees())
def test_differences_are_seen(one: Node, other: Node) -> None:
    assert (one == other) == (set_lines(one) == set_lines(other))


@given(words)
@example("a#b")
@example("replace:")
@example("<ge-*/*>")
def test_a_word_stands_as_it_was(word: str) -> None:
    assert next(parse(f"a {quoted(word)};").root.leaves()).word == word


@pytest.mark.parametrize("name", ["how-to.conf", "how-to.set"])
def test_the_how_to(name: str) -> None:
    root = parse((CONFIGURATIONS / name).read_text()).root
    assert parse(curly(root)).root == root
    assert parse(set_lines(root)).root == root
    other = {"how-to.conf": "how-to.set", "how-to.set": "how-to.conf"}[name]
    assert parse((CONFIGURATIONS / other).read_text()).root == root
