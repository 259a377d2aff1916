#!/usr/bin/env python3
"""Holds the conformance ledger against the code: rows, files, tests, and the sections that the code cites.

A row of docs/conformance.md names the file that obeys a statement and the tests that show it. The tests say
the same from their side: in Python with the mark ``ledger("T-025")``, in Rust with a comment
``// Ledger: T-025`` above the function. Where the two sides differ, or a source cites a section that no row
has, this script fails.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ROOT = Path(__file__).resolve().parent.parent
LEDGER = Path("docs/conformance.md")
COLUMNS: Final = ("row", "who", "section", "statement", "state", "file", "test", "reason")
NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "done": ("file", "test"),
    "partial": ("file", "test", "reason"),
    "refused": ("reason",),
}
"""The states that a row can have, and what it must name in each."""
# The numbers that the statements have; the gaps between the groups are left for later ones.
GROUPS = (
    *((1, 16), (20, 29), (30, 31), (40, 66), (70, 88), (90, 109)),
    *((110, 123), (130, 147), (150, 159), (160, 180), (190, 196)),
)
EXPECTED = tuple(f"T-{number:03}" for first, last in GROUPS for number in range(first, last + 1))

SAID_CHARACTERS: Final = 2_000
"""As much of what pytest says as is shown."""

_TAG = re.compile(r"\[DTCP ([^\]]*)\]")
_CITED = re.compile(r"(?:§|App\. )(\w+(?:\.\w+)*)")
_ELSEWHERE = re.compile(r"RFC \d+")
_RUST_TEST = re.compile(r"^\s*(?:pub )?(?:async )?fn (\w+)\s*[(<]")
_RUST_CITATION = re.compile(r"//\s*Ledger:\s*(.*)")
_ABOVE = ("#[", "//")


@dataclass(frozen=True, slots=True)
class Row:
    """One statement, and what is said of it.

    Attributes:
        number: Such as T-025.
        section: Where the draft makes it.
        state: One of `NEEDS`.
        files: What obeys it.
        tests: What shows it.
        reason: Why it is not, or not wholly, obeyed; or what else is to be known.
    """

    number: str
    section: str
    state: str
    files: tuple[str, ...]
    tests: tuple[str, ...]
    reason: str


def read_rows(text: str) -> tuple[list[Row], list[str]]:
    """Reads the table of a ledger.

    Returns:
        Its rows, and what cannot be read, one line each.
    """
    rows, unreadable = [], []
    for line in text.splitlines():
        if not line.startswith("| T-"):
            continue
        cells = [cell.strip() for cell in line.strip().removesuffix("|").split("|")[1:]]
        if len(cells) != len(COLUMNS) or not re.fullmatch(r"T-\d{3}", cells[0]):
            unreadable.append(f"cannot be read: {line}")
            continue
        number, _, section, _, state, files, tests, reason = cells
        rows.append(Row(number, section, state, _names(files), _names(tests), reason))
    return rows, unreadable


def _names(cell: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in cell.split(";") if name.strip())


# --- the tests' side -----------------------------------------------------------------------------


class _Collector:
    """Takes down every test that pytest finds, and the rows that it cites."""

    def __init__(self) -> None:
        self.cited: dict[str, frozenset[str]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            marks = item.iter_markers("ledger")
            self.cited[item.nodeid] = frozenset(str(row) for mark in marks for row in mark.args)


def python_tests(root: Path) -> tuple[dict[str, frozenset[str]], list[str]]:
    """Every test of Python by its node id, with the rows that it cites.

    Returns:
        The tests, and a fault where some could not even be collected.
    """
    collector = _Collector()
    said = io.StringIO()
    words = ["--collect-only", "-q", "-p", "no:cacheprovider", f"--rootdir={root}", str(root / "tests")]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = pytest.main(words, plugins=[collector])
    if status not in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
        what = said.getvalue().partition("= ERRORS =")[2] or said.getvalue()
        return collector.cited, [f"pytest cannot collect the tests: {what[-SAID_CHARACTERS:]}"]
    return collector.cited, []


def rust_tests(root: Path) -> dict[str, frozenset[str]]:
    """Every test of Rust by its file and name, with the rows that it cites."""
    found: dict[str, frozenset[str]] = {}
    for path in sorted((root / "rust").rglob("*.rs")):
        lines = path.read_text().splitlines()
        for at, line in enumerate(lines):
            match = _RUST_TEST.match(line)
            above = list(_lines_above(lines, at)) if match else []
            if match and any(each.startswith("#[test") for each in above):
                found[f"{path.relative_to(root)}::{match[1]}"] = frozenset(
                    row
                    for each in above
                    if (citation := _RUST_CITATION.match(each))
                    for row in re.findall(r"T-\d+", citation[1])
                )
    return found


def _lines_above(lines: list[str], at: int) -> Iterator[str]:
    """The attributes and comments that stand directly above a line."""
    while at > 0 and lines[at - 1].strip().startswith(_ABOVE):
        at -= 1
        yield lines[at].strip()


def named(test: str, tests: Mapping[str, frozenset[str]]) -> list[str]:
    """The tests that a name means: itself, every case of a parametrised one, everything in a class."""
    return [each for each in tests if each == test or each.startswith((f"{test}[", f"{test}::"))]


# --- the sources' side ---------------------------------------------------------------------------


def cited_sections(root: Path) -> tuple[dict[str, list[str]], list[str]]:
    """The sections that tags such as ``[DTCP §5.4.1]`` name, with the files that they stand in.

    Returns:
        The sections, and tags that cannot be read.
    """
    sections: dict[str, list[str]] = {}
    unreadable = []
    sources = [*(root / "python").rglob("*.py"), *(root / "rust").rglob("*.rs")]
    for path in sorted(sources):
        where = str(path.relative_to(root))
        for tag in _TAG.findall(path.read_text()):
            for piece in re.split(r",\s*", " ".join(tag.split())):
                match = _CITED.fullmatch(piece)
                if match:
                    sections.setdefault(match[1], []).append(where)
                elif not _ELSEWHERE.match(piece):
                    unreadable.append(f"{where}: the tag [DTCP {tag}] names no section: {piece!r}")
    return sections, unreadable


def is_within(section: str, outer: str) -> bool:
    """Whether a section is the other one, or a part of it: 6.1a and 6.1.2 are parts of 6.1, 6.10 is none."""
    return section == outer or (section.startswith(outer) and not section[len(outer)].isdigit())


# --- both together -------------------------------------------------------------------------------


def row_faults(row: Row, root: Path, tests: Mapping[str, frozenset[str]]) -> Iterator[str]:
    """What is wrong with one row."""
    if row.state not in NEEDS:
        yield f"{row.number}: {row.state!r} is no state; {', '.join(NEEDS)} are"
        return
    given = {"file": row.files, "test": row.tests, "reason": row.reason}
    for what in NEEDS[row.state]:
        if not given[what]:
            yield f"{row.number}: {row.state} without a {what}"
    for file in row.files:
        if not (root / file).is_file():
            yield f"{row.number}: there is no file {file}"
    for test in row.tests:
        found = named(test, tests)
        if not found:
            yield f"{row.number}: there is no test {test}"
        yield from (
            f"{row.number}: {each} does not cite it" for each in found if row.number not in tests[each]
        )


def faults(text: str, root: Path, tests: Mapping[str, frozenset[str]]) -> list[str]:
    """What is wrong with a ledger, one line each.

    Args:
        text: The ledger.
        root: Where the files lie that it names.
        tests: Every test with the rows that it cites.
    """
    rows, found = read_rows(text)
    numbers = [row.number for row in rows]
    found += [f"{number}: is missing" for number in EXPECTED if number not in numbers]
    found += [f"{number}: is there twice" for number in sorted(set(numbers)) if numbers.count(number) > 1]
    found += [f"{number}: is no row of the ledger" for number in numbers if number not in EXPECTED]
    for row in rows:
        found += row_faults(row, root, tests)
    found += _citations(rows, tests)
    sections, unreadable = cited_sections(root)
    found += unreadable
    for section, files in sections.items():
        if not any(is_within(row.section, section) for row in rows):
            found.append(f"[DTCP §{section}] in {files[0]}: no row has this section")
    return found


def _citations(rows: Iterable[Row], tests: Mapping[str, frozenset[str]]) -> Iterator[str]:
    """Rows that tests cite and that are not there."""
    numbers = {row.number for row in rows}
    for test, cited in tests.items():
        for number in sorted(cited - numbers):
            yield f"{test} cites {number}, which is no row of the ledger"


def main() -> int:
    """Prints what is wrong, or how much is done."""
    text = (ROOT / LEDGER).read_text()
    tests, uncollected = python_tests(ROOT)
    found = uncollected + faults(text, ROOT, tests | rust_tests(ROOT))
    for fault in found:
        print(f"conformance: {fault}", file=sys.stderr)
    states = [row.state for row in read_rows(text)[0]]
    counts = ", ".join(f"{states.count(state)} {state}" for state in NEEDS)
    print(f"conformance: {len(EXPECTED)} statements: {counts}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
