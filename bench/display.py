"""Says what is being measured: one moving line on a terminal, a line each elsewhere. On standard error."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from weft.tasks import end

if TYPE_CHECKING:
    from types import TracebackType

_FRAME = 0.25


class Display:
    """A display that lives as long as its `async with`."""

    def __init__(self, sections: int) -> None:
        """Show the progress through so many sections."""
        self._console = Console(stderr=True, highlight=False)
        self._since = time.monotonic()
        self._sections = sections
        self._begun = 0
        self._title = ""
        self._step = ""
        self._spinner = Spinner("dots")
        # Drawn by a task, not by a thread of its own: this process forks.
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._drawing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
            self._drawing = asyncio.create_task(self._draw())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawing is not None:
            await end(self._drawing)
        self._live.stop()

    def section(self, title: str) -> None:
        """Say that the next section begins."""
        self._begun += 1
        self._title = title

    def step(self, text: str) -> None:
        """Say what is done now."""
        self._step = text
        if self._drawing is None:
            line = f"{self._clock} [{self._begun}/{self._sections}] {self._title}: {text}"
            self._console.print(line, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Say something that stays."""
        self._console.print(text, markup=False, style="red", soft_wrap=True)

    @property
    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._since), 60)
        return f"{minutes}:{seconds:02}"

    async def _draw(self) -> None:
        while True:
            line = Table.grid(padding=(0, 1))
            place = Text(f"{self._clock} [{self._begun}/{self._sections}]", "dim")
            line.add_row(self._spinner, place, Text(self._title, "bold"), Text(self._step))
            self._live.update(line, refresh=True)
            await asyncio.sleep(_FRAME)
