"""Order for its tests: the service running beside a product that does as it is told."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from google.type.money_pb2 import Money
from google.type.postal_address_pb2 import PostalAddress
from grpc_health.v1.health import aio as grpc_health
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from commerce.order.v1 import order_service_pb2 as api
from commerce.order.v1.order_service_pb2_grpc import OrderServiceStub
from commerce.product.v1 import product_service_pb2
from commerce.user.v1 import user_service_pb2
from services.order.service import build
from tests.component.callers import signed
from tests.component.support import calling, count, handled_all, running
from weft.testing import eventually, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from google.protobuf.message import Message

    from commerce.order.v1.order_service_pb2_grpc import OrderServiceAsyncStub
    from services.order.settings import Settings
    from tests.component.support import Streams
    from weft import Clock, Service

CONTEXT = "commerce.order"
_PRODUCT = "commerce.product.v1.ProductService"
_USER = "commerce.user.v1.UserService"
ADDRESS = PostalAddress(region_code="DE", locality="Berlin", address_lines=["1 Sample Street"])
NOTHING_WRITTEN = {"orders": 0, "outbox": 0, "intents": 0}


def euros(units: int) -> Money:
    return Money(currency_code="EUR", units=units)


def request(**changed: Any) -> api.CreateOrderRequest:
    """Return a request for two mugs that would succeed, with some fields changed; None leaves one out."""
    fields: dict[str, Any] = {
        "lines": [api.NewOrderLine(sku="mug", quantity=2)],
        "payment_token": "tok_ok",
        "ship_to": ADDRESS,
    }
    return api.CreateOrderRequest(**fields | changed)


@dataclass
class FakeProduct:
    """What order sees of product: a mug and a tee, a discontinued hat, a book in another currency."""

    port: int = field(default_factory=free_port)
    asked: int = 0
    refuses: bool = False
    is_silent: bool = False

    def __post_init__(self) -> None:
        self.products = {
            one.sku: one
            for one in (
                product_service_pb2.Product(sku="mug", price=euros(12), active=True, revision=1),
                product_service_pb2.Product(sku="tee", price=euros(20), active=True, revision=1),
                product_service_pb2.Product(sku="hat", price=euros(30), active=False, revision=1),
                product_service_pb2.Product(
                    sku="book", price=Money(currency_code="CHF", units=9), active=True, revision=1
                ),
                product_service_pb2.Product(sku="yacht", price=euros(2**33), active=True, revision=1),
            )
        }

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Be up."""
        batch_get = grpc.unary_unary_rpc_method_handler(
            self._batch_get,
            product_service_pb2.BatchGetProductsRequest.FromString,
            product_service_pb2.BatchGetProductsResponse.SerializeToString,
        )
        async with _serving(self.port, _PRODUCT, {"BatchGetProducts": batch_get}):
            yield

    async def _batch_get(
        self, request: product_service_pb2.BatchGetProductsRequest, context: Any
    ) -> product_service_pb2.BatchGetProductsResponse:
        self.asked += 1
        if self.refuses:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "closed for stocktaking")
        if self.is_silent:
            await asyncio.Event().wait()
        found = [self.products[sku] for sku in request.skus if sku in self.products]
        return product_service_pb2.BatchGetProductsResponse(products=found)


@dataclass
class FakeUser:
    """What order sees of user: the addresses of those that have one."""

    port: int = field(default_factory=free_port)
    addresses: dict[str, PostalAddress] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    """The `authorization` of each call."""
    refuses: bool = False

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Be up."""
        get = grpc.unary_unary_rpc_method_handler(
            self._get,
            user_service_pb2.GetUserRequest.FromString,
            user_service_pb2.GetUserResponse.SerializeToString,
        )
        async with _serving(self.port, _USER, {"GetUser": get}):
            yield

    async def _get(self, request: user_service_pb2.GetUserRequest, context: Any) -> user_service_pb2.GetUserResponse:
        self.tokens.append(dict(context.invocation_metadata()).get("authorization", ""))
        if self.refuses:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone fishing")
        user = user_service_pb2.User(user_id=request.user_id, address=self.addresses.get(request.user_id))
        return user_service_pb2.GetUserResponse(user=user)


@asynccontextmanager
async def _serving(
    port: int, service: str, methods: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
) -> AsyncIterator[None]:
    server = grpc.aio.server()
    add_HealthServicer_to_server(grpc_health.HealthServicer(), server)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, methods)])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


@dataclass(frozen=True, slots=True)
class Orders:
    """Order running, and a client of it, whose calls are an admin's unless it says as whom they are made."""

    service: Service
    stub: OrderServiceAsyncStub
    streams: Streams

    async def place(self, user: str = "", **changed: Any) -> api.Order:
        return (await self.stub.CreateOrder(request(**changed), metadata=signed(user))).order

    async def get(self, order_id: str, user: str = "") -> api.Order:
        return (await self.stub.GetOrder(api.GetOrderRequest(order_id=order_id), metadata=signed(user))).order

    async def cancel(self, order_id: str, user: str = "", note: str = "") -> api.Order:
        request = api.CancelOrderRequest(order_id=order_id, operator_note=note)
        return (await self.stub.CancelOrder(request, metadata=signed(user))).order

    async def hears(self, *events: Message) -> None:
        """Publish events of other services and return when order has handled them."""
        for event in events:
            await self.streams.publish(event)
        await handled_all(self.service)

    async def becomes(self, order_id: str, state: api.OrderState.ValueType) -> api.Order:
        """Return the order once it is in a state."""

        async def look() -> api.Order | None:
            order = await self.get(order_id)
            return order if order.state == state else None

        name = api.OrderState.Name(state)
        order = await eventually(look, what=f"{order_id} is {name}")
        assert order is not None
        return order

    async def published(self, order_id: str) -> list[str]:
        """Return the short names of the order's events, once all that were recorded are published."""

        async def is_empty() -> bool:
            return await count(self.service, "outbox", "published_at IS NULL") == 0

        await eventually(is_empty, what="the outbox is published")
        return await self.streams.types_of(CONTEXT, order_id)

    async def written(self) -> dict[str, int]:
        """Return how many rows there are of what an order writes."""
        return {table: await count(self.service, table) for table in NOTHING_WRITTEN}


@asynccontextmanager
async def ordering(settings: Settings, streams: Streams, clock: Clock | None = None) -> AsyncIterator[Orders]:
    """Run order."""
    async with running(build(settings, clock)) as service, calling(service) as channel:
        yield Orders(service, OrderServiceStub(channel), streams)
