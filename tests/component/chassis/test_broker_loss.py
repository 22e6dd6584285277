"""A broker that comes back with less than it had acknowledged loses nothing for good, and has nothing done twice."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from commerce.inventory.v1.inventory_events_pb2 import InventoryReserved, InventoryUpdated
from tests.component.chassis.test_letters import listed, operating
from tests.component.chassis.toy import Mark, Settings, Toy, deposit, marks, task
from tests.component.chassis.world import Rows, on_sqlite
from tests.component.support import running
from weft import Service, Subscription, relay
from weft.broker import Broker
from weft.testing import eventually
from weftapi.v1 import operations_service_pb2 as api

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    import pytest

    from tests.component.chassis.world import World
    from tests.component.conftest import NewDatabase
    from weft import UnitOfWork
    from weft.embedded import NatsServer

STREAM = "COMMERCE_INVENTORY"


class Copy:
    """A copy of what the broker has on its disk."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._store = world.folder / "nats" / "jetstream"
        self._copy = world.folder / "copy"

    async def make(self) -> None:
        """Copy what is there now."""
        await self._world.nats.stop()
        shutil.copytree(self._store, self._copy)
        await self._start()

    async def restore(self) -> None:
        """Kill the broker, and have it come back with the copy."""
        await self._world.nats.kill()
        shutil.rmtree(self._store)
        if self._copy.exists():
            shutil.copytree(self._copy, self._store)
        await self._start()

    async def _start(self) -> None:
        feed = self._world.feed.broker
        await eventually(lambda: not feed.connected, what="the feed has noticed")
        await self._world.nats.start()
        await eventually(lambda: feed.connected, what="the feed is connected again")


