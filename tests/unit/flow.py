"""The five contexts in memory: their domain objects, wired by the smallest handlers there can be.

`World` lets a test deliver any event to any context at any moment, twice, late or after its successors.
`check_at_rest` and `check_stock` say what must hold then.
"""

from __future__ import annotations

from collections.abc import Hashable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from google.protobuf.message import Message
from google.type.money_pb2 import Money as MoneyMessage
from google.type.postal_address_pb2 import PostalAddress

from commerce.inventory.v1.inventory_events_pb2 import InventoryRejected, InventoryReserved
from commerce.order.v1.order_events_pb2 import (
    OrderCancelled,
    OrderCancelRequested,
    OrderConfirmed,
    OrderCreated,
)
from commerce.order.v1.order_service_pb2 import CreateOrderRequest, NewOrderLine
from commerce.payment.v1.payment_events_pb2 import PaymentCompleted, PaymentFailed
from commerce.payment.v1.payment_journal_pb2 import PaymentCancelled
from commerce.product.v1.product_events_pb2 import ProductCreated, ProductUpdated
from commerce.shipping.v1.shipping_events_pb2 import (
    ShippingCancelled,
    ShippingDelivered,
    ShippingDispatched,
    ShippingPrepared,
)
from services.inventory import domain as inventory
from services.order import domain as order
from services.payment import domain as payment
from services.product import domain as product
from services.shipping import domain as shipping
from weft.domain import Aggregate, Money, WeftError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

START = datetime(2024, 1, 1, tzinfo=UTC)
HOME = PostalAddress(region_code="CH", address_lines=["Bahnhofstrasse 1"])


class Context:
    """One service: its aggregates, what it hears, and what it publishes."""

    name: ClassVar[str]
    listens: ClassVar[tuple[str, ...]]
    """The contexts whose events it reads."""

    def __init__(self) -> None:
        self.now = START

    def aggregates(self) -> Iterator[Aggregate]:
        raise NotImplementedError

    def handle(self, event: Message) -> None:
        """Do what `event` asks for; an event of no interest is passed over."""

    def take(self) -> list[Message]:
        """Return the events to publish, and forget them."""
        return [event for aggregate in self.aggregates() for event in aggregate.take_recorded()]

    def state(self) -> Hashable:
        """Return all that decides how it goes on."""
        return tuple(state_of(aggregate) for aggregate in self.aggregates())


class Catalogue(Context):
    name = "product"
    listens = ()

    def __init__(self) -> None:
        super().__init__()
        self.products: dict[str, product.Product] = {}

    def aggregates(self) -> Iterator[Aggregate]:
        yield from self.products.values()

    def create(self, sku: str, price: int) -> None:
        self.products[sku] = product.Product.create(
            sku=sku, title=sku, description="", price=francs(price), active=True, now=self.now
        )

    def change(self, sku: str, price: int, active: bool) -> None:
        self.products[sku].change(price=francs(price), active=active, now=self.now)


class Orders(Context):
    name = "order"
    listens = ("product", "payment", "inventory", "shipping")

    def __init__(self) -> None:
        super().__init__()
        self.orders: dict[str, order.Order] = {}
        self.copies: dict[str, order.ProductCopy] = {}

    def aggregates(self) -> Iterator[Aggregate]:
        yield from self.orders.values()
        yield from self.copies.values()

    def place(self, order_id: str, quantities: Mapping[str, int], token: str) -> None:
        lines = [NewOrderLine(sku=sku, quantity=quantity) for sku, quantity in quantities.items()]
        order.check_request(CreateOrderRequest(lines=lines, payment_token=token, ship_to=HOME))
        self.orders[order_id] = order.Order.place(
            order_id=order_id,
            user_id="u1",
            lines=order.price_lines(lines, self.copies),
            ship_to=HOME,
            payment_token=token,
            now=self.now,
        )

    def cancel(self, order_id: str) -> None:
        self.orders[order_id].cancel(self.now)

    def deadline_passed(self, order_id: str) -> None:
        self.orders[order_id].deadline_passed(self.now)

    def handle(self, event: Message) -> None:
        match event:
            case ProductCreated() | ProductUpdated():
                self._copy(event)
            case PaymentFailed():
                self.orders[event.order_id].payment_failed(self.now)
            case InventoryRejected():
                self.orders[event.order_id].stock_rejected(self.now)
            case ShippingPrepared():
                self.orders[event.order_id].shipment_prepared(self.now)
            case ShippingDispatched():
                self.orders[event.order_id].shipment_dispatched(self.now)
            case ShippingDelivered():
                self.orders[event.order_id].shipment_delivered(self.now)
            case ShippingCancelled():
                self.orders[event.order_id].shipment_cancelled(self.now)

    def _copy(self, event: ProductCreated | ProductUpdated) -> None:
        copy = self.copies.get(event.sku)
        price = Money.of(event.price)
        if copy is None:
            self.copies[event.sku] = order.ProductCopy(
                sku=event.sku, price=price, active=event.active, revision=event.revision
            )
        else:
            copy.apply(price=price, active=event.active, revision=event.revision)


