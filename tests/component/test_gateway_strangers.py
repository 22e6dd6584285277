"""A gateway among strangers: malformed, oversize and slow requests, and its stop, over raw sockets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import pytest_asyncio

from tests.gateway_probe import SERVICE, ProbeServer, fronting, message, write_descriptors
from weft.testing import eventually, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from gateway.gateway import Gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

GET = b"GET /v1/things/a HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /v1/things HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[tuple[ProbeServer, Gateway]]:
    """One server and one gateway for all tests that need no settings of their own."""
    async with ProbeServer().serving() as server, fronting(server.address) as gateway:
        yield server, gateway


@pytest.fixture
def server(shared: tuple[ProbeServer, Gateway]) -> ProbeServer:
    shared[0].forget()
    return shared[0]


@pytest.fixture
def gateway(shared: tuple[ProbeServer, Gateway]) -> Gateway:
    return shared[1]


async def answer_to(gateway: Gateway, *parts: bytes, wait: float = 5.0) -> bytes:
    """Send bytes over a new connection, and return all that comes until it is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), wait)
    finally:
        writer.close()


def connections_to(gateway: Gateway) -> list[Any]:
    """Return the connections that a gateway has open."""
    server = gateway._http._server
    return [] if server is None else list(server.server_state.connections)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n X: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        POST + b"Content-Length: +2\r\n\r\n{}",
        POST + b"Content-Length: 2, 2\r\n\r\n{}",
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: identity\r\n\r\n{}",
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nx\r\n{}\r\n0\r\n\r\n",
    ],
)
async def test_malformed_http_is_400_and_the_end_of_its_connection(
    gateway: Gateway, server: ProbeServer, sent: bytes
) -> None:
    answer = await answer_to(gateway, sent + GET)
    assert (status_of(answer), answer.count(b"HTTP/1.1 ")) == (400, 1)
    assert b"connection: close" in answer
    assert answer.endswith(b"}")
    assert server.requests == []


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 17_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 3000 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 100 + b"\r\n", 431),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 98 + b"\r\n", 431),
        (POST + b"Content-Length: 1048577\r\n\r\n", 413),
        (POST + b"Content-Length: 99999999999999\r\n\r\n", 413),
    ],
)
async def test_what_is_too_large_is_refused_before_it_is_kept(
    gateway: Gateway, server: ProbeServer, sent: bytes, status: int
) -> None:
    assert status_of(await answer_to(gateway, sent)) == status
    assert server.requests == []


async def test_as_many_headers_as_allowed_are_taken(gateway: Gateway, server: ProbeServer) -> None:
    sent = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n" + b"X: y\r\n" * 98 + b"\r\n")
    assert status_of(await answer_to(gateway, sent)) == 200


async def test_a_body_of_unknown_length_is_refused_once_it_is_too_large(gateway: Gateway, server: ProbeServer) -> None:
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    assert status_of(await answer_to(gateway, POST + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 17)) == 413
    assert server.requests == []


async def test_a_client_that_still_sends_can_read_why_it_was_refused(gateway: Gateway) -> None:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}") as client:
        headers = {"Content-Type": "application/json"}
        async with client.post("/v1/things", data=BytesIO(b"x" * (3 << 20)), headers=headers) as reply:
            assert (reply.status, (await reply.json())["message"]) == (413, "the body is over 1048576 bytes")


async def test_the_largest_body_that_is_allowed_is_served(gateway: Gateway, server: ProbeServer) -> None:
    body = b'{"displayName":"' + b"x" * ((1 << 20) - 18) + b'"}'
    async with aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}") as client:
        headers = {"Content-Type": "application/json"}
        async with client.post("/v1/things", data=BytesIO(body), headers=headers) as reply:
            assert (len(body), reply.status) == (1 << 20, 200)


