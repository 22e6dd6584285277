"""What the tests of the gRPC edge share: services that do what a test says, and their servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from commerce.order.v1 import order_service_pb2 as order
from commerce.order.v1 import order_service_pb2_grpc as order_grpc
from commerce.product.v1 import product_service_pb2 as product
from commerce.product.v1 import product_service_pb2_grpc as product_grpc
from tests.component.callers import bearer, issuer, signed_channel
from weft.grpc_client import connect
from weft.grpc_server import GrpcServer
from weft.tokens import SigningKeys, Verifier, fetch_from
from weft.tracing import Tracing

if TYPE_CHECKING:
    import grpc
    from opentelemetry.sdk.trace import SpanProcessor

CATALOGUE = product.DESCRIPTOR.services_by_name["ProductService"]
ORDERS = order.DESCRIPTOR.services_by_name["OrderService"]

AS_ADMIN = (("authorization", bearer()),)
"""Metadata of an admin's call."""

Get = Callable[[product.GetProductRequest, Any], Awaitable[product.GetProductResponse]]
Watch = Callable[[order.WatchOrderRequest, Any], AsyncIterator[order.WatchOrderResponse]]


async def answer(_request: object, _context: object) -> product.GetProductResponse:
    """Answer at once."""
    return product.GetProductResponse()


class Catalogue(product_grpc.ProductServiceServicer):
    """A catalogue whose GetProduct and CreateProduct do as `get` does; the rest is not implemented."""

    def __init__(self, get: Get = answer) -> None:
        self._get = get
        self.calls = 0

    async def GetProduct(self, request: product.GetProductRequest, context: Any) -> product.GetProductResponse:
        self.calls += 1
        return await self._get(request, context)

    async def CreateProduct(self, request: Any, context: Any) -> product.CreateProductResponse:
        self.calls += 1
        await self._get(request, context)
        return product.CreateProductResponse()


class Orders(order_grpc.OrderServiceServicer):
    """Orders that can only be watched, as `watch` does."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    async def WatchOrder(
        self, request: order.WatchOrderRequest, context: Any
    ) -> AsyncIterator[order.WatchOrderResponse]:
        async for reply in self._watch(request, context):
            yield reply


def tracing(service: str = "test", *processors: SpanProcessor) -> Tracing:
    """Tracing that the environment does not touch; spans go to `processors`."""
    return Tracing(service, environ={}, processors=processors)


def new_server(traced: Tracing | None = None, jwks_url: str = "", **options: Any) -> GrpcServer:
    """Return a server that serves nothing yet; it trusts the tests' issuer of tokens, or the one at `jwks_url`."""
    keys = SigningKeys(fetch_from(jwks_url or issuer().jwks_url), 60)
    verifier = Verifier(keys, issuer="weft", audience="weft")
    given = {"metrics": CollectorRegistry(), **options}
    return GrpcServer(tracing=traced or tracing(), verifier=verifier, **given)


@asynccontextmanager
async def serving(
    *servicers: Catalogue | Orders, traced: Tracing | None = None, jwks_url: str = "", **options: Any
) -> AsyncIterator[GrpcServer]:
    """Run a server on a free port, ready, and stop it at the end."""
    server = new_server(traced, jwks_url, **options)
    for servicer in servicers:
        if isinstance(servicer, Catalogue):
            server.add(product_grpc.add_ProductServiceServicer_to_server, servicer, CATALOGUE.full_name)
        else:
            server.add(order_grpc.add_OrderServiceServicer_to_server, servicer, ORDERS.full_name)
    await server.start()
    server.set_ready()
    try:
        yield server
    finally:
        await server.drain(0)


def channel_to(
    server: GrpcServer, traced: Tracing | None = None, *, address: str = "", **options: Any
) -> grpc.aio.Channel:
    """Return a channel as services have it."""
    return connect(address or f"127.0.0.1:{server.port}", tracing=traced or tracing("caller"), **options)


def bare_channel_to(server: GrpcServer) -> grpc.aio.Channel:
    """Return a channel as any other program may have it."""
    return signed_channel(f"127.0.0.1:{server.port}", bearer())


def catalogue_at(channel: grpc.aio.Channel) -> product_grpc.ProductServiceAsyncStub:
    """Return the stub of the catalogue."""
    return product_grpc.ProductServiceStub(channel)


def orders_at(channel: grpc.aio.Channel) -> order_grpc.OrderServiceAsyncStub:
    """Return the stub of the orders."""
    return order_grpc.OrderServiceStub(channel)
