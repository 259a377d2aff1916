"""flowtap replay --threads: faster, and nothing else."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flowtap.cli.main import run

CAPTURES = Path(__file__).parents[2] / "captures"
CRITERIA = """ADD DTCP/0.7
Source-Address: 192.0.2.0/24

ADD DTCP/0.7
Dest-Port: 53,5060

ADD DTCP/0.7
Protocol: 17
Timeout-Total: 30

ADD DTCP/0.7
Protocol: 6
Timeout-Packets: 700
"""


@pytest.fixture
def criteria(tmp_path: Path) -> str:
    path = tmp_path / "criteria.txt"
    path.write_text(CRITERIA)
    return str(path)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Ethernet captures again and again: enough for several threads."""
    header = records = b""
    for path in sorted(CAPTURES.glob("*.pcap")):
        octets = path.read_bytes()
        if octets[:4] == b"\xd4\xc3\xb2\xa1" and struct.unpack("<I", octets[20:24]) == (1,):
            header = octets[:24]
            records += octets[24:]
    assert len(records) > 500_000
    path = tmp_path_factory.mktemp("long") / "long.pcap"
    path.write_bytes(header + records * 10)
    return path


def replay(
    capsys: pytest.CaptureFixture[str], out: Path, threads: int, *words: str, status: int = 0
) -> tuple[dict[str, Any], bytes]:
    assert run(["replay", *words, "-w", str(out), "--threads", str(threads), "--json"]) == status
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    for name in ("load_s", "compile_s", "elapsed_s"):
        del value[name]
    return value, out.read_bytes()


@pytest.mark.parametrize("name", sorted(path.name for path in CAPTURES.glob("*.pcap*")))
def test_a_capture_gives_the_same_with_any_number_of_threads(
    name: str, criteria: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (str(CAPTURES / name), "--criteria", criteria)
    one, written = replay(capsys, tmp_path / "one.pcapng", 1, *words)
    two, written_by_two = replay(capsys, tmp_path / "two.pcapng", 2, *words)
    assert (two, written_by_two) == (one, written)


@pytest.mark.parametrize(
    ("ending", "inner"), [(".pcap", ()), (".pcapng", ()), (".pcap", ("--inner", "gre", "--inner", "vxlan"))]
)
def test_a_long_capture_is_read_by_several_threads_and_gives_the_same(
    ending: str, inner: tuple[str, ...], long: Path, criteria: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path = Path(criteria).parent
    words = (str(long), "--criteria", criteria, *inner)
    one, written = replay(capsys, tmp_path / f"one{ending}", 1, *words)
    assert one["threads"] == 1
    assert one["frames"] > one["matched"] > 0
    for threads in (2, 3):
        several, written_by_several = replay(capsys, tmp_path / f"several{ending}", threads, *words)
        assert several == one | {"threads": threads}
        assert written_by_several == written


def test_a_damaged_capture_ends_at_the_same_offset(
    long: Path, criteria: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "damaged.pcap"
    octets = bytearray(long.read_bytes())
    octets[2_000_000:2_000_100] = b"\xff" * 100
    path.write_bytes(octets)
    words = (str(path), "--criteria", criteria)
    one, written = replay(capsys, tmp_path / "one.pcap", 1, *words, status=1)
    two, written_by_two = replay(capsys, tmp_path / "two.pcap", 2, *words, status=1)
    assert 0 < one["error"]["offset_octets"] < 2_000_100
    assert (two, written_by_two) == (one | {"threads": 2}, written)


def test_words_filter_on_every_thread(
    long: Path, criteria: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (str(long), "--criteria", criteria, "udp", "port", "53")
    one, written = replay(capsys, tmp_path / "one.pcap", 1, *words)
    two, written_by_two = replay(capsys, tmp_path / "two.pcap", 2, *words)
    assert one["filtered_out"] > 0
    assert (two, written_by_two) == (one | {"threads": 2}, written)


def test_as_many_threads_as_there_are_processors(
    long: Path, criteria: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["replay", str(long), "--criteria", criteria, "--json"]) == 0
    used = json.loads(capsys.readouterr().out)["threads"]
    assert used == min(32, len(os.sched_getaffinity(0)))


def test_memory_does_not_grow_with_the_file(criteria: str, tmp_path: Path, long: Path) -> None:
    """64 MiB beside the table is the promise; what the interpreter itself takes is measured with a short file."""
    octets = long.read_bytes()
    path = tmp_path / "very-long.pcap"
    with path.open("wb") as file:
        file.write(octets)
        for _ in range(30):
            file.write(octets[24:])
    peaks_kib = []
    for capture in (CAPTURES / "plain.pcap", path):
        words = [sys.executable, "-m", "flowtap", "replay", str(capture), "--criteria", criteria]
        program = (
            "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        )
        run_it = [sys.executable, "-c", program, *words, "-w", str(tmp_path / "out.pcap"), "--threads", "4"]
        done = subprocess.run([*run_it, "--quiet"], capture_output=True, check=True, text=True)
        peaks_kib.append(int(done.stdout))
    assert path.stat().st_size > 100 << 20
    assert peaks_kib[1] - peaks_kib[0] < (64 << 10), peaks_kib
