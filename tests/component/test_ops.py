"""The operations port: /livez, /readyz and /metrics."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter

from weft.ops import OpsServer
from weft.ports import CannotListen, PortInUse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@asynccontextmanager
async def ops(**checks: Callable[[], bool | str]) -> AsyncIterator[tuple[OpsServer, aiohttp.ClientSession]]:
    """Run an operations port with these checks, and a client of it."""
    registry = CollectorRegistry()
    Counter("weft_test", "Counts what the test says", registry=registry).inc(3)
    server = OpsServer("127.0.0.1", 0, checks, registry)
    port = await server.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
            yield server, client
    finally:
        await server.close()


async def test_it_is_ready_when_every_check_is_good() -> None:
    async with ops(database=lambda: True, broker=lambda: "ok") as (_, client), client.get("/readyz") as reply:
        assert reply.status == 200
        assert await reply.json() == {"status": "ok", "checks": {"database": "ok", "broker": "ok"}}


async def test_it_is_not_ready_while_a_check_fails_and_says_which_and_why() -> None:
    def raises() -> bool:
        raise ConnectionError("with a secret")

    async with (
        ops(good=lambda: True, bad=lambda: False, why=lambda: "disconnected", raises=raises) as (_, client),
        client.get("/readyz") as reply,
    ):
        assert reply.status == 503
        assert await reply.json() == {
            "status": "not ready",
            "checks": {
                "good": "ok",
                "bad": "failed",
                "why": "disconnected",
                "raises": "the check failed: ConnectionError",
            },
        }


async def test_it_is_alive_even_when_it_is_not_ready() -> None:
    async with ops(bad=lambda: False) as (_, client), client.get("/livez") as reply:
        assert reply.status == 200


async def test_checks_are_asked_anew_each_time() -> None:
    answers = iter([False, True])
    async with ops(database=lambda: next(answers)) as (_, client):
        for expected in (503, 200):
            async with client.get("/readyz") as reply:
                assert reply.status == expected


async def test_metrics_are_those_of_the_given_registry() -> None:
    async with ops() as (_, client):
        async with client.get("/metrics") as reply:
            assert reply.status == 200
            assert reply.headers["content-type"].startswith("text/plain")
            assert "weft_test_total 3.0" in await reply.text()
        async with client.get("/metrics", headers={"accept": "application/openmetrics-text"}) as reply:
            assert reply.headers["content-type"].startswith("application/openmetrics-text")


async def test_other_paths_and_methods_are_refused() -> None:
    async with ops() as (_, client):
        async with client.get("/") as reply:
            assert reply.status == 404
        async with client.post("/livez") as reply:
            assert reply.status == 405
            assert reply.headers["allow"] == "GET, HEAD"
        async with client.head("/livez") as reply:
            assert reply.status == 200
            assert await reply.read() == b""


async def test_two_services_of_one_process_have_a_port_each() -> None:
    async with ops() as (one, _), ops() as (other, client), client.get("/livez") as reply:
        assert reply.status == 200
        assert one.port != other.port


async def test_a_busy_port_is_refused_with_what_to_do_about_it() -> None:
    async with ops() as (first, _):
        second = OpsServer("127.0.0.1", first.port, {}, CollectorRegistry(), port_setting="WEFT_ORDER_OPS_PORT")
        with pytest.raises(PortInUse, match=rf"127\.0\.0\.1:{first.port} is in use.*WEFT_ORDER_OPS_PORT"):
            await second.start()


async def test_a_host_that_is_not_ours_is_refused() -> None:
    with pytest.raises(CannotListen, match=r"192\.0\.2\.1"):
        await OpsServer("192.0.2.1", 0, {}, CollectorRegistry()).start()


async def test_it_leaves_signals_and_loggers_alone() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    handlers = list(logging.getLogger().handlers)
    async with ops():
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
        assert logging.getLogger().handlers == handlers
        assert logging.getLogger("uvicorn").handlers == []


async def test_closing_ends_kept_connections_and_frees_the_port() -> None:
    async with ops() as (server, client):
        async with client.get("/livez") as reply:
            assert reply.status == 200
        async with asyncio.timeout(5):
            await server.close()
        again = OpsServer("127.0.0.1", server.port, {}, CollectorRegistry())
        assert await again.start() == server.port
        await again.close()


async def test_what_never_started_can_be_closed() -> None:
    await OpsServer("127.0.0.1", 0, {}, CollectorRegistry()).close()
