"""Whoever reads about the program reads, before anything else, what it must not be used for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from flowtap.cli.main import run

if TYPE_CHECKING:
    import pytest

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_lawful_use_comes_before_everything_else() -> None:
    headings = re.findall(r"^## (.*)$", README, re.MULTILINE)
    assert headings[0] == "Lawful use"


def test_it_says_what_the_program_must_not_be_used_for() -> None:
    section = README.split("## Lawful use")[1].split("\n## ")[0]
    plain = " ".join(section.split())
    assert "must not be used" in plain
    for words in ("without an order", "law", "entitled"):
        assert words in plain, words


def test_the_program_says_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    plain = " ".join(capsys.readouterr().out.split())
    assert (
        "Only for interception that the law of the place allows and somebody entitled has ordered." in plain
    )
