"""The journal and the audit log in one database, made durable together.

SQLite in WAL mode with full synchronisation: a transaction that has ended survives a crash and a power
cut. SQLAlchemy Core, so that another database stays possible.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import stat
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sql
from sqlalchemy.exc import SQLAlchemyError

from flowtap.control.audit import FIRST_HASH, AuditRow, chain_hash
from flowtap.control.journal import JournalRow, to_text
from flowtap.control.model import Now
from flowtap.control.ports import PortError
from flowtap.errors import ConfigurationError, FlowtapError
from flowtap.service import clock
from flowtap.service.marks import EndMarks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from flowtap.control.audit import AuditRecord
    from flowtap.control.model import Intercept

__all__ = ["SqlStore", "StoreError"]

_LOG = logging.getLogger(__name__)

SCHEMA_VERSION: Final = 2
_APPLICATION_ID: Final = 0x464C5450  # "FLTP"
_MODE: Final = 0o600
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_SYNCHRONOUS_FULL: Final = 2
_PAGE_ROWS: Final = 1_000
_BUSY_S: Final = 1.0
_LOG_OCTETS: Final = 5 << 20
"""SQLite's write-ahead log before it begins anew: 1,000 pages, and those of the transaction that ends it."""
_ROOM: Final = 16
"""A file system that has less room than so many write-ahead logs keeps it."""

_METADATA = sql.MetaData()
# SQLite keeps rows in the order of such a key; any other one is an index of its own: one more page to write.
_NUMBER: Final = sql.BigInteger().with_variant(sql.Integer(), "sqlite")
_INTERCEPTS = sql.Table(
    "intercepts",
    _METADATA,
    sql.Column("criteria_id", _NUMBER, primary_key=True, autoincrement=False),
    sql.Column("csource_id", sql.String, nullable=False),
    sql.Column("login", sql.String, nullable=False),
    # A JSON list: an escaped comma may be part of a name.
    sql.Column("cdest_ids", sql.String, nullable=False),
    sql.Column("is_static", sql.Boolean, nullable=False),
    sql.Column("added", sql.String, nullable=False),
    sql.Column("ended", sql.String, nullable=True),
    sql.Column("reason", sql.String, nullable=True),
    # The intercept as it is now, and when that was written, on both clocks; nothing with the journal off.
    sql.Column("content", sql.String, nullable=True),
    sql.Column("boot_id", sql.String, nullable=False, server_default=""),
    sql.Column("written", sql.String, nullable=False, server_default=""),
    sql.Column("written_ns", sql.BigInteger, nullable=False, server_default="0"),
)
_RUNNING = sql.Index("running", _INTERCEPTS.c.ended, _INTERCEPTS.c.criteria_id)
_ADDED_IN_2: Final = ("content", "boot_id", "written", "written_ns")
_AUDIT = sql.Table(
    "audit",
    _METADATA,
    sql.Column("number", _NUMBER, primary_key=True, autoincrement=False),
    sql.Column("text", sql.String, nullable=False),
    sql.Column("hash", sql.String(64), nullable=False),
)
_SEQUENCES = sql.Table(
    "sequences",
    _METADATA,
    sql.Column("csource_id", sql.String, primary_key=True),
    # As text: 64 bits without a sign are more than the database's integers have.
    sql.Column("highest", sql.String(20), nullable=False),
)

_START = _INTERCEPTS.insert().values(
    {
        name: sql.bindparam(name)
        for name in ("criteria_id", "csource_id", "login", "cdest_ids", "is_static", "added", *_ADDED_IN_2)
    }
)
_NUMBERED = _INTERCEPTS.update().where(_INTERCEPTS.c.criteria_id == sql.bindparam("number"))
_UPDATE = _NUMBERED.values({name: sql.bindparam(name) for name in _ADDED_IN_2})
# What it was for is in the audit log; the journal keeps no more than it needs.
_END = _NUMBERED.values(ended=sql.bindparam("when"), reason=sql.bindparam("why"), content=sql.null())
_RECORD = _AUDIT.insert().values({name: sql.bindparam(name) for name in ("number", "text", "hash")})
_STATEMENTS: Final = (_START, _UPDATE, _END, _RECORD)


class StoreError(FlowtapError, PortError):
    """The database failed; the text holds nothing that is stored in it."""


