"""Order over gRPC, on both databases: what it takes, at which prices, and what it refuses."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from google.type.postal_address_pb2 import PostalAddress

from commerce.inventory.v1.inventory_events_pb2 import InventoryRejected
from commerce.order.v1 import order_service_pb2 as api
from commerce.order.v1.order_events_pb2 import OrderCancelled, OrderConfirmed, OrderCreated
from commerce.payment.v1.payment_events_pb2 import PaymentFailed
from commerce.product.v1.product_events_pb2 import ProductCreated, ProductUpdated
from commerce.shipping.v1.shipping_events_pb2 import (
    ShippingDelivered,
    ShippingDispatched,
    ShippingPrepared,
)
from tests.component.orders import (
    ADDRESS,
    NOTHING_WRITTEN,
    euros,
    request,
)
from tests.component.support import count, reason, refusal, violations
from weft.domain import new_id

if TYPE_CHECKING:
    from tests.component.orders import FakeProduct, Orders


def line(sku: str = "mug", quantity: int = 2) -> api.NewOrderLine:
    return api.NewOrderLine(sku=sku, quantity=quantity)


def address(**changed: Any) -> PostalAddress:
    fields: dict[str, Any] = {"region_code": "DE", "address_lines": ["1 Sample Street"]}
    return PostalAddress(**fields | changed)


WRONG_WHATEVER_THE_PRICES: list[tuple[dict[str, Any], list[str]]] = [
    ({"lines": []}, ["lines"]),
    ({"lines": [line(f"sku-{n}") for n in range(101)]}, ["lines"]),
    ({"lines": [line(quantity=0)]}, ["lines[0].quantity"]),
    ({"lines": [line(), line("tee", -1)]}, ["lines[1].quantity"]),
    ({"lines": [line(quantity=10_001)]}, ["lines[0].quantity"]),
    ({"lines": [line(""), line("a b")]}, ["lines[0].sku", "lines[1].sku"]),
    ({"lines": [line(), line("tee"), line()]}, ["lines[2].sku"]),
    ({"payment_token": ""}, ["payment_token"]),
    ({"payment_token": "x" * 257}, ["payment_token"]),
    ({"ship_to": address(region_code="")}, ["ship_to.region_code"]),
    ({"ship_to": address(address_lines=[" "])}, ["ship_to.address_lines"]),
    ({"ship_to": address(locality="nul\0")}, ["ship_to.locality"]),
    (
        {"lines": [line(quantity=0)], "payment_token": "", "ship_to": address(region_code="")},
        ["lines[0].quantity", "payment_token", "ship_to.region_code"],
    ),
]
WRONG_FOR_PRODUCT: list[tuple[list[api.NewOrderLine], dict[str, str]]] = [
    ([line(), line("nonesuch")], {"lines[1].sku": "there is no product 'nonesuch'"}),
    ([line("hat")], {"lines[0].sku": "product 'hat' cannot be ordered now"}),
    ([line(), line("book")], {"lines[1].sku": "is not sold in EUR, as 'mug' is"}),
    ([line("yacht")], {"lines": "the total is too large"}),
    (
        [line("nonesuch"), line("hat")],
        {
            "lines[0].sku": "there is no product 'nonesuch'",
            "lines[1].sku": "product 'hat' cannot be ordered now",
        },
    ),
]


async def test_an_order_is_taken_at_the_products_prices_and_published(orders: Orders) -> None:
    placed = await orders.place(lines=[line("mug", 2), line("tee", 1)])
    assert (placed.state, placed.cancel_reason) == (api.ORDER_STATE_PENDING, api.CANCEL_REASON_UNSPECIFIED)
    assert placed.lines == [
        api.OrderLine(sku="mug", quantity=2, unit_price=euros(12)),
        api.OrderLine(sku="tee", quantity=1, unit_price=euros(20)),
    ]
    assert (placed.user_id, placed.total, placed.ship_to) == ("ann", euros(44), ADDRESS)
    assert placed.create_time == placed.update_time
    assert await orders.get(placed.order_id) == placed
    event = await orders.streams.wait_for(OrderCreated, placed.order_id)
    assert event.body == OrderCreated(
        order_id=placed.order_id,
        user_id="ann",
        lines=placed.lines,
        total=placed.total,
        ship_to=ADDRESS,
        payment_token="tok_ok",
    )


async def test_a_wrong_request_is_refused_before_anybody_is_asked(orders: Orders, product: FakeProduct) -> None:
    for changed, fields in WRONG_WHATEVER_THE_PRICES:
        assert sorted(violations(await refusal(orders.place(**changed)))) == fields, changed
    assert product.asked == 0
    assert await orders.written() == NOTHING_WRITTEN


async def test_what_product_does_not_sell_is_refused_and_nothing_is_written(orders: Orders) -> None:
    for lines, wrong in WRONG_FOR_PRODUCT:
        assert violations(await refusal(orders.place(lines=lines))) == wrong
    assert await orders.written() == NOTHING_WRITTEN


async def test_an_order_keeps_the_prices_of_its_time(orders: Orders, product: FakeProduct) -> None:
    before = await orders.place()
    product.products["mug"].price.CopyFrom(euros(15))
    after = await orders.place()
    assert (before.total, after.total) == (euros(24), euros(30))
    assert await orders.get(before.order_id) == before


async def test_while_product_is_down_its_newest_known_prices_count(orders: Orders, product: FakeProduct) -> None:
    product.refuses = True
    newest = ProductUpdated(sku="mug", title="Mug", price=euros(14), active=True, revision=3)
    older = ProductUpdated(sku="mug", title="Mug", price=euros(13), active=True, revision=2)
    await orders.hears(ProductCreated(sku="mug", price=euros(12), active=True, revision=1), newest, older)
    assert (await orders.place()).total == euros(28)
    product.refuses = False
    assert (await orders.place()).total == euros(24)


async def test_while_product_is_down_an_unknown_price_is_unavailable_and_no_unknown_sku(
    orders: Orders, product: FakeProduct
) -> None:
    product.refuses = True
    await orders.hears(ProductCreated(sku="tee", price=euros(20), active=True, revision=1))
    error = await refusal(orders.place(lines=[line("tee"), line("mug"), line("nonesuch")]))
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
    assert "mug, nonesuch" in (error.details() or "")
    assert await orders.written() == NOTHING_WRITTEN


async def test_while_product_is_down_what_was_last_inactive_cannot_be_ordered(
    orders: Orders, product: FakeProduct
) -> None:
    product.refuses = True
    await orders.hears(ProductCreated(sku="hat", price=euros(30), active=True, revision=1))
    await orders.hears(ProductUpdated(sku="hat", price=euros(30), active=False, revision=2))
    error = await refusal(orders.place(lines=[line("hat")]))
    assert violations(error) == {"lines[0].sku": "product 'hat' cannot be ordered now"}


async def test_a_product_that_does_not_answer_costs_an_order_a_second_at_most(
    orders: Orders, product: FakeProduct
) -> None:
    product.is_silent = True
    await orders.hears(ProductCreated(sku="mug", price=euros(12), active=True, revision=1))
    placed = await orders.stub.CreateOrder(request(), timeout=5)
    assert placed.order.total == euros(24)


async def test_an_order_whose_caller_is_in_a_hurry_still_gets_the_known_prices(
    orders: Orders, product: FakeProduct
) -> None:
    product.is_silent = True
    await orders.hears(ProductCreated(sku="mug", price=euros(12), active=True, revision=1))
    placed = await orders.stub.CreateOrder(request(), timeout=0.9)
    assert placed.order.total == euros(24)


async def test_callers_in_a_hurry_keep_nobody_else_from_product(orders: Orders, product: FakeProduct) -> None:
    product.is_silent = True
    for _ in range(5):
        await refusal(orders.stub.CreateOrder(request(), timeout=0.2))
    product.is_silent = False
    assert (await orders.place()).total == euros(24)


async def test_a_product_that_keeps_failing_is_left_alone(orders: Orders, product: FakeProduct) -> None:
    product.refuses = True
    await orders.hears(ProductCreated(sku="mug", price=euros(12), active=True, revision=1))
    await asyncio.gather(*(orders.place() for _ in range(5)))
    asked, product.refuses = product.asked, False
    product.products["mug"].price.CopyFrom(euros(15))
    assert (await orders.place()).total == euros(24)
    error = await refusal(orders.place(lines=[line("tee")]))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert product.asked == asked


async def test_a_declined_card_cancels_the_order(orders: Orders) -> None:
    placed = await orders.place()
    await orders.hears(PaymentFailed(order_id=placed.order_id, reason="declined"))
    order = await orders.get(placed.order_id)
    assert (order.state, order.cancel_reason) == (
        api.ORDER_STATE_CANCELLED,
        api.CANCEL_REASON_PAYMENT_DECLINED,
    )
    event = await orders.streams.wait_for(OrderCancelled, placed.order_id)
    assert event.body == OrderCancelled(
        order_id=placed.order_id, reason=api.CANCEL_REASON_PAYMENT_DECLINED, user_id="ann"
    )


async def test_missing_stock_cancels_the_order(orders: Orders) -> None:
    placed = await orders.place()
    await orders.hears(InventoryRejected(order_id=placed.order_id, missing_skus=["mug"]))
    order = await orders.get(placed.order_id)
    assert (order.state, order.cancel_reason) == (api.ORDER_STATE_CANCELLED, api.CANCEL_REASON_OUT_OF_STOCK)


async def test_an_order_goes_from_its_shipment_to_the_door(orders: Orders) -> None:
    order_id = (await orders.place()).order_id
    ids = {"shipment_id": order_id, "order_id": order_id}
    for event, state in (
        (ShippingPrepared(**ids), api.ORDER_STATE_CONFIRMED),
        (ShippingDispatched(**ids), api.ORDER_STATE_SHIPPED),
        (ShippingDelivered(**ids), api.ORDER_STATE_COMPLETED),
    ):
        await orders.hears(event, event)
        order = await orders.get(order_id)
        assert order.state == state
        assert order.update_time.ToNanoseconds() > order.create_time.ToNanoseconds()
    assert await orders.published(order_id) == ["OrderCreated", "OrderConfirmed", "OrderCompleted"]


async def test_the_first_decision_about_an_order_stands(orders: Orders) -> None:
    order_id = (await orders.place()).order_id
    await orders.hears(
        PaymentFailed(order_id=order_id, reason="declined"),
        InventoryRejected(order_id=order_id, missing_skus=["mug"]),
        ShippingPrepared(shipment_id=order_id, order_id=order_id),
    )
    order = await orders.get(order_id)
    assert (await orders.cancel(order_id)) == order
    assert order.state == api.ORDER_STATE_CANCELLED
    assert await orders.published(order_id) == ["OrderCreated", "OrderCancelled"]


async def test_an_event_tells_what_caused_it(orders: Orders) -> None:
    order_id = (await orders.place()).order_id
    cause = await orders.streams.publish(ShippingPrepared(shipment_id=order_id, order_id=order_id))
    confirmed = await orders.streams.wait_for(OrderConfirmed, order_id)
    assert confirmed.headers["weft-causation-id"] == cause
    assert confirmed.headers["weft-correlation-id"] == order_id


async def test_an_event_that_cannot_be_handled_is_a_dead_letter_and_the_next_one_is_handled(
    orders: Orders,
) -> None:
    order_id, streams = (await orders.place()).order_id, orders.streams
    free = ProductCreated(sku="free", active=True, revision=1)
    strange = [
        await streams.publish(PaymentFailed(order_id="nobodys", reason="declined")),
        await streams.publish(PaymentFailed(order_id=""), "empty"),
        await streams.publish(free),
        await streams.publish(PaymentFailed(order_id=order_id), subject="another"),
        await streams.publish(PaymentFailed(order_id=order_id), type="commerce.payment.v1.Unknown"),
        await streams.publish_bytes(
            f"commerce.payment.v1.PaymentFailed.{order_id}",
            b"\xff",
            {"id": new_id(), "type": "commerce.payment.v1.PaymentFailed", "subject": order_id},
        ),
    ]
    await streams.publish_bytes(f"commerce.payment.v1.PaymentFailed.{order_id}", b"", {})
    await orders.hears(InventoryRejected(order_id=order_id, missing_skus=["mug"]))
    assert (await orders.get(order_id)).cancel_reason == api.CANCEL_REASON_OUT_OF_STOCK
    buried = ", ".join(f"'{event_id}'" for event_id in strange)
    assert await count(orders.service, "dead_letters", f"event_id IN ({buried})") == len(strange)
    assert await count(orders.service, "dead_letters") == len(strange) + 1
    assert await count(orders.service, "product_copies") == 0


async def test_an_event_with_an_id_that_no_database_takes_holds_up_nobody(orders: Orders) -> None:
    order_id = (await orders.place()).order_id
    await orders.streams.publish(PaymentFailed(order_id="nul\0"), "strange")
    await orders.hears(PaymentFailed(order_id=order_id, reason="declined"))
    assert (await orders.get(order_id)).state == api.ORDER_STATE_CANCELLED
