"""Which processes make up Weft on one machine: their programs, their environment and their ports."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.child import Child, Part
from cli.ports import pick_ports
from cli.probes import LOOPBACK, http_probe, nats_probe, postgres_probe
from cli.scale import instances
from weft.embedded import CannotStart, configure_nats, find_nats_server, postgres_command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cli.child import Probe

SERVICES = ("user", "product", "order", "payment", "inventory", "shipping")
NATS = "nats-server"
POSTGRES = "postgres"
SANDBOX = "sandbox"
GATEWAY = "gateway"

BUSY = {
    "WEFT_GATEWAY_RATE_PER_USER": "1e6",
    "WEFT_GATEWAY_BURST_PER_USER": "1000000",
    "WEFT_GATEWAY_RATE_PER_ADDRESS": "1e6",
    "WEFT_GATEWAY_BURST_PER_ADDRESS": "1000000",
}
"""The environment of a system to which one machine plays all customers: its limits are there, and nobody meets them."""

_STORES, _OUTSIDE, _INSIDE, _EDGE = range(4)
_SERVICE_PORTS = ("grpc", "ops")
_PORTS = {NATS: ("client",), POSTGRES: ("client",), SANDBOX: ("http",), GATEWAY: ("http", "ops")}


@dataclass(frozen=True, slots=True)
class Design:
    """What somebody may want of a system, beside where it is."""

    accounts: Path | None = None
    """The file of the databases' passwords, by service: its data are in PostgreSQL. Without it, in SQLite files."""
    scale: Mapping[str, int] = field(default_factory=dict)
    """How many instances of a service there are, if more than one: they need PostgreSQL."""
    log_level: str = "info"
    log_format: str = "auto"

    def names(self) -> list[str]:
        """Return everything that has a name of its own, in the order in which people read of it."""
        services = [name for service in SERVICES for name in instances(service, self.scale)]
        return [NATS, *([POSTGRES] if self.accounts else []), SANDBOX, *services, GATEWAY]


