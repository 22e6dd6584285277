"""A stranger's first order, as the README has it: with curl over REST, and with plain gRPC."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from commerce.order.v1 import order_service_pb2 as orders
from commerce.order.v1.order_service_pb2_grpc import OrderServiceStub
from commerce.user.v1 import user_service_pb2 as users
from commerce.user.v1.user_service_pb2_grpc import UserServiceStub
from tests.flow.audit import audit
from tests.flow.shop import HOME, PATIENCE, TIMEOUT
from weft.domain import new_id
from weft.testing import eventually

if TYPE_CHECKING:
    from tests.flow.shop import Shop

Json = Any


class Curl:
    """Calls a gateway with curl, as one would type it."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self.token = ""

    async def __call__(self, method: str, path: str, body: Json = None, token: str | None = None) -> tuple[int, Json]:
        """Return the status of the answer, and its JSON."""
        command = ["curl", "--silent", "--show-error", "--noproxy", "*", "--request", method]
        command += ["--write-out", "\n%{http_code}"]
        if bearer := self.token if token is None else token:
            command += ["--header", f"Authorization: Bearer {bearer}"]
        if body is not None:
            command += ["--json", json.dumps(body)]
        process = await asyncio.create_subprocess_exec(
            *command, f"{self._gateway}{path}", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        text, _, status = out.decode().rpartition("\n")
        return int(status), json.loads(text)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
async def test_a_front_end_developer_registers_signs_in_and_orders_with_curl(shop: Shop) -> None:
    sku = await shop.offer(10)
    curl = Curl(shop.system.gateway)
    account = {"email": f"{new_id()}@example.com", "password": "correct horse"}
    address = {"regionCode": "CH", "addressLines": ["Bahnhofstrasse 1", "8001 Zürich"]}
    status, user = await curl("POST", "/v1/users", account | {"displayName": "Ann", "address": address})
    assert (status, user["role"], user["address"]["regionCode"]) == (200, "USER_ROLE_CUSTOMER", "CH")
    status, session = await curl("POST", "/v1/sessions", account)
    assert status == 200
    curl.token = session["accessToken"]

    status, order = await curl("POST", "/v1/orders", {"lines": [{"sku": sku, "quantity": 2}], "paymentToken": "tok_ok"})
    assert (status, order["state"], order["userId"]) == (200, "ORDER_STATE_PENDING", user["userId"])
    assert order["shipTo"]["addressLines"] == address["addressLines"]
    path = f"/v1/orders/{order['orderId']}"

    async def state() -> str:
        return str((await curl("GET", path))[1]["state"])

    async def is_confirmed() -> bool:
        return await state() == "ORDER_STATE_CONFIRMED"

    await eventually(is_confirmed, PATIENCE, "the order is confirmed")
    assert (await curl("GET", f"{path}/payment"))[1]["state"] == "PAYMENT_STATE_COMPLETED"
    assert (await curl("GET", f"{path}/shipment"))[1]["state"] == "SHIPMENT_STATE_PREPARED"
    assert (await curl("POST", f"{path}:cancel", {}))[0] == 200

    async def is_cancelled() -> bool:
        return await state() == "ORDER_STATE_CANCELLED"

    await eventually(is_cancelled, PATIENCE, "the order is cancelled")
    status, page = await curl("GET", "/v1/orders?page_size=10")
    assert (status, [one["orderId"] for one in page["orders"]]) == (200, [order["orderId"]])
    await audit(shop)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
async def test_bad_requests_over_rest_say_what_is_wrong(shop: Shop) -> None:
    sku = await shop.offer(1)
    order_id = await shop.order(sku)
    curl = Curl(shop.system.gateway)
    account = {"email": f"{new_id()}@example.com", "password": "correct horse"}
    assert (await curl("POST", "/v1/users", account))[0] == 200
    assert (await curl("POST", "/v1/users", account))[0] == 409
    token = (await curl("POST", "/v1/sessions", account))[1]["accessToken"]
    lines = [{"sku": sku, "quantity": 0}]
    status, error = await curl("POST", "/v1/orders", {"lines": lines}, token)
    [violations] = [one["fieldViolations"] for one in error["details"] if "fieldViolations" in one]
    assert (status, error["code"]) == (400, 3)
    assert [one["field"] for one in violations] == ["lines[0].quantity", "paymentToken"]
    product = {"sku": "a-sku", "title": "A thing", "price": {"currencyCode": "EUR", "units": "1"}}
    refusals = {
        401: [
            await curl("GET", f"/v1/orders/{order_id}"),
            await curl("GET", f"/v1/orders/{order_id}", token="nonsense"),
            await curl("POST", "/v1/sessions", account | {"password": "wrong horse"}),
            await curl("POST", "/v1/sessions", account | {"email": "nobody@example.com"}),
        ],
        403: [
            await curl("POST", "/v1/products", product, token),
            await curl("POST", f"/v1/inventory/{sku}:restock", {"quantity": 1}, token),
            await curl("POST", f"/v1/shipments/{order_id}:dispatch", {}, token),
        ],
        404: [
            await curl("GET", f"/v1/orders/{order_id}", token=token),
            await curl("POST", f"/v1/orders/{order_id}:cancel", {}, token),
            await curl("GET", f"/v1/orders/{order_id}/payment", token=token),
            await curl("GET", f"/v1/orders/{order_id}/shipment", token=token),
            await curl("GET", "/v1/no-such-thing", token=token),
        ],
        405: [await curl("DELETE", f"/v1/orders/{order_id}", token=token)],
    }
    for status, answers in refusals.items():
        assert {got for got, _ in answers} == {status}
        assert all(body["message"] for _, body in answers)
    wrong_password, unknown_email = (body for _, body in refusals[401][2:])
    assert wrong_password == unknown_email


async def test_a_service_developer_registers_signs_in_and_orders_over_grpc(shop: Shop) -> None:
    sku = await shop.offer(1)
    async with (
        grpc.aio.insecure_channel(shop.system.address("user")) as to_user,
        grpc.aio.insecure_channel(shop.system.address("order")) as to_order,
    ):
        account = {"email": f"{new_id()}@example.com", "password": "correct horse"}
        user, order = UserServiceStub(to_user), OrderServiceStub(to_order)
        await user.RegisterUser(users.RegisterUserRequest(**account, address=HOME), timeout=TIMEOUT)
        session = (await user.SignIn(users.SignInRequest(**account), timeout=TIMEOUT)).session
        metadata = (("authorization", f"Bearer {session.access_token}"),)
        request = orders.CreateOrderRequest(lines=[orders.NewOrderLine(sku=sku, quantity=1)], payment_token="tok_ok")
        placed = (await order.CreateOrder(request, metadata=metadata, timeout=TIMEOUT)).order
        watching = order.WatchOrder(orders.WatchOrderRequest(order_id=placed.order_id), metadata=metadata)
        async for seen in watching:
            if seen.order.state == orders.ORDER_STATE_CONFIRMED:
                break
        watching.cancel()
        cancelling = orders.CancelOrderRequest(order_id=placed.order_id)
        await order.CancelOrder(cancelling, metadata=metadata, timeout=TIMEOUT)
        await shop.becomes(placed.order_id, "CANCELLED")
        listed = await order.ListOrders(orders.ListOrdersRequest(), metadata=metadata, timeout=TIMEOUT)
        assert [one.order_id for one in listed.orders] == [placed.order_id]
    await audit(shop)
