"""Where an order is decided: what may be ordered, and what happens to an order until it ends.

While an order is PENDING, it alone decides: a failure, a cancel, the deadline and a prepared shipment race, and the
first one wins. Once it is CONFIRMED, shipping decides between dispatch and cancel.
An event that comes twice, or too late to matter, changes nothing.
"""

from __future__ import annotations

from enum import StrEnum
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, NamedTuple, Self

from commerce.order.v1 import order_service_pb2 as api
from commerce.order.v1.order_events_pb2 import (
    OrderCancelled,
    OrderCancelRequested,
    OrderCompleted,
    OrderConfirmed,
    OrderCreated,
)
from weft.domain import (
    Aggregate,
    InvalidInput,
    Money,
    Refused,
    Violation,
    address_violations,
    id_violations,
    text_violations,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from google.type.postal_address_pb2 import PostalAddress

MAX_LINES = 100
MAX_QUANTITY = 10_000
MAX_TOKEN = 256
MAX_NOTE = 1000


class State(StrEnum):
    """Where an order is in the flow; the names are those of `OrderState` without their prefix."""

    PENDING = "PENDING"
    CONFIRMED = "CONFIRMED"
    CANCELLING = "CANCELLING"
    SHIPPED = "SHIPPED"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"


UNFINISHED = (State.PENDING, State.CANCELLING)
"""States in which an order waits for a decision, which should come soon."""


class CancelReason(StrEnum):
    """Why an order was cancelled; the names are those of the protobuf enum without their prefix."""

    PAYMENT_DECLINED = "PAYMENT_DECLINED"
    OUT_OF_STOCK = "OUT_OF_STOCK"
    CUSTOMER_REQUEST = "CUSTOMER_REQUEST"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    OPERATOR_REQUEST = "OPERATOR_REQUEST"


class Line(NamedTuple):
    """Pieces of one sku, at the price they were sold for."""

    sku: str
    quantity: int
    unit_price: Money

    def message(self) -> api.OrderLine:
        """Return it as it travels."""
        return api.OrderLine(sku=self.sku, quantity=self.quantity, unit_price=self.unit_price.message())


class Order(Aggregate):
    """One order, and the state of its flow."""

    __slots__ = (
        "cancel_reason",
        "create_time",
        "lines",
        "order_id",
        "ship_to",
        "state",
        "total",
        "update_time",
        "user_id",
    )

    def __init__(
        self,
        *,
        order_id: str,
        user_id: str,
        state: State,
        cancel_reason: CancelReason | None,
        lines: Sequence[Line],
        total: Money,
        ship_to: PostalAddress,
        create_time: datetime,
        update_time: datetime,
    ) -> None:
        super().__init__()
        self.order_id = order_id
        self.user_id = user_id
        self.state = state
        self.cancel_reason = cancel_reason
        """Why it is cancelled; while CANCELLING, why it will be if shipping agrees."""
        self.lines = lines
        self.total = total
        self.ship_to = ship_to
        self.create_time = create_time
        self.update_time = update_time

    @classmethod
    def place(
        cls,
        *,
        order_id: str,
        user_id: str,
        lines: Sequence[Line],
        ship_to: PostalAddress,
        payment_token: str,
        now: datetime,
    ) -> Self:
        """Return a new PENDING order and record `OrderCreated`.

        Takes what `check_request` and `price_lines` let through. The payment token goes out with the event
        and is kept nowhere else.
        """
        total = _total(lines)
        order = cls(
            order_id=order_id,
            user_id=user_id,
            state=State.PENDING,
            cancel_reason=None,
            lines=tuple(lines),
            total=total,
            ship_to=ship_to,
            create_time=now,
            update_time=now,
        )
        order.record(
            OrderCreated(
                order_id=order_id,
                user_id=user_id,
                lines=[line.message() for line in lines],
                total=total.message(),
                ship_to=ship_to,
                payment_token=payment_token,
            )
        )
        return order

    @property
    def ended(self) -> bool:
        """Whether nothing can change any more."""
        return self.state in (State.COMPLETED, State.CANCELLED)

    def payment_failed(self, now: datetime) -> None:
        """The provider refused the charge."""
        if self.state is State.PENDING:
            self._cancelled(CancelReason.PAYMENT_DECLINED, now)

    def stock_rejected(self, now: datetime) -> None:
        """At least one line could not be reserved."""
        if self.state is State.PENDING:
            self._cancelled(CancelReason.OUT_OF_STOCK, now)

    def deadline_passed(self, now: datetime) -> None:
        """Payment, stock and shipment had their time."""
        if self.state is State.PENDING:
            self._cancelled(CancelReason.DEADLINE_EXCEEDED, now)

    def shipment_prepared(self, now: datetime) -> None:
        """Payment, stock and shipment are arranged."""
        if self.state is State.PENDING:
            self._enter(State.CONFIRMED, now)
            self.record(OrderConfirmed(order_id=self.order_id))

    def cancel(self, now: datetime, reason: CancelReason = CancelReason.CUSTOMER_REQUEST) -> None:
        """Somebody wants it cancelled: done at once while PENDING, shipping's decision while CONFIRMED.

        Raises `Refused` once it is shipped. Cancelling a cancelled order changes nothing, nor does asking again: the
        first reason stands.
        """
        if self.state is State.PENDING:
            self._cancelled(reason, now)
        elif self.state is State.CONFIRMED:
            self._enter(State.CANCELLING, now)
            self.cancel_reason = reason
            self.record(OrderCancelRequested(order_id=self.order_id))
        elif self.state in (State.SHIPPED, State.COMPLETED):
            raise Refused("ORDER_ALREADY_SHIPPED", f"order {self.order_id} is shipped and can no longer be cancelled")

    def shipment_cancelled(self, now: datetime) -> None:
        """Shipping stopped the shipment, as it was asked."""
        if self.state is State.CANCELLING:
            # An order that was CANCELLING before the reason was kept had none: only customers asked then.
            self._cancelled(self.cancel_reason or CancelReason.CUSTOMER_REQUEST, now)

    def shipment_dispatched(self, now: datetime) -> None:
        """The shipment is with the carrier: if somebody asked for a cancel, it came too late."""
        if self.state in (State.CONFIRMED, State.CANCELLING):
            self._enter(State.SHIPPED, now)
            self.cancel_reason = None

    def shipment_delivered(self, now: datetime) -> None:
        """The customer has it. This may be heard before the dispatch, if that was set aside and retried."""
        if self.state in (State.CONFIRMED, State.CANCELLING, State.SHIPPED):
            self._enter(State.COMPLETED, now)
            self.cancel_reason = None
            self.record(OrderCompleted(order_id=self.order_id))

    def _cancelled(self, reason: CancelReason, now: datetime) -> None:
        self._enter(State.CANCELLED, now)
        self.cancel_reason = reason
        number = api.CancelReason.Value(f"CANCEL_REASON_{reason}")
        self.record(OrderCancelled(order_id=self.order_id, reason=number, user_id=self.user_id))

    def _enter(self, state: State, now: datetime) -> None:
        self.state = state
        self.update_time = now


class ProductCopy(Aggregate):
    """What order remembers of a product, for the times when it cannot ask for the price."""

    __slots__ = ("active", "price", "revision", "sku")

    def __init__(self, *, sku: str, price: Money, active: bool, revision: int) -> None:
        super().__init__()
        self.sku = sku
        self.price = price
        self.active = active
        self.revision = revision

    def apply(self, *, price: Money, active: bool, revision: int) -> None:
        """Take over a state of the product, unless this one or a newer one is here already."""
        if revision > self.revision:
            self.price = price
            self.active = active
            self.revision = revision


class UserCopy(Aggregate):
    """What order remembers of a user: where their orders go unless they say otherwise."""

    __slots__ = ("address", "revision", "user_id")

    def __init__(self, *, user_id: str, address: PostalAddress | None, revision: int) -> None:
        super().__init__()
        self.user_id = user_id
        self.address = address
        """None if the user has not said."""
        self.revision = revision

    def apply(self, *, address: PostalAddress | None, revision: int) -> None:
        """Take over a state of the user, unless this one or a newer one is here already."""
        if revision > self.revision:
            self.address = address
            self.revision = revision


def check_request(request: api.CreateOrderRequest) -> None:
    """Check what can be checked before the prices are known.

    Raises `InvalidInput` that names every wrong field of the request, as in `lines[1].quantity`.
    """
    wrong = [*_line_violations(request.lines), *_token_violations(request.payment_token)]
    if request.HasField("ship_to"):
        wrong += address_violations("ship_to", request.ship_to)
    if wrong:
        raise InvalidInput(*wrong)


def price_lines(lines: Iterable[api.NewOrderLine], products: Mapping[str, ProductCopy]) -> list[Line]:
    """Return the lines at the prices of `products`, which has every sku that is known.

    Raises `InvalidInput` that names every line whose sku is unknown, inactive or of another currency than the
    first line's, or `lines` if the total is too large.
    """
    priced: list[Line] = []
    wrong: list[Violation] = []
    for n, line in enumerate(lines):
        product = products.get(line.sku)
        field = f"lines[{n}].sku"
        if product is None:
            wrong.append(Violation(field, f"there is no product {line.sku!r}"))
        elif not product.active:
            wrong.append(Violation(field, f"product {line.sku!r} cannot be ordered now"))
        elif priced and product.price.currency != priced[0].unit_price.currency:
            wrong.append(Violation(field, f"is not sold in {priced[0].unit_price.currency}, as {priced[0].sku!r} is"))
        else:
            priced.append(Line(line.sku, line.quantity, product.price))
    if not wrong and not _total(priced).fits:
        wrong.append(Violation("lines", "the total is too large"))
    if wrong:
        raise InvalidInput(*wrong)
    return priced


def _total(lines: Iterable[Line]) -> Money:
    return reduce(add, (line.unit_price * line.quantity for line in lines))


def _line_violations(lines: Sequence[api.NewOrderLine]) -> Iterator[Violation]:
    if not 1 <= len(lines) <= MAX_LINES:
        yield Violation("lines", f"must have 1 to {MAX_LINES} lines")
        return
    first: dict[str, int] = {}
    for n, line in enumerate(lines):
        yield from id_violations(f"lines[{n}].sku", line.sku)
        if first.setdefault(line.sku, n) != n:
            yield Violation(f"lines[{n}].sku", f"is in lines[{first[line.sku]}] already: add the quantities")
        if not 1 <= line.quantity <= MAX_QUANTITY:
            yield Violation(f"lines[{n}].quantity", f"must be 1 to {MAX_QUANTITY}")


def _token_violations(token: str) -> Iterator[Violation]:
    if not token:
        yield Violation("payment_token", "is required")
    else:
        yield from text_violations("payment_token", token, MAX_TOKEN)
