"""The edge of a gRPC server: deadlines, cancellation, traces and ids, health, reflection, start and drain."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse
from prometheus_client import CollectorRegistry

from commerce.order.v1 import order_service_pb2 as order
from commerce.product.v1 import product_service_pb2 as product
from commerce.product.v1 import product_service_pb2_grpc as product_grpc
from tests.component.edge import (
    AS_ADMIN,
    CATALOGUE,
    ORDERS,
    Catalogue,
    Orders,
    bare_channel_to,
    catalogue_at,
    channel_to,
    new_server,
    orders_at,
    serving,
)
from weft import deadlines, logs
from weft.domain import NotFound
from weft.ports import CannotListen, PortInUse
from weft.testing import eventually
from weft.tracing import Tracing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
REQUEST = product.GetProductRequest(sku="sku-1")


class Stuck:
    """A behaviour that waits, and remembers how it ended."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.ended = "not yet"

    async def get(self, _request: object, _context: object) -> product.GetProductResponse:
        """Answer once released."""
        await self._wait()
        return product.GetProductResponse(product=product.Product(sku="released"))

    async def watch(self, _request: object, _context: object) -> AsyncIterator[order.WatchOrderResponse]:
        """Send one order, and the next once released."""
        yield order.WatchOrderResponse()
        await self._wait()
        yield order.WatchOrderResponse()

    async def _wait(self) -> None:
        self.entered.set()
        try:
            await self.release.wait()
            self.ended = "released"
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise


