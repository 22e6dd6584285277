"""Events that nobody can handle, among many good ones: each becomes a dead letter and costs nobody else anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.databases import stocked
from bench.inventory import publish_all
from bench.poison import mixed
from services.inventory.service import build
from services.inventory.settings import Settings
from tests.component.support import count, handled_all, running
from weft.broker import Broker
from weft.testing import eventually

if TYPE_CHECKING:
    from tests.component.support import NewDatabase

EVENTS = 500


@pytest.mark.parametrize("database_server", ["sqlite"], indirect=True)
async def test_one_percent_poison_becomes_dead_letters_and_no_good_event_is_lost(
    new_database_url: NewDatabase, nats_url: str
) -> None:
    url = await new_database_url("inventory")
    stocked(url)
    mixture = mixed(0, EVENTS)
    async with running(build(Settings(database_url=url, nats_url=nats_url))) as service:
        broker = Broker(nats_url, "test")
        await broker.connect()
        try:
            await publish_all(broker, mixture.messages)
        finally:
            await broker.close()
        await handled_all(service)
        assert await count(service, "reservations", "state = 'RESERVED'") == mixture.good
        for reason, letters in mixture.poison.items():
            assert await count(service, "dead_letters", f"reason = '{reason}'") == letters
        assert await count(service, "dead_letters") == EVENTS - mixture.good
        assert await count(service, "parked") == 0

        async def all_published() -> bool:
            return await count(service, "outbox", "published_at IS NULL") == 0

        await eventually(all_published, what="what followed is published")
