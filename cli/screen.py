"""Shows a person what the processes do: ticks on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cli.child import Life, Part

_LAST_LINES = 8


class _Tireless(Console):
    """A console that falls silent when nobody reads any more: that is no reason to stop serving."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print, if that is possible."""
        try:
            super().print(*objects, **options)
        except OSError:
            self.quiet = True

    def on_broken_pipe(self) -> None:
        """Do not exit, as rich does."""
        self.quiet = True


class Screen:
    """Listens to a supervisor, and shows its start as it goes."""

    def __init__(self, names: Sequence[str], console: Console | None = None) -> None:
        self.console = console or _Tireless(highlight=False, soft_wrap=True)
        self._waiting: dict[str, str | None] = dict.fromkeys(names)
        self._down: set[str] = set()
        self._since = time.monotonic()
        self._spinner = Spinner("dots")
        # Drawn by `draw`, not by a thread of its own: the supervisor forks.
        self._live = Live(console=self.console, auto_refresh=False, transient=True)
        if self.console.is_terminal:
            self._live.start()

    def draw(self) -> None:
        """Show the state of the start, if this is a terminal; to be called several times a second."""
        if self._live.is_started:
            self._live.update(self._progress(), refresh=True)

    def started(self, parts: Iterable[tuple[Part, int]], seconds: float) -> None:
        """Everything is ready: list each part with the pid of its process."""
        self._live.stop()
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
        for heading in ("name", "address", "pid"):
            table.add_column(heading, justify="right" if heading == "pid" else "left")
        for part, pid in parts:
            table.add_row(part.name, part.address, str(pid))
        self.console.print(table)
        self.console.print(f"all ready after {seconds:.1f} s", style="dim")

    def say(self, text: str) -> None:
        """Print `text` as it is."""
        self.console.print(text, markup=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._live.stop()

    def spawned(self, life: Life) -> None:
        """Say nothing yet: readiness is what counts."""

    def ready(self, life: Life) -> None:
        """Tick it off, or say that it is back."""
        name, took = life.child.name, f"{life.age:.1f} s"
        if name in self._down:
            self._down.discard(name)
            self.console.print(f"[green]{name} was restarted and is ready[/] (pid {life.pid}, {took})")
        elif not self._live.is_started:
            self.console.print(f"{name} is ready ({took})")
        self._waiting[name] = took

    def crashed(self, life: Life, end: str, delay: float) -> None:
        """Name it, with its last words."""
        self._down.add(life.child.name)
        self._waiting[life.child.name] = None
        who = f"{life.child.name} (pid {life.pid})"
        self.console.print(f"[bold red]{who} {end}[/]; restarting it in {delay:.1f} s")
        self._quote(life)

    def killed(self, life: Life) -> None:
        """Name who had to be killed."""
        self.console.print(f"{life.child.name} (pid {life.pid}) did not end when asked, so it was killed")

    def _quote(self, life: Life) -> None:
        for line in life.log.last_lines(_LAST_LINES):
            self.console.print(Text(f"  | {line}", style="dim", overflow="ellipsis", no_wrap=True))
        self.console.print(f"  its log: {life.log.path}", style="dim", markup=False)

    def _progress(self) -> Group:
        lines = Table.grid(padding=(0, 1))
        for name, took in self._waiting.items():
            lines.add_row(Text(self._tick, "green") if took else self._spinner, name, Text(took or "", "dim"))
        return Group(f"starting Weft ({time.monotonic() - self._since:.1f} s)", lines)

    @property
    def _tick(self) -> str:
        return "\u2713" if self.console.encoding.startswith("utf") else "*"
