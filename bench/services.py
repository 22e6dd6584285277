"""Single services, each a process of its own like in production."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from bench.stage import Broken, check_runs, environment, running
from cli.probes import LOOPBACK, http_probe
from cli.system import BUSY, descriptors, python_module
from weft.embedded import free_port

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

_POLL = 0.02
_PATIENCE = 60.0


class Running(NamedTuple):
    """A process that serves at `address`, host and port."""

    process: Process
    log: Path
    address: str


@asynccontextmanager
async def run_service(folder: Path, name: str, settings: Mapping[str, str]) -> AsyncIterator[Running]:
    """Run a service, which is ready then; `settings` say where its database, its broker and the issuer's keys are."""
    port = free_port()
    own = {"WEFT_GRPC_PORT": str(port), "WEFT_INSTANCE": f"{name}-1", **settings}
    async with _ready(folder, name, python_module(f"services.{name}"), port, own) as running_one:
        yield running_one


@asynccontextmanager
async def run_gateway(folder: Path, backends: Mapping[str, str], settings: Mapping[str, str]) -> AsyncIterator[Running]:
    """Run a gateway in front of services, by their full names; `settings` say where the issuer's keys are."""
    port = free_port()
    own = {
        "WEFT_GATEWAY_DESCRIPTORS": str(descriptors()),
        "WEFT_GATEWAY_BACKENDS": " ".join(f"{service}={address}" for service, address in backends.items()),
        "WEFT_GATEWAY_PORT": str(port),
        **BUSY,
        **settings,
    }
    async with _ready(folder, "gateway", python_module("gateway"), port, own) as running_one:
        yield running_one


@asynccontextmanager
async def _ready(
    folder: Path, name: str, argv: tuple[str, ...], port: int, settings: Mapping[str, str]
) -> AsyncIterator[Running]:
    ops_port, log = free_port(), folder / f"{name}.log"
    kind = "WEFT_GATEWAY_OPS_PORT" if name == "gateway" else "WEFT_OPS_PORT"
    env = environment({kind: str(ops_port), "WEFT_LOG_FORMAT": "json", "WEFT_DIE_WITH_PARENT": "1", **settings})
    async with running(argv, log=log, env=env) as process:
        probe, deadline = http_probe(ops_port, "/readyz"), time.monotonic() + _PATIENCE
        while why := await probe():
            check_runs(process, name, log)
            if time.monotonic() > deadline:
                raise Broken(f"{name} is not ready after {_PATIENCE:g} s: {why}")
            await asyncio.sleep(_POLL)
        yield Running(process, log, f"{LOOPBACK}:{port}")
