"""`weft demo`: three orders through the running system, followed live, and how each one went."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack, aclosing, suppress
from typing import TYPE_CHECKING, Self

import grpc
from grpc import aio

from cli.errors import REFUSED, Problem
from cli.progress import Progress, print_outcomes
from cli.remote import CHANNEL_OPTIONS, TIMEOUT, explain, find_service
from cli.samples import IN_STOCK, PRODUCTS, RESTOCKED, SAMPLES
from cli.trial import Trial
from commerce.inventory.v1.inventory_service_pb2 import GetStockRequest, RestockRequest, Stock
from commerce.inventory.v1.inventory_service_pb2_grpc import InventoryServiceStub
from commerce.order.v1 import order_service_pb2 as orders
from commerce.order.v1.order_service_pb2_grpc import OrderServiceStub
from commerce.payment.v1.payment_service_pb2 import GetPaymentRequest
from commerce.payment.v1.payment_service_pb2_grpc import PaymentServiceStub
from commerce.product.v1.product_service_pb2 import CreateProductRequest
from commerce.product.v1.product_service_pb2_grpc import ProductServiceStub
from commerce.shipping.v1.shipping_service_pb2 import GetShipmentRequest
from commerce.shipping.v1.shipping_service_pb2_grpc import ShippingServiceStub

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from cli.samples import Sample

_POLL = 0.03
_PATIENCE = 60.0
_SETTLING = 20.0
# A process that is being restarted is waited for, and what it did not get is sent again; an order never is.
_PATIENT = {"waitForReady": True}
_RETRIES = {
    "maxAttempts": 5,
    "initialBackoff": "0.2s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
_CREATE_ORDER = {"service": "commerce.order.v1.OrderService", "method": "CreateOrder"}
_SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {"name": [{}], "retryPolicy": _RETRIES} | _PATIENT,
            {"name": [_CREATE_ORDER]} | _PATIENT,
        ]
    }
)


def run_demo(data: Path) -> int:
    """Place the sample orders in the system of `data`, and print how they went.

    Returns 0 if they went as they should, else 1. Raises `Problem` if a service refuses.
    """
    try:
        return asyncio.run(_run(data))
    except aio.AioRpcError as error:
        raise Problem(f"the demo stopped: {explain(error)}", REFUSED) from error
    except TimeoutError:
        raise Problem(
            f"the demo did not end within {_PATIENCE:g} s; `weft order list` shows its orders", REFUSED
        ) from None


async def _run(data: Path) -> int:
    async with asyncio.timeout(_PATIENCE), Shop(data) as shop:
        with Progress() as progress:
            progress.say("adding sample products and stock")
            await shop.fill()
            trials = await asyncio.gather(*(shop.place(sample, progress) for sample in SAMPLES))
    print_outcomes(trials)
    return 0 if all(trial.went_as_expected for trial in trials) else REFUSED


class Shop:
    """The services of a running system, as a customer and a merchant use them."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._channels = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._products = ProductServiceStub(await self._channel("product"))
        self._orders = OrderServiceStub(await self._channel("order"))
        self._payments = PaymentServiceStub(await self._channel("payment"))
        self._inventory = InventoryServiceStub(await self._channel("inventory"))
        self._shipping = ShippingServiceStub(await self._channel("shipping"))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channels.aclose()

    async def fill(self) -> None:
        """Add the sample products that are not there, and restock those that can be bought."""
        await asyncio.gather(*(self._add(product.sku) for product in PRODUCTS))

    async def place(self, sample: Sample, progress: Progress) -> Trial:
        """Place a sample order and follow it until nothing about it changes any more."""
        before = await self._stock(sample.sku)
        since = time.monotonic()
        created = await self._orders.CreateOrder(sample.request(before.available), timeout=TIMEOUT)
        trial = Trial(sample, created.order, before)
        progress.show(trial)
        async with aclosing(self._watch(trial.order.order_id)) as changes:
            async for trial.order in changes:
                trial.took = time.monotonic() - since
                progress.show(trial)
                if trial.decided:
                    break
        await self._settle(trial, progress)
        return trial

    async def _channel(self, service: str) -> aio.Channel:
        options = [*CHANNEL_OPTIONS, ("grpc.service_config", _SERVICE_CONFIG)]
        channel = aio.insecure_channel(find_service(self._data, service), options=options)
        return await self._channels.enter_async_context(channel)

    async def _add(self, sku: str) -> None:
        product = next(product for product in PRODUCTS if product.sku == sku)
        with _Unless(grpc.StatusCode.ALREADY_EXISTS):
            await self._products.CreateProduct(CreateProductRequest(product=product), timeout=TIMEOUT)
        stock = await self._stock(sku)
        if sku in RESTOCKED and stock.available < IN_STOCK:
            request = RestockRequest(sku=sku, quantity=IN_STOCK - stock.available)
            await self._inventory.Restock(request, timeout=TIMEOUT)

    async def _stock(self, sku: str) -> Stock:
        """Return a sku's level, once inventory has heard of it."""
        while True:
            with _Unless(grpc.StatusCode.NOT_FOUND):
                return (await self._inventory.GetStock(GetStockRequest(sku=sku), timeout=TIMEOUT)).stock
            await asyncio.sleep(_POLL)

    async def _watch(self, order_id: str) -> AsyncGenerator[orders.Order, None]:
        """Yield the order as it is and whenever it changed, over as many streams as that takes."""
        while True:
            with _Unless(grpc.StatusCode.UNAVAILABLE):
                async for answer in self._orders.WatchOrder(orders.WatchOrderRequest(order_id=order_id)):
                    yield answer.order
                return
            await asyncio.sleep(_POLL)

    async def _settle(self, trial: Trial, progress: Progress) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLING):
                while not trial.settled:
                    await self._look_around(trial)
                    progress.show(trial)
                    await asyncio.sleep(_POLL)

    async def _look_around(self, trial: Trial) -> None:
        """Ask the other services what they did about the order."""
        order_id = trial.order.order_id
        with _Unless(grpc.StatusCode.NOT_FOUND):
            trial.payment = (await self._payments.GetPayment(GetPaymentRequest(order_id=order_id))).payment
        with _Unless(grpc.StatusCode.NOT_FOUND):
            trial.shipment = (await self._shipping.GetShipment(GetShipmentRequest(order_id=order_id))).shipment
        trial.stock = await self._stock(trial.sample.sku)


class _Unless:
    """Leaves its `with` when a call fails with `code`; any other failure goes on."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> bool:
        return isinstance(error, aio.AioRpcError) and error.code() is self._code
