"""When a shipment may go, and when it must not.

Shipping waits for the order, its payment and its stock, which come in any order, and prepares the shipment.
From the order's confirmation on it decides between dispatch and cancel. An order that was cancelled before
shipping heard of it leaves a cancelled shipment, which whatever comes later cannot wake.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Self

from commerce.shipping.v1.shipping_events_pb2 import (
    ShippingCancelled,
    ShippingDelivered,
    ShippingDispatched,
    ShippingPrepared,
)
from weft.domain import Aggregate, Refused

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from google.type.postal_address_pb2 import PostalAddress


class State(StrEnum):
    """Where a shipment is; the names are those of `ShipmentState` without their prefix."""

    WAITING = "WAITING"
    PREPARED = "PREPARED"
    DISPATCHED = "DISPATCHED"
    DELIVERED = "DELIVERED"
    CANCELLED = "CANCELLED"


class Line(NamedTuple):
    """Pieces of one sku in a shipment."""

    sku: str
    quantity: int


class Shipment(Aggregate):
    """The shipment of one order; it bears the order's id."""

    __slots__ = (
        "confirmed",
        "create_time",
        "lines",
        "order_id",
        "paid",
        "reserved",
        "ship_to",
        "state",
        "update_time",
        "user_id",
    )

    def __init__(
        self,
        *,
        order_id: str,
        state: State,
        lines: Sequence[Line],
        ship_to: PostalAddress | None,
        paid: bool,
        reserved: bool,
        confirmed: bool,
        create_time: datetime,
        update_time: datetime,
        user_id: str,
    ) -> None:
        super().__init__()
        self.order_id = order_id
        self.state = state
        self.lines = lines
        """What is in it; empty until the order itself was heard of."""
        self.ship_to = ship_to
        """Where it goes; None until the order itself was heard of, and once it is cancelled."""
        self.paid = paid
        self.reserved = reserved
        self.confirmed = confirmed
        self.create_time = create_time
        self.update_time = update_time
        self.user_id = user_id
        """Whose order it is; empty until its beginning or its end was heard of."""

    @classmethod
    def expect(cls, order_id: str, now: datetime) -> Self:
        """Return the shipment of an order of which shipping hears for the first time."""
        return cls(
            order_id=order_id,
            state=State.WAITING,
            lines=(),
            ship_to=None,
            paid=False,
            reserved=False,
            confirmed=False,
            create_time=now,
            update_time=now,
            user_id="",
        )

    @property
    def shipment_id(self) -> str:
        """The shipment's id, which is the order's."""
        return self.order_id

    def order_created(self, lines: Sequence[Line], ship_to: PostalAddress, user_id: str, now: datetime) -> None:
        """The order was placed."""
        self.user_id = user_id
        if self.state is State.WAITING and not self.lines:
            self.lines = tuple(lines)
            self.ship_to = ship_to
            self._prepare_if_complete(now)

    def payment_completed(self, now: datetime) -> None:
        """The order is paid."""
        if self.state is State.WAITING and not self.paid:
            self.paid = True
            self._prepare_if_complete(now)

    def inventory_reserved(self, now: datetime) -> None:
        """The order's stock is reserved."""
        if self.state is State.WAITING and not self.reserved:
            self.reserved = True
            self._prepare_if_complete(now)

    def order_confirmed(self, now: datetime) -> None:
        """The order is confirmed: a dispatch is no longer refused."""
        if self.state in (State.WAITING, State.PREPARED) and not self.confirmed:
            self.confirmed = True
            self.update_time = now

    def cancel_requested(self, now: datetime) -> None:
        """The customer wants the confirmed order cancelled: done, and told, unless it is dispatched."""
        if self.state is State.PREPARED:
            self._cancelled(now)
            self._record(ShippingCancelled)

    def order_cancelled(self, user_id: str, now: datetime) -> None:
        """The order is cancelled: this shipment will never go, whatever comes later."""
        self.user_id = self.user_id or user_id
        if self.state in (State.WAITING, State.PREPARED):
            self._cancelled(now)

    def dispatch(self, now: datetime) -> None:
        """Hand it to the carrier; once there, nothing changes.

        Raises `Refused` unless it is prepared and its order confirmed.
        """
        if self.state in (State.DISPATCHED, State.DELIVERED):
            return
        self._check_ready()
        self._enter(State.DISPATCHED, now)
        self._record(ShippingDispatched)

    def deliver(self, now: datetime) -> None:
        """Record that the customer has it; once delivered, nothing changes.

        Raises `Refused` unless it is dispatched.
        """
        if self.state is State.DELIVERED:
            return
        if self.state is not State.DISPATCHED:
            raise Refused("SHIPMENT_NOT_DISPATCHED", f"shipment {self.shipment_id} is not dispatched")
        self._enter(State.DELIVERED, now)
        self._record(ShippingDelivered)

    def _prepare_if_complete(self, now: datetime) -> None:
        self.update_time = now
        if self.lines and self.paid and self.reserved:
            self._enter(State.PREPARED, now)
            self._record(ShippingPrepared)

    def _check_ready(self) -> None:
        if self.state is State.CANCELLED:
            raise Refused("SHIPMENT_CANCELLED", f"shipment {self.shipment_id} is cancelled")
        if self.state is State.WAITING:
            raise Refused("SHIPMENT_NOT_PREPARED", f"shipment {self.shipment_id} is not prepared yet")
        if not self.confirmed:
            raise Refused("ORDER_NOT_CONFIRMED", f"order {self.order_id} is not confirmed yet")

    def _cancelled(self, now: datetime) -> None:
        self._enter(State.CANCELLED, now)
        self.ship_to = None  # nobody needs to know any more where the customer lives

    def _enter(self, state: State, now: datetime) -> None:
        self.state = state
        self.update_time = now

    def _record(
        self,
        event: type[ShippingPrepared | ShippingDispatched | ShippingDelivered | ShippingCancelled],
    ) -> None:
        self.record(event(shipment_id=self.shipment_id, order_id=self.order_id))
