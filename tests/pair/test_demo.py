"""The scene of flowtap demo, and that it notices when accounts do not agree."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowtap.cli import demo
from flowtap.cli.main import run

if TYPE_CHECKING:
    import pytest


def test_the_accounts_agree(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    began = time.monotonic()
    assert run(["demo", "--keep", str(tmp_path / "kept")]) == 0
    assert time.monotonic() - began < 20
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "accounts agree"
    assert len(list((tmp_path / "kept" / "received").glob("*.pcapng"))) == 4
    assert run(["config", "check", str(tmp_path / "kept" / "flowtap.toml")]) == 0
    assert run(["demo", "--keep", str(tmp_path / "kept")]) == 1


def test_a_packet_that_was_lost_is_noticed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived = demo._arrived

    def one_less(mediation: Any) -> dict[str, Any]:
        value = arrived(mediation)
        value["streams"][0]["packets"] -= 1
        return value

    monkeypatch.setattr(demo, "_arrived", one_less)
    assert run(["demo"]) == 1
    assert "the accounts do not agree" in capsys.readouterr().err
