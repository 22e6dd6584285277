"""Which processes make up Weft on one machine: their programs, their environment and their ports."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.child import Child, Part
from cli.ports import pick_ports
from cli.probes import LOOPBACK, http_probe, nats_probe
from weft.embedded import configure_nats, find_nats_server

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cli.child import Probe

SERVICES = ("product", "order", "payment", "inventory", "shipping")
NATS = "nats-server"
SANDBOX = "sandbox"

_BROKER, _OUTSIDE, _INSIDE = range(3)
_PORTS = {NATS: ("client",), SANDBOX: ("http",)} | dict.fromkeys(SERVICES, ("grpc", "ops"))


@dataclass(frozen=True, slots=True)
class System:
    """The whole of Weft in the folder `data`, each part of it on its ports."""

    data: Path
    ports: Mapping[tuple[str, str], int]
    log_level: str = "info"
    log_format: str = "auto"

    @classmethod
    def on_free_ports(cls, data: Path, former: Mapping[str, Any] | None, **options: str) -> System:
        """Lay the system out on free ports, those of the `former` run where nobody has taken them since."""
        keys = [(name, port) for name, ports in _PORTS.items() for port in ports]
        return cls(data, pick_ports(keys, _former_ports(former)), **options)

    @property
    def nats_url(self) -> str:
        """Where the broker is."""
        return f"nats://{self._at(NATS, 'client')}"

    @property
    def orders(self) -> str:
        """The order service's gRPC address, `host:port`."""
        return self._at("order", "grpc")

    def processes(self, *, one_process: bool) -> list[Child]:
        """Return what to run: the broker, the sandbox, and the services in a process each or all in one."""
        services = [self._all_services()] if one_process else [self._service(name) for name in SERVICES]
        return [self._nats(), self._sandbox(), *services]

    def _nats(self) -> Child:
        folder, port = self.data / "nats", self.ports[NATS, "client"]
        folder.mkdir(parents=True, exist_ok=True)
        argv = (str(find_nats_server()), "--config", str(configure_nats(folder, port)))
        return Child(NATS, argv, {}, _BROKER, (self._part(NATS, self.nats_url),), (nats_probe(port),))

    def _sandbox(self) -> Child:
        port = self.ports[SANDBOX, "http"]
        argv = python_module("sandbox", "--port", str(port), "--ledger", str(self.data / "sandbox.db"))
        env = {"PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1", "SANDBOX_DIE_WITH_PARENT": "1"}
        part = self._part(SANDBOX, self._provider_url)
        return Child(SANDBOX, argv, env, _OUTSIDE, (part,), (http_probe(port, "/healthz"),))

    def _service(self, name: str) -> Child:
        env = {
            "WEFT_DATABASE_URL": f"sqlite:///{self.data / name}.db",
            "WEFT_INSTANCE": f"{name}-1",
            "WEFT_GRPC_PORT": str(self.ports[name, "grpc"]),
            "WEFT_OPS_PORT": str(self.ports[name, "ops"]),
        }
        argv, part = python_module(f"services.{name}"), self._service_part(name)
        return Child(name, argv, self._common() | env, _INSIDE, (part,), (self._probe(name),))

    def _all_services(self) -> Child:
        env = {"WEFT_DATA": str(self.data)}
        for name in SERVICES:
            env[f"WEFT_{name.upper()}_GRPC_PORT"] = str(self.ports[name, "grpc"])
            env[f"WEFT_{name.upper()}_OPS_PORT"] = str(self.ports[name, "ops"])
        parts = tuple(map(self._service_part, SERVICES))
        probes = tuple(map(self._probe, SERVICES))
        return Child("services", python_module("services"), self._common() | env, _INSIDE, parts, probes)

    def _common(self) -> dict[str, str]:
        return {
            "WEFT_NATS_URL": self.nats_url,
            "WEFT_PRODUCT_ADDRESS": self._at("product", "grpc"),
            "WEFT_PROVIDER_URL": self._provider_url,
            "WEFT_LOG_LEVEL": self.log_level,
            "WEFT_LOG_FORMAT": self.log_format,
            "WEFT_DIE_WITH_PARENT": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": python_path(),
        }

    @property
    def _provider_url(self) -> str:
        return f"http://{self._at(SANDBOX, 'http')}"

    def _service_part(self, name: str) -> Part:
        return self._part(name, f"grpc://{self._at(name, 'grpc')}")

    def _part(self, name: str, address: str) -> Part:
        return Part(name, {port: self.ports[name, port] for port in _PORTS[name]}, address)

    def _probe(self, name: str) -> Probe:
        return http_probe(self.ports[name, "ops"], "/readyz")

    def _at(self, name: str, port: str) -> str:
        return f"{LOOPBACK}:{self.ports[name, port]}"


def _former_ports(run: Mapping[str, Any] | None) -> dict[tuple[str, str], int]:
    try:
        processes: Sequence[Mapping[str, Any]] = (run or {}).get("processes", [])
        return {(p["name"], name): int(port) for p in processes for name, port in p["ports"].items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}


def python_module(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command that runs one of our modules with this Python."""
    # -P: a folder called `services` where the command was typed is not ours.
    return (sys.executable, "-P", "-m", module, *arguments)


def python_path() -> str:
    """Return `PYTHONPATH` for a child: this code's own folders first, if it runs from its sources."""
    root = Path(__file__).resolve().parents[1]
    own = [str(root), str(root / "gen")] if (root / "gen").is_dir() else []
    return os.pathsep.join(filter(None, [*own, os.environ.get("PYTHONPATH")]))
