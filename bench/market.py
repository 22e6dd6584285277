"""A running system as its customers see it: they place orders, and hear when each is confirmed."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
import nats
from grpc import StatusCode, aio

from bench.doors import CALL, GRPC, REST, GrpcDoor, Refused, RestDoor
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
from commerce.user.v1.user_service_pb2 import RegisterUserRequest, SignInRequest
from commerce.user.v1.user_service_pb2_grpc import UserServiceStub
from weft.domain import Money, new_id
from weft.events import stream_of, subject_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping
    from pathlib import Path

    from nats.aio.msg import Msg

    from bench.doors import Door, Metadata
    from commerce.inventory.v1.inventory_service_pb2_grpc import InventoryServiceAsyncStub
    from commerce.order.v1.order_service_pb2_grpc import OrderServiceAsyncStub
    from commerce.product.v1.product_service_pb2_grpc import ProductServiceAsyncStub
    from commerce.user.v1.user_service_pb2_grpc import UserServiceAsyncStub

_SKUS = 200
_PIECES = 1_000_000
_CHANNELS = 4
_CONFIRMED = 60.0
_OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]


@dataclass(slots=True)
class Placed:
    """One order: by which door, and when it was asked for, answered and seen to be confirmed, on one clock."""

    door: str
    asked: float
    answered: float = 0.0
    confirmed: float = 0.0


@dataclass(slots=True)
class Customers:
    """All who order, and what they see; they share one account."""

    doors: Mapping[str, Door] = field(default_factory=dict)
    placed: dict[str, Placed] = field(default_factory=dict)
    refused: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """How often each door gave which reason."""
    _seen: dict[str, float] = field(default_factory=dict)
    _waiting: dict[str, asyncio.Event] = field(default_factory=dict)
    _number: int = 0

    async def order(self, door: str) -> str | None:
        """Place one order of one line and return its id when it is confirmed; None if it was not taken."""
        number, self._number = self._number, self._number + 1
        one = Placed(door, time.perf_counter())
        try:
            order_id = await self.doors[door].place(_sku(number % _SKUS))
        except Refused as reason:
            self.refused[door][str(reason)] += 1
            return None
        one.answered = time.perf_counter()
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
    """The running system, from outside: a customer with an account of their own, and the admin."""

    def __init__(self, folder: Path) -> None:
        self._data = DataDirectory.at(folder)
        self._run = self._data.read_run() or {}
        if not self._run:
            raise Broken(f"nothing runs in {folder}: `weft up --data {folder}` starts it")
        self._stack = AsyncExitStack()
        self.customers = Customers()

    async def __aenter__(self) -> Market:
        self._users: UserServiceAsyncStub = UserServiceStub(self._channel("user"))
        self._admin = await self._sign_in(**json.loads(self._data.admin_file.read_text()))
        self._customer = await self._register()
        self._products: ProductServiceAsyncStub = ProductServiceStub(self._channel("product"))
        self._inventory: InventoryServiceAsyncStub = InventoryServiceStub(self._channel("inventory"))
        channels = [self._channel("order") for _ in range(_CHANNELS)]
        self._orders: OrderServiceAsyncStub = OrderServiceStub(channels[0])
        session = aiohttp.ClientSession(
            self._run["gateway"],
            headers=dict(self._customer),
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=CALL),
        )
        self._stack.push_async_callback(session.close)
        self.customers.doors = {GRPC: GrpcDoor(channels, self._customer), REST: RestDoor(session)}
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _listen(self) -> None:
        client = await nats.connect(self._run["nats"])
        self._stack.push_async_callback(client.close)
        await client.jetstream().subscribe(
            subject_of(OrderConfirmed.DESCRIPTOR.full_name, "*"),
            stream=stream_of("commerce.order"),
            ordered_consumer=True,
            cb=self.customers.note,
        )

    def _channel(self, service: str) -> aio.Channel:
        ports = next(one["ports"] for one in self._run["processes"] if one["name"] == service)
        channel = aio.insecure_channel(f"{LOOPBACK}:{ports['grpc']}", options=_OPTIONS)
        self._stack.push_async_callback(channel.close)
        return channel

    async def _register(self) -> Metadata:
        email, password = f"{new_id()}@example.com", new_id()
        await self._users.RegisterUser(RegisterUserRequest(email=email, password=password), timeout=CALL)
        return await self._sign_in(email, password)

    async def _sign_in(self, email: str, password: str) -> Metadata:
        request = SignInRequest(email=email, password=password)
        token = (await self._users.SignIn(request, timeout=CALL)).session.access_token
        return (("authorization", f"Bearer {token}"),)

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
        admin = self._admin
        product = Product(sku=sku, title=sku, price=Money("EUR", 12_500_000_000).message())
        creating = self._products.CreateProduct(CreateProductRequest(product=product), timeout=CALL, metadata=admin)
        await _succeeds(creating, unless=StatusCode.ALREADY_EXISTS)
        restock = RestockRequest(sku=sku, quantity=_PIECES)
        while not await _succeeds(
            self._inventory.Restock(restock, timeout=CALL, metadata=admin), unless=StatusCode.NOT_FOUND
        ):
            await asyncio.sleep(0.05)  # inventory has not heard of it yet

    async def confirmed_orders(self) -> set[str]:
        """Return the ids of all orders that the order service calls CONFIRMED."""
        request = api.ListOrdersRequest(state=api.ORDER_STATE_CONFIRMED, page_size=1000)
        found: set[str] = set()
        while True:
            page = await self._orders.ListOrders(request, timeout=CALL, metadata=self._customer)
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
