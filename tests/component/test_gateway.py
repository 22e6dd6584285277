"""A gateway in front of real gRPC servers, over HTTP: what passes through it, and what comes back."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest
import pytest_asyncio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from yarl import URL

from tests.gateway_probe import ProbeServer, fronting, message
from weft.ports import PortInUse
from weft.testing import eventually
from weft.tracing import Tracing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.gateway import Gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
Json = dict[str, Any]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[tuple[ProbeServer, aiohttp.ClientSession]]:
    """One server and one gateway for all tests that need no settings of their own."""
    async with ProbeServer().serving() as server, fronting(server.address) as gateway, calling(gateway) as client:
        yield server, client


@pytest.fixture
def server(shared: tuple[ProbeServer, aiohttp.ClientSession]) -> ProbeServer:
    shared[0].forget()
    return shared[0]


@pytest.fixture
def client(shared: tuple[ProbeServer, aiohttp.ClientSession]) -> aiohttp.ClientSession:
    return shared[1]


def calling(gateway: Gateway) -> aiohttp.ClientSession:
    """Return a client of a gateway."""
    return aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}")


async def call(client: aiohttp.ClientSession, method: str, path: str | URL, **options: Any) -> tuple[int, Any]:
    """Make a request; return its status and JSON."""
    async with client.request(method, path, **options) as reply:
        assert reply.headers["content-type"] == "application/json"
        return reply.status, await reply.json()


def reason(error: Json) -> str:
    """Return the reason and domain of an error."""
    info = next(one for one in error["details"] if one["@type"].endswith("ErrorInfo"))
    return f"{info['domain']}/{info['reason']}"


def answers(server: ProbeServer, name: str, **fields: Any) -> None:
    """Let the server answer everything with this message."""

    async def answer(_request: Any, _context: Any) -> Any:
        return message(name)(**fields)

    server.answer = answer


def fails(server: ProbeServer, code: grpc.StatusCode, text: str, *details: AnyMessage) -> None:
    """Let the server fail every call, with a status beside the code if there are details."""

    async def answer(_request: Any, context: Any) -> Any:
        status = Status(code=code.value[0], message=text, details=details)
        trailing = (("grpc-status-details-bin", status.SerializeToString()),) if details else ()
        await context.abort(code, text, trailing)

    server.answer = answer


def packed(detail: Any) -> AnyMessage:
    made = AnyMessage()
    made.Pack(detail)
    return made


def lines(caplog: pytest.LogCaptureFixture) -> list[Json]:
    """Return what was logged of requests."""
    return [
        record.msg for record in caplog.records if isinstance(record.msg, dict) and record.msg["event"] == "request"
    ]


async def test_a_get_becomes_a_call_and_its_answer_json(client: aiohttp.ClientSession, server: ProbeServer) -> None:
    answers(server, "Thing", id="a", display_name="A", unit_price={"units": 12, "currency_code": "EUR"})
    status, thing = await call(client, "GET", "/v1/things/a?revision=3")
    assert server.request == message("GetThingRequest")(id="a", revision=3)
    price = {"currencyCode": "EUR", "units": "12"}
    assert (status, thing) == (200, {"id": "a", "displayName": "A", "unitPrice": price, "offers": []})


async def test_a_body_goes_into_its_field_and_response_body_comes_out_of_its(
    client: aiohttp.ClientSession, server: ProbeServer
) -> None:
    answers(server, "ChangeThingReply", thing={"id": "a"})
    status, thing = await call(client, "POST", "/v1/things?dryRun=true", json={"id": "a", "unit_price": {"units": 3}})
    assert server.request == message("ChangeThingRequest")(thing={"id": "a", "unit_price": {"units": 3}}, dry_run=True)
    assert (status, thing) == (200, {"id": "a", "displayName": "", "offers": []})


async def test_a_patch_without_a_mask_changes_what_the_body_has(
    client: aiohttp.ClientSession, server: ProbeServer
) -> None:
    await call(client, "PATCH", "/v1/things/a", json={"displayName": "B"})
    expected = message("ChangeThingRequest")(
        thing={"id": "a", "display_name": "B"}, update_mask={"paths": ["display_name"]}
    )
    assert server.request == expected


@pytest.mark.parametrize(
    ("method", "path", "body", "field", "value"),
    [
        ("GET", "/v1/shelves/s%2F1/things/a%2Fb", None, ("shelf", "id"), ("shelves/s%2F1", "a/b")),
        ("POST", "/v1/things/a:use", {"revision": 2}, ("id", "revision"), ("a", 2)),
        ("POST", "/v1/things/a:use", None, ("id", "revision"), ("a", 0)),
        ("PURGE", "/v1/things/a", None, ("id",), ("a",)),
        ("GET", "/v1/files/a/b%2Fc//", None, ("path",), ("a/b%2Fc//",)),
        ("GET", "/v1/things/a:b", None, ("id",), ("a:b",)),
        ("GET", "/v1/things/a+b%20c", None, ("id",), ("a+b c",)),
        ("GET", "/v1/everything/7/true/COLOUR_RED", None, ("an_int64", "a_bool", "an_enum"), (7, True, 1)),
    ],
)
async def test_every_kind_of_rule_is_served(
    client: aiohttp.ClientSession,
    server: ProbeServer,
    method: str,
    path: str,
    body: Json | None,
    field: tuple[str, ...],
    value: tuple[Any, ...],
) -> None:
    assert (await call(client, method, URL(path, encoded=True), json=body))[0] == 200
    assert tuple(getattr(server.request, name) for name in field) == value


async def test_a_response_body_may_be_a_list(client: aiohttp.ClientSession, server: ProbeServer) -> None:
    answers(server, "ListThingsReply", names=["a", "b"])
    assert await call(client, "GET", "/v1/names") == (200, ["a", "b"])
    answers(server, "ListThingsReply")
    assert await call(client, "GET", "/v1/names") == (200, [])


async def test_head_is_get_without_its_body(client: aiohttp.ClientSession, server: ProbeServer) -> None:
    async with client.head("/v1/things/a") as reply:
        assert (reply.status, await reply.read()) == (200, b"")
        assert int(reply.headers["content-length"]) > 10
    assert server.request.id == "a"  # type: ignore[attr-defined]


async def test_answers_are_not_kept_nor_guessed_at(client: aiohttp.ClientSession) -> None:
    async with client.get("/v1/things") as reply:
        assert reply.headers["cache-control"] == "no-store"
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "server" not in reply.headers


async def test_the_token_and_what_is_listed_pass_on_and_nothing_else(
    client: aiohttp.ClientSession, server: ProbeServer
) -> None:
    sent = {"Authorization": "Bearer x", "Accept-Language": "de", "X-Request-Id": "7", "X-User-Id": "1"}
    await call(client, "GET", "/v1/things/a", headers=sent | {"Grpc-Metadata-Authorization": "Bearer y"})
    passed_on = {key: value for key, value in server.metadata.items() if key not in ("user-agent", "traceparent")}
    assert passed_on == {"authorization": "Bearer x", "accept-language": "de", "x-request-id": "7"}


async def test_the_calls_span_is_a_child_of_the_requests_span_and_that_of_the_callers(server: ProbeServer) -> None:
    spans = InMemorySpanExporter()
    tracing = Tracing("gateway", environ={}, processors=[SimpleSpanProcessor(spans)])
    async with fronting(server.address, tracing=tracing) as gateway, calling(gateway) as client:
        await call(client, "GET", "/v1/things/a", headers={"traceparent": TRACE, "tracestate": "a=1"})
        fails(server, grpc.StatusCode.INTERNAL, "oh")
        await call(client, "GET", "/v1/things/b", headers={"traceparent": TRACE})
    by_name = {span.name: span for span in spans.get_finished_spans()[:2]}
    request, outgoing = by_name["GET /v1/things/{id}"], by_name["probe.v1.Probe/GetThing"]
    assert request.parent is not None
    assert outgoing.parent is not None
    assert f"{request.parent.span_id:016x}" == TRACE[36:52]
    assert outgoing.parent.span_id == request.context.span_id
    assert dict(request.attributes or {}) == {
        "http.request.method": "GET",
        "http.route": "/v1/things/{id}",
        "http.response.status_code": 200,
    }
    assert request.status.is_ok
    assert not spans.get_finished_spans()[-1].status.is_ok


async def test_a_trace_passes_on_though_nothing_is_recorded(client: aiohttp.ClientSession, server: ProbeServer) -> None:
    await call(client, "GET", "/v1/things/a", headers={"traceparent": TRACE, "tracestate": "a=1"})
    assert (server.metadata["traceparent"][3:35], server.metadata["tracestate"]) == (TRACE[3:35], "a=1")


async def test_the_deadline_is_the_clients_or_the_default(client: aiohttp.ClientSession, server: ProbeServer) -> None:
    await call(client, "GET", "/v1/things/a")
    assert 8 < server.seconds < 10.5
    await call(client, "GET", "/v1/things/a", headers={"X-Request-Timeout": "3"})
    assert 1 < server.seconds < 3.5


async def test_a_call_that_takes_too_long_is_504(client: aiohttp.ClientSession, server: ProbeServer) -> None:
    async def answer(_request: Any, _context: Any) -> Any:
        await asyncio.sleep(30)

    server.answer = answer
    status, error = await call(client, "GET", "/v1/things/a", headers={"Grpc-Timeout": "50m"})
    assert (status, error["code"], error["message"]) == (504, 4, "the deadline passed")


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "why"),
    [
        ("GET", "/v2", {}, 404, "gateway/ROUTE_NOT_FOUND"),
        ("GET", "/v1/things/", {}, 404, "gateway/ROUTE_NOT_FOUND"),
        ("GET", "/v1/elsewhere/x", {}, 404, "gateway/ROUTE_NOT_FOUND"),
        ("GET", "/probe.v1.Probe/Unannotated", {}, 404, "gateway/ROUTE_NOT_FOUND"),
        ("DELETE", "/v1/things", {}, 405, "gateway/METHOD_NOT_ALLOWED"),
        ("POST", "/", {}, 405, "gateway/METHOD_NOT_ALLOWED"),
        ("POST", "/v1/things/a:watch", {}, 405, "gateway/METHOD_NOT_ALLOWED"),
        ("GET", "/v1/things?nope=1", {}, 400, "gateway/INVALID_REQUEST"),
        ("GET", "/v1/things?pageSize=1&pageSize=2", {}, 400, "gateway/INVALID_REQUEST"),
        ("GET", "/v1/things/a?id=b", {}, 400, "gateway/INVALID_REQUEST"),
        ("GET", "/v1/things/a", {"json": {}}, 400, "gateway/INVALID_REQUEST"),
        ("GET", "/v1/things/a", {"headers": {"X-Request-Timeout": "soon"}}, 400, "gateway/INVALID_HEADER"),
        ("POST", "/v1/things", {"json": {"nope": 1}}, 400, "gateway/INVALID_REQUEST"),
        ("POST", "/v1/things", {"data": b"{", "headers": {"Content-Type": "application/json"}}, 400,
         "gateway/INVALID_REQUEST"),
        ("POST", "/v1/things", {"data": b'{"id":"a","id":"b"}', "headers": {"Content-Type": "application/json"}}, 400,
         "gateway/INVALID_REQUEST"),
        ("POST", "/v1/things", {"data": {"id": "a"}}, 415, "gateway/UNSUPPORTED_MEDIA_TYPE"),
        ("POST", "/v1/things", {"data": b"{}", "skip_auto_headers": ["content-type"]}, 415,
         "gateway/UNSUPPORTED_MEDIA_TYPE"),
    ],
)  # fmt: skip
async def test_what_cannot_be_served_is_refused_and_no_backend_hears_of_it(
    client: aiohttp.ClientSession, server: ProbeServer, method: str, path: str, options: Json, status: int, why: str
) -> None:
    refused, error = await call(client, method, path, **options)
    assert (refused, reason(error)) == (status, why)
    assert server.requests == []


async def test_the_wrong_method_tells_which_are_right(client: aiohttp.ClientSession) -> None:
    async with client.delete("/v1/things/a") as reply:
        assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD, PATCH, PURGE")


async def test_a_wrong_field_is_named(client: aiohttp.ClientSession) -> None:
    _, error = await call(client, "POST", "/v1/things", json={"unitPrice": {"units": "x"}, "nope": 1})
    assert error["details"][1]["fieldViolations"] == [
        {"field": "unitPrice.units", "description": "must be a whole number"},
        {"field": "nope", "description": "is not known here"},
    ]


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
async def test_a_status_of_the_backend_comes_through_with_its_details(
    client: aiohttp.ClientSession, server: ProbeServer, code: grpc.StatusCode
) -> None:
    unknown = AnyMessage(type_url="type.googleapis.com/no.Such", value=b"\x01")
    fails(server, code, "said by the backend", packed(ErrorInfo(reason="WHY", domain="probe")), unknown)
    status, error = await call(client, "GET", "/v1/things/a")
    assert (status >= 400, error["code"], error["message"]) == (True, code.value[0], "said by the backend")
    assert (reason(error), error["details"][1]) == (
        "probe/WHY",
        {"@type": "type.googleapis.com/no.Such", "value": "AQ=="},
    )


async def test_a_not_found_of_the_backend_differs_from_an_unknown_path(
    client: aiohttp.ClientSession, server: ProbeServer
) -> None:
    fails(server, grpc.StatusCode.NOT_FOUND, "there is no thing 'a'")
    assert await call(client, "GET", "/v1/things/a") == (
        404,
        {"code": 5, "message": "there is no thing 'a'", "details": []},
    )


async def test_violations_of_the_backend_are_named_as_the_client_named_them(
    client: aiohttp.ClientSession, server: ProbeServer
) -> None:
    told = BadRequest()
    told.field_violations.add(field="thing.unit_price.currency_code", description="must be set")
    fails(server, grpc.StatusCode.INVALID_ARGUMENT, "thing.unit_price.currency_code: must be set", packed(told))
    status, error = await call(client, "POST", "/v1/things", json={})
    assert (status, error["message"]) == (400, "unitPrice.currencyCode: must be set")
    assert error["details"][0]["fieldViolations"][0]["field"] == "unitPrice.currencyCode"


async def test_a_crash_of_the_backend_tells_nothing_but_where_to_look(
    client: aiohttp.ClientSession, server: ProbeServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(_request: Any, _context: Any) -> Any:
        raise RuntimeError("secret at 10.0.0.1")

    server.answer = answer
    with caplog.at_level(logging.INFO, "weft.gateway"):
        status, error = await call(client, "GET", "/v1/things/a")
    error_id = next(one["requestId"] for one in error["details"] if "requestId" in one)
    assert status == 500
    assert "secret" not in str(error)
    line = lines(caplog)[-1]
    assert (line["error_id"], line["status"], line["route"]) == (error_id, 500, "GET /v1/things/{id}")
    assert "secret" in line["cause"]


async def test_no_token_and_a_bad_one_are_told_apart(client: aiohttp.ClientSession, server: ProbeServer) -> None:
    fails(server, grpc.StatusCode.UNAUTHENTICATED, "sign in")
    async with client.get("/v1/things/a") as reply:
        assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
    async with client.get("/v1/things/a", headers={"Authorization": "Bearer x"}) as reply:
        assert reply.headers["www-authenticate"] == 'Bearer error="invalid_token"'


async def test_a_backend_that_is_not_there_is_503_without_its_address() -> None:
    async with (
        fronting("127.0.0.1:1") as gateway,
        calling(gateway) as client,
        client.get("/v1/things/a") as reply,
    ):
        text = await reply.text()
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert "127.0.0.1" not in text
        assert "backend_unavailable" in text.lower()


async def test_a_client_that_goes_away_cancels_its_call(client: aiohttp.ClientSession, server: ProbeServer) -> None:
    cancelled = asyncio.Event()

    async def answer(_request: Any, _context: Any) -> Any:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    server.answer = answer
    going = asyncio.create_task(call(client, "GET", "/v1/things/a"))
    await eventually(lambda: server.requests)
    going.cancel()
    await asyncio.wait_for(cancelled.wait(), 5)


async def test_more_calls_than_allowed_are_503(server: ProbeServer) -> None:
    free = asyncio.Event()

    async def answer(_request: Any, _context: Any) -> Any:
        await free.wait()
        return message("Thing")()

    server.answer = answer
    async with fronting(server.address, gateway_max_calls=2) as gateway, calling(gateway) as client:
        held = [asyncio.create_task(call(client, "GET", "/v1/things/a")) for _ in range(2)]
        await eventually(lambda: len(server.requests) == 2)
        status, error = await call(client, "GET", "/v1/things/b")
        assert (status, reason(error)) == (503, "gateway/TOO_MANY_CALLS")
        free.set()
        assert [status for status, _ in await asyncio.gather(*held)] == [200, 200]
        assert (await call(client, "GET", "/v1/things/b"))[0] == 200


async def test_the_root_lists_what_there_is(client: aiohttp.ClientSession) -> None:
    status, index = await call(client, "GET", "/")
    assert status == 200
    assert {"method": "GET", "path": "/v1/things/{id}", "rpc": "probe.v1.Probe/GetThing"} in index["routes"]
    assert len(index["routes"]) == 14


async def test_pages_of_other_origins_may_call_only_if_the_settings_say_so(
    client: aiohttp.ClientSession, server: ProbeServer
) -> None:
    origin, asks = "https://shop.example", {"Access-Control-Request-Method": "PATCH"}
    asks |= {"Origin": origin, "Access-Control-Request-Headers": "authorization, content-type"}
    async with client.options("/v1/things/a", headers=asks) as reply:
        assert (reply.status, "access-control-allow-origin" in reply.headers) == (405, False)
    async with fronting(server.address, gateway_allow_origins=(origin,)) as gateway, calling(gateway) as client:
        async with client.options("/v1/things/a", headers=asks) as reply:
            assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, origin)
            assert "PATCH" in reply.headers["access-control-allow-methods"]
        async with client.get("/v2", headers={"Origin": origin}) as reply:
            assert (reply.status, reply.headers["access-control-allow-origin"]) == (404, origin)
        async with client.options("/v1/things/a", headers=asks | {"Origin": "https://other.example"}) as reply:
            assert (reply.status, "access-control-allow-origin" in reply.headers) == (400, False)


async def test_lines_and_metrics_tell_the_route_and_neither_query_nor_token(
    server: ProbeServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "weft.gateway"):
        async with fronting(server.address) as gateway, calling(gateway) as client:
            await call(client, "GET", "/v1/things/a?revision=3", headers={"Authorization": "Bearer secret"})
            await call(client, "GET", "/v1/nope?token=secret")
            async with client.get(f"http://127.0.0.1:{gateway.ops_port}/metrics") as reply:
                metrics = await reply.text()
    one, other = lines(caplog)
    assert (one["status"], one["route"]) == (200, "GET /v1/things/{id}")
    assert (other["status"], other["path"]) == (404, "/v1/nope")
    assert "secret" not in caplog.text
    assert "revision" not in caplog.text
    assert 'weft_gateway_requests_total{route="GET /v1/things/{id}",status="200"} 1.0' in metrics
    assert 'weft_gateway_requests_total{route="",status="404"} 1.0' in metrics


async def test_a_port_that_is_taken_is_told() -> None:
    async with fronting("h:1") as gateway:
        with pytest.raises(PortInUse, match="set WEFT_GATEWAY_PORT"):
            async with fronting("h:1", gateway_port=gateway.port):
                pass
