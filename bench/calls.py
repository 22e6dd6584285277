"""`python -m bench.calls PLAN` calls servers that answer the same, in turns, and prints what CPU each call cost them.

A process of its own, so that the calls cost the servers nothing but their share of the machine. Every server gets the
same calls: `authorization`, an unsampled `traceparent` and a deadline go with each. PLAN is a JSON file: the fields of
`Plan`, and of `Server` for each of its servers. Prints JSON like `bench.orders`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import uvloop
from google.protobuf.json_format import ParseDict
from grpc import aio

from bench.databases import SKUS, sku
from bench.stage import Broken, cpu_seconds, tell
from commerce.inventory.v1.inventory_service_pb2 import (
    GetStockRequest,
    GetStockResponse,
    RestockRequest,
    RestockResponse,
)
from commerce.order.v1.order_service_pb2 import (
    CreateOrderRequest,
    CreateOrderResponse,
    GetOrderRequest,
    GetOrderResponse,
)
from commerce.product.v1.product_service_pb2 import GetProductRequest, GetProductResponse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    Call = Callable[[str], Awaitable[str]]
    """Makes one call about a sku, and returns the sku in the answer."""

_DEADLINE = 5.0
_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
_OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
_QUIET = 0.02
_LOOK = 0.1
_LOOKS = 100


@dataclass(frozen=True, slots=True)
class Rpc:
    """One rpc as gRPC and REST have it; `item` is the field of the response that REST answers with."""

    path: str
    request: Callable[[str], Any]
    response: type[Any]
    item: str
    verb: str
    url: str
    body: Callable[[str], Mapping[str, Any]] | None = None
    key: str = "sku"
    """The field of the item that is what was asked for; in JSON too, in lowerCamelCase."""


def _new_order(sku: str) -> dict[str, Any]:
    address = {"regionCode": "CH", "addressLines": ["Bahnhofstrasse 1, 8001 Zürich"]}
    return {"lines": [{"sku": sku, "quantity": 2}], "paymentToken": "tok_ok", "shipTo": address}


RPCS = {
    "GetStock": Rpc(
        "/commerce.inventory.v1.InventoryService/GetStock",
        lambda sku: GetStockRequest(sku=sku),
        GetStockResponse,
        "stock",
        "GET",
        "/v1/inventory/{}",
    ),
    "GetProduct": Rpc(
        "/commerce.product.v1.ProductService/GetProduct",
        lambda sku: GetProductRequest(sku=sku),
        GetProductResponse,
        "product",
        "GET",
        "/v1/products/{}",
    ),
    "Restock": Rpc(
        "/commerce.inventory.v1.InventoryService/Restock",
        lambda sku: RestockRequest(sku=sku, quantity=1),
        RestockResponse,
        "stock",
        "POST",
        "/v1/inventory/{}:restock",
        lambda _: {"quantity": 1},
    ),
    "GetOrder": Rpc(
        "/commerce.order.v1.OrderService/GetOrder",
        lambda order_id: GetOrderRequest(order_id=order_id),
        GetOrderResponse,
        "order",
        "GET",
        "/v1/orders/{}",
        key="order_id",
    ),
    "CreateOrder": Rpc(
        "/commerce.order.v1.OrderService/CreateOrder",
        lambda sku: ParseDict(_new_order(sku), CreateOrderRequest()),
        CreateOrderResponse,
        "order",
        "POST",
        "/v1/orders",
        _new_order,
        key="order_id",
    ),
}


@dataclass(frozen=True, slots=True)
class Server:
    """Who answers: at `address` over gRPC, or at a URL over REST; `pids` are the processes that work for it."""

    address: str
    pids: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do: in each of `rounds` rounds, `calls` calls of an rpc to each server, `in_flight` at a time."""

    rpc: str
    authorization: str = field(repr=False)
    servers: Mapping[str, Server]
    calls: int
    warming: int
    rounds: int
    in_flight: int = 16

    def write(self, path: Path) -> None:
        """Write it for the process that makes the calls."""
        path.touch(mode=0o600)
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Return what was written."""
        told = json.loads(path.read_text())
        return cls(**{**told, "servers": {name: Server(**one) for name, one in told["servers"].items()}})


def _over_grpc(rpc: Rpc, channel: aio.Channel, authorization: str) -> Call:
    method = channel.unary_unary(
        rpc.path,
        request_serializer=type(rpc.request("")).SerializeToString,
        response_deserializer=rpc.response.FromString,
    )
    metadata = (("authorization", authorization), ("traceparent", _TRACE))

    async def call(sku: str) -> str:
        answer = await method(rpc.request(sku), metadata=metadata, timeout=_DEADLINE)
        found: str = getattr(getattr(answer, rpc.item), rpc.key)
        return found

    return call


def _over_rest(rpc: Rpc, session: aiohttp.ClientSession) -> Call:
    key = rpc.response.DESCRIPTOR.fields_by_name[rpc.item].message_type.fields_by_name[rpc.key].json_name

    async def call(sku: str) -> str:
        body = None if rpc.body is None else rpc.body(sku)
        async with session.request(rpc.verb, rpc.url.format(sku), json=body) as answer:
            told = await answer.json()
            if answer.status != 200:
                raise Broken(f"{rpc.url} was answered with {answer.status}: {told.get('message')}")
            found: str = told.get(rpc.item, told)[key]  # Not everybody knows response_body.
            return found

    return call


async def _connect(plan: Plan, server: Server, stack: AsyncExitStack) -> Call:
    rpc = RPCS[plan.rpc]
    if server.address.startswith("http:"):
        timeout = f"{_DEADLINE * 1000:.0f}m"
        headers = {"authorization": plan.authorization, "traceparent": _TRACE, "grpc-timeout": timeout}
        connector = aiohttp.TCPConnector(limit=plan.in_flight)
        session = aiohttp.ClientSession(server.address, headers=headers, connector=connector)
        return _over_rest(rpc, await stack.enter_async_context(session))
    channel = await stack.enter_async_context(aio.insecure_channel(server.address, options=_OPTIONS))
    await asyncio.wait_for(channel.channel_ready(), _DEADLINE)
    return _over_grpc(rpc, channel, plan.authorization)


async def _make(call: Call, calls: int, in_flight: int) -> None:
    numbers = iter(range(calls))

    async def go_on() -> None:
        for number in numbers:
            wanted = sku(number % SKUS)
            if (found := await call(wanted)) != wanted:
                raise Broken(f"asked for {wanted}, the answer is about {found}")

    await asyncio.gather(*(go_on() for _ in range(in_flight)))


async def _cpu(server: Server) -> dict[str, float]:
    """Return the CPU time that its processes have used, once they rest: what follows a call is part of its cost."""
    seen = {name: cpu_seconds(pid) for name, pid in server.pids.items()}
    for _ in range(_LOOKS):
        await asyncio.sleep(_LOOK)
        before, seen = seen, {name: cpu_seconds(pid) for name, pid in server.pids.items()}
        if sum(seen.values()) - sum(before.values()) < _QUIET:
            break
    return seen


async def measure(plan: Plan) -> Sequence[Mapping[str, Mapping[str, float]]]:
    """Return, for each round, what each server's processes spent on a call, in seconds of CPU."""
    rounds: list[dict[str, dict[str, float]]] = []
    async with AsyncExitStack() as stack:
        calls = {name: await _connect(plan, server, stack) for name, server in plan.servers.items()}
        for call in calls.values():
            await _make(call, plan.warming, plan.in_flight)
        for n in range(plan.rounds):
            tell(step=f"{plan.rpc}, round {n + 1} of {plan.rounds}")
            rounds.append({})
            for name, server in plan.servers.items():
                before = await _cpu(server)
                await _make(calls[name], plan.calls, plan.in_flight)
                after = await _cpu(server)
                rounds[-1][name] = {one: (after[one] - before[one]) / plan.calls for one in after}
    return rounds


async def _main(plan: Plan) -> None:
    tell(result=await measure(plan))


def main() -> None:
    """Do what the plan says."""
    try:
        uvloop.run(_main(Plan.read(Path(sys.argv[1]))))
    except aio.AioRpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
    except (Broken, aiohttp.ClientError, TimeoutError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
