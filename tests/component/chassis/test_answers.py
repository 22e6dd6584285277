"""Calls with an idempotency key: each has one effect and one answer, however often it is made, and wherever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import descriptor_pool, empty_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto, MethodDescriptorProto
from hypothesis import given
from hypothesis import strategies as st

from commerce.order.v1 import order_service_pb2 as api
from commerce.order.v1.order_service_pb2_grpc import (
    OrderServiceServicer,
    OrderServiceStub,
    add_OrderServiceServicer_to_server,
)
from tests.component.callers import signed
from tests.component.chassis.toy import account_of, deposit
from tests.component.chassis.world import on_postgres, on_sqlite
from tests.component.support import calling, reason, refusal, violations
from weft import idempotency, relay, tables
from weft.clock import ManualClock
from weft.domain import InvalidInput, Refused
from weft.testing import eventually
from weftapi.v1.annotations_pb2 import ACCESS_PUBLIC, access, keeps_answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from commerce.order.v1.order_service_pb2_grpc import OrderServiceAsyncStub
    from tests.component.chassis.toy import Account
    from tests.component.chassis.world import World
    from weft import Service, UnitOfWork

Serve = Callable[["Service", api.CancelOrderRequest], Awaitable[api.CancelOrderResponse]]
SERVICE = "commerce.order.v1.OrderService"


def answered(account: Account) -> api.CancelOrderResponse:
    """Return an answer that says how an account is, and how often it was saved."""
    return api.CancelOrderResponse(order=api.Order(order_id=account.id, user_id=f"{account.total}/{account.version}"))


def pay(work: UnitOfWork, id: str, note: str) -> Account:
    """Have an account take 1; a note says what is wrong instead."""
    account = account_of(work, id)
    if note == "refuse":
        raise Refused("TOLD_TO", "told to refuse")
    return deposit(work, id, account.total)


async def pays(service: Service, request: api.CancelOrderRequest) -> api.CancelOrderResponse:
    """Do as a servicer of a method that keeps its answers does."""
    return await service.writer.answer(answered, pay, request.order_id, request.operator_note)


class Bank(OrderServiceServicer):
    """Its two methods that keep their answers are payments to an account, as `serve` makes them."""

    def __init__(self, service: Service, serve: Serve) -> None:
        self.service = service
        self._serve = serve
        self.served = 0
        self.left = 0

    async def CancelOrder(self, request: api.CancelOrderRequest, context: Any) -> api.CancelOrderResponse:
        self.served += 1
        try:
            return await self._serve(self.service, request)
        finally:
            self.left += 1

    async def CreateOrder(self, request: api.CreateOrderRequest, context: Any) -> api.CreateOrderResponse:
        def created(account: Account) -> api.CreateOrderResponse:
            return api.CreateOrderResponse(order=api.Order(user_id=str(account.total)))

        return await self.service.writer.answer(created, pay, request.payment_token, "")


@asynccontextmanager
async def banking(
    world: World, serve: Serve = pays, clock: Any = None, **settings: Any
) -> AsyncIterator[tuple[OrderServiceAsyncStub, Bank]]:
    """Run a bank, and open a channel to it."""
    service = world.build(clock=clock, **settings)
    bank = Bank(service, serve)
    service.serves(add_OrderServiceServicer_to_server, bank, SERVICE)
    try:
        await service.start()
        await eventually(lambda: service.ready)
        async with calling(service) as channel:
            yield OrderServiceStub(channel), bank
    finally:
        await service.stop()


def to(account: str, note: str = "") -> api.CancelOrderRequest:
    """Return the call that is a payment to an account."""
    return api.CancelOrderRequest(order_id=account, operator_note=note)


def under(key: str, user: str = "ann") -> Any:
    """Return the metadata of a user's call with a key."""
    return (*signed(user), ("idempotency-key", key))


def text_of(answer: Any) -> str:
    """Return what an account was told to be: its total, and how often it was saved."""
    return str(answer.order.user_id)