class _SqlTransaction:
    """Changes of one transaction; rows of a kind are written together when it ends."""

    def __init__(self, connection: sql.Connection, store: SqlStore, last: tuple[int, str] | None) -> None:
        self._connection = connection
        self._store = store
        self._last = last
        self._starts: list[dict[str, Any]] = []
        self._updates: list[dict[str, Any]] = []
        self._ends: list[dict[str, Any]] = []
        self._records: list[AuditRecord] = []

    def start(self, intercept: Intercept, now: Now) -> None:
        self._starts.append(
            {
                "criteria_id": intercept.criteria_id,
                "csource_id": intercept.csource_id,
                "login": intercept.login,
                "cdest_ids": json.dumps(intercept.cdest_ids),
                "is_static": intercept.static,
                "added": intercept.added.isoformat(),
                **self._store.content(intercept, now),
            }
        )

    def update(self, intercept: Intercept, now: Now) -> None:
        self._updates.append({"number": intercept.criteria_id, **self._store.content(intercept, now)})

    def end(self, criteria_id: int, when: datetime, reason: str) -> None:
        self._ends.append({"number": criteria_id, "when": when.isoformat(), "why": reason})

    @property
    def starting(self) -> int:
        """How many it starts."""
        return len(self._starts)

    @property
    def ended(self) -> frozenset[int]:
        """What it ends."""
        return frozenset(row["number"] for row in self._ends)

    def sequence(self, csource_id: str, highest: int | None) -> None:
        where = _SEQUENCES.c.csource_id == csource_id
        if highest is None:
            self._connection.execute(_SEQUENCES.delete().where(where))
            return
        changed = self._connection.execute(_SEQUENCES.update().where(where).values(highest=str(highest)))
        if changed.rowcount == 0:
            values = {"csource_id": csource_id, "highest": str(highest)}
            self._connection.execute(_SEQUENCES.insert(), values)

    def audit(self, record: AuditRecord) -> None:
        self._records.append(record)

    def write(self) -> tuple[int, str] | None:
        """Writes what was collected; what begins and ends in one transaction does so in this order.

        Returns:
            Number and hash of the last record, where there were any.
        """
        for statement, rows in ((_START, self._starts), (_UPDATE, self._updates), (_END, self._ends)):
            if rows:
                self._store.execute(self._connection, statement, rows)
        return self._write_records() if self._records else None

    def _write_records(self) -> tuple[int, str]:
        number, last_hash = self._last or self._store.last_record(self._connection)
        rows = []
        for record in self._records:
            text = record.canonical()
            number += 1
            last_hash = chain_hash(last_hash, number, text)
            rows.append({"number": number, "text": text, "hash": last_hash})
        self._store.execute(self._connection, _RECORD, rows)
        return number, last_hash