class Listener:
    """A service that listens to the toy's events, and leaves a mark for each."""

    def __init__(self, database_url: str, world: World) -> None:
        self.rows = Rows(database_url)
        self._settings = Settings(database_url=database_url, nats_url=world.nats.url, instance="listener-1")
        self.heard: list[int] = []

    def hear(self, work: UnitOfWork, event: InventoryReserved) -> None:
        """Leave a mark."""
        number = int(event.lines[0].sku)
        self.heard.append(number)
        work.add(marks, Mark(f"{event.order_id}-{number}", f"{event.order_id}-{number}"))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run it within this process."""
        migrations = Path(__file__).parent / "migrations"
        service = Service("listener", "commerce.payment", self._settings, migrations=migrations)
        service.subscribes(Subscription(InventoryReserved, self.hear))
        async with running(service):
            yield

    async def until_heard(self, numbers: Iterable[int]) -> None:
        """Wait until it heard exactly these, once each and in this order."""
        wanted = list(numbers)
        await eventually(lambda: len(self.heard) >= len(wanted), what=f"it heard {len(wanted)} events")
        await eventually(lambda: self.rows.count("marks") >= len(wanted), what="what it heard is committed")
        assert (self.heard, self.rows.count("marks")) == (wanted, len(wanted))
        assert self.rows.count("dead_letters") + self.rows.count("parked") == 0


async def test_what_the_broker_lost_is_published_again_and_has_its_effects_once(
    world: World, new_database_url: NewDatabase
) -> None:
    copy, listener = Copy(world), Listener(await new_database_url("listener"), world)
    async with world.running() as service, listener.running():
        await _record(service, range(5))
        await listener.until_heard(range(5))
        await copy.make()
        await _record(service, range(5, 30))
        await listener.until_heard(range(30))
        await world.until_published()
        recording = asyncio.create_task(_record(service, range(30, 300)))
        await copy.restore()
        await recording
        await listener.until_heard(range(300))
        await _until_told(world, 1)
        await world.until_published()
    assert await _numbers(world) == list(range(300))
    [(actor, action, target, outcome)] = world.rows("SELECT actor, action, target, outcome FROM actions")
    assert (actor, action, target) == ("relay", "republish", STREAM)
    assert int(outcome.removesuffix(" events are published again")) >= 50
    await _check_noted(world)


@on_sqlite
async def test_what_the_broker_lost_while_the_service_was_down_is_published_before_what_is_new(world: World) -> None:
    copy = Copy(world)
    async with world.running() as service:
        await _record(service, range(5))
        await world.until_published()
    await copy.make()
    async with world.running() as service:
        await _record(service, range(5, 10))
        await world.until_published()
    await copy.restore()
    service = world.build()
    async with service.at_rest():
        await _record(service, range(10, 12))
    async with world.running():
        await world.until_published()
        await _until_told(world, 1)
    assert await _numbers(world) == list(range(12))


@on_sqlite
async def test_a_stream_that_has_grown_beyond_where_it_was_hides_no_loss(world: World) -> None:
    """As when the relay was publishing in the moment in which the broker came back."""
    copy = Copy(world)
    async with world.running() as service:
        await _record(service, range(3))
        await world.until_published()
        await copy.make()
        await _record(service, range(3, 6))
        await world.until_published()
    await copy.restore()
    await world.feed.send(*(InventoryUpdated(sku=f"late-{n}") for n in range(20)))
    async with world.running() as service:
        await _record(service, [6])
        await world.until_published()
        await _until_told(world, 1)
    assert await _numbers(world) == list(range(7))
    await _check_noted(world)


@on_sqlite
async def test_a_stream_that_is_lost_is_made_anew_and_filled_by_a_service_that_runs(world: World) -> None:
    async with world.running() as service:
        await _record(service, range(5))
        await world.until_published()
        await Copy(world).restore()  # there is none
        await eventually(lambda: world.rows.count("actions") == 1)
        await world.until_published()
    assert await _numbers(world) == list(range(5))


@on_sqlite
async def test_a_stream_that_is_deleted_under_a_service_is_filled_again_with_its_next_event(world: World) -> None:
    async with world.running() as service:
        await _record(service, range(5))
        await world.until_published()
        await world.feed.broker.js.delete_stream(STREAM)
        await _record(service, [5])
        await _until_told(world, 1)
        await world.until_published()
    assert await _numbers(world) == list(range(6))


@on_sqlite
async def test_a_loss_that_reaches_further_back_than_the_outbox_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "_CLEAN_EVERY", 0.05)
    async with world.running(outbox_retention_hours=1) as service:
        await _record(service, range(5))
        await world.until_published()
        hour = 3_600_000_000
        world.rows("UPDATE outbox SET published_at = published_at - :hour WHERE seq <= 4", hour=hour)
        await eventually(lambda: world.rows.count("outbox") == 6, what="what is old is removed")
        await Copy(world).restore()
        await _until_told(world, 1)
        await world.until_published()
    [(outcome,)] = world.rows("SELECT outcome FROM actions")
    assert outcome.startswith("6 events are published again; older ones may be lost too")
    assert await _numbers(world) == list(range(2, 5))


async def test_numbers_that_the_outbox_never_used_are_no_sign_of_a_loss_beyond_it(world: World) -> None:
    """PostgreSQL gives none twice: not either the first one, if its transaction fails."""
    is_sqlite = world.database_url.startswith("sqlite")
    async with world.running() as service:
        world.rows(
            "INSERT INTO sqlite_sequence (name, seq) VALUES ('outbox', 3)"
            if is_sqlite
            else "SELECT setval('outbox_seq_seq', 3)"
        )
        await _record(service, range(3))
        await world.until_published()
        await Copy(world).restore()
        await _until_told(world, 1)
        await world.until_published()
    assert world.rows("SELECT outcome FROM actions") == [("6 events are published again",)]
    assert world.rows("SELECT min(seq) FROM outbox") == [(4,)]
    assert await _numbers(world) == list(range(3))


@on_sqlite
async def test_a_broker_that_lost_nothing_is_given_nothing_twice(world: World) -> None:
    async with world.running() as service:
        await _record(service, range(5))
        await world.until_published()
        for number in (5, 6):
            await world.nats.kill()
            await _record(service, [number])
            await world.nats.start()
            await world.until_published()
    assert await _numbers(world) == list(range(7))
    assert world.rows.count("actions") == 0
    await _check_noted(world)


@on_sqlite
async def test_a_stream_that_lost_its_tail_and_has_grown_again_is_read_from_its_beginning(world: World) -> None:
    copy = Copy(world)
    async with world.running():
        await world.feed.send(task("a", 0), task("a", 1))
        await world.until_seen("a", range(2))
        await copy.make()
        await world.feed.send(task("a", 2), task("a", 3))
        await world.until_seen("a", range(4))
    await copy.restore()
    await world.feed.send(*(task("a", n) for n in range(4, 8)))  # beyond where it was read
    async with world.running():
        await world.until_seen("a", range(8))


@on_sqlite
async def test_a_stream_that_lost_its_tail_is_read_on_by_a_service_that_runs(world: World) -> None:
    copy = Copy(world)
    async with world.running():
        await world.feed.send(task("a", 0), task("a", 1))
        await world.until_seen("a", range(2))
        await copy.make()
        await world.feed.send(task("a", 2), task("a", 3), task("a", 4))
        await world.until_seen("a", range(5))
        await copy.restore()
        await world.feed.send(task("a", 5))
        await world.until_seen("a", range(6))


async def test_what_was_parked_before_its_stream_was_made_anew_goes_before_what_is_parked_then(world: World) -> None:
    toy = Toy()
    toy.down = True
    ids: list[str] = []
    async with world.running(toy, retry_base=60.0, retry_cap=60.0) as service, operating(service) as stub:

        async def send(life: int) -> None:
            tasks = (task("a", 2 * life), task("a", 2 * life + 1), task(f"dead-{life}", 0, "refuse"))
            ids.extend(await world.feed.send(*tasks))
            await eventually(lambda: world.rows.count("inbox") == 3 * life + 3, what="they came")

        await send(0)
        for life in (1, 2):
            await Copy(world).restore()  # of nothing: a stream that is only deleted and made anew can be left broken
            await world.feed.broker.ensure_stream("commerce.order")
            await send(life)
        letters = {one.event_id: one for one in await listed(stub, kind=api.LETTER_KIND_PARKED)}
        assert list(letters) == ids
        assert len({one.letter_id for one in letters.values()}) == 9
        assert [letters[one].stream_seq for one in ids] == [1, 2, 3] * 3
        for event_id in ids:
            request = api.GetLetterRequest(service="toy", letter_id=letters[event_id].letter_id)
            assert (await stub.GetLetter(request)).letter.event_id == event_id
        toy.down = False
        await stub.RetryLetters(api.RetryLettersRequest(service="toy", letter_ids=[letters[ids[4]].letter_id]))
        await world.until_seen("a", range(6))
        await stub.RetryLetters(api.RetryLettersRequest(service="toy", filter={"kind": api.LETTER_KIND_PARKED}))
        await eventually(lambda: world.rows.count("dead_letters") == 3)
        assert {one.letter_id for one in await listed(stub)} == {letters[one].letter_id for one in ids[2::3]}


async def test_what_was_not_sent_when_the_connection_was_lost_is_not_sent_later(
    nats_url: str, broker: NatsServer
) -> None:
    """Else it would be in the stream before what the broker lost."""
    connection = Broker(nats_url, "test")
    await connection.connect()
    try:
        await connection.ensure_stream("commerce.inventory")
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGSTOP)
        # More than fits between here and there, and what has to wait for that.
        client, sent = connection.client, connection.client.stats["out_msgs"]
        publishing = [asyncio.create_task(_ask(connection, b"x" * 900_000)) for _ in range(20)]
        await eventually(lambda: client.stats["out_msgs"] == sent + 20 and not client._pending)
        publishing.append(asyncio.create_task(_ask(connection, b"late")))
        await eventually(lambda: client._pending)
        await broker.kill()
        await broker.start()
        await asyncio.gather(*publishing, return_exceptions=True)
        await eventually(lambda: connection.connected)
        await connection.client.flush()
        assert await connection.last_seq(STREAM) == 0
    finally:
        await connection.close()


async def _ask(broker: Broker, body: bytes) -> None:
    await broker.client.request("commerce.inventory.v1.A.a", body, timeout=5)


async def _record(service: Service, numbers: Iterable[int]) -> None:
    for number in numbers:
        await service.writer.run(deposit, "a", number)


async def _numbers(world: World) -> list[int]:
    """Return the numbers of what the stream has about the account, read from its beginning."""
    world.feed.forget()
    return await world.feed.numbers_published("a")


async def _until_told(world: World, actions: int) -> None:
    await eventually(lambda: world.rows.count("actions") == actions, what="the loss is found and told")


async def _check_noted(world: World) -> None:
    """See that what is noted as acknowledged last is in the stream, where it should be."""
    [(context, seq, event_id)] = world.rows("SELECT context, seq, event_id FROM published")
    found = await world.feed.broker.message_at(STREAM, seq)
    assert (context, found and found.event_id) == ("commerce.inventory", event_id)
