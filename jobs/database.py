"""One transaction at a time: `with database.begin() as connection`.

Callers own their transactions; nothing below commits. Moments and the clock: `jobs.clock`.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from psycopg.errors import DiskFull, IdleInTransactionSessionTimeout
from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

# how long a writer waits for another before it gives up
LOCK_TIMEOUT_MS = 20_000

CONNECT_TIMEOUT_S = 5
POOL_SIZE = 5
POOL_OVERFLOW = 15  # beyond what is kept open; the API answers from at most 40 threads

# a process that hangs in the middle must not hold its locks: the server ends its transaction
STATEMENT_TIMEOUT_MS = 30_000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 15_000

# the other way round: a server that vanished is noticed within half a lease
KEEPALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}


SQLITE_AWAY = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
)


class Database:
    """An engine, and the kinds of transaction that the service knows.

    A server that is away, and a lock or a statement that took too long, raise SQLAlchemy's
    `OperationalError`: the same transaction may go through later.
    """

    def __init__(self, url: str, *, migrates: bool = False) -> None:
        """`migrates` is for changes of the schema: they may take long on PostgreSQL, and on
        SQLite they replace tables, which must not cascade."""
        self.engine = _engine(make_url(url), migrates)
        self._is_disposed = False
        event.listen(self.engine, "checkin", self._close_what_comes_late)

    @property
    def is_postgresql(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction that may write; commits at the end, rolls back on an error."""
        with self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads, all from one moment. It neither waits for writers nor
        delays them."""
        with self.engine.connect() as connection:
            if self.is_postgresql:
                connection = connection.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True
                )
            else:
                connection = connection.execution_options(apiq_read_only=True)
            with connection.begin():
                yield connection

    @contextmanager
    def glance(self) -> Iterator[Connection]:
        """For statements that only read and need not be of one moment: PostgreSQL is spared the
        two round trips of a transaction. SQLite has none to spare."""
        if not self.is_postgresql:
            with self.read() as connection:
                yield connection
            return
        with self.engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    def dispose(self) -> None:
        """Close every pooled connection; one that is in use now is closed when it comes back."""
        self._is_disposed = True
        self.engine.dispose()

    def _close_what_comes_late(self, _: Any, record: ConnectionPoolEntry) -> None:
        if self._is_disposed:
            record.invalidate()  # else it would lie open in a pool that nobody has any more


def is_away(error: SQLAlchemyError) -> bool:
    """Whether the same transaction may go through later: the server is away, a lock or a
    connection was not to be had in time."""
    if isinstance(error, PoolTimeout):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if isinstance(error.orig, sqlite3.Error):  # to SQLite a missing table is operational, too
        code = getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        return code & 0xFF in SQLITE_AWAY
    return isinstance(error, OperationalError) or error.connection_invalidated


def is_full(error: SQLAlchemyError) -> bool:
    """Whether the disk of the database has no room left."""
    original = getattr(error, "orig", None)
    code = getattr(original, "sqlite_errorcode", 0)
    return isinstance(original, DiskFull) or code & 0xFF == sqlite3.SQLITE_FULL


def _engine(url: URL, migrates: bool) -> Engine:
    if url.get_backend_name() == "sqlite":
        return _sqlite(url, foreign_keys=not migrates)
    return _postgresql(url, patient=migrates)


def _postgresql(url: URL, *, patient: bool) -> Engine:
    limits = {
        "lock_timeout": 0 if patient else LOCK_TIMEOUT_MS,
        "statement_timeout": 0 if patient else STATEMENT_TIMEOUT_MS,
        "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_TIMEOUT_MS,
    }
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,  # after a restart of the server
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": "apiq",
            "options": " ".join(f"-c {name}={value}" for name, value in limits.items()),
        }
        | KEEPALIVE,
    )

    @event.listens_for(engine, "handle_error")
    def _(context: ExceptionContext) -> Exception | None:
        # the one outage that the driver does not call operational
        error = context.original_exception
        if not isinstance(error, IdleInTransactionSessionTimeout):
            return None
        context.is_disconnect = True
        return OperationalError(context.statement, context.parameters, error)

    return engine


def _sqlite(url: URL, *, foreign_keys: bool) -> Engine:
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    # No limit: the event loop of the API reads, and must never wait until a writer, which waits for
    # the lock, gives its connection back. A connection in use has a thread, so there are few.
    engine = create_engine(url, poolclass=QueuePool, max_overflow=-1)

    @event.listens_for(engine, "connect")
    def _(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin transactions on its own
        connection.execute(f"PRAGMA busy_timeout = {LOCK_TIMEOUT_MS}")
        connection.execute("PRAGMA journal_mode = WAL")
        # what was answered with 202 must survive a power cut
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")

    @event.listens_for(engine, "begin")
    def _(connection: Connection) -> None:
        # a deferred transaction that turns writer half way fails at once instead of waiting
        read_only = connection.get_execution_options().get("apiq_read_only", False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine
