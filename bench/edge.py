"""What a call costs through the chassis, and through the gateway, beside a server that is nothing but grpc.aio."""

from __future__ import annotations

import asyncio
import statistics
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from bench import databases
from bench.calls import Plan, Server
from bench.report import Figure, Target, number
from bench.services import run_gateway, run_service
from bench.stage import environment, result_of, running
from cli.probes import LOOPBACK
from weft.embedded import NatsServer, free_port
from weft.testing import Issuer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from bench.services import Running
    from bench.stage import Stage

    Rounds = Sequence[Mapping[str, Mapping[str, float]]]

_SERVICE_OF = {"GetStock": "inventory", "GetProduct": "product", "Restock": "inventory"}
_NOTES = {
    "GetStock": "any valid token",
    "GetProduct": "public: no token is looked at",
    "Restock": "the role admin; a transaction and its event, which the bare one does not have",
}
_READS = ("GetStock", "GetProduct")
_TARGET = Target(55, at_least=True)
_UNIT = "calls/CPU s"
# Where no trace is sampled, it exports none; but it is not off.
_TRACED = {"OTEL_TRACES_EXPORTER": "console"}


async def measure(stage: Stage) -> Sequence[Figure]:
    """Measure two reads and a write."""
    folder = stage.new_folder("edge")
    issuer = Issuer(folder)
    authorization = f"Bearer {issuer.token('bench', 'admin', lifetime=3600)}"
    figures: list[Figure] = []
    stage.display.step("starting the servers")
    async with _servers(folder, issuer) as servers:
        for rpc, name in _SERVICE_OF.items():
            service = servers[name]
            mine = {"bare": servers["bare"], "gRPC": service, "REST": _both(servers["gateway"], service)}
            plan = Plan(rpc, authorization, mine, stage.scale.calls, stage.scale.calls // 4, stage.scale.call_rounds)
            plan.write(folder / f"{rpc}.json")
            rounds = await result_of(
                stage.display, "bench.calls", str(folder / f"{rpc}.json"), log=folder / "calls.log"
            )
            figures += _figures(rpc, rounds)
    return figures


@asynccontextmanager
async def _servers(folder: Path, issuer: Issuer) -> AsyncIterator[Mapping[str, Server]]:
    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(NatsServer(folder / "nats"))
        common = {"WEFT_NATS_URL": nats.url, "WEFT_JWKS_URL": issuer.jwks_url, **_TRACED}
        bare, servers = await _run_bare(folder, stack), dict[str, Server]()
        for name, fill in (("inventory", databases.stocked), ("product", databases.offered)):
            url = f"sqlite:///{folder / name}.db"
            await asyncio.to_thread(fill, url)
            service = run_service(folder, name, {"WEFT_DATABASE_URL": url, **common})
            servers[name] = _server(name, await stack.enter_async_context(service))
        backends = {f"commerce.{name}.v1.{name.title()}Service": one.address for name, one in servers.items()}
        gateway = await stack.enter_async_context(run_gateway(folder, backends, common))
        yield {**servers, "bare": bare, "gateway": _server("gateway", gateway)}


async def _run_bare(folder: Path, stack: AsyncExitStack) -> Server:
    port = free_port()
    argv = [sys.executable, "-P", "-m", "bench.bare", str(port)]
    process = await stack.enter_async_context(running(argv, log=folder / "bare.log", env=environment()))
    return Server(f"{LOOPBACK}:{port}", {"bare": process.pid})


def _server(name: str, service: Running) -> Server:
    return Server(service.address, {name: service.process.pid})


def _both(gateway: Server, service: Server) -> Server:
    """Return the service as it is behind the gateway."""
    (pid,) = service.pids.values()
    return Server(f"http://{gateway.address}", {**gateway.pids, "service": pid})


def _figures(rpc: str, rounds: Rounds) -> Sequence[Figure]:
    bare = [one["bare"]["bare"] for one in rounds]
    served = [sum(one["gRPC"].values()) for one in rounds]
    gateway = [one["REST"]["gateway"] for one in rounds]
    behind = [one["REST"]["service"] for one in rounds]
    both = [sum(one["REST"].values()) for one in rounds]
    parts = {"gateway": statistics.median(gateway) * 1e6, "service": statistics.median(behind) * 1e6}
    ratios = [one / other * 100 for one, other in zip(bare, served, strict=True)]
    target = _TARGET if rpc in _READS else None
    each = "rounds: " + ", ".join(map(number, ratios))
    return [
        _rate(f"{rpc}, bare grpc.aio", bare),
        _rate(f"{rpc}, gRPC through the chassis", served, _NOTES[rpc]),
        Figure(f"{rpc}, gRPC through the chassis: of bare", statistics.median(ratios), "%", target, note=each),
        _rate(f"{rpc}, REST: the gateway alone", gateway),
        _rate(f"{rpc}, REST: gateway and service", both, parts=parts),
    ]


def _rate(what: str, seconds: Sequence[float], note: str = "", parts: Mapping[str, float] | None = None) -> Figure:
    median = statistics.median(seconds)
    told: dict[str, Any] = {"µs a call": median * 1e6, **(parts or {})}
    return Figure(what, 1 / median, _UNIT, parts=told, note=note)
