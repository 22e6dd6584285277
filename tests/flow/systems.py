"""The whole system as real processes, started by `weft up`: kill parts of it, stop it, and start it again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import psycopg

from cli.system import BUSY
from weft.testing import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("user", "product", "order", "payment", "inventory", "shipping")
PATIENCE = 60.0
# `weft up` is asked to end when the tests die without a word; only Linux has that.
_UP = """
import ctypes, functools, json, runpy, sys
from cli import supervisor
supervisor.Timing = functools.partial(supervisor.Timing, **json.loads(sys.argv.pop(1)))
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)
sys.argv[0] = "weft"
runpy.run_module("cli", run_name="__main__")
"""

WAYS: dict[str, dict[str, Any]] = {
    "processes": {},
    "one-process": {"one_process": True},
    "postgres": {"postgres": True, "scale": dict.fromkeys(("order", "payment", "inventory", "shipping"), 2)},
}
"""The ways to run the system, by name: the arguments of `WholeSystem`."""
_LEASES = {"WEFT_LEASE_SECONDS": "2"}


class WholeSystem:
    """A data folder, and the system that runs in it or does not."""

    def __init__(
        self,
        folder: Path,
        *,
        one_process: bool = False,
        postgres: bool = False,
        scale: Mapping[str, int] | None = None,
        settings: Mapping[str, str] | None = None,
        tree: Path = ROOT,
        timing: Mapping[str, float] | None = None,
    ) -> None:
        """`scale` is how many instances of a service there are; `settings` are environment variables of all.

        `tree` is where the code is; `timing` is what the supervisor's `Timing` has other than usual.
        """
        self.data = folder / "data"
        self.one_process = one_process
        self.postgres = postgres
        self.scale = scale or {}
        self.restocked: Counter[str] = Counter()
        """How many pieces of each sku were ever put into stock."""
        self.strangers: set[str] = set()
        """What events that somebody else published are about; these may become dead letters."""
        self.tokens: dict[str, str] = {}
        """The `authorization` of those who signed in, which is good for longer than the tests take."""
        self._output = folder / "output"
        self._settings = {**_LEASES, **BUSY, **(settings or {})}
        self._tree = tree
        self._timing = timing or {}
        self._up: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Run `weft up` and return when all of it is ready; do nothing if it runs."""
        if self._up is not None and self._up.poll() is None:
            return
        self._spawn()
        patience = self._timing.get("start", PATIENCE)
        await eventually(lambda: "weft is ready: " in self.said or self._ended, patience, "weft is ready")
        assert not self._ended, self.said

    def stop(self) -> int:
        """Ask it to stop, as Ctrl-C does, and return its exit code; 0 if it does not run."""
        if self._up is None:
            return 0
        self._up.send_signal(signal.SIGTERM)
        try:
            return self._up.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._up.kill()
            self._up.wait()
            raise

    def kill_supervisor(self) -> None:
        """Kill `weft up` itself, and none of what it started."""
        assert self._up is not None
        self._up.kill()
        self._up.wait()

    @property
    def said(self) -> str:
        """What `weft up` printed."""
        return self._output.read_text()

    @property
    def nats(self) -> str:
        """Where the broker is."""
        return f"nats://127.0.0.1:{self._port('nats-server', 'client')}"

    @property
    def gateway(self) -> str:
        """Where REST is, as in `http://127.0.0.1:8080`."""
        url: str = json.loads((self.data / "run.json").read_text())["gateway"]
        return url

    @property
    def admin(self) -> dict[str, str]:
        """Email and password of the admin."""
        admin: dict[str, str] = json.loads((self.data / "admin.json").read_text())
        return admin

    @property
    def provider(self) -> str:
        """Where the payment provider is."""
        return f"http://127.0.0.1:{self._port('sandbox', 'http')}"

    def address(self, service: str) -> str:
        """Where a service answers gRPC: a gRPC target, of all of its instances."""
        first, *others = (f"127.0.0.1:{self._port(name, 'grpc')}" for name in self.instances(service))
        return ",".join([f"ipv4:{first}", *others]) if others else first

    def instances(self, service: str) -> list[str]:
        """Return the names of a service's processes."""
        return [service, *(f"{service}-{number}" for number in range(2, self.scale.get(service, 1) + 1))]

    def database_url(self, service: str) -> str:
        """Return the SQLAlchemy URL of a service's database; SQLite is opened for reading."""
        if not self.postgres:
            return f"sqlite:///file:{self.data / service}.db?mode=ro&uri=true"
        password = json.loads((self.data / "postgres.json").read_text())[service]
        return f"postgresql+psycopg://{service}:{password}@127.0.0.1:{self._port('postgres', 'client')}/{service}"

    def pid(self, name: str) -> int:
        """Return the process that hosts a part of the system."""
        pid, _ = self._parts()[name]
        return pid

    @property
    def supervisor(self) -> int:
        """Return the process of `weft up` itself."""
        assert self._up is not None
        return self._up.pid

    def pids(self) -> set[int]:
        """Return every process of the system but the supervisor."""
        return {pid for pid, _ in self._parts().values()}

    def still_alive(self) -> dict[str, int]:
        """Return the parts whose processes run, with the pids that run.json last named."""
        return {name: pid for name, (pid, _) in self._parts().items() if is_alive(pid)}

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal to the process that hosts a part."""
        os.kill(self.pid(name), number)

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """Have a process stand still within the `with`: it accepts connections, and does nothing."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    async def restarted(self, name: str, before: int) -> None:
        """Return when a part has another process than `before`, and everything is ready."""
        await eventually(lambda: self.pid(name) != before, PATIENCE, f"{name} is restarted")
        await self.all_ready(f"after the restart of {name}")

    async def all_ready(self, when: str = "") -> None:
        """Return when every process answers."""
        await eventually(self._ready, PATIENCE, f"all is ready {when}")

    def _spawn(self) -> None:
        path = os.pathsep.join([str(self._tree), str(self._tree / "gen")])
        options = ["--gateway-port=0"] + ["--one-process"] * self.one_process + ["--postgres"] * self.postgres
        options += [f"--scale={service}={count}" for service, count in self.scale.items()]
        with self._output.open("w") as output:
            self._up = subprocess.Popen(
                [sys.executable, "-c", _UP, json.dumps(self._timing), "up", f"--data={self.data}", *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._tree,
                env={**os.environ, "PYTHONPATH": path, **self._settings},
            )

    @property
    def _ended(self) -> bool:
        return self._up is None or self._up.poll() is not None

    async def _ready(self) -> bool:
        with socket.create_connection(("127.0.0.1", self._port("nats-server", "client")), 1):
            pass
        if self.postgres:
            url = self.database_url("order").replace("+psycopg", "")
            await (await psycopg.AsyncConnection.connect(url)).close()
        asked = [f"http://127.0.0.1:{ports['ops']}/readyz" for _, ports in self._parts().values() if "ops" in ports]
        async with aiohttp.ClientSession() as session:
            for url in [*asked, f"{self.provider}/healthz"]:
                async with session.get(url) as answer:
                    if answer.status != 200:
                        return False
        return True

    def _port(self, name: str, port: str) -> int:
        _, ports = self._parts()[name]
        return ports[port]

    def _parts(self) -> dict[str, tuple[int, dict[str, int]]]:
        run = json.loads((self.data / "run.json").read_text())
        return {part["name"]: (int(part["pid"]), part["ports"]) for part in run["processes"]}


def is_alive(pid: int) -> bool:
    """Tell whether a process runs (Linux); one that ended and is still listed does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
