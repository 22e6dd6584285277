"""A service's own database: SQLite or PostgreSQL, by URL, brought to the current schema before it is used."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from sqlite3 import SQLITE_ERROR
from typing import IO, TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from weft import crash_points
from weft.sql import Postgres, Sql, Sqlite
from weft.startup import CannotStart

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHASSIS_SCRIPTS = Path(__file__).parent / "migrations"
_TOO_LARGE = "54"  # the class of PostgreSQL's errors for what exceeds a limit, as a key that no index can hold
_MIGRATION_LOCK = 0x57454654  # any number, the same for all instances of all versions
_URLS = "use sqlite:////path/of/file.db or postgresql://user@host/name"
_alembic = threading.Lock()
"""Migration scripts find their connection in a variable of Alembic's module: one migration at a time."""


class Database:
    """One service's database.

    `write` is for the writer thread alone: one connection at a time, transactions that take SQLite's write
    lock at their beginning. `read` serves any number of threads, each statement on its own.
    """

    def __init__(self, url: str, *, migrations: Path, read_threads: int = 4, silence: float = 15.0) -> None:
        """Prepare; nothing is opened. `migrations` is the folder of the service's own Alembic scripts.

        After `silence` seconds in the midst of a transaction PostgreSQL ends it: its process is paused, or gone.

        Raises `CannotStart` if the URL is neither SQLite's nor PostgreSQL's.
        """
        self.url = _checked(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.sql: Sql = Sqlite() if self.is_sqlite else Postgres()
        self._migrations = migrations
        self._lock: IO[str] | None = None
        make = _sqlite_engine if self.is_sqlite else partial(_postgres_engine, silence=silence)
        self.write: Engine = make(self.url, connections=1, transactions=True)
        # One a thread, and one for what is looked up without.
        self.read: Engine = make(self.url, connections=read_threads + 1, transactions=False)

    def open(self, *, patience: float = 5.0) -> None:
        """Take the SQLite file for this process, and migrate the schema under a lock.

        Raises `CannotStart` if the file is another process's for longer than `patience` seconds, the schema
        is newer than this program, or the database does not answer.
        """
        if self.is_sqlite:
            self._take_file(patience)
        try:
            with self.write.connect() as connection, connection.begin():
                if not self.is_sqlite:
                    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
                with _alembic:
                    migrate(connection, _CHASSIS_SCRIPTS, "weft_schema", str(self))
                    migrate(connection, self._migrations, "service_schema", str(self))
                crash_points.reach("before", "commit", "migrations")
            crash_points.reach("after", "commit", "migrations")
        except DBAPIError as error:
            raise CannotStart(f"the database {self} cannot be used: {first_line(error)}") from error

    def close(self) -> None:
        """Close every connection, and give the file back."""
        self.write.dispose()
        self.read.dispose()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take_file(self, patience: float) -> None:
        path = Path(self.url.database or "")
        if not path.parent.is_dir():
            raise CannotStart(
                f"the folder of the database {self} does not exist: make {path.parent}, or change WEFT_DATABASE_URL"
            )
        try:
            lock = open(f"{path}.lock", "w")  # noqa: SIM115 - held as long as the database
        except OSError as error:
            raise CannotStart(f"the database {self} cannot be used: {error}") from error
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    lock.close()
                    raise CannotStart(
                        f"the database {self} is in use by another process: stop that one first"
                    ) from None
                time.sleep(0.05)
        self._lock = lock

    def __str__(self) -> str:
        """Return the URL without its password."""
        return self.url.render_as_string(hide_password=True)


def migrate(connection: Connection, scripts: Path, version_table: str, name: str) -> None:
    """Bring the schema to the newest revision in `scripts`, inside the transaction of `connection`.

    Raises `CannotStart` if the schema's revision is not among them: a newer program made it.
    """
    # Imported here: only a start needs it, and a service that idles should not carry it.
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(scripts))
    config.set_main_option("version_locations", str(scripts))
    config.set_main_option("path_separator", "os")
    directory = ScriptDirectory.from_config(config)

    def steps(revision: Any, _: Any) -> Any:
        return directory._upgrade_revs("heads", revision)

    options = {"version_table": version_table, "fn": steps, "transactional_ddl": True}
    context = MigrationContext.configure(connection, opts=options)
    known = {script.revision for script in directory.walk_revisions()}
    unknown = set(context.get_current_heads()) - known
    if unknown:
        raise CannotStart(
            f"the schema of {name} ({', '.join(sorted(unknown))}) is newer than this program: update the program"
        )
    if set(context.get_current_heads()) == set(directory.get_heads()):
        return
    with _operations(context):
        context.run_migrations()


@contextmanager
def _operations(context: Any) -> Iterator[None]:
    from alembic.operations import Operations

    with Operations.context(context):
        yield


def is_lost(error: BaseException) -> bool:
    """Tell whether `error` is the database's trouble (gone, locked, full), which no handler can mend."""
    if isinstance(error, OperationalError) and getattr(error.orig, "sqlite_errorcode", None) == SQLITE_ERROR:
        return False  # a wrong statement, which PostgreSQL's driver calls a programming error
    if str(getattr(getattr(error, "orig", None), "sqlstate", None)).startswith(_TOO_LARGE):
        return False
    return isinstance(error, (OperationalError, InterfaceError)) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    )


def first_line(error: SQLAlchemyError) -> str:
    """Return what the driver said, in one line."""
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().splitlines()[0]


def _checked(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        # Not shown: a password may be anywhere in it.
        raise CannotStart(f"WEFT_DATABASE_URL is not a database's URL: {_URLS}") from error
    if parsed.get_backend_name() == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    file = parsed.database or ""
    if parsed.get_backend_name() == "sqlite" and file not in ("", ":memory:") and not file.startswith("file:"):
        return parsed.set(database=os.path.abspath(file))
    raise CannotStart(f"WEFT_DATABASE_URL {parsed.render_as_string()!r}: {_URLS}")


def _sqlite_engine(url: URL, *, connections: int, transactions: bool) -> Engine:
    engine = create_engine(
        url,
        hide_parameters=True,  # they may be personal
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        connect_args={"check_same_thread": False},
    )
    pragmas = (
        "journal_mode = WAL",
        "synchronous = FULL",
        "busy_timeout = 5000",
        "foreign_keys = ON",
        "cache_size = -16000",
        "wal_autocheckpoint = 4000",
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _: Any) -> None:
        # The driver's own transactions begin too late for a schema change, and without the write lock.
        connection.isolation_level = None
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()

    if transactions:

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _postgres_engine(url: URL, *, connections: int, transactions: bool, silence: float) -> Engine:
    # A transaction left open by a paused process must not hold its locks for ever.
    options = f"-c idle_in_transaction_session_timeout={int(silence * 1000)} -c lock_timeout=10s"
    return create_engine(
        url,
        hide_parameters=True,
        pool_size=connections,
        max_overflow=0,
        isolation_level="READ COMMITTED" if transactions else "AUTOCOMMIT",
        connect_args={"options": options, "connect_timeout": 5, "application_name": "weft"},
    )
