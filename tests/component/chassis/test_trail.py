"""One trail per order: every row, message and log line that follows from a request says what it goes back to."""

from __future__ import annotations

import io
import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from commerce.inventory.v1.inventory_events_pb2 import InventoryReleased, InventoryReserved, InventoryUpdated
from commerce.inventory.v1.inventory_service_pb2_grpc import InventoryServiceStub
from tests.component.chassis import toy
from tests.component.chassis.toy import Account, Toy, deposit, task, write
from tests.component.chassis.world import on_sqlite, restock
from tests.component.support import calling, running
from weft import Service, Subscription, logs
from weft.testing import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from google.protobuf.message import Message

    from commerce.order.v1.order_events_pb2 import OrderCreated
    from tests.component.chassis.world import World
    from weft import UnitOfWork
    from weft.testing import StoredEvent

pytestmark = on_sqlite

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
STATE = "vendor=some,other=thing"

log = logs.logger("weft.test")


class Talking(Toy):
    """Says what it does."""

    def do(self, work: UnitOfWork, event: OrderCreated, action: str, detail: str, tries: int) -> None:
        log.info("handling")
        super().do(work, event, action, detail, tries)

    async def ask(self, key: str, payload: Mapping[str, Any]) -> Any:
        log.info("asking")
        return await super().ask(key, payload)

    def settle(self, work: UnitOfWork, key: str, payload: Mapping[str, Any], outcome: Any) -> None:
        log.info("settling")
        super().settle(work, key, payload, outcome)

    def fire(self, work: UnitOfWork, key: str, payload: Mapping[str, Any]) -> None:
        log.info("firing")
        super().fire(work, key, payload)


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    """JSON lines from level info on."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    chatty = {name: logging.getLogger(name).level for name in ("alembic", "asyncio", "uvicorn.error")}
    stream = io.StringIO()
    logs.configure(stream=stream, format="json")
    yield stream
    root.setLevel(level)
    root.handlers[:] = handlers
    for name, its_level in chatty.items():
        logging.getLogger(name).setLevel(its_level)


def lines(out: io.StringIO, message: str) -> list[dict[str, Any]]:
    """Return the lines that were logged with a message."""
    return [line for line in map(json.loads, out.getvalue().splitlines()) if line["message"] == message]


async def told(world: World, kind: type[Message], key: str) -> StoredEvent:
    """Return the only event of a type that was published for an aggregate, once it is there."""

    async def find() -> list[StoredEvent]:
        name = kind.DESCRIPTOR.full_name
        return [one for one in await world.feed.published() if (one.type, one.aggregate_id) == (name, key)]

    [event] = await eventually(find, what=f"{kind.__name__} of {key}")
    return event


def trail(event: StoredEvent) -> tuple[str, ...]:
    """Return trace id, correlation id and causation id of an event."""
    headers = event.headers
    causation = headers.get("weft-causation-id", "")
    return (headers.get("traceparent", "")[3:35], headers["weft-correlation-id"], causation)


async def test_a_call_an_event_and_what_follows_from_it_share_a_trace_and_a_correlation(
    world: World, tmp_path: Path
) -> None:
    def follow(work: UnitOfWork, event: InventoryReserved) -> None:
        write(work, f"after-{event.order_id}", "followed")

    settings = world.settings(database_url=f"sqlite:///{tmp_path / 'listener.db'}", instance="listener-1")
    listener = Service("listener", "commerce.product", settings, migrations=Path(__file__).parent / "migrations")
    listener.subscribes(Subscription(InventoryReserved, follow))
    async with world.running() as service, running(listener), calling(service) as channel:
        metadata = (("traceparent", PARENT), ("tracestate", STATE))
        await InventoryServiceStub(channel).Restock(restock("a", 3), metadata=metadata)  # type: ignore[no-untyped-call]
        first = await told(world, InventoryReserved, "a")
        second = await told(world, InventoryReleased, "after-a")
        state = await told(world, InventoryUpdated, "a")
    assert trail(first) == (TRACE, "a", "")
    assert trail(state) == (TRACE, "a", "")
    assert trail(second) == (TRACE, "a", first.id)
    assert {first.headers["tracestate"], second.headers["tracestate"]} == {STATE}
    row = "SELECT event_id, correlation_id, causation_id FROM outbox WHERE traceparent LIKE :trace ORDER BY seq"
    assert world.rows(row, trace=f"00-{TRACE}-%") == [(first.id, "a", ""), (state.id, "a", "")]


async def test_a_message_has_every_header_of_a_cloud_event(world: World) -> None:
    async with world.running():
        before = datetime.now(UTC)
        [cause] = await world.feed.send(task("a", 1), traceparent=PARENT, tracestate=STATE, weft_correlation_id="c-1")
        event = await told(world, InventoryReserved, "a")
    headers = dict(event.headers)
    time = headers.pop("ce-time")
    assert time.endswith("Z")
    assert before <= datetime.fromisoformat(time) <= datetime.now(UTC)
    assert headers == {
        "ce-specversion": "1.0",
        "ce-id": event.id,
        "ce-type": "commerce.inventory.v1.InventoryReserved",
        "ce-source": "/weft/toy",
        "ce-subject": "a",
        "ce-dataschema": "proto:commerce.inventory.v1.InventoryReserved",
        "content-type": "application/protobuf",
        "Nats-Msg-Id": event.id,
        "weft-correlation-id": "c-1",
        "weft-causation-id": cause,
        "traceparent": PARENT,
        "tracestate": STATE,
    }
    assert event.subject == "commerce.inventory.v1.InventoryReserved.a"
    assert isinstance(event.body, InventoryReserved)


async def test_what_a_handler_logs_says_which_order_event_and_trace_it_is_about(world: World, out: io.StringIO) -> None:
    async with world.running(Talking()):
        plain, bad = await world.feed.send(task("a", 1, "none"), task("b", 2, "fail:1"), traceparent=PARENT)
        await world.until_seen("a", [1])
        await world.until_seen("b", [2])
    found = lines(out, "handling")
    assert {line["service"] for line in found} == {"toy"}
    assert {line["trace_id"] for line in found} == {TRACE}
    assert [(line["order_id"], line["event_id"]) for line in found] == [("a", plain), ("b", bad), ("b", bad)]
    [parked] = lines(out, "event parked")
    assert (parked["event_id"], parked["key"], parked["trace_id"]) == (bad, "b", TRACE)


async def test_what_a_dead_letter_logs_says_the_same(world: World, out: io.StringIO) -> None:
    async with world.running():
        [event_id] = await world.feed.send(task("a", 1, "refuse"), traceparent=PARENT)
        await eventually(lambda: lines(out, "dead letter"))
    [line] = lines(out, "dead letter")
    assert (line["level"], line["event_id"], line["key"], line["trace_id"]) == ("error", event_id, "a", TRACE)


async def test_what_intents_and_timers_log_says_which_promise_and_trace_it_is_about(
    world: World, out: io.StringIO
) -> None:
    errors = [ConnectionError("told to fail")]

    def answer(_: str) -> str:
        if errors:
            raise errors.pop()
        return "yes"

    talking = Talking()
    talking.answer = answer
    async with world.running(talking):
        await world.feed.send(task("a", 1, "ask"), task("b", 2, "later:1"), traceparent=PARENT)
        await told(world, InventoryReleased, "a")
        await told(world, InventoryReleased, "b")
    for message, kind, key, times in (
        ("asking", "ask", "a", 2),
        ("intent will be tried again", "ask", "a", 1),
        ("settling", "ask", "a", 1),
        ("firing", "alarm", "b", 1),
    ):
        found = [(line["kind"], line["key"], line["trace_id"]) for line in lines(out, message)]
        assert found == [(kind, key, TRACE)] * times, message


async def test_what_a_command_logs_says_which_call_it_is_about(
    world: World, out: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.running() as service, calling(service) as channel:
        stub = InventoryServiceStub(channel)  # type: ignore[no-untyped-call]

        def talk(work: UnitOfWork, account: str, *args: int) -> Account:
            log.info("commanding")
            return deposit(work, account, *args)

        monkeypatch.setattr(toy, "deposit", talk)
        await stub.Restock(restock("a"), metadata=(("traceparent", PARENT),))
    [line] = lines(out, "commanding")
    assert (line["service"], line["sku"], line["trace_id"]) == ("toy", "a", TRACE)
