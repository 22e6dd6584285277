"""Real servers for the tests of the services: a NATS server for each test, one PostgreSQL for all of them."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from services.order.settings import Settings as OrderSettings
from tests.component.callers import issuer
from tests.component.orders import FakeProduct, FakeUser, Orders, ordering
from tests.component.support import NewDatabase, Streams
from weft.domain import new_id
from weft.embedded import NatsServer, Postgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(scope="session", autouse=True)
def trusted_issuer() -> Iterator[None]:
    """Have every service of the tests, and every process that they start, trust the tests' issuer of tokens."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("WEFT_JWKS_URL", issuer().jwks_url)
        yield


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """PostgreSQL, started for the first test that needs it."""
    folder = Path(tempfile.mkdtemp(prefix="weft-"))
    folder.chmod(0o711)  # PostgreSQL may have to run as another user
    server = Postgres(folder)
    try:
        asyncio.run(server.start())
        yield server
    finally:
        asyncio.run(server.stop())
        shutil.rmtree(folder, ignore_errors=True)


@pytest_asyncio.fixture
async def broker(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A NATS server of the test's own, with empty streams; kill it, and start it again on the same port."""
    async with NatsServer(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def nats_url(broker: NatsServer) -> str:
    """Where the test's NATS server is."""
    return broker.url


@pytest_asyncio.fixture
async def streams(nats_url: str) -> AsyncIterator[Streams]:
    """The streams as the other services see them."""
    async with Streams(nats_url) as streams:
        yield streams


@pytest.fixture(params=["sqlite", "postgres"])
def database_server(request: pytest.FixtureRequest) -> Postgres | None:
    """PostgreSQL, or None for SQLite: a test that needs it runs once on each."""
    server: Postgres | None = None
    if request.param == "postgres":
        server = request.getfixturevalue("postgres_server")
    return server


@pytest_asyncio.fixture
async def new_database_url(database_server: Postgres | None, tmp_path: Path) -> AsyncIterator[NewDatabase]:
    """Make empty databases, once on each kind of server: `await new_database_url("order")`."""
    made: dict[str, str] = {}

    async def make(name: str) -> str:
        if database_server is None:
            return f"sqlite:///{tmp_path / name}.db"
        unique = made.setdefault(name, f"{name}_{new_id().replace('-', '')}")
        return await database_server.create_database(unique)

    yield make
    if database_server is not None:
        for database in made.values():
            await database_server.drop_database(database)


@pytest_asyncio.fixture
async def product() -> AsyncIterator[FakeProduct]:
    """A product that answers order as the test says."""
    fake = FakeProduct()
    async with fake.serving():
        yield fake


@pytest_asyncio.fixture
async def user() -> AsyncIterator[FakeUser]:
    """A user that answers order as the test says."""
    fake = FakeUser()
    async with fake.serving():
        yield fake


@pytest_asyncio.fixture
async def order_settings(
    new_database_url: NewDatabase, nats_url: str, product: FakeProduct, user: FakeUser
) -> OrderSettings:
    """Settings of an order service with a fresh database, beside `product` and `user`."""
    return OrderSettings(
        database_url=await new_database_url("order"),
        nats_url=nats_url,
        product_address=f"127.0.0.1:{product.port}",
        user_address=f"127.0.0.1:{user.port}",
    )


@pytest_asyncio.fixture
async def orders(order_settings: OrderSettings, streams: Streams) -> AsyncIterator[Orders]:
    """Order, running."""
    async with ordering(order_settings, streams) as orders:
        yield orders