async def test_a_call_without_a_deadline_gets_the_default() -> None:
    stuck = Stuck()
    async with (
        serving(Catalogue(stuck.get), default_deadline=0.05) as server,
        bare_channel_to(server) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await catalogue_at(channel).GetProduct(REQUEST)

    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert stuck.ended == "cancelled"


async def test_a_stream_without_a_deadline_gets_the_longer_default() -> None:
    stuck = Stuck()
    async with (
        serving(Orders(stuck.watch), default_deadline=0.01, stream_deadline=0.1) as server,
        bare_channel_to(server) as channel,
    ):
        watching = orders_at(channel).WatchOrder(order.WatchOrderRequest(), metadata=AS_ADMIN)
        await watching.read()
        await stuck.entered.wait()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watching.read()

    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert stuck.ended == "cancelled"


async def test_the_servicer_knows_how_long_its_caller_waits() -> None:
    left: list[float | None] = []

    async def look(_request: object, _context: object) -> product.GetProductResponse:
        left.append(deadlines.remaining())
        return product.GetProductResponse()

    async with serving(Catalogue(look), default_deadline=7) as server, bare_channel_to(server) as channel:
        await catalogue_at(channel).GetProduct(REQUEST, timeout=3)
        await catalogue_at(channel).GetProduct(REQUEST)

    assert left[0] is not None
    assert left[1] is not None
    assert 2 < left[0] < 3.5
    assert 6 < left[1] <= 7
    assert deadlines.remaining() is None


async def test_the_servicer_is_cancelled_when_its_callers_deadline_passes() -> None:
    stuck = Stuck()
    async with serving(Catalogue(stuck.get)) as server, bare_channel_to(server) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await catalogue_at(channel).GetProduct(REQUEST, timeout=0.05)
        await eventually(lambda: stuck.ended == "cancelled")


async def test_the_servicer_is_cancelled_when_its_caller_is() -> None:
    stuck = Stuck()
    async with serving(Catalogue(stuck.get)) as server, channel_to(server) as channel:
        call = catalogue_at(channel).GetProduct(REQUEST)
        waiting = asyncio.ensure_future(call)
        await stuck.entered.wait()
        waiting.cancel()
        await eventually(lambda: stuck.ended == "cancelled")
        assert call.cancelled()


async def test_a_watch_ends_when_its_watcher_goes_away() -> None:
    stuck = Stuck()
    async with serving(Orders(stuck.watch)) as server, channel_to(server) as channel:
        watching = orders_at(channel).WatchOrder(order.WatchOrderRequest(), metadata=AS_ADMIN)
        await watching.read()
        await stuck.entered.wait()
        watching.cancel()
        await eventually(lambda: stuck.ended == "cancelled")


async def test_a_servicer_may_write_its_stream_itself() -> None:
    async def write(_request: object, context: Any) -> None:
        for number in range(3):
            await context.write(order.WatchOrderResponse(order=order.Order(order_id=str(number))))

    server = new_server()
    handler = grpc.unary_stream_rpc_method_handler(
        write, order.WatchOrderRequest.FromString, order.WatchOrderResponse.SerializeToString
    )
    handlers = grpc.method_handlers_generic_handler(ORDERS.full_name, {"WatchOrder": handler})
    server.add(lambda servicer, to: to.add_generic_rpc_handlers((servicer,)), handlers, ORDERS.full_name)
    await server.start()
    async with bare_channel_to(server) as channel:
        seen = [
            one.order.order_id
            async for one in orders_at(channel).WatchOrder(order.WatchOrderRequest(), metadata=AS_ADMIN)
        ]
    await server.drain(1)

    assert seen == ["0", "1", "2"]


async def test_a_stream_of_requests_is_served_and_its_errors_are_mapped() -> None:
    async def count(requests: Any, _context: object) -> product.ListProductsResponse:
        tokens = [one.page_token async for one in requests]
        if not tokens:
            raise NotImplementedError
        return product.ListProductsResponse(next_page_token="-".join(tokens))

    path = f"/{CATALOGUE.full_name}/ListProducts"
    handler = grpc.stream_unary_rpc_method_handler(
        count, product.ListProductsRequest.FromString, product.ListProductsResponse.SerializeToString
    )
    server = new_server()
    server.add(
        lambda servicer, to: to.add_registered_method_handlers(CATALOGUE.full_name, servicer),
        {"ListProducts": handler},
        CATALOGUE.full_name,
    )
    await server.start()
    server.set_ready()
    async with channel_to(server) as channel:
        method = channel.stream_unary(
            path, product.ListProductsRequest.SerializeToString, product.ListProductsResponse.FromString
        )
        reply = await method(iter([product.ListProductsRequest(page_token=token) for token in "ab"]))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(iter([]))
    await server.drain(1)

    assert reply.next_page_token == "a-b"
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_nothing_of_a_call_is_left_in_the_context_of_the_server() -> None:
    before = dict(copy_context())
    async with serving(Catalogue()) as server, channel_to(server) as channel:
        await catalogue_at(channel).GetProduct(REQUEST)

    assert dict(copy_context()) == before


async def test_a_call_writes_one_line_with_the_ids_of_its_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="weft.grpc")
    async with serving(Catalogue()) as server, channel_to(server) as channel:
        await catalogue_at(channel).GetProduct(REQUEST)

    lines = [record.msg for record in caplog.records if record.name == "weft.grpc"]
    [line] = [one for one in lines if isinstance(one, dict)]
    assert line["event"] == "call"
    assert line["method"] == "commerce.product.v1.ProductService/GetProduct"
    assert line["sku"] == "sku-1"
    assert line["code"] == "OK"
    assert line["ms"] >= 0


async def test_probes_write_no_lines_and_make_no_traces(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="weft")
    async with serving(Catalogue()) as server, bare_channel_to(server) as channel:
        await HealthStub(channel).Check(HealthCheckRequest())

    assert [line for line in caplog.records if line.name.startswith("weft")] == []


async def test_every_call_has_a_trace_even_when_its_caller_sent_none() -> None:
    places = []

    async def look(_request: object, _context: object) -> product.GetProductResponse:
        places.append(Tracing.current())
        return product.GetProductResponse()

    async with serving(Catalogue(look)) as server, bare_channel_to(server) as channel:
        for metadata in (
            None,
            (("traceparent", "00-zz-zz-00"),),
            (("traceparent", "00-" + "0" * 32 + "-x-01"),),
        ):
            await catalogue_at(channel).GetProduct(REQUEST, metadata=metadata)

    assert all(len(place.trace_id) == 32 and not place.sampled for place in places)
    assert len({place.trace_id for place in places}) == 3


