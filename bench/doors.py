"""The two ways into a running system by which a customer places an order: gRPC at order, and REST at the gateway."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Protocol

import aiohttp
from google.protobuf.json_format import MessageToDict
from google.type.postal_address_pb2 import PostalAddress
from grpc import aio

from commerce.order.v1 import order_service_pb2 as api
from commerce.order.v1.order_service_pb2_grpc import OrderServiceStub

if TYPE_CHECKING:
    from collections.abc import Sequence

CALL = 15.0
"""Seconds that a call may take."""
GRPC, REST = "gRPC", "REST"
_SHIP_TO = PostalAddress(region_code="CH", address_lines=["Bahnhofstrasse 1, 8001 Zürich"])

Metadata = tuple[tuple[str, str], ...]


class Refused(Exception):
    """An order was not taken; the text is the code."""


class Door(Protocol):
    """Where a customer places orders."""

    async def place(self, sku: str) -> str:
        """Place an order of one piece and return its id. Raises `Refused`."""


class GrpcDoor:
    """The order service itself."""

    def __init__(self, channels: Sequence[aio.Channel], metadata: Metadata) -> None:
        self._stubs = itertools.cycle([OrderServiceStub(channel) for channel in channels])
        self._metadata = metadata

    async def place(self, sku: str) -> str:
        """See `Door`."""
        try:
            answer = await next(self._stubs).CreateOrder(_request(sku), timeout=CALL, metadata=self._metadata)
        except aio.AioRpcError as error:
            raise Refused(error.code().name) from None
        order_id: str = answer.order.order_id
        return order_id


class RestDoor:
    """The gateway, over connections that stay open."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        """`session` has the gateway's URL and the customer's token."""
        self._session = session

    async def place(self, sku: str) -> str:
        """See `Door`."""
        try:
            async with self._session.post("/v1/orders", json=MessageToDict(_request(sku))) as answer:
                told = await answer.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Refused(type(error).__name__) from None
        if answer.status != 200:
            raise Refused(f"HTTP {answer.status}")
        order_id: str = told["orderId"]
        return order_id


def _request(sku: str) -> api.CreateOrderRequest:
    line = api.NewOrderLine(sku=sku, quantity=1)
    return api.CreateOrderRequest(lines=[line], payment_token="tok_ok", ship_to=_SHIP_TO)
