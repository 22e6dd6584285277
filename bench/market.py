"""A running system as its customers see it: they place orders, and hear when each is confirmed."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import nats
from google.type.postal_address_pb2 import PostalAddress
from grpc import StatusCode, aio

from bench.stage import Broken, pids_of
from cli.data import DataDirectory
from cli.probes import LOOPBACK
from commerce.inventory.v1.inventory_service_pb2 import RestockRequest
from commerce.inventory.v1.inventory_service_pb2_grpc import InventoryServiceStub
from commerce.order.v1 import order_service_pb2 as api
from commerce.order.v1.order_events_pb2 import OrderConfirmed
from commerce.order.v1.order_service_pb2_grpc import OrderServiceStub
from commerce.product.v1.product_service_pb2 import CreateProductRequest, Product
from commerce.product.v1.product_service_pb2_grpc import ProductServiceStub
from weft.domain import Money
from weft.events import stream_of, subject_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence
    from pathlib import Path

    from nats.aio.msg import Msg

    from commerce.inventory.v1.inventory_service_pb2_grpc import InventoryServiceAsyncStub
    from commerce.order.v1.order_service_pb2_grpc import OrderServiceAsyncStub
    from commerce.product.v1.product_service_pb2_grpc import ProductServiceAsyncStub

_SKUS = 200
_PIECES = 1_000_000
_CHANNELS = 4
_CALL = 15.0
_CONFIRMED = 60.0
_USER = "bench"
_SHIP_TO = PostalAddress(region_code="CH", address_lines=["Bahnhofstrasse 1, 8001 Zürich"])
_OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]


@dataclass(slots=True)
class Placed:
    """One order: when it was asked for, answered and seen to be confirmed, in seconds of one clock."""

    asked: float
    answered: float = 0.0
    confirmed: float = 0.0


@dataclass(slots=True)
class Customers:
    """All who order, and what they see."""

    orders: Sequence[OrderServiceAsyncStub]
    placed: dict[str, Placed] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    _seen: dict[str, float] = field(default_factory=dict)
    _waiting: dict[str, asyncio.Event] = field(default_factory=dict)
    _number: int = 0

    async def order(self) -> str | None:
        """Place one order of one line and return its id when it is confirmed; None if it was not taken."""
        number, self._number = self._number, self._number + 1
        line = api.NewOrderLine(sku=_sku(number % _SKUS), quantity=1)
        request = api.CreateOrderRequest(user_id=_USER, lines=[line], payment_token="tok_ok", ship_to=_SHIP_TO)
        one = Placed(time.perf_counter())
        try:
            answer = await self.orders[number % len(self.orders)].CreateOrder(request, timeout=_CALL)
        except aio.AioRpcError as error:
            name = error.code().name
            self.refused[name] = self.refused.get(name, 0) + 1
            return None
        one.answered = time.perf_counter()
        order_id: str = answer.order.order_id
        self.placed[order_id] = one
        one.confirmed = await self._until_confirmed(order_id)
        return order_id

    async def note(self, message: Msg) -> None:
        """Take note of an `OrderConfirmed`."""
        order_id = message.subject.rpartition(".")[2]
        self._seen[order_id] = time.perf_counter()
        if waiting := self._waiting.get(order_id):
            waiting.set()

    async def _until_confirmed(self, order_id: str) -> float:
        if order_id not in self._seen:
            waiting = self._waiting[order_id] = asyncio.Event()
            try:
                await asyncio.wait_for(waiting.wait(), _CONFIRMED)
            except TimeoutError:
                raise Broken(f"order {order_id} is not confirmed after {_CONFIRMED:g} s") from None
            finally:
                del self._waiting[order_id]
        return self._seen.pop(order_id)


class Market:
    """The running system, from outside."""

    def __init__(self, folder: Path) -> None:
        self._run = DataDirectory.at(folder).read_run() or {}
        self._stack = AsyncExitStack()
        self.customers = Customers([])

    async def __aenter__(self) -> Market:
        channels = [self._channel("order") for _ in range(_CHANNELS)]
        self.customers.orders = [OrderServiceStub(channel) for channel in channels]
        self._products: ProductServiceAsyncStub = ProductServiceStub(self._channel("product"))
        self._inventory: InventoryServiceAsyncStub = InventoryServiceStub(self._channel("inventory"))
        client = await nats.connect(self._run["nats"])
        self._stack.push_async_callback(client.close)
        await client.jetstream().subscribe(
            subject_of(OrderConfirmed.DESCRIPTOR.full_name, "*"),
            stream=stream_of("commerce.order"),
            ordered_consumer=True,
            cb=self.customers.note,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def _channel(self, service: str) -> aio.Channel:
        ports = next(one["ports"] for one in self._run["processes"] if one["name"] == service)
        channel = aio.insecure_channel(f"{LOOPBACK}:{ports['grpc']}", options=_OPTIONS)
        self._stack.push_async_callback(channel.close)
        return channel

    def processes(self) -> dict[str, int]:
        """Return the pids of the system and of this process, by name."""
        return {**pids_of(self._run), "these customers": os.getpid()}

    async def fill(self) -> None:
        """Put products on sale, with more pieces of each than will be ordered."""
        limit = asyncio.Semaphore(32)

        async def add(number: int) -> None:
            async with limit:
                await self._add(_sku(number))

        await asyncio.gather(*(add(number) for number in range(_SKUS)))

    async def _add(self, sku: str) -> None:
        product = Product(sku=sku, title=sku, price=Money("EUR", 12_500_000_000).message())
        request = CreateProductRequest(product=product)
        await _succeeds(self._products.CreateProduct(request, timeout=_CALL), unless=StatusCode.ALREADY_EXISTS)
        restock = RestockRequest(sku=sku, quantity=_PIECES)
        while not await _succeeds(self._inventory.Restock(restock, timeout=_CALL), unless=StatusCode.NOT_FOUND):
            await asyncio.sleep(0.05)  # inventory has not heard of it yet

    async def confirmed_orders(self) -> set[str]:
        """Return the ids of all orders that the order service calls CONFIRMED."""
        request = api.ListOrdersRequest(user_id=_USER, state=api.ORDER_STATE_CONFIRMED, page_size=1000)
        found: set[str] = set()
        while True:
            page = await self.customers.orders[0].ListOrders(request, timeout=_CALL)
            found.update(order.order_id for order in page.orders)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token


async def _succeeds(call: Awaitable[object], *, unless: StatusCode) -> bool:
    """Wait for a call; return whether it succeeded, if it did not fail with another code."""
    try:
        await call
    except aio.AioRpcError as error:
        if error.code() is not unless:
            raise
        return False
    return True


def _sku(number: int) -> str:
    return f"bench-{number:04d}"
