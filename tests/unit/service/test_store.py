from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from scene import DELIVERY

from flowtap.control import AuditRecord, Intercept, PortError, verify
from flowtap.control.journal import from_text
from flowtap.dtcp import FilterText, Timeouts
from flowtap.errors import ConfigurationError
from flowtap.service import clock
from flowtap.service.store import SqlStore

NOW = datetime(2026, 3, 2, 10, 0, 0)  # noqa: DTZ001 - as the protocol


INTERCEPT = Intercept(
    criteria_id=1,
    csource_id="md",
    csource_address=ip_address("192.0.2.10"),
    login="md",
    cdest_ids=("cd1",),
    deliveries=(DELIVERY,),
    refuse_oversize=(False,),
    filter=FilterText(source="192.0.2.1"),
    timeouts=Timeouts(),
    static=True,
    send_async=False,
    priority=1,
    extensions=(),
    added=NOW,
    total_since_ns=0,
    idle_since_ns=0,
    last_refresh=NOW,
)


def record(number: int) -> AuditRecord:
    return AuditRecord(NOW, "start", "md", "md", number)


def test_settings_that_durability_needs(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "s.db")
    with store._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    assert (tmp_path / "s.db").stat().st_mode & 0o777 == 0o600
    store.close()


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "s.db")
    with pytest.raises(ValueError, match="stop here"), store.transaction() as transaction:
        transaction.audit(record(1))
        msg = "stop here"
        raise ValueError(msg)
    assert verify(store.audit_rows()) == 0
    with store.transaction() as transaction:
        transaction.audit(record(1))
        transaction.audit(record(2))
    assert verify(store.audit_rows()) == 2
    store.close()


def test_errors_of_the_database_tell_no_values(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "s.db")
    with store._engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE intercepts")
    with pytest.raises(PortError) as caught, store.transaction() as transaction:
        transaction.end(1, NOW, "a secret reason")
    assert "secret" not in str(caught.value)
    store.close()


