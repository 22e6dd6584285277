"""What a run showed: that something was lost or doubled, that nothing was, or nothing at all."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cli.chaos.books import Violation, find_violations, reason_of, state_of
from cli.chaos.requests import Wish

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from cli.chaos.books import Books
    from cli.chaos.desk import Backlog
    from cli.chaos.requests import Log, Request
    from commerce.order.v1.order_service_pb2 import Order

HIT_AT_LEAST = 0.5
"""Of the faults: fewer that hit open work prove nothing."""
UNDONE_AT_LEAST = 0.15
"""Of the accepted orders: fewer that were cancelled prove nothing."""
_LATE = "CANCELLED (DEADLINE_EXCEEDED)"
_HAPPY = {"CONFIRMED", "SHIPPED", "COMPLETED"}
_ENDS = {
    Wish.DECLINED: {"CANCELLED (PAYMENT_DECLINED)"},
    Wish.SOLD_OUT: {"CANCELLED (OUT_OF_STOCK)"},
    Wish.CANCELLED: {"CANCELLED (CUSTOMER_REQUEST)"},
}
_HONEST = {"", "OK", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED", "ABORTED"}


@dataclass(frozen=True, slots=True)
class Outside:
    """What customers know, and what the services still have to do once it is quiet."""

    log: Log
    open_ends: list[str]
    dead_letters: Mapping[str, int]
    """By service: those that were not there before."""
    lame: Iterable[str]
    """Processes that did not become ready again."""


def orders_made(log: Log, books: Books) -> dict[int, list[Order]]:
    """Return the orders that each request made, by its number."""
    made: dict[int, list[Order]] = defaultdict(list)
    for order in books.orders.values():
        number = log.number_of(order)
        if number is not None:
            made[number].append(order)
    return made


def dead_letters_since(before: Mapping[str, Backlog], now: Mapping[str, Backlog]) -> dict[str, int]:
    """Return how many dead letters each service has more than before."""
    more = {service: one.dead - before[service].dead for service, one in now.items()}
    return {service: count for service, count in more.items() if count}


def judge(outside: Outside, books: Books) -> list[Violation]:
    """Return everything that must not be."""
    log, made = outside.log, orders_made(outside.log, books)
    found = [Violation("the system", f"it is not quiet: {end}") for end in outside.open_ends]
    found += [Violation(name, "it did not become ready again") for name in outside.lame]
    found += [Violation(name, f"{count} dead letters") for name, count in outside.dead_letters.items()]
    found += [Violation(one, "it was accepted, and is lost") for one in log.accepted if one not in books.orders]
    for request in log.requests:
        found += _wrong_with(request, made.get(request.number, []))
    return found + find_violations(books)


def _wrong_with(request: Request, made: list[Order]) -> Iterator[Violation]:
    name = request.order_id or f"request {request.number}"
    if request.code not in _HONEST:
        yield Violation(name, f"it was answered with {request.code}, which is not so")
    if len(made) > 1:
        yield Violation(name, f"one request made {len(made)} orders: {', '.join(one.order_id for one in made)}")
    for order in made:
        end = _end_of(order)
        if end not in _ends_allowed(request):
            yield Violation(order.order_id, f"it is {end}, and it was {request.wish}")


def _end_of(order: Order) -> str:
    state = state_of(order)
    return f"{state} ({reason_of(order)})" if state == "CANCELLED" else state


def _ends_allowed(request: Request) -> set[str]:
    if request.wish is Wish.CANCELLED and not request.cancelled:
        return _HAPPY | _ENDS[request.wish] | {_LATE}
    return _ENDS.get(request.wish, _HAPPY) | {_LATE}


def why_unproven(faults: int, hits: int, accepted: int, cancelled: int) -> str:
    """Return why a run without a violation proved nothing; empty if it did."""
    if not accepted:
        return "no order was accepted"
    if hits < HIT_AT_LEAST * faults:
        return f"only {hits} of {faults} faults hit a process in which an order was open"
    if cancelled < UNDONE_AT_LEAST * accepted:
        return f"only {cancelled} of {accepted} orders were cancelled"
    return ""
