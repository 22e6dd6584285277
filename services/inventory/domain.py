"""How stock is promised to orders, given back and shipped.

An order gets all of its lines or none. Always `0 <= reserved <= on_hand`. A reservation that is there
already is never made anew, so an order that was cancelled before inventory heard of it stays without stock.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Self

from commerce.inventory.v1.inventory_events_pb2 import (
    InventoryRejected,
    InventoryReleased,
    InventoryReserved,
    InventoryUpdated,
    ReservedLine,
)
from weft.domain import Aggregate, InvalidInput, NotFound, Refused, Violation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MAX_RESTOCK = 1_000_000


class State(StrEnum):
    """What became of an order's lines."""

    RESERVED = "RESERVED"
    REJECTED = "REJECTED"
    RELEASED = "RELEASED"
    SHIPPED = "SHIPPED"
    VOIDED = "VOIDED"
    """The order was cancelled before inventory heard of it: nothing will be reserved."""


class Line(NamedTuple):
    """Pieces of one sku."""

    sku: str
    quantity: int


class StockItem(Aggregate):
    """The stock of one sku. It records no events: `level` tells what it came to, once per transaction."""

    __slots__ = ("on_hand", "reserved", "sku")

    def __init__(self, *, sku: str, on_hand: int = 0, reserved: int = 0) -> None:
        super().__init__()
        self.sku = sku
        self.on_hand = on_hand
        """Pieces in the warehouse, promised ones included."""
        self.reserved = reserved
        """Pieces promised to orders that are not shipped yet."""

    @property
    def available(self) -> int:
        """Pieces that can still be promised."""
        return self.on_hand - self.reserved

    def restock(self, quantity: int) -> None:
        """Add pieces. Raises `InvalidInput` unless `quantity` is 1 to 1,000,000."""
        if not 1 <= quantity <= MAX_RESTOCK:
            raise InvalidInput(Violation("quantity", f"must be 1 to {MAX_RESTOCK}"))
        self.on_hand += quantity

    def reserve(self, quantity: int) -> None:
        """Promise pieces. Raises `Refused` if fewer are available."""
        if not 1 <= quantity <= self.available:
            raise Refused("OUT_OF_STOCK", f"only {self.available} pieces of {self.sku} are available")
        self.reserved += quantity

    def release(self, quantity: int) -> None:
        """Take back a promise. Raises `Refused` if fewer pieces are promised."""
        self._check_reserved(quantity)
        self.reserved -= quantity

    def ship(self, quantity: int) -> None:
        """Let promised pieces leave the warehouse. Raises `Refused` if fewer are promised."""
        self._check_reserved(quantity)
        self.reserved -= quantity
        self.on_hand -= quantity

    def _check_reserved(self, quantity: int) -> None:
        if not 1 <= quantity <= self.reserved:
            raise Refused("NOT_RESERVED", f"only {self.reserved} pieces of {self.sku} are reserved")


class Reservation(Aggregate):
    """What one order asked for, and what became of it."""

    __slots__ = ("lines", "order_id", "state")

    def __init__(self, *, order_id: str, state: State, lines: Sequence[Line]) -> None:
        super().__init__()
        self.order_id = order_id
        self.state = state
        self.lines = lines

    @classmethod
    def void(cls, order_id: str) -> Self:
        """Return the tombstone of an order that was cancelled before inventory heard of it."""
        return cls(order_id=order_id, state=State.VOIDED, lines=())


def reserve(order_id: str, lines: Iterable[Line], stock: Mapping[str, StockItem | None]) -> Reservation:
    """Promise every line to the order, or none, and return its reservation; only for an order without one.

    `stock` has what there is of the lines' skus. Records `InventoryReserved` or `InventoryRejected`. Raises
    `InvalidInput`, and then changes nothing, if there is no line or a quantity is below 1.
    """
    wanted = _sum_by_sku(lines)
    missing = [sku for sku, quantity in wanted.items() if not _has(stock.get(sku), quantity)]
    reservation = Reservation(
        order_id=order_id,
        state=State.REJECTED if missing else State.RESERVED,
        lines=tuple(Line(sku, quantity) for sku, quantity in wanted.items()),
    )
    if missing:
        reservation.record(InventoryRejected(order_id=order_id, missing_skus=missing))
        return reservation
    for item, quantity in _items(reservation, stock):
        item.reserve(quantity)
    reservation.record(InventoryReserved(order_id=order_id, lines=_messages(reservation.lines)))
    return reservation


def release(reservation: Reservation, stock: Mapping[str, StockItem | None]) -> None:
    """The order was cancelled: give back what it holds, if anything, and record `InventoryReleased`."""
    if reservation.state is not State.RESERVED:
        return
    for item, quantity in _items(reservation, stock):
        item.release(quantity)
    reservation.state = State.RELEASED
    reservation.record(InventoryReleased(order_id=reservation.order_id, lines=_messages(reservation.lines)))


def ship(reservation: Reservation, stock: Mapping[str, StockItem | None]) -> None:
    """The shipment is with the carrier: what the order holds has left the warehouse."""
    if reservation.state is not State.RESERVED:
        return
    for item, quantity in _items(reservation, stock):
        item.ship(quantity)
    reservation.state = State.SHIPPED


def level(item: StockItem, revision: int) -> InventoryUpdated:
    """Return the state event that tells others the level of `item` after its `revision`-th change."""
    return InventoryUpdated(
        sku=item.sku,
        on_hand=item.on_hand,
        reserved=item.reserved,
        available=item.available,
        revision=revision,
    )


def _sum_by_sku(lines: Iterable[Line]) -> dict[str, int]:
    wanted: dict[str, int] = {}
    for sku, quantity in lines:
        if quantity < 1:
            raise InvalidInput(Violation("lines", f"quantity of {sku!r} must be at least 1"))
        wanted[sku] = wanted.get(sku, 0) + quantity
    if not wanted:
        raise InvalidInput(Violation("lines", "must not be empty"))
    return wanted


def _has(item: StockItem | None, quantity: int) -> bool:
    return item is not None and item.available >= quantity


def _items(reservation: Reservation, stock: Mapping[str, StockItem | None]) -> list[tuple[StockItem, int]]:
    pairs = []
    for sku, quantity in reservation.lines:
        item = stock.get(sku)
        if item is None:
            raise NotFound("stock item", sku)
        pairs.append((item, quantity))
    return pairs


def _messages(lines: Iterable[Line]) -> list[ReservedLine]:
    return [ReservedLine(sku=sku, quantity=quantity) for sku, quantity in lines]
