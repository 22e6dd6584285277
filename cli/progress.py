"""Shows sample orders on their way, moving on a terminal and as plain lines elsewhere, and how they went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

from cli.display import make_console, order_lines, order_state, words
from commerce.payment.v1.payment_service_pb2 import PAYMENT_STATE_UNSPECIFIED, PaymentState
from commerce.shipping.v1.shipping_service_pb2 import SHIPMENT_STATE_UNSPECIFIED, ShipmentState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cli.trial import Trial

_ROOMY = 132
_COLUMNS = ("order", "what it was", "outcome", "payment", "stock held", "shipment", "took")


class Progress:
    """A display that lives as long as its `with`."""

    def __init__(self) -> None:
        self._console = make_console()
        self._spinner = Spinner("dots")
        self._trials: dict[str, Trial] = {}
        self._said: dict[str, str] = {}
        self._live = Live(console=self._console, get_renderable=self._draw, transient=True)

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
            grid.add_row(sign, what, order_state(trial.order))
        return grid


def print_outcomes(trials: Sequence[Trial]) -> None:
    """Print how each order went; where a row has no room for the orders' ids, they follow the table."""
    console = make_console()
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    rows = [_as_row(trial) for trial in trials]
    first = 0 if console.width >= _ROOMY else 1
    for column in _COLUMNS[first:]:
        table.add_column(column, justify="right" if column == "took" else "left")
    for row in rows:
        table.add_row(*row[first:])
    console.print("\nhow the sample orders went", style="bold")
    console.print(table)
    if first:
        console.print("", *(f"{order_id}  {what}" for order_id, what, *_ in rows), sep="\n")


def _as_row(trial: Trial) -> tuple[str, ...]:
    outcome = order_state(trial.order) + ("" if trial.went_as_expected else " [bold red](unexpected)[/]")
    done = (_payment(trial), _held(trial), _shipment(trial))
    return trial.order.order_id, trial.sample.what, outcome, *done, f"{trial.took * 1000:.0f} ms"


def _payment(trial: Trial) -> str:
    if trial.payment.state == PAYMENT_STATE_UNSPECIFIED:
        return "none"
    return words(PaymentState.Name(trial.payment.state), "PAYMENT_STATE_")


def _held(trial: Trial) -> str:
    if trial.held:
        return f"{trial.held} x {trial.sample.sku}"
    return "0 (released)" if trial.released else "0"


def _shipment(trial: Trial) -> str:
    if trial.shipment.state == SHIPMENT_STATE_UNSPECIFIED:
        return "none"
    return words(ShipmentState.Name(trial.shipment.state), "SHIPMENT_STATE_")
