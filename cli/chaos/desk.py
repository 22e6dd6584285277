"""Asks the services of a system as its admin: gRPC past the gateway, so that what is audited is theirs alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import grpc

from cli.chaos.books import Level
from cli.errors import Problem
from commerce.inventory.v1 import inventory_service_pb2 as inventory
from commerce.inventory.v1.inventory_service_pb2_grpc import InventoryServiceStub
from commerce.order.v1 import order_service_pb2 as orders
from commerce.order.v1.order_service_pb2_grpc import OrderServiceStub
from commerce.payment.v1 import payment_service_pb2 as payments
from commerce.payment.v1.payment_service_pb2_grpc import PaymentServiceStub
from commerce.shipping.v1 import shipping_service_pb2 as shipping
from commerce.shipping.v1.shipping_service_pb2_grpc import ShippingServiceStub
from weftapi.v1.operations_service_pb2 import GetBacklogRequest
from weftapi.v1.operations_service_pb2_grpc import OperationsServiceStub

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Token = Callable[[], Awaitable[str]]
"""Returns the admin's access token."""

_TIMEOUT = 20.0
_PAGE = 1000
_AT_ONCE = 16
_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a service has not done yet."""

    unpublished: int
    intents: int
    parked: int
    dead: int
    unread: int
    """Events in its streams that it has not handled, parked or set aside."""
    last_event: int
    """The number of its last event: while it grows, something moves."""

    @property
    def open_ends(self) -> str:
        """What is open, for people; empty if nothing is. Dead letters are not: nothing will move them."""
        counts = {
            "events to publish": self.unpublished,
            "open intents": self.intents,
            "parked events": self.parked,
            "events to read": self.unread,
        }
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


class Desk:
    """The services by name, at their gRPC addresses, within an `async with`.

    Calls raise `grpc.aio.AioRpcError`, and `Problem` if nobody can sign in.
    """

    def __init__(self, addresses: Mapping[str, str], token: Token) -> None:
        self._addresses = addresses
        self._token = token

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._channels = {
                name: await stack.enter_async_context(grpc.aio.insecure_channel(address, options=_OPTIONS))
                for name, address in self._addresses.items()
            }
            self._closing = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._closing.aclose()

    async def ask_all(self) -> tuple[dict[str, Backlog], dict[str, str]]:
        """Return what each service has not done yet, and of those that do not tell, why not."""
        told: dict[str, Backlog] = {}
        silent: dict[str, str] = {}

        async def ask(service: str) -> None:
            try:
                told[service] = await self._backlog(service)
            except (grpc.aio.AioRpcError, Problem) as error:
                silent[service] = said(error)

        await asyncio.gather(*map(ask, self._channels))
        return {service: told[service] for service in self._channels if service in told}, silent

    async def orders(self) -> dict[str, orders.Order]:
        """Return every order by its id."""
        stub = OrderServiceStub(self._channels["order"])
        found = await self._all("orders", stub.ListOrders, orders.ListOrdersRequest)
        return {order.order_id: order for order in found}

    async def payments(self) -> dict[str, str]:
        """Return the state of every payment by its order's id, as in `COMPLETED`."""
        stub = PaymentServiceStub(self._channels["payment"])
        found = await self._all("payments", stub.ListPayments, payments.ListPaymentsRequest)
        return {one.order_id: payments.PaymentState.Name(one.state).removeprefix("PAYMENT_STATE_") for one in found}

    async def stock(self, skus: Iterable[str]) -> dict[str, Level]:
        """Return the levels of some skus."""
        stub = InventoryServiceStub(self._channels["inventory"])

        async def level(sku: str) -> tuple[str, Level]:
            stock = (await self._call(stub.GetStock, inventory.GetStockRequest(sku=sku))).stock
            return sku, Level(stock.on_hand, stock.reserved)

        return dict(await _gather(level, skus))

    async def shipments(self, order_ids: Iterable[str]) -> dict[str, str]:
        """Return the states of the shipments of some orders, as in `PREPARED`; those that have none are left out."""
        stub = ShippingServiceStub(self._channels["shipping"])

        async def state(order_id: str) -> tuple[str, str]:
            try:
                answer = await self._call(stub.GetShipment, shipping.GetShipmentRequest(order_id=order_id))
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                return order_id, ""
            return order_id, shipping.ShipmentState.Name(answer.shipment.state).removeprefix("SHIPMENT_STATE_")

        return {order_id: found for order_id, found in await _gather(state, order_ids) if found}

    async def _backlog(self, service: str) -> Backlog:
        stub = OperationsServiceStub(self._channels[service])
        told = await self._call(stub.GetBacklog, GetBacklogRequest(service=service))
        unread = 0
        for consumer in told.consumers:
            # Where the broker cannot tell what there is, there may be something.
            unread += max(0, consumer.last_seq - consumer.position) if consumer.HasField("last_seq") else 1
        return Backlog(
            told.unpublished_events.count,
            told.open_intents.count,
            told.parked_events.count,
            told.dead_letters.count,
            unread,
            told.last_event_seq,
        )

    async def _all(self, what: str, method: Any, request: Any) -> list[Any]:
        found: list[Any] = []
        token = ""
        while True:
            page = await self._call(method, request(page_size=_PAGE, page_token=token))
            found += getattr(page, what)
            token = page.next_page_token
            if not token:
                return found

    async def _call(self, method: Any, request: Any) -> Any:
        metadata = (("authorization", f"Bearer {await self._token()}"),)
        return await method(request, timeout=_TIMEOUT, metadata=metadata, wait_for_ready=True)


def said(error: Exception) -> str:
    """Return what an error says, in a line."""
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error) if isinstance(error, Problem) else f"{type(error).__name__}: {error}".removesuffix(": ")


async def _gather(ask: Callable[[str], Awaitable[tuple[str, Any]]], keys: Iterable[str]) -> list[tuple[str, Any]]:
    """Ask about each key, a few at a time."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(key: str) -> tuple[str, Any]:
        async with slots:
            return await ask(key)

    return cast("list[tuple[str, Any]]", await asyncio.gather(*map(one, keys)))
