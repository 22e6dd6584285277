"""The whole system for the tests of the flow.

They run once with a process for each service, once with one for all, and once on PostgreSQL with several instances.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.flow.shop import Shop
from tests.flow.systems import WAYS, WholeSystem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(scope="session", params=WAYS)
def mode(request: pytest.FixtureRequest) -> str:
    """The way in which the system runs."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def shared_system(mode: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeSystem]:
    """The system of one mode, started by the first test that needs it; what all of them did stays in it."""
    system = WholeSystem(tmp_path_factory.mktemp(mode), **WAYS[mode])
    try:
        yield system
    finally:
        system.stop()


@pytest_asyncio.fixture
async def system(shared_system: WholeSystem) -> WholeSystem:
    """The system, running, whatever the test before did to it."""
    await shared_system.start()
    return shared_system


@pytest_asyncio.fixture
async def shop(system: WholeSystem) -> AsyncIterator[Shop]:
    """The customers and the merchant of the system."""
    async with Shop(system) as shop:
        yield shop
