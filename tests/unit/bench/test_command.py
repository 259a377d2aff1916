from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from flowtap import Criteria
from flowtap.bench import parts
from flowtap.bench.machine import describe
from flowtap.bench.parts import PARTS
from flowtap.cli.main import run
from flowtap.errors import DataPlaneError

QUICK = ("--packets", "2000", "--hosts", "1,50", "--rounds", "2")


LIVE = (
    [("live", 0, 0, None), ("live", 1, 0, None), ("live", 50, 0, None), ("live", 1, 1, None)]
    if os.geteuid() == 0
    else []
)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of so short runs say nothing; what is tested is what is told of them."""
    monkeypatch.setattr(parts, "RUN_S", 0.001)
    monkeypatch.setattr(parts, "BATCHES", 2)


def result(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert run(["bench", *QUICK, "--json", *words]) == 0
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


def test_every_part(capsys: pytest.CaptureFixture[str]) -> None:
    value = result(capsys)
    figures = value["figures"]
    assert {each["part"] for each in figures} >= PARTS.keys() - {"live"}
    assert value.keys() >= describe().keys()
    for each in figures:
        assert len(each["rounds_pps"]) == 2
        assert 0 < each["least_pps"] <= each["median_pps"] <= each["most_pps"]
    cases = [(each["part"], each["hosts"], each["match_share"], each["length_octets"]) for each in figures]
    # Where there are several processors, a file is read by one thread and by as many threads.
    assert list(dict.fromkeys(cases)) == [
        ("decode", 0, 0, None),
        ("match", 1, 0, None),
        ("match", 50, 0, None),
        ("match", 1, 0.01, None),
        ("match", 50, 0.01, None),
        ("encapsulate", 1, 1, None),
        ("encapsulate", 50, 1, None),
        ("replay", 1, 0.01, None),
        ("replay", 50, 0.01, None),
        ("export", 1, 1, 512),
        ("export", 1, 1, None),
        *LIVE,
    ]


def test_options_reach_the_traffic(capsys: pytest.CaptureFixture[str]) -> None:
    figures = result(capsys, "match", "--length", "64", "--ipv6", "1", "--match", "0.5")["figures"]
    assert {each["length_octets"] for each in figures} == {64}
    assert {each["match_share"] for each in figures} == {0, 0.5}


def test_table_and_directory(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["bench", *QUICK, "match", "--output", str(tmp_path / "new")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["part", "what", "octets", "hosts", "match", "Mpps", "from", "to", "ns"]
    assert len(lines) == 1 + 4 + 3
    kept = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert len(kept["figures"]) == 4
    assert (tmp_path / "new" / "bench.svg").read_text().count("match: nothing matches, IMIX") == 1


def test_without_matplotlib(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(["bench", *QUICK, "decode", "--output", str(tmp_path)]) == 0
    assert "pip install 'flowtap[bench]'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


def test_the_traffic_as_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    capture, criteria = tmp_path / "a.pcap", tmp_path / "criteria"
    words = ("--hosts", "30", "--match", "0.1", "--packets", "10000")
    assert run(["bench", *words, "--write-capture", str(capture), "--write-criteria", str(criteria)]) == 0
    assert capsys.readouterr().out == ""
    assert run(["replay", str(capture), "--criteria", str(criteria), "--json"]) == 0
    counted = json.loads(capsys.readouterr().out)
    assert counted["frames"] == 10_000
    assert counted["matched"] == pytest.approx(1000, rel=0.2)
    assert len(counted["criteria"]) == 60


@pytest.mark.parametrize(
    "words",
    [
        ("nothing",),
        ("--hosts", "0"),
        ("--hosts", "1,x"),
        ("--length", "59"),
        ("--ipv6", "2"),
        ("--seed", "-1"),
    ],
)
def test_wrong_use(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", *words]) == 2
    assert "Error" in capsys.readouterr().err


def test_a_run_that_did_something_else_is_no_figure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = Criteria(1, source="0.0.0.0/0")
    monkeypatch.setattr(parts, "Criteria", lambda *_given, **_named: everything)
    assert run(["bench", *QUICK, "decode"]) == 1
    assert "frames matched; about a share of 0 is right" in capsys.readouterr().err


def test_without_rights_the_other_parts_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run(["bench", *QUICK]) == 0
    captured = capsys.readouterr()
    assert "live is left out: networks for a measurement need root" in captured.err
    assert "live " not in captured.out
    # Who asks for it gets a clear refusal.
    assert run(["bench", *QUICK, "live"]) == 4


def test_no_frames_are_no_figure() -> None:
    with pytest.raises(DataPlaneError, match="0 of 0 frames"):
        parts._Expected(0, 1000).check(0, 0)
