"""Shows sample orders on their way, moving on a terminal and as plain lines elsewhere, and how they went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

from cli.display import order_lines, order_state, words
from commerce.payment.v1.payment_service_pb2 import PAYMENT_STATE_UNSPECIFIED, PaymentState
from commerce.shipping.v1.shipping_service_pb2 import SHIPMENT_STATE_UNSPECIFIED, ShipmentState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cli.trial import Trial

_WIDE = 140
_COLUMNS = ("order", "what it was", "outcome", "payment", "stock held", "shipment", "took")


def make_console() -> Console:
    """Return a console; what is not a terminal is wide enough for a table."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDE)


class Progress:
    """A display that lives as long as its `with`."""

    def __init__(self) -> None:
        self._console = make_console()
        self._live = Live(console=self._console, get_renderable=self._draw, transient=True)
        self._spinner = Spinner("dots")
        self._trials: dict[str, Trial] = {}
        self._said: dict[str, str] = {}

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False)

    def show(self, trial: Trial) -> None:
        """Show a trial as it is now; where nothing can move, print each new state of the order once."""
        self._trials[trial.order.order_id] = trial
        state = order_state(trial.order)
        if not self._live.is_started and self._said.get(trial.order.order_id) != state:
            self._said[trial.order.order_id] = state
            self._console.print(f"{trial.order.order_id} ({trial.sample.what}): {state}")

    def _draw(self) -> Table:
        grid = Table.grid(padding=(0, 2, 0, 0))
        for trial in self._trials.values():
            sign = "[green]\u2713[/]" if trial.settled else self._spinner
            what = f"{trial.sample.what}: {order_lines(trial.order)}"
            grid.add_row(sign, trial.order.order_id, what, order_state(trial.order), _payment(trial))
        return grid


def print_outcomes(trials: Sequence[Trial]) -> None:
    """Print how each order went."""
    table = Table(title="How the sample orders went", title_justify="left", box=None, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, justify="right" if column == "took" else "left", overflow="fold")
    for trial in trials:
        took = f"{trial.took * 1000:.0f} ms"
        what = f"{trial.sample.what}: {order_lines(trial.order)}"
        outcome = order_state(trial.order) + ("" if trial.went_as_expected else " [bold red](unexpected)[/]")
        table.add_row(
            trial.order.order_id, what, outcome, _payment(trial), _held(trial), _shipment(trial), took
        )
    console = make_console()
    console.print()
    console.print(table)


def _payment(trial: Trial) -> str:
    if trial.payment.state == PAYMENT_STATE_UNSPECIFIED:
        return "none"
    return words(PaymentState.Name(trial.payment.state), "PAYMENT_STATE_")


def _held(trial: Trial) -> str:
    if trial.held:
        return str(trial.held)
    return "0 (released)" if trial.released else "0"


def _shipment(trial: Trial) -> str:
    if trial.shipment.state == SHIPMENT_STATE_UNSPECIFIED:
        return "none"
    return words(ShipmentState.Name(trial.shipment.state), "SHIPMENT_STATE_")