async def test_health_says_not_serving_until_the_service_is_ready() -> None:
    async with serving(Catalogue()) as server, bare_channel_to(server) as channel:
        health = HealthStub(channel)
        server.set_ready(False)
        for name in ("", CATALOGUE.full_name):
            assert (await health.Check(HealthCheckRequest(service=name))).status == NOT_SERVING
        server.set_ready()
        for name in ("", CATALOGUE.full_name):
            assert (await health.Check(HealthCheckRequest(service=name))).status == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(HealthCheckRequest(service="nobody"))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_whoever_watches_health_hears_of_the_drain_and_does_not_hold_it_up() -> None:
    async with serving(Catalogue()) as server, bare_channel_to(server) as channel:
        watching = HealthStub(channel).Watch(HealthCheckRequest())
        assert (await watching.read()).status == SERVING
        unknown = HealthStub(channel).Watch(HealthCheckRequest(service="nobody"))
        assert (await unknown.read()).status == HealthCheckResponse.SERVICE_UNKNOWN
        async with asyncio.timeout(5):
            await server.drain(60)
        assert (await watching.read()).status == NOT_SERVING
        assert await watching.read() is grpc.aio.EOF
        assert await unknown.read() is grpc.aio.EOF


async def test_a_drain_completes_accepted_calls_and_refuses_new_ones() -> None:
    stuck = Stuck()
    catalogue = Catalogue(stuck.get)
    async with serving(catalogue) as server, channel_to(server) as channel, bare_channel_to(server) as other:
        accepted = asyncio.ensure_future(catalogue_at(channel).GetProduct(REQUEST))
        await stuck.entered.wait()
        draining = asyncio.create_task(server.drain(30))
        await server.draining.wait()
        await eventually(lambda: _is_refused(channel))
        await eventually(lambda: _is_refused(other))
        assert not draining.done()
        stuck.release.set()
        assert (await accepted).product.sku == "released"
        async with asyncio.timeout(5):
            await draining


async def _is_refused(channel: grpc.aio.Channel) -> bool:
    try:
        await catalogue_at(channel).GetProduct(REQUEST, timeout=0.05)
    except grpc.aio.AioRpcError as error:
        return error.code() == grpc.StatusCode.UNAVAILABLE
    return False


async def test_callers_that_watch_health_lose_no_call_while_one_of_two_instances_restarts() -> None:
    async def create(_request: object, _context: object) -> product.GetProductResponse:
        await asyncio.sleep(0)
        return product.GetProductResponse()

    stopping, answers = asyncio.Event(), []
    async with serving(Catalogue(create)) as one, serving(Catalogue(create)) as two:
        address = f"ipv4:127.0.0.1:{one.port},127.0.0.1:{two.port}"
        async with channel_to(one, address=address) as channel:

            async def keep_calling() -> None:
                while not stopping.is_set():
                    await catalogue_at(channel).CreateProduct(
                        product.CreateProductRequest(), timeout=10, metadata=AS_ADMIN
                    )
                    answers.append("ok")

            callers = [asyncio.create_task(keep_calling()) for _ in range(10)]
            await eventually(lambda: len(answers) > 50)
            await one.drain(10)
            after = len(answers)
            await eventually(lambda: len(answers) > after + 50)
            stopping.set()
            await asyncio.gather(*callers)


async def test_a_drain_does_not_wait_longer_than_it_may() -> None:
    stuck = Stuck()
    async with serving(Catalogue(stuck.get)) as server, bare_channel_to(server) as channel:
        call = asyncio.ensure_future(catalogue_at(channel).GetProduct(REQUEST))
        await stuck.entered.wait()
        async with asyncio.timeout(5):
            await server.drain(0.2)
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        await eventually(lambda: stuck.ended == "cancelled")


async def test_a_server_that_never_started_can_be_drained() -> None:
    await new_server().drain(1)


@pytest.mark.parametrize("version", ["v1alpha", "v1"])
async def test_reflection_lists_the_services(version: str) -> None:
    path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    async with serving(Catalogue()) as server, bare_channel_to(server) as channel:
        method = channel.stream_stream(
            path, ServerReflectionRequest.SerializeToString, ServerReflectionResponse.FromString
        )
        [reply] = [one async for one in method(iter([ServerReflectionRequest(list_services="*")]))]

    names = {one.name for one in reply.list_services_response.service}
    assert {CATALOGUE.full_name, "grpc.health.v1.Health"} <= names


