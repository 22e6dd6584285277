"""Channels to other services: deadlines and traces over two hops, retries only where they are safe."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from commerce.order.v1 import order_service_pb2 as order
from commerce.product.v1 import product_service_pb2 as product
from tests.component.edge import (
    AS_ADMIN,
    CATALOGUE,
    ORDERS,
    Catalogue,
    Orders,
    bare_channel_to,
    catalogue_at,
    channel_to,
    orders_at,
    serving,
    tracing,
)
from weft.domain import NotFound, Unavailable
from weft.grpc_client import connect
from weft.testing import eventually
from weft.tracing import TraceContext, Tracing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from opentelemetry.sdk.trace import ReadableSpan

REQUEST = product.GetProductRequest(sku="sku-1")
CALLER = TraceContext("00-" + "a" * 32 + "-" + "b" * 16 + "-00", "vendor=1")


async def refuse(_request: object, _context: object) -> product.GetProductResponse:
    """Be unavailable."""
    raise Unavailable("not now")


class TwoHops:
    """A catalogue that asks another one, which remembers what reached it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.places: list[TraceContext] = []
        self.metadata: list[dict[str, Any]] = []
        self.cancelled = asyncio.Event()
        self.next: grpc.aio.Channel | None = None

    async def ask(self, request: product.GetProductRequest, _context: object) -> product.GetProductResponse:
        """The first hop."""
        assert self.next is not None
        return await catalogue_at(self.next).GetProduct(request)

    async def answer(self, request: product.GetProductRequest, context: Any) -> product.GetProductResponse:
        """The second hop."""
        self.seconds.append(context.time_remaining())
        self.places.append(Tracing.current())
        self.metadata.append(dict(context.invocation_metadata()))
        if request.sku == "stuck":
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        return product.GetProductResponse()


async def test_no_hop_may_take_longer_than_the_first_caller_waits() -> None:
    hops = TwoHops()
    async with (
        serving(Catalogue(hops.answer)) as second,
        channel_to(second, timeout=60) as hops.next,
        serving(Catalogue(hops.ask), default_deadline=20) as first,
        bare_channel_to(first) as channel,
    ):
        await catalogue_at(channel).GetProduct(REQUEST, timeout=3)
        await catalogue_at(channel).GetProduct(REQUEST)

    assert 2 < hops.seconds[0] < 3.5
    assert 19 < hops.seconds[1] < 20.5


async def test_a_call_takes_at_most_what_its_channel_or_its_caller_says() -> None:
    hops = TwoHops()
    async with serving(Catalogue(hops.answer)) as server, channel_to(server, timeout=7) as channel:
        await catalogue_at(channel).GetProduct(REQUEST)
        await catalogue_at(channel).GetProduct(REQUEST, timeout=2)

    assert 6 < hops.seconds[0] < 7.5
    assert 1 < hops.seconds[1] < 2.5


async def test_a_cancellation_reaches_the_second_hop() -> None:
    hops = TwoHops()
    async with (
        serving(Catalogue(hops.answer)) as second,
        channel_to(second) as hops.next,
        serving(Catalogue(hops.ask)) as first,
        bare_channel_to(first) as channel,
    ):
        call = catalogue_at(channel).GetProduct(product.GetProductRequest(sku="stuck"))
        await eventually(lambda: len(hops.seconds) == 1)
        call.cancel()
        await asyncio.wait_for(hops.cancelled.wait(), 5)


async def test_an_unsampled_trace_goes_on_over_two_hops_as_it_came() -> None:
    hops = TwoHops()
    async with (
        serving(Catalogue(hops.answer)) as second,
        channel_to(second) as hops.next,
        serving(Catalogue(hops.ask)) as first,
        channel_to(first) as channel,
    ):
        with Tracing.resumed(CALLER):
            await catalogue_at(channel).GetProduct(REQUEST)

    assert hops.places == [CALLER]
    assert hops.metadata[0]["traceparent"] == CALLER.traceparent


async def test_metadata_of_the_caller_is_kept() -> None:
    hops = TwoHops()
    async with serving(Catalogue(hops.answer)) as server, channel_to(server) as channel:
        await catalogue_at(channel).GetProduct(REQUEST, metadata=grpc.aio.Metadata(("x-other", "kept")))

    assert hops.metadata[0]["x-other"] == "kept"


