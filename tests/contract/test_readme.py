"""What the README and the guides show works as shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flowtap.cli.main import COMMANDS, run

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_embedding(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks(README, "python")
    assert len(code.splitlines()) <= 12
    monkeypatch.chdir(ROOT)
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - the README's own lines
    assert len(capsys.readouterr().out.splitlines()) >= 45


def test_the_criteria_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = next(block for block in blocks(README, "") if "cat criteria.txt" in block)
    text = shown.split("$ cat criteria.txt\n")[1].split("\n\n$")[0]
    (tmp_path / "criteria.txt").write_text(text + "\n")
    commands = [line.split()[2:] for line in shown.splitlines() if line.startswith("$ .venv/bin/flowtap")]
    assert [command[0] for command in commands] == ["replay", "explain"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    for command in commands:
        assert run(command) == 0


def test_the_demo_s_output_is_what_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo"]) == 0
    shown = next(block for block in blocks(README, "") if "[1/6]" in block)
    assert capsys.readouterr().out == shown


def test_every_command_is_named() -> None:
    for name in COMMANDS:
        assert f"flowtap {name}" in README


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_the_configuration_of_the_guide(tmp_path: Path) -> None:
    from flowtap.config import load  # noqa: PLC0415 - only here

    (text,) = blocks((ROOT / "docs" / "operations.md").read_text(), "toml")
    (tmp_path / "flowtap.toml").write_text(text)
    values = load(tmp_path / "flowtap.toml").values
    assert values.content_destination["cd1"].ttl == 255
    assert values.element.interfaces == ["eth0", "eth1"]
    # And with the other source, and what else stands behind a mark.
    other = re.sub(r"^# (?=[\w\[\"])", "", text, flags=re.MULTILINE).replace(
        'interfaces = ["eth0", "eth1"]', "", 1
    )
    other = other.replace("interfaces = []  ", 'interfaces = ["eth0", "eth2"]  ', 1)
    (tmp_path / "flowtap.toml").write_text(other)
    element = load(tmp_path / "flowtap.toml").values.element
    assert element.replay is not None
    assert element.replay.files == ["a.pcapng"]
    assert element.vrf["RED"].interfaces == ["eth2"]
