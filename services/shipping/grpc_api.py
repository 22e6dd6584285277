"""Shipping's gRPC service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from commerce.shipping.v1 import shipping_service_pb2 as api
from commerce.shipping.v1.shipping_service_pb2_grpc import ShippingServiceServicer
from services.shipping import commands, queries
from weft import timestamp
from weft.identity import caller

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from services.shipping.domain import Shipment
    from weft import Reader, Writer


class ShippingApi(ShippingServiceServicer):
    """`commerce.shipping.v1.ShippingService`."""

    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader

    async def GetShipment(
        self,
        request: api.GetShipmentRequest,
        context: ServicerContext[api.GetShipmentRequest, api.GetShipmentResponse],
    ) -> api.GetShipmentResponse:
        shipment = await self._reader.look_up(queries.get_shipment, request.order_id, caller())
        return api.GetShipmentResponse(shipment=_message(shipment))

    async def Dispatch(
        self,
        request: api.DispatchRequest,
        context: ServicerContext[api.DispatchRequest, api.DispatchResponse],
    ) -> api.DispatchResponse:
        shipment = await self._writer.run(commands.dispatch, request.shipment_id)
        return api.DispatchResponse(shipment=_message(shipment))

    async def Deliver(
        self, request: api.DeliverRequest, context: ServicerContext[api.DeliverRequest, api.DeliverResponse]
    ) -> api.DeliverResponse:
        shipment = await self._writer.run(commands.deliver, request.shipment_id)
        return api.DeliverResponse(shipment=_message(shipment))


def _message(shipment: Shipment) -> api.Shipment:
    return api.Shipment(
        shipment_id=shipment.shipment_id,
        order_id=shipment.order_id,
        state=api.ShipmentState.Value(f"SHIPMENT_STATE_{shipment.state}"),
        lines=[api.ShipmentLine(sku=line.sku, quantity=line.quantity) for line in shipment.lines],
        ship_to=shipment.ship_to,
        create_time=timestamp(shipment.create_time),
        update_time=timestamp(shipment.update_time),
    )