class SqlStore:
    """The store; used by one thread at a time, and by one process.

    Args:
        path: The database file, made with mode 0600 where there is none.
        journal: Whether intercepts are kept so that a restart can go on with them.
        anchor: A file that gets a line after every transaction: time, number and hash of the last record.
            Kept where the store's own user cannot change it, it shows that the end of the log was cut off.

    Raises:
        ConfigurationError: It cannot be opened, others can read it, it is in use, or it belongs to
            another program or to a newer version.
    """

    def __init__(self, path: Path, *, journal: bool = True, anchor: Path | None = None) -> None:
        _make(path)
        self._journal = journal
        self._anchor = anchor
        self._boot_id = clock.boot_id()
        self._lock: int | None = None
        self._marks: EndMarks | None = None
        self._running = 0
        self._last_record: tuple[int, str] | None = None
        self._engine = sql.create_engine(
            sql.URL.create("sqlite", database=str(path)),
            poolclass=sql.pool.StaticPool,
            connect_args={"check_same_thread": False, "timeout": _BUSY_S},
        )
        sql.event.listen(self._engine, "connect", _configure)
        # Compiled once: to look a statement up in SQLAlchemy's cache costs more than to carry it out.
        compiled = [(each, each.compile(dialect=self._engine.dialect)) for each in _STATEMENTS]
        self._compiled = {each: (str(text), text.positiontup) for each, text in compiled}
        try:
            self._prepare(path)
        except SQLAlchemyError:
            self.close()
            raise _unusable(path, "is no database that can be read and written") from None
        except ConfigurationError:
            self.close()
            raise

    def _prepare(self, path: Path) -> None:
        with self._engine.begin() as connection:

            def pragma(name: str) -> Any:  # noqa: ANN401 - as the database says it
                return connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()

            # Nothing is written before it is certain that the database is ours.
            tables = sql.inspect(connection).get_table_names()
            application = pragma("application_id")
            version = pragma("user_version")
            if application != _APPLICATION_ID and (tables or application):
                raise _unusable(path, "is the database of another program")
            if version > SCHEMA_VERSION:
                raise _unusable(
                    path,
                    f"was written by a newer version (schema {version}, this one knows {SCHEMA_VERSION})",
                )
            if path.stat().st_mode & _OTHERS:
                raise _unusable(path, "others can read it; chmod 600 is right")
            self._lock = _lock(path)
            self._marks = EndMarks(path.with_name(f"{path.name}-ended"))
            # A file system may refuse WAL without an error.
            if pragma("journal_mode = WAL") != "wal" or pragma("synchronous") != _SYNCHRONOUS_FULL:
                raise _unusable(path, "lies on a file system that cannot hold a database in WAL mode")
            connection.exec_driver_sql(f"PRAGMA application_id = {_APPLICATION_ID}")
            if version == 1:
                _upgrade(connection)
            _METADATA.create_all(connection)
            connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")
            count = sql.select(sql.func.count(_INTERCEPTS.c.criteria_id))
            self._running = connection.execute(count.where(_INTERCEPTS.c.ended.is_(None))).scalar_one()
        self._marks.reserve(self._running)
        _lengthen(path.with_name(f"{path.name}-wal"))

    @contextmanager
    def transaction(self) -> Iterator[_SqlTransaction]:
        """Changes that become durable together when the context ends without an exception.

        Raises:
            StoreError: They could not be written; none of them is.
        """
        known, self._last_record = self._last_record, None
        with _database_errors(), self._engine.begin() as connection:
            transaction = _SqlTransaction(connection, self, known)
            yield transaction
            running = self._running + transaction.starting
            if transaction.starting and self._marks is not None and not self._marks.reserve(running):
                raise StoreError("the store failed: no room to mark what has ended")
            last = transaction.write()
        self._running = max(running - len(transaction.ended), 0)
        # After a failure, whose effect is not known, it is read again.
        self._last_record = last or known
        if self._marks is not None and transaction.ended & self._marks.ids:
            self._marks.keep(self._marks.ids - transaction.ended)
        if last is not None:
            self._write_anchor(*last)

    def mark_ended(self, criteria_ids: Collection[int]) -> None:
        """Keeps it on the disk, outside the database, that these have ended."""
        if self._marks is not None and not self._marks.ids.issuperset(criteria_ids):
            self._marks.keep(self._marks.ids.union(criteria_ids))

    @property
    def ended_without_record(self) -> frozenset[int]:
        """Criteria that have ended though the journal says that they run."""
        return frozenset() if self._marks is None else self._marks.ids

    def _write_anchor(self, number: int, last_hash: str) -> None:
        if self._anchor is None:
            return
        try:
            with self._anchor.open("a") as anchor:
                anchor.write(f"{clock.now().wall.isoformat()} {number} {last_hash}\n")
        except OSError as error:
            # The record itself is durable; who keeps the anchors sees that one is missing.
            _LOG.warning("audit.anchor_file was not written: %s", error.strerror)

    def execute(
        self, connection: sql.Connection, statement: sql.Insert | sql.Update, rows: list[dict[str, Any]]
    ) -> None:
        """Carries out one of the statements that were compiled before, for every row."""
        text, names = self._compiled[statement]
        parameters = rows if names is None else [tuple(row[name] for name in names) for row in rows]
        connection.exec_driver_sql(text, parameters)

    def content(self, intercept: Intercept, now: Now) -> dict[str, Any]:
        """What the journal keeps of an intercept."""
        return {
            "content": to_text(intercept) if self._journal else None,
            "boot_id": self._boot_id,
            "written": now.wall.isoformat(),
            "written_ns": now.monotonic_ns,
        }

    @staticmethod
    def last_record(connection: sql.Connection) -> tuple[int, str]:
        """Number and hash of the last record of the audit log."""
        query = sql.select(_AUDIT.c.number, _AUDIT.c.hash).order_by(_AUDIT.c.number.desc()).limit(1)
        last = connection.execute(query).first()
        return (last.number, last.hash) if last else (0, FIRST_HASH)

    def last_criteria_id(self) -> int:
        """The highest id that was ever given out, 0 for none.

        Raises:
            StoreError: It could not be read.
        """
        with _database_errors(), self._engine.connect() as connection:
            highest = connection.execute(sql.select(sql.func.max(_INTERCEPTS.c.criteria_id))).scalar()
        return 0 if highest is None else int(highest)

    def sequences(self) -> dict[str, int]:
        """The highest sequence number of every control source that has used one.

        Raises:
            StoreError: They could not be read.
        """
        with _database_errors(), self._engine.connect() as connection:
            return {row.csource_id: int(row.highest) for row in connection.execute(_SEQUENCES.select())}

    def running(self) -> list[JournalRow]:
        """Intercepts whose end is not recorded, in the order of their ids.

        Raises:
            StoreError: They could not be read.
        """
        query = _INTERCEPTS.select().where(_INTERCEPTS.c.ended.is_(None)).order_by(_INTERCEPTS.c.criteria_id)
        with _database_errors(), self._engine.connect() as connection:
            return [
                JournalRow(
                    row.criteria_id,
                    row.csource_id,
                    row.content,
                    row.boot_id,
                    Now(datetime.fromisoformat(row.written or row.added), row.written_ns),
                )
                for row in connection.execute(query)
            ]

    def audit_rows(self) -> Iterator[AuditRow]:
        """The audit log from its first record on.

        Raises:
            StoreError: It could not be read.
        """
        number = 0
        while page := self._audit_page(number):
            yield from page
            number = page[-1].number

    def _audit_page(self, after: int) -> list[AuditRow]:
        # Nothing stays open between pages: a transaction may come in between.
        query = _AUDIT.select().where(_AUDIT.c.number > after).order_by(_AUDIT.c.number).limit(_PAGE_ROWS)
        with _database_errors(), self._engine.connect() as connection:
            return [AuditRow(row.number, row.text, row.hash) for row in connection.execute(query)]

    def close(self) -> None:
        """Lets go of the database; it may be called again."""
        self._engine.dispose()
        if self._marks is not None:
            self._marks.close()
            self._marks = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@contextmanager
