"""What the services know of one order, put together: its events, where each of them is, and what is still open."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToDict

from cli.errors import OPERATOR, CallFailed
from cli.fleet import AWAY, GLANCE, Answers, ask, path_of, service_of
from cli.rest import at, read
from cli.system import SERVICES
from commerce.order.v1.order_service_pb2 import Order
from weftapi.v1 import operations_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cli.remote import Gateway
    from cli.rest import Answer


_BADNESS = (
    pb.EVENT_PLACE_DEAD,
    pb.EVENT_PLACE_PARKED,
    pb.EVENT_PLACE_WAITING,
    pb.EVENT_PLACE_DROPPED,
    pb.EVENT_PLACE_HANDLED,
    pb.EVENT_PLACE_UNSPECIFIED,
)
"""Where an event is, the worst first."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event about the order, and where it is."""

    service: str
    """Which recorded it."""
    recorded: pb.RecordedEvent
    places: Mapping[str, pb.EventStatus] = field(default_factory=dict)
    """What became of it at each consumer that listens to it, of the services that answered."""

    @property
    def name(self) -> str:
        """Its type without the package."""
        return self.recorded.event.event_type.rpartition(".")[2]

    @property
    def published(self) -> bool:
        """Whether the broker had it."""
        return self.recorded.HasField("publish_time")

    def at_services(self) -> dict[str, pb.EventStatus]:
        """Return what became of it in each service: of several consumers the one where it is worst."""
        worst: dict[str, pb.EventStatus] = {}
        for consumer, status in sorted(self.places.items(), key=lambda one: _BADNESS.index(one[1].place)):
            worst.setdefault(service_of(consumer), status)
        return worst


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of an order."""

    order_id: str
    order: Order | None
    """None if the service that has it is away."""
    events: tuple[Event, ...]
    """In the order in which they were recorded."""
    intents: tuple[tuple[str, pb.OpenIntent], ...]
    """What is not settled, with the service that promised it."""
    away: Mapping[str, str]
    """The services that did not answer, and why."""
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def letters(self) -> Iterator[pb.Letter]:
        """Yield how events were set aside."""
        for event in self.events:
            yield from (status.letter for status in event.places.values() if status.HasField("letter"))

    def as_json(self) -> Answer:
        """Return it for programs."""
        return {
            "orderId": self.order_id,
            "order": None if self.order is None else MessageToDict(self.order),
            "events": [_event_json(event) for event in self.events],
            "intents": [{"service": service, **MessageToDict(intent)} for service, intent in self.intents],
            "letters": [MessageToDict(letter) for letter in self.letters()],
            "away": dict(self.away),
        }


async def gather(gateway: Gateway, order_id: str) -> Facts:
    """Ask all services. Raises `CallFailed` if there is no such order, or the caller may not know of it."""
    order, first = await asyncio.gather(
        _find(gateway, order_id), ask(SERVICES, lambda service: _inspect(gateway, service, order_id, []))
    )
    recorded = {service: [one.event for one in answer.recorded] for service, answer in first.found.items()}

    async def receive(service: str) -> pb.InspectAggregateResponse:
        others = [event for name, events in recorded.items() if name != service for event in events]
        return await _inspect(gateway, service, order_id, others)

    second = await ask(first.found, receive)
    return _put_together(order_id, order, first, second)


def _put_together(
    order_id: str,
    order: Order | str,
    first: Answers[pb.InspectAggregateResponse],
    second: Answers[pb.InspectAggregateResponse],
) -> Facts:
    places: dict[str, dict[str, pb.EventStatus]] = {}
    for answer in second.found.values():
        for status in answer.received:
            places.setdefault(status.event_id, {})[status.consumer] = status
    events = [
        Event(service, one, places.get(one.event.event_id, {}))
        for service, answer in first.found.items()
        for one in answer.recorded
    ]
    events.sort(key=lambda event: event.recorded.event.time.ToNanoseconds())
    intents = [(service, intent) for service, answer in first.found.items() for intent in answer.intents]
    away = {**first.away, **second.away}
    if isinstance(order, str):
        away.setdefault("order", order)
    found = order if isinstance(order, Order) else None
    return Facts(order_id, found, tuple(events), tuple(intents), away)


async def _find(gateway: Gateway, order_id: str) -> Order | str:
    """Return the order, or why it cannot be had now."""
    try:
        return read(await gateway.get(at("/v1/orders/{}", order_id), patience=GLANCE), Order())
    except CallFailed as failed:
        if failed.code not in AWAY or failed.exit_code == OPERATOR:
            raise
        return str(failed).partition("\n")[0]


async def _inspect(
    gateway: Gateway, service: str, order_id: str, events: list[pb.FoundEvent]
) -> pb.InspectAggregateResponse:
    # What other contexts have of an order bears its id.
    path = path_of(service, "/aggregates/{}:inspect", order_id)
    body = {"events": [MessageToDict(event) for event in events]}
    return read(await gateway.post(path, body, patience=GLANCE), pb.InspectAggregateResponse())


def _event_json(event: Event) -> Answer:
    places = {
        consumer: pb.EventPlace.Name(one.place).removeprefix("EVENT_PLACE_") for consumer, one in event.places.items()
    }
    return {"service": event.service, **MessageToDict(event.recorded), "places": places}