class Payments(Context):
    """Payment, and the payment provider with its ledger."""

    name = "payment"
    listens = ("order",)

    def __init__(self) -> None:
        super().__init__()
        self.payments: dict[str, payment.Payment] = {}
        self.journal: dict[str, list[Message]] = {}
        self.tokens: dict[str, str] = {}
        self.intents: list[tuple[str, str]] = []
        """What the provider is still to do: charge or refund, and the order's id."""
        self.ledger: list[tuple[str, str, Money]] = []
        """What the provider did."""

    def aggregates(self) -> Iterator[Aggregate]:
        yield from self.payments.values()

    def handle(self, event: Message) -> None:
        match event:
            case OrderCreated():
                self.tokens[event.order_id] = event.payment_token
                if self._payment(event.order_id).request(Money.of(event.total), event.user_id):
                    self.intents.append(("charge", event.order_id))
            case OrderCancelled():
                if self._payment(event.order_id).cancel(event.user_id):
                    self.intents.append(("refund", event.order_id))

    def act(self, intent: tuple[str, str]) -> None:
        """Let the provider do what was wanted, and learn its answer."""
        kind, order_id = intent
        self.intents.remove(intent)
        amount = self.payments[order_id].amount
        if amount is not None and (kind == "refund" or self.tokens[order_id] == "tok_ok"):
            self.ledger.append((kind, order_id, amount))
        self.learn(intent)

    def learn(self, intent: tuple[str, str]) -> None:
        """Take note of the provider's answer, which is always the same."""
        kind, order_id = intent
        paid = self.payments[order_id]
        if kind == "refund":
            paid.refunded("refund-1")
        elif self.tokens[order_id] != "tok_ok":
            paid.declined("card declined")
        elif paid.charged("charge-1"):
            self.intents.append(("refund", order_id))

    def take(self) -> list[Message]:
        events: list[Message] = []
        for order_id, paid in self.payments.items():
            recorded = paid.take_recorded()
            events += recorded
            self.journal.setdefault(order_id, []).extend(recorded)
        return [event for event in events if isinstance(event, payment.PUBLISHED)]

    def state(self) -> Hashable:
        journal = tuple(type(event).__name__ for events in self.journal.values() for event in events)
        return super().state(), journal, tuple(self.intents), tuple(self.ledger)

    def _payment(self, order_id: str) -> payment.Payment:
        return self.payments.setdefault(order_id, payment.Payment(order_id=order_id))


class Inventory(Context):
    name = "inventory"
    listens = ("product", "order", "shipping")

    def __init__(self) -> None:
        super().__init__()
        self.stock: dict[str, inventory.StockItem | None] = {}
        self.reservations: dict[str, inventory.Reservation] = {}
        self.received: dict[str, int] = {}
        """How many pieces of each sku ever came in."""

    def aggregates(self) -> Iterator[Aggregate]:
        yield from (item for item in self.stock.values() if item)
        yield from self.reservations.values()

    def restock(self, sku: str, quantity: int) -> None:
        item = self.stock.get(sku)
        if item:
            item.restock(quantity)
            self.received[sku] = self.received.get(sku, 0) + quantity

    def handle(self, event: Message) -> None:
        match event:
            case ProductCreated():
                self.stock.setdefault(event.sku, inventory.StockItem(sku=event.sku))
            case OrderCreated():
                self._reserve(event)
            case OrderCancelled():
                self._release(event.order_id)
            case ShippingDispatched():
                held = self.reservations.get(event.order_id)
                if held:
                    inventory.ship(held, self.stock)

    def _reserve(self, event: OrderCreated) -> None:
        if event.order_id not in self.reservations:
            lines = [inventory.Line(line.sku, line.quantity) for line in event.lines]
            self.reservations[event.order_id] = inventory.reserve(event.order_id, lines, self.stock)

    def _release(self, order_id: str) -> None:
        held = self.reservations.get(order_id)
        if held:
            inventory.release(held, self.stock)
        else:
            self.reservations[order_id] = inventory.Reservation.void(order_id)


