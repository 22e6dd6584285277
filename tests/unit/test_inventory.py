"""How stock is promised to orders, given back and shipped."""

import pytest

from commerce.inventory.v1.inventory_events_pb2 import (
    InventoryRejected,
    InventoryReleased,
    InventoryReserved,
    InventoryUpdated,
    ReservedLine,
)
from services.inventory import domain
from services.inventory.domain import MAX_RESTOCK, Line, Reservation, State, StockItem
from weft.domain import InvalidInput, NotFound, Refused

LINES = [Line("chair", 2), Line("table", 1)]
MESSAGES = [ReservedLine(sku="chair", quantity=2), ReservedLine(sku="table", quantity=1)]


def stock(**on_hand: int) -> dict[str, StockItem | None]:
    return {sku: StockItem(sku=sku, on_hand=pieces) for sku, pieces in on_hand.items()}


def levels(items: dict[str, StockItem | None]) -> dict[str, tuple[int, int]]:
    return {sku: (item.on_hand, item.reserved) for sku, item in items.items() if item}


def reserved(items: dict[str, StockItem | None]) -> Reservation:
    reservation = domain.reserve("o1", LINES, items)
    reservation.take_recorded()
    return reservation


def test_a_new_sku_has_no_stock() -> None:
    item = StockItem(sku="chair")
    assert (item.on_hand, item.reserved, item.available) == (0, 0, 0)


def test_what_is_promised_is_not_available() -> None:
    assert StockItem(sku="chair", on_hand=5, reserved=2).available == 3


@pytest.mark.parametrize("quantity", [1, MAX_RESTOCK])
def test_restocking_adds_to_what_is_on_hand(quantity: int) -> None:
    item = StockItem(sku="chair", on_hand=5, reserved=2)
    item.restock(quantity)
    assert (item.on_hand, item.reserved) == (5 + quantity, 2)


@pytest.mark.parametrize("quantity", [0, -1, MAX_RESTOCK + 1])
def test_restocking_by_nothing_or_too_much_is_refused(quantity: int) -> None:
    item = StockItem(sku="chair", on_hand=5)
    with pytest.raises(InvalidInput) as error:
        item.restock(quantity)
    assert [violation.field for violation in error.value.violations] == ["quantity"]
    assert item.on_hand == 5


@pytest.mark.parametrize("quantity", [0, -1, 4])
def test_no_more_than_is_available_can_be_promised(quantity: int) -> None:
    item = StockItem(sku="chair", on_hand=5, reserved=2)
    with pytest.raises(Refused, match="only 3 pieces of chair"):
        item.reserve(quantity)
    assert (item.on_hand, item.reserved) == (5, 2)


@pytest.mark.parametrize("quantity", [0, -1, 3])
def test_no_more_than_is_promised_can_be_released_or_shipped(quantity: int) -> None:
    item = StockItem(sku="chair", on_hand=5, reserved=2)
    with pytest.raises(Refused, match="only 2 pieces of chair"):
        item.release(quantity)
    with pytest.raises(Refused, match="only 2 pieces of chair"):
        item.ship(quantity)
    assert (item.on_hand, item.reserved) == (5, 2)


def test_an_order_is_promised_every_line() -> None:
    items = stock(chair=2, table=5)
    reservation = domain.reserve("o1", LINES, items)
    assert (reservation.order_id, reservation.state) == ("o1", State.RESERVED)
    assert reservation.lines == (Line("chair", 2), Line("table", 1))
    assert levels(items) == {"chair": (2, 2), "table": (5, 1)}
    assert reservation.take_recorded() == [InventoryReserved(order_id="o1", lines=MESSAGES)]


def test_an_order_gets_nothing_if_one_line_is_missing() -> None:
    items = stock(chair=1, table=5)
    reservation = domain.reserve("o1", LINES, items)
    assert reservation.state is State.REJECTED
    assert levels(items) == {"chair": (1, 0), "table": (5, 0)}
    assert reservation.take_recorded() == [InventoryRejected(order_id="o1", missing_skus=["chair"])]


def test_a_rejection_names_every_missing_sku_also_unknown_ones() -> None:
    reservation = domain.reserve("o1", LINES, {"chair": None})
    assert reservation.take_recorded() == [InventoryRejected(order_id="o1", missing_skus=["chair", "table"])]


def test_lines_of_the_same_sku_count_together() -> None:
    items = stock(chair=3)
    reservation = domain.reserve("o1", [Line("chair", 2), Line("chair", 2)], items)
    assert (reservation.state, reservation.lines) == (State.REJECTED, (Line("chair", 4),))
    assert levels(items) == {"chair": (3, 0)}


@pytest.mark.parametrize("lines", [[], [Line("chair", 0)], [Line("table", 1), Line("chair", -1)]])
def test_a_malformed_order_is_refused_and_changes_nothing(lines: list[Line]) -> None:
    items = stock(chair=3, table=3)
    with pytest.raises(InvalidInput):
        domain.reserve("o1", lines, items)
    assert levels(items) == {"chair": (3, 0), "table": (3, 0)}


def test_the_last_piece_goes_to_one_order_only() -> None:
    items = stock(chair=2, table=1)
    assert domain.reserve("o1", LINES, items).state is State.RESERVED
    assert domain.reserve("o2", [Line("table", 1)], items).state is State.REJECTED


def test_a_cancelled_order_gives_back_what_it_held() -> None:
    items = stock(chair=2, table=5)
    reservation = reserved(items)
    domain.release(reservation, items)
    assert reservation.state is State.RELEASED
    assert levels(items) == {"chair": (2, 0), "table": (5, 0)}
    assert reservation.take_recorded() == [InventoryReleased(order_id="o1", lines=MESSAGES)]


def test_what_an_order_held_leaves_the_warehouse_with_its_shipment() -> None:
    items = stock(chair=2, table=5)
    reservation = reserved(items)
    domain.ship(reservation, items)
    assert reservation.state is State.SHIPPED
    assert levels(items) == {"chair": (0, 0), "table": (4, 0)}
    assert reservation.take_recorded() == []


@pytest.mark.parametrize("state", [State.REJECTED, State.RELEASED, State.SHIPPED, State.VOIDED])
def test_an_order_that_holds_nothing_can_neither_give_back_nor_ship(state: State) -> None:
    items = stock(chair=2, table=5)
    reservation = Reservation(order_id="o1", state=state, lines=tuple(LINES))
    domain.release(reservation, items)
    domain.ship(reservation, items)
    assert (reservation.state, reservation.take_recorded()) == (state, [])
    assert levels(items) == {"chair": (2, 0), "table": (5, 0)}


def test_stock_that_is_gone_is_told_before_anything_is_changed() -> None:
    items = stock(chair=2, table=5)
    reservation = reserved(items)
    items["table"] = None
    with pytest.raises(NotFound, match="table"):
        domain.release(reservation, items)
    assert (reservation.state, levels(items)) == (State.RESERVED, {"chair": (2, 2)})


def test_a_cancel_before_the_order_leaves_a_tombstone() -> None:
    reservation = Reservation.void("o1")
    assert (reservation.state, reservation.lines, reservation.take_recorded()) == (State.VOIDED, (), [])


def test_a_level_tells_what_a_copy_needs() -> None:
    assert domain.level(StockItem(sku="chair", on_hand=5, reserved=2), 7) == InventoryUpdated(
        sku="chair", on_hand=5, reserved=2, available=3, revision=7
    )
