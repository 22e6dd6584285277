"""What REST in front of gRPC costs: a bare proxy, this gateway with all that it does, and Envoy's transcoder.

All are in front of one server, which answers at once, and each has one core.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

import psutil

from bench import envoy
from bench.calls import Plan, Server
from bench.report import Figure, Target, number
from bench.services import run_gateway
from bench.stage import Broken, check_runs, environment, result_of, running
from cli.probes import LOOPBACK
from gateway.routing.router import Found, Router
from gateway.routing.template import parse
from weft.embedded import free_port
from weft.testing import Issuer

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from bench.stage import Stage

_RPCS = {
    "GetOrder": "GET /v1/orders/{order_id}: any valid token",
    "GetProduct": "GET /v1/products/{sku}: public",
    "CreateOrder": "POST /v1/orders: any valid token",
}
_SERVICES = ("commerce.order.v1.OrderService", "commerce.product.v1.ProductService")
_PROXY, _WEFT, _ENVOY = "bare proxy", "gateway", "Envoy"
_RATIO = Target(2)
_FLAT = Target(1.5)
_ROUTES = (10, 100, 1000)
_LOOKUPS = 20_000
_PATIENCE = 20.0
_POLL = 0.05
# Where no trace is sampled, it exports none; but it is not off.
_TRACED = {"OTEL_TRACES_EXPORTER": "console"}


async def measure(stage: Stage) -> Sequence[Figure]:
    """Measure two reads and a write through each, then how long it takes to find a route."""
    folder = stage.new_folder("gateway")
    issuer = Issuer(folder)
    authorization = f"Bearer {issuer.token('bench', lifetime=3600)}"
    figures: list[Figure] = []
    stage.display.step("starting the servers")
    async with AsyncExitStack() as stack:
        fronts, lacks = await _fronts(folder, issuer, stack)
        for rpc in _RPCS:
            plan = Plan(rpc, authorization, fronts, stage.scale.calls, stage.scale.calls // 4, stage.scale.call_rounds)
            path = folder / f"{rpc}.json"
            plan.write(path)
            rounds = await result_of(stage.display, "bench.calls", str(path), log=folder / "calls.log")
            figures += _figures(rpc, rounds, lacks)
    stage.display.step("finding routes")
    return [*figures, *await asyncio.to_thread(_lookups, stage.scale.call_rounds)]


async def _fronts(folder: Path, issuer: Issuer, stack: AsyncExitStack) -> tuple[Mapping[str, Server], str]:
    """Start the server and what is in front of it; return those, and why Envoy is not among them, if so."""
    backend = f"{LOOPBACK}:{free_port()}"
    await stack.enter_async_context(_listening(folder, "bare", [*_python("bench.bare"), backend.rpartition(":")[2]]))
    settings = {"WEFT_JWKS_URL": issuer.jwks_url, **_TRACED}
    gateway = await stack.enter_async_context(run_gateway(folder, dict.fromkeys(_SERVICES, backend), settings))
    port = free_port()
    proxy = _listening(folder, "proxy", [*_python("bench.proxy"), str(port), backend], port)
    fronts = {
        _PROXY: _front(_PROXY, port, await stack.enter_async_context(proxy)),
        _WEFT: _front(_WEFT, int(gateway.address.rpartition(":")[2]), gateway.process),
    }
    lacks = envoy.why_not()
    if not lacks:
        port = free_port()
        argv = envoy.command(folder, port, backend, _SERVICES)
        try:
            process = await stack.enter_async_context(_listening(folder, "envoy", argv, port))
            fronts[_ENVOY] = _front(_ENVOY, port, process)
        except (Broken, OSError) as error:
            lacks = f"it does not run here: {error}"
    for front in fronts.values():
        for pid in front.pids.values():
            _pin(pid)
    return fronts, lacks


def _python(module: str) -> Sequence[str]:
    return [sys.executable, "-P", "-m", module]


@asynccontextmanager
async def _listening(folder: Path, name: str, argv: Sequence[str], port: int = 0) -> AsyncIterator[Process]:
    """Run a program that listens on `port`, or else on the last of its arguments. Raises `Broken` if it does not."""
    log, until = folder / f"{name}.log", time.monotonic() + _PATIENCE
    async with running(argv, log=log, env=environment()) as process:
        while not await _takes_connections(port or int(argv[-1])):
            check_runs(process, name, log)
            if time.monotonic() > until:
                raise Broken(f"{name} does not listen after {_PATIENCE:g} s")
            await asyncio.sleep(_POLL)
        yield process


async def _takes_connections(port: int) -> bool:
    with suppress(OSError):
        _, writer = await asyncio.open_connection(LOOPBACK, port)
        writer.close()
        return True
    return False


def _front(name: str, port: int, process: Process) -> Server:
    return Server(f"http://{LOOPBACK}:{port}", {name: process.pid})


def _pin(pid: int) -> None:
    """Keep all threads of a process on the first core, and leave the others to whoever calls and answers."""
    process = psutil.Process(pid)
    if not hasattr(process, "cpu_affinity"):
        return
    core = min(process.cpu_affinity())
    for thread in process.threads():
        with suppress(psutil.NoSuchProcess):  # It may have ended.
            psutil.Process(thread.id).cpu_affinity([core])


def _figures(rpc: str, rounds: Sequence[Mapping[str, Mapping[str, float]]], lacks: str) -> Sequence[Figure]:
    each = {name: [one[name][name] for one in rounds] for name in rounds[0]}
    figures = [_cost(rpc, name, each[name], _RPCS[rpc] if name == _PROXY else "") for name in (_PROXY, _WEFT)]
    figures.append(_ratio(f"{rpc}, {_WEFT}: times the {_PROXY}", each[_WEFT], each[_PROXY], _RATIO))
    if _ENVOY not in each:
        return [*figures, Figure(f"{rpc}, {_ENVOY}", float("nan"), "µs CPU", note=f"not measured: {lacks}")]
    figures.append(_cost(rpc, _ENVOY, each[_ENVOY], "its transcoder alone: no token, limit or trace"))
    return [*figures, _ratio(f"{rpc}, {_WEFT}: times {_ENVOY}", each[_WEFT], each[_ENVOY])]


def _cost(rpc: str, name: str, seconds: Sequence[float], note: str) -> Figure:
    median = statistics.median(seconds)
    told = {"requests/CPU s": 1 / median, "least": min(seconds) * 1e6, "most": max(seconds) * 1e6}
    return Figure(f"{rpc}, {name}", median * 1e6, "µs CPU", parts=told, note=note)


def _ratio(what: str, ours: Sequence[float], theirs: Sequence[float], target: Target | None = None) -> Figure:
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return Figure(what, statistics.median(ratios), "x", target, note="rounds: " + ", ".join(map(number, ratios)))


def _lookups(rounds: int) -> Sequence[Figure]:
    """Measure how long it takes to find a route among few and many, in turns."""
    routers = {routes: _router(routes) for routes in _ROUTES}
    took: dict[int, list[float]] = {routes: [] for routes in _ROUTES}
    for _ in range(rounds):
        for routes, router in routers.items():
            took[routes].append(_find_all(router, routes))
    figures = [
        Figure(f"finding one of {routes:,} routes", statistics.median(seconds) * 1e6, "µs CPU")
        for routes, seconds in took.items()
    ]
    few, many = _ROUTES[0], _ROUTES[-1]
    return [*figures, _ratio(f"finding one of {many:,} routes: times one of {few}", took[many], took[few], _FLAT)]


def _router(routes: int) -> Router[int]:
    router: Router[int] = Router()
    for n in range(routes):
        kinds = (f"/v1/things{n // 2}/{{id}}", f"/v1/things{n // 2}/{{id}}:use")
        router.add("GET", parse(kinds[n % 2]), n)
    return router


def _find_all(router: Router[int], routes: int) -> float:
    paths = [f"/v1/things{n % routes // 2}/a{n}{':use' if n % 2 else ''}" for n in range(_LOOKUPS)]
    start = time.thread_time()
    for path in paths:
        found = router.find("GET", path)
        assert isinstance(found, Found)
    return (time.thread_time() - start) / _LOOKUPS
