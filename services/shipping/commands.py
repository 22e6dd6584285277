"""What a caller can have shipping do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.shipping import store
from weft.domain import NotFound, check_id

if TYPE_CHECKING:
    from services.shipping.domain import Shipment
    from weft import UnitOfWork


def dispatch(work: UnitOfWork, shipment_id: str) -> Shipment:
    """Hand a shipment to the carrier and return it. Raises `InvalidInput`, `NotFound` and `Refused`."""
    shipment = _shipment(work, shipment_id)
    shipment.dispatch(work.now)
    return shipment


def deliver(work: UnitOfWork, shipment_id: str) -> Shipment:
    """Record that the customer has a shipment and return it. Raises as `dispatch` does."""
    shipment = _shipment(work, shipment_id)
    shipment.deliver(work.now)
    return shipment


def _shipment(work: UnitOfWork, shipment_id: str) -> Shipment:
    check_id("shipment_id", shipment_id)
    shipment = work.get(store.shipments, shipment_id)
    if shipment is None:
        raise NotFound("shipment", shipment_id)
    return shipment
