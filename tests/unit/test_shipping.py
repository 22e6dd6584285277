"""When a shipment may go, and when it must not."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest
from google.type.postal_address_pb2 import PostalAddress

from commerce.shipping.v1.shipping_events_pb2 import (
    ShippingCancelled,
    ShippingDelivered,
    ShippingDispatched,
    ShippingPrepared,
)
from services.shipping.domain import Line, Shipment, State
from tests.unit.flow import state_of
from weft.domain import Refused

NOW = datetime(2024, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
HOME = PostalAddress(region_code="CH", address_lines=["Bahnhofstrasse 1"])
LINES = [Line("chair", 2)]


def created(shipment: Shipment, now: datetime = NOW) -> None:
    shipment.order_created(LINES, HOME, "u1", now)


def order_cancelled(shipment: Shipment, now: datetime = NOW) -> None:
    shipment.order_cancelled("u1", now)


Hears = Callable[[Shipment, datetime], None]
WAITS_FOR: list[Hears] = [created, Shipment.payment_completed, Shipment.inventory_reserved]
HEARS: list[Hears] = [
    *WAITS_FOR,
    Shipment.order_confirmed,
    Shipment.cancel_requested,
    order_cancelled,
]


def waiting() -> Shipment:
    return Shipment.expect("o1", NOW)


def prepared() -> Shipment:
    shipment = waiting()
    for hear in WAITS_FOR:
        hear(shipment, NOW)
    shipment.take_recorded()
    return shipment


def confirmed() -> Shipment:
    shipment = prepared()
    shipment.order_confirmed(NOW)
    return shipment


def dispatched() -> Shipment:
    shipment = confirmed()
    shipment.dispatch(NOW)
    shipment.take_recorded()
    return shipment


def delivered() -> Shipment:
    shipment = dispatched()
    shipment.deliver(NOW)
    shipment.take_recorded()
    return shipment


def cancelled() -> Shipment:
    shipment = prepared()
    order_cancelled(shipment)
    return shipment


def test_a_shipment_bears_the_id_of_its_order() -> None:
    shipment = waiting()
    assert (shipment.shipment_id, shipment.order_id, shipment.state) == ("o1", "o1", State.WAITING)
    assert (shipment.create_time, shipment.update_time) == (NOW, NOW)


@pytest.mark.parametrize("order", list(permutations(WAITS_FOR)))
def test_a_shipment_is_prepared_once_order_payment_and_stock_are_there_in_any_order(
    order: tuple[Hears, ...],
) -> None:
    shipment = waiting()
    for hear in order[:2]:
        hear(shipment, NOW)
        assert (shipment.state, shipment.take_recorded()) == (State.WAITING, [])
    order[2](shipment, LATER)
    assert (shipment.state, shipment.lines, shipment.ship_to) == (State.PREPARED, tuple(LINES), HOME)
    assert shipment.update_time == LATER
    assert shipment.take_recorded() == [ShippingPrepared(shipment_id="o1", order_id="o1")]


@pytest.mark.parametrize("order", list(permutations(WAITS_FOR, 2)))
def test_hearing_the_same_twice_does_not_make_up_for_what_is_missing(order: tuple[Hears, ...]) -> None:
    shipment = waiting()
    for hear in order:
        hear(shipment, NOW)
    before = state_of(shipment)
    for hear in order:
        hear(shipment, LATER)
    assert (state_of(shipment), shipment.take_recorded()) == (before, [])


@pytest.mark.parametrize("hear", WAITS_FOR)
@pytest.mark.parametrize("make", [prepared, dispatched, delivered, cancelled])
def test_what_a_shipment_waited_for_changes_nothing_afterwards(make: Callable[[], Shipment], hear: Hears) -> None:
    shipment = make()
    before = state_of(shipment)
    hear(shipment, LATER)
    assert (state_of(shipment), shipment.take_recorded()) == (before, [])


def test_a_prepared_shipment_of_a_confirmed_order_is_dispatched() -> None:
    shipment = confirmed()
    shipment.dispatch(LATER)
    assert (shipment.state, shipment.update_time) == (State.DISPATCHED, LATER)
    assert shipment.take_recorded() == [ShippingDispatched(shipment_id="o1", order_id="o1")]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (waiting, "SHIPMENT_NOT_PREPARED"),
        (prepared, "ORDER_NOT_CONFIRMED"),
        (cancelled, "SHIPMENT_CANCELLED"),
    ],
)
def test_nothing_else_is_dispatched(make: Callable[[], Shipment], reason: str) -> None:
    shipment = make()
    before = state_of(shipment)
    with pytest.raises(Refused) as error:
        shipment.dispatch(LATER)
    assert error.value.reason == reason
    assert (state_of(shipment), shipment.take_recorded()) == (before, [])


@pytest.mark.parametrize("make", [dispatched, delivered])
def test_dispatching_again_changes_nothing(make: Callable[[], Shipment]) -> None:
    shipment = make()
    before = state_of(shipment)
    shipment.dispatch(LATER)
    assert (state_of(shipment), shipment.take_recorded()) == (before, [])


def test_a_confirmation_heard_before_the_rest_is_remembered() -> None:
    shipment = waiting()
    shipment.order_confirmed(NOW)
    for hear in WAITS_FOR:
        hear(shipment, NOW)
    shipment.dispatch(NOW)
    assert shipment.state is State.DISPATCHED


def test_a_confirmation_is_noted_once() -> None:
    shipment = prepared()
    shipment.order_confirmed(LATER)
    shipment.order_confirmed(LATER + timedelta(hours=1))
    assert (shipment.confirmed, shipment.update_time) == (True, LATER)


def test_a_dispatched_shipment_is_delivered() -> None:
    shipment = dispatched()
    shipment.deliver(LATER)
    assert (shipment.state, shipment.update_time) == (State.DELIVERED, LATER)
    assert shipment.take_recorded() == [ShippingDelivered(shipment_id="o1", order_id="o1")]


def test_delivering_again_changes_nothing() -> None:
    shipment = delivered()
    shipment.deliver(LATER)
    assert (shipment.update_time, shipment.take_recorded()) == (NOW, [])


@pytest.mark.parametrize("make", [waiting, prepared, confirmed, cancelled])
def test_what_was_not_dispatched_cannot_be_delivered(make: Callable[[], Shipment]) -> None:
    shipment = make()
    with pytest.raises(Refused) as error:
        shipment.deliver(LATER)
    assert error.value.reason == "SHIPMENT_NOT_DISPATCHED"
    assert shipment.take_recorded() == []


@pytest.mark.parametrize("make", [prepared, confirmed])
def test_the_customers_cancel_stops_a_prepared_shipment_and_forgets_the_address(
    make: Callable[[], Shipment],
) -> None:
    shipment = make()
    shipment.cancel_requested(LATER)
    assert (shipment.state, shipment.ship_to, shipment.update_time) == (State.CANCELLED, None, LATER)
    assert shipment.take_recorded() == [ShippingCancelled(shipment_id="o1", order_id="o1")]


@pytest.mark.parametrize("make", [waiting, dispatched, delivered, cancelled])
def test_the_customers_cancel_changes_nothing_else(make: Callable[[], Shipment]) -> None:
    shipment = make()
    before = state_of(shipment)
    shipment.cancel_requested(LATER)
    assert (state_of(shipment), shipment.take_recorded()) == (before, [])


@pytest.mark.parametrize("make", [waiting, prepared, confirmed])
def test_a_cancelled_order_stops_its_shipment_silently(make: Callable[[], Shipment]) -> None:
    shipment = make()
    order_cancelled(shipment, LATER)
    assert (shipment.state, shipment.ship_to) == (State.CANCELLED, None)
    assert shipment.take_recorded() == []


@pytest.mark.parametrize("make", [dispatched, delivered, cancelled])
def test_what_is_on_its_way_or_cancelled_cannot_be_cancelled(make: Callable[[], Shipment]) -> None:
    shipment = make()
    before = state_of(shipment)
    order_cancelled(shipment, LATER)
    assert state_of(shipment) == before


@pytest.mark.parametrize("order", list(permutations(HEARS, 3)))
def test_nothing_wakes_the_shipment_of_a_cancelled_order(order: tuple[Hears, ...]) -> None:
    shipment = waiting()
    order_cancelled(shipment)
    before = state_of(shipment)
    for hear in order:
        hear(shipment, LATER)
    assert (state_of(shipment), shipment.take_recorded()) == (before, [])
    assert shipment.ship_to is None


@pytest.mark.parametrize("hear", [created, order_cancelled])
def test_a_shipment_knows_whose_order_it_is_from_the_orders_beginning_or_end(hear: Hears) -> None:
    shipment = waiting()
    shipment.payment_completed(NOW)
    assert shipment.user_id == ""
    hear(shipment, NOW)
    assert shipment.user_id == "u1"


def test_a_shipment_still_knows_whose_order_it_is_when_a_cancel_does_not_say() -> None:
    shipment = prepared()
    shipment.order_cancelled("", LATER)
    assert (shipment.state, shipment.user_id) == (State.CANCELLED, "u1")