async def test_trailers_do_not_pass_for_headers(gateway: Gateway, server: ProbeServer) -> None:
    chunks = b"2\r\n{}\r\n0\r\nAuthorization: Bearer x\r\n\r\n"
    answer = await answer_to(gateway, POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    assert status_of(answer) == 200
    assert "authorization" not in server.metadata


async def test_a_header_or_trailer_that_never_ends_is_cut(gateway: Gateway) -> None:
    flood = [b"x" * 65536] * 8
    assert status_of(await answer_to(gateway, b"GET / HTTP/1.1\r\nHost: a\r\nX: ", *flood)) == 431
    chunked = POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: "
    assert status_of(await answer_to(gateway, chunked, *flood)) == 431


async def test_a_body_in_small_chunks_is_taken(gateway: Gateway, server: ProbeServer) -> None:
    body = b'{"displayName":"' + b"x" * 40_000 + b'"}'
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    head = POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert status_of(await answer_to(gateway, head, chunks[:100_000], chunks[100_000:])) == 200


async def test_an_answer_is_not_lost_to_what_is_malformed_after_its_request(
    gateway: Gateway, server: ProbeServer
) -> None:
    answer = await answer_to(gateway, GET + b"nonsense\r\n\r\n")
    assert (status_of(answer), answer.count(b"HTTP/1.1 "), len(server.requests)) == (200, 1, 1)


async def test_pipelined_answers_are_not_lost_to_what_is_malformed_after_them(
    gateway: Gateway, server: ProbeServer
) -> None:
    answer = await answer_to(gateway, GET + GET + b"nonsense\r\n\r\n")
    assert (answer.count(b"HTTP/1.1 200 "), answer.count(b"HTTP/1.1 ")) == (2, 2)


@pytest.mark.parametrize(
    "parts",
    [
        [b"Content-Length: 9\r\n\r\n{"],
        [b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", b"nonsense\r\n"],
        [b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", *[b"10000\r\n" + b"x" * 65536 + b"\r\n"] * 17],
    ],
)
async def test_a_request_that_has_its_answer_gets_no_second_one_for_what_follows(
    server: ProbeServer, parts: Sequence[bytes]
) -> None:
    async with fronting(server.address, gateway_receive_seconds=0.3) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(POST.replace(b"/v1/things", b"/nowhere") + parts[0])
        assert b"404 Not Found" in await reader.readuntil(b"]}")
        writer.write(b"".join(parts[1:]))
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_an_offer_to_upgrade_is_the_last_request_of_its_connection(gateway: Gateway) -> None:
    offer = GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
    answer = await answer_to(gateway, offer + GET)
    assert (status_of(answer), answer.count(b"HTTP/1.1 ")) == (200, 1)
    assert b"connection: close" in answer


async def test_an_offer_to_upgrade_is_not_taken(gateway: Gateway) -> None:
    for protocol in (b"h2c", b"websocket"):
        offer = b"\r\nConnection: close, Upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n"
        assert status_of(await answer_to(gateway, GET.replace(b"\r\n\r\n", offer))) == 200


async def test_what_is_refused_is_counted(gateway: Gateway) -> None:
    await answer_to(gateway, b"nonsense\r\n\r\n")
    async with (
        aiohttp.ClientSession() as client,
        client.get(f"http://127.0.0.1:{gateway.ops_port}/metrics") as reply,
    ):
        assert 'weft_gateway_requests_total{route="",status="400"}' in await reply.text()


async def test_pipelined_requests_are_answered_in_their_order(gateway: Gateway, server: ProbeServer) -> None:
    async def answer(request: Any, _context: Any) -> Any:
        return message("Thing")(id=request.id)

    server.answer = answer
    last = b"GET /v1/things/c HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answers = await answer_to(gateway, GET + GET.replace(b"/a ", b"/b ") + last)
    assert [answers.find(b'"id":"%b"' % name) > 0 for name in (b"a", b"b", b"c")] == [True] * 3
    assert answers.find(b'"a"') < answers.find(b'"b"') < answers.find(b'"c"')


async def test_requests_do_not_pile_up_in_one_connection(gateway: Gateway, server: ProbeServer) -> None:
    goes_on = asyncio.Event()

    async def answer(_request: Any, _context: Any) -> Any:
        await goes_on.wait()
        return message("Thing")()

    server.answer = answer
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(GET)
    await eventually(lambda: server.requests != [])
    writer.write(GET * 1000)
    (connection,) = connections_to(gateway)
    await eventually(lambda: len(connection.pipeline) > 0)
    assert len(connection.pipeline) <= 32
    goes_on.set()
    answers = await asyncio.wait_for(reader.read(), 5)
    assert answers.count(b"HTTP/1.1 200 ") == answers.count(b"HTTP/1.1 ") <= 33, "the rest can be sent again"
    writer.close()


async def test_who_pipelines_and_goes_away_leaves_no_error_in_the_log(
    gateway: Gateway, server: ProbeServer, caplog: pytest.LogCaptureFixture
) -> None:
    cancelled = asyncio.Event()

    async def answer(_request: Any, context: Any) -> Any:
        context.add_done_callback(lambda _: cancelled.set())
        await asyncio.Event().wait()

    server.answer = answer
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(GET + GET)
    await eventually(lambda: server.requests != [])
    writer.close()
    async with asyncio.timeout(5):
        await cancelled.wait()
    assert [one.getMessage() for one in caplog.records if one.name == "weft.gateway.http"] == []


@pytest.mark.parametrize("header", [b"", b"Connection: close\r\n"])
async def test_who_does_not_read_an_answer_is_cut_off(server: ProbeServer, header: bytes) -> None:
    async def answer(_request: Any, _context: Any) -> Any:
        return message("Thing")(id="x" * 3_900_000)

    server.answer = answer
    async with fronting(server.address, gateway_idle_seconds=0.3) as gateway:
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.connect(("127.0.0.1", gateway.port))
            lazy.sendall(GET.replace(b"\r\n\r\n", b"\r\n" + header + b"\r\n"))
            await eventually(lambda: server.requests != [])
            await eventually(lambda: not connections_to(gateway))


@pytest.mark.parametrize(
    "parts",
    [
        [GET[:-2]],
        [b"G", b"E", b"T"],
        [POST + b"Content-Length: 9\r\n\r\n{"],
        [POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{"],
    ],
)
async def test_a_slow_request_is_cut_though_it_goes_on(server: ProbeServer, parts: Sequence[bytes]) -> None:
    async with fronting(server.address, gateway_receive_seconds=0.3) as gateway:
        assert status_of(await answer_to(gateway, *parts)) == 408
    assert server.requests == []


@pytest.mark.parametrize("parts", [[], [b"\r\n", b"\r\n"]])
async def test_a_connection_without_a_request_is_closed_without_a_word(
    server: ProbeServer, parts: Sequence[bytes]
) -> None:
    async with fronting(server.address, gateway_receive_seconds=0.3) as gateway:
        assert await answer_to(gateway, *parts) == b""


async def test_an_idle_connection_is_kept_for_a_while_and_then_closed(server: ProbeServer) -> None:
    async with fronting(server.address, gateway_idle_seconds=0.3, gateway_receive_seconds=0.2) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        for _ in range(2):
            writer.write(GET)
            assert b"200 OK" in await reader.readuntil(b"}")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_an_answer_may_take_longer_than_a_request_may(server: ProbeServer) -> None:
    async def answer(_request: Any, _context: Any) -> Any:
        await asyncio.sleep(0.5)
        return message("Thing")()

    server.answer = answer
    async with fronting(server.address, gateway_receive_seconds=0.2) as gateway:
        assert status_of(await answer_to(gateway, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))) == 200


async def test_a_request_answered_before_its_body_came_leaves_no_connection_behind(server: ProbeServer) -> None:
    sent = POST.replace(b"/v1/things", b"/nowhere") + b"Content-Length: 2\r\n\r\n"
    limits: dict[str, Any] = {"gateway_idle_seconds": 0.2, "gateway_receive_seconds": 0.5}
    async with fronting(server.address, **limits) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(sent)
        assert b"404 Not Found" in await reader.readuntil(b"]}")
        writer.write(b"{}")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_more_connections_than_allowed_are_503(server: ProbeServer) -> None:
    async with fronting(server.address, gateway_max_connections=1) as gateway:
        held, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(GET)
        assert b"200 OK" in await held.readuntil(b"}")
        answer = await answer_to(gateway)
        assert status_of(answer) == 503
        assert b"retry-after: 1" in answer
        writer.close()


@pytest.mark.parametrize(("trusted", "status"), [((), 503), (("127.0.0.1",), 200)])
async def test_one_address_cannot_take_all_connections_unless_it_is_a_trusted_proxy(
    server: ProbeServer, trusted: tuple[str, ...], status: int
) -> None:
    limits: dict[str, Any] = {"gateway_max_connections_per_address": 2, "gateway_trusted_proxies": trusted}
    async with fronting(server.address, **limits) as gateway:
        held = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(2)]
        for reader, writer in held:
            writer.write(GET)
            assert b"200 OK" in await reader.readuntil(b"}")
        asking = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        assert status_of(await answer_to(gateway, asking)) == status
        held[0][1].close()

        async def is_served() -> bool:
            return status_of(await answer_to(gateway, asking)) == 200

        await eventually(is_served)
        held[1][1].close()


async def dripping(gateway: Gateway, first: bytes, drop: bytes) -> bytes:
    """Send `first`, and then a drop now and then for as long as the gateway listens; return its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(first)
    answering = asyncio.ensure_future(reader.read())
    try:
        while not (await asyncio.wait([answering], timeout=0.05))[0]:
            writer.write(drop)
        return answering.result()
    finally:
        writer.close()


SLOW = {
    "the headers": (GET[:-2], b"X: y\r\n"),
    "one header": (GET[:-2] + b"X: ", b"y"),
    "the body": (POST + b"Content-Length: 99999\r\n\r\n", b" "),
    "the chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
}
CHUNK = b"10000\r\n" + b"x" * 65536 + b"\r\n"
LARGE = {
    413: [POST + b"Content-Length: 9999999\r\n\r\n"],
    414: [b"GET /" + b"x" * 20_000],
    431: [b"GET / HTTP/1.1\r\nHost: a\r\n", *[b"X: " + b"y" * 4000 + b"\r\n"] * 8],
}


async def test_honest_requests_are_served_beside_slow_and_oversize_ones(server: ProbeServer) -> None:
    async with fronting(server.address, gateway_receive_seconds=1.5) as gateway:
        slow = [asyncio.create_task(dripping(gateway, *sent)) for sent in SLOW.values() for _ in range(10)]
        large = {
            status: [asyncio.create_task(answer_to(gateway, *parts)) for _ in range(5)]
            for status, parts in LARGE.items()
        }
        flood = [
            asyncio.create_task(answer_to(gateway, POST + b"Transfer-Encoding: chunked\r\n\r\n", *[CHUNK] * 20))
            for _ in range(5)
        ]
        served = 0
        async with aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}") as client:
            while served < 20 or not all(one.done() for one in slow):
                async with client.post("/v1/things", json={"displayName": "honest"}) as reply:
                    assert reply.status == 200
                served += 1
                await asyncio.sleep(0.02)
        assert {status_of(one) for one in await asyncio.gather(*slow)} == {408}
        assert {status_of(one) for one in await asyncio.gather(*flood)} == {413}
        for status, tasks in large.items():
            assert {status_of(one) for one in await asyncio.gather(*tasks)} == {status}
        assert len(server.requests) == served


async def test_a_stop_finishes_what_was_accepted_and_says_so(server: ProbeServer) -> None:
    free = asyncio.Event()

    async def answer(_request: Any, _context: Any) -> Any:
        await free.wait()
        return message("Thing")()

    server.answer = answer
    async with fronting(server.address, drain_seconds=5) as gateway:
        url = f"http://127.0.0.1:{gateway.port}/v1/things/a"
        async with aiohttp.ClientSession() as client:
            held = asyncio.create_task(client.get(url))
            await eventually(lambda: server.requests)
            stopping = asyncio.create_task(gateway.stop())
            async with client.get(f"http://127.0.0.1:{gateway.ops_port}/readyz") as ready:
                assert ready.status == 503
            free.set()
            async with await held as reply:
                assert (reply.status, reply.headers["connection"]) == (200, "close")
            await stopping
            with pytest.raises(aiohttp.ClientConnectionError):
                await client.get(url)


async def test_a_stop_does_not_wait_for_ever(server: ProbeServer) -> None:
    async def answer(_request: Any, _context: Any) -> Any:
        await asyncio.sleep(30)

    server.answer = answer
    async with fronting(server.address, drain_seconds=0.1) as gateway:
        held = asyncio.create_task(answer_to(gateway, GET))
        await eventually(lambda: server.requests)
        await asyncio.wait_for(gateway.stop(), 5)
        answer_ = await held
        assert status_of(answer_) == 503
        assert b"STOPPING" in answer_


@asynccontextmanager
async def process(*arguments: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `python -m gateway` as a process of its own, and kill it at the end if it still runs."""
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
            await started.communicate()


async def test_the_process_serves_until_it_is_told_to_stop_and_finishes_its_requests(
    tmp_path: Path, server: ProbeServer
) -> None:
    entered, free = asyncio.Event(), asyncio.Event()

    async def answer(_request: Any, _context: Any) -> Any:
        entered.set()
        await free.wait()
        return message("Thing")(id="a")

    server.answer = answer
    port, ops_port = free_port(), free_port()
    backend = f"{SERVICE}=127.0.0.1:{server.port}"
    line = ["--descriptors", str(write_descriptors(tmp_path)), "--backend", backend, "--port", str(port), "--no-auth"]
    async with (
        process(*line, WEFT_GATEWAY_OPS_PORT=str(ops_port), WEFT_LOG_LEVEL="debug") as gateway,
        aiohttp.ClientSession() as client,
    ):

        async def ready() -> bool:
            async with client.get(f"http://127.0.0.1:{ops_port}/readyz") as reply:
                return reply.status == 200

        await eventually(ready, timeout=30)
        held = asyncio.create_task(client.get(f"http://127.0.0.1:{port}/v1/things/a"))
        await asyncio.wait_for(entered.wait(), 10)
        gateway.send_signal(signal.SIGTERM)
        await asyncio.sleep(0)
        free.set()
        async with await held as reply:
            assert (reply.status, (await reply.json())["id"]) == (200, "a")
        told, _ = await asyncio.wait_for(gateway.communicate(), 15)
        assert gateway.returncode == 0
    logged = next(one for one in map(json.loads, told.splitlines()) if one["message"] == "request")
    assert (logged["service"], logged["route"], logged["status"]) == ("gateway", "GET /v1/things/{id}", 200)
    assert logged["trace_id"]


async def test_the_process_says_in_one_line_why_it_cannot_start(tmp_path: Path) -> None:
    async with process("--descriptors", str(write_descriptors(tmp_path)), "--backend", "no.Such=h:1") as gateway:
        _, told = await asyncio.wait_for(gateway.communicate(), 30)
        assert gateway.returncode == 2
        assert told.decode().startswith("WEFT_GATEWAY_BACKENDS: no.Such is not in")
        assert told.count(b"\n") == 1
    async with process() as gateway:
        _, told = await asyncio.wait_for(gateway.communicate(), 30)
        assert (gateway.returncode, b"(WEFT_GATEWAY_DESCRIPTORS)" in told) == (2, True)
