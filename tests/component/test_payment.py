"""Payment as a service: orders come in by their stream, money moves at the provider, outcomes go out."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import grpc
import nats
import pytest
import pytest_asyncio
from google.type.money_pb2 import Money

from commerce.order.v1.order_events_pb2 import OrderCancelled
from commerce.payment.v1 import payment_service_pb2 as api
from commerce.payment.v1.payment_events_pb2 import PaymentCompleted, PaymentFailed, PaymentRefunded
from commerce.payment.v1.payment_service_pb2_grpc import PaymentServiceStub
from services.payment.service import build
from services.payment.settings import Settings
from tests.component.payments import (
    CHARGED_ONCE,
    GIVEN_BACK,
    NEVER_CHARGED,
    TOTAL,
    Sandbox,
    a_charge,
    answering,
    journal,
    order,
    outcomes,
    payment_of,
    refusal,
)
from tests.component.support import calling, count, handled_all, reason, running, violations
from weft.domain import new_id
from weft.testing import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from commerce.order.v1.order_events_pb2 import OrderCreated
    from tests.component.support import NewDatabase, Streams
    from weft import Service
    from weft.testing import StoredEvent


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path_factory.mktemp("provider"))
    sandbox.start()
    yield sandbox
    sandbox.stop()


@pytest_asyncio.fixture
async def settings(new_database_url: NewDatabase, nats_url: str, sandbox: Sandbox) -> Settings:
    url = await new_database_url("payment")
    return Settings(database_url=url, nats_url=nats_url, provider_url=sandbox.url, retry_base=0.02, retry_cap=0.1)


def but(settings: Settings, **changed: Any) -> Settings:
    return settings.model_copy(update=changed)


async def has_been_asked(service: Service, order_id: str) -> None:
    """Return once a call to the provider has failed to tell its outcome."""
    where = f"key = '{order_id}' AND attempts > 0"
    await eventually(lambda: count(service, "intents", where), what="an outcome was unknown")


async def store(nats_url: str, subject: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Put a message into its stream as it is."""
    client = await nats.connect(nats_url)
    await client.jetstream().publish(subject, body, headers=dict(headers))
    await client.close()


async def redeliver(nats_url: str, event: StoredEvent) -> None:
    """Store an event once more, with its id, as after the broker forgot that it has it."""
    headers = {name: value for name, value in event.headers.items() if not name.startswith("Nats-")}
    await store(nats_url, event.subject, event.data, headers)


async def publish_in_trace(nats_url: str, event: OrderCreated | OrderCancelled, traceparent: str) -> None:
    """Publish an event that belongs to a trace."""
    name, order_id = event.DESCRIPTOR.full_name, event.order_id
    headers = {"ce-id": new_id(), "ce-type": name, "ce-subject": order_id, "traceparent": traceparent}
    await store(nats_url, f"{name}.{order_id}", event.SerializeToString(), headers)


async def test_a_good_card_is_charged_the_total_once(settings: Settings, streams: Streams, sandbox: Sandbox) -> None:
    created = order("tok_ok")
    async with running(build(settings)) as service:
        await streams.publish(created)
        completed = await streams.wait_for(PaymentCompleted, created.order_id)
        payment = await payment_of(service, created.order_id)
    reference = payment.charge_reference
    assert completed.body == PaymentCompleted(order_id=created.order_id, amount=TOTAL, charge_reference=reference)
    assert reference.startswith("ch_")
    assert payment.state == api.PAYMENT_STATE_COMPLETED
    assert payment.amount == TOTAL
    assert payment.create_time.ToNanoseconds() < payment.update_time.ToNanoseconds()
    assert await sandbox.money(created.order_id) == CHARGED_ONCE


@pytest.mark.parametrize(
    ("token", "why"),
    [("tok_declined", "card_declined"), ("tok_other", "unknown_token"), ("no token", "invalid_token")],
)
async def test_a_bad_card_is_told_with_the_providers_reason(
    settings: Settings, streams: Streams, sandbox: Sandbox, token: str, why: str
) -> None:
    created = order(token)
    async with running(build(settings)) as service:
        await streams.publish(created)
        failed = await streams.wait_for(PaymentFailed, created.order_id)
        payment = await payment_of(service, created.order_id)
    assert failed.body == PaymentFailed(order_id=created.order_id, reason=why)
    assert (payment.state, payment.failure_reason) == (api.PAYMENT_STATE_FAILED, why)
    assert await sandbox.money(created.order_id) == NEVER_CHARGED


