"""The database under the ledger: opened, locked against a second writer, brought up to date, written in transactions.

SQLite commits are on the disk when they return (synchronous=FULL). Write-ahead logging before 3.51.3 can corrupt a
file that two connections use, so with an older library the journal is a rollback journal. Either way one connection
writes. PostgreSQL may have several processes on one ledger: a lock per transaction keeps their pages apart, and
another for as long as a process is connected tells which of them still lives.
"""

import os
import secrets
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from small4.errors import ConfigError, LedgerError, LedgerUnavailableError
from small4.gateway.ledger_page import recover
from small4.gateway.ledger_tables import STEPS, attempts, bring_up_to_date
from small4.gateway.private_files import try_lock

Result = TypeVar("Result")

SAFE_WAL = (3, 51, 3)
BUSY_SECONDS = 0.25  # for which one try waits while somebody else writes; the writer tries again
PAGE_LOCK, OWNER_LOCK = 0x54A4C0DE, 0x54A4C0DF  # our numbers among PostgreSQL's advisory locks


class Database:
    """A ledger's database, open for writing by this process."""

    def __init__(self, url: str, steps: Sequence[Sequence[str]] = STEPS) -> None:
        self.url = parse_url(url)
        self.owner = secrets.randbelow(2**31 - 1) + 1
        self._lock = _lock_file(self.url)
        self._connection: Connection | None = None
        try:
            self._engine = _engine_for(self.url)
            self.transact(lambda connection: bring_up_to_date(connection, steps))
            self.num_recovered = self.transact(self._recover)
        except BaseException:
            self.close()
            raise

    @property
    def journal(self) -> Literal["wal", "rollback"]:
        """How it survives a crash; `wal` everywhere but on an old SQLite."""
        return "rollback" if self.url.get_backend_name() == "sqlite" and _wants_rollback() else "wal"

    def transact(self, work: Callable[[Connection], Result]) -> Result:
        """Run `work` in one transaction and commit it; raises `LedgerUnavailableError` if the database fails."""
        try:
            if self._connection is None:
                self._connection = self._connect()
            with self._connection.begin():
                return work(self._connection)
        except IntegrityError:  # an entry's fault, not the database's
            raise
        except (DBAPIError, OSError) as error:
            # After a failed write nothing is known of what the connection holds: the next one reads it anew.
            self._disconnect()
            raise LedgerUnavailableError(f"the ledger cannot be written now ({_reason(error)}); try again") from error

    def close(self) -> None:
        """Let go of the database, and of the lock on its file."""
        self._disconnect()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _connect(self) -> Connection:
        connection = self._engine.connect()
        if self.url.get_backend_name() == "postgresql":
            with connection.begin():
                connection.execute(select(func.pg_advisory_lock(OWNER_LOCK, self.owner)))
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(DBAPIError, OSError):
                self._connection.invalidate()
                self._connection.close()
            self._connection = None

    def _recover(self, connection: Connection) -> int:
        held_by = select(attempts.c.owner).where(attempts.c.state == "held").distinct()
        owners = [owner for owner in connection.scalars(held_by) if not self._lives(connection, owner)]
        return recover(connection, owners) if owners else 0

    def _lives(self, connection: Connection, owner: int) -> bool:
        if self.url.get_backend_name() == "sqlite":
            return owner == self.owner  # the file is locked, so nobody else can
        taken = connection.scalar(select(func.pg_try_advisory_xact_lock(OWNER_LOCK, owner)))
        return owner == self.owner or not taken


def parse_url(url: str) -> URL:
    """The database that a URL or the path of a file names."""
    try:
        parsed = make_url(url if "://" in url else f"sqlite:///{url}")
    except ArgumentError:
        raise ConfigError("the ledger's address is no URL; give a path, sqlite:///PATH or postgresql://...") from None
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigError(f"a ledger in {parsed.get_backend_name()} is not possible; SQLite and PostgreSQL are")
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ConfigError("a ledger needs a file; give its path")
    return parsed


def engine_for_reading(url: URL) -> Engine:
    """An engine that changes nothing and does not disturb the writer."""
    if url.get_backend_name() == "sqlite":
        path = Path(url.database or "")
        if not path.is_file():
            raise LedgerError(f"there is no ledger at {path}; it begins with the first request, or name another")
        # Not mode=ro: after a crash the first to read has to put the file in order.
        engine = _engine(url.set(database=f"file:{quote(str(path))}", query={"mode": "rw", "uri": "true"}))
        event.listen(engine, "connect", _forbid_writing)
        return engine
    engine = _engine(url)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("SET TRANSACTION READ ONLY"))
    return engine


def _engine_for(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        path = Path(url.database or "")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # its journals take their mode from it
        engine = _engine(url, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        return engine
    engine = _engine(url)
    event.listen(engine, "begin", lambda connection: connection.execute(select(func.pg_advisory_xact_lock(PAGE_LOCK))))
    return engine


def _engine(url: URL, **options: Any) -> Engine:
    try:
        return create_engine(url, poolclass=NullPool, hide_parameters=True, **options)
    except (ModuleNotFoundError, NoSuchModuleError):
        raise ConfigError(
            f"the driver of {url.drivername} is not installed; "
            "for PostgreSQL: pip install pg8000, and postgresql+pg8000://... as the address"
        ) from None


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say so
    wanted = "persist" if _wants_rollback() else "wal"
    (mode,) = connection.execute(f"PRAGMA journal_mode={wanted}").fetchone()
    if mode != wanted:
        raise LedgerError(
            f"the ledger's journal is {mode!r} and cannot become {wanted!r}; is another program using it?"
        )
    connection.execute("PRAGMA synchronous=FULL")


def _forbid_writing(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA query_only=ON")
    connection.execute("PRAGMA busy_timeout=5000")


def _wants_rollback() -> bool:
    return sqlite3.sqlite_version_info < SAFE_WAL


def _lock_file(url: URL) -> int | None:
    if url.get_backend_name() != "sqlite":
        return None
    path = Path(f"{url.database}.lock")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = try_lock(path)
    if handle is None:
        raise LedgerError(
            f"the ledger {url.database} is open in another process; stop that one, or name another ledger"
        )
    return handle


def _reason(error: Exception) -> str:
    """The database's own words, without the statement."""
    return str(error.orig) if isinstance(error, DBAPIError) and error.orig is not None else str(error)
