"""What the drivers could do at best with the same rows and messages, and nothing around them."""

from __future__ import annotations

import itertools
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol

import nats
import psycopg

from bench.databases import OUTBOX, RESERVATION, plain_url
from bench.stage import Broken

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.databases import Written

_FETCH_TIMEOUT = 5.0


class _Cursor(Protocol):
    def execute(self, statement: Any) -> Any: ...

    def executemany(self, statement: Any, rows: Any) -> Any: ...


def database_ceiling(url: str, written: Written, most: int, batch: int) -> float:
    """Write rows anew into a database with the same tables, `batch` events a commit; return events a second.

    Inbox, stock, reservation and outbox, `executemany` for each, at most `most` events.
    """
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            return _write(connection.cursor(), "?", "BEGIN IMMEDIATE", written, most, batch)
    with psycopg.connect(plain_url(url), autocommit=True) as postgres:
        return _write(postgres.cursor(), "%s", "BEGIN", written, most, batch)


def _write(cursor: _Cursor, mark: str, begin: str, written: Written, most: int, batch: int) -> float:
    inbox = f"INSERT INTO inbox (consumer, event_id) VALUES ({mark}, {mark}) ON CONFLICT DO NOTHING"
    stock = f"UPDATE stock SET reserved = reserved + 1, version = version + 1 WHERE sku = {mark}"
    reservations, outbox = _insert("reservations", RESERVATION, mark), _insert("outbox", OUTBOX, mark)
    groups = list(_groups(written, most, batch))
    start = time.perf_counter()
    for group in groups:
        cursor.execute(begin)
        for statement, rows in zip((inbox, stock, reservations, outbox), group, strict=True):
            cursor.executemany(statement, rows)
        cursor.execute("COMMIT")
    return sum(len(group[0]) for group in groups) / (time.perf_counter() - start)


def _insert(table: str, columns: Sequence[str], mark: str) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join([mark] * len(columns))})"


def _groups(written: Written, most: int, batch: int) -> Iterator[tuple[list[Any], ...]]:
    for start in range(0, min(most, len(written.inbox)), batch):
        end = min(start + batch, len(written.inbox))
        events = slice(round(start * written.per_order), round(end * written.per_order))
        mine = (rows[start:end] for rows in (written.inbox, written.stock, written.reservations))
        yield (*mine, written.outbox[events])


async def jetstream_ceiling(url: str, stream: str, subject: str, most: int, batch: int) -> float:
    """Fetch at most `most` messages and acknowledge each, with plain nats-py; return messages a second.

    The time ends when the server has heard of every acknowledgement.
    """
    client = await nats.connect(url)
    try:
        jetstream = client.jetstream()
        name = f"ceiling-{batch}"
        reader = await jetstream.pull_subscribe(subject, durable=name, stream=stream)
        there = (await jetstream.consumer_info(stream, name)).num_pending or 0
        count, most = 0, min(most, there)
        start = time.perf_counter()
        while count < most:
            messages = await reader.fetch(min(batch, most - count), timeout=_FETCH_TIMEOUT)
            for message in messages:
                await message.ack()
            count += len(messages)
        await client.flush()
        seconds = time.perf_counter() - start
        for _ in itertools.repeat(None, 50):
            if not (await jetstream.consumer_info(stream, name)).num_ack_pending:
                return count / seconds
        raise Broken(f"{stream} still waits for acknowledgements")
    finally:
        await client.close()
