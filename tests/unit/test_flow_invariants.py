"""The flow's invariants hold under any order, repetition, delay and loss-until-retried of events.

Orders compete for the same stock while readers lag, events are set aside as dead letters and retried after
their successors, and customers, the clock, the provider and the warehouse do what they want when they want.
"""

from __future__ import annotations

from functools import partial

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.flow import World, check_at_rest, check_journal, check_stock

SKUS = ("chair", "table")
PICK = st.integers(min_value=0, max_value=59)
"""Which of those that there are, counted round."""

QUANTITIES = st.dictionaries(st.sampled_from(SKUS), st.integers(1, 3), min_size=1)


class Flow(RuleBasedStateMachine):
    """Whatever happens, in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.patience = False

    def order_id(self, pick: int) -> str:
        ids = list(self.world.orders.orders)
        return ids[pick % len(ids)]

    def has_orders(self) -> bool:
        return bool(self.world.orders.orders)

    @initialize(levels=st.tuples(st.integers(0, 8), st.integers(0, 8)), patience=st.booleans())
    def open_the_shop(self, levels: tuple[int, int], patience: bool) -> None:
        world = self.world
        self.patience = patience
        for sku in SKUS:
            world.do(world.catalogue, partial(world.catalogue.create, sku, 10))
        world.come_to_rest()
        for sku, level in zip(SKUS, levels, strict=True):
            world.do(world.inventory, partial(world.inventory.restock, sku, level))

    @precondition(lambda self: len(self.world.orders.orders) < 3)
    @rule(quantities=QUANTITIES, token=st.sampled_from(("tok_ok", "tok_ok", "tok_declined")))
    def place_an_order(self, quantities: dict[str, int], token: str) -> None:
        orders = self.world.orders
        self.world.do(orders, lambda: orders.place(f"o{len(orders.orders)}", quantities, token))

    @precondition(lambda self: self.world.unread())
    @rule(pick=PICK, count=st.integers(1, 4))
    def read_on(self, pick: int, count: int) -> None:
        unread = self.world.unread()
        reader, log = unread[pick % len(unread)]
        for _ in range(count):
            if (reader, log) in self.world.unread():
                self.world.read(reader, log)

    @precondition(lambda self: self.world.unread() or self.world.payments.intents)
    @rule(answer=st.booleans())
    def all_catch_up(self, answer: bool) -> None:
        world = self.world
        while world.unread() or (answer and world.payments.intents):
            for reader, log in world.unread():
                world.read(reader, log)
            if answer and world.payments.intents:
                world.answer(0)

    @precondition(lambda self: self.world.unread())
    @rule(pick=PICK)
    def set_an_event_aside(self, pick: int) -> None:
        unread = self.world.unread()
        self.world.read(*unread[pick % len(unread)], aside=True)

    @precondition(lambda self: self.world.set_aside)
    @rule(pick=PICK)
    def retry_what_was_set_aside(self, pick: int) -> None:
        self.world.retry(pick % len(self.world.set_aside))

    @precondition(has_orders)
    @rule()
    def everything_comes_again(self) -> None:
        self.world.repeat_everything()

    @precondition(lambda self: self.world.payments.intents)
    @rule(pick=PICK)
    def the_provider_answers(self, pick: int) -> None:
        self.world.answer(pick % len(self.world.payments.intents))

    @precondition(has_orders)
    @rule(pick=PICK)
    def the_customer_cancels(self, pick: int) -> None:
        orders, order_id = self.world.orders, self.order_id(pick)
        if not self.patience or orders.orders[order_id].state != "PENDING":
            self.world.do(orders, lambda: orders.cancel(order_id))

    @precondition(lambda self: self.has_orders() and not self.patience)
    @rule(pick=PICK)
    def the_deadline_passes(self, pick: int) -> None:
        orders, order_id = self.world.orders, self.order_id(pick)
        self.world.do(orders, lambda: orders.deadline_passed(order_id))

    @precondition(has_orders)
    @rule(pick=PICK)
    def a_shipment_moves_on(self, pick: int) -> None:
        shipments, order_id = self.world.shipments, self.order_id(pick)
        self.world.do(shipments, lambda: shipments.deliver(order_id))
        self.world.do(shipments, lambda: shipments.dispatch(order_id))

    @rule(sku=st.sampled_from(SKUS), price=st.integers(1, 3), active=st.booleans())
    def a_product_changes(self, sku: str, price: int, active: bool) -> None:
        catalogue = self.world.catalogue
        self.world.do(catalogue, lambda: catalogue.change(sku, price, active))

    @rule(sku=st.sampled_from(SKUS), quantity=st.integers(1, 3))
    def stock_comes_in(self, sku: str, quantity: int) -> None:
        inventory = self.world.inventory
        self.world.do(inventory, lambda: inventory.restock(sku, quantity))

    @invariant()
    def no_piece_is_lost_or_promised_twice(self) -> None:
        check_stock(self.world.inventory)

    @invariant()
    def a_payment_is_its_journal(self) -> None:
        check_journal(self.world.payments)

    @invariant()
    def what_was_dispatched_is_paid_and_confirmed(self) -> None:
        for order_id, shipment in self.world.shipments.shipments.items():
            if shipment.state in ("DISPATCHED", "DELIVERED"):
                assert self.world.orders.orders[order_id].state not in ("PENDING", "CANCELLED")
                assert self.world.payments.payments[order_id].state == "COMPLETED"

    def teardown(self) -> None:
        world = self.world
        world.come_to_rest()
        world.repeat_everything()
        self.no_piece_is_lost_or_promised_twice()
        for order_id in world.orders.orders:
            check_at_rest(order_id, world.orders, world.payments, world.inventory, world.shipments)
        for sku, product in world.catalogue.products.items():
            copy = world.orders.copies[sku]
            assert (copy.price, copy.active, copy.revision) == (
                product.price,
                product.active,
                product.revision,
            )


TestFlow = Flow.TestCase
TestFlow.settings = settings(max_examples=400, stateful_step_count=80)
