"""A service's database: brought to its schema, or refused with one line that says what to do."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import MetaData, create_engine, make_url, text

from commerce.order.v1.order_service_pb2 import ListOrdersRequest
from services.inventory.store import Tables as InventoryTables
from services.order.store import Tables as OrderTables
from services.payment.store import Tables as PaymentTables
from services.product.store import Tables as ProductTables
from services.shipping.store import Tables as ShippingTables
from services.user.store import Tables as UserTables
from tests.component.callers import issuer
from tests.component.chassis.toy import Settings, build
from tests.component.chassis.toy import Tables as ToyTables
from tests.component.chassis.world import ROOT, Rows, on_postgres, on_sqlite
from weft import CannotStart, database, run, tables
from weft.database import Database
from weft.pages import PageRequest, listing
from weft.testing import free_port
from weft.writer import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import Connection

    from weft.pages import Listing

TOY_DB = "sqlite:////nowhere/toy.db"
TOY = Path(__file__).parent / "migrations"
TABLES: Mapping[str, MetaData] = {
    "inventory": InventoryTables.metadata,
    "order": OrderTables.metadata,
    "payment": PaymentTables.metadata,
    "product": ProductTables.metadata,
    "shipping": ShippingTables.metadata,
    "user": UserTables.metadata,
    "toy": ToyTables.metadata,
}

FIRST = """
import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table("things", sa.Column("id", sa.String, primary_key=True))
"""
SECOND = """
import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("things", sa.Column("colour", sa.String, nullable=False, server_default="red"))
"""
HALF_WAY = f'{SECOND}    raise RuntimeError("half way")\n'


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    chatty = {name: logging.getLogger(name).level for name in ("alembic", "asyncio", "uvicorn.error")}
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    for name, its_level in chatty.items():
        logging.getLogger(name).setLevel(its_level)


def migrated(url: str, migrations: Path = TOY) -> Rows:
    """Open a database, as a service does at its start, and close it; return its rows."""
    database = Database(url, migrations=migrations)
    try:
        database.open()
    finally:
        database.close()
    return Rows(url)


def refused(capfd: pytest.CaptureFixture[str], **settings: Any) -> str:
    """Run the toy, which must end with exit code 2; return its only line on standard error."""
    watchdog = threading.Timer(15, os.kill, (os.getpid(), signal.SIGTERM))
    watchdog.start()
    try:
        with pytest.raises(SystemExit) as ended:
            run(lambda: [build(Settings(**settings))])
    finally:
        watchdog.cancel()
    assert ended.value.code == 2
    return only_line(capfd.readouterr().err)


def only_line(errors: str) -> str:
    """Return the only line there is."""
    [line] = errors.splitlines()
    assert line.strip() == line != ""
    return line


async def start(module: str, **settings: str) -> tuple[int, str]:
    """Run a program that must end by itself; return its exit code and what it wrote to standard error."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WEFT_")}
    given = {f"WEFT_{name.upper()}": value for name, value in {"jwks_url": issuer().jwks_url, **settings}.items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module),
        cwd=ROOT,
        env={**inherited, **given},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        _, errors = await asyncio.wait_for(process.communicate(), 30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, errors.decode()


@pytest.mark.parametrize("table", ["weft_schema", "service_schema"])
def test_a_newer_schema_is_refused_and_left_alone(database_url: str, table: str) -> None:
    rows = migrated(database_url)
    rows(f"UPDATE {table} SET version_num = '9001'")
    with pytest.raises(CannotStart, match=r"\(9001\) is newer than this program: update the program") as error:
        migrated(database_url)
    assert len(str(error.value).splitlines()) == 1
    assert rows(f"SELECT version_num FROM {table}") == [("9001",)]


async def test_a_service_says_what_to_do_in_one_line_and_ends_with_2(tmp_path: Path) -> None:
    """As a process of its own: a newer schema, a file in use, no address of a database, settings that are none."""
    newer, used = f"sqlite:///{tmp_path / 'newer.db'}", f"sqlite:///{tmp_path / 'used.db'}"
    migrated(newer, ROOT / "services/inventory/migrations")("UPDATE service_schema SET version_num = '9001'")
    database = Database(used, migrations=TOY)
    database.open()
    try:
        ends = await asyncio.gather(
            start("services.inventory", database_url=newer),
            start("services.inventory", database_url=used),
            start("services.inventory"),
            start("services", data=str(tmp_path / "nowhere"), order_grpc_port="many"),
        )
    finally:
        database.close()
    assert [code for code, _ in ends] == [2, 2, 2, 2]
    lines = [only_line(errors) for _, errors in ends]
    assert lines[0].endswith("(9001) is newer than this program: update the program")
    assert lines[1] == f"the database {used} is in use by another process: stop that one first"
    assert lines[2].startswith("WEFT_DATABASE_URL: ")
    assert "WEFT_DATA: " in lines[3]
    assert "WEFT_ORDER_GRPC_PORT: " in lines[3]


def test_a_file_is_waited_for_until_the_other_process_gives_it_back(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'toy.db'}"
    first, second = Database(url, migrations=TOY), Database(url, migrations=TOY)
    first.open()
    with pytest.raises(CannotStart, match="in use by another process: stop that one first"):
        second.open(patience=0.1)
    first.close()
    second.open(patience=0.1)
    second.close()


def test_a_corrupt_file_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "toy.db"
    file.write_bytes(b"This is no database. " * 1000)
    line = refused(capfd, database_url=f"sqlite:///{file}")
    assert line == f"the database sqlite:///{file} cannot be used: file is not a database"
    assert file.read_bytes().startswith(b"This is no database.")


def test_a_file_that_is_torn_in_the_middle_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "toy.db"
    migrated(f"sqlite:///{file}")
    file.write_bytes(file.read_bytes()[:4096] + b"\xff" * (file.stat().st_size - 4096))
    assert "cannot be used: " in refused(capfd, database_url=f"sqlite:///{file}")


@pytest.mark.parametrize("name", ["", ".lock"])
def test_a_folder_in_the_place_of_a_file_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / f"toy.db{name}").mkdir()
    assert "cannot be used: " in refused(capfd, database_url=f"sqlite:///{tmp_path / 'toy.db'}")


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = refused(capfd, database_url=f"sqlite:///{tmp_path}/nowhere/toy.db")
    assert line.endswith(f"does not exist: make {tmp_path}/nowhere, or change WEFT_DATABASE_URL")


