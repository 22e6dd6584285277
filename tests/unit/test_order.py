"""What may be ordered, and what happens to an order until it ends."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.type.postal_address_pb2 import PostalAddress
from hypothesis import given
from hypothesis import strategies as st

from commerce.order.v1.order_events_pb2 import (
    OrderCancelled,
    OrderCancelRequested,
    OrderCompleted,
    OrderConfirmed,
    OrderCreated,
)
from commerce.order.v1.order_service_pb2 import CancelReason as Reason
from commerce.order.v1.order_service_pb2 import CreateOrderRequest, NewOrderLine, OrderLine, OrderState
from services.order.domain import (
    CancelReason,
    Line,
    Order,
    ProductCopy,
    State,
    check_request,
    price_lines,
)
from tests.unit.flow import state_of
from weft.domain import InvalidInput, Money, Refused

NOW = datetime(2024, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
HOME = PostalAddress(region_code="CH", postal_code="8001", locality="Zürich", address_lines=["Bahnhofstrasse 1"])
LINES = [Line("chair", 2, Money("CHF", 10_500_000_000)), Line("table", 1, Money("CHF", 99 * 10**9))]
TOTAL = Money("CHF", 120 * 10**9)

Step = Callable[[Order, datetime], None]


def cancel_as_operator(order: Order, now: datetime) -> None:
    order.cancel(now, CancelReason.OPERATOR_REQUEST)


def place() -> Order:
    return Order.place(order_id="o1", user_id="u1", lines=LINES, ship_to=HOME, payment_token="tok_ok", now=NOW)


def in_state(state: State) -> Order:
    order = place()
    for step in PATHS[state]:
        step(order, NOW)
    order.take_recorded()
    assert order.state is state
    return order


PATHS: dict[State, list[Step]] = {
    State.PENDING: [],
    State.CONFIRMED: [Order.shipment_prepared],
    State.CANCELLING: [Order.shipment_prepared, Order.cancel],
    State.SHIPPED: [Order.shipment_prepared, Order.shipment_dispatched],
    State.COMPLETED: [Order.shipment_prepared, Order.shipment_dispatched, Order.shipment_delivered],
    State.CANCELLED: [Order.payment_failed],
}

MOVES: dict[tuple[Step, State], State] = {
    (Order.payment_failed, State.PENDING): State.CANCELLED,
    (Order.stock_rejected, State.PENDING): State.CANCELLED,
    (Order.deadline_passed, State.PENDING): State.CANCELLED,
    (Order.cancel, State.PENDING): State.CANCELLED,
    (Order.cancel, State.CONFIRMED): State.CANCELLING,
    (cancel_as_operator, State.PENDING): State.CANCELLED,
    (cancel_as_operator, State.CONFIRMED): State.CANCELLING,
    (Order.shipment_prepared, State.PENDING): State.CONFIRMED,
    (Order.shipment_cancelled, State.CANCELLING): State.CANCELLED,
    (Order.shipment_dispatched, State.CONFIRMED): State.SHIPPED,
    (Order.shipment_dispatched, State.CANCELLING): State.SHIPPED,
    (Order.shipment_delivered, State.CONFIRMED): State.COMPLETED,
    (Order.shipment_delivered, State.CANCELLING): State.COMPLETED,
    (Order.shipment_delivered, State.SHIPPED): State.COMPLETED,
}
STEPS = list(dict.fromkeys(step for step, _ in MOVES))
REFUSED = [
    (cancel, state) for cancel in (Order.cancel, cancel_as_operator) for state in (State.SHIPPED, State.COMPLETED)
]
STAYS = [(step, state) for step in STEPS for state in State if (step, state) not in [*MOVES, *REFUSED]]


def test_a_placed_order_is_pending_and_tells_all_that_the_flow_needs() -> None:
    order = place()
    assert (order.order_id, order.user_id, order.state, order.cancel_reason) == (
        "o1",
        "u1",
        State.PENDING,
        None,
    )
    assert (order.lines, order.total, order.ship_to) == (tuple(LINES), TOTAL, HOME)
    assert (order.create_time, order.update_time, order.version) == (NOW, NOW, 0)
    assert order.take_recorded() == [
        OrderCreated(
            order_id="o1",
            user_id="u1",
            lines=[
                OrderLine(sku="chair", quantity=2, unit_price=Money("CHF", 10_500_000_000).message()),
                OrderLine(sku="table", quantity=1, unit_price=Money("CHF", 99 * 10**9).message()),
            ],
            total=TOTAL.message(),
            ship_to=HOME,
            payment_token="tok_ok",
        )
    ]


def test_the_payment_token_is_kept_nowhere_but_in_the_event() -> None:
    assert "tok_ok" not in repr(state_of(place()))


@pytest.mark.parametrize(("step", "state"), MOVES)
def test_an_order_moves_as_the_flow_says(step: Step, state: State) -> None:
    order = in_state(state)
    step(order, LATER)
    assert (order.state, order.update_time, order.create_time) == (MOVES[step, state], LATER, NOW)


@pytest.mark.parametrize(("step", "state"), STAYS)
def test_what_comes_twice_or_too_late_changes_nothing(step: Step, state: State) -> None:
    order = in_state(state)
    before = state_of(order)
    step(order, LATER)
    assert (state_of(order), order.take_recorded()) == (before, [])


@pytest.mark.parametrize(("step", "state"), REFUSED)
def test_a_shipped_order_cannot_be_cancelled(step: Step, state: State) -> None:
    order = in_state(state)
    with pytest.raises(Refused, match="o1 is shipped") as error:
        step(order, LATER)
    assert error.value.reason == "ORDER_ALREADY_SHIPPED"
    assert (order.state, order.take_recorded()) == (state, [])


@pytest.mark.parametrize(
    ("step", "state", "reason"),
    [
        (Order.payment_failed, State.PENDING, CancelReason.PAYMENT_DECLINED),
        (Order.stock_rejected, State.PENDING, CancelReason.OUT_OF_STOCK),
        (Order.deadline_passed, State.PENDING, CancelReason.DEADLINE_EXCEEDED),
        (Order.cancel, State.PENDING, CancelReason.CUSTOMER_REQUEST),
        (cancel_as_operator, State.PENDING, CancelReason.OPERATOR_REQUEST),
        (Order.shipment_cancelled, State.CANCELLING, CancelReason.CUSTOMER_REQUEST),
    ],
)
def test_a_cancelled_order_tells_why(step: Step, state: State, reason: CancelReason) -> None:
    order = in_state(state)
    step(order, LATER)
    assert order.cancel_reason is reason
    assert order.take_recorded() == [
        OrderCancelled(order_id="o1", reason=Reason.Value(f"CANCEL_REASON_{reason}"), user_id="u1")
    ]


def test_a_prepared_shipment_confirms_the_order() -> None:
    order = in_state(State.PENDING)
    order.shipment_prepared(LATER)
    assert order.take_recorded() == [OrderConfirmed(order_id="o1")]


def test_shipping_is_asked_about_the_cancel_of_a_confirmed_order() -> None:
    order = in_state(State.CONFIRMED)
    order.cancel(LATER)
    assert order.take_recorded() == [OrderCancelRequested(order_id="o1")]


def test_who_asked_first_for_the_cancel_of_a_confirmed_order_is_its_reason() -> None:
    order = in_state(State.CONFIRMED)
    cancel_as_operator(order, LATER)
    order.cancel(LATER)
    order.shipment_cancelled(LATER)
    assert order.cancel_reason is CancelReason.OPERATOR_REQUEST


def test_a_dispatch_overtakes_the_customers_cancel_silently() -> None:
    order = in_state(State.CANCELLING)
    order.shipment_dispatched(LATER)
    assert (order.state, order.cancel_reason, order.take_recorded()) == (State.SHIPPED, None, [])


@pytest.mark.parametrize("state", [State.CONFIRMED, State.CANCELLING, State.SHIPPED])
def test_a_delivered_order_is_completed_even_if_its_dispatch_was_never_heard_of(state: State) -> None:
    order = in_state(state)
    order.shipment_delivered(LATER)
    assert order.take_recorded() == [OrderCompleted(order_id="o1")]


@pytest.mark.parametrize("state", State)
def test_only_completed_and_cancelled_orders_have_ended(state: State) -> None:
    assert in_state(state).ended == (state in (State.COMPLETED, State.CANCELLED))


def test_states_and_reasons_are_those_of_the_contract() -> None:
    assert {f"ORDER_STATE_{state}" for state in State} == set(OrderState.keys()) - {"ORDER_STATE_UNSPECIFIED"}
    assert {f"CANCEL_REASON_{reason}" for reason in CancelReason} == set(Reason.keys()) - {"CANCEL_REASON_UNSPECIFIED"}


def request(**changed: Any) -> CreateOrderRequest:
    fields = {"lines": [line("chair", 2)], "payment_token": "tok_ok", "ship_to": HOME}
    return CreateOrderRequest(**{key: value for key, value in {**fields, **changed}.items() if value is not None})


def line(sku: str, quantity: int = 1) -> NewOrderLine:
    return NewOrderLine(sku=sku, quantity=quantity)


def address(**changed: Any) -> PostalAddress:
    return PostalAddress(**{"region_code": "CH", "address_lines": ["Bahnhofstrasse 1"], **changed})


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"lines": [line(f"sku-{n}", 10_000) for n in range(100)]},
        {"payment_token": "x" * 256},
        {"ship_to": None},
        {"ship_to": address(region_code="419", address_lines=["", "x" * 200], recipients=["Ada"] * 10)},
    ],
)
def test_a_sound_request_is_let_through(changed: dict[str, Any]) -> None:
    check_request(request(**changed))


@pytest.mark.parametrize(
    ("changed", "fields"),
    [
        ({"lines": []}, ["lines"]),
        ({"lines": [line(f"sku-{n}") for n in range(101)]}, ["lines"]),
        ({"lines": [line("chair", 0)]}, ["lines[0].quantity"]),
        ({"lines": [line("chair", -1)]}, ["lines[0].quantity"]),
        ({"lines": [line("chair"), line("table", 10_001)]}, ["lines[1].quantity"]),
        ({"lines": [line("chair"), line("chair*")]}, ["lines[1].sku"]),
        ({"lines": [line("")]}, ["lines[0].sku"]),
        (
            {"lines": [line("chair"), line("table"), line("chair"), line("chair")]},
            ["lines[2].sku", "lines[3].sku"],
        ),
        (
            {"lines": [line("a b", 0), line("chair", 0)]},
            ["lines[0].sku", "lines[0].quantity", "lines[1].quantity"],
        ),
        ({"payment_token": ""}, ["payment_token"]),
        ({"payment_token": "x" * 257}, ["payment_token"]),
        ({"payment_token": "tok\0"}, ["payment_token"]),
        ({"ship_to": PostalAddress()}, ["ship_to.region_code", "ship_to.address_lines"]),
        ({"ship_to": address(region_code="Switzerland")}, ["ship_to.region_code"]),
        ({"ship_to": address(region_code="ch")}, ["ship_to.region_code"]),
        ({"ship_to": address(address_lines=["", " "])}, ["ship_to.address_lines"]),
        ({"ship_to": address(address_lines=["x"] * 11)}, ["ship_to.address_lines"]),
        ({"ship_to": address(address_lines=["x", "x" * 201])}, ["ship_to.address_lines[1]"]),
        ({"ship_to": address(recipients=["x"] * 11)}, ["ship_to.recipients"]),
        ({"ship_to": address(recipients=["x\0"])}, ["ship_to.recipients[0]"]),
        ({"ship_to": address(locality="x" * 201)}, ["ship_to.locality"]),
        ({"ship_to": address(organization="\0")}, ["ship_to.organization"]),
        (
            {"lines": [], "payment_token": "", "ship_to": PostalAddress()},
            ["lines", "payment_token", "ship_to.region_code", "ship_to.address_lines"],
        ),
    ],
)
def test_every_wrong_field_of_a_request_is_named(changed: dict[str, Any], fields: list[str]) -> None:
    with pytest.raises(InvalidInput) as error:
        check_request(request(**changed))
    assert [violation.field for violation in error.value.violations] == fields


def test_a_wrong_request_does_not_give_the_token_away() -> None:
    with pytest.raises(InvalidInput) as error:
        check_request(request(payment_token="secret" * 50))
    assert "secret" not in str(error.value)


def copies(*products: ProductCopy) -> dict[str, ProductCopy]:
    return {product.sku: product for product in products}


def copy(sku: str, units: int = 10, currency: str = "CHF", active: bool = True) -> ProductCopy:
    return ProductCopy(sku=sku, price=Money(currency, units * 10**9), active=active, revision=3)


def wrong_lines(lines: list[NewOrderLine], products: dict[str, ProductCopy]) -> list[tuple[str, str]]:
    with pytest.raises(InvalidInput) as error:
        price_lines(lines, products)
    return [(violation.field, violation.description) for violation in error.value.violations]


def test_lines_are_sold_at_the_price_of_their_product() -> None:
    priced = price_lines([line("table", 3), line("chair")], copies(copy("chair", 10), copy("table", 99)))
    assert priced == [Line("table", 3, Money("CHF", 99 * 10**9)), Line("chair", 1, Money("CHF", 10 * 10**9))]


def test_unknown_and_inactive_products_are_named_all_at_once() -> None:
    products = copies(copy("chair"), copy("table", active=False))
    assert wrong_lines([line("lamp"), line("chair"), line("table")], products) == [
        ("lines[0].sku", "there is no product 'lamp'"),
        ("lines[2].sku", "product 'table' cannot be ordered now"),
    ]


def test_one_order_has_one_currency() -> None:
    products = copies(copy("chair"), copy("table", currency="EUR"), copy("lamp"))
    assert wrong_lines([line("chair"), line("table"), line("lamp")], products) == [
        ("lines[1].sku", "is not sold in CHF, as 'chair' is")
    ]


def test_a_total_that_nobody_could_charge_is_refused() -> None:
    products = copies(copy("palace", units=9_000_000_000), copy("chair"))
    assert wrong_lines([line("palace", 2), line("chair")], products) == [("lines", "the total is too large")]
    assert price_lines([line("palace", 1), line("chair")], products)


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(1, 10_000)), min_size=1, max_size=20))
def test_the_total_is_the_exact_sum_of_its_lines(prices: list[tuple[int, int]]) -> None:
    lines = [Line(f"sku-{n}", quantity, Money("CHF", nanos)) for n, (nanos, quantity) in enumerate(prices)]
    order = Order.place(order_id="o1", user_id="u1", lines=lines, ship_to=HOME, payment_token="t", now=NOW)
    assert order.total == Money("CHF", sum(nanos * quantity for nanos, quantity in prices))


def test_a_copy_takes_over_a_newer_state() -> None:
    product = copy("chair")
    product.apply(price=Money("EUR", 1), active=False, revision=4)
    assert (product.price, product.active, product.revision) == (Money("EUR", 1), False, 4)


@pytest.mark.parametrize("revision", [1, 3])
def test_a_copy_passes_over_what_it_has_or_had(revision: int) -> None:
    product = copy("chair")
    before = state_of(product)
    product.apply(price=Money("EUR", 1), active=False, revision=revision)
    assert state_of(product) == before