async def test_a_call_that_is_repeated_has_one_effect_and_the_same_answer(world: World) -> None:
    async with banking(world) as (bank, servicer):
        first = await bank.CancelOrder(to("a"), metadata=under("k"))
        await bank.CancelOrder(to("a"), metadata=under("another"))
        assert [text_of(await bank.CancelOrder(to("a"))) for _ in range(2)] == ["3/3", "4/4"], "these have no key"
        assert [await bank.CancelOrder(to("a"), metadata=under("k")) for _ in range(3)] == [first] * 3
        assert servicer.served == 4
    async with banking(world) as (bank, _):
        assert await bank.CancelOrder(to("a"), metadata=under("k")) == first
    # Made when all is saved: the answer says so.
    assert text_of(first) == "1/1"
    assert world.rows.seen("a") == [0, 1, 2, 3]
    assert world.rows.count("kept_answers") == 2


async def test_of_many_calls_at_once_with_one_key_one_has_an_effect_and_all_the_same_answer(world: World) -> None:
    async with banking(world) as (bank, _):
        calls = [bank.CancelOrder(to(f"a{n % 3}"), metadata=under(f"k{n % 3}")) for n in range(60)]
        answers = await asyncio.gather(*calls)
    assert {text_of(one) for one in answers} == {"1/1"}
    assert world.rows.all_seen() == {"a0": [0], "a1": [0], "a2": [0]}


@on_postgres
async def test_at_two_instances_at_once_one_key_has_one_effect(world: World) -> None:
    async with (
        banking(world, instance="toy-1") as (one, _),
        banking(world, instance="toy-2") as (two, _),
    ):
        for number in range(10):
            account = f"a{number}"
            calls = [bank.CancelOrder(to(account), metadata=under(account)) for bank in (one, two) * 4]
            assert {text_of(answer) for answer in await asyncio.gather(*calls)} == {"1/1"}
    assert world.rows.all_seen() == {f"a{number}": [0] for number in range(10)}


@asynccontextmanager
async def answered_elsewhere(world: World, key: str, another: str) -> AsyncIterator[None]:
    """Within the `with`, somebody else's transaction has kept the answer of `another` key under this one.

    It is done when it is waited for.
    """
    names = [column.name for column in tables.kept_answers.columns]
    [row] = world.rows(f"SELECT {', '.join(names)} FROM kept_answers WHERE key = '{another}'")
    with world.rows.transaction() as elsewhere:
        elsewhere.execute(tables.kept_answers.insert(), dict(zip(names, row, strict=True)) | {"key": key})
        yield
        waits = "wait_event_type = 'Lock' AND query LIKE '%kept_answers%' AND datname = current_database()"
        await eventually(lambda: world.rows.count("pg_stat_activity", waits) == 1, what="somebody waits for it")


@on_postgres
async def test_a_second_instance_waits_for_what_the_first_has_not_committed_yet(world: World) -> None:
    async with banking(world) as (bank, _):
        answer = await bank.CancelOrder(to("a"), metadata=under("k"))
        async with answered_elsewhere(world, "l", "k"):
            second = asyncio.ensure_future(bank.CancelOrder(to("a"), metadata=under("l")))
        assert await second == answer
    assert world.rows.seen("a") == [0]


