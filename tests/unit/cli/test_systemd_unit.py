"""The unit for the service manager: it is one, it is tight, and it runs this program."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flowtap.service.broker_process import KEPT
from flowtap.service.sd_notify import tell_manager

PROGRAM = Path(sys.executable).parent / "flowtap"
MOST_EXPOSURE = 2.5

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


UNITS = {"systemd-unit": "flowtap.service", "guard-unit": "flowtap-guard.service"}


def written(*words: str, command: str = "systemd-unit") -> str:
    done = subprocess.run(
        [PROGRAM, "config", command, *words], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout


@needs_systemd
@pytest.mark.parametrize("command", UNITS)
def test_systemd_takes_it(tmp_path: Path, command: str) -> None:
    unit = tmp_path / UNITS[command]
    unit.write_text(written(command=command))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False, timeout=60
    )
    # What other units of this machine are worth is theirs.
    complaints = [line for line in done.stderr.splitlines() if "flowtap" in line]
    assert done.returncode == 0, done.stderr
    assert complaints == []


@needs_systemd
@pytest.mark.parametrize("command", UNITS)
def test_it_exposes_little(tmp_path: Path, command: str) -> None:
    unit = tmp_path / UNITS[command]
    unit.write_text(written(command=command))
    words = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    exposure = re.search(rf"exposure level for {UNITS[command]}: ([0-9.]+)", done.stdout)
    assert exposure is not None, done.stderr
    assert float(exposure[1]) <= MOST_EXPOSURE


def test_it_runs_this_program_with_the_rights_of_the_broker() -> None:
    text = written("--config", "/srv/tap/flowtap.toml")
    assert f"ExecStart={PROGRAM} run --config /srv/tap/flowtap.toml\n" in text
    for key in ("AmbientCapabilities", "CapabilityBoundingSet"):
        (line,) = [line for line in text.splitlines() if line.startswith(f"{key}=")]
        assert set(line.partition("=")[2].split()) == set(KEPT)
    assert "@" not in text.replace("SystemCallFilter=@", "").replace("SystemCallFilter=~@", "")


def test_the_guard_is_there_before_the_network_and_stays() -> None:
    text = written("--config", "/srv/tap/flowtap.toml", command="guard-unit")
    assert f"ExecStart={PROGRAM} guard install --config /srv/tap/flowtap.toml\n" in text
    lines = {key: value.split() for key, _, value in (line.partition("=") for line in text.splitlines())}
    assert {"network-pre.target", "strongswan.service", "flowtap.service"} <= set(lines["Before"])
    # It flushes all rules when it starts.
    assert "nftables.service" in lines["After"]
    assert lines["Type"] == ["oneshot"]
    assert not {"ExecStop", "ExecStopPost"} & lines.keys()
    for key in ("AmbientCapabilities", "CapabilityBoundingSet"):
        assert lines[key] == ["CAP_NET_ADMIN"]


def test_a_path_that_a_unit_cannot_say_is_refused() -> None:
    words = [str(PROGRAM), "config", "systemd-unit", "--config", "/srv/my tap.toml"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert "/srv/my tap.toml" in done.stderr


@pytest.mark.parametrize("hidden", [False, True])
def test_the_manager_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: bool) -> None:
    name = f"flowtap-notify-{os.getpid()}" if hidden else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}" if hidden else name)
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if hidden else name)
        tell_manager("READY=1")
        assert manager.recv(100) == b"READY=1"
    # Nobody listens any more.
    tell_manager("STOPPING=1")