async def test_a_sampled_trace_has_a_span_at_both_ends_of_each_hop() -> None:
    spans = InMemorySpanExporter()
    traced = {name: tracing(name, SimpleSpanProcessor(spans)) for name in ("caller", "first", "second")}
    hops = TwoHops()
    async with (
        serving(Catalogue(hops.answer), traced=traced["second"]) as second,
        channel_to(second, traced["first"]) as hops.next,
        serving(Catalogue(hops.ask), traced=traced["first"]) as first,
        channel_to(first, traced["caller"]) as channel,
    ):
        await catalogue_at(channel).GetProduct(REQUEST)
        await eventually(lambda: len(spans.get_finished_spans()) == 4)

    chain = in_order(spans.get_finished_spans())
    assert [(service_of(span), span.kind) for span in chain] == [
        ("caller", SpanKind.CLIENT),
        ("first", SpanKind.SERVER),
        ("first", SpanKind.CLIENT),
        ("second", SpanKind.SERVER),
    ]
    assert {span.name for span in chain} == {"commerce.product.v1.ProductService/GetProduct"}
    for span in chain:
        assert span.attributes is not None
        assert span.attributes["rpc.system.name"] == "grpc"
        assert span.attributes["rpc.method"] == span.name
        assert span.attributes["rpc.response.status_code"] == "OK"
        assert span.status.status_code == StatusCode.UNSET
    assert chain[0].attributes is not None
    assert chain[0].attributes["server.address"] == "127.0.0.1"
    assert chain[0].attributes["server.port"] == first.port


async def test_only_our_own_errors_fail_the_span_of_the_server() -> None:
    spans = InMemorySpanExporter()
    traced = tracing("both", SimpleSpanProcessor(spans))

    async def fail(request: product.GetProductRequest, _context: object) -> product.GetProductResponse:
        raise NotFound("product", request.sku) if request.sku else RuntimeError("a bug")

    async with serving(Catalogue(fail), traced=traced) as server, channel_to(server, traced) as channel:
        for sku in ("sku-1", ""):
            with pytest.raises(grpc.aio.AioRpcError):
                await catalogue_at(channel).GetProduct(product.GetProductRequest(sku=sku))
        await eventually(lambda: len(spans.get_finished_spans()) == 4)

    by_kind_and_code = {
        (span.kind, (span.attributes or {})["rpc.response.status_code"]): span for span in spans.get_finished_spans()
    }
    missed = by_kind_and_code[SpanKind.SERVER, "NOT_FOUND"]
    failed = by_kind_and_code[SpanKind.SERVER, "INTERNAL"]
    assert missed.status.status_code == StatusCode.UNSET
    assert failed.status.status_code == StatusCode.ERROR
    assert (failed.attributes or {})["error.type"] == "INTERNAL"
    assert [event.name for event in failed.events] == ["exception"]
    for code in ("NOT_FOUND", "INTERNAL"):
        assert by_kind_and_code[SpanKind.CLIENT, code].status.status_code == StatusCode.ERROR


async def test_a_cancelled_call_ends_its_span() -> None:
    spans = InMemorySpanExporter()
    hops = TwoHops()
    async with (
        serving(Catalogue(hops.answer)) as server,
        channel_to(server, tracing("caller", SimpleSpanProcessor(spans))) as channel,
    ):
        call = catalogue_at(channel).GetProduct(product.GetProductRequest(sku="stuck"))
        await eventually(lambda: len(hops.seconds) == 1)
        call.cancel()
        await eventually(lambda: len(spans.get_finished_spans()) == 1)

    assert (spans.get_finished_spans()[0].attributes or {})["rpc.response.status_code"] == "CANCELLED"


async def test_a_stream_has_one_span_that_lasts_as_long_as_it() -> None:
    spans = InMemorySpanExporter()

    async def watch(_request: object, _context: object) -> AsyncIterator[order.WatchOrderResponse]:
        for _ in range(3):
            yield order.WatchOrderResponse()

    traced = tracing("both", SimpleSpanProcessor(spans))
    async with serving(Orders(watch), traced=traced) as server, channel_to(server, traced) as channel:
        seen = [one async for one in orders_at(channel).WatchOrder(order.WatchOrderRequest(), metadata=AS_ADMIN)]
        await eventually(lambda: len(spans.get_finished_spans()) == 2)

    assert len(seen) == 3
    assert {span.kind for span in spans.get_finished_spans()} == {SpanKind.CLIENT, SpanKind.SERVER}


