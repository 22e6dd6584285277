"""Which faults hit a process while an order had work in it: told from the log of requests and the events' times.

An order has work in order from its request until it is decided; in payment and at the provider from `OrderCreated`
until its charge is answered, and from `OrderCancelled` until it is refunded; in inventory and shipping likewise; in
the gateway, product and user for as long as a request takes; in the stores all that time. Of several instances of a
service, each counts as if it had the work: which one did is not told to those outside.
"""

from __future__ import annotations

import re
from collections import defaultdict
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from cli.system import GATEWAY, NATS, POSTGRES, SANDBOX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from cli.chaos.faults import Incident
    from cli.chaos.requests import Log
    from cli.chaos.sources import Event

_DECIDED = ("OrderConfirmed", "OrderCancelled")
_CHARGING = ("OrderCreated", ("PaymentCompleted", "PaymentFailed"))
_REFUNDING = ("OrderCancelled", ("PaymentRefunded",))
_WORK: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "order": (("OrderCreated", _DECIDED), ("OrderCancelRequested", ("OrderCancelled",))),
    "payment": (_CHARGING, _REFUNDING),
    SANDBOX: (_CHARGING, _REFUNDING),
    "inventory": (
        ("OrderCreated", ("InventoryReserved", "InventoryRejected")),
        ("OrderCancelled", ("InventoryReleased",)),
    ),
    "shipping": (
        ("OrderCreated", ("ShippingPrepared", "ShippingCancelled")),
        ("OrderCancelRequested", ("ShippingCancelled",)),
    ),
}
AFTERMATH = 10.0
"""Seconds after a target is well again in which work may still be late: what failed is tried again with pauses."""
_STORES = (NATS, POSTGRES)
_INSTANCE = re.compile(r"-\d+$")


class Span(NamedTuple):
    """From when until when, in seconds since 1970."""

    begin: float
    end: float


def open_work(log: Log, events: Iterable[Event], made: Mapping[int, str]) -> dict[str, list[Span]]:
    """Return when there was work, by service or store; `made` are the orders of the requests that made one."""
    work: dict[str, list[Span]] = defaultdict(list)
    work["user"] = [Span(*look) for look in log.looks]
    times = _first_times(events)
    for request in log.requests:
        asking = Span(request.sent, request.answered or request.sent)
        happened = times.get(made.get(request.number, ""), {})
        spans = {name: list(_spans(happened, steps)) for name, steps in _WORK.items()}
        spans["order"].append(asking)
        for name in (GATEWAY, "product"):
            spans[name] = [asking]
        everything = [span for found in spans.values() for span in found]
        for name, found in spans.items():
            work[name] += found
        for store in _STORES:
            work[store] += everything
    return work


def was_open(incident: Incident, hosted: Iterable[str], work: Mapping[str, Sequence[Span]]) -> bool:
    """Tell whether there was work in a process when a fault came, or while it lasted; it hosts the parts `hosted`."""
    lasted = Span(incident.began, incident.ended)
    return any(overlaps(lasted, work.get(_INSTANCE.sub("", part), ())) for part in hosted)


def disturbances(incidents: Iterable[Incident]) -> list[Span]:
    """Return when something was broken: from each fault until its target was well again, and `AFTERMATH` longer."""
    return [
        Span(one.began, max(one.ended, one.recovered) + AFTERMATH if one.recovered else inf)
        for one in incidents
        if one.began
    ]


def overlaps(span: Span, others: Iterable[Span]) -> bool:
    """Tell whether any of the others has a moment in common with a span."""
    return any(other.begin <= span.end and other.end >= span.begin for other in others)


def _first_times(events: Iterable[Event]) -> dict[str, dict[str, float]]:
    times: dict[str, dict[str, float]] = defaultdict(dict)
    for event in events:
        first = times[event.about]
        first[event.type] = min(event.time, first.get(event.type, event.time))
    return times


def _spans(happened: Mapping[str, float], steps: Iterable[tuple[str, tuple[str, ...]]]) -> Iterator[Span]:
    """Yield when the work of each step was done, as far as it was both begun and ended."""
    for begin, ends in steps:
        ended = [happened[end] for end in ends if end in happened and happened[end] >= happened.get(begin, 0)]
        if begin in happened and ended:
            yield Span(happened[begin], min(ended))