def test_files_that_are_no_store(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database, " * 100)
    with sqlite3.connect(tmp_path / "foreign.db") as foreign:
        foreign.execute("CREATE TABLE other (a)")
    foreign.close()
    newer = SqlStore(tmp_path / "newer.db")
    with newer._engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA user_version = 99")
    newer.close()
    for name, words in (
        ("text.db", "no database"),
        ("foreign.db", "another program"),
        ("newer.db", "newer version"),
        (".", "cannot be opened"),
        ("missing/s.db", "cannot be opened"),
    ):
        with pytest.raises(ConfigurationError, match=words) as caught:
            SqlStore(tmp_path / name)
        assert caught.value.key == "store.path"


WRITER = """
import sys
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from flowtap.control import AuditRecord, Intercept, Now
from flowtap.dtcp import FilterText, Timeouts
from flowtap.service.store import SqlStore
store = SqlStore(Path(sys.argv[1]))
now = datetime(2026, 3, 2)
number = store.last_criteria_id()
while True:
    number += 1
    intercept = Intercept(number, "md", ip_address("192.0.2.1"), "md", ("cd",), (), (), FilterText(),
        Timeouts(), True, False, 1, (), now, 0, 0, now)
    with store.transaction() as transaction:
        transaction.start(intercept, Now(now, 0))
        transaction.audit(AuditRecord(now, "start", "md", "md", number))
    print(number, flush=True)
    if number % 3 == 0:
        with store.transaction() as transaction:
            transaction.end(number, now, "deleted")
            transaction.audit(AuditRecord(now, "stop", "md", "md", number))
        print(-number, flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    """Killed at any point, journal and audit log agree and hold everything that was acknowledged."""
    path = tmp_path / "s.db"
    acknowledged: set[int] = set()
    for attempt in range(4):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            acknowledged.add(int(child.stdout.readline()))
            time.sleep(0.05 + 0.037 * attempt)
            os.kill(child.pid, signal.SIGKILL)
            # A line that was cut off was not acknowledged.
            lines = child.stdout.read().decode().split("\n")[:-1]
            acknowledged |= {int(line) for line in lines}
        store = SqlStore(path)
        running = {row.criteria_id for row in store.running()}
        started: set[int] = set()
        stopped: set[int] = set()
        rows = list(store.audit_rows())
        verify(rows)
        for row in rows:
            number = int(row.text.split('"criteria_id":')[1].split(",")[0])
            (started if '"event":"start"' in row.text else stopped).add(number)
        assert running == started - stopped
        assert {number for number in acknowledged if number > 0} <= started
        assert {-number for number in acknowledged if number < 0} <= stopped
        store.close()
    assert len(acknowledged) > 4


def test_what_an_earlier_run_left_is_there_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.kill()
    store = SqlStore(path)
    rows = store.running()
    assert rows
    assert {row.boot_id for row in rows} == {clock.boot_id()}
    assert [from_text(row.text or "").criteria_id for row in rows] == [row.criteria_id for row in rows]
    with store.transaction() as transaction:
        for row in rows:
            transaction.end(row.criteria_id, NOW, "deleted")
    assert store.running() == []
    # Of what has ended the journal keeps no filter.
    with store._engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(content) FROM intercepts").scalar_one() == 0
    store.close()


FIRST_SCHEMA = """
PRAGMA application_id = 0x464C5450;
PRAGMA user_version = 1;
CREATE TABLE intercepts (criteria_id BIGINT NOT NULL PRIMARY KEY, csource_id VARCHAR NOT NULL,
  login VARCHAR NOT NULL, cdest_ids VARCHAR NOT NULL, is_static BOOLEAN NOT NULL, added VARCHAR NOT NULL,
  ended VARCHAR, reason VARCHAR);
CREATE TABLE audit (number BIGINT NOT NULL PRIMARY KEY, text VARCHAR NOT NULL, hash VARCHAR(64) NOT NULL);
CREATE TABLE sequences (csource_id VARCHAR NOT NULL PRIMARY KEY, highest VARCHAR(20) NOT NULL);
INSERT INTO intercepts VALUES (7, 'md', 'md', '["cd1"]', 1, '2026-03-02T10:00:00', NULL, NULL);
"""


def test_a_store_of_the_first_schema_is_brought_up_to_this_one(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with sqlite3.connect(path) as old:
        old.executescript(FIRST_SCHEMA)
    old.close()
    path.chmod(0o600)
    store = SqlStore(path)
    (row,) = store.running()
    # What it was for was not kept then: it cannot run again.
    assert (row.criteria_id, row.text, row.written.wall) == (7, None, datetime(2026, 3, 2, 10))  # noqa: DTZ001
    assert store.last_criteria_id() == 7
    store.close()
    SqlStore(path).close()


def test_ends_that_no_transaction_could_record_are_kept_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    store = SqlStore(path)
    assert store.ended_without_record == frozenset()
    store.mark_ended([3, 5])
    store.mark_ended([5, 9])
    store.close()
    again = SqlStore(path)
    assert again.ended_without_record == {3, 5, 9}
    with again.transaction() as transaction:
        transaction.end(5, NOW, "deleted")
    assert again.ended_without_record == {3, 9}
    again.close()
    assert again.ended_without_record == frozenset()


def test_there_is_room_for_the_end_of_everything_that_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made before it begins: where there is none nothing begins, and nothing is dropped in silence."""
    path = tmp_path / "s.db"
    store = SqlStore(path)

    def begin(numbers: range) -> None:
        with store.transaction() as transaction:
            for number in numbers:
                transaction.start(replace(INTERCEPT, criteria_id=number), clock.now())

    begin(range(1, 9_001))
    allocate = os.posix_fallocate

    def full(descriptor: int, offset: int, octets: int) -> None:
        if octets > 128 << 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        allocate(descriptor, offset, octets)

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(PortError, match="no room"):
        begin(range(9_001, 20_001))
    assert len(store.running()) == 9_000
    store.mark_ended(range(1, 9_001))
    assert len(store.ended_without_record) == 9_000
    store.mark_ended(range(1, 20_001))
    assert "the end of 3617 criteria is on no disk: there is no room for more" in caplog.text
    store.close()
    again = SqlStore(path)
    assert len(again.ended_without_record) == 16_383
    again.close()


def test_every_transaction_leaves_an_anchor(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = SqlStore(tmp_path / "s.db", anchor=tmp_path / "anchors")
    for number in (1, 2):
        with store.transaction() as transaction:
            transaction.audit(record(number))
    with store.transaction() as transaction:
        transaction.sequence("md", 7)
    lines = (tmp_path / "anchors").read_text().splitlines()
    assert [line.split()[1:] for line in lines] == [[str(row.number), row.hash] for row in store.audit_rows()]
    (tmp_path / "anchors").unlink()
    (tmp_path / "anchors").mkdir()
    with store.transaction() as transaction:
        transaction.audit(record(3))
    assert "audit.anchor_file was not written" in caplog.text
    assert verify(store.audit_rows()) == 3
    store.close()


def test_the_write_ahead_log_does_not_grow(tmp_path: Path) -> None:
    """A killed run leaves it long, with records in it; the next one finds them, and goes on."""
    path, log = tmp_path / "s.db", tmp_path / "s.db-wal"
    for attempt in (1, 2):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            numbers = [int(child.stdout.readline()) for _ in range(40)]
            length = log.stat().st_size
            child.kill()
        assert length == 5 << 20
        assert log.stat().st_size == length
        store = SqlStore(path)
        assert store.last_criteria_id() >= max(numbers) > 25 * attempt
        verify(store.audit_rows())
        store.close()
        assert not log.exists()


def test_a_log_that_is_longer_stays_as_it_is(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "s.db")
    for number in range(60):
        with store.transaction() as transaction:
            transaction.audit(AuditRecord(NOW, "start", "md", "md", number, (("text", "x" * 200_000),)))
    length = (tmp_path / "s.db-wal").stat().st_size
    assert length >= 5 << 20
    assert verify(store.audit_rows()) == 60
    store.close()
