"""Gaps are found and filled by hand: in what a consumer handled, and in what a stream has."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import orjson
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from commerce.order.v1.order_events_pb2 import OrderConfirmed
from tests.component.chassis.toy import deposit, task
from tests.component.chassis.world import on_postgres, on_sqlite
from tests.component.support import calling, refusal, violations
from weft import actions, recovery
from weft.testing import eventually
from weftapi.v1 import operations_service_pb2 as api
from weftapi.v1.operations_service_pb2_grpc import OperationsServiceStub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Collection

    from tests.component.chassis.world import World
    from weft import Service

CONSUMER = "toy-from-order"


@on_sqlite
async def test_a_gap_is_told_by_a_dry_run_and_filled_by_a_redelivery(world: World) -> None:
    async with world.running() as service, _operating(service) as operations:
        ids = await world.feed.send(*(task("a", n) for n in range(6)), OrderConfirmed(order_id="a"))
        await eventually(lambda: world.rows.notes("a") == ["confirmed"])
        _make_gap(world, "a", ids, {2, 4})
        told = await operations.Redeliver(_redeliver(dry_run=True))
        assert [(one.event_id, one.seq, one.aggregate_id) for one in told.missing] == [
            (ids[2], 3, "a"),
            (ids[4], 5, "a"),
        ]
        assert {one.event_type for one in told.missing} == {"commerce.order.v1.OrderCreated"}
        assert (told.scanned, told.next_seq, told.last_seq) == (7, 0, 7)
        assert (world.rows.count("inbox"), world.rows.count("actions")) == (5, 0)

        done = await operations.Redeliver(_redeliver(why="a gap"))
        assert done == told
        await world.until_seen("a", [0, 1, 3, 5, 2, 4])
        assert (world.rows.count("inbox"), world.rows.count("parked")) == (7, 0)
        again = await operations.Redeliver(_redeliver())
        assert not again.missing
    assert world.rows("SELECT actor, action, target, why, outcome FROM actions ORDER BY id") == [
        ("ann", "redeliver", ids[2], "a gap", f"{CONSUMER}.3: OrderCreated of a"),
        ("ann", "redeliver", ids[4], "a gap", f"{CONSUMER}.5: OrderCreated of a"),
    ]


@on_sqlite
async def test_of_very_many_events_their_number_is_written_down(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "MOST_ROWS", 2)
    async with world.running() as service, _operating(service) as operations:
        ids = await world.feed.send(*(task("a", n) for n in range(3)))
        await world.until_seen("a", range(3))
        _make_gap(world, "a", ids, range(3))
        await operations.Redeliver(_redeliver())
    [(target, outcome)] = world.rows("SELECT target, outcome FROM actions")
    assert (target, outcome) == (CONSUMER, "3 events of COMMERCE_ORDER, numbers 1 to 3")


@on_sqlite
async def test_only_what_is_asked_for_is_redelivered(world: World) -> None:
    async with world.running() as service, _operating(service) as operations:
        ids = await world.feed.send(*(task(f"a{n % 2}", n) for n in range(8)))
        await world.until_seen("a1", [1, 3, 5, 7])
        for account in ("a0", "a1"):
            _make_gap(world, account, ids, range(8))
        one = await operations.Redeliver(_redeliver(aggregate_id="a1", from_seq=4))
        assert [found.seq for found in one.missing] == [4, 6, 8]
        await world.until_seen("a1", [3, 5, 7])
        stored = await world.feed.broker.js.get_msg("COMMERCE_ORDER", 7, direct=True)
        since = _redeliver()
        since.from_time.FromJsonString((stored.headers or {})["Nats-Time-Stamp"])
        assert [found.seq for found in (await operations.Redeliver(since)).missing] == [7]
        await world.until_seen("a0", [6])


@on_sqlite
async def test_a_call_looks_at_a_part_and_says_where_to_go_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "MESSAGES_AT_ONCE", 40)
    async with world.running() as service, _operating(service) as operations:
        ids = await world.feed.send(*(task("a", n) for n in range(100)))
        await world.until_seen("a", range(100))
        _make_gap(world, "a", ids, {10, 50, 90})
        found, seq = [], 0
        for _ in range(3):
            part = await operations.Redeliver(_redeliver(from_seq=seq))
            found.append(([one.seq for one in part.missing], part.scanned, part.next_seq))
            seq = part.next_seq
        assert found == [([11], 40, 41), ([51], 40, 81), ([91], 20, 0)]
        await eventually(lambda: sorted(world.rows.seen("a")) == list(range(100)))


@on_sqlite
async def test_what_waits_is_dead_or_is_to_come_is_not_redelivered(world: World) -> None:
    async with world.running(retry_base=30, retry_cap=30) as service, _operating(service) as operations:
        await world.feed.send(task("a", 0), task("a", 1, "refuse"), task("b", 2, "unavailable"), task("b", 3))
        await eventually(lambda: world.rows.count("parked") == 2)
        assert not (await operations.Redeliver(_redeliver())).missing
    await world.feed.send(task("a", 4))  # nobody reads on
    world.rows("UPDATE progress SET position = 0, event_id = '' WHERE consumer = :name", name=CONSUMER)
    world.rows("DELETE FROM inbox")
    service = world.build()
    async with service.at_rest():
        await service.broker.connect()
        of_the_service = recovery.Recovery(
            service.broker, service.writer, service.reader, lambda: service.consumers, parked=list, committed=list
        )
        answer = await of_the_service.redeliver(_redeliver(), "somebody")
        await service.broker.close()
    assert (list(answer.missing), answer.scanned) == ([], 0)


@on_sqlite
async def test_an_unknown_consumer_is_refused_with_those_that_there_are(world: World) -> None:
    async with world.running() as service, _operating(service) as operations:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await operations.Redeliver(_redeliver(consumer="toy-from-nowhere"))
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
        assert "toy-from-order, toy-from-product" in (refused.value.details() or "")


@on_sqlite
async def test_a_place_that_cannot_be_is_refused(world: World) -> None:
    async with world.running() as service, _operating(service) as operations:
        times = [Timestamp(seconds=2**62), Timestamp(seconds=-(2**62)), Timestamp(nanos=-1)]
        amiss: dict[str, list[Awaitable[object]]] = {
            "consumer": [
                operations.Redeliver(_redeliver(consumer="a\0")),
                operations.Redeliver(_redeliver("a" * 9999)),
            ],
            "from_seq": [operations.Redeliver(_redeliver(from_seq=-1))],
            "from_time": [
                *(operations.Redeliver(_redeliver(from_time=one)) for one in times),
                *(operations.Republish(api.RepublishRequest(service="toy", from_time=one)) for one in times),
            ],
        }
        for field, calls in amiss.items():
            for call in calls:
                assert list(violations(await refusal(call))) == [field]
        # The ends of what can be, where there is nothing and all.
        await world.feed.send(task("a", 1))
        await world.until_seen("a", [1])
        for seconds, scanned in ((-62135596800, 1), (253402300799, 0)):
            request = _redeliver(from_time=Timestamp(seconds=seconds))
            assert (await operations.Redeliver(request)).scanned == scanned
        assert (await operations.Redeliver(_redeliver(from_seq=2**63 - 1))).scanned == 0


@on_postgres
async def test_any_instance_redelivers_for_the_one_that_reads(world: World) -> None:
    async with (
        world.running() as reading,
        world.running(instance="toy-2") as other,
        _operating(other) as operations,
    ):
        assert reading.ready
        ids = await world.feed.send(*(task("a", n) for n in range(4)))
        await world.until_seen("a", range(4))
        _make_gap(world, "a", ids, {1, 2})
        assert len((await operations.Redeliver(_redeliver())).missing) == 2
        await world.until_seen("a", [0, 3, 1, 2])


@on_sqlite
async def test_what_the_outbox_wrongly_holds_as_published_is_published_by_hand(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "ROWS_AT_ONCE", 15)
    async with world.running() as service, _operating(service) as operations:
        for number in range(10):
            await service.writer.run(deposit, "a", number)
        await world.until_published()
        # Marked, and never published.
        world.rows("UPDATE outbox SET event_id = 'new-' || seq WHERE seq IN (5, 6, 18)")
        request = api.RepublishRequest(service="toy", dry_run=True)
        told = await operations.Republish(request)
        assert [(one.event_id, one.seq) for one in told.missing] == [("new-5", 5), ("new-6", 6)]
        assert (told.scanned, told.next_seq, told.last_seq) == (15, 16, 20)
        assert world.rows.count("outbox", "published_at IS NULL") == 0

        await operations.Republish(api.RepublishRequest(service="toy", why="a gap"))
        rest = await operations.Republish(api.RepublishRequest(service="toy", from_seq=16))
        assert ([one.event_id for one in rest.missing], rest.next_seq) == (["new-18"], 0)
        await world.until_published()
        assert [event.id for event in await world.feed.published()][20:] == ["new-5", "new-6", "new-18"]
        assert not (await operations.Republish(api.RepublishRequest(service="toy"))).missing
    assert world.rows("SELECT action, target, outcome FROM actions ORDER BY id") == [
        ("republish", "new-5", "outbox.5: InventoryReserved of a"),
        ("republish", "new-6", "outbox.6: InventoryUpdated of a"),
        ("republish", "new-18", "outbox.18: InventoryUpdated of a"),
    ]


@asynccontextmanager
async def _operating(service: Service) -> AsyncIterator[OperationsServiceStub]:
    async with calling(service) as channel:
        yield OperationsServiceStub(channel)  # type: ignore[no-untyped-call]


def _redeliver(
    consumer: str = CONSUMER,
    *,
    from_seq: int = 0,
    from_time: Timestamp | None = None,
    aggregate_id: str = "",
    dry_run: bool = False,
    why: str = "",
) -> api.RedeliverRequest:
    return api.RedeliverRequest(
        service="toy",
        consumer=consumer,
        from_seq=from_seq,
        from_time=from_time,
        aggregate_id=aggregate_id,
        dry_run=dry_run,
        why=why,
    )


def _make_gap(world: World, account: str, ids: list[str], numbers: Collection[int]) -> None:
    """Have an account be as if it had never seen these tasks, whose ids are those of all tasks by their numbers."""
    seen = world.rows.seen(account)
    left = [number for number in seen if number not in numbers]
    change = {"id": account, "seen": orjson.dumps(left).decode(), "total": len(left)}
    world.rows("UPDATE accounts SET seen = :seen, total = :total WHERE id = :id", **change)
    for number in set(seen) - set(left):
        world.rows("DELETE FROM inbox WHERE consumer = :name AND event_id = :id", name=CONSUMER, id=ids[number])