def _database_errors() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        # The text of a database error holds the values; only its kind may go on.
        raise StoreError(f"the store failed: {type(error).__name__}") from None


def _upgrade(connection: sql.Connection) -> None:
    """Brings a store of the first schema up to this one; its intercepts cannot be restored."""
    if "intercepts" not in sql.inspect(connection).get_table_names():
        return
    for name in _ADDED_IN_2:
        column = sql.schema.CreateColumn(_INTERCEPTS.c[name]).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE intercepts ADD COLUMN {column}")
    _RUNNING.create(connection)


def _unusable(path: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(f"store.path: {path}: {reason}", key="store.path")


def _make(path: Path) -> None:
    """Makes an empty file that nobody else may read, where there is none.

    Raises:
        ConfigurationError: It cannot be made, or something else is there.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE))
    except FileExistsError:
        if not path.is_file():
            raise _unusable(path, "cannot be opened: is no regular file") from None
    except OSError as error:
        raise _unusable(path, f"cannot be opened: {error.strerror}") from None


def _lengthen(log: Path) -> None:
    """Lets the write-ahead log have all its blocks from the beginning, with zeros, which SQLite passes over.

    What is written in place is durable soon; a file that grows must wait for the file system's own journal.
    """
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        _LOG.debug("the write-ahead log grows as it is needed: %s", error.strerror)
        return
    try:
        octets, room = os.fstat(descriptor).st_size, os.fstatvfs(descriptor)
        if octets < _LOG_OCTETS and room.f_bavail * room.f_frsize > _ROOM * _LOG_OCTETS:
            os.pwrite(descriptor, bytes(_LOG_OCTETS - octets), octets)
            os.fsync(descriptor)
    except OSError as error:
        _LOG.debug("the write-ahead log grows as it is needed: %s", error.strerror)
    finally:
        os.close(descriptor)


def _lock(path: Path) -> int:
    """Takes the store for this process; the lock ends with it, however it ends.

    A file of its own: closing any descriptor of the database would end the database's own locks.

    Raises:
        ConfigurationError: Another process has it.
    """
    beside = path.with_name(f"{path.name}-lock")
    try:
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
    except OSError as error:
        raise _unusable(beside, f"cannot be opened: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise _unusable(path, "is in use by another tap that is running") from None
    return descriptor


def _configure(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own type
    """Full synchronisation, a property of the connection and not of the database."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()
