"""Shows how far a run has come: moving on a terminal, as plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

from cli.display import make_console

if TYPE_CHECKING:
    from cli.chaos.faults import Incident
    from cli.chaos.requests import Log

_EVERY = 15.0


class Screen:
    """A display that lives as long as its `with`."""

    def __init__(self, orders: int, faults: int) -> None:
        self.console = make_console()
        self._orders = orders
        self._faults = faults
        self._begun = 0
        self._log: Log | None = None
        self._phase = "starting the system"
        self._ill: dict[int, str] = {}
        self._since = self._told = time.monotonic()
        self._spinner = Spinner("dots")
        self._live = Live(console=self.console, get_renderable=self._draw, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def phase(self, what: str) -> None:
        """Say what is done now."""
        self._phase = what
        self._say(what)

    def watch(self, log: Log) -> None:
        """Show what customers have done from now on."""
        self._log = log

    def begun(self, incident: Incident) -> None:
        """Show a fault."""
        self._begun += 1
        self._ill[id(incident)] = str(incident.fault)
        self._say(f"{incident.fault}")
        if not self.console.is_terminal and time.monotonic() - self._told > _EVERY:
            self._told = time.monotonic()
            self._say(self._counts())

    def recovered(self, incident: Incident) -> None:
        """Show that it is over."""
        self._ill.pop(id(incident), None)
        if incident.failure:
            self._say(f"{incident.fault} did not come about: {incident.failure}")

    def _say(self, text: str) -> None:
        self.console.print(f"{time.monotonic() - self._since:6.1f} s  {text}", markup=False)

    def _counts(self) -> str:
        log = self._log
        if log is None:
            return ""
        unknown = sum(one.answered > 0 for one in log.unknown)
        accepted = f"{len(log.accepted)} of {self._orders} orders accepted, {unknown} unknown"
        return f"{accepted}, {self._begun} of {self._faults} faults"

    def _draw(self) -> Table:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_row(self._spinner, f"{self._phase}  {self._counts()}")
        for fault in self._ill.values():
            grid.add_row("", fault)
        return grid
