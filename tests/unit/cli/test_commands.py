"""Commands as a person at a terminal uses and misuses them."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from flowtap.cli import capture
from flowtap.cli.main import COMMANDS, run

CAPTURES = Path(__file__).parents[2] / "captures"
PLAIN = str(CAPTURES / "plain.pcap")
HOST = "ADD DTCP/0.7\nSource-Address: 192.0.2.10\n"
DELIVERED = HOST + (
    "Cdest-ID: cd1\nX-JTap-Cdest-Dest-Address: 127.0.0.1\nX-JTap-Cdest-Dest-Port: {port}\n"
    "X-JTap-Cdest-Source-Address: 127.0.0.1\nX-JTap-Cdest-Source-Port: 40002\n"
)


@pytest.fixture
def criteria(tmp_path: Path) -> str:
    path = tmp_path / "criteria.txt"
    path.write_text(HOST + "\nADD DTCP/0.7\nDest-Port: 53\n")
    return str(path)


def result(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


def test_replay_counts_and_writes(criteria: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.pcapng"
    assert run(["replay", PLAIN, "--criteria", criteria, "--write", str(out), "--json"]) == 0
    first = result(capsys)
    assert first["frames"] == 141
    assert first["matched"] == first["written"] > 0
    assert first["copies"] == sum(each["packets"] for each in first["criteria"])
    assert (first["error"], first["exported"], first["dropped"]) == (None, 0, 0)
    # What was written matches as a whole, and again in the other format.
    again = tmp_path / "again.pcap"
    assert run(["replay", "-r", str(out), "--criteria", criteria, "-w", str(again), "--json"]) == 0
    second = result(capsys)
    assert (second["frames"], second["matched"]) == (first["matched"], first["matched"])
    assert second["criteria"] == first["criteria"]
    assert run(["explain", str(again), "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == first["matched"]


def test_replay_reads_compressed_captures_and_several(
    criteria: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(CAPTURES / "icmp.pcap.gz"), str(CAPTURES / "dns.pcap.zst"), PLAIN]
    frames = 0
    for name in files:
        assert run(["replay", name, "--criteria", criteria, "--json"]) == 0
        frames += result(capsys)["frames"]
    assert run(["replay", *files, "--criteria", criteria, "--json"]) == 0
    assert result(capsys)["frames"] == frames


def test_replay_with_a_frame_filter(criteria: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run(["replay", "--criteria", criteria, "--json", "-r", PLAIN, "ip", "src", "host", "192.0.2.10"]) == 0
    )
    value = result(capsys)
    assert 0 < value["frames"] < 141
    assert value["frames"] + value["filtered_out"] == 141
    assert run(["replay", "--criteria", criteria, PLAIN, "hots", "1"]) == 2
    assert "tcpdump's filter language" in capsys.readouterr().err


def test_a_damaged_capture_is_used_up_to_the_damage(
    criteria: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Path(PLAIN).read_bytes()
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(whole[:5000])
    out = tmp_path / "out.pcap"
    assert run(["replay", str(cut), "--criteria", criteria, "-w", str(out), "--json"]) == 1
    output = capsys.readouterr()
    value = json.loads(output.out)
    assert value["written"] == value["matched"] > 0
    assert 0 < value["error"]["offset_octets"] <= 5000
    assert str(value["error"]["offset_octets"]) in output.err
    assert run(["explain", str(out)]) == 0
    (tmp_path / "cut.gz").write_bytes(gzip.compress(whole)[:3000])
    assert run(["replay", str(tmp_path / "cut.gz"), "--criteria", criteria]) == 1


def test_export_is_accounted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "criteria.txt"
    path.write_text(DELIVERED.format(port=9))
    assert run(["replay", PLAIN, "--criteria", str(path), "--export", "--json"]) == 0
    value = result(capsys)
    assert value["copies"] == value["exported"] + value["dropped"] > 0
    path.write_text(HOST)
    assert run(["replay", PLAIN, "--criteria", str(path), "--export"]) == 3
    assert "line 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("ADD DTCP/0.7\nSource-Address: 192.0.2.1/33\n", 2),
        (f"{HOST}\nADD DTCP/0.7\nProtocol: 6\nDest-Port: 70000\n", 6),
        (f"{HOST}\nLIST DTCP/0.7\n", 4),
        ("nothing\n", 1),
        ("", 1),
        ("\xff", 1),
    ],
)
def test_wrong_criteria_name_the_line(
    text: str, line: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "criteria.txt"
    path.write_bytes(text.encode("latin-1"))
    assert run(["replay", PLAIN, "--criteria", str(path)]) == 3
    assert f"{path}, line {line}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["replay"], 2),
        (["replay", "/nowhere.pcap", "--criteria", "{criteria}"], 1),
        (["replay", PLAIN], 2),
        (["replay", PLAIN, "--criteria", "/nowhere"], 3),
        (["replay", PLAIN, "--criteria", "{criteria}", "--threads", "0"], 2),
        (["replay", PLAIN, "--criteria", "{criteria}", "-w", "/nowhere/out.pcap"], 1),
        (["replay", PLAIN, "--criteria", "{criteria}", "-w", "/dev/full"], 1),
        (["replay", "/etc", "--criteria", "{criteria}"], 1),
        (["replay", __file__, "--criteria", "{criteria}"], 1),
        (["replay", PLAIN, "--colour"], 2),
        (["explain"], 2),
        (["explain", "/nowhere"], 1),
        (["mediate", "--listen", "here", "--write-dir", "{directory}"], 2),
        (["mediate", "--listen", "127.0.0.1:0", "--write-dir", "/proc/none"], 1),
        (["mediate", "--listen", "192.0.2.1:1", "--write-dir", "{directory}"], 1),
        (["dtcp", "--ssh", "127.0.0.1:1", "--user", "md", "noop"], 1),
        (["dtcp", "--ssh", "127.0.0.1", "--user", "md", "noop"], 2),
        (["dtcp", "--ssh", "127.0.0.1:1", "--user", "md", "delete"], 2),
        (["dtcp", "--ssh", "127.0.0.1:1", "--user", "md", "list", "--ids", "1", "--cdest", "a"], 2),
        (["dtcp", "--ssh", "127.0.0.1:1", "--user", "md", "--key-file", "/nowhere", "noop"], 2),
        (["config", "check", "/nowhere"], 3),
        (["run", "--config", "/nowhere"], 3),
        (["show", "stats", "--socket", "/nowhere"], 1),
        (["show", "everything"], 2),
        (["no-such-command"], 2),
    ],
)
def test_wrong_use(
    words: list[str], status: int, criteria: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([word.format(criteria=criteria, directory=tmp_path) for word in words]) == status
    error = capsys.readouterr().err
    assert error
    assert "Traceback" not in error


@pytest.mark.parametrize("name", [*COMMANDS, ""])
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*([name] if name else []), "--help"]) == 0
    assert "Usage: flowtap" in capsys.readouterr().out


def test_explain_for_people(criteria: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", str(CAPTURES / "qinq.pcap"), "--criteria", criteria]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1  ethernet/vlan/vlan/ipv4/udp  vlan 200  vlan 30  192.0.2.10:")
    assert "matches 1" in lines[0]
    assert any("not 1 (source)" in line for line in lines)
    assert run(["explain", str(CAPTURES / "fragments.pcap")]) == 0
    assert "fragment at 1480, " in capsys.readouterr().out


def test_explain_json_has_every_field(criteria: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("mpls.pcap", "icmp.pcap", "fragments.pcap", "snapped.pcap"):
        assert run(["explain", str(CAPTURES / name), "--criteria", criteria, "--json"]) == 0
        for line in capsys.readouterr().out.splitlines():
            value = json.loads(line)
            assert set(value) >= {
                *("frame", "layers", "source", "destination", "protocol", "source_port", "destination_port"),
                *("fragment", "vlan", "mpls", "stop", "matched", "rejected"),
            }
            assert len(value["matched"]) + len(value["rejected"]) in {0, 2}


def program(*words: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "flowtap", *words], **options)


def test_a_pipe_in_and_a_pipe_out(criteria: str) -> None:
    with program(
        *("replay", "-", "--criteria", criteria, "-w", "-", "--quiet"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        out, _ = child.communicate(Path(PLAIN).read_bytes(), timeout=20)
    assert child.returncode == 0
    assert out[:4] == bytes.fromhex("4d3cb2a1")  # nanoseconds, as this machine writes them


def test_a_reader_that_leaves_early_is_no_traceback(criteria: str) -> None:
    with program(
        *("explain", PLAIN, "--criteria", criteria, "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert b"Traceback" not in child.stderr.read()


def test_an_interrupted_replay_reports_what_was_read(criteria: str, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with program("replay", str(fifo), "--criteria", criteria, "--json", stdout=subprocess.PIPE) as child:
        with fifo.open("wb", buffering=0) as feeding:
            data = Path(PLAIN).read_bytes()
            feeding.write(data)
            for _ in range(100):
                feeding.write(data[24:])
            child.send_signal(signal.SIGINT)
            time.sleep(0.3)
            try:
                for _ in range(100_000):
                    feeding.write(data[24:])
            except BrokenPipeError:
                pass
        out, _ = child.communicate(timeout=20)
    value = json.loads(out)
    assert value["interrupted"]
    assert 0 < value["frames"] < 141 * 100_000


def test_a_report_tells_every_kind_of_loss(capsys: pytest.CaptureFixture[str]) -> None:
    interface = {"interface": "eth0", "received": 7, "dropped": 5, "freezes": 3, "filter": "none"}
    counts = dict.fromkeys(("frames", "undecodable", "matched", "copies", "filtered_out", "duplicates"), 0)
    summary = {
        **counts,
        "criteria": [],
        "interfaces": [{**interface, "super_frames_whole": 0}],
        "refused": 1234,
        "exported": 0,
        "dropped": 0,
        "written": 0,
    }
    capture._print(summary, None)
    report = capsys.readouterr().out
    assert "7 frames received, 5 dropped by the kernel" in report
    assert "eth0: the ring was full 3 times" in report
    assert "1,234 copies refused" in report


def test_mediate_ends_after_packets(tmp_path: Path) -> None:
    path = tmp_path / "criteria.txt"
    directory = tmp_path / "received"
    with program(
        *("mediate", "--listen", "127.0.0.1:0", "--write-dir", str(directory), "--packets", "10", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stderr is not None
        port = int(child.stderr.readline().split()[-1])
        path.write_text(DELIVERED.format(port=port))
        assert run(["replay", PLAIN, "--criteria", str(path), "--export", "--quiet"]) == 0
        out, _ = child.communicate(timeout=20)
    (stream,) = json.loads(out)["streams"]
    assert stream["packets"] >= 10
    assert stream["destination_port"] == port
    assert (directory / f"127.0.0.1_40002_{port}.pcapng").exists()
