"""What a run showed: that something was lost or doubled, that nothing was, or nothing at all."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from cli.chaos.books import Violation, find_violations, reason_of, state_of
from cli.chaos.exposure import Span, overlaps
from cli.chaos.requests import Wish

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from cli.chaos.books import Books
    from cli.chaos.desk import Backlog
    from cli.chaos.requests import Log, Request
    from commerce.order.v1.order_service_pb2 import Order

HIT_AT_LEAST = 0.5
"""Of the faults: fewer that hit open work prove nothing."""
UNDONE_AT_LEAST = 0.15
"""Of the accepted orders: fewer that were compensated prove nothing."""
ACCEPTED_AT_LEAST = 0.9
"""Of the orders that were asked for: fewer prove nothing."""
LATE = "CANCELLED (DEADLINE_EXCEEDED)"
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
    unaudited: Sequence[Violation] = ()
    """What could not be found out."""
    disturbed: Sequence[Span] = ()
    """When something was broken: only then may an order be ended by its deadline."""


class Tally(NamedTuple):
    """What a run is worth: how much of what was asked for has happened."""

    planned: int
    """Faults."""
    failed: int
    """Of the planned faults: those that did not come about."""
    spared: Sequence[str]
    """Processes that were not hit by SIGKILL, if there were enough of these for all."""
    came: int
    """Faults that came about."""
    hits: int
    """Of these: those that hit a process in which an order was open."""
    asked: int
    """Orders."""
    accepted: int
    compensated: int
    """Of the accepted orders: those of which something was undone."""


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


def judge(outside: Outside, books: Books | None) -> list[Violation]:
    """Return everything that must not be; as far as that is known if there are no `books`."""
    log = outside.log
    found = [*outside.unaudited]
    found += [Violation("the system", f"it is not quiet: {end}") for end in outside.open_ends]
    found += [Violation(name, "it did not become ready again") for name in outside.lame]
    found += [Violation(name, f"{count} dead letters") for name, count in outside.dead_letters.items()]
    found += [
        Violation(_name(one), f"it was answered with {one.code}, which is not so")
        for one in log.requests
        if one.code not in _HONEST
    ]
    if books is None:
        return found
    found += [Violation(one, "it was accepted, and is lost") for one in log.accepted if one not in books.orders]
    made = orders_made(log, books)
    for request in log.requests:
        found += _wrong_with(request, made.get(request.number, []), outside.disturbed)
    return found + find_violations(books)


def _name(request: Request) -> str:
    return request.order_id or f"request {request.number}"


def _wrong_with(request: Request, made: list[Order], disturbed: Sequence[Span]) -> Iterator[Violation]:
    if len(made) > 1:
        names = ", ".join(one.order_id for one in made)
        yield Violation(_name(request), f"one request made {len(made)} orders: {names}")
    for order in made:
        end = end_of(order)
        if end not in _ends_allowed(request):
            yield Violation(order.order_id, f"it is {end}, and it was {request.wish}")
        if end == LATE and not overlaps(Span(request.sent, order.update_time.ToNanoseconds() / 1e9), disturbed):
            yield Violation(order.order_id, "it timed out though nothing was broken")


def end_of(order: Order) -> str:
    """Return how an order ended, as in `CONFIRMED` or `CANCELLED (OUT_OF_STOCK)`."""
    state = state_of(order)
    return f"{state} ({reason_of(order)})" if state == "CANCELLED" else state


def _ends_allowed(request: Request) -> set[str]:
    if request.wish is Wish.CANCELLED and not request.cancelled:
        return _HAPPY | _ENDS[request.wish] | {LATE}
    return _ENDS.get(request.wish, _HAPPY) | {LATE}


def why_unproven(run: Tally) -> str:
    """Return why a run without a violation proved nothing; empty if it did."""
    return "; ".join(_lacks(run))


def _lacks(run: Tally) -> Iterator[str]:
    if run.failed:
        yield f"{run.failed} of {run.planned} faults did not come about"
    if run.spared:
        yield f"never hit by SIGKILL: {', '.join(run.spared)}"
    if run.hits < HIT_AT_LEAST * run.came:
        yield f"only {run.hits} of {run.came} faults hit a process in which an order was open"
    if run.accepted < ACCEPTED_AT_LEAST * run.asked:
        yield f"only {run.accepted} of {run.asked} orders were accepted"
    if run.compensated < UNDONE_AT_LEAST * run.accepted:
        yield f"only {run.compensated} of {run.accepted} orders were compensated"
