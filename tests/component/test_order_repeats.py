"""Orders that are placed and cancelled with an idempotency key, again and again, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from commerce.order.v1 import order_service_pb2 as api
from commerce.order.v1.order_service_pb2_grpc import OrderServiceStub
from commerce.shipping.v1.shipping_events_pb2 import ShippingCancelled, ShippingPrepared
from gateway.gateway import Gateway
from gateway.settings import GatewaySettings
from tests.component.callers import bearer, signed
from tests.component.chassis.world import Process
from tests.component.orders import ordering, request
from tests.component.support import reason, refusal, violations
from weft.crash_points import write_armed
from weft.tracing import Tracing

if TYPE_CHECKING:
    from services.order.settings import Settings
    from tests.component.orders import FakeProduct, Orders
    from tests.component.support import Streams

COMMERCE = Path(__file__).parents[2] / "gen" / "commerce.binpb"
ORDER = "commerce.order.v1.OrderService"
ONE_ORDER = {"orders": 1, "outbox": 1, "intents": 1}
on_sqlite = pytest.mark.parametrize("database_server", ["sqlite"], indirect=True)
on_postgres = pytest.mark.parametrize("database_server", ["postgres"], indirect=True)


async def place(orders: Orders, key: str, user: str = "ann", **changed: Any) -> api.Order:
    metadata = (*signed(user), ("idempotency-key", key))
    return (await orders.stub.CreateOrder(request(**changed), metadata=metadata)).order


async def cancel(orders: Orders, order_id: str, key: str) -> api.Order:
    metadata = (*signed("ann"), ("idempotency-key", key))
    return (await orders.stub.CancelOrder(api.CancelOrderRequest(order_id=order_id), metadata=metadata)).order


async def test_an_order_that_is_placed_again_is_answered_though_product_is_down(
    orders: Orders, product: FakeProduct
) -> None:
    order = await place(orders, "k")
    product.refuses = True
    asked = product.asked
    assert await place(orders, "k") == order
    assert product.asked == asked
    assert (await refusal(place(orders, "l"))).code() is grpc.StatusCode.UNAVAILABLE
    product.refuses = False
    assert (await place(orders, "l")).order_id != order.order_id
    assert (await place(orders, "k", "bob")).order_id != order.order_id
    assert reason(await refusal(place(orders, "k", payment_token="tok_slow"))) == "IDEMPOTENCY_KEY_REUSED"


async def test_an_order_that_is_placed_many_times_at_once_is_placed_once(orders: Orders) -> None:
    placed = await asyncio.gather(*(place(orders, "k") for _ in range(20)))
    assert len({order.order_id for order in placed}) == 1
    assert await orders.written() == ONE_ORDER
    assert await orders.published(placed[0].order_id) == ["OrderCreated"]


@on_postgres
async def test_an_order_that_is_placed_at_two_instances_at_once_is_placed_once(
    order_settings: Settings, streams: Streams
) -> None:
    second = order_settings.model_copy(update={"instance": "2"})
    async with ordering(order_settings, streams) as one, ordering(second, streams) as two:
        placed = await asyncio.gather(*(place(orders, "k") for orders in (one, two) * 5))
        assert len({order.order_id for order in placed}) == 1
        assert await one.written() == ONE_ORDER


@on_sqlite
async def test_what_was_wrong_can_be_mended_under_the_same_key(orders: Orders) -> None:
    for _ in range(2):
        assert "lines" in violations(await refusal(place(orders, "k", lines=[])))
    order = await place(orders, "k")
    assert await place(orders, "k") == order


@on_sqlite
async def test_a_cancel_that_is_repeated_is_answered_as_the_first_time(orders: Orders) -> None:
    order_id = (await place(orders, "k")).order_id
    await orders.hears(ShippingPrepared(shipment_id=order_id, order_id=order_id))
    asked = await cancel(orders, order_id, "k")
    assert asked.state == api.ORDER_STATE_CANCELLING
    await orders.hears(ShippingCancelled(shipment_id=order_id, order_id=order_id))
    assert await cancel(orders, order_id, "k") == asked
    assert (await cancel(orders, order_id, "l")).state == api.ORDER_STATE_CANCELLED


@on_sqlite
async def test_an_order_whose_answer_was_lost_with_the_process_is_placed_once(
    order_settings: Settings, streams: Streams, tmp_path: Path
) -> None:
    """The process is killed before the commit; and then, when the order is placed again, right after it."""
    given = order_settings.model_dump(exclude={"grpc_port", "ops_port"})
    given |= {"instance": "order-1", "crash_points": tmp_path}
    process = Process(given, [sys.executable, "-m", "services.order"])
    try:
        for moment in ("before", "after"):
            write_armed(tmp_path / "order-1.armed", {f"commit of place_order: {moment}": 1})
            process.start()
            async with process.calling_as(OrderServiceStub) as stub:
                metadata = (*signed("ann"), ("idempotency-key", "k"))
                dying = stub.CreateOrder(request(), metadata=metadata, timeout=20, wait_for_ready=True)
                assert (await refusal(dying)).code() is grpc.StatusCode.UNAVAILABLE
            await process.ended()
    finally:
        process.stop()
    async with ordering(order_settings, streams) as orders:
        assert await orders.written() == ONE_ORDER
        order = await place(orders, "k")
        assert await orders.get(order.order_id) == order
        assert await orders.written() == ONE_ORDER


@on_sqlite
async def test_over_rest_a_key_is_a_header_and_another_body_is_422(order_settings: Settings, streams: Streams) -> None:
    async with ordering(order_settings, streams) as orders:
        backends = {ORDER: f"127.0.0.1:{orders.service.grpc.port}"}
        settings = GatewaySettings(
            gateway_descriptors=COMMERCE, gateway_backends=backends, gateway_port=0, drain_seconds=0
        )
        gateway = Gateway(settings, tracing=Tracing("gateway", environ={}))
        try:
            await gateway.start()
            async with aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}") as client:
                first = await posted(client, '"k"')
                assert first[0] == 200
                # The quotation marks are the IETF's; many clients leave them out.
                assert [await posted(client, key) for key in ("k", '"k"')] == [first] * 2
                status, error = await posted(client, "k", payment_token="tok_slow")
                assert (status, error["code"]) == (422, grpc.StatusCode.FAILED_PRECONDITION.value[0])
                assert error["details"][0]["reason"] == "IDEMPOTENCY_KEY_REUSED"
                status, error = await posted(client, "k" * 256)
                assert (status, error["details"][-1]["fieldViolations"][0]["field"]) == (400, "idempotency-key")
        finally:
            await gateway.stop()
        assert await orders.written() == ONE_ORDER


async def posted(client: aiohttp.ClientSession, key: str, **changed: Any) -> tuple[int, Any]:
    """Place an order over REST; return status and JSON."""
    headers = {"authorization": bearer("ann", "customer"), "idempotency-key": key}
    body = MessageToDict(request(**changed))
    async with client.post("/v1/orders", json=body, headers=headers) as reply:
        return reply.status, await reply.json()
