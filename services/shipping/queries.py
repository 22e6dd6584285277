"""What a caller can ask shipping."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.shipping import store
from weft.domain import NotFound, check_id

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from services.shipping.domain import Shipment


def get_shipment(connection: Connection, order_id: str) -> Shipment:
    """Return the shipment of an order. Raises `InvalidInput` and `NotFound`."""
    check_id("order_id", order_id)
    shipment = store.shipments.find(connection, order_id)
    if shipment is None:
        raise NotFound("shipment", order_id)
    return shipment
