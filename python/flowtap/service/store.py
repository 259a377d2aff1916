"""The journal and the audit log in one database, made durable together.

SQLite in WAL mode with full synchronisation: a transaction that has ended survives a crash and a power
cut. SQLAlchemy Core, so that another database stays possible.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sql
from sqlalchemy.exc import SQLAlchemyError

from flowtap.control.audit import FIRST_HASH, AuditRecord, AuditRow, chain_hash
from flowtap.control.ports import PortError
from flowtap.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from flowtap.control.model import Intercept

__all__ = ["JournalRow", "SqlStore"]

SCHEMA_VERSION: Final = 1
_APPLICATION_ID: Final = 0x464C5450  # "FLTP"

_METADATA = sql.MetaData()
_INTERCEPTS = sql.Table(
    "intercepts",
    _METADATA,
    sql.Column("criteria_id", sql.BigInteger, primary_key=True, autoincrement=False),
    sql.Column("csource_id", sql.String, nullable=False),
    sql.Column("login", sql.String, nullable=False),
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


class JournalRow:
    """One intercept as the journal has it."""

    __slots__ = ("criteria_id", "csource_id", "ended", "reason")

    def __init__(self, criteria_id: int, csource_id: str, ended: str | None, reason: str | None) -> None:
        self.criteria_id = criteria_id
        self.csource_id = csource_id
        self.ended = ended
        self.reason = reason


class _SqlTransaction:
    """Changes of one transaction."""

    def __init__(self, connection: sql.Connection, number: int, last_hash: str) -> None:
        self._connection = connection
        self.number = number
        self.last_hash = last_hash

    def start(self, intercept: Intercept) -> None:
        self._connection.execute(
            _INTERCEPTS.insert(),
            {
                "criteria_id": intercept.criteria_id,
                "csource_id": intercept.csource_id,
                "login": intercept.login,
                "cdest_ids": ",".join(intercept.cdest_ids),
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

    def audit(self, record: AuditRecord) -> None:
        text = record.canonical()
        self.number += 1
        self.last_hash = chain_hash(self.last_hash, self.number, text)
        self._connection.execute(
            _AUDIT.insert(), {"number": self.number, "text": text, "hash": self.last_hash}
        )


class SqlStore:
    """The store; used by one thread at a time.

    Args:
        path: The database file, made with mode 0600 where there is none.

    Raises:
        ConfigurationError: It cannot be opened, belongs to another program or to a newer version.
    """

    def __init__(self, path: Path) -> None:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise ConfigurationError(
                f"store.path: {path}: cannot be opened: {error.strerror}", key="store.path"
            ) from None
        self._engine = sql.create_engine(
            f"sqlite:///{path}", poolclass=sql.pool.StaticPool, connect_args={"check_same_thread": False}
        )
        sql.event.listen(self._engine, "connect", _configure)
        try:
            self._prepare(path)
        except SQLAlchemyError:
            self._engine.dispose()
            raise ConfigurationError(
                f"store.path: {path}: is no database that can be read and written", key="store.path"
            ) from None

    def _prepare(self, path: Path) -> None:
        with self._engine.begin() as connection:
            tables = set(sql.inspect(connection).get_table_names())
            application = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if tables and application != _APPLICATION_ID:
                raise ConfigurationError(
                    f"store.path: {path}: is the database of another program", key="store.path"
                )
            if version > SCHEMA_VERSION:
                raise ConfigurationError(
                    f"store.path: {path}: was written by a newer version (schema {version},"
                    f" this one knows {SCHEMA_VERSION})",
                    key="store.path",
                )
            connection.exec_driver_sql(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.exec_driver_sql(f"PRAGMA user_version = {SCHEMA_VERSION}")
            _METADATA.create_all(connection)

    @contextmanager
    def transaction(self) -> Iterator[_SqlTransaction]:
        """Changes that become durable together when the context ends without an exception.

        Raises:
            PortError: They could not be written; none of them is.
        """
        try:
            with self._engine.begin() as connection:
                last = connection.execute(
                    sql.select(_AUDIT.c.number, _AUDIT.c.hash).order_by(_AUDIT.c.number.desc()).limit(1)
                ).first()
                number, last_hash = (last.number, last.hash) if last else (0, FIRST_HASH)
                yield _SqlTransaction(connection, number, last_hash)
        except SQLAlchemyError as error:
            # The text of a database error holds the values; only its kind may go on.
            msg = f"the store failed: {type(error).__name__}"
            raise PortError(msg) from None

    def last_criteria_id(self) -> int:
        """The highest id that was ever given out, 0 for none."""
        with self._engine.connect() as connection:
            highest = connection.execute(sql.select(sql.func.max(_INTERCEPTS.c.criteria_id))).scalar()
        return 0 if highest is None else int(highest)

    def running(self) -> list[JournalRow]:
        """Intercepts whose end is not recorded, in the order of their ids."""
        query = _INTERCEPTS.select().where(_INTERCEPTS.c.ended.is_(None)).order_by(_INTERCEPTS.c.criteria_id)
        with self._engine.connect() as connection:
            return [
                JournalRow(row.criteria_id, row.csource_id, row.ended, row.reason)
                for row in connection.execute(query)
            ]

    def end_all(self, when: datetime, reason: str) -> int:
        """Records the end of everything that an earlier run left running.

        Returns:
            How many there were.

        Raises:
            PortError: It could not be written.
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
        """The audit log from its first record on."""
        with self._engine.connect() as connection:
            for row in connection.execute(_AUDIT.select().order_by(_AUDIT.c.number)):
                yield AuditRow(row.number, row.text, row.hash)

    def close(self) -> None:
        """Lets go of the database."""
        self._engine.dispose()


def _configure(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own type
    """Full synchronisation, and no waiting for another program: this database has one user."""
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
