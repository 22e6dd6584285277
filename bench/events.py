"""Events handled a second by inventory: 10,000 OrderCreated over 1,000 skus, with everything on.

Inbox, stock, reservations, outbox, publishing and acknowledgement; the broker fsyncs always, SQLite is FULL.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from sqlalchemy import text

from commerce.order.v1.order_events_pb2 import OrderCreated
from commerce.order.v1.order_service_pb2 import OrderLine
from commerce.product.v1.product_events_pb2 import ProductCreated
from services.inventory import commands
from services.inventory.service import build
from services.inventory.settings import Settings
from weft.broker import Broker, Outgoing
from weft.domain import Money, new_id
from weft.events import subject_of
from weft.testing import eventually
from weft.wire import encode
from weft.work import Origin, Unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

    from weft import Service

SKUS = 1000
PRICE = Money("EUR", 12_500_000_000).message()
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-02"


def message(event: Message, aggregate_id: str) -> Outgoing:
    """Return an event as its owner would publish it."""
    name = event.DESCRIPTOR.full_name
    event_id = new_id()
    headers = {
        "Nats-Msg-Id": event_id,
        "ce-specversion": "1.0",
        "ce-id": event_id,
        "ce-type": name,
        "ce-source": "/weft/bench",
        "ce-subject": aggregate_id,
        "ce-time": "2026-01-01T00:00:00.000000Z",
        "ce-dataschema": f"proto:{name}",
        "content-type": "application/protobuf",
        "weft-correlation-id": aggregate_id,
        "traceparent": TRACE,
    }
    return subject_of(name, aggregate_id), encode(headers), event.SerializeToString()


async def publish_all(broker: Broker, messages: Sequence[Outgoing]) -> None:
    """Publish messages of one stream."""
    done = 0
    while done < len(messages):
        done += await broker.publish(messages[done : done + 500])


def order_created(number: int) -> Outgoing:
    """Return the event of an order of one line."""
    order_id = new_id()
    line = OrderLine(sku=f"sku-{number * 7919 % SKUS:04d}", quantity=1, unit_price=PRICE)
    event = OrderCreated(
        order_id=order_id, user_id="bench", lines=[line], total=PRICE, payment_token="tok_ok"
    )
    event.ship_to.region_code = "CH"
    event.ship_to.address_lines.append("Bahnhofstrasse 1, 8001 Zürich")
    return message(event, order_id)


async def handled_per_second(nats_url: str, database_url: str, *, events: int, batch_size: int) -> float:
    """Return how many events a second inventory handles, from the first read to the last publication."""
    broker = Broker(nats_url, "bench")
    await broker.connect()
    for context in ("commerce.product", "commerce.order", "commerce.shipping", "commerce.inventory"):
        await broker.ensure_stream(context)
    products = [ProductCreated(sku=f"sku-{n:04d}", active=True, revision=1) for n in range(SKUS)]
    await publish_all(broker, [message(event, event.sku) for event in products])
    settings = Settings(
        database_url=database_url,
        nats_url=nats_url,
        instance="inventory-bench",
        batch_size=batch_size,
        log_level="debug",
    )
    # Stock first, with a service that finds no order yet.
    service = build(settings)
    await service.start()
    await eventually(lambda: _count(service, "stock", SKUS), timeout=60)
    for n in range(SKUS):
        unit = Unit(
            lambda work, n=n: commands.restock(work, f"sku-{n:04d}", 1_000_000),
            Origin(service.tracing.current()),
        )
        await service.writer.run_unit(unit)
    await eventually(lambda: _count(service, "outbox WHERE published_at IS NULL", 0), timeout=60)
    await service.stop()
    await publish_all(broker, [order_created(n) for n in range(events)])
    service = build(settings)
    cpu = time.process_time()
    start = time.perf_counter()
    await service.start()
    await eventually(lambda: _count(service, "reservations", events), timeout=600)
    await eventually(lambda: _count(service, "outbox WHERE published_at IS NULL", 0), timeout=600)
    seconds = time.perf_counter() - start
    print("cpu us/event", (time.process_time() - cpu) / events * 1e6)
    await service.stop()
    await broker.close()
    return events / seconds


async def _count(service: Service, what: str, wanted: int) -> bool:
    count = await service.reader.run(lambda c: c.execute(text(f"SELECT COUNT(*) FROM {what}")).scalar_one())
    await asyncio.sleep(0.02)
    return bool(count == wanted)