def test_a_postgres_that_is_not_there_is_named_without_its_password(capfd: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    line = refused(capfd, database_url=f"postgresql://weft:hush@127.0.0.1:{port}/toy")
    assert line.startswith(f"the database postgresql+psycopg://weft:***@127.0.0.1:{port}/toy cannot be used: ")
    assert "refused" in line


@on_postgres
def test_a_database_that_postgres_does_not_have_is_named(database_url: str, capfd: pytest.CaptureFixture[str]) -> None:
    other = make_url(database_url).set(database="other")
    line = refused(capfd, database_url=other.render_as_string(hide_password=False))
    assert 'database "other" does not exist' in line


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hush",
        "/data/toy.db",
        "toy:hush@host/db",
        "mysql://toy:hush@host/db",
        "postgresql://toy:hush@host:many/db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:toy.db?mode=memory&uri=true",
    ],
)
def test_what_is_no_address_of_a_database_is_refused(capfd: pytest.CaptureFixture[str], url: str) -> None:
    line = refused(capfd, database_url=url)
    assert "WEFT_DATABASE_URL" in line
    assert "sqlite:///" in line
    assert "hush" not in line


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, ["WEFT_DATABASE_URL"]),
        ({"grpc_port": "many"}, ["WEFT_DATABASE_URL", "WEFT_GRPC_PORT"]),
        ({"database_url": TOY_DB, "ops_port": 70_000}, ["WEFT_OPS_PORT"]),
        ({"database_url": TOY_DB, "log_level": "loud"}, ["WEFT_LOG_LEVEL"]),
        ({"database_url": TOY_DB, "read_threads": 0, "batch_size": 0}, ["WEFT_BATCH_SIZE", "WEFT_READ_THREADS"]),
    ],
)
def test_settings_that_are_missing_or_malformed_are_all_named_in_one_line(
    capfd: pytest.CaptureFixture[str], settings: dict[str, Any], names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("WEFT_")]:
        monkeypatch.delenv(name)
    line = refused(capfd, **settings)
    assert sorted(part.partition(": ")[0] for part in line.split("; ")) == names


def test_an_older_schema_is_migrated_and_keeps_its_rows(database_url: str, tmp_path: Path) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "0001_things.py").write_text(FIRST)
    rows = migrated(database_url, scripts)
    rows("INSERT INTO things (id) VALUES ('old')")
    rows("INSERT INTO leases (name, holder, epoch, beat) VALUES ('relay', 'me', 3, 4)")

    (scripts / "0002_colours.py").write_text(SECOND)
    migrated(database_url, scripts)
    migrated(database_url, scripts)
    assert rows("SELECT id, colour FROM things") == [("old", "red")]
    assert rows("SELECT holder, epoch FROM leases") == [("me", 3)]
    assert rows("SELECT version_num FROM service_schema") == [("0002",)]


