"""A system of one's own to break, with a proxy in each connection between its processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from cli.chaos.deliveries import Deliveries
from cli.chaos.house import House
from cli.chaos.plan import Link
from cli.chaos.proxies import Proxy
from cli.chaos.wired import Wiring, find_port
from cli.child import die_with_parent
from cli.data import DataDirectory
from cli.errors import Problem
from cli.scale import instances, parse_scale
from cli.system import BUSY, GATEWAY, NATS, POSTGRES, SANDBOX, SERVICES, python_module, python_path

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

_START = 120.0
_STOP = 60.0
_READY = "weft is ready: "
_POLL = 0.1


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What system to run."""

    folder: Path
    postgres: bool
    scale: Sequence[str]
    """As it was typed: `order=2`."""

    def links(self) -> list[Link]:
        """Return the connections that its processes open to each other."""
        scale = parse_scale(self.scale, SERVICES)
        names = {service: instances(service, scale) for service in SERVICES}
        everyone = [name for group in names.values() for name in group]
        stores = [(NATS, "client"), *([(POSTGRES, "client")] if self.postgres else [])]
        links = [Link(name, *store) for name in everyone for store in stores]
        links += [Link(name, SANDBOX, "http") for name in names["payment"]]
        links += [Link(name, one, "grpc") for name in names["order"] for one in (*names["product"], *names["user"])]
        return links + [Link(GATEWAY, name, "grpc") for name in everyone]


@asynccontextmanager
async def own_house(blueprint: Blueprint) -> AsyncIterator[House]:
    """Run a system as `weft up` does, with a proxy in each connection between its processes, within the `async with`.

    Raises `Problem` if it does not start.
    """
    data = DataDirectory.at(blueprint.folder)
    data.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    deliveries = Deliveries()
    async with AsyncExitStack() as stack:
        proxies: dict[Link, Proxy] = {}
        for link in blueprint.links():
            tap = deliveries.tap() if link.target == NATS else None
            proxies[link] = await stack.enter_async_context(Proxy(partial(find_port, data.path, link), tap))
        Wiring({link: proxy.port for link, proxy in proxies.items()}).write(data.path)
        await stack.enter_async_context(_supervised(blueprint, data))
        yield House(data, proxies, deliveries)


@asynccontextmanager
async def _supervised(blueprint: Blueprint, data: DataDirectory) -> AsyncIterator[None]:
    """Keep a supervisor running, which keeps the system running."""
    wishes = json.dumps({"postgres": blueprint.postgres, "scale": blueprint.scale})
    log = data.logs / "weft-up.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *python_module("cli.chaos.wired", str(data.path), wishes),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **BUSY, "PYTHONPATH": python_path()},
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
    try:
        await _until_said(process, log)
        yield
    finally:
        await _end(process)


async def _until_said(process: Process, log: Path) -> None:
    end = asyncio.get_running_loop().time() + _START
    while not _says_ready(log):
        if process.returncode is not None or asyncio.get_running_loop().time() > end:
            raise Problem(f"the system does not start; see {log}")
        await asyncio.sleep(_POLL)


def _says_ready(log: Path) -> bool:
    return any(line.startswith(_READY) for line in log.read_text().splitlines())


async def _end(process: Process) -> None:
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