@on_postgres
async def test_whoever_is_saved_with_a_call_that_another_instance_answered_has_one_effect(world: World) -> None:
    """They are one transaction, which fails as a whole when somebody else kept an answer meanwhile."""
    async with banking(world) as (bank, servicer):
        answer = await bank.CancelOrder(to("a"), metadata=under("k"))
        begun, release = threading.Event(), threading.Event()
        busy = asyncio.ensure_future(servicer.service.writer.transact(lambda _: begun.set() or release.wait(10)))
        await eventually(begun.is_set, what="the writer is busy")
        calls = [
            asyncio.ensure_future(bank.CancelOrder(to(account), metadata=metadata))
            for account, metadata in (("b", under("b")), ("a", under("l")), ("c", signed("ann")), ("b", under("b")))
        ]
        await eventually(lambda: servicer.served == 5, what="all wait for the writer")
        async with answered_elsewhere(world, "l", "k"):
            release.set()
        assert [text_of(one) for one in await asyncio.gather(*calls)] == ["1/1"] * 4
        assert await calls[1] == answer
        await busy
    assert world.rows.all_seen() == {"a": [0], "b": [0], "c": [0]}
    assert world.rows.count("kept_answers") == 3


@on_sqlite
async def test_a_caller_who_goes_away_finds_the_answer_if_it_was_on_its_way_and_no_effect_if_not(world: World) -> None:
    begun, release = threading.Event(), threading.Event()

    def slowly(work: UnitOfWork, id: str, note: str) -> Account:
        begun.set()
        assert release.wait(10)
        return pay(work, id, note)

    async def serve(service: Service, request: api.CancelOrderRequest) -> api.CancelOrderResponse:
        return await service.writer.answer(answered, slowly, request.order_id, "")

    async with banking(world, serve) as (bank, servicer):
        running = asyncio.ensure_future(bank.CancelOrder(to("a"), metadata=under("a")))
        await eventually(begun.is_set, what="its command runs")
        waiting = asyncio.ensure_future(bank.CancelOrder(to("b"), metadata=under("b")))
        await eventually(lambda: servicer.served == 2, what="the other waits for the writer")
        running.cancel()
        waiting.cancel()
        await eventually(lambda: servicer.left == 2, what="the servicer knows")
        release.set()
        assert text_of(await bank.CancelOrder(to("a"), metadata=under("a"))) == "1/1"
    assert world.rows.all_seen() == {"a": [0]}


@on_sqlite
async def test_a_call_that_fails_once_the_first_is_answered_gets_that_answer(world: World) -> None:
    """It came while there was no answer, and then met what the first one did, or an outage."""
    second_is_here, first_is_answered = asyncio.Event(), asyncio.Event()

    async def serve(service: Service, request: api.CancelOrderRequest) -> api.CancelOrderResponse:
        if servicer.served == 1:
            await second_is_here.wait()
            return await pays(service, request)
        second_is_here.set()
        await first_is_answered.wait()
        raise Refused("TOO_LATE", "it is done already")

    async with banking(world, serve) as (bank, servicer):
        calls = [asyncio.ensure_future(bank.CancelOrder(to("a"), metadata=under("k"))) for _ in range(2)]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        first_is_answered.set()
        assert [text_of(one) for one in await asyncio.gather(*calls)] == ["1/1"] * 2
        # Where nothing was answered, an error stays what it is.
        assert reason(await refusal(bank.CancelOrder(to("b"), metadata=under("l")))) == "TOO_LATE"
    assert world.rows.all_seen() == {"a": [0]}


