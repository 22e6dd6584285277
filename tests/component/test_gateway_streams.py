"""Streams and raw bytes through a gateway, over HTTP: what the client sees, whatever happens on the way."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest
import pytest_asyncio
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.component.ticker import Ticker, body, message, tick, ticking
from weft.testing import eventually
from weft.tracing import Tracing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio(loop_scope="module")

WATCH = "/v1/ticks/a:watch"
EVENTS = {"Accept": "text/event-stream"}
Shared = tuple[Ticker, aiohttp.ClientSession]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[Shared]:
    """One server and one gateway for all tests that need no settings of their own."""
    async with Ticker().serving() as ticker, ticking(ticker) as (_, client):
        yield ticker, client


@pytest.fixture
def ticker(shared: Shared) -> Ticker:
    shared[0].gives()
    return shared[0]


@pytest.fixture
def client(shared: Shared) -> aiohttp.ClientSession:
    return shared[1]


async def read(
    client: aiohttp.ClientSession, path: str = WATCH, method: str = "GET", **options: Any
) -> tuple[int, bytes]:
    """Make a request; return its status and the whole body."""
    async with client.request(method, path, **options) as reply:
        return reply.status, await reply.read()


async def refused(client: aiohttp.ClientSession, path: str = WATCH, method: str = "GET", **options: Any) -> Any:
    """Make a request that is to fail; return its status and the reason."""
    async with client.request(method, path, **options) as reply:
        error = await reply.json()
        return reply.status, next((one["reason"] for one in error["details"] if "reason" in one), error["message"])


def error_in(part: bytes) -> Any:
    """Return the google.rpc.Status of a last part, in either format."""
    text = part.decode().strip()
    return json.loads(text.partition("\ndata: ")[2]) if text.startswith("event: error") else json.loads(text)["error"]


async def until_cancelled(_request: Any, _context: Any) -> AsyncIterator[Any]:
    """Give one message, and then nothing."""
    yield tick(1)
    await asyncio.Event().wait()


async def test_events_have_ids_and_data_on_one_line(client: aiohttp.ClientSession, ticker: Ticker) -> None:
    ticker.gives(tick(1), tick(2, "line\nbreak"))
    async with client.get(WATCH, headers=EVENTS) as reply:
        assert (reply.status, reply.headers["content-type"]) == (200, "text/event-stream")
        assert (reply.headers["cache-control"], reply.headers["x-accel-buffering"]) == ("no-store", "no")
        retry, first, second, end = (await reply.read()).split(b"\n\n")
    assert (retry, end) == (b"retry: 2000", b"")
    assert first == b'id: 1\ndata: {"name":"a","number":1,"position":"1"}'
    assert second.startswith(b'id: 2\ndata: {"name":"line\\nbreak"')


async def test_without_accept_there_is_a_line_of_json_for_each_message(
    client: aiohttp.ClientSession, ticker: Ticker
) -> None:
    ticker.gives(tick(1), tick(2))
    async with client.get(WATCH) as reply:
        assert reply.headers["content-type"] == "application/x-ndjson"
        assert [json.loads(line)["number"] for line in (await reply.read()).splitlines()] == [1, 2]


async def test_response_body_is_what_each_message_shows(client: aiohttp.ClientSession, ticker: Ticker) -> None:
    ticker.gives(tick(1, "x"), tick(2, "y"))
    assert await read(client, "/v1/ticks/a:names") == (200, b'"x"\n"y"\n')
    _, events = await read(client, "/v1/ticks/a:names", headers=EVENTS)
    assert b'id: 2\ndata: "y"\n\n' in events


async def test_a_stream_can_be_asked_for_with_a_body(client: aiohttp.ClientSession, ticker: Ticker) -> None:
    ticker.gives(tick(1))
    assert (await read(client, "/v1/ticks:watch", "POST", json={"name": "b"}))[0] == 200
    assert ticker.requests[-1].name == "b"


async def test_what_takes_neither_format_is_406_with_the_list(client: aiohttp.ClientSession, ticker: Ticker) -> None:
    async with client.get(WATCH, headers={"Accept": "image/png, text/html;q=0.9"}) as reply:
        assert reply.status == 406
        message = (await reply.json())["message"]
    assert "application/x-ndjson or text/event-stream" in message
    assert not ticker.requests


async def test_an_error_before_the_first_message_is_an_http_error(
    client: aiohttp.ClientSession, ticker: Ticker
) -> None:
    ticker.gives(then=grpc.StatusCode.NOT_FOUND, told="there is no a")
    assert await refused(client, headers=EVENTS) == (404, "there is no a")


async def test_an_event_source_that_came_back_too_soon_is_asked_again_and_not_refused(
    client: aiohttp.ClientSession, ticker: Ticker
) -> None:
    ticker.gives(then=grpc.StatusCode.UNAVAILABLE)
    assert (await refused(client, headers=EVENTS))[0] == 503
    assert (await refused(client, headers={"Last-Event-ID": "7"}))[0] == 503
    status, text = await read(client, headers=EVENTS | {"Last-Event-ID": "7"})
    assert (status, text[:13]) == (200, b"retry: 2000\n\n")
    assert error_in(text[13:])["code"] == 14
    ticker.gives(then=grpc.StatusCode.NOT_FOUND)
    assert (await refused(client, headers=EVENTS | {"Last-Event-ID": "7"}))[0] == 404


@pytest.mark.parametrize("headers", [EVENTS, {}], ids=["events", "lines"])
async def test_an_error_in_mid_stream_is_told_and_the_body_is_whole(
    client: aiohttp.ClientSession, ticker: Ticker, headers: dict[str, str]
) -> None:
    ticker.gives(tick(1), then=grpc.StatusCode.ABORTED, told="somebody else was first")
    status, text = await read(client, headers=headers)
    last = text.rstrip(b"\n").rpartition(b"\n\n" if headers else b"\n")[2]
    assert status == 200
    assert error_in(last) == {"code": 10, "message": "somebody else was first", "details": []}


async def test_a_crash_in_mid_stream_says_no_more_than_where_to_look(
    client: aiohttp.ClientSession, ticker: Ticker, caplog: pytest.LogCaptureFixture
) -> None:
    ticker.gives(tick(1), then=grpc.StatusCode.INTERNAL, told="at 10.0.0.7: oh")
    with caplog.at_level(logging.INFO, "weft.gateway"):
        _, text = await read(client)
    assert b"10.0.0.7" not in text
    assert error_in(text.splitlines()[-1])["code"] == 13
    line = next(one.msg for one in caplog.records if isinstance(one.msg, dict) and one.msg["event"] == "request")
    assert (line["status"], line["broken"], line["cause"]) == (200, "INTERNAL", "INTERNAL: at 10.0.0.7: oh")


async def test_the_deadline_is_told_in_mid_stream(client: aiohttp.ClientSession, ticker: Ticker) -> None:
    ticker.behaves(until_cancelled)
    _, text = await read(client, headers={"X-Request-Timeout": "0.2"})
    assert error_in(text.splitlines()[-1])["message"] == "the deadline passed"


async def test_a_quiet_stream_has_its_headers_soon_and_heartbeats_for_events(
    ticker: Ticker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.streaming.streams._MOMENT", 0.02)

    async def silence(_request: Any, _context: Any) -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield

    ticker.behaves(silence)
    async with ticking(ticker, gateway_heartbeat_seconds=0.02) as (_, client):
        async with client.get(WATCH, headers=EVENTS) as reply:
            assert await reply.content.readexactly(19) == b"retry: 2000\n\n:\n\n:\n\n"
        async with client.get(WATCH, headers={"X-Request-Timeout": "0.2"}) as reply:
            assert reply.status == 200
            assert list(json.loads(await reply.read())) == ["error"]


async def test_a_stream_goes_on_where_last_event_id_says(client: aiohttp.ClientSession, ticker: Ticker) -> None:
    ticker.gives(tick(8))
    assert (await read(client, headers=EVENTS | {"Last-Event-ID": "7"}))[0] == 200
    assert ticker.requests[-1].after == "7"
    assert (await read(client, f"{WATCH}?after=6"))[0] == 200
    assert ticker.requests[-1].after == "6"
    await read(client, f"{WATCH}?after=6", headers={"Last-Event-ID": "7"})
    assert ticker.requests[-1].after == "7", "an EventSource comes back to the address it began with"
    bad = {"Last-Event-ID": "x" * 5000}
    assert await refused(client, headers=bad) == (400, "INVALID_REQUEST")


async def test_a_stream_that_goes_on_and_has_no_more_to_say_is_204(
    client: aiohttp.ClientSession, ticker: Ticker
) -> None:
    async with client.get(WATCH, headers=EVENTS | {"Last-Event-ID": "7"}) as reply:
        assert (reply.status, await reply.read()) == (204, b"")
        assert "content-type" not in reply.headers
        assert "content-length" not in reply.headers
    assert await read(client, f"{WATCH}?after=7") == (204, b"")
    assert await read(client) == (200, b"")


async def test_a_client_that_goes_away_cancels_the_call(client: aiohttp.ClientSession, ticker: Ticker) -> None:
    ticker.behaves(until_cancelled)
    async with client.get(WATCH) as reply:
        await reply.content.readline()
        reply.close()
    async with asyncio.timeout(5):
        await ticker.cancelled.wait()


async def test_head_has_the_headers_and_ends_the_call(client: aiohttp.ClientSession, ticker: Ticker) -> None:
    ticker.behaves(until_cancelled)
    async with client.head(WATCH, headers=EVENTS) as reply:
        assert (reply.status, reply.headers["content-type"]) == (200, "text/event-stream")
        assert "content-length" not in reply.headers
    async with asyncio.timeout(5):
        await ticker.cancelled.wait()


async def test_a_client_that_does_not_read_slows_the_backend_and_is_cut_off(ticker: Ticker) -> None:
    async def flood(_request: Any, _context: Any) -> AsyncIterator[Any]:
        while True:
            yield tick(1, "x" * 100_000)

    async def stands_still() -> bool:
        before = ticker.given
        await asyncio.sleep(0.1)
        return 0 < before == ticker.given

    ticker.behaves(flood)
    async with ticking(ticker, gateway_idle_seconds=0.6) as (gateway, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1024)
        writer.write(f"GET {WATCH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await eventually(stands_still, what="the backend waits")
        assert ticker.given < 300, "what waits on the way is bounded"
        async with asyncio.timeout(5):
            await ticker.cancelled.wait()
        await eventually(lambda: gateway.metrics.get_sample_value("weft_gateway_streams") == 0)
        end = b""
        while got := await reader.read(1 << 20):
            end = (end + got)[-20:]
        assert not end.endswith(b"0\r\n\r\n"), "what is cut off does not look whole"
        writer.close()


async def test_a_gateway_that_stops_tells_its_streams_to_come_again(ticker: Ticker) -> None:
    ticker.behaves(until_cancelled)
    async with ticking(ticker, drain_seconds=5) as (gateway, client), client.get(WATCH, headers=EVENTS) as reply:
        assert await reply.content.readline() == b"retry: 2000\n"
        await gateway.stop()
        error = error_in((await reply.read()).rstrip(b"\n").rpartition(b"\n\n")[2])
    assert error["code"] == 14
    assert any(one.get("retryDelay") == "1s" for one in error["details"])


async def test_streams_are_counted_among_the_calls_and_have_a_limit_of_their_own(ticker: Ticker) -> None:
    ticker.behaves(until_cancelled)
    async with (
        ticking(ticker, gateway_max_streams=1, gateway_max_calls=2) as (gateway, client),
        client.get(WATCH) as first,
    ):
        await first.content.readline()
        assert gateway.metrics.get_sample_value("weft_gateway_streams") == 1
        assert await refused(client) == (503, "TOO_MANY_STREAMS")
        ticker.gives(body(b"x"))
        assert (await read(client, "/v1/files/a"))[0] == 200
    ticker.behaves(until_cancelled)
    async with (
        ticking(ticker, gateway_max_calls=1) as (gateway, client),
        client.get(WATCH) as first,
    ):
        await first.content.readline()
        assert await refused(client, "/v1/files/a") == (503, "TOO_MANY_CALLS")


async def test_one_caller_cannot_take_all_streams(ticker: Ticker) -> None:
    ticker.behaves(until_cancelled)
    limits: dict[str, Any] = {"gateway_max_streams_per_user": 1, "gateway_trusted_proxies": "127.0.0.1"}
    async with ticking(ticker, **limits) as (_, client):
        async with client.get(WATCH, headers={"X-Forwarded-For": "1.1.1.1"}) as first:
            await first.content.readline()
            assert await refused(client, headers={"X-Forwarded-For": "1.1.1.1"}) == (503, "TOO_MANY_STREAMS")
            async with client.get(WATCH, headers={"X-Forwarded-For": "1.1.1.2"}) as other:
                assert other.status == 200

        async def is_served() -> bool:
            async with client.get(WATCH, headers={"X-Forwarded-For": "1.1.1.1"}) as again:
                return again.status == 200

        await eventually(is_served)


async def test_a_stream_is_never_compressed(ticker: Ticker) -> None:
    ticker.gives(*[tick(1, "x" * 1000)] * 10)
    async with (
        ticking(ticker, gateway_gzip=True) as (_, client),
        client.get(WATCH, headers=EVENTS | {"Accept-Encoding": "gzip"}) as reply,
    ):
        assert "content-encoding" not in reply.headers
        assert (await reply.read()).count(b"data: ") == 10


async def test_the_span_covers_the_stream_and_messages_are_counted(ticker: Ticker) -> None:
    spans = InMemorySpanExporter()
    tracing = Tracing("gateway", environ={}, processors=[SimpleSpanProcessor(spans)])
    go_on = asyncio.Event()

    async def wait(_request: Any, context: Any) -> AsyncIterator[Any]:
        yield tick(1)
        await go_on.wait()
        await context.abort(grpc.StatusCode.ABORTED, "lost")

    ticker.behaves(wait)
    async with ticking(ticker, tracing=tracing) as (gateway, client):
        async with client.get(WATCH) as reply:
            await reply.content.readline()
            assert not spans.get_finished_spans()
            go_on.set()
            await reply.read()
        route = {"route": "GET /v1/ticks/{name}:watch"}
        assert gateway.metrics.get_sample_value("weft_gateway_stream_messages_total", route) == 1
        await eventually(lambda: len(spans.get_finished_spans()) == 2, what="both spans end")
    request = next(one for one in spans.get_finished_spans() if one.name == route["route"])
    assert (request.attributes or {})["http.response.status_code"] == 200
    assert (request.attributes or {})["error.type"] == "ABORTED"
    assert not request.status.is_ok


@pytest.mark.parametrize("method", ["send", "chat"])
async def test_what_streams_from_the_client_is_501_and_says_so(client: aiohttp.ClientSession, method: str) -> None:
    async with client.post(f"/v1/ticks:{method}", json={}) as reply:
        assert reply.status == 501
        assert "takes a stream of requests" in (await reply.json())["message"]


async def test_bytes_go_in_and_come_out_as_they_are(client: aiohttp.ClientSession, ticker: Ticker) -> None:
    ticker.gives(body(b"\x89PNG", "image/png"))
    async with client.get("/v1/files/a") as reply:
        assert (reply.headers["content-type"], await reply.read()) == ("image/png", b"\x89PNG")
        assert reply.headers["x-content-type-options"] == "nosniff"
    ticker.gives(body(b"\0", "no\nheader"))
    async with client.put("/v1/files", data=b"\xff{", headers={"Content-Type": "text/csv"}) as reply:
        assert (reply.headers["content-type"], await reply.read()) == ("application/octet-stream", b"\0")
    assert ticker.requests[-1] == body(b"\xff{", "text/csv")


async def test_bytes_may_be_one_field_of_a_request_and_of_an_answer(
    client: aiohttp.ClientSession, ticker: Ticker
) -> None:
    ticker.gives(message("File")(name="b", content={"content_type": "text/plain", "data": b"hello"}))
    async with client.post("/v1/files/b", data=b"raw", headers={"Content-Type": "a/b"}) as reply:
        assert (reply.headers["content-type"], await reply.read()) == ("text/plain", b"hello")
    assert ticker.requests[-1] == message("File")(name="b", content={"content_type": "a/b", "data": b"raw"})
    assert (await refused(client, "/v1/files/b?content.data=eA==", "POST", data=b"raw"))[0] == 400


async def test_a_stream_of_bytes_has_the_type_of_the_first(client: aiohttp.ClientSession, ticker: Ticker) -> None:
    ticker.gives(body(b"a,", "text/csv"), body(b"b\n", "text/plain"))
    async with client.get("/v1/files/a:download", headers={"Accept": "image/png"}) as reply:
        assert (reply.headers["content-type"], await reply.read()) == ("text/csv", b"a,b\n")


async def test_a_stream_of_bytes_that_fails_does_not_look_whole(client: aiohttp.ClientSession, ticker: Ticker) -> None:
    ticker.gives(body(b"a,", "text/csv"), then=grpc.StatusCode.DATA_LOSS)
    with pytest.raises(aiohttp.ClientPayloadError):
        await read(client, "/v1/files/a:download")


async def test_the_token_of_an_event_source_may_be_in_the_query(
    client: aiohttp.ClientSession, ticker: Ticker, caplog: pytest.LogCaptureFixture
) -> None:
    ticker.gives(tick(1))
    with caplog.at_level(logging.DEBUG):
        async with client.get(f"{WATCH}?after=3&access_token=abc.d-e_f") as reply:
            assert (reply.status, reply.headers["cache-control"]) == (200, "no-store")
    assert ticker.metadata["authorization"] == "Bearer abc.d-e_f"
    assert ticker.requests[-1].after == "3"
    ours = [one for one in caplog.records if not one.name.startswith(("asyncio", "aiohttp"))]
    assert ours
    assert "abc.d-e_f" not in str([(one.msg, one.args) for one in ours])


@pytest.mark.parametrize(
    ("method", "path", "headers", "reason"),
    [
        ("GET", f"{WATCH}?access_token=a", {"Authorization": "Bearer b"}, "INVALID_TOKEN_PARAMETER"),
        ("GET", f"{WATCH}?access_token=a&access_token=b", {}, "INVALID_TOKEN_PARAMETER"),
        ("GET", f"{WATCH}?access_token=", {}, "INVALID_TOKEN_PARAMETER"),
        ("GET", f"{WATCH}?access_token=a%0D%0Ab", {}, "INVALID_TOKEN_PARAMETER"),
        ("POST", "/v1/ticks:watch?access_token=a", {}, "INVALID_REQUEST"),
        ("GET", "/v1/files/a?access_token=a", {}, "INVALID_REQUEST"),
    ],
)
async def test_a_token_in_the_query_is_one_and_for_streams_alone(
    client: aiohttp.ClientSession, ticker: Ticker, method: str, path: str, headers: dict[str, str], reason: str
) -> None:
    assert await refused(client, path, method, headers=headers) == (400, reason)
    assert not ticker.requests


async def test_a_field_called_access_token_is_the_methods_own(client: aiohttp.ClientSession, ticker: Ticker) -> None:
    ticker.gives(tick(1))
    await read(client, "/v1/secrets:watch?access_token=abc")
    assert ticker.requests[-1].access_token == "abc"
    assert "authorization" not in ticker.metadata