class Shipments(Context):
    name = "shipping"
    listens = ("order", "payment", "inventory")

    def __init__(self) -> None:
        super().__init__()
        self.shipments: dict[str, shipping.Shipment] = {}

    def aggregates(self) -> Iterator[Aggregate]:
        yield from self.shipments.values()

    def dispatch(self, order_id: str) -> None:
        if order_id in self.shipments:
            self.shipments[order_id].dispatch(self.now)

    def deliver(self, order_id: str) -> None:
        if order_id in self.shipments:
            self.shipments[order_id].deliver(self.now)

    def handle(self, event: Message) -> None:
        match event:
            case OrderCreated():
                lines = [shipping.Line(line.sku, line.quantity) for line in event.lines]
                self._shipment(event.order_id).order_created(lines, event.ship_to, event.user_id, self.now)
            case PaymentCompleted():
                self._shipment(event.order_id).payment_completed(self.now)
            case InventoryReserved():
                self._shipment(event.order_id).inventory_reserved(self.now)
            case OrderConfirmed():
                self._shipment(event.order_id).order_confirmed(self.now)
            case OrderCancelRequested():
                self._shipment(event.order_id).cancel_requested(self.now)
            case OrderCancelled():
                self._shipment(event.order_id).order_cancelled(event.user_id, self.now)

    def _shipment(self, order_id: str) -> shipping.Shipment:
        return self.shipments.setdefault(order_id, shipping.Shipment.expect(order_id, self.now))


class World:
    """All contexts, each with the log of what it published, and where each of its readers is in it."""

    def __init__(self) -> None:
        self.catalogue = Catalogue()
        self.orders = Orders()
        self.payments = Payments()
        self.inventory = Inventory()
        self.shipments = Shipments()
        self.contexts: dict[str, Context] = {
            context.name: context
            for context in (self.catalogue, self.orders, self.payments, self.inventory, self.shipments)
        }
        self.logs: dict[str, list[Message]] = {name: [] for name in self.contexts}
        self.cursors = {(reader, name): 0 for reader in self.contexts for name in self.contexts[reader].listens}
        self.set_aside: list[tuple[str, Message]] = []
        """The dead letters: reader and event."""
        self.handled: list[tuple[str, Message]] = []
        self.answered: list[tuple[str, str]] = []

    def do(self, context: Context, command: Callable[[], None]) -> None:
        """Run a command in `context` and publish its events; one that is refused changes nothing."""
        before = context.state()
        try:
            self._run(context, command)
        except WeftError:
            assert (context.state(), context.take()) == (before, [])

    def unread(self) -> list[tuple[str, str]]:
        """Return the (reader, log) pairs of which the reader is not at the end of the log."""
        return [pair for pair, cursor in self.cursors.items() if cursor < len(self.logs[pair[1]])]

    def read(self, reader: str, log: str, *, aside: bool = False) -> None:
        """Let a reader handle the next event of a log, or set it aside as a dead letter."""
        event = self.logs[log][self.cursors[reader, log]]
        self.cursors[reader, log] += 1
        if aside:
            self.set_aside.append((reader, event))
        else:
            self._handle(reader, event)

    def retry(self, index: int) -> None:
        """Handle what was set aside, whatever was handled meanwhile."""
        self._handle(*self.set_aside.pop(index))

    def repeat_everything(self) -> None:
        """Deliver again all that was handled, and give every answer again: it changes nothing."""
        before = {name: context.state() for name, context in self.contexts.items()}
        for reader, event in self.handled:
            self.contexts[reader].now += timedelta(seconds=1)
            self.contexts[reader].handle(event)
        for intent in self.answered:
            self.payments.learn(intent)
        for name, context in self.contexts.items():
            assert (context.take(), context.state()) == ([], before[name]), f"{name} is moved by a repetition"

    def answer(self, index: int) -> None:
        """Let the provider do what it was asked for, and payment learn the answer."""
        intent = self.payments.intents[index]
        self.answered.append(intent)
        self._run(self.payments, partial(self.payments.act, intent))

    def come_to_rest(self) -> None:
        """Retry, deliver and answer until nothing is left to do."""
        while self.set_aside or self.unread() or self.payments.intents:
            if self.set_aside:
                self.retry(0)
            for reader, log in self.unread():
                self.read(reader, log)
            if self.payments.intents:
                self.answer(0)

    def _handle(self, reader: str, event: Message) -> None:
        context = self.contexts[reader]
        self._run(context, partial(context.handle, event))
        self.handled.append((reader, event))

    def _run(self, context: Context, work: Callable[[], None]) -> None:
        context.now += timedelta(seconds=1)
        work()
        self.logs[context.name] += context.take()


