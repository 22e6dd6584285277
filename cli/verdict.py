"""Says in one sentence what an order waits for, since when, and what ends that."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

from cli.display import clock_time, count, duration, first_line, words
from commerce.order.v1.order_service_pb2 import CancelReason, Order, OrderState
from weftapi.v1 import operations_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.timestamp_pb2 import Timestamp

    from cli.facts import Event, Facts

DEADLINE = "deadline"
"""The kind of the timer that ends an order which nobody decides."""
_ANSWERS = {"payment": "Payment", "inventory": "Inventory", "shipping": "Shipping"}
"""How the names of the events begin with which a service says what it did for an order."""
_LONGEST = 160
_DEAD, _PARKED, _INTENT, _UNPUBLISHED, _UNREAD, _AWAY = range(6)


def verdict(facts: Facts) -> str:
    """Return the sentence."""
    open_ends = _open_ends(facts)
    if facts.order is None:
        return f"its state is not known, as order is away; open: {_listed(open_ends)}"
    state = facts.order.state
    if state in (OrderState.ORDER_STATE_PENDING, OrderState.ORDER_STATE_CANCELLING):
        return f"{_state(facts)}: waits for {_listed(open_ends or _missing(facts))}{_deadline(facts)}"
    rest = f"; not everything is done: waits for {_listed(open_ends)}" if open_ends else f"; {_done(facts.order)}"
    return _state(facts) + rest


def advice(facts: Facts) -> list[str]:
    """Return what an operator can do about it, a command a line."""
    commands = [f"weft dlq retry {one.letter_id} --why …" for one in facts.letters()]
    commands += [
        f"weft redeliver {status.consumer} --order {facts.order_id} --dry-run"
        for event in facts.events
        for status in event.places.values()
        if event.published and status.place == pb.EVENT_PLACE_WAITING
    ]
    if facts.order is not None and facts.order.state == OrderState.ORDER_STATE_PENDING and facts.order.order_id:
        commands.append(f"weft order cancel {facts.order_id} --as-operator --why …")
    return list(dict.fromkeys(commands))


def _open_ends(facts: Facts) -> list[str]:
    """Return what is open in each service, the worst of it, worst first."""
    worst: dict[str, tuple[int, str]] = {}
    for service, badness, text in _all_open(facts):
        if service not in worst or badness < worst[service][0]:
            worst[service] = (badness, text)
    return [f"{service}, {text}" for service, (_, text) in sorted(worst.items(), key=lambda one: one[1][0])]


def _all_open(facts: Facts) -> Iterator[tuple[str, int, str]]:
    """Yield services, how bad it is, and what is open there."""
    for event in facts.events:
        if not event.published:
            since = clock_time(event.recorded.event.time)
            yield event.service, _UNPUBLISHED, f"which recorded {event.name} at {since} and has not published it yet"
            continue
        for service, status in event.at_services().items():
            if status.place in (pb.EVENT_PLACE_DEAD, pb.EVENT_PLACE_PARKED):
                yield service, *_set_aside(event, status.letter)
            elif status.place == pb.EVENT_PLACE_WAITING:
                since = clock_time(event.recorded.publish_time)
                yield service, _UNREAD, f"which has not read {event.name} of {since} yet"
    for service, intent in facts.intents:
        if intent.kind != DEADLINE:
            yield service, _INTENT, _intent(intent)
    for service in facts.away:
        yield service, _AWAY, "which does not answer now"


def _set_aside(event: Event, letter: pb.Letter) -> tuple[int, str]:
    name, tries = event.recorded.event.event_type, count(letter.attempts, "try").replace("trys", "tries")
    error = f": {first_line(letter.error, _LONGEST)}" if letter.error else ""
    if letter.kind == pb.LETTER_KIND_DEAD:
        since = clock_time(letter.death_time)
        return _DEAD, f"where {name} is a dead letter ({letter.reason}) since {since} after {tries}{error}"
    again = f", tried again at {clock_time(letter.next_time)}" if letter.HasField("next_time") else ""
    return _PARKED, f"where {name} is parked since {clock_time(letter.first_time)} after {tries}{again}{error}"


def _intent(intent: pb.OpenIntent) -> str:
    since = clock_time(intent.create_time)
    if not intent.attempts:
        return f"which is at `{intent.kind}` since {since}"
    tries = count(intent.attempts, "time")
    error = f": {first_line(intent.error, _LONGEST)}" if intent.error else ""
    return f"which tried `{intent.kind}` {tries} in vain since {since}, again at {clock_time(intent.due_time)}{error}"


def _missing(facts: Facts) -> list[str]:
    """Return the services that were told, and have not said what they did."""
    if facts.order is not None and facts.order.state == OrderState.ORDER_STATE_CANCELLING:
        return ["shipping, which decides"]
    told = {event.service for event in facts.events}
    missing = [service + _dropped(facts, service) for service in _ANSWERS if service not in told]
    return missing or ["order itself: look again in a moment"]


def _dropped(facts: Facts, service: str) -> str:
    """Return which event a service will never handle, if there is one."""
    for event in facts.events:
        status = event.at_services().get(service)
        if status is not None and status.place == pb.EVENT_PLACE_DROPPED:
            return f", where {event.name} was a dead letter that somebody dropped"
    return ""


def _deadline(facts: Facts) -> str:
    """Return when the deadline ends it, if it does."""
    timers = [intent for service, intent in facts.intents if (service, intent.kind) == ("order", DEADLINE)]
    if not timers or "order" in facts.away:
        return ""
    if not timers[0].HasField("due_time"):
        return "; its deadline begins once OrderCreated is published"
    due = clock_time(timers[0].due_time)
    if timers[0].due_time.ToDatetime(UTC) > facts.now:
        return f"; the deadline ends it at {due}"
    return f"; the deadline was at {due}, and ends it once order has read what was published before"


def _state(facts: Facts) -> str:
    order = facts.order
    assert order is not None
    name = OrderState.Name(order.state).removeprefix("ORDER_STATE_")
    if order.state in (OrderState.ORDER_STATE_CANCELLED, OrderState.ORDER_STATE_COMPLETED):
        why = f" ({words(CancelReason.Name(order.cancel_reason), 'CANCEL_REASON_')})" if order.cancel_reason else ""
        took = duration(_seconds(order.update_time) - _seconds(order.create_time))
        return f"{name}{why} since {clock_time(order.update_time)}, {took} after it was placed"
    return f"{name} for {duration(facts.now.timestamp() - _seconds(order.update_time))}"


def _done(order: Order) -> str:
    """Return what follows where nothing is open."""
    if order.state == OrderState.ORDER_STATE_CONFIRMED:
        return f"it waits for `weft shipment dispatch {order.order_id}`"
    if order.state == OrderState.ORDER_STATE_SHIPPED:
        return f"it waits for `weft shipment deliver {order.order_id}`"
    return "nothing is open"


def _listed(open_ends: list[str]) -> str:
    return "; and for ".join(open_ends) or "nothing that is known"


def _seconds(time: Timestamp) -> float:
    return time.ToNanoseconds() / 1e9
