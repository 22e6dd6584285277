"""`python -m bench.orders DIR` places orders in the system that runs in DIR, and waits until each is confirmed.

A process of its own, so that the load costs the system nothing but its share of the machine. Prints one JSON
object a line: `{"step": text}` while it works, `{"result": ...}` at its end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nats
import psutil
import uvloop
from google.type.postal_address_pb2 import PostalAddress
from grpc import StatusCode, aio

from bench.stage import Broken, cpu_seconds
from cli.data import DataDirectory
from cli.probes import LOOPBACK
from commerce.inventory.v1.inventory_service_pb2 import GetStockRequest, RestockRequest
from commerce.inventory.v1.inventory_service_pb2_grpc import InventoryServiceStub
from commerce.order.v1 import order_service_pb2 as api
from commerce.order.v1.order_events_pb2 import OrderConfirmed
from commerce.order.v1.order_service_pb2_grpc import OrderServiceStub
from commerce.product.v1.product_service_pb2 import CreateProductRequest, Product
from commerce.product.v1.product_service_pb2_grpc import ProductServiceStub
from weft.domain import Money
from weft.events import stream_of, subject_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nats.aio.msg import Msg

    from commerce.order.v1.order_service_pb2_grpc import OrderServiceAsyncStub

_SKUS = 200
_PIECES = 1_000_000
_CHANNELS = 4
_CALL = 15.0
_CONFIRMED = 60.0
_USER = "bench"
_SHIP_TO = PostalAddress(region_code="CH", address_lines=["Bahnhofstrasse 1, 8001 Zürich"])
_OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
_REST = 0.02


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
        self._products = ProductServiceStub(self._channel("product"))
        self._inventory = InventoryServiceStub(self._channel("inventory"))
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
        by_pid: dict[int, list[str]] = {}
        for one in self._run["processes"]:
            by_pid.setdefault(one["pid"], []).append(one["name"])
        pids = {names[0] if len(names) == 1 else "services": pid for pid, names in by_pid.items()}
        return {**pids, "these customers": os.getpid()}

    async def fill(self) -> None:
        """Put products on sale, with more pieces of each than will be ordered."""
        limit = asyncio.Semaphore(32)

        async def add(number: int) -> None:
            async with limit:
                await self._add(_sku(number))

        await asyncio.gather(*(add(number) for number in range(_SKUS)))

    async def _add(self, sku: str) -> None:
        product = Product(sku=sku, title=sku, price=Money("EUR", 12_500_000_000).message())
        await self._products.CreateProduct(CreateProductRequest(product=product), timeout=_CALL)
        while True:
            try:
                await self._inventory.GetStock(GetStockRequest(sku=sku), timeout=_CALL)
                break
            except aio.AioRpcError as error:
                if error.code() is not StatusCode.NOT_FOUND:
                    raise
            await asyncio.sleep(0.05)
        await self._inventory.Restock(RestockRequest(sku=sku, quantity=_PIECES), timeout=_CALL)

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


async def one_at_a_time(market: Market, times: int) -> dict[str, Any]:
    """Place orders in an idle system; return milliseconds."""
    customers = market.customers
    took: list[float] = []
    answered: list[float] = []
    for n in range(times // 10 + times):
        order_id = await customers.order()
        if order_id is None:
            raise Broken(f"an order was refused: {customers.refused}")
        one = customers.placed[order_id]
        if n >= times // 10:  # those before are to warm up
            took.append((one.confirmed - one.asked) * 1000)
            answered.append((one.answered - one.asked) * 1000)
        await asyncio.sleep(_REST)
    return {"confirmed_ms": took, "answered_ms": answered}


async def many(market: Market, in_flight: int, warming: float, seconds: float) -> dict[str, Any]:
    """Keep `in_flight` orders between their request and their confirmation; return what happened in `seconds`."""
    customers = market.customers
    stop = asyncio.Event()

    async def keep_ordering() -> None:
        while not stop.is_set():
            if await customers.order() is None:
                await asyncio.sleep(0.1)

    known = set(customers.placed)
    everybody = [asyncio.create_task(keep_ordering()) for _ in range(in_flight)]
    try:
        await _or_failure(everybody, warming)
        cpu, begin = _cpu(market.processes()), time.perf_counter()
        await _or_failure(everybody, seconds)
        after, end = _cpu(market.processes()), time.perf_counter()
        stop.set()
        await asyncio.gather(*everybody)
    finally:
        for one in everybody:
            one.cancel()
    mine = [one for order_id, one in customers.placed.items() if order_id not in known]
    inside = [one for one in mine if begin <= one.confirmed < end]
    thirds = [0, 0, 0]
    for order in inside:
        thirds[min(2, int((order.confirmed - begin) / (end - begin) * 3))] += 1
    return {
        "seconds": end - begin,
        "confirmed": len(inside),
        "thirds": [count / (end - begin) * 3 for count in thirds],
        "confirmed_ms": [(one.confirmed - one.asked) * 1000 for one in inside],
        "answered_ms": [(one.answered - one.asked) * 1000 for one in inside],
        "cpu": {name: (after[name] - cpu[name]) / (end - begin) * 100 for name in after},
        "refused": customers.refused,
    }


async def _or_failure(tasks: Sequence[asyncio.Task[None]], seconds: float) -> None:
    """Sleep, unless one of the tasks fails."""
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for one in done:
        one.result()


def _cpu(pids: Mapping[str, int]) -> dict[str, float]:
    whole = psutil.cpu_times()
    busy = sum(whole) - whole.idle - getattr(whole, "iowait", 0.0) - getattr(whole, "guest", 0.0)
    return {**{name: cpu_seconds(pid) for name, pid in pids.items()}, "the whole machine": busy}


def _sku(number: int) -> str:
    return f"bench-{number:04d}"


def _tell(**what: Any) -> None:
    print(json.dumps(what), flush=True)


async def _main(options: argparse.Namespace) -> None:
    async with Market(options.data) as market:
        _tell(step="putting products on sale")
        await market.fill()
        _tell(step=f"{options.one_at_a_time} orders, one at a time")
        alone = await one_at_a_time(market, options.one_at_a_time)
        _tell(step=f"{options.in_flight} orders in flight, {options.seconds:g} s")
        crowd = await many(market, options.in_flight, options.warming, options.seconds)
        _tell(step="looking for lost orders")
        accepted = set(market.customers.placed)
        lost = accepted - await market.confirmed_orders()
        _tell(result={"alone": alone, "many": crowd, "accepted": len(accepted), "lost": sorted(lost)})


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.orders", description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--one-at-a-time", type=int, default=200)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--warming", type=float, default=4.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    try:
        uvloop.run(_main(options))
    except Broken as reason:
        sys.exit(str(reason))


if __name__ == "__main__":
    main()
