"""The system that is to suffer, as its run.json describes it."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cli.data import DataDirectory
from cli.errors import REFUSED, Problem
from cli.probes import http_probe, nats_probe, postgres_probe
from cli.system import NATS, POSTGRES, SANDBOX, ports_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cli.chaos.deliveries import Deliveries
    from cli.chaos.plan import Link
    from cli.chaos.proxies import Proxy

_POLL = 0.1


@dataclass(slots=True)
class House:
    """A running system, as its run.json describes it now."""

    data: DataDirectory
    proxies: Mapping[Link, Proxy] = field(default_factory=dict)
    """The connections that can be cut; none in a system that was there before."""
    deliveries: Deliveries | None = None

    @property
    def nats(self) -> str:
        """Where the broker is."""
        return f"nats://127.0.0.1:{self.port(NATS, 'client')}"

    @property
    def provider(self) -> str:
        """Where the payment provider is."""
        return f"http://127.0.0.1:{self.port(SANDBOX, 'http')}"

    @property
    def gateway(self) -> str:
        """Where customers come in."""
        return str(self._run()["gateway"])

    def processes(self) -> dict[str, list[str]]:
        """Return the names of what each process hosts, by the first of them, in the order of run.json."""
        hosts: dict[int, list[str]] = {}
        for part in self._run()["processes"]:
            hosts.setdefault(int(part["pid"]), []).append(str(part["name"]))
        return {names[0]: names for names in hosts.values()}

    def instances(self, service: str) -> list[str]:
        """Return the names of a service's instances."""
        return [name for name, _ in self.ports() if name == service or re.fullmatch(rf"{service}-\d+", name)]

    def pid(self, name: str) -> int:
        """Return the process that hosts a part now. Raises `Problem` if none does."""
        pid = next((int(part["pid"]) for part in self._run()["processes"] if part["name"] == name), None)
        if pid is None:
            raise Problem(f"{name} does not run: {self.data.run_file} does not name it.", REFUSED)
        return pid

    def port(self, name: str, port: str) -> int:
        """Return a port of a part."""
        return self.ports()[name, port]

    def ports(self) -> dict[tuple[str, str], int]:
        """Return all ports."""
        return ports_of(self._run())

    async def unready(self, name: str) -> str | None:
        """Return why a process is not ready; None if it is, with everything that it hosts."""
        hosted = self.processes().get(name, [name])
        ports = self.ports()
        for part in hosted:
            if (part, "ops") in ports:
                probe = http_probe(ports[part, "ops"], "/readyz")
            elif part == SANDBOX:
                probe = http_probe(ports[part, "http"], "/healthz")
            else:
                probe = (postgres_probe if part == POSTGRES else nats_probe)(ports[part, "client"])
            if reason := await probe():
                return reason
        return None

    async def until_ready(self, name: str, seconds: float) -> bool:
        """Wait until a process is ready; tell whether it is."""
        try:
            async with asyncio.timeout(seconds):
                while await self.unready(name) is not None:  # noqa: ASYNC110 - another process', not an event
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            return False
        return True

    def _run(self) -> dict[str, Any]:
        run = self.data.read_run()
        if run is None:
            raise Problem(f"{self.data.run_file} is gone: the system was stopped meanwhile.", REFUSED)
        return run


def attach(folder: Path) -> House:
    """Return the system that runs in `folder`. Raises `Problem` if none does, or its admin is not known."""
    data = DataDirectory.at(folder)
    if data.read_run() is None or data.holder() is None:
        raise Problem(f"nothing runs in {data.path}: `weft up --data {folder}` starts it.")
    return House(data)