@on_sqlite
async def test_another_request_with_the_same_key_is_refused_and_has_no_effect(world: World) -> None:
    async with banking(world) as (bank, _):
        await bank.CancelOrder(to("a"), metadata=under("k"))
        error = await refusal(bank.CancelOrder(to("b"), metadata=under("k")))
        assert (error.code(), reason(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "IDEMPOTENCY_KEY_REUSED")
        calls = [bank.CancelOrder(to(f"c{n}"), metadata=under("l")) for n in range(10)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    refused = [one for one in answers if isinstance(one, grpc.aio.AioRpcError)]
    assert {reason(one) for one in refused} == {"IDEMPOTENCY_KEY_REUSED"}
    assert len(refused) == 9
    assert len(world.rows.all_seen()) == 2


@on_sqlite
async def test_a_key_counts_for_one_user_and_one_method(world: World) -> None:
    async with banking(world) as (bank, _):
        answers = [
            await bank.CancelOrder(to("a"), metadata=under("k")),
            await bank.CancelOrder(to("a"), metadata=under("k", "bob")),
            await bank.CreateOrder(api.CreateOrderRequest(payment_token="a"), metadata=under("k")),
        ]
        assert [text_of(one) for one in answers] == ["1/1", "2/2", "3"]
        assert await bank.CancelOrder(to("a"), metadata=under("k", "bob")) == answers[1]


@on_sqlite
async def test_what_failed_is_tried_anew_with_the_same_key_and_any_request(world: World) -> None:
    async with banking(world) as (bank, _):
        for _ in range(2):
            error = await refusal(bank.CancelOrder(to("a", "refuse"), metadata=under("k")))
            assert reason(error) == "TOLD_TO"
        assert text_of(await bank.CancelOrder(to("a"), metadata=under("k"))) == "1/1"
        calls = [bank.CancelOrder(to("b", "refuse" if n < 5 else ""), metadata=under("l")) for n in range(10)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [one if isinstance(one, grpc.aio.AioRpcError) else text_of(one) for one in answers][5:] == ["1/1"] * 5
    assert world.rows.all_seen() == {"a": [0], "b": [0]}


@on_sqlite
async def test_an_answer_that_cannot_be_made_takes_its_effect_back_and_costs_nobody_else_theirs(world: World) -> None:
    def spoilt(account: Account) -> api.CancelOrderResponse:
        if account.id == "bad":
            raise RuntimeError("cannot be told")
        if account.id == "worse":
            raise SystemExit
        return answered(account)

    async def serve(service: Service, request: api.CancelOrderRequest) -> api.CancelOrderResponse:
        return await service.writer.answer(spoilt, pay, request.order_id, "")

    async with banking(world, serve) as (bank, _):
        names = ["a", "bad", "b", "bad", "worse", "c"]
        calls = [bank.CancelOrder(to(name), metadata=under(name)) for name in names]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(one, BaseException) for one in answers] == [name in ("bad", "worse") for name in names]
    assert world.rows.all_seen() == {"a": [0], "b": [0], "c": [0]}, "its effect is taken back"
    assert world.rows.count("outbox", "aggregate_id = 'bad'") == 0


async def carelessly(service: Service, request: api.CancelOrderRequest) -> api.CancelOrderResponse:
    """Answer in ways in which the answer would not be kept."""
    match request.operator_note:
        case "by run":
            return answered(await service.writer.run(pay, request.order_id, ""))
        case "nothing is done":
            return api.CancelOrderResponse()
        case "another answer":
            await pays(service, request)
            return api.CancelOrderResponse()
    await pays(service, request)
    return await pays(service, request)


@on_sqlite
async def test_a_servicer_that_does_not_answer_by_the_writer_fails_at_its_first_call(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    effects = {"by run": 0, "nothing is done": 0, "another answer": 1, "two commands": 1}
    async with banking(world, carelessly) as (bank, _):
        for number, (how, had) in enumerate(effects.items()):
            for account, metadata in ((f"a{number}", under(how)), (f"b{number}", signed("ann"))):
                caplog.clear()
                error = await refusal(bank.CancelOrder(to(account, how), metadata=metadata))
                assert error.code() is grpc.StatusCode.INTERNAL
                assert f"{SERVICE}/CancelOrder" in caplog.text
                assert len(world.rows.seen(account)) == had, how


@on_sqlite
async def test_what_is_no_key_is_named(world: World) -> None:
    async with banking(world) as (bank, _):
        for sent in (under(""), under("k" * 256), under('"k'), (*under("k"), ("idempotency-key", "l"))):
            assert list(violations(await refusal(bank.CancelOrder(to("a"), metadata=sent)))) == ["idempotency-key"]
        first = await bank.CancelOrder(to("a"), metadata=under("k" * 255))
        assert await bank.CancelOrder(to("a"), metadata=under(f'"{"k" * 255}"')) == first
    assert world.rows.seen("a") == [0]


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=255))
def test_a_key_is_the_same_bare_and_quoted(key: str) -> None:
    quoted = '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert idempotency.key_of([("idempotency-key", quoted)]) == key
    if not key.startswith('"'):
        assert idempotency.key_of([("idempotency-key", key)]) == key


@pytest.mark.parametrize("sent", ["", '"', '""', '"a"b"', '"a\\b"', "grün", "tab\t", "nul\0"])
def test_a_key_that_is_malformed_is_refused(sent: str) -> None:
    with pytest.raises(InvalidInput):
        idempotency.key_of([("authorization", "x"), ("idempotency-key", sent)])


async def test_an_answer_is_kept_for_a_day_and_then_removed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "_CLEAN_EVERY", 0.0)
    monkeypatch.setattr(idempotency, "_CLEAN_AT_ONCE", 2)
    clock = ManualClock()
    async with banking(world, clock=clock) as (bank, _):
        first = await bank.CancelOrder(to("a"), metadata=under("k"))
        for number in range(5):
            await bank.CancelOrder(to("b"), metadata=under(f"b{number}"))
        clock.advance(timedelta(hours=23, minutes=59))
        assert await bank.CancelOrder(to("a"), metadata=under("k")) == first
        await bank.CancelOrder(to("c"), metadata=under("c"))
        clock.advance(timedelta(minutes=1))
        await eventually(lambda: world.rows("SELECT key FROM kept_answers") == [("c",)], what="what is past is removed")
        assert text_of(await bank.CancelOrder(to("a"), metadata=under("k"))) == "2/2"
    assert world.rows.seen("a") == [0, 1]