async def test_a_slow_answer_is_waited_for(
    settings: Settings, streams: Streams, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    created = order("tok_slow")
    async with running(build(but(settings, provider_timeout=20.0))):
        await streams.publish(created)
        await streams.wait_for(PaymentCompleted, created.order_id)
    assert "tried again" not in caplog.text
    assert await sandbox.money(created.order_id) == CHARGED_ONCE


async def test_an_answer_that_never_came_is_asked_for_again_and_charges_once(
    settings: Settings, streams: Streams, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    created = order("tok_timeout")
    async with running(build(but(settings, provider_timeout=0.3))) as service:
        await streams.publish(created)
        await streams.wait_for(PaymentCompleted, created.order_id)
        assert await count(service, "intents") == 0
    assert "no answer from the payment provider: TimeoutError" in caplog.text
    assert await outcomes(streams, created.order_id) == ["PaymentCompleted"]
    assert await sandbox.money(created.order_id) == CHARGED_ONCE


async def test_a_provider_that_was_away_charges_once_when_it_is_back(
    settings: Settings, streams: Streams, sandbox: Sandbox
) -> None:
    created = order()
    async with running(build(settings)) as service:
        with sandbox.away():
            await streams.publish(created)
            await has_been_asked(service, created.order_id)
            assert (await payment_of(service, created.order_id)).state == api.PAYMENT_STATE_PENDING
        await streams.wait_for(PaymentCompleted, created.order_id)
    assert await outcomes(streams, created.order_id) == ["PaymentCompleted"]
    assert await sandbox.money(created.order_id) == CHARGED_ONCE


async def test_an_order_that_was_cancelled_before_it_was_heard_of_is_never_charged(
    settings: Settings, streams: Streams, sandbox: Sandbox
) -> None:
    created = order()
    async with running(build(settings)) as service:
        await streams.publish(OrderCancelled(order_id=created.order_id))
        await streams.publish(created)
        await handled_all(service)
        payment = await payment_of(service, created.order_id)
        assert await count(service, "intents") == 0
    assert payment.state == api.PAYMENT_STATE_VOIDED
    assert not payment.HasField("amount")
    assert await outcomes(streams, created.order_id) == []
    assert await sandbox.money(created.order_id) == NEVER_CHARGED


async def test_a_cancel_while_the_charge_is_on_its_way_gives_the_money_back(
    settings: Settings, streams: Streams, sandbox: Sandbox
) -> None:
    created = order()
    async with running(build(settings)) as service:
        with sandbox.paused():
            await streams.publish(created)
            await streams.publish(OrderCancelled(order_id=created.order_id))
            await handled_all(service)
            assert (await payment_of(service, created.order_id)).state == api.PAYMENT_STATE_PENDING
        refunded = await streams.wait_for(PaymentRefunded, created.order_id)
        payment = await payment_of(service, created.order_id)
        history = await journal(service, created.order_id)
    assert history == ["PaymentRequested", "PaymentCancelled", "PaymentCompleted", "PaymentRefunded"]
    assert await outcomes(streams, created.order_id) == ["PaymentCompleted", "PaymentRefunded"]
    assert payment.state == api.PAYMENT_STATE_REFUNDED
    assert refunded.body == PaymentRefunded(
        order_id=created.order_id, amount=TOTAL, refund_reference=payment.refund_reference
    )
    assert await sandbox.money(created.order_id) == GIVEN_BACK


async def test_a_charged_order_is_refunded_once_however_often_it_is_cancelled(
    settings: Settings, streams: Streams, sandbox: Sandbox, nats_url: str
) -> None:
    created = order()
    cancelled = OrderCancelled(order_id=created.order_id)
    async with running(build(settings)) as service:
        await streams.publish(created)
        await streams.wait_for(PaymentCompleted, created.order_id)
        await streams.publish(cancelled)
        await streams.wait_for(PaymentRefunded, created.order_id)
        await redeliver(nats_url, await streams.wait_for(OrderCancelled, created.order_id))
        await streams.publish(cancelled)
        await handled_all(service)
        assert await count(service, "intents") == 0
    assert await outcomes(streams, created.order_id) == ["PaymentCompleted", "PaymentRefunded"]
    assert await sandbox.money(created.order_id) == GIVEN_BACK


async def test_a_declined_order_that_is_cancelled_needs_no_refund(settings: Settings, streams: Streams) -> None:
    created = order("tok_declined")
    async with running(build(settings)) as service:
        await streams.publish(created)
        await streams.wait_for(PaymentFailed, created.order_id)
        await streams.publish(OrderCancelled(order_id=created.order_id))
        await handled_all(service)
        assert await count(service, "intents") == 0
        assert (await payment_of(service, created.order_id)).state == api.PAYMENT_STATE_FAILED


async def test_an_order_that_is_heard_of_again_is_charged_once(
    settings: Settings, streams: Streams, sandbox: Sandbox, nats_url: str
) -> None:
    created = order()
    async with running(build(settings)) as service:
        await streams.publish(created)
        await streams.publish(created)  # with another id
        await streams.wait_for(PaymentCompleted, created.order_id)
        for stored in await streams.reader("commerce.order").of(created.order_id):
            await redeliver(nats_url, stored)
        await handled_all(service)
        assert await count(service, "intents") == 0
        assert await journal(service, created.order_id) == ["PaymentRequested", "PaymentCompleted"]
    assert await outcomes(streams, created.order_id) == ["PaymentCompleted"]
    assert await sandbox.money(created.order_id) == CHARGED_ONCE


async def test_nothing_is_asked_of_the_provider_for_an_order_that_costs_nothing(
    settings: Settings, streams: Streams, sandbox: Sandbox
) -> None:
    created = order(total=Money(currency_code="CHF"))
    async with running(build(settings)):
        await streams.publish(created)
        await streams.wait_for(PaymentCompleted, created.order_id)
        await streams.publish(OrderCancelled(order_id=created.order_id))
        await streams.wait_for(PaymentRefunded, created.order_id)
    assert await sandbox.money(created.order_id) == NEVER_CHARGED


async def test_an_amount_that_is_none_is_a_dead_letter_and_the_next_order_is_charged(
    settings: Settings, streams: Streams
) -> None:
    broken, sound = order(total=Money(currency_code="CHF", units=1, nanos=-1)), order()
    async with running(build(settings)) as service:
        await streams.publish(broken)
        await streams.publish(sound)
        await streams.wait_for(PaymentCompleted, sound.order_id)
        assert await count(service, "dead_letters", "reason = 'REFUSED' AND error LIKE '%total: %'") == 1
        assert await count(service, "payment_events", f"order_id = '{broken.order_id}'") == 0


async def test_the_card_is_forgotten_once_the_charge_is_known_and_never_logged(
    settings: Settings, streams: Streams, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    created = order("tok_secret_of_the_customer")
    async with running(build(but(settings, provider_url="http://127.0.0.1:9"))) as service:
        await streams.publish(created)
        await has_been_asked(service, created.order_id)
        assert await count(service, "intents", "payload LIKE '%tok_secret%' AND error <> ''") == 1
    async with running(build(settings)) as service:
        await streams.wait_for(PaymentFailed, created.order_id)
        assert await count(service, "intents") == 0
    assert "intent will be tried again" in caplog.text
    assert "tok_secret" not in caplog.text


async def test_the_providers_requests_belong_to_the_orders_trace(
    settings: Settings, streams: Streams, nats_url: str
) -> None:
    created = order()
    trace = f"00-{'a' * 32}-{'b' * 16}-00"
    refund = {"id": "re_1", "charge_id": "ch_1"}
    async with (
        answering((201, a_charge(created)), (201, refund)) as provider,
        running(build(but(settings, provider_url=provider.url))),
    ):
        await publish_in_trace(nats_url, created, trace)
        await streams.wait_for(PaymentCompleted, created.order_id)
        await publish_in_trace(nats_url, OrderCancelled(order_id=created.order_id), trace)
        refunded = await streams.wait_for(PaymentRefunded, created.order_id)
    assert [request.headers["traceparent"] for request in provider.requests] == [trace, trace]
    assert refunded.headers["traceparent"] == trace
    keys = [request.headers["Idempotency-Key"] for request in provider.requests]
    assert keys == [f"charge-{created.order_id}", f"refund-{created.order_id}"]


async def test_a_refusal_after_a_lost_answer_does_not_hide_the_charge(settings: Settings, streams: Streams) -> None:
    created = order()
    refused, found = (400, refusal("invalid_token")), (200, a_charge(created))
    async with (
        answering((504, {}), refused, found) as provider,
        running(build(but(settings, provider_url=provider.url))),
    ):
        await streams.publish(created)
        await streams.wait_for(PaymentCompleted, created.order_id)
    assert [request.method for request in provider.requests] == ["POST", "POST", "GET"]
    assert await outcomes(streams, created.order_id) == ["PaymentCompleted"]


async def test_another_charge_under_our_key_is_no_outcome(settings: Settings, streams: Streams) -> None:
    created = order()
    async with (
        answering((201, a_charge(created, reference="another")), (201, a_charge(created))) as provider,
        running(build(but(settings, provider_url=provider.url, retry_base=60.0, retry_cap=60.0))) as service,
    ):
        await streams.publish(created)
        await has_been_asked(service, created.order_id)
        assert await count(service, "intents", "error LIKE 'ProviderRefused%another charge%'") == 1
        assert (await payment_of(service, created.order_id)).state == api.PAYMENT_STATE_PENDING
    assert await outcomes(streams, created.order_id) == []


async def test_payments_are_listed_page_by_page_newest_first(settings: Settings, streams: Streams) -> None:
    ids = [new_id() for _ in range(7)]
    async with running(build(settings)) as service, calling(service) as channel:
        list_payments = PaymentServiceStub(channel).ListPayments
        for one in ids[:4]:  # each in a transaction, and so at a time, of its own
            await streams.publish(OrderCancelled(order_id=one))
            await handled_all(service)
        for one in ids[4:]:
            await streams.publish(OrderCancelled(order_id=one))
        await handled_all(service)
        await streams.publish(order())
        await handled_all(service)
        pages: list[list[api.Payment]] = []
        token = ""
        while token or not pages:
            if len(pages) == 1:  # what comes meanwhile neither repeats nor hides anything
                await streams.publish(OrderCancelled(order_id=new_id()))
                await handled_all(service)
            page = await list_payments(api.ListPaymentsRequest(page_size=3, page_token=token))
            pages.append(list(page.payments))
            token = page.next_page_token
        everything = await list_payments(api.ListPaymentsRequest())
    assert [len(page) for page in pages] == [3, 3, 2]
    listed = [payment.order_id for page in pages for payment in page]
    assert listed[1:] == ids[::-1]
    assert [payment.state for payment in pages[1]] == [api.PAYMENT_STATE_VOIDED] * 3
    assert len(everything.payments) == 9
    assert everything.next_page_token == ""


async def test_what_cannot_be_asked_is_refused_with_the_fields_name(settings: Settings) -> None:
    unknown = new_id()
    async with running(build(settings)) as service, calling(service) as channel:
        payments = PaymentServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as missing:
            await payments.GetPayment(api.GetPaymentRequest(order_id=unknown))
        with pytest.raises(grpc.aio.AioRpcError) as malformed:
            await payments.GetPayment(api.GetPaymentRequest(order_id="a.b"))
        with pytest.raises(grpc.aio.AioRpcError) as size:
            await payments.ListPayments(api.ListPaymentsRequest(page_size=1001))
        with pytest.raises(grpc.aio.AioRpcError) as token:
            await payments.ListPayments(api.ListPaymentsRequest(page_token="x"))
    assert (missing.value.code(), reason(missing.value)) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    assert list(violations(malformed.value)) == ["order_id"]
    assert list(violations(size.value)) == ["page_size"]
    assert list(violations(token.value)) == ["page_token"]
