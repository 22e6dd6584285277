"""What an operator sees of a service: what is not done, an aggregate's flow, and what operators did."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest

from commerce.order.v1.order_events_pb2 import OrderCreated
from tests.component.chassis.test_letters import READING, operating
from tests.component.chassis.toy import Toy, deposit, task
from tests.component.chassis.world import on_sqlite
from tests.component.support import refusal, running, violations
from weft import Timer, backlog
from weft.domain import Refused
from weft.events import stream_of
from weft.identity import Acting, Caller
from weft.testing import eventually
from weftapi.v1 import operations_service_pb2 as api

if TYPE_CHECKING:
    from tests.component.chassis.world import World
    from weft import Service, UnitOfWork

BACKLOG = api.GetBacklogRequest(service="toy")
CREATED = OrderCreated.DESCRIPTOR.full_name


def unknown(key: str) -> Any:
    """Answer a call as one does whose outcome nobody knows."""
    raise TimeoutError("no answer")


async def test_what_is_not_done_is_counted(world: World) -> None:
    toy = Toy()
    toy.answer = unknown
    service = world.build(toy, retry_base=60.0)
    service.acts_on(Timer("standing", toy.fire, standing=True))
    async with running(service), operating(service) as stub:
        idle = await stub.GetBacklog(BACKLOG)
        for pending in (idle.unpublished_events, idle.open_intents, idle.parked_events, idle.dead_letters):
            assert (pending.count, pending.HasField("oldest_time")) == (0, False)
        await service.writer.run(lambda work: work.intend("standing", "toy", {}, after=timedelta(hours=1)))
        await world.feed.send(task("a", 1, "ask"), task("b", 2, "refuse"), task("c", 3, "fail"), task("c", 4))
        await eventually(lambda: world.rows.count("inbox") == 4)
        await world.until_published()
        found = await stub.GetBacklog(BACKLOG)
        assert (found.open_intents.count, found.parked_events.count, found.dead_letters.count) == (1, 2, 1)
        [(died_at,)] = world.rows("SELECT died_at FROM dead_letters")
        assert found.dead_letters.oldest_time.ToMicroseconds() == died_at
        assert found.last_event_seq == world.rows.count("outbox") > 0
        progress = {one.consumer: (one.stream, one.position, one.last_seq) for one in found.consumers}
        assert progress == {
            READING: (stream_of("commerce.order"), 4, 4),
            "toy-from-product": ("COMMERCE_PRODUCT", 0, 0),
        }


@on_sqlite
async def test_while_the_broker_is_away_what_it_lacks_is_counted_and_shown(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "_REFRESH", 0.05)
    async with world.running() as service, operating(service) as stub:
        await world.nats.kill()
        await eventually(lambda: not service.broker.connected)
        await service.writer.run(deposit, "a", 1)
        found = await stub.GetBacklog(BACKLOG)
        assert found.unpublished_events.count == world.rows.count("outbox") == 2
        assert found.unpublished_events.HasField("oldest_time")
        assert [one.HasField("last_seq") for one in found.consumers] == [False, False]
        metrics = await eventually(lambda: _metrics(service, "weft_outbox_unpublished", 2.0))
        assert metrics["weft_outbox_oldest_seconds"] > 0
        assert metrics["weft_dead_letters"] == metrics["weft_dead_letter_oldest_seconds"] == 0
        assert {"weft_parked_events", "weft_parked_event_oldest_seconds", "weft_open_intents"} <= metrics.keys()


@on_sqlite
async def test_counting_ends_where_a_backlog_is_large_and_the_oldest_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "MOST", 3)
    toy = Toy()
    toy.answer = unknown
    async with world.running(toy, retry_base=60.0) as service:
        await world.feed.send(*(task(f"a{n}", n, word) for n in range(4) for word in ("ask", "refuse", "fail")))
        await eventually(lambda: world.rows.count("inbox") == 12)
        await world.until_published()
        world.rows("UPDATE outbox SET published_at = NULL")
        world.rows("UPDATE parked SET first_at = 5 WHERE key = 'a2'")
        found = await service.reader.run(backlog.count_backlog)
    kinds = (found.unpublished, found.intents, found.parked, found.dead)
    assert [one.count for one in kinds] == [3] * 4
    assert found.parked.oldest == 5
    for kind, oldest in ((found.unpublished, "min(time) FROM outbox"), (found.dead, "min(died_at) FROM dead_letters")):
        assert world.rows(f"SELECT {oldest}") == [(kind.oldest,)]


async def _metrics(service: Service, name: str, wanted: float) -> dict[str, float]:
    """Return the service's metrics if one of them is as wanted."""
    url = f"http://127.0.0.1:{service.ops_port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        lines = (await response.text()).splitlines()
    told = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    metrics = {one: float(value) for one, _, value in told}
    return metrics if metrics[name] == wanted else {}