@dataclass(frozen=True, slots=True)
class System:
    """The whole of Weft in the folder `data`, each part of it on its ports."""

    data: Path
    ports: Mapping[tuple[str, str], int]
    design: Design = field(default_factory=Design)
    passwords: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def on_free_ports(
        cls,
        data: Path,
        wanted: Mapping[tuple[str, str], int],
        design: Design | None = None,
        passwords: Mapping[str, str] | None = None,
    ) -> System:
        """Lay the system out on free ports, the `wanted` ones where nobody has taken them."""
        design = design or Design()
        keys = [(name, port) for name in design.names() for port in _PORTS.get(name, _SERVICE_PORTS)]
        return cls(data, pick_ports(keys, wanted), design, passwords or {})

    @property
    def nats_url(self) -> str:
        """Where the broker is."""
        return f"nats://{self._at(NATS, 'client')}"

    @property
    def gateway_url(self) -> str:
        """Where clients come in."""
        return f"http://{self._at(GATEWAY, 'http')}"

    def processes(self, *, one_process: bool) -> list[Child]:
        """Return what to run: the stores, the sandbox, services and gateway in a process each or all in one.

        Raises `CannotStart` if a program is not there.
        """
        stores = [self._nats(), *([self._postgres(self.design.accounts)] if self.design.accounts else [])]
        if one_process:
            return [*stores, self._sandbox(), self._all_services()]
        services = [
            self._service(service, name, number)
            for service in SERVICES
            for number, name in enumerate(self._instances(service), 1)
        ]
        return [*stores, self._sandbox(), *services, self._gateway()]

    def _nats(self) -> Child:
        folder, port = self.data / "nats", self.ports[NATS, "client"]
        folder.mkdir(parents=True, exist_ok=True)
        argv = (str(find_nats_server()), "--config", str(configure_nats(folder, port)))
        return Child(NATS, argv, {}, _STORES, (self._part(NATS, self.nats_url),), (nats_probe(port),))

    def _postgres(self, accounts: Path) -> Child:
        folder, port = self.data / POSTGRES, self.ports[POSTGRES, "client"]
        folder.mkdir(parents=True, exist_ok=True)
        argv = postgres_command(folder, port, accounts)
        part = self._part(POSTGRES, f"postgresql://{self._at(POSTGRES, 'client')}")
        return Child(POSTGRES, argv, {}, _STORES, (part,), (postgres_probe(port),), signal.SIGINT)

    def _sandbox(self) -> Child:
        port = self.ports[SANDBOX, "http"]
        argv = python_module("sandbox", "--port", str(port), "--ledger", str(self.data / "sandbox.db"))
        env = {"PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1", "SANDBOX_DIE_WITH_PARENT": "1"}
        part = self._part(SANDBOX, self._provider_url)
        return Child(SANDBOX, argv, env, _OUTSIDE, (part,), (http_probe(port, "/healthz"),))

    def _service(self, service: str, name: str, number: int) -> Child:
        env = {
            "WEFT_DATABASE_URL": self.database_url(service),
            "WEFT_INSTANCE": f"{service}-{number}",
            "WEFT_GRPC_PORT": str(self.ports[name, "grpc"]),
            "WEFT_OPS_PORT": str(self.ports[name, "ops"]),
        }
        argv = python_module(f"services.{service}")
        return Child(name, argv, self._common() | env, _INSIDE, (self._service_part(name),), (self._probe(name),))

    def _gateway(self) -> Child:
        env = self._common() | self._gateway_env() | {"WEFT_INSTANCE": "gateway-1"}
        part, probe = self._part(GATEWAY, self.gateway_url), self._probe(GATEWAY)
        return Child(GATEWAY, python_module("gateway"), env, _EDGE, (part,), (probe,))

    def _all_services(self) -> Child:
        env = {"WEFT_DATA": str(self.data)} | self._gateway_env()
        for name in SERVICES:
            env[f"WEFT_{name.upper()}_DATABASE_URL"] = self.database_url(name)
            env[f"WEFT_{name.upper()}_GRPC_PORT"] = str(self.ports[name, "grpc"])
            env[f"WEFT_{name.upper()}_OPS_PORT"] = str(self.ports[name, "ops"])
        parts = (*map(self._service_part, SERVICES), self._part(GATEWAY, self.gateway_url))
        probes = tuple(map(self._probe, (*SERVICES, GATEWAY)))
        return Child("services", python_module("services"), self._common() | env, _INSIDE, parts, probes)

    def _common(self) -> dict[str, str]:
        return {
            "WEFT_NATS_URL": self.nats_url,
            "WEFT_JWKS_URL": f"http://{self._at('user', 'ops')}/.well-known/jwks.json",
            "WEFT_ADMIN_FILE": str(self.data / "admin.json"),
            "WEFT_USER_ADDRESS": self._target("user"),
            "WEFT_PRODUCT_ADDRESS": self._target("product"),
            "WEFT_PROVIDER_URL": self._provider_url,
            "WEFT_LOG_LEVEL": self.design.log_level,
            "WEFT_LOG_FORMAT": self.design.log_format,
            "WEFT_DIE_WITH_PARENT": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": python_path(),
        }

    def _gateway_env(self) -> dict[str, str]:
        own = (f"commerce.{name}.v1.{name.title()}Service={self._target(name)}" for name in SERVICES)
        shared = (f"weftapi.v1.OperationsService/{name}={self._target(name)}" for name in SERVICES)
        return {
            "WEFT_GATEWAY_DESCRIPTORS": str(descriptors()),
            "WEFT_GATEWAY_BACKENDS": " ".join([*own, *shared]),
            "WEFT_GATEWAY_PORT": str(self.ports[GATEWAY, "http"]),
            "WEFT_GATEWAY_OPS_PORT": str(self.ports[GATEWAY, "ops"]),
        }

    def database_url(self, service: str) -> str:
        """Return where a service has its database, with the password if there is one."""
        if not self.design.accounts:
            return f"sqlite:///{self.data / service}.db"
        account = f"{service}:{self.passwords[service]}"
        return f"postgresql+psycopg://{account}@{self._at(POSTGRES, 'client')}/{service}"

    @property
    def _provider_url(self) -> str:
        return f"http://{self._at(SANDBOX, 'http')}"

    def _instances(self, service: str) -> list[str]:
        return instances(service, self.design.scale)

    def _target(self, service: str) -> str:
        """Return where gRPC finds all instances of a service."""
        addresses = [self._at(name, "grpc") for name in self._instances(service)]
        return addresses[0] if len(addresses) == 1 else f"ipv4:{','.join(addresses)}"

    def _service_part(self, name: str) -> Part:
        return self._part(name, f"grpc://{self._at(name, 'grpc')}")

    def _part(self, name: str, address: str) -> Part:
        ports = _PORTS.get(name, _SERVICE_PORTS)
        return Part(name, {port: self.ports[name, port] for port in ports}, address)

    def _probe(self, name: str) -> Probe:
        return http_probe(self.ports[name, "ops"], "/readyz")

    def _at(self, name: str, port: str) -> str:
        return f"{LOOPBACK}:{self.ports[name, port]}"


def ports_of(run: Mapping[str, Any] | None) -> dict[tuple[str, str], int]:
    """Return the ports that the description of a run names; none if it makes no sense."""
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


def descriptors() -> Path:
    """Return the file that describes every service and message: it lies beside the generated code."""
    spec = find_spec("commerce")
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise CannotStart("the generated code is not there: install weft, or put gen/ on PYTHONPATH")
    return Path(folders[0]).with_name("commerce.binpb")
