"""The journal and the audit log in one database, made durable together.

SQLite in WAL mode with full synchronisation: a transaction that has ended survives a crash and a power
cut. SQLAlchemy Core, so that another database stays possible.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sql
from sqlalchemy.exc import SQLAlchemyError

from flowtap.control.audit import FIRST_HASH, AuditRecord, AuditRow, chain_hash
from flowtap.control.ports import PortError
from flowtap.errors import ConfigurationError, FlowtapError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from flowtap.control.model import Intercept

__all__ = ["JournalRow", "SqlStore", "StoreError"]

SCHEMA_VERSION: Final = 1
_APPLICATION_ID: Final = 0x464C5450  # "FLTP"
_MODE: Final = 0o600
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_SYNCHRONOUS_FULL: Final = 2
_PAGE_ROWS: Final = 1_000
_BUSY_S: Final = 1.0

_METADATA = sql.MetaData()
_INTERCEPTS = sql.Table(
    "intercepts",
    _METADATA,
    sql.Column("criteria_id", sql.BigInteger, primary_key=True, autoincrement=False),
    sql.Column("csource_id", sql.String, nullable=False),
    sql.Column("login", sql.String, nullable=False),
    # A JSON list: an escaped comma may be part of a name.
    sql.Column("cdest_ids", sql.String, nullable=False),
    sql.Column("is_static", sql.Boolean, nullable=False),
    sql.Column("added", sql.String, nullable=False),
    sql.Column("ended", sql.String, nullable=True),
    sql.Column("reason", sql.String, nullable=True),
)
_AUDIT = sql.Table(
    "audit",
    _METADATA,
    sql.Column("number", sql.BigInteger, primary_key=True, autoincrement=False),
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


class StoreError(FlowtapError, PortError):
    """The database failed; the text holds nothing that is stored in it."""


@dataclass(frozen=True, slots=True)
class JournalRow:
    """One intercept as the journal has it."""

    criteria_id: int
    csource_id: str
    ended: str | None
    reason: str | None


class _SqlTransaction:
    """Changes of one transaction."""

    def __init__(self, connection: sql.Connection, number: int, last_hash: str) -> None:
        self._connection = connection
        self._number = number
        self._last_hash = last_hash

    def start(self, intercept: Intercept) -> None:
        self._connection.execute(
            _INTERCEPTS.insert(),
            {
                "criteria_id": intercept.criteria_id,
                "csource_id": intercept.csource_id,
                "login": intercept.login,
                "cdest_ids": json.dumps(intercept.cdest_ids),
                "is_static": intercept.static,
                "added": intercept.added.isoformat(),
            },
        )

    def end(self, criteria_id: int, when: datetime, reason: str) -> None:
        self._connection.execute(
            _INTERCEPTS.update()
            .where(_INTERCEPTS.c.criteria_id == criteria_id)
            .values(ended=when.isoformat(), reason=reason)
        )

    def sequence(self, csource_id: str, highest: int) -> None:
        where = _SEQUENCES.c.csource_id == csource_id
        changed = self._connection.execute(_SEQUENCES.update().where(where).values(highest=str(highest)))
        if changed.rowcount == 0:
            values = {"csource_id": csource_id, "highest": str(highest)}
            self._connection.execute(_SEQUENCES.insert(), values)

    def audit(self, record: AuditRecord) -> None:
        text = record.canonical()
        self._number += 1
        self._last_hash = chain_hash(self._last_hash, self._number, text)
        self._connection.execute(
            _AUDIT.insert(), {"number": self._number, "text": text, "hash": self._last_hash}
        )


class SqlStore:
    """The store; used by one thread at a time, and by one process.

    Args:
        path: The database file, made with mode 0600 where there is none.

    Raises:
        ConfigurationError: It cannot be opened, others can read it, it is in use, or it belongs to
            another program or to a newer version.
    """

    def __init__(self, path: Path) -> None:
        _make(path)
        self._lock: int | None = None
        self._engine = sql.create_engine(
            sql.URL.create("sqlite", database=str(path)),
            poolclass=sql.pool.StaticPool,
            connect_args={"check_same_thread": False, "timeout": _BUSY_S},
        )
        sql.event.listen(self._engine, "connect", _configure)
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
            # A file system may refuse WAL without an error.
            if pragma("journal_mode = WAL") != "wal" or pragma("synchronous") != _SYNCHRONOUS_FULL:
                raise _unusable(path, "lies on a file system that cannot hold a database in WAL mode")
            connection.exec_driver_sql(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")
            _METADATA.create_all(connection)

    @contextmanager
    def transaction(self) -> Iterator[_SqlTransaction]:
        """Changes that become durable together when the context ends without an exception.

        Raises:
            StoreError: They could not be written; none of them is.
        """
        with _database_errors(), self._engine.begin() as connection:
            last = connection.execute(
                sql.select(_AUDIT.c.number, _AUDIT.c.hash).order_by(_AUDIT.c.number.desc()).limit(1)
            ).first()
            number, last_hash = (last.number, last.hash) if last else (0, FIRST_HASH)
            yield _SqlTransaction(connection, number, last_hash)

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
                JournalRow(row.criteria_id, row.csource_id, row.ended, row.reason)
                for row in connection.execute(query)
            ]

    def end_all(self, when: datetime, reason: str) -> int:
        """Records the end of everything that an earlier run left running.

        Returns:
            How many there were.

        Raises:
            StoreError: It could not be written.
        """
        left = self.running()
        if left:
            with self.transaction() as transaction:
                for row in left:
                    transaction.end(row.criteria_id, when, reason)
                    transaction.audit(
                        AuditRecord(
                            when=when,
                            event="stop",
                            login="",
                            csource_id=row.csource_id,
                            criteria_id=row.criteria_id,
                            detail=(("reason", reason),),
                        )
                    )
        return len(left)

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
