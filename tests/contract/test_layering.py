"""Who may import what: the protocol and the decisions do no I/O, read no clock and start no thread."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "python" / "flowtap"
FORBIDDEN = {"socket", "ssl", "asyncio", "threading", "time", "os", "logging", "subprocess", "concurrent"}
LAYERS = {
    "diagnosis": {"diagnosis", "config", "delivery", "errors", "_flowtap"},
    "dtcp": {"dtcp", "errors"},
    "control": {"control", "dtcp", "errors"},
    "config": {"config", "errors"},
    "delivery": {"delivery", "complaints", "config", "errors"},
    "mediation": {"mediation", "dtcp", "errors"},
    "service": {"service", "complaints", "config", "control", "delivery", "dtcp", "errors", "_flowtap", ""},
}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module)
            if node.module == "flowtap":
                found |= {f"flowtap.{alias.name}" for alias in node.names if alias.name.islower()}
    return found


# The client for asyncio has its name where people look for it; nothing of it is imported before it is used.
LAZY = {"dtcp/__init__.py": {"flowtap.mediation"}}


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_layers(path: Path) -> None:
    layer = path.relative_to(PACKAGE).parts[0]
    for name in imports(path) - LAZY.get(str(path.relative_to(PACKAGE)), set()):
        top, _, rest = name.partition(".")
        if layer in {"dtcp", "control"}:
            assert top not in FORBIDDEN, f"{path} imports {name}"
        if top == "flowtap" and layer in LAYERS:
            assert rest.partition(".")[0] in LAYERS[layer], f"{path} imports {name}"
