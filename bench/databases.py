"""The two databases, and inventory's tables in them with something in stock."""

from __future__ import annotations

import json
import shutil
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import psycopg
from sqlalchemy import text

import services.inventory
import services.product
from weft.database import Database
from weft.embedded import Postgres
from weft.tables import trail

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from bench.stage import Stage

SKUS = 1000
PIECES = 10_000_000
_INVENTORY = Path(services.inventory.__file__).parent / "migrations"
_PRODUCT = Path(services.product.__file__).parent / "migrations"


class Backend(Protocol):
    """Makes databases."""

    name: str

    @property
    def pid(self) -> int | None:
        """The server's process, if there is one."""

    async def new_database(self, name: str) -> str:
        """Make a database and return its URL."""


class SqliteFiles:
    """SQLite, as services use it: WAL, synchronous=FULL."""

    name = "SQLite"
    pid: int | None = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def new_database(self, name: str) -> str:
        """See `Backend`."""
        return f"sqlite:///{self._folder / name}.db"


class PostgresServer:
    """PostgreSQL with its defaults, so fsync and synchronous_commit are on."""

    name = "PostgreSQL"

    def __init__(self, server: Postgres) -> None:
        self._server = server

    @property
    def pid(self) -> int | None:
        """See `Backend`."""
        return self._server.pid

    async def new_database(self, name: str) -> str:
        """See `Backend`."""
        return await self._server.create_database(name)


@asynccontextmanager
async def backends(stage: Stage) -> AsyncIterator[Sequence[Backend]]:
    """Run what there is to compare."""
    folder = stage.new_folder("databases")
    home = folder / "postgres" / "home"
    try:
        async with Postgres(folder / "postgres") as server:
            with psycopg.connect(plain_url(server.url())) as connection:
                stage.versions["PostgreSQL"] = connection.info.parameter_status("server_version") or ""
            yield [SqliteFiles(folder), PostgresServer(server)]
    finally:
        if home.is_symlink():
            shutil.rmtree(home.resolve(), ignore_errors=True)


def plain_url(url: str) -> str:
    """Return the URL as psycopg itself wants it."""
    return url.replace("+psycopg", "", 1)


def sku(number: int) -> str:
    """Return the number-th sku."""
    return f"sku-{number:04d}"


def stocked(url: str) -> Database:
    """Make inventory's tables, with every sku in stock; return the database, closed."""
    statement = "INSERT INTO stock (sku, on_hand, reserved, version) VALUES (:sku, :on_hand, 0, 1)"
    return _filled(url, _INVENTORY, statement, [{"sku": sku(n), "on_hand": PIECES} for n in range(SKUS)])


def offered(url: str) -> Database:
    """Make product's tables, with a product for every sku; return the database, closed."""
    product = {
        "title": "A mug",
        "description": "A mug to drink from",
        "currency": "EUR",
        "price_nanos": 12_500_000_000,
        "active": True,
        "revision": 1,
        "create_time": 1_790_000_000_123_456,
        "update_time": 1_790_000_000_123_456,
        "version": 1,
    }
    columns = ("sku", *product)
    statement = f"INSERT INTO products ({', '.join(columns)}) VALUES (:{', :'.join(columns)})"
    return _filled(url, _PRODUCT, statement, [{"sku": sku(n), **product} for n in range(SKUS)])


def _filled(url: str, migrations: Path, statement: str, rows: Sequence[dict[str, Any]]) -> Database:
    database = Database(url, migrations=migrations, read_threads=1)
    database.open()
    with database.write.begin() as connection:
        connection.execute(text(statement), rows)
    database.close()
    return database


class Written(NamedTuple):
    """Rows that inventory wrote for orders, oldest first; of the outbox `per_order` rows for each."""

    inbox: list[tuple[Any, ...]]
    stock: list[tuple[Any, ...]]
    reservations: list[tuple[Any, ...]]
    outbox: list[tuple[Any, ...]]
    per_order: float


RESERVATION = ("order_id", "state", "lines", "version")
OUTBOX = ("event_id", "type", "aggregate_id", "time", "body", *trail)


def written_by(database: Database) -> Written:
    """Return what inventory wrote."""
    with database.read.connect() as connection:

        def rows(statement: str) -> list[tuple[Any, ...]]:
            return [tuple(row) for row in connection.exec_driver_sql(statement)]

        inbox = rows("SELECT consumer, event_id FROM inbox ORDER BY event_id")
        reservations = rows(f"SELECT {', '.join(RESERVATION)} FROM reservations ORDER BY order_id")
        outbox = rows(f"SELECT {', '.join(OUTBOX)} FROM outbox ORDER BY seq")
    stock = [(sku,) for row in reservations for sku, _ in json.loads(row[RESERVATION.index("lines")])]
    return Written(inbox, stock, reservations, outbox, len(outbox) / max(1, len(inbox)))
