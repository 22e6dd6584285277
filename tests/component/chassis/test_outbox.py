"""What is committed is published, in order and whatever happens on the way; nothing else is."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from commerce.inventory.v1.inventory_events_pb2 import InventoryReserved, InventoryUpdated
from tests.component.chassis.toy import account_of, deposit, write
from tests.component.chassis.world import on_postgres, on_sqlite
from weft import relay as relays
from weft.broker import MOST_IN_BATCH, Broker
from weft.domain import new_id
from weft.testing import eventually

if TYPE_CHECKING:
    from tests.component.chassis.world import World
    from weft.embedded import NatsServer

RESERVED = InventoryReserved.DESCRIPTOR.full_name


async def test_rows_and_events_are_committed_together_or_not_at_all(world: World) -> None:
    def deposit_and_fail(work: Any, failing: bool) -> None:
        deposit(work, "a", 1)
        if failing:
            raise RuntimeError("told to fail")

    async with world.running() as service:
        with pytest.raises(RuntimeError):
            await service.writer.run(deposit_and_fail, True)
        assert (world.rows.count("accounts"), world.rows.count("outbox")) == (0, 0)
        await service.writer.run(deposit_and_fail, False)
        assert (world.rows.count("accounts"), world.rows.count("outbox")) == (1, 2)
        await world.until_published()
    types = [event.type.rpartition(".")[2] for event in await world.feed.published()]
    assert types == ["InventoryReserved", "InventoryUpdated"]


@on_sqlite
async def test_the_relay_is_woken_by_the_commit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "_SWEEP", 60.0)
    async with world.running() as service:
        await service.writer.run(deposit, "a", 1)
        await world.until_published(timeout=5)


@on_sqlite
async def test_events_that_were_committed_behind_its_back_are_found_by_the_sweep(world: World) -> None:
    async with world.running() as service:
        await service.writer.run(deposit, "a", 1)
        await world.until_published()
        # As another instance does that could not tell it.
        world.rows("UPDATE outbox SET published_at = NULL, event_id = :id WHERE seq = 1", id=new_id())
        await world.until_published(timeout=5)
    assert await world.feed.numbers_published("a") == [1, 1]


@on_sqlite
async def test_events_keep_their_order_by_aggregate_whoever_recorded_them(world: World) -> None:
    async with world.running() as service:
        await asyncio.gather(*(service.writer.run(deposit, f"a{n % 3}", n) for n in range(60)))
        await world.until_published()
    for account in range(3):
        assert await world.feed.numbers_published(f"a{account}") == list(range(account, 60, 3))
    revisions = [event.body.revision for event in await world.feed.published() if _is_state(event, "a0")]
    assert revisions == sorted(set(revisions))


def _is_state(event: Any, account: str) -> bool:
    return event.aggregate_id == account and event.type == InventoryUpdated.DESCRIPTOR.full_name


async def test_a_crash_between_publishing_and_noting_it_publishes_each_event_once(world: World) -> None:
    """The broker refuses an atomic batch of which it has one message, so they are published one by one."""
    async with world.running() as service:
        for number in range(30):
            await service.writer.run(deposit, "a", number)
        await world.until_published()
    # Published, but it died before it could note that: all of it, and a part.
    before = [event.id for event in await world.feed.published()]
    for unnoted in ("1 = 1", "seq > 40"):
        world.rows(f"UPDATE outbox SET published_at = NULL WHERE {unnoted}")
        async with world.running() as service:
            await service.writer.run(deposit, "b", 1)
            await world.until_published()
    after = [event.id for event in await world.feed.published()]
    assert after[: len(before)] == before
    assert len(after) == len(set(after)) == len(before) + 4
    assert await world.feed.numbers_published("a") == list(range(30))


async def test_a_batch_of_which_the_broker_has_the_middle_is_published_in_order(nats_url: str) -> None:
    broker = Broker(nats_url, "test")
    await broker.connect()
    try:
        await broker.ensure_stream("commerce.inventory")
        messages = [_message(n) for n in range(50)]
        for known in (messages[20], messages[31]):
            assert len(await broker.publish([known])) == 1
        assert await broker.publish(messages) == [*range(3, 23), 1, *range(23, 33), 2, *range(33, 51)]
        assert await broker.last_seq("COMMERCE_INVENTORY") == 50
        numbers = [await _body_at(broker, seq) for seq in range(1, 51)]
        assert numbers == [20, 31, *(n for n in range(50) if n not in (20, 31))]
    finally:
        await broker.close()


def _message(number: int) -> Any:
    from weft.wire import encode

    headers = {"Nats-Msg-Id": f"id-{number}", "ce-id": f"id-{number}"}
    return f"{RESERVED}.a", encode(headers), str(number).encode()


async def _body_at(broker: Broker, seq: int) -> int:
    return int((await broker.js.get_msg("COMMERCE_INVENTORY", seq)).data or b"")


async def test_more_than_one_batch_can_hold_is_stored_in_parts(nats_url: str) -> None:
    broker = Broker(nats_url, "test")
    await broker.connect()
    try:
        await broker.ensure_stream("commerce.inventory")
        messages = [_message(n) for n in range(MOST_IN_BATCH + 5)]
        assert await broker.publish(messages) == range(1, MOST_IN_BATCH + 1)
        assert len(await broker.publish(messages[MOST_IN_BATCH:])) == 5
    finally:
        await broker.close()


async def test_without_a_broker_publishing_fails_at_once_and_stores_nothing_for_later(
    nats_url: str, broker: NatsServer
) -> None:
    connection = Broker(nats_url, "test")
    await connection.connect()
    try:
        await connection.ensure_stream("commerce.inventory")
        await broker.kill()
        await eventually(lambda: not connection.connected)
        assert await connection.publish([_message(1)]) == []
        assert await connection.publish([_message(n) for n in range(40)]) == []
        await broker.start()
        await eventually(lambda: connection.connected)
        assert await connection.last_seq("COMMERCE_INVENTORY") == 0
    finally:
        await connection.close()


async def test_a_publication_in_progress_fails_when_the_connection_is_lost(nats_url: str, broker: NatsServer) -> None:
    """Nobody will answer it, so there is nothing to wait for."""
    connection = Broker(nats_url, "test")
    await connection.connect()
    try:
        await connection.ensure_stream("commerce.inventory")
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGSTOP)
        publishing = asyncio.create_task(connection.publish([_message(1)]))
        await asyncio.sleep(0)
        await broker.kill()
        assert await asyncio.wait_for(publishing, 3) == []
    finally:
        await connection.close()


async def test_what_is_accepted_while_the_broker_is_down_is_published_later_in_order(world: World) -> None:
    async with world.running() as service:
        await service.writer.run(deposit, "a", 0)
        await world.until_published()
        await world.nats.kill()
        for number in range(1, 40):
            await service.writer.run(deposit, "a", number)
        assert world.rows.count("outbox", "published_at IS NULL") > 0
        await world.nats.start()
        await world.until_published()
    assert await world.feed.numbers_published("a") == list(range(40))


@on_sqlite
async def test_a_service_that_starts_without_a_broker_takes_calls_and_publishes_later(world: World) -> None:
    await world.nats.stop()
    service = world.build()
    try:
        await service.start()
        assert not service.ready
        await service.writer.run(deposit, "a", 1)
        await world.nats.start()
        await eventually(lambda: service.ready)
        await world.until_published()
    finally:
        await service.stop()


async def test_a_backlog_of_10000_is_published_in_order(world: World) -> None:
    async with world.running() as service:
        await service.writer.run(deposit, "a", 0)
    count = 10_000
    world.rows(
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :count) "
        "INSERT INTO outbox (event_id, type, aggregate_id, time, body, traceparent, tracestate, "
        "correlation_id, causation_id) SELECT 'id-' || n, type, 'b-' || (n % 10), time, body, traceparent, "
        "tracestate, correlation_id, causation_id FROM n, outbox WHERE seq = 1 ORDER BY n",
        count=count,
    )
    async with world.running():
        await world.until_published(timeout=30)
        assert await world.feed.broker.last_seq("COMMERCE_INVENTORY") == count + 2
        for sample in range(3, count, 997):
            message = await world.feed.broker.js.get_msg("COMMERCE_INVENTORY", sample)
            assert (message.headers or {})["ce-id"] == f"id-{sample - 2}"


async def test_published_events_are_removed_after_their_retention_and_others_are_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "_CLEAN_EVERY", 0.05)
    monkeypatch.setattr(relays, "_CLEAN_AT_ONCE", 7)
    async with world.running(outbox_retention_hours=1) as service:
        for number in range(20):
            await service.writer.run(deposit, "a", number)
        await world.until_published()
        hour = 3_600_000_000
        world.rows("UPDATE outbox SET published_at = published_at - :hour WHERE seq <= 30", hour=hour)
        await eventually(lambda: world.rows.count("outbox") == 10, 2.5, "all that is old is removed at one sweep")
        assert world.rows.count("outbox", "seq <= 30") == 0


@on_postgres
async def test_a_lower_number_that_is_committed_later_is_not_skipped(world: World) -> None:
    """Two transactions take numbers in one order and commit in the other."""
    async with world.running() as service:
        await service.writer.run(deposit, "a", 0)
        await world.until_published()
        with world.rows.transaction() as earlier:
            _copy_event(earlier, "early")
            await service.writer.run(deposit, "a", 1)
            await world.until_published()
            numbers = [seq for (seq,) in world.rows("SELECT seq FROM outbox ORDER BY seq")]
            assert numbers != list(range(1, 5))  # one is missing still
        await eventually(lambda: world.rows.count("outbox", "event_id = 'early' AND published_at IS NOT NULL"))
    assert "early" in [event.id for event in await world.feed.published()]


def _copy_event(connection: Any, event_id: str) -> None:
    connection.exec_driver_sql(
        "INSERT INTO outbox (event_id, type, aggregate_id, time, body, traceparent, tracestate, correlation_id, "
        "causation_id) SELECT %s, type, 'early', time, body, traceparent, tracestate, correlation_id, causation_id "
        "FROM outbox WHERE seq = 1",
        (event_id,),
    )


@on_sqlite
async def test_a_stream_that_is_full_holds_events_back_until_there_is_room(world: World) -> None:
    async with world.running() as service:
        await service.writer.run(deposit, "a", 0)
        await world.until_published()
        await _limit_stream(world, 2)
        await service.writer.run(deposit, "a", 1)
        await service.writer.run(write, "j", "note")
        assert world.rows.count("outbox", "published_at IS NULL") == 3
        await _limit_stream(world, -1)
        await world.until_published()
    assert await world.feed.numbers_published("a") == [0, 1]


async def _limit_stream(world: World, messages: int) -> None:
    info = await world.feed.broker.js.stream_info("COMMERCE_INVENTORY")
    info.config.max_msgs = messages
    await world.feed.broker.js.update_stream(info.config)


@on_sqlite
async def test_a_service_that_changed_nothing_publishes_nothing(world: World) -> None:
    async with world.running() as service:
        await service.writer.run(deposit, "a", 0)
        await service.writer.run(_look, "a")
        await world.until_published()
    assert len(await world.feed.published()) == 2


def _look(work: Any, id: str) -> int:
    return len(account_of(work, id).seen)
