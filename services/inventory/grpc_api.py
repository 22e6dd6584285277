"""Inventory's gRPC service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from commerce.inventory.v1 import inventory_service_pb2 as api
from commerce.inventory.v1.inventory_service_pb2_grpc import InventoryServiceServicer
from services.inventory import commands, queries

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from services.inventory.domain import StockItem
    from weft import Reader, Writer


class InventoryApi(InventoryServiceServicer):
    """`commerce.inventory.v1.InventoryService`."""

    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader

    async def GetStock(
        self,
        request: api.GetStockRequest,
        context: ServicerContext[api.GetStockRequest, api.GetStockResponse],
    ) -> api.GetStockResponse:
        item = await self._reader.look_up(queries.get_stock, request.sku)
        return api.GetStockResponse(stock=_message(item))

    async def Restock(
        self, request: api.RestockRequest, context: ServicerContext[api.RestockRequest, api.RestockResponse]
    ) -> api.RestockResponse:
        item = await self._writer.run(commands.restock, request.sku, request.quantity)
        return api.RestockResponse(stock=_message(item))


def _message(item: StockItem) -> api.Stock:
    return api.Stock(
        sku=item.sku,
        on_hand=item.on_hand,
        reserved=item.reserved,
        available=item.available,
        revision=item.version,
    )
