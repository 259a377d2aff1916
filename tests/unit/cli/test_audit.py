"""flowtap audit and flowtap config set-password."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import stat
from datetime import datetime
from pathlib import Path

import pytest

from flowtap.cli.main import run
from flowtap.control import AuditRecord
from flowtap.service.store import SqlStore

NOW = datetime(2026, 3, 2, 10, 0, 0)  # noqa: DTZ001 - as the protocol


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "flowtap.db"
    made = SqlStore(path, anchor=tmp_path / "anchors")
    for number in range(1, 6):
        with made.transaction() as transaction:
            detail = (("Source-Address", 'a "quoted" text'),)
            transaction.audit(AuditRecord(NOW, "start", "md", "md", number, detail))
    made.close()
    return path


def change(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()


def test_a_log_as_it_was_written(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    anchors = str(store.parent / "anchors")
    assert run(["audit", "verify", "--store", str(store)]) == 0
    assert run(["audit", "verify", "--store", str(store), "--anchors", anchors]) == 0
    assert run(["audit", "verify", "--store", str(store), "--anchors", anchors, "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{store}: 5 records, every hash fits"
    assert lines[3] == f"{anchors}: 5 anchors, all of them fit"
    value = json.loads(lines[-1])
    assert (value["valid"], value["records"], value["anchors"]) == (True, 5, 5)
    assert f"the last record has the hash {value['last_hash']}" in lines


def test_a_log_of_a_tap_that_runs(store: Path) -> None:
    running = SqlStore(store)
    assert run(["audit", "verify", "--store", str(store)]) == 0
    running.close()


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE audit SET text = replace(text, 'md', 'xx') WHERE number = 3", "audit record 3: was changed"),
        ("DELETE FROM audit WHERE number = 2", "audit record 2: is missing"),
    ],
)
def test_a_log_that_was_changed(
    store: Path, statement: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(store, statement)
    assert run(["audit", "verify", "--store", str(store)]) == 1
    assert run(["audit", "verify", "--store", str(store), "--json"]) == 1
    output = capsys.readouterr()
    assert words in output.err
    assert json.loads(output.out)["valid"] is False


def test_an_end_that_was_cut_off_is_seen_by_its_anchors(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    anchors = store.parent / "anchors"
    words = ["audit", "verify", "--store", str(store), "--anchors", str(anchors)]
    change(store, "DELETE FROM audit WHERE number = 5")
    assert run(["audit", "verify", "--store", str(store)]) == 0
    assert run(words) == 1
    assert "record 5 of " in capsys.readouterr().err
    text = anchors.read_text()
    lines = text.splitlines()
    anchors.write_text("\n".join(lines[:2]) + "\n")
    assert run(words) == 0
    anchors.write_text(lines[0].replace(lines[0].split()[2], "0" * 64) + "\n")
    assert run(words) == 1
    assert "is another one" in capsys.readouterr().err
    for text in ("one two\n", "2026 x 00\n"):
        anchors.write_text(text)
        assert run(words) == 1
        assert "line 1: time, number and hash are right" in capsys.readouterr().err
    anchors.write_bytes(b"\xff\xfe")
    assert run(words) == 1
    anchors.unlink()
    assert run(words) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_what_is_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("no database, " * 100)
    assert run(["audit", "verify", "--store", str(tmp_path / "text")]) == 1
    assert run(["audit", "verify", "--store", str(tmp_path / "none?mode=rw")]) == 1
    assert run(["audit", "export", "--store", str(tmp_path / "none")]) == 1
    err = capsys.readouterr().err
    assert "is no store whose audit log can be read" in err
    assert err.count("no such store") == 2
    assert not (tmp_path / "none").exists()


def test_export(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = store.parent / "audit.jsonl"
    assert run(["audit", "export", "--store", str(store)]) == 0
    assert run(["audit", "export", "--store", str(store), "--output", str(output)]) == 0
    assert run(["audit", "export", "--store", str(store), "--output", str(output)]) == 2
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    text = capsys.readouterr().out
    assert text == output.read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["number"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[0]["record"]["detail"] == [["Source-Address", 'a "quoted" text']]
    assert len(rows[0]["hash"]) == 64


CONFIGURATION = """
[element.replay]
files = ["a.pcap"]
[login.class.tasker]
permissions = ["flow-tap-operation"]
[login.user.md]
class = "tasker"
password_hash_file = "md.hash"
[login.user.key-only]
class = "tasker"
authorized_keys_file = "keys"
[control_source.md]
[dtcp.ssh]
host_key_file = "host_key"
"""


def test_set_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import argon2  # noqa: PLC0415 - what reads the hash

    (tmp_path / "flowtap.toml").write_text(CONFIGURATION)

    def set_password(user: str, typed: str) -> int:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        return run(["config", "set-password", user, "--config", str(tmp_path / "flowtap.toml")])

    assert set_password("md", "a secret\n") == 0
    assert stat.S_IMODE((tmp_path / "md.hash").stat().st_mode) == 0o600
    argon2.PasswordHasher().verify((tmp_path / "md.hash").read_text().strip(), "a secret")
    assert set_password("md", "another one") == 0
    argon2.PasswordHasher().verify((tmp_path / "md.hash").read_text().strip(), "another one")
    before = (tmp_path / "md.hash").read_bytes()
    assert set_password("md", "\n") == 2
    assert set_password("nobody", "x\n") == 3
    assert set_password("key-only", "x\n") == 3
    assert (tmp_path / "md.hash").read_bytes() == before
    output = capsys.readouterr()
    assert "secret" not in output.out + output.err
    assert "there is no [login.user.nobody]" in output.err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["flowtap.toml", "md.hash"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_password_that_root_sets_is_the_tap_s_own_and_goes_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, elsewhere = tmp_path / "place", tmp_path / "elsewhere"
    place.mkdir()
    elsewhere.write_text("somebody else's")
    (place / "flowtap.toml").write_text(CONFIGURATION)
    os.chown(place, 65_534, 65_533)
    (place / "md.hash.new").symlink_to(elsewhere)
    for typed in ("a secret\n", "another one\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        assert run(["config", "set-password", "md", "--config", str(place / "flowtap.toml")]) == 0
        found = (place / "md.hash").lstat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (65_534, 65_533, 0o600)
    assert elsewhere.read_text() == "somebody else's"