def state_of(aggregate: Aggregate) -> Hashable:
    """Return what the aggregate is, without how often it was saved."""
    return tuple(_plain(getattr(aggregate, name)) for name in type(aggregate).__slots__)


def check_at_rest(
    order_id: str, orders: Orders, payments: Payments, inventory_: Inventory, shipments: Shipments
) -> None:
    """Check what must hold of an order about which nothing is left to do."""
    placed = orders.orders[order_id]
    charges = [amount for kind, id_, amount in payments.ledger if (kind, id_) == ("charge", order_id)]
    refunds = [amount for kind, id_, amount in payments.ledger if (kind, id_) == ("refund", order_id)]
    paid = payments.payments[order_id]
    held = inventory_.reservations[order_id]
    shipment = shipments.shipments[order_id]
    if placed.state is order.State.CANCELLED:
        assert placed.cancel_reason is not None
        assert charges == refunds, "net charge"
        assert len(charges) <= 1, "charged more than once"
        assert paid.state in ("FAILED", "REFUNDED", "VOIDED")
        assert held.state in ("REJECTED", "RELEASED", "VOIDED"), "stock held"
        assert shipment.state == "CANCELLED", "shipped though cancelled"
        assert shipment.ship_to is None, "address kept"
    else:
        assert placed.state in _BEYOND, f"stuck in {placed.state}"
        assert placed.cancel_reason is None
        assert (charges, refunds) == ([placed.total], []), "charged exactly once"
        assert paid.state == "COMPLETED"
        assert list(held.lines) == [(line.sku, line.quantity) for line in placed.lines], "reserved exactly"
        assert [tuple(line) for line in shipment.lines] == list(held.lines)
        assert (held.state, shipment.state) == _BEYOND[placed.state]


def check_stock(inventory_: Inventory) -> None:
    """Check that no piece was lost, made up or promised twice."""
    promised = _pieces(inventory_, inventory.State.RESERVED)
    shipped = _pieces(inventory_, inventory.State.SHIPPED)
    for sku, item in inventory_.stock.items():
        assert item is not None
        assert 0 <= item.reserved <= item.on_hand
        assert item.reserved == promised.get(sku, 0), "promised"
        assert item.on_hand == inventory_.received.get(sku, 0) - shipped.get(sku, 0), "on hand"


def check_journal(payments: Payments) -> None:
    """Check that every payment is the replay of its journal, and that nothing follows a tombstone."""
    for order_id, paid in payments.payments.items():
        journal = payments.journal[order_id]
        assert state_of(payment.Payment.replay(order_id, journal)) == state_of(paid)
        assert not isinstance(journal[0], PaymentCancelled) or len(journal) == 1, "tombstone ignored"


def francs(units: int) -> MoneyMessage:
    """Return an amount as it travels."""
    return MoneyMessage(currency_code="CHF", units=units)


_BEYOND = {
    order.State.CONFIRMED: ("RESERVED", "PREPARED"),
    order.State.SHIPPED: ("SHIPPED", "DISPATCHED"),
    order.State.COMPLETED: ("SHIPPED", "DELIVERED"),
}


def _pieces(inventory_: Inventory, state: inventory.State) -> dict[str, int]:
    pieces: dict[str, int] = {}
    for held in inventory_.reservations.values():
        if held.state is state:
            for sku, quantity in held.lines:
                pieces[sku] = pieces.get(sku, 0) + quantity
    return pieces


def _plain(value: object) -> Hashable:
    if isinstance(value, Message):
        return value.SerializeToString(deterministic=True)
    assert isinstance(value, Hashable)
    return value