async def test_a_client_can_learn_the_messages_by_reflection_alone() -> None:
    async with serving(Catalogue()) as server:

        def learn() -> list[str]:
            with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
                return [method.name for method in pool.FindServiceByName(CATALOGUE.full_name).methods]

        assert "GetProduct" in await asyncio.to_thread(learn)


async def test_a_busy_port_is_refused_with_what_to_do_about_it(capfd: pytest.CaptureFixture[str]) -> None:
    async with serving(Catalogue()) as server:
        second = new_server(port=server.port, port_setting="WEFT_ORDER_GRPC_PORT")
        with pytest.raises(PortInUse, match=rf"127\.0\.0\.1:{server.port} is in use.*WEFT_ORDER_GRPC_PORT"):
            await second.start()

    assert capfd.readouterr().err == ""


async def test_a_host_that_is_not_ours_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(CannotListen, match=r"192\.0\.2\.1"):
        await new_server(host="192.0.2.1", port=port).start()


async def test_the_port_can_be_taken_again_after_a_drain() -> None:
    async with serving(Catalogue()) as first, channel_to(first) as channel:
        await catalogue_at(channel).GetProduct(REQUEST)
        await first.drain(1)
        async with serving(Catalogue(), port=first.port) as second:
            assert second.port == first.port


async def test_a_message_over_four_mebibytes_is_refused() -> None:
    async with serving(Catalogue()) as server, bare_channel_to(server) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await catalogue_at(channel).GetProduct(product.GetProductRequest(sku="x" * (4 * 1024 * 1024)))

    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_the_lines_of_a_call_carry_the_name_of_the_service_that_serves_it() -> None:
    def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    out, log = io.StringIO(), logs.logger("weft.test")
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)

    async def say(_request: object, _context: object) -> product.GetProductResponse:
        log.info("serving")
        return product.GetProductResponse()

    logs.configure(stream=out)
    try:
        with logs.bound(service="product", instance="product-1"):
            server = new_server()
            server.add(product_grpc.add_ProductServiceServicer_to_server, Catalogue(say), CATALOGUE.full_name)
            await server.start()
        async with bare_channel_to(server) as channel:
            await catalogue_at(channel).GetProduct(REQUEST)
        await server.drain(1)
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers

    [line] = lines_of(out)
    assert (line["service"], line["instance"], line["sku"]) == ("product", "product-1", "sku-1")
    assert len(line["trace_id"]) == 32


async def test_calls_are_counted_by_method_and_code_and_timed() -> None:
    async def look(request: product.GetProductRequest, _context: object) -> product.GetProductResponse:
        if request.sku == "none":
            raise NotFound("product", request.sku)
        return product.GetProductResponse()

    metrics = CollectorRegistry()
    async with serving(Catalogue(look), metrics=metrics) as server, bare_channel_to(server) as channel:
        for sku in ("mug", "tee", "none"):
            with suppress(grpc.aio.AioRpcError):
                await catalogue_at(channel).GetProduct(product.GetProductRequest(sku=sku))

    method = f"{CATALOGUE.full_name}/GetProduct"
    counted = {
        code: metrics.get_sample_value("weft_grpc_calls_total", {"method": method, "code": code})
        for code in ("OK", "NOT_FOUND", "INTERNAL")
    }
    assert counted == {"OK": 2, "NOT_FOUND": 1, "INTERNAL": None}
    assert metrics.get_sample_value("weft_grpc_call_seconds_count", {"method": method}) == 3


async def test_a_stop_of_grpc_that_never_returns_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    server, released = new_server(), asyncio.Event()
    await server.start()
    bare = server._server
    assert bare is not None
    stop = bare.stop

    async def never_return(_grace: float) -> None:
        while not released.is_set():
            with suppress(asyncio.CancelledError):
                await released.wait()

    monkeypatch.setattr(bare, "stop", never_return)
    async with asyncio.timeout(10):
        await server.drain(0.1)
    released.set()
    await stop(0)
