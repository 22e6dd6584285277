"""Who is signed in where: one session a gateway, kept in a file that only its owner can read."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import time
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cli.credentials import write_secret
from cli.errors import Problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_PATIENCE = 30.0
_POLL = 0.02
_MARGIN = 10.0


@dataclass(frozen=True, slots=True)
class Session:
    """A session that somebody began at a gateway."""

    email: str
    access_token: str = field(repr=False)
    expires: float
    """When the access token expires, in seconds since 1970."""
    refresh_token: str = field(repr=False)
    admin_of: str = ""
    """The folder of the local system as whose admin `weft` signed in by itself; empty if a person did."""

    @property
    def fresh(self) -> bool:
        """Whether its access token is good for some seconds more."""
        return self.expires - time.time() > _MARGIN


class Sessions:
    """The sessions of one person on this machine, kept in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "sessions.json"

    @classmethod
    def of_this_user(cls) -> Sessions:
        """Return those under `$XDG_STATE_HOME`, by default `~/.local/state` (XDG base directories)."""
        named = Path(os.environ.get("XDG_STATE_HOME", ""))
        try:
            state = named if named.is_absolute() else Path.home() / ".local" / "state"
        except RuntimeError:
            raise Problem("there is no home folder to keep sessions in: set XDG_STATE_HOME to one") from None
        return cls(state / "weft")

    def find(self, url: str) -> Session | None:
        """Return the session at the gateway `url`; None if there is none."""
        try:
            return Session(**self._read()[url])
        except (KeyError, TypeError):
            return None

    def keep(self, url: str, session: Session) -> None:
        """Remember a session instead of the one at the same gateway. To be called within `locked`."""
        self._write(self._read() | {url: asdict(session)})

    def forget(self, url: str) -> None:
        """Forget the session at a gateway, if there is one. To be called within `locked`."""
        self._write({other: session for other, session in self._read().items() if other != url})

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Keep every other `weft` from changing sessions within the `with`."""
        with self._open_lock() as lock:
            end = time.monotonic() + _PATIENCE
            while not _try_lock(lock):
                if time.monotonic() > end:
                    raise Problem(f"another `weft` has held {lock.name} for {_PATIENCE:g} s; try again, or end it.")
                await asyncio.sleep(_POLL)
            yield

    def _open_lock(self) -> IO[bytes]:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return self.path.with_suffix(".lock").open("ab")
        except OSError as error:
            raise self._cannot_keep(error) from None

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise Problem(f"cannot read {self.path}: {error.strerror}") from None
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}

    def _write(self, sessions: dict[str, Any]) -> None:
        try:
            write_secret(self.path, sessions)
        except OSError as error:
            raise self._cannot_keep(error) from None

    def _cannot_keep(self, error: OSError) -> Problem:
        return Problem(
            f"cannot keep a session in {self.path.parent}: {error.strerror}. "
            "Set XDG_STATE_HOME to a folder that can be written, or WEFT_TOKEN to a token."
        )


def _try_lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
