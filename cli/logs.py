"""Where the output of a process goes, and the last lines of it."""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_LARGE = 16 * 1024 * 1024
_TAIL = 64 * 1024


class LogFile:
    """A process's output, appended to from start to start; a large one is put aside at a start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start = 0

    def open(self) -> IO[bytes]:
        """Open it for the next process, and remember where that one's lines begin."""
        if self.path.exists() and self.path.stat().st_size > _LARGE:
            self.path.replace(self.path.with_suffix(".log.1"))
        file = self.path.open("ab")
        self._start = file.tell()
        return file

    def last_lines(self, count: int) -> list[str]:
        """Return up to `count` last lines that the latest process wrote, made readable."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(self._start, size - _TAIL))
                text = file.read().decode(errors="replace")
        except OSError:
            return []
        lines = [readable(line) for line in text.splitlines() if line.strip()]
        return "\n".join(lines).splitlines()[-count:]


def readable(line: str) -> str:
    """Return a structured line as `time level message` and, on lines of its own, its exception; others as is."""
    try:
        entry = json.loads(line)
        told = f"{entry['time']} {entry['level']} {entry['message'].strip()}"
    except (ValueError, TypeError, KeyError, AttributeError):
        return line.rstrip()
    return "\n".join(filter(None, [told, entry.get("exception")]))
