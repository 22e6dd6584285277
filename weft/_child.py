"""A server that runs as a child process, alone in its folder."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import subprocess
import sys
import time
import weakref
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from weft.startup import CannotStart

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    Ready = Callable[[], Awaitable[bool]]

_LAUNCHER = Path(__file__).with_name("_attached.py")
_POLL = 0.01
_LARGEST_LOG = 16 * 2**20
_FATAL = re.compile(r".*(\[FTL\]|FATAL:|error:)")


class Child:
    """A program in a process and a session of its own, so that the terminal's Ctrl-C is not for it.

    The process, and what it forks, hold a lock on `folder/lock`: two servers never share a folder, not even
    when the process that started the first is gone. Its output goes to `folder/<name>.log`.
    """

    def __init__(self, name: str, folder: Path, *, stop_signal: signal.Signals) -> None:
        """Prepare. `stop_signal` asks it to end."""
        self.name = name
        self.folder = folder
        self.log = folder / f"{name}.log"
        self._stop_signal = stop_signal
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process's id; None if it does not run."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @asynccontextmanager
    async def claimed(self, patience: float = 10.0) -> AsyncIterator[None]:
        """Hold the folder, to start the next process in it; what was started keeps it until its end.

        Waits until the last one is quite gone. Raises `CannotStart` if that takes over `patience` seconds.
        """
        deadline = time.monotonic() + patience
        with self._open_lock() as lock:
            while not _locked(lock):
                if time.monotonic() > deadline:
                    raise CannotStart(f"{self.folder} is in use by {self._owner(lock)}: stop that first")
                await asyncio.sleep(_POLL)
            self._lock = lock
            try:
                yield
            finally:
                self._lock = None

    async def start(self, command: Sequence[str], *, is_ready: Ready, patience: float) -> None:
        """Start the process in the claimed folder and wait until it is ready.

        Raises `CannotStart` if it ends, or is not ready after `patience` seconds; then it is killed.
        """
        start = self._log_size()
        self._process = process = self._popen(command)
        # Where the parent's death tells the child nothing, its ordinary end still does.
        weakref.finalize(self, process.send_signal, self._stop_signal)
        self._sign_lock(process.pid)
        deadline = time.monotonic() + patience
        with _killed_on_error(process):
            while not await is_ready():
                if not self.running:
                    raise CannotStart(self._complaint(self.name, start))
                if time.monotonic() > deadline:
                    raise CannotStart(f"{self.name} was not ready after {patience:g} s; see {self.log}")
                await asyncio.sleep(_POLL)

    async def wait(self) -> int:
        """Wait until the process has ended; return its exit code, or minus the signal that killed it."""
        assert self._process is not None, "started before"
        return await _ended(self._process)

    async def stop(self, patience: float = 10.0) -> None:
        """Ask the process to end, and kill it if it has not after `patience` seconds."""
        if self._process is None:
            return
        self._process.send_signal(self._stop_signal)
        try:
            async with asyncio.timeout(patience):
                await self.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """Kill the process: it can tidy nothing up."""
        if self._process is not None:
            self._process.kill()
            await self.wait()

    def _open_lock(self) -> IO[str]:
        return open(self.folder / "lock", "a+")

    def _owner(self, lock: IO[str]) -> str:
        lock.seek(0)
        return f"another {self.name} (process {lock.read().strip() or 'unknown'})"

    def _sign_lock(self, pid: int) -> None:
        assert self._lock is not None, "claimed before"
        self._lock.truncate(0)
        self._lock.write(str(pid))
        self._lock.flush()

    def _popen(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        assert self._lock is not None, "claimed before"
        attached = (str(os.getpid()), str(int(self._stop_signal)))
        mode = "wb" if self._log_size() > _LARGEST_LOG else "ab"
        with open(self.log, mode) as log:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", str(_LAUNCHER), *attached, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                pass_fds=[self._lock.fileno()],
                start_new_session=True,
            )

    def _log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def _complaint(self, program: str, start: int) -> str:
        said = self.log.read_bytes()[start:].decode(errors="replace").strip().splitlines()
        fatal = [_FATAL.sub("", line) for line in said if _FATAL.search(line)]
        why = (fatal or said or ["it said nothing"])[-1].strip()
        return f"{program} ended at its start: {why}; see {self.log}"


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _killed_on_error(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        process.kill()
        process.wait()
        raise


async def _ended(process: subprocess.Popen[bytes]) -> int:
    # Polled, because asyncio's own processes belong to the event loop that started them.
    pause = _POLL / 4
    while (code := process.poll()) is None:
        await asyncio.sleep(pause)
        pause = min(1.2 * pause, 0.1)
    return code
