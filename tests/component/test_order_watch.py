"""Watching an order: where in its life each message is, and going on from there; also in a browser."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from aiohttp import web

from commerce.order.v1 import order_service_pb2 as api
from commerce.shipping.v1.shipping_events_pb2 import ShippingDelivered, ShippingDispatched, ShippingPrepared
from gateway.gateway import Gateway
from gateway.settings import GatewaySettings
from tests.browser import browsing
from tests.component.callers import bearer
from tests.component.support import refusal, violations
from weft.testing import eventually
from weft.tracing import Tracing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.component.orders import Orders

COMMERCE = Path(__file__).parents[2] / "gen" / "commerce.binpb"
on_sqlite_only = pytest.mark.parametrize("database_server", ["sqlite"], indirect=True)


def watch(orders: Orders, order_id: str, after: str = "") -> Any:
    return orders.stub.WatchOrder(api.WatchOrderRequest(order_id=order_id, after_position=after))


@on_sqlite_only
async def test_a_watch_goes_on_after_any_of_its_positions_and_ends_with_the_order(orders: Orders) -> None:
    order_id = (await orders.place()).order_id
    watching = watch(orders, order_id)
    seen = [await watching.read()]
    for event in (ShippingPrepared, ShippingDispatched, ShippingDelivered):
        await orders.hears(event(shipment_id=order_id, order_id=order_id))
        seen.append(await watching.read())
    assert await watching.read() is grpc.aio.EOF
    assert len({answer.position for answer in seen}) == 4
    for answer in seen[:-1]:
        assert [later async for later in watch(orders, order_id, answer.position)] == seen[-1:]
    assert [later async for later in watch(orders, order_id, seen[-1].position)] == []
    assert [later async for later in watch(orders, order_id, "999")] == []


@on_sqlite_only
async def test_a_position_that_no_watch_told_is_refused_by_name(orders: Orders) -> None:
    for position in ("x", "-1", "0", "01", "1.0", "\uff11", "9" * 19):
        error = await refusal(watch(orders, "any", position).read())
        assert violations(error) == {"after_position": "is no position that a watch has told"}, position


@on_sqlite_only
async def test_a_position_ahead_of_what_is_committed_here_is_waited_for(orders: Orders) -> None:
    order_id = (await orders.place()).order_id
    first = await watch(orders, order_id).read()
    ahead = str(int(first.position) + 1)
    reading = asyncio.ensure_future(watch(orders, order_id, ahead).read())
    await eventually(lambda: orders.service.changes._waiting, what="somebody watches")
    await orders.hears(ShippingPrepared(shipment_id=order_id, order_id=order_id))
    assert not reading.done(), "this is what the watcher has seen"
    await orders.hears(ShippingDispatched(shipment_id=order_id, order_id=order_id))
    assert (await reading).order.state == api.ORDER_STATE_SHIPPED


@asynccontextmanager
async def page_of_the_shop() -> AsyncIterator[str]:
    """Serve an empty page at an origin of its own."""

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>your order</title>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def fronting(orders: Orders, origin: str, port: int = 0) -> AsyncIterator[int]:
    """Run a gateway in front of order, and give its port."""
    settings = GatewaySettings(
        gateway_descriptors=COMMERCE,
        gateway_backends={"commerce.order.v1.OrderService": f"127.0.0.1:{orders.service.grpc.port}"},
        gateway_allow_origins=(origin,),
        gateway_port=port,
        drain_seconds=1,
    )
    gateway = Gateway(settings, tracing=Tracing("gateway", environ={}))
    try:
        await gateway.start()
        yield gateway.port
    finally:
        await gateway.stop()


@on_sqlite_only
async def test_a_browsers_event_source_follows_an_order_past_a_restart_of_the_gateway_and_stops_with_it(
    orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.streaming.formats.ServerSentEvents.opening", b"retry: 50\n\n")
    order_id = (await orders.place(user="bob")).order_id
    token = bearer("bob", "customer").removeprefix("Bearer ")
    async with page_of_the_shop() as origin, browsing() as browser:
        async with fronting(orders, origin) as port:
            page = await browser.open(origin)
            url = f"http://127.0.0.1:{port}/v1/orders/{order_id}:watch?access_token={token}"
            await page.evaluate(
                f"source = new EventSource('{url}'); seen = []; told = [];"
                "source.onmessage = event => seen.push(JSON.parse(event.data).state.slice(12));"
                "source.addEventListener('error', event => event.data && told.push(JSON.parse(event.data).code));"
            )
            await page.until("seen.length == 1")
            await orders.hears(ShippingPrepared(shipment_id=order_id, order_id=order_id))
            await page.until("seen.length == 2")
        await page.until("source.readyState == EventSource.CONNECTING")
        async with fronting(orders, origin, port):
            await page.until("source.readyState == EventSource.OPEN")
            await orders.hears(ShippingDispatched(shipment_id=order_id, order_id=order_id))
            await orders.hears(ShippingDelivered(shipment_id=order_id, order_id=order_id))
            await page.until("source.readyState == EventSource.CLOSED")
            assert await page.evaluate("seen") == ["PENDING", "CONFIRMED", "SHIPPED", "COMPLETED"]
            assert await page.evaluate("[...new Set(told)]") == [14], "it was told that the gateway stops"
