"""Each event has its effects once, in the order of its stream, whatever becomes of broker and database."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from commerce.order.v1.order_events_pb2 import OrderConfirmed
from tests.component.chassis.toy import Toy, task
from tests.component.chassis.world import Feed, on_postgres, on_sqlite
from weft.domain import new_id
from weft.testing import eventually

if TYPE_CHECKING:
    from tests.component.chassis.world import World
    from weft.embedded import Postgres

CONSUMER = ("COMMERCE_ORDER", "toy-from-order")


async def test_a_batch_is_handled_in_order_and_its_events_are_published_in_order(world: World) -> None:
    async with world.running():
        await world.feed.send(*(task(f"a{n % 3}", n) for n in range(300)))
        for account in range(3):
            await world.until_seen(f"a{account}", range(account, 300, 3))
        await world.until_published()
    for account in range(3):
        assert await world.feed.numbers_published(f"a{account}") == list(range(account, 300, 3))


async def test_an_event_that_comes_twice_in_one_batch_has_one_effect(world: World) -> None:
    toy = Toy()
    await world.feed.send(task("a", 1), task("a", 1), task("a", 2), ids=["one", "one", "two"])
    async with world.running(toy):
        await world.until_seen("a", [1, 2])
    assert toy.tries == {"a/1": 1, "a/2": 1}


@on_sqlite
async def test_an_event_that_comes_again_in_a_later_batch_has_one_effect(world: World) -> None:
    toy = Toy()
    async with world.running(toy):
        await world.feed.send(task("a", 1), ids=["one"])
        await world.until_seen("a", [1])
        await world.feed.send(task("a", 1), task("a", 2), ids=["one", "two"])
        await world.until_seen("a", [1, 2])
    assert toy.tries == {"a/1": 1, "a/2": 1}


async def test_an_event_that_comes_again_after_a_restart_has_one_effect(world: World) -> None:
    await world.feed.send(task("a", 1), ids=["one"])
    async with world.running():
        await world.until_seen("a", [1])
    await world.feed.send(task("a", 1), task("a", 2), ids=["one", "two"])
    async with world.running():
        await world.until_seen("a", [1, 2])


@on_sqlite
async def test_a_service_goes_on_where_it_was_when_its_consumer_was_deleted_meanwhile(world: World) -> None:
    await world.feed.send(task("a", 1), task("a", 2))
    async with world.running():
        await world.until_seen("a", [1, 2])
    await world.feed.broker.js.delete_consumer(*CONSUMER)
    await world.feed.send(task("a", 3))
    toy = Toy()
    async with world.running(toy):
        await world.until_seen("a", [1, 2, 3])
    assert toy.tries == {"a/3": 1}


@on_sqlite
async def test_a_service_goes_on_when_its_consumer_is_deleted_while_it_reads(world: World) -> None:
    toy = Toy()
    async with world.running(toy):
        await world.feed.send(task("a", 1))
        await world.until_seen("a", [1])
        await world.feed.broker.js.delete_consumer(*CONSUMER)
        await world.feed.send(task("a", 2))
        await world.until_seen("a", [1, 2])
    assert toy.tries == {"a/1": 1, "a/2": 1}


@on_sqlite
async def test_messages_that_somebody_else_took_from_the_consumer_are_read_again(world: World) -> None:
    async with world.running():
        await world.feed.send(task("a", 1))
        await world.until_seen("a", [1])
        thief = await world.feed.broker.js.pull_subscribe_bind(CONSUMER[1], CONSUMER[0])
        stealing = asyncio.create_task(thief.fetch(1, timeout=20))
        await eventually(lambda: _waiting(world, 2), what="the thief waits beside the service")
        # They get messages in turn; none comes after the stolen one, to show that it is missing.
        sent = 1
        while not stealing.done():
            sent += 1
            await world.feed.send(task("a", sent))
            await asyncio.wait([stealing], timeout=0.2)
        await world.until_seen("a", range(1, sent + 1))


async def _waiting(world: World, number: int) -> bool:
    return (await world.feed.broker.js.consumer_info(*CONSUMER)).num_waiting >= number


async def test_order_and_effects_hold_when_the_broker_is_killed_in_mid_stream(world: World) -> None:
    toy = Toy()
    accounts, each = 5, 200
    async with world.running(toy, batch_size=20):
        sending = asyncio.create_task(_send_through_outages(world, accounts, each))
        for done in (30, 90, 150):
            await eventually(lambda done=done: len(world.rows.seen("a0")) > done, what="some are handled")
            await world.nats.kill()
            await world.nats.start()
        await sending
        for account in range(accounts):
            await world.until_seen(f"a{account}", range(each), timeout=30)
        await world.until_published(timeout=30)
    assert set(toy.tries.values()) == {1}
    for account in range(accounts):
        assert _once(await world.feed.numbers_published(f"a{account}")) == list(range(each))


async def _send_through_outages(world: World, accounts: int, each: int) -> None:
    for number in range(each):
        events = [task(f"a{account}", number) for account in range(accounts)]
        await world.feed.send(*events, ids=[new_id() for _ in events])


def _once(numbers: list[int]) -> list[int]:
    return list(dict.fromkeys(numbers))


async def test_a_stream_that_was_made_anew_is_read_from_its_beginning(world: World) -> None:
    ids = await world.feed.send(*(task("a", n) for n in range(5)))
    async with world.running():
        await world.until_seen("a", range(5))
    await _lose_streams(world)
    # Some of what it knows comes again, as when the owner publishes it again, and something new.
    await world.feed.send(task("a", 3), task("a", 4), task("a", 5), ids=[*ids[3:5], "new"])
    async with world.running():
        await world.until_seen("a", range(6))


@on_sqlite
async def test_a_stream_that_was_made_anew_is_read_from_its_beginning_though_it_is_longer_now(
    world: World,
) -> None:
    await world.feed.send(task("a", 0), task("a", 1))
    async with world.running():
        await world.until_seen("a", [0, 1])
    await _lose_streams(world)
    await world.feed.send(*(task("a", n) for n in range(2, 8)))
    async with world.running():
        await world.until_seen("a", range(8))


@on_sqlite
async def test_a_stream_that_was_made_anew_is_noticed_by_a_service_that_runs(world: World) -> None:
    await world.feed.send(*(task("a", n) for n in range(5)))
    async with world.running():
        await world.until_seen("a", range(5))
        await _lose_streams(world)
        await world.feed.send(task("a", 5), task("a", 6))
        await world.until_seen("a", range(7))


async def _lose_streams(world: World) -> None:
    """Have the broker start with empty disks."""
    await world.nats.stop()
    folder = world.folder / "nats" / "jetstream"
    folder.rename(world.folder / f"lost-{new_id()}")
    await world.nats.start()
    await eventually(lambda: world.feed.broker.connected, what="the feed is connected again")
    for context in ("commerce.order", "commerce.product", "commerce.inventory"):
        await eventually(lambda context=context: world.feed.broker.ensure_stream(context))


async def test_a_subject_that_is_no_text_does_not_stop_the_consumer(world: World) -> None:
    async with world.running():
        await _publish_raw(world, b"commerce.order.v1.OrderCreated.\xff\xfe", b"")
        await _publish_raw(world, b"commerce.order.v1.OrderCreated.a\x00b", b"")
        await world.feed.send(task("a", 1))
        await world.until_seen("a", [1])
        await eventually(lambda: world.rows.count("dead_letters") == 2)
        assert world.rows.count("dead_letters", "reason = 'UNDECODABLE'") == 2


@pytest.mark.parametrize(
    "header",
    [
        b"ce-id: a\x00b",
        b"ce-id: \xff\xfe",
        b"ce-id: " + b"x" * 20_000,
        b"ce-type: commerce.order.v1.OrderCreated\x00",
        b"ce-subject: \xf0\x28",
        b"\xff: \x00",
    ],
)
@on_postgres
async def test_headers_that_are_no_text_do_not_stop_the_consumer(world: World, header: bytes) -> None:
    async with world.running():
        await _publish_raw(world, b"commerce.order.v1.OrderCreated.a", b"NATS/1.0\r\n" + header + b"\r\n\r\n")
        await world.feed.send(task("a", 1))
        await world.until_seen("a", [1])
        await eventually(lambda: world.rows.count("dead_letters", "reason = 'UNDECODABLE'") == 1)


async def _publish_raw(world: World, subject: bytes, headers: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.nats.port)
    await reader.readline()
    sizes = b"%d %d" % (len(headers), len(headers) + 1) if headers else b"1"
    verb = b"HPUB" if headers else b"PUB"
    writer.write(b'CONNECT {"verbose":false,"headers":true,"protocol":1}\r\n')
    writer.write(b"%b %b %b\r\n%bx\r\nPING\r\n" % (verb, subject, sizes, headers))
    while not (await reader.readline()).startswith(b"PONG"):
        pass
    writer.close()
    await writer.wait_closed()


@on_sqlite
async def test_events_of_two_contexts_are_read_side_by_side(world: World) -> None:
    from commerce.product.v1.product_events_pb2 import ProductCreated

    async with world.running():
        await world.feed.send(ProductCreated(sku="tea"))
        await world.feed.send(task("a", 1), OrderConfirmed(order_id="a"))
        await world.until_seen("a", [1])
        await eventually(lambda: world.rows.notes("a") == ["confirmed"])
        await eventually(lambda: world.rows.notes("tea") == ["product"])


@on_sqlite
async def test_an_id_that_two_streams_use_stands_for_two_events(world: World) -> None:
    """An event is known by its consumer and its id: what one consumer has handled is new to another."""
    from commerce.product.v1.product_events_pb2 import ProductCreated

    async with world.running():
        await world.feed.send(task("a", 1), ids=["one"])
        await world.until_seen("a", [1])
        await world.feed.send(ProductCreated(sku="tea"), ids=["one"])
        await eventually(lambda: world.rows.notes("tea") == ["product"])


@on_postgres
async def test_a_database_that_is_gone_for_a_while_is_waited_for(world: World, postgres_server: Postgres) -> None:
    async with world.running(batch_size=10):
        await world.feed.send(*(task("a", n) for n in range(50)))
        await eventually(lambda: world.rows.seen("a"))
        await postgres_server.stop()
        await world.feed.send(*(task("a", n) for n in range(50, 100)))
        await postgres_server.start()
        await world.until_seen("a", range(100), timeout=20)
        await world.until_published(timeout=20)


@on_sqlite
async def test_what_the_broker_did_not_hear_of_is_not_handled_again(world: World, feed: Feed) -> None:
    """Acknowledgements are only told: the position is the service's own."""
    toy = Toy()
    await feed.send(*(task("a", n) for n in range(10)))
    async with world.running(toy):
        await world.until_seen("a", range(10))
    await feed.broker.reset_consumer(*CONSUMER, 1)
    async with world.running(toy):
        await feed.send(task("a", 10))
        await world.until_seen("a", range(11))
    assert set(toy.tries.values()) == {1}
