"""The protocol and the decisions reach the outside by no other way either: no clock, no file, no late import.

Which module may import which is checked beside this.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "python" / "flowtap"
LAYERS = ("dtcp", "control")
# What the layers' own list forbids can be done through these too.
MODULES = frozenset(
    {
        "asyncssh",
        "builtins",
        "importlib",
        "io",
        "multiprocessing",
        "pathlib",
        "random",
        "secrets",
        "select",
        "selectors",
        "signal",
        "sqlalchemy",
        "sqlite3",
        "sys",
        "tempfile",
    }
)
# The whole client is reached under the protocol's name, and only loaded by who asks for it.
PERMITTED = {"dtcp/__init__.py": ["imports importlib"]}
CALLS = frozenset({"__import__", "eval", "exec", "input", "open", "print"})
CLOCKS = frozenset({"now", "today", "utcnow"})


def violations(source: str) -> list[str]:
    """What a module without I/O must not do."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found += [f"imports {each.name}" for each in names if each.name.partition(".")[0] in MODULES]
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in MODULES:
                found.append(f"imports {module}")
            case ast.Call(func=ast.Name(id=name)) if name in CALLS:
                found.append(f"calls {name}")
            case ast.Call(func=ast.Attribute(attr=name)) if name in CLOCKS:
                found.append(f"reads a clock with {name}")
    return found


FILES = sorted(path for layer in LAYERS for path in (PACKAGE / layer).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_io_and_no_clock(path: Path) -> None:
    assert violations(path.read_text()) == PERMITTED.get(str(path.relative_to(PACKAGE)), [])


def test_both_layers_were_looked_at() -> None:
    assert {path.relative_to(PACKAGE).parts[0] for path in FILES} == set(LAYERS)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f():\n    import sys", ["imports sys"]),
        ("import importlib.metadata as m", ["imports importlib.metadata"]),
        ("if TYPE_CHECKING:\n    from pathlib import Path", ["imports pathlib"]),
        ("when = datetime.now()", ["reads a clock with now"]),
        ("print('x'); __import__('os')", ["calls print", "calls __import__"]),
        ("import re, hmac\nfrom . import model\nnow.wall.isoformat()", []),
    ],
)
def test_the_check_itself(source: str, found: list[str]) -> None:
    assert violations(source) == found
