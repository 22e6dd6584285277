"""Those who do not belong to the house: a client without generated code, and strangers on the streams."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import nats
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.flow.audit import audit, dead_letters
from tests.flow.shop import PATIENCE
from weft.domain import new_id
from weft.testing import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.js import JetStreamContext

    from tests.flow.shop import Shop
    from tests.flow.systems import WholeSystem


class ReflectingClient:
    """Calls the methods of a service about which it knows nothing but what the server tells."""

    def __init__(self, address: str, service: str, authorization: str) -> None:
        self._channel = grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),))
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(self._channel))
        self._service = pool.FindServiceByName(service)
        self._metadata = (("authorization", authorization),)

    def __call__(self, name: str, request: dict[str, Any]) -> dict[str, Any]:
        """Call a method, with JSON in and out."""
        method = self._service.methods_by_name[name]
        call: grpc.UnaryUnaryMultiCallable[Any, Any] = self._channel.unary_unary(
            f"/{self._service.full_name}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        message = ParseDict(request, GetMessageClass(method.input_type)())
        answer: dict[str, Any] = MessageToDict(call(message, timeout=10, wait_for_ready=True, metadata=self._metadata))
        return answer

    def close(self) -> None:
        self._channel.close()


async def test_a_client_without_generated_code_places_an_order_by_reflection(shop: Shop) -> None:
    sku = await shop.offer(1)
    address, service = shop.system.address("order"), "commerce.order.v1.OrderService"
    client = await asyncio.to_thread(ReflectingClient, address, service, shop.customer)
    request = {"lines": [{"sku": sku, "quantity": 1}], "paymentToken": "tok_ok"}

    async def confirmed() -> bool:
        found = await asyncio.to_thread(client, "GetOrder", {"orderId": order_id})
        return bool(found["order"]["state"] == "ORDER_STATE_CONFIRMED")

    try:
        placed = await asyncio.to_thread(client, "CreateOrder", request)
        order_id = placed["order"]["orderId"]
        await eventually(confirmed, PATIENCE)
    finally:
        client.close()
    books = await audit(shop)
    assert books.charges[order_id] == [("EUR", 5_000_000_000)]


class Stranger:
    """Publishes whatever it likes to the streams."""

    def __init__(self, system: WholeSystem, jetstream: JetStreamContext) -> None:
        self._system = system
        self._jetstream = jetstream

    async def publish(self, event_type: str, body: bytes, **headers: str) -> str:
        """Publish a CloudEvent; an empty header is left out. Return the id of the aggregate that it is about."""
        key = f"stranger-{new_id()}"
        self._system.strangers.add(key)
        attributes = {"id": new_id(), "type": event_type, "subject": key, "specversion": "1.0", "source": "/stranger"}
        sent = {f"ce-{name}": value for name, value in (attributes | headers).items() if value}
        await self._jetstream.publish(f"{event_type}.{key}", body, headers=sent or None)
        return key


@asynccontextmanager
async def stranger_to(system: WholeSystem) -> AsyncIterator[Stranger]:
    """Let a stranger in."""
    client = await nats.connect(system.nats)
    try:
        yield Stranger(system, client.jetstream())
    finally:
        await client.close()


async def has_letter(system: WholeSystem, service: str, key: str, reason: str, body: bytes) -> None:
    """Wait for the dead letter of a stranger's event: it has the original bytes."""
    found = await eventually(
        lambda: [letter for letter in dead_letters(system, service) if letter.key == key],
        PATIENCE,
        f"a dead letter of {service} about {key}",
    )
    assert [(letter.reason, letter.body) for letter in found] == [(reason, body)]


async def test_a_malformed_event_becomes_a_dead_letter_wherever_it_is_read_and_the_flow_goes_on(shop: Shop) -> None:
    garbage = b"\xff\xff no protobuf"
    async with stranger_to(shop.system) as stranger:
        key = await stranger.publish("commerce.order.v1.OrderCreated", garbage)
    order_id = await shop.order(await shop.offer(1))
    await shop.becomes(order_id, "CONFIRMED")
    for service in ("payment", "inventory", "shipping"):
        await has_letter(shop.system, service, key, "UNDECODABLE", garbage)
    await audit(shop)


async def test_a_message_that_is_no_cloudevent_becomes_a_dead_letter(shop: Shop) -> None:
    nothing = {"id": "", "type": "", "subject": "", "specversion": "", "source": ""}
    async with stranger_to(shop.system) as stranger:
        bare = await stranger.publish("commerce.shipping.v1.ShippingPrepared", b"", **nothing)
        lying = await stranger.publish("commerce.payment.v1.PaymentFailed", b"", type="commerce.order.v1.OrderCreated")
    order_id = await shop.order(await shop.offer(1))
    await shop.becomes(order_id, "CONFIRMED")
    await has_letter(shop.system, "order", bare, "UNDECODABLE", b"")
    await has_letter(shop.system, "order", lying, "UNDECODABLE", b"")
    await audit(shop)


async def test_an_event_about_an_order_that_does_not_exist_becomes_a_dead_letter(shop: Shop) -> None:
    body = b"\x0a\x07nobodys"  # order_id: "nobodys"
    async with stranger_to(shop.system) as stranger:
        key = await stranger.publish("commerce.payment.v1.PaymentFailed", body)
    order_id = await shop.order(await shop.offer(1), "tok_declined")
    await shop.becomes(order_id, "CANCELLED")
    await has_letter(shop.system, "order", key, "REFUSED", body)
    await audit(shop)


async def test_an_event_of_a_type_that_nobody_knows_disturbs_nobody(shop: Shop) -> None:
    async with stranger_to(shop.system) as stranger:
        key = await stranger.publish("commerce.order.v1.OrderTeleported", b"beam")
    order_id = await shop.order(await shop.offer(1))
    await shop.becomes(order_id, "CONFIRMED")
    await audit(shop)
    letters = [letter for name in ("payment", "inventory", "shipping") for letter in dead_letters(shop.system, name)]
    assert key not in {letter.key for letter in letters}
