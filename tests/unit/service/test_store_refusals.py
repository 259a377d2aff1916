"""What the store does not accept, what it does when the disk fails it, and who else may use it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path

import pytest

from flowtap.control import AuditRecord, ChainError, Intercept, Now, PortError, verify
from flowtap.dtcp import FilterText, Timeouts
from flowtap.errors import ConfigurationError, FlowtapError
from flowtap.service.store import SqlStore, StoreError

NOW = datetime(2026, 3, 2, 10, 0, 0)  # noqa: DTZ001 - as the protocol


def record(number: int, size: int = 1) -> AuditRecord:
    return AuditRecord(NOW, "start", "md", "md", number, (("text", "secret" * size),))


def intercept(number: int, *cdest_ids: str) -> Intercept:
    return Intercept(
        criteria_id=number,
        csource_id="md",
        csource_address=ip_address("192.0.2.10"),
        login="md",
        cdest_ids=cdest_ids,
        deliveries=(),
        refuse_oversize=(),
        filter=FilterText(),
        timeouts=Timeouts(),
        static=True,
        send_async=False,
        priority=1,
        extensions=(),
        added=NOW,
        total_since_ns=0,
        idle_since_ns=0,
        last_refresh=datetime(2026, 3, 2),  # noqa: DTZ001 - as the protocol
    )


def write(store: SqlStore) -> None:
    with store.transaction() as transaction:
        transaction.audit(record(1))


def foreign(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (("CREATE TABLE other (a)",), "another program"),
        (("PRAGMA application_id = 5",), "another program"),
        (("CREATE TABLE audit (a)", "CREATE TABLE intercepts (a)"), "another program"),
    ],
)
def test_a_database_of_another_program_is_left_as_it_is(
    tmp_path: Path, statements: tuple[str, ...], words: str
) -> None:
    path = tmp_path / "other.db"
    foreign(path, *statements)
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=words):
        SqlStore(path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["other.db"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_store_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "s.db"
    SqlStore(path).close()
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        SqlStore(path)
    path.chmod(0o600)
    SqlStore(path).close()


def test_every_file_of_the_store_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = SqlStore(tmp_path / "s.db")
        with store.transaction() as transaction:
            transaction.audit(record(1))
    finally:
        os.umask(before)
    files = {each.name: each.stat().st_mode & 0o777 for each in tmp_path.iterdir()}
    store.close()
    assert {"s.db", "s.db-wal"} <= set(files)
    assert set(files.values()) == {0o600}


def test_names_with_characters_that_mean_something_in_an_address(tmp_path: Path) -> None:
    path = tmp_path / "a?mode=memory&b #%20.db"
    store = SqlStore(path)
    with store.transaction() as transaction:
        transaction.audit(record(1))
    store.close()
    again = SqlStore(path)
    assert verify(again.audit_rows()) == 1
    again.close()


HOLDER = """
import sys
from pathlib import Path
from flowtap.service.store import SqlStore
store = SqlStore(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""


def test_one_process_only_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        with pytest.raises(ConfigurationError, match="in use by another tap"):
            SqlStore(path)
        os.kill(child.pid, signal.SIGKILL)
    SqlStore(path).close()


def test_what_stands_where_the_lock_belongs(tmp_path: Path) -> None:
    (tmp_path / "s.db-lock").mkdir()
    with pytest.raises(ConfigurationError, match=r"s\.db-lock: cannot be opened"):
        SqlStore(tmp_path / "s.db")


def test_a_locked_database_is_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    foreign(path)
    path.touch(mode=0o600)
    path.chmod(0o600)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(ConfigurationError, match="no database that can be read and written"):
            SqlStore(path)
    finally:
        other.close()
    SqlStore(path).close()


def test_a_full_disk_takes_all_of_a_transaction_or_nothing(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "s.db")
    with store.transaction() as transaction:
        transaction.start(intercept(1, "cd1"), Now(NOW, 0))
        transaction.audit(record(1))
    with store._engine.connect() as connection:
        used = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {used}")
    with pytest.raises(StoreError) as caught, store.transaction() as transaction:
        transaction.start(intercept(2, "cd1"), Now(NOW, 0))
        transaction.end(1, NOW, "deleted")
        transaction.audit(record(2, size=100_000))
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert [row.criteria_id for row in store.running()] == [1]
    assert (store.last_criteria_id(), verify(store.audit_rows())) == (1, 1)
    with store._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    with store.transaction() as transaction:
        transaction.audit(record(2, size=100_000))
    assert verify(store.audit_rows()) == 2
    store.close()


def test_an_id_is_journalled_once(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "s.db")
    with store.transaction() as transaction:
        transaction.start(intercept(7, "cd1"), Now(NOW, 0))
    with pytest.raises(StoreError, match="IntegrityError"), store.transaction() as transaction:
        transaction.start(intercept(7, "cd2"), Now(NOW, 0))
    assert store.last_criteria_id() == 7
    store.close()


def test_every_failure_is_of_both_kinds(tmp_path: Path) -> None:
    """The control plane knows it as a port that failed, the command line as an error of flowtap."""
    store = SqlStore(tmp_path / "s.db")
    with store._engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE intercepts")
        connection.exec_driver_sql("DROP TABLE audit")
    for use in (
        store.last_criteria_id,
        store.running,
        lambda: list(store.audit_rows()),
        lambda: write(store),
    ):
        with pytest.raises(StoreError) as caught:
            use()
        assert isinstance(caught.value, FlowtapError)
        assert isinstance(caught.value, PortError)
        assert "SELECT" not in str(caught.value)
    store.close()


def test_an_audit_log_of_many_pages_while_it_grows(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "s.db")
    with store.transaction() as transaction:
        for number in range(1, 2_501):
            transaction.audit(record(number))
    rows = store.audit_rows()
    first = next(rows)
    with store.transaction() as transaction:
        transaction.audit(record(2_501))
    assert verify([first, *rows]) == 2_501
    store.close()


@pytest.mark.parametrize(
    ("change", "number"),
    [
        ("UPDATE audit SET text = replace(text, 'start', 'stop') WHERE number = 2", 2),
        ("DELETE FROM audit WHERE number = 2", 2),
        ("DELETE FROM audit WHERE number = 1", 1),
        ("UPDATE audit SET hash = '' WHERE number = 3", 3),
    ],
)
def test_a_change_behind_our_back_is_found(tmp_path: Path, change: str, number: int) -> None:
    path = tmp_path / "s.db"
    store = SqlStore(path)
    with store.transaction() as transaction:
        for each in range(1, 5):
            transaction.audit(record(each))
    store.close()
    foreign(path, change)
    again = SqlStore(path)
    with pytest.raises(ChainError) as caught:
        verify(again.audit_rows())
    assert caught.value.number == number
    again.close()


def test_it_may_be_closed_twice(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "s.db")
    store.close()
    store.close()
    SqlStore(tmp_path / "s.db").close()
