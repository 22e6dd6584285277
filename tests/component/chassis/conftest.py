"""A world for each test of the chassis: a database, a broker and a folder of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio

from tests.component.chassis.world import Feed, Rows, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.component.conftest import NewDatabase
    from weft.embedded import NatsServer


@pytest_asyncio.fixture
async def database_url(new_database_url: NewDatabase) -> str:
    """An empty database, on SQLite and on PostgreSQL in turn unless the test picks one."""
    return await new_database_url("toy")


@pytest_asyncio.fixture
async def feed(nats_url: str) -> AsyncIterator[Feed]:
    """The streams of the test's broker."""
    async with Feed(nats_url) as feed:
        yield feed


@pytest_asyncio.fixture
async def world(database_url: str, broker: NatsServer, feed: Feed, tmp_path: Path) -> AsyncIterator[World]:
    """What a toy service needs; the processes that a test started end with it."""
    world = World(database_url, broker, tmp_path, feed, Rows(database_url))
    yield world
    for process in world.processes:
        process.stop()