async def test_what_became_of_an_aggregate_is_told(world: World) -> None:
    toy = Toy()
    toy.answer = unknown
    async with world.running(toy, retry_base=60.0) as service, operating(service) as stub:
        tasks = [task("a", 1, "ask"), task("b", 2, "refuse"), task("c", 3, "fail"), task("c", 4)]
        ids = await world.feed.send(*tasks, traceparent=f"00-{'1' * 32}-{'2' * 16}-01")
        await eventually(lambda: world.rows.count("inbox") == 4 and world.rows.count("intents", "attempts = 1"))
        await world.until_published()
        asked = [api.FoundEvent(event_id=one, event_type=CREATED) for one in (*ids, "unread")]
        asked.append(api.FoundEvent(event_id="other", event_type="commerce.order.v1.OrderShipped"))
        request = api.InspectAggregateRequest(service="toy", aggregate_id="a", events=asked)
        found = await stub.InspectAggregate(request)

        assert [one.event.event_type.rpartition(".")[2] for one in found.recorded] == [
            "InventoryReserved",
            "InventoryUpdated",
        ]
        for one in found.recorded:
            assert (one.event.aggregate_id, one.trace_id) == ("a", "1" * 32)
            assert one.event.time.ToMicroseconds() <= one.publish_time.ToMicroseconds()
        [intent] = found.intents
        assert (intent.kind, intent.attempts, intent.error) == ("ask", 1, "TimeoutError: no answer")
        assert intent.create_time.ToMicroseconds() < intent.due_time.ToMicroseconds()
        assert [(one.event_id, one.consumer) for one in found.received] == [(one, READING) for one in (*ids, "unread")]
        assert [api.EventPlace.Name(one.place).removeprefix("EVENT_PLACE_") for one in found.received] == [
            "HANDLED",
            "DEAD",
            "PARKED",
            "PARKED",
            "WAITING",
        ]
        assert [one.letter.reason for one in found.received] == ["", "REFUSED", "", "", ""]
        assert found.received[3].letter.error == "waits for an earlier event of its aggregate"

        drop = api.DropLettersRequest(service="toy", letter_ids=[found.received[1].letter.letter_id], why="a test")
        await stub.DropLetters(drop)
        found = await stub.InspectAggregate(request)
        assert [one.place for one in found.received[:3]] == [
            api.EVENT_PLACE_HANDLED,
            api.EVENT_PLACE_DROPPED,
            api.EVENT_PLACE_PARKED,
        ]

        asked_amiss = api.InspectAggregateRequest(service="toy", aggregate_id="a.b")
        assert list(violations(await refusal(stub.InspectAggregate(asked_amiss)))) == ["aggregate_id"]


@on_sqlite
async def test_what_an_operator_does_in_a_unit_of_work_is_written_down_with_it_or_not_at_all(world: World) -> None:
    def command(work: UnitOfWork, target: str, *, refused: bool = False) -> None:
        work.record_action("mend", target, "a\0broken wheel", "mended")
        if refused:
            raise Refused("TOO_LATE", "too late")

    async with world.running() as service, operating(service) as stub:
        with Acting(Caller("eve", "admin")):
            for target in "abc":
                await service.writer.run(command, target)
            with pytest.raises(Refused):
                await service.writer.run(command, "d", refused=True)
        await service.writer.run(command, "e")
        first = await stub.ListActions(api.ListActionsRequest(service="toy", page_size=3))
        rest = await stub.ListActions(
            api.ListActionsRequest(service="toy", page_size=3, page_token=first.next_page_token)
        )
        assert [(one.actor, one.target) for one in (*first.actions, *rest.actions)] == [
            ("relay", "e"),
            ("eve", "c"),
            ("eve", "b"),
            ("eve", "a"),
        ]
        told = rest.actions[0]
        assert (told.action, told.why, told.outcome) == ("mend", "abroken wheel", "mended")
        assert rest.next_page_token == ""


@on_sqlite
async def test_gaps_are_filled_and_read_models_are_built_through_the_same_door(world: World) -> None:
    async with world.running() as service, operating(service) as stub:
        [event_id, _] = await world.feed.send(task("a", 1), task("a", 2))
        await world.until_seen("a", [1, 2])
        await world.until_published()
        world.rows("DELETE FROM inbox WHERE event_id = :id", id=event_id)
        redeliver = api.RedeliverRequest(service="toy", consumer=READING, why="a gap")
        found = await stub.Redeliver(redeliver)
        assert ([one.event_id for one in found.missing], found.scanned, found.next_seq) == ([event_id], 2, 0)
        await world.until_seen("a", [1, 2, 1])
        assert (await stub.Republish(api.RepublishRequest(service="toy"))).scanned > 0
        assert not (await stub.ListReadModels(api.ListReadModelsRequest(service="toy"))).read_models
        missing = await refusal(stub.Rebuild(api.RebuildRequest(service="toy", read_model="sales")))
        assert missing.code() is grpc.StatusCode.NOT_FOUND
        nameless = await refusal(stub.Rebuild(api.RebuildRequest(service="toy", read_model="a\0")))
        assert list(violations(nameless)) == ["read_model"]
        assert not (await stub.ListActions(api.ListActionsRequest(service="toy", target="a gap"))).actions
        [done] = (await stub.ListActions(api.ListActionsRequest(service="toy", target=event_id))).actions
        assert (done.actor, done.action, done.target, done.why) == ("ann", "redeliver", event_id, "a gap")
