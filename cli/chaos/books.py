"""What must hold of every order and every piece of stock once a system is quiet, whatever happened before.

Nothing here asks anybody: `Books` holds what the system, the provider's ledger and the streams said.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from commerce.order.v1.order_service_pb2 import CancelReason, OrderState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from google.type.money_pb2 import Money

    from commerce.order.v1.order_service_pb2 import Order

_ARRANGED = {"OrderCreated", "OrderConfirmed", "PaymentCompleted", "InventoryReserved", "ShippingPrepared"}
_SHIPPED = _ARRANGED | {"ShippingDispatched"}
_COMPLETED = _SHIPPED | {"ShippingDelivered", "OrderCompleted"}
_HAPPENED = {"CONFIRMED": _ARRANGED, "SHIPPED": _SHIPPED, "COMPLETED": _COMPLETED}
_SHIPMENTS = {"CONFIRMED": "PREPARED", "SHIPPED": "DISPATCHED", "COMPLETED": "DELIVERED"}
_UNDONE_BY = {"PaymentCompleted": "PaymentRefunded", "InventoryReserved": "InventoryReleased"}
_UNPAID = {"FAILED", "REFUNDED", "VOIDED"}


class Amount(NamedTuple):
    """Money in billionths of the currency's unit."""

    currency: str
    nanos: int

    @classmethod
    def of(cls, money: Money) -> Amount:
        """Return what a protobuf message says."""
        return cls(money.currency_code, money.units * 10**9 + money.nanos)


class Level(NamedTuple):
    """How many pieces of a sku there are, and how many of them are promised to somebody."""

    on_hand: int
    reserved: int


class Violation(NamedTuple):
    """Something that is not as it must be."""

    about: str
    """The id of an order, a sku, or the name of a service."""
    what: str

    def __str__(self) -> str:
        return f"{self.about}: {self.what}"


@dataclass(frozen=True, slots=True)
class Books:
    """What is said of orders, each by order id, and of stock by sku."""

    orders: Mapping[str, Order]
    payments: Mapping[str, str]
    charges: Mapping[str, list[Amount]]
    refunds: Mapping[str, list[Amount]]
    history: Mapping[str, Counter[str]]
    """How often each event is in the streams, by its short name; the same event twice counts once."""
    restocked: Mapping[str, int] = field(default_factory=dict)
    """How many pieces of each sku were ever put into stock."""
    stock: Mapping[str, Level] = field(default_factory=dict)
    shipments: Mapping[str, str] = field(default_factory=dict)
    """The states of shipments, as far as they were asked for."""


def state_of(order: Order) -> str:
    """Return the name of an order's state, as in `CONFIRMED`."""
    return OrderState.Name(order.state).removeprefix("ORDER_STATE_")


def reason_of(order: Order) -> str:
    """Return the name of the reason for which an order is cancelled, as in `OUT_OF_STOCK`."""
    return CancelReason.Name(order.cancel_reason).removeprefix("CANCEL_REASON_")


def find_violations(books: Books) -> list[Violation]:
    """Return everything that is not as it must be."""
    found = [violation for order in books.orders.values() for violation in _wrong_with(order, books)]
    found += [Violation(one, "money moved for it, and it is no order") for one in {*books.charges} - {*books.orders}]
    return [*found, *_wrong_with_stock(books)]


def _wrong_with(order: Order, books: Books) -> Iterator[Violation]:
    key, state = order.order_id, state_of(order)
    taken, returned = books.charges.get(key, []), books.refunds.get(key, [])
    events = books.history.get(key, Counter[str]())
    payment = books.payments.get(key, "unknown")
    shipment = books.shipments.get(key)
    ok = {"each event happened once": max(events.values(), default=0) == 1}
    if state in _HAPPENED:
        total = Amount.of(order.total)
        ok["it is charged exactly its total, once"] = taken == ([total] if total.nanos else []) and not returned
        ok["its payment is completed"] = payment == "COMPLETED"
        ok["it went the whole way"] = {*events} - {"OrderCancelRequested"} == _HAPPENED[state]
        ok["its shipment is where it is"] = shipment in (None, _SHIPMENTS[state])
    elif state == "CANCELLED":
        ok["nothing is kept of its money"] = taken == returned and len(taken) <= 1
        ok["its payment is undone"] = payment in _UNPAID
        ok["everything is undone"] = all((done in events) == (undo in events) for done, undo in _UNDONE_BY.items())
        ok["nothing is dispatched"] = "ShippingDispatched" not in events and shipment in (None, "CANCELLED")
    else:
        ok["it has ended"] = False
    facts = f"{state}, payment {payment}, taken {taken}, returned {returned}, events {dict(events)}"
    return (Violation(key, f"not so: {what} ({facts})") for what, is_so in ok.items() if not is_so)


def _wrong_with_stock(books: Books) -> Iterator[Violation]:
    pieces: dict[str, Counter[str]] = defaultdict(Counter)
    for order in books.orders.values():
        for line in order.lines:
            pieces[state_of(order)][line.sku] += line.quantity
    for sku, restocked in books.restocked.items():
        gone = pieces["SHIPPED"][sku] + pieces["COMPLETED"][sku]
        expected = Level(restocked - gone, pieces["CONFIRMED"][sku])
        if books.stock.get(sku) != expected:
            yield Violation(sku, f"the stock is {books.stock.get(sku)}, and should be {expected}")
