"""Whose orders a caller sees and cancels, and where an order goes that does not say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from google.type.postal_address_pb2 import PostalAddress

from commerce.order.v1 import order_service_pb2 as api
from commerce.user.v1.user_events_pb2 import UserRegistered, UserUpdated
from tests.component.callers import bearer, signed
from tests.component.orders import ADDRESS
from tests.component.support import reason, refusal, violations

if TYPE_CHECKING:
    from tests.component.orders import FakeUser, Orders

BERN = PostalAddress(region_code="CH", address_lines=["Bundesplatz 3", "3005 Bern"])


async def ids_listed(orders: Orders, user: str, **wanted: str) -> list[str]:
    page = await orders.stub.ListOrders(api.ListOrdersRequest(**wanted), metadata=signed(user))
    return [order.order_id for order in page.orders]


async def test_an_order_is_the_callers_own(orders: Orders) -> None:
    placed = await orders.place(user="bob")
    assert placed.user_id == "bob"
    assert await orders.get(placed.order_id, user="bob") == placed
    assert (await orders.cancel(placed.order_id, user="bob")).state == api.ORDER_STATE_CANCELLED


async def test_another_users_order_is_not_found_and_not_cancelled(orders: Orders) -> None:
    placed = await orders.place(user="bob")
    watching = orders.stub.WatchOrder(api.WatchOrderRequest(order_id=placed.order_id), metadata=signed("carl"))
    for call in (orders.get(placed.order_id, "carl"), orders.cancel(placed.order_id, "carl"), watching.read()):
        error = await refusal(call)
        assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        assert error.details() == f"there is no order '{placed.order_id}'"
    assert await orders.get(placed.order_id) == placed


async def test_customers_list_their_own_orders_and_admins_everybodys(orders: Orders) -> None:
    bobs, carls = (await orders.place(user="bob")).order_id, (await orders.place(user="carl")).order_id
    assert await ids_listed(orders, "bob") == [bobs]
    assert await ids_listed(orders, "bob", user_id="bob") == [bobs]
    assert await ids_listed(orders, "") == [carls, bobs]
    error = await refusal(ids_listed(orders, "bob", user_id="carl"))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_an_order_that_does_not_say_goes_to_the_users_own_address(orders: Orders, user: FakeUser) -> None:
    user.addresses["bob"] = BERN
    assert (await orders.place(user="bob", ship_to=None)).ship_to == BERN
    assert (await orders.place(user="bob")).ship_to == ADDRESS
    assert user.tokens == [bearer("bob", "customer")], "it is asked once, with the caller's token"


async def test_an_order_that_can_go_nowhere_is_refused_by_the_fields_name(orders: Orders) -> None:
    assert list(violations(await refusal(orders.place(user="bob", ship_to=None)))) == ["ship_to"]


async def test_while_user_does_not_answer_the_remembered_address_counts(orders: Orders, user: FakeUser) -> None:
    user.refuses = True
    error = await refusal(orders.place(user="bob", ship_to=None))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    await orders.hears(
        UserRegistered(user_id="bob", revision=1),
        UserUpdated(user_id="bob", address=BERN, revision=3),
        UserUpdated(user_id="bob", address=ADDRESS, revision=2),
    )
    assert (await orders.place(user="bob", ship_to=None)).ship_to == BERN


async def test_a_remembered_user_without_address_has_none(orders: Orders, user: FakeUser) -> None:
    user.refuses = True
    await orders.hears(UserRegistered(user_id="bob", revision=1))
    assert list(violations(await refusal(orders.place(user="bob", ship_to=None)))) == ["ship_to"]
