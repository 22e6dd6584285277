"""The data directory: who holds it, what runs in it, and where its logs are.

Two locks guard it. `lock` is the supervisor's own and holds its pid. `processes.lock` is inherited by every
process that it starts, so it is free once all of them are gone, also when the supervisor died first.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cli.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

DEFAULT_DATA = Path(".weft")
"""Where a system lives unless it is told otherwise."""
_BRIEFLY = 0.5
_POLL = 0.05


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """One system's folder; `path` is absolute."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> DataDirectory:
        """Name the folder at `path`, which need not exist."""
        return cls(path.expanduser().resolve())

    @property
    def logs(self) -> Path:
        """Where each process has its log."""
        return self.path / "logs"

    @property
    def run_file(self) -> Path:
        """Describes the running system; there is none while nothing runs."""
        return self.path / "run.json"

    @property
    def admin_file(self) -> Path:
        """Email and password of the admin that the first start makes."""
        return self.path / "admin.json"

    @property
    def accounts_file(self) -> Path:
        """The passwords of the databases, by service, where the data are in PostgreSQL."""
        return self.path / "postgres.json"

    @property
    def former_run_file(self) -> Path:
        """The last run that was stopped cleanly: its ports are tried again."""
        return self.path / "last-run.json"

    def holder(self) -> int | None:
        """Return the pid of the supervisor that holds the folder, or None if nobody does."""
        try:
            with (self.path / "lock").open("rb") as lock:
                if _lock(lock, fcntl.LOCK_SH):
                    return None
                return int(lock.read().strip() or b"0")
        except FileNotFoundError:
            return None

    def processes_run(self) -> bool:
        """Tell whether any process that a supervisor started here is still there."""
        try:
            with (self.path / "processes.lock").open("rb") as lock:
                return not _lock(lock, fcntl.LOCK_SH)
        except FileNotFoundError:
            return False

    @contextmanager
    def hold(self, *, patience: float, waiting: Callable[[], None]) -> Iterator[int]:
        """Hold the folder, and yield the file descriptor that every process started in it has to inherit.

        Waits up to `patience` seconds for the processes of a supervisor that died, and calls `waiting` once
        before. Raises `Problem` if another supervisor holds the folder, or they do not end.
        """
        with self._open("lock") as lock, self._open("processes.lock") as processes:
            if not _wait_for(lock, _BRIEFLY):
                raise Problem(f"{self.path} is in use by another `weft up` (pid {_read_pid(lock)}).")
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n".encode())
            lock.flush()
            if not _wait_for(processes, _BRIEFLY):
                waiting()
                if not _wait_for(processes, patience):
                    raise Problem(
                        f"processes of an earlier `weft up` still use {self.path} ({self._leftovers()}): "
                        "end them, then try again."
                    )
            yield processes.fileno()

    def write_run(self, run: Mapping[str, Any]) -> None:
        """Replace run.json: a reader sees the former content or this, never a part."""
        draft = self.run_file.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(json.dumps(run, indent=2) + "\n")
        draft.replace(self.run_file)

    def read_run(self) -> dict[str, Any] | None:
        """Return run.json, or None if it is not there or makes no sense."""
        return _read_json(self.run_file)

    def read_former_run(self) -> dict[str, Any] | None:
        """Return the description of the run before, however it ended."""
        return self.read_run() or _read_json(self.former_run_file)

    def retire_run(self) -> None:
        """Say that nothing runs any more."""
        with suppress(FileNotFoundError):
            self.run_file.replace(self.former_run_file)

    def _open(self, name: str) -> IO[bytes]:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.logs.mkdir(exist_ok=True)
            return (self.path / name).open("a+b")
        except OSError as error:
            raise Problem(f"cannot write to {self.path}: {error.strerror}. Choose another --data.") from None

    def _leftovers(self) -> str:
        processes = (self.read_run() or {}).get("processes", [])
        return ", ".join(f"{p['name']} was pid {p['pid']}" for p in processes) or "pids unknown"


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _lock(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for(file: IO[bytes], patience: float) -> bool:
    end = time.monotonic() + patience
    while not _lock(file, fcntl.LOCK_EX):
        if time.monotonic() > end:
            return False
        time.sleep(_POLL)
    return True


def _read_pid(lock: IO[bytes]) -> str:
    lock.seek(0)
    return lock.read().decode().strip() or "unknown"
