"""`python -m bench.bare PORT` answers as inventory, order and product do, with nothing but grpc.aio.

The messages are made anew for each call, like theirs. There is no database, no token, no trace and no log.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import uvloop
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money
from google.type.postal_address_pb2 import PostalAddress
from grpc import aio

from cli.probes import LOOPBACK
from commerce.inventory.v1 import inventory_service_pb2 as inventory
from commerce.inventory.v1.inventory_service_pb2_grpc import (
    InventoryServiceServicer,
    add_InventoryServiceServicer_to_server,
)
from commerce.order.v1 import order_service_pb2 as orders
from commerce.order.v1.order_service_pb2_grpc import OrderServiceServicer, add_OrderServiceServicer_to_server
from commerce.product.v1 import product_service_pb2 as products
from commerce.product.v1.product_service_pb2_grpc import ProductServiceServicer, add_ProductServiceServicer_to_server

if TYPE_CHECKING:
    from grpc.aio import ServicerContext


class Inventory(InventoryServiceServicer):
    """Has some of everything."""

    async def GetStock(
        self,
        request: inventory.GetStockRequest,
        context: ServicerContext[inventory.GetStockRequest, inventory.GetStockResponse],
    ) -> inventory.GetStockResponse:
        return inventory.GetStockResponse(stock=_stock(request.sku))

    async def Restock(
        self,
        request: inventory.RestockRequest,
        context: ServicerContext[inventory.RestockRequest, inventory.RestockResponse],
    ) -> inventory.RestockResponse:
        return inventory.RestockResponse(stock=_stock(request.sku))


class Catalogue(ProductServiceServicer):
    """Sells mugs."""

    async def GetProduct(
        self,
        request: products.GetProductRequest,
        context: ServicerContext[products.GetProductRequest, products.GetProductResponse],
    ) -> products.GetProductResponse:
        return products.GetProductResponse(
            product=products.Product(
                sku=request.sku,
                title="A mug",
                description="A mug to drink from",
                price=Money(currency_code="EUR", units=12, nanos=500_000_000),
                active=True,
                revision=1,
                create_time=Timestamp(seconds=1_790_000_000, nanos=123_456_000),
                update_time=Timestamp(seconds=1_790_000_000, nanos=123_456_000),
            )
        )


class Orders(OrderServiceServicer):
    """Has every order, of one line; a new one is called by what it is of."""

    async def GetOrder(
        self, request: orders.GetOrderRequest, context: ServicerContext[orders.GetOrderRequest, orders.GetOrderResponse]
    ) -> orders.GetOrderResponse:
        return orders.GetOrderResponse(order=_order(request.order_id))

    async def CreateOrder(
        self,
        request: orders.CreateOrderRequest,
        context: ServicerContext[orders.CreateOrderRequest, orders.CreateOrderResponse],
    ) -> orders.CreateOrderResponse:
        return orders.CreateOrderResponse(order=_order(request.lines[0].sku))


def _order(order_id: str) -> orders.Order:
    return orders.Order(
        order_id=order_id,
        user_id="0199b2f0-5a3c-7c1e-8f6d-2b9a4c7d1e0f",
        state=orders.ORDER_STATE_PENDING,
        lines=[
            orders.OrderLine(sku="mug", quantity=2, unit_price=Money(currency_code="EUR", units=12, nanos=500_000_000))
        ],
        total=Money(currency_code="EUR", units=25),
        ship_to=PostalAddress(region_code="CH", address_lines=["Bahnhofstrasse 1, 8001 Zürich"]),
        create_time=Timestamp(seconds=1_790_000_000, nanos=123_456_000),
        update_time=Timestamp(seconds=1_790_000_000, nanos=123_456_000),
    )


def _stock(sku: str) -> inventory.Stock:
    return inventory.Stock(sku=sku, on_hand=10_000_000, reserved=0, available=10_000_000, revision=1)


async def _serve(port: int) -> None:
    server = aio.server()
    add_InventoryServiceServicer_to_server(Inventory(), server)
    add_ProductServiceServicer_to_server(Catalogue(), server)  # type: ignore[abstract]  # it has the one method
    add_OrderServiceServicer_to_server(Orders(), server)  # type: ignore[abstract]  # it has these two methods
    server.add_insecure_port(f"{LOOPBACK}:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