async def test_only_calls_that_are_safe_to_repeat_are_repeated() -> None:
    safe, unsafe = Catalogue(refuse), Catalogue(refuse)
    async with serving(safe) as one, serving(unsafe) as other:
        options = {"services": [CATALOGUE, ORDERS], "attempts": 3}
        async with channel_to(one, **options) as to_safe, channel_to(other, **options) as to_unsafe:
            failures = await asyncio.gather(
                catalogue_at(to_safe).GetProduct(REQUEST),
                catalogue_at(to_unsafe).CreateProduct(product.CreateProductRequest(), metadata=AS_ADMIN),
                return_exceptions=True,
            )

    assert [error.code() for error in failures if isinstance(error, grpc.aio.AioRpcError)] == [
        grpc.StatusCode.UNAVAILABLE
    ] * 2
    assert (safe.calls, unsafe.calls) == (3, 1)


async def test_a_call_that_is_repeated_answers_as_if_it_had_not_been() -> None:
    async def refuse_once(_request: object, _context: object) -> product.GetProductResponse:
        if catalogue.calls == 1:
            raise Unavailable("not now")
        return product.GetProductResponse()

    catalogue = Catalogue(refuse_once)
    async with serving(catalogue) as server, channel_to(server, services=[CATALOGUE]) as channel:
        await catalogue_at(channel).GetProduct(REQUEST)

    assert catalogue.calls == 2


async def test_other_errors_are_never_repeated() -> None:
    async def fail(_request: object, _context: object) -> product.GetProductResponse:
        raise NotFound("product", "sku-1")

    catalogue = Catalogue(fail)
    async with serving(catalogue) as server, channel_to(server, services=[CATALOGUE]) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await catalogue_at(channel).GetProduct(REQUEST)

    assert catalogue.calls == 1


async def test_without_attempts_nothing_is_repeated() -> None:
    catalogue = Catalogue(refuse)
    async with serving(catalogue) as server, channel_to(server, services=[CATALOGUE], attempts=1) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await catalogue_at(channel).GetProduct(REQUEST)

    assert catalogue.calls == 1


async def test_a_restarted_service_is_found_again() -> None:
    async with serving(Catalogue()) as first, channel_to(first) as channel:
        await catalogue_at(channel).GetProduct(REQUEST)
        await first.drain(1)
        with pytest.raises(grpc.aio.AioRpcError):
            await catalogue_at(channel).GetProduct(REQUEST)
        async with serving(Catalogue(), port=first.port):
            await eventually(lambda: catalogue_at(channel).GetProduct(REQUEST), timeout=5)


async def test_calls_between_services_do_not_go_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with serving(Catalogue()) as server, channel_to(server) as channel:
        await catalogue_at(channel).GetProduct(REQUEST)


async def test_a_channel_tells_its_state_and_closes() -> None:
    async with serving(Catalogue()) as server:
        channel = channel_to(server)
        assert channel.get_state() == grpc.ChannelConnectivity.IDLE
        assert channel.get_state(try_to_connect=True) in grpc.ChannelConnectivity
        await asyncio.wait_for(channel.channel_ready(), 5)
        await channel.close()


def test_a_stub_can_be_made_where_no_event_loop_runs_yet() -> None:
    channel = connect("127.0.0.1:1", tracing=tracing())
    assert catalogue_at(channel) is not None
    asyncio.run(channel.close())


def in_order(spans: tuple[ReadableSpan, ...]) -> list[ReadableSpan]:
    """Return spans of one trace from the first parent to the last child."""
    assert len({span.context.trace_id for span in spans}) == 1
    by_parent = {span.parent.span_id if span.parent else None: span for span in spans}
    chain = [by_parent[None]]
    while chain[-1].context.span_id in by_parent:
        chain.append(by_parent[chain[-1].context.span_id])
    return chain


def service_of(span: ReadableSpan) -> str:
    """Return which service recorded it."""
    return str(span.resource.attributes["service.name"])