@pytest.mark.parametrize(("recorded", "kept", "removed"), [(0, 0, []), (3, 3, []), (5, 2, [(3,)]), (5, 0, [(5,)])])
def test_what_was_removed_from_an_outbox_before_that_was_noted_is_noted(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: int, kept: int, removed: list[Any]
) -> None:
    chassis = database._CHASSIS_SCRIPTS
    former = tmp_path / "former"
    former.mkdir()
    shutil.copy(chassis / "0001_chassis.py", former)
    monkeypatch.setattr(database, "_CHASSIS_SCRIPTS", former)
    rows = migrated(database_url)
    for _ in range(recorded):
        rows(
            "INSERT INTO outbox (event_id, type, aggregate_id, time, body, traceparent, tracestate, correlation_id, "
            "causation_id) VALUES ('', '', '', 0, '', '', '', '', '')"
        )
    rows("DELETE FROM outbox WHERE seq <= :removed", removed=recorded - kept)
    monkeypatch.setattr(database, "_CHASSIS_SCRIPTS", chassis)
    migrated(database_url)
    assert rows("SELECT seq FROM published WHERE context = ''") == removed


def test_a_migration_that_fails_half_way_changes_nothing(database_url: str, tmp_path: Path) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "0001_things.py").write_text(FIRST)
    rows = migrated(database_url, scripts)
    (scripts / "0002_broken.py").write_text(HALF_WAY)
    with pytest.raises(RuntimeError, match="half way"):
        migrated(database_url, scripts)
    rows("INSERT INTO things (id) VALUES ('old')")
    assert rows("SELECT * FROM things") == [("old",)]
    assert rows("SELECT version_num FROM service_schema") == [("0001",)]


@on_postgres
async def test_instances_that_start_together_migrate_once(database_url: str) -> None:
    await asyncio.gather(*(asyncio.to_thread(migrated, database_url) for _ in range(4)))
    newest = max(script.stem for script in (ROOT / "weft/migrations").glob("*.py"))[:4]
    assert Rows(database_url)("SELECT version_num FROM weft_schema") == [(newest,)]


def test_a_page_token_is_good_at_every_instance_and_after_a_restart(database_url: str) -> None:
    wanted = PageRequest.of(ListOrdersRequest())

    def listed(token: str = "") -> Listing:
        database = Database(database_url, migrations=TOY)
        database.open()
        try:
            with database.read.connect() as connection:
                return listing(connection, replace(wanted, token=token))
        finally:
            database.close()

    assert listed(listed().token_of("a")).position(str) == ("a",)


@pytest.mark.parametrize("service", TABLES)
def test_the_migrations_make_exactly_what_is_declared(database_url: str, service: str) -> None:
    migrated(database_url, TOY if service == "toy" else ROOT / "services" / service / "migrations")
    declared = MetaData()
    for metadata in (tables.metadata, TABLES[service]):
        for table in metadata.tables.values():
            table.to_metadata(declared)
    engine = create_engine(database_url)
    options = {"include_name": lambda name, kind, _: not (kind == "table" and str(name).endswith("_schema"))}
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={**options, "compare_type": True})
        assert compare_metadata(context, declared) == []
    engine.dispose()


@on_sqlite
def test_sqlite_writes_ahead_and_syncs_every_commit(database_url: str) -> None:
    database = Database(database_url, migrations=TOY)
    database.open()
    try:
        for engine in (database.write, database.read):
            with engine.connect() as connection:
                pragmas = {
                    name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                    for name in ("journal_mode", "synchronous", "foreign_keys")
                }
            assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    finally:
        database.close()


@on_postgres
def test_postgres_gives_up_on_what_a_paused_instance_left_open(database_url: str) -> None:
    database = Database(database_url, migrations=TOY)
    with database.write.connect() as connection:
        for name in ("idle_in_transaction_session_timeout", "lock_timeout"):
            assert connection.exec_driver_sql(f"SHOW {name}").scalar_one() not in ("0", "0s")
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"
    database.close()


@on_postgres
async def test_reads_go_on_when_the_database_closed_their_connections(database_url: str) -> None:
    database = Database(database_url, migrations=TOY)
    database.open()
    reader = Reader(database, 4)

    def backend(connection: Connection) -> int:
        # So that each of the threads has to answer.
        connection.execute(text("SELECT pg_sleep(0.05)"))
        return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())

    try:
        before = set(await asyncio.gather(*(reader.run(backend) for _ in range(8))))
        assert len(before) == 4
        for pid in before:
            Rows(database_url)(f"SELECT pg_terminate_backend({pid})")
        after = set(await asyncio.gather(*(reader.run(backend) for _ in range(8))))
        assert before.isdisjoint(after)
    finally:
        reader.close()
        database.close()
