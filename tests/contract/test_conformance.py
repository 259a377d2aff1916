"""The script that holds the conformance ledger against the code, fed with ledgers and sources that do not agree."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "conformance.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("conformance", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["conformance"] = module
    spec.loader.exec_module(module)
    return module


conformance = load()
LEDGER = (ROOT / "docs" / "conformance.md").read_text()
ROWS, _ = conformance.read_rows(LEDGER)
# As if every test cited the rows that name it, and none any other.
TESTS = {
    test: frozenset(row.number for row in ROWS if test in row.tests) for row in ROWS for test in row.tests
}
DONE = next(row for row in ROWS if row.state == "done")


def line_of(number: str) -> str:
    return next(line for line in LEDGER.splitlines() if line.startswith(f"| {number} |"))


def cells(number: str, **changed: str) -> Callable[[str], str]:
    """The ledger with other cells in one row."""
    old = [cell.strip() for cell in line_of(number).split("|")[1:-1]]
    new = [changed.get(name, cell) for name, cell in zip(conformance.COLUMNS, old, strict=True)]
    return lambda text: text.replace(line_of(number), f"| {' | '.join(new)} |")


def faults(change: Callable[[str], str], tests: dict[str, frozenset[str]] | None = None) -> list[str]:
    found: list[str] = conformance.faults(change(LEDGER), ROOT, TESTS if tests is None else tests)
    return found


def test_a_ledger_that_agrees_has_no_faults() -> None:
    assert faults(lambda text: text) == []
    assert len(ROWS) == len(conformance.EXPECTED) == 164


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace(line_of("T-066") + "\n", ""), "T-066: is missing"),
        (
            lambda text: text.replace(line_of("T-066"), f"{line_of('T-066')}\n{line_of('T-066')}"),
            "T-066: is there twice",
        ),
        (lambda text: text + line_of("T-066").replace("T-066", "T-067"), "T-067: is no row of the ledger"),
        (lambda text: text + "| T-066 | S MUST |", "cannot be read: | T-066 | S MUST |"),
        (cells("T-066", state="finished"), "T-066: 'finished' is no state"),
        (cells("T-066", file=""), "T-066: done without a file"),
        (cells("T-066", test=""), "T-066: done without a test"),
        (
            cells("T-066", file="python/flowtap/nothing.py"),
            "T-066: there is no file python/flowtap/nothing.py",
        ),
        (
            cells("T-066", test="tests/nothing.py::test_it"),
            "T-066: there is no test tests/nothing.py::test_it",
        ),
        (cells("T-066", test=DONE.tests[0]), f"T-066: {DONE.tests[0]} does not cite it"),
        (cells("T-066", state="partial"), "T-066: partial without a reason"),
        (cells("T-066", state="refused"), "T-066: refused without a reason"),
        (cells("T-066", state="open", file="", test=""), "T-066: 'open' is no state"),
    ],
)
def test_ledgers_with_faults(change: Callable[[str], str], words: str) -> None:
    assert any(words in fault for fault in faults(change)), faults(change)


def test_tests_that_the_ledger_does_not_know() -> None:
    (fault,) = faults(lambda text: text, TESTS | {"tests/x.py::test_x": frozenset({"T-999"})})
    assert fault == "tests/x.py::test_x cites T-999, which is no row of the ledger"
    name = DONE.tests[0]
    missing = faults(lambda text: text, TESTS | {name: frozenset()})
    assert f"{DONE.number}: {name} does not cite it" in missing


def test_names_mean_cases_and_classes() -> None:
    tests = dict.fromkeys(
        ["t.py::one", "t.py::one[a]", "t.py::one_more", "t.py::One::two", "t.py::One::two[b]"]
    )
    assert conformance.named("t.py::one", tests) == ["t.py::one", "t.py::one[a]"]
    assert conformance.named("t.py::one[a]", tests) == ["t.py::one[a]"]
    assert conformance.named("t.py::One", tests) == ["t.py::One::two", "t.py::One::two[b]"]
    assert conformance.named("t.py::One::two[c]", tests) == []
    assert conformance.named("t.py::on", tests) == []


@pytest.mark.parametrize(
    ("section", "outer", "expected"),
    [
        ("6.1", "6.1", True),
        ("6.1a", "6.1", True),
        ("6.1.2", "6.1", True),
        ("B.1.1-7", "B", True),
        ("6.10", "6.1", False),
        ("6", "6.1", False),
        ("5.4", "5.4.1", False),
    ],
)
def test_parts_of_sections(section: str, outer: str, expected: bool) -> None:
    assert conformance.is_within(section, outer) == expected


def test_sections_that_sources_cite(tmp_path: Path) -> None:
    (tmp_path / "python").mkdir()
    (tmp_path / "rust").mkdir()
    (tmp_path / "python" / "a.py").write_text('"""Does it [DTCP §5.4.1, App. B, RFC\n2104 §3]."""\n')
    (tmp_path / "rust" / "b.rs").write_text("// [DTCP §9.9]\n// [DTCP on paper]\n")
    sections, unreadable = conformance.cited_sections(tmp_path)
    assert sections == {"5.4.1": ["python/a.py"], "B": ["python/a.py"], "9.9": ["rust/b.rs"]}
    assert unreadable == ["rust/b.rs: the tag [DTCP on paper] names no section: 'on paper'"]
    found = conformance.faults(LEDGER, tmp_path, TESTS)
    assert "[DTCP §9.9] in rust/b.rs: no row has this section" in found
    assert not any("§5.4.1" in fault or "§B]" in fault for fault in found)


def test_tests_of_rust(tmp_path: Path) -> None:
    (tmp_path / "rust").mkdir()
    (tmp_path / "rust" / "t.rs").write_text(
        "// Ledger: T-001, T-002\n/// Says why.\n#[test]\nfn cited() {}\n\n#[test]\nfn plain() {}\n\n"
        "// Ledger: T-003\nfn no_test() {}\n\nproptest! {\n    // Ledger: T-004\n    #[test]\n    fn inside(a in 0..9) {}\n}\n"
    )
    assert conformance.rust_tests(tmp_path) == {
        "rust/t.rs::cited": {"T-001", "T-002"},
        "rust/t.rs::plain": frozenset(),
        "rust/t.rs::inside": {"T-004"},
    }


def collected(directory: Path, text: str) -> tuple[dict[str, list[str]], list[str]]:
    """What the script finds in a test file; in a process of its own, as it runs."""
    (directory / "tests").mkdir()
    (directory / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\naddopts = "--strict-markers"\nmarkers = ["ledger(*rows): rows"]\n'
    )
    (directory / "tests" / "test_it.py").write_text(f"import pytest\n\nmark = pytest.mark.ledger\n\n\n{text}")
    words = (
        "import json, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import conformance;"
        " tests, faults = conformance.python_tests(Path(sys.argv[2]));"
        " print(json.dumps([{name: sorted(rows) for name, rows in tests.items()}, faults]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", words, str(SCRIPT.parent), str(directory)],
        capture_output=True,
        check=True,
        cwd=directory,
    )
    tests, found = json.loads(done.stdout)
    return tests, found


def test_tests_of_python(tmp_path: Path) -> None:
    tests, found = collected(
        tmp_path,
        '@mark("T-001", "T-002")\n@mark("T-003")\ndef test_a(): ...\n\ndef test_b(): ...\n\n'
        '@mark("T-004")\nclass TestC:\n    def test_d(self): ...\n    @mark("T-005")\n    def test_e(self): ...\n\n'
        '@pytest.mark.parametrize("x", [1, pytest.param(2, marks=mark("T-006"))])\ndef test_f(x): ...\n',
    )
    assert found == []
    where = "tests/test_it.py::"
    assert {name.removeprefix(where): rows for name, rows in tests.items()} == {
        "test_a": ["T-001", "T-002", "T-003"],
        "test_b": [],
        "TestC::test_d": ["T-004"],
        "TestC::test_e": ["T-004", "T-005"],
        "test_f[1]": [],
        "test_f[2]": ["T-006"],
    }


def test_tests_that_cannot_be_collected(tmp_path: Path) -> None:
    _, (fault,) = collected(tmp_path, "raise RuntimeError('no')\n")
    assert fault.startswith("pytest cannot collect the tests")
    assert "RuntimeError: no" in fault
    assert len(fault) < 3000
