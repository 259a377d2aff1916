"""flowtap show: what people read, and where it asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from local_socket import answering

from flowtap.cli.console import Table, table_lines
from flowtap.cli.main import run

STATUS = {"name": "lab", "ssh": ["192.0.2.1:32001"], "udp": [], "finished": False, "error": None}
CONFIGURATION = """
[element]
interfaces = ["eth0"]
[dtcp.ssh]
listen = ["127.0.0.1:32001"]
host_key_file = "host_key"
[show]
socket = "other.sock"
"""


def test_a_table_has_the_words_of_people() -> None:
    lines = table_lines(Table(["interface", "up", "error"], [["eth0", True, None], ["eth1", False, ""]]))
    assert [line.split() for line in lines[1:]] == [["eth0", "yes", "-"], ["eth1", "no", "-"]]


def test_so_has_the_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(tmp_path / "s", {"status": STATUS}) as path:
        assert run(["show", "status", "--socket", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "name: lab",
        "ssh: 192.0.2.1:32001",
        "udp: -",
        "finished: no",
        "error: -",
    ]


def test_the_configuration_may_name_the_socket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "flowtap.toml").write_text(CONFIGURATION)
    with answering(tmp_path / "other.sock", {"status": STATUS}):
        assert run(["show", "status", "--config", str(tmp_path / "flowtap.toml")]) == 0
    assert "name: lab" in capsys.readouterr().out
    # Nobody listens there any more; whose socket was asked for stands in the answer.
    assert run(["tunnel", "down", "ttp", "--config", str(tmp_path / "flowtap.toml")]) == 1
    assert f"{tmp_path / 'other.sock'}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "views", "said"),
    [
        ("flow-tap", {"intercepts": {"intercepts": []}}, "there is no intercept"),
        ("tunnels", {"security-associations": {"tunnels": []}}, "has no tunnel"),
        (
            "dynamic-flow-capture content-destination",
            {"content-destinations": {"content_destinations": []}, "status": STATUS},
            "no content destination",
        ),
        (
            "dynamic-flow-capture control-source",
            {"control-sources": {"control_sources": []}, "status": STATUS},
            "no control source",
        ),
    ],
)
def test_nothing_is_not_said_by_silence(
    words: str, views: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(tmp_path / "s", views) as path:
        assert run(["show", *words.split(), "--socket", str(path)]) == 0
    assert said in capsys.readouterr().err
