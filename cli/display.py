"""How orders, products and amounts are shown: tables for people, the gateway's JSON for programs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from commerce.order.v1.order_service_pb2 import CancelReason, OrderState
from weft.domain import Money

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from google.protobuf.timestamp_pb2 import Timestamp
    from google.type.money_pb2 import Money as MoneyMessage
    from google.type.postal_address_pb2 import PostalAddress

    from cli.rest import Answer
    from commerce.order.v1.order_service_pb2 import Order

_WIDE = 160
_COLOURS = {
    OrderState.ORDER_STATE_PENDING: "yellow",
    OrderState.ORDER_STATE_CANCELLING: "yellow",
    OrderState.ORDER_STATE_CANCELLED: "red",
}


def make_console() -> Console:
    """Return a console; what is not a terminal is wide enough for a table."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDE)


def print_json(answer: Answer) -> None:
    """Print what the gateway answered, on lines that people can read too."""
    print(json.dumps(answer, indent=2))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under headings; cells may carry rich's markup, so what is not ours has to be escaped."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading == headings[0])
    for row in rows:
        table.add_row(*row)
    make_console().print(table)


def order_state(order: Order) -> str:
    """Return its state in a colour, and why it was cancelled if it was."""
    name = OrderState.Name(order.state).removeprefix("ORDER_STATE_")
    if order.cancel_reason:
        name += f" ({words(CancelReason.Name(order.cancel_reason), 'CANCEL_REASON_')})"
    return f"[{_COLOURS.get(order.state, 'green')}]{name}[/]"


def words(name: str, prefix: str) -> str:
    """Return an enum value's name in lower-case words: `OUT_OF_STOCK` is `out of stock`."""
    return name.removeprefix(prefix).replace("_", " ").lower()


def order_lines(order: Order) -> str:
    """Return what was ordered, as in `2 x mug, 1 x tee`."""
    return escape(", ".join(f"{line.quantity} x {line.sku}" for line in order.lines))


def address_line(address: PostalAddress) -> str:
    """Return an address on one line, as `--address` takes it; nothing for one that is not set."""
    return escape(", ".join(filter(None, [*address.address_lines, address.region_code])))


def amount(money: MoneyMessage) -> str:
    """Return an amount, as in `12.50 EUR`; nothing for an amount that is not set."""
    return str(Money.of(money)) if money.currency_code else ""


def clock_time(time: Timestamp) -> str:
    """Return a time of today's in this machine's zone, as in `12:00:03`; with the date if it is another day's."""
    local = time.ToDatetime(UTC).astimezone()
    if not time.seconds:
        return ""
    return f"{local:%H:%M:%S}" if local.date() == datetime.now(UTC).astimezone().date() else local_time(time)


def duration(seconds: float) -> str:
    """Return a duration in one unit, as in `12 s`, `4 min` or `3 days`."""
    for unit, size in (("days", 86400 * 2), ("h", 7200), ("min", 120)):
        if seconds >= size:
            return f"{seconds / (size / 2):.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def first_line(text: str, longest: int = 100) -> str:
    """Return the first line of a text, cut after `longest` characters."""
    first, *_ = text.splitlines() or [""]
    return first if len(first) <= longest else f"{first[:longest]}…"


def count(number: int, what: str) -> str:
    """Return a number of things, as in `1 letter` or `1,200 letters`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def local_time(time: Timestamp) -> str:
    """Return a time in this machine's zone, to the second; nothing for a time that is not set."""
    return f"{time.ToDatetime(UTC).astimezone():%Y-%m-%d %H:%M:%S}" if time.seconds else ""
