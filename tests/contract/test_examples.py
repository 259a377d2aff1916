"""The examples run, and do what they say."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from types import ModuleType

EXAMPLES = Path(__file__).parents[2] / "examples"
CAPTURE = str(Path(__file__).parents[1] / "captures" / "plain.pcap")


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pcapy_tap() -> None:
    # Some copies are longer than the path allows and leave as two fragments.
    assert example("pcapy_tap").main(CAPTURE, "192.0.2.10") >= 45


def test_asyncio_tap() -> None:
    assert asyncio.run(example("asyncio_tap").deliver(CAPTURE, "192.0.2.10")) == (45, 45)
