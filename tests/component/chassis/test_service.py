"""A service as a process: ready when it works, gone within seconds, and never in the middle of a call."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from commerce.inventory.v1 import inventory_service_pb2 as api
from tests.component.chassis.toy import Toy, task
from tests.component.chassis.world import Process, on_sqlite, restock
from weft.testing import eventually

if TYPE_CHECKING:
    from tests.component.chassis.world import World

pytestmark = on_sqlite
SERVING = HealthCheckResponse.SERVING


async def test_a_call_that_was_accepted_is_answered_before_the_process_ends(world: World) -> None:
    process = world.process()
    await process.ready()
    async with process.calling() as stub:
        answer = asyncio.ensure_future(stub.Restock(restock("slow", 3), timeout=10))
        await eventually(lambda: (world.folder / "called").exists())
        process.signal(signal.SIGTERM)
        # It takes nothing new, and goes on with what it has.
        await eventually(lambda: _refuses(process))
        (world.folder / "finish").touch()
        assert (await answer).stock == api.Stock(sku="slow", on_hand=3)
    assert (await process.ended(10))[0] == 0
    assert world.rows.count("accounts", "id = 'slow'") == 1


async def _refuses(process: Process) -> bool:
    async with process.calling() as stub:
        try:
            await stub.GetStock(api.GetStockRequest(sku="x"), timeout=1)
        except grpc.aio.AioRpcError as error:
            return bool(error.code() is grpc.StatusCode.UNAVAILABLE)
    return False


async def test_a_process_ends_within_seconds_when_the_broker_is_gone_too(world: World) -> None:
    process = world.process()
    await process.ready()
    await world.nats.kill()
    async with process.calling() as stub:
        assert (await stub.Restock(restock("a", 1), timeout=5)).stock.on_hand == 1
    process.signal(signal.SIGTERM)
    code, _, errors = await process.ended(8)
    assert (code, errors) == (0, "")
    # What was accepted waits to be published.
    assert world.rows.count("outbox", "published_at IS NULL") == 2


async def test_a_process_ends_within_seconds_when_the_broker_hangs(world: World) -> None:
    process = world.process()
    await process.ready()
    assert world.nats.pid is not None
    os.kill(world.nats.pid, signal.SIGSTOP)
    try:
        process.signal(signal.SIGTERM)
        assert (await process.ended(8))[0] == 0
    finally:
        os.kill(world.nats.pid, signal.SIGCONT)


async def test_a_process_that_waits_for_its_broker_from_the_start_ends_too(world: World) -> None:
    await world.nats.stop()
    process = world.process()
    await eventually(lambda: _status(process, "/livez"), timeout=20)
    assert await _status(process, "/readyz") == 503
    process.signal(signal.SIGTERM)
    code, _, errors = await process.ended(8)
    assert (code, errors) == (0, "")


async def test_it_is_ready_when_it_reads_its_streams_and_not_before(world: World) -> None:
    await world.nats.stop()
    process = world.process()
    await eventually(lambda: _status(process, "/livez"), timeout=20)
    assert await _status(process, "/readyz") == 503
    assert await _health(process) != SERVING
    await world.nats.start()
    await process.ready()
    assert await _health(process) == SERVING
    await world.feed.send(task("a", 1))
    await world.until_seen("a", [1])


async def _status(process: Process, path: str) -> int:
    url = f"http://127.0.0.1:{process.ops_port}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status


async def _health(process: Process) -> int:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{process.grpc_port}") as channel:
        stub: Any = HealthStub(channel)
        reply = await stub.Check(HealthCheckRequest(service="commerce.inventory.v1.InventoryService"))
        return int(reply.status)


@pytest.mark.parametrize("setting", ["grpc_port", "ops_port"])
async def test_a_busy_port_is_named_in_one_line(world: World, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = world.process(**{setting: port})
        code, _, errors = await process.ended()
    assert code == 2
    [line] = errors.splitlines()
    assert f"127.0.0.1:{port} is in use" in line
    assert f"WEFT_{setting.upper()}" in line


@pytest.mark.parametrize(
    "setting",
    [{"grpc_port": "http"}, {"nats_url": "http://a"}, {"nats_url": "nats://a:b"}, {"batch_size": 0}, {"instance": ""}],
)
async def test_a_malformed_setting_is_named_in_one_line(world: World, setting: dict[str, Any]) -> None:
    process = world.process(**setting)
    code, _, errors = await process.ended()
    assert code == 2
    [line] = errors.splitlines()
    assert f"WEFT_{next(iter(setting)).upper()}" in line


async def test_a_service_stops_cleanly_in_the_midst_of_a_burst(world: World) -> None:
    toy = Toy()
    await world.feed.send(*(task(f"a{n % 5}", n) for n in range(3000)))
    async with world.running(toy, batch_size=50):
        await eventually(lambda: world.rows.count("accounts"))
    handled = sum(len(seen) for seen in world.rows.all_seen().values())
    assert 0 < handled <= 3000
    async with world.running(toy, batch_size=500):
        for account in range(5):
            await world.until_seen(f"a{account}", range(account, 3000, 5))
    assert set(toy.tries.values()) <= {1, 2}
