"""What surrounds the toy service in these tests: its broker and database, its feed of tasks, its rows."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import aiohttp
import orjson
import pytest
from sqlalchemy import NullPool, create_engine, text

from commerce.inventory.v1 import inventory_service_pb2 as api
from commerce.inventory.v1.inventory_service_pb2_grpc import InventoryServiceStub
from tests.component.callers import bearer, issuer, signed_channel
from tests.component.chassis.toy import Settings, build
from tests.component.support import running
from weft.broker import Broker
from weft.domain import new_id
from weft.events import stream_of, subject_of
from weft.testing import EventReader, StoredEvent, eventually, free_port
from weft.wire import encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

    import grpc
    from google.protobuf.message import Message
    from sqlalchemy import Connection

    from tests.component.chassis.toy import Toy
    from weft import Service
    from weft.embedded import NatsServer

ROOT = Path(__file__).parents[3]
on_sqlite = pytest.mark.parametrize("database_server", ["sqlite"], indirect=True)
on_postgres = pytest.mark.parametrize("database_server", ["postgres"], indirect=True)
Row = tuple[Any, ...]
S = TypeVar("S")


class Rows:
    """A service's database, seen from beside it."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")

    def __call__(self, query: str, **values: Any) -> list[Row]:
        """Return the rows of a query; run a statement."""
        with self._engine.connect() as connection:
            result = connection.execute(text(query), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Open a transaction, which is committed at the end of the `with`."""
        with self._engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
            yield connection

    def count(self, table: str, where: str = "1 = 1", **values: Any) -> int:
        """Return how many rows are as `where` says."""
        return int(self(f"SELECT COUNT(*) FROM {table} WHERE {where}", **values)[0][0])

    def seen(self, account: str) -> list[int]:
        """Return the numbers of the tasks that an account took, in order."""
        found = self("SELECT seen, total FROM accounts WHERE id = :id", id=account)
        numbers: list[int] = orjson.loads(found[0][0]) if found else []
        assert not found or found[0][1] == len(numbers)
        return numbers

    def all_seen(self) -> dict[str, list[int]]:
        """Return what each account took."""
        return {id: orjson.loads(seen) for id, seen in self("SELECT id, seen FROM accounts")}

    def notes(self, journal: str) -> list[str]:
        """Return a journal's notes, in order."""
        from tests.component.chassis.toy import journals

        query = "SELECT id, type, body FROM journals WHERE id = :id ORDER BY version"
        with self._engine.connect() as connection:
            found = journals.from_rows(connection.execute(text(query), {"id": journal}))
        return found[journal].notes if journal in found else []


class Feed:
    """The streams that the toy listens to, and its own."""

    def __init__(self, url: str) -> None:
        self.broker = Broker(url, "feed")
        self._readers: dict[str, EventReader] = {}

    async def __aenter__(self) -> Self:
        await self.broker.connect()
        for context in ("commerce.order", "commerce.product", "commerce.inventory"):
            await self.broker.ensure_stream(context)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.broker.close()

    async def send(self, *events: Message, ids: Sequence[str] = (), **headers: str) -> list[str]:
        """Publish events of one context, in order, with these ids or new ones; return the ids.

        The broker is kept from seeing repeated ids; `headers` come on top, with `_` for `-`.
        """
        ids = ids or [new_id() for _ in events]
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        messages = []
        for event, event_id in zip(events, ids, strict=True):
            name = event.DESCRIPTOR.full_name
            key = str(getattr(event, event.DESCRIPTOR.fields[0].name))
            told = {"ce-specversion": "1.0", "ce-id": event_id, "ce-type": name, "ce-subject": key}
            told |= {"ce-source": "/test", "Nats-Msg-Id": new_id(), **more}
            messages.append((subject_of(name, key), encode(told), event.SerializeToString()))
        done = 0
        while done < len(messages):
            stored = await self.broker.publish(messages[done : done + 500])
            if not stored:
                await asyncio.sleep(0.02)
            done += len(stored)
        return list(ids)

    async def send_bytes(self, subject: str, body: bytes, headers: dict[str, str] | None = None) -> int:
        """Publish any message; return its number in the stream."""
        return (await self.broker.js.publish(subject, body, headers=headers)).seq

    def forget(self) -> None:
        """Read the streams from their beginnings: they may not be what they were."""
        self._readers.clear()

    async def published(self, context: str = "commerce.inventory") -> list[StoredEvent]:
        """Return what the stream of a context holds, the toy's by default."""
        reader = self._readers.setdefault(context, EventReader(self.broker.js, stream_of(context)))
        return await reader.read()

    async def numbers_published(self, account: str) -> list[int]:
        """Return the numbers of the tasks of an account that the toy told of, in order."""
        found = [event for event in await self.published() if event.aggregate_id == account]
        return [int(event.body.lines[0].sku) for event in found if event.type.endswith(".InventoryReserved")]  # type: ignore[union-attr]


@dataclass
class World:
    """One test's database, broker and folder."""

    database_url: str
    nats: NatsServer
    folder: Path
    feed: Feed
    rows: Rows
    processes: list[Process] = field(default_factory=list)

    def settings(self, **changed: Any) -> Settings:
        """Return settings for a service of this world."""
        given = {"database_url": self.database_url, "nats_url": self.nats.url, "instance": "toy-1"}
        return Settings(**{**given, **changed})

    def build(self, toy: Toy | None = None, clock: Any = None, **changed: Any) -> Service:
        """Return a service of this world, not started."""
        return build(self.settings(**changed), toy, clock)

    @asynccontextmanager
    async def running(self, toy: Toy | None = None, clock: Any = None, **changed: Any) -> AsyncIterator[Service]:
        """Run the service within this process."""
        async with running(self.build(toy, clock, **changed)) as service:
            yield service

    def process(self, **changed: Any) -> Process:
        """Start the service as a process of its own; it ends with the test."""
        given = {"database_url": self.database_url, "nats_url": self.nats.url, "instance": "toy-1"}
        process = Process({**given, "folder": str(self.folder), **changed})
        self.processes.append(process)
        process.start()
        return process

    async def until_seen(self, account: str, numbers: Iterable[int], timeout: float = 10.0) -> None:
        """Wait until an account took exactly these tasks, in this order."""
        wanted = list(numbers)
        await eventually(lambda: self.rows.seen(account) == wanted, timeout, f"{account} took its {len(wanted)} tasks")

    async def until_published(self, timeout: float = 10.0) -> None:
        """Wait until everything that is committed is published."""
        await eventually(lambda: self.rows.count("outbox", "published_at IS NULL") == 0, timeout, "all is published")


class Process:
    """The toy as a process of its own."""

    def __init__(self, settings: dict[str, Any], command: Sequence[str] = ()) -> None:
        own = {"grpc_port": free_port(), "ops_port": free_port(), "log_level": "warning"}
        settings = {**own, "jwks_url": issuer().jwks_url, **settings}
        self.grpc_port = settings["grpc_port"]
        self.ops_port = settings["ops_port"]
        self._command = list(command) or [sys.executable, "-m", "tests.component.chassis.toy"]
        self._env = {f"WEFT_{name.upper()}": str(value) for name, value in settings.items()}
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, for the first time or again."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("WEFT_")}
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env={**inherited, **self._env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.signal(signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        """See that it has ended."""
        if self._process is not None:
            self.signal(signal.SIGCONT)
            self._process.kill()
            self._process.communicate()

    async def ended(self, timeout: float = 20.0) -> tuple[int, str, str]:
        """Wait for its end; return exit code, output and errors."""
        assert self._process is not None
        output, errors = await asyncio.to_thread(self._process.communicate, None, timeout)
        return self._process.returncode, output, errors

    async def ready(self, timeout: float = 20.0) -> None:
        """Wait until it says that it is ready."""
        await eventually(self._is_ready, timeout, "the process is ready")

    async def _is_ready(self) -> bool:
        url = f"http://127.0.0.1:{self.ops_port}/readyz"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status == 200

    @asynccontextmanager
    async def calling(self) -> AsyncIterator[InventoryServiceStub]:
        """Open a channel to it."""
        async with self.calling_as(InventoryServiceStub) as stub:
            yield stub

    @asynccontextmanager
    async def calling_as(self, stub: Callable[[grpc.aio.Channel], S]) -> AsyncIterator[S]:
        """Open a channel to one of its services."""
        async with signed_channel(f"127.0.0.1:{self.grpc_port}", bearer()) as channel:
            yield stub(channel)


def restock(account: str, quantity: int = 1) -> api.RestockRequest:
    """Return the call that has an account take an amount."""
    return api.RestockRequest(sku=account, quantity=quantity)