@on_postgres
async def test_an_answer_that_is_past_and_not_removed_yet_makes_room_for_another_request(world: World) -> None:
    clock = ManualClock()
    async with banking(world, clock=clock) as (bank, _):
        await bank.CancelOrder(to("a"), metadata=under("k"))
        clock.advance(timedelta(hours=24))
        again = await asyncio.gather(*(bank.CancelOrder(to("b"), metadata=under("k")) for _ in range(5)))
        assert {text_of(one) for one in again} == {"1/1"}
        assert reason(await refusal(bank.CancelOrder(to("a"), metadata=under("k")))) == "IDEMPOTENCY_KEY_REUSED"
    assert world.rows.all_seen() == {"a": [0], "b": [0]}


@pytest.mark.parametrize("name", ["Public", "Down", "Up"])
def test_a_method_that_cannot_keep_its_answers_is_refused_when_it_is_added(name: str) -> None:
    """An answer belongs to a caller, and is one message."""
    reply = idempotency.reply_kept
    assert (reply(f"{SERVICE}/GetOrder"), reply(f"{SERVICE}/CreateOrder")) == (None, api.CreateOrderResponse)
    assert reply("nowhere.Service/Method") is None
    declare_odd_methods()
    with pytest.raises(ValueError, match=f"odd.Service/{name} cannot keep its answers"):
        reply(f"odd.Service/{name}")


def declare_odd_methods() -> None:
    """Have a contract with methods that say they keep their answers, and cannot."""
    empty = ".google.protobuf.Empty"
    methods = [
        MethodDescriptorProto(name="Public", input_type=empty, output_type=empty),
        MethodDescriptorProto(name="Down", input_type=empty, output_type=empty, server_streaming=True),
        MethodDescriptorProto(name="Up", input_type=empty, output_type=empty, client_streaming=True),
    ]
    for method in methods:
        method.options.Extensions[keeps_answer] = True
    methods[0].options.Extensions[access] = ACCESS_PUBLIC
    file = FileDescriptorProto(name="odd.proto", package="odd", dependency=[empty_pb2.DESCRIPTOR.name])
    file.service.add(name="Service", method=methods)
    descriptor_pool.Default().Add(file)
