"""What a caller can ask shipping."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.shipping import store
from weft.domain import NotFound, check_id

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from services.shipping.domain import Shipment
    from weft.identity import Caller


def get_shipment(connection: Connection, order_id: str, caller: Caller) -> Shipment:
    """Return the shipment of an order. Raises `InvalidInput`, and `NotFound`, also if the caller may not see it."""
    check_id("order_id", order_id)
    shipment = store.shipments.find(connection, order_id)
    if shipment is None or not caller.may_see(shipment.user_id):
        raise NotFound("shipment", order_id)
    return shipment
