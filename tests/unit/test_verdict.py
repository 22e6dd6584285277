"""What `weft order explain` says of an order, and what it advises."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from cli.display import clock_time
from cli.facts import Event, Facts
from cli.verdict import advice, verdict
from commerce.order.v1.order_service_pb2 import CancelReason, Order, OrderState
from weftapi.v1 import operations_service_pb2 as pb

NOW = datetime(2024, 1, 1, 12, 0, 12, tzinfo=UTC)


def at(seconds: float) -> Timestamp:
    """Return a time so long before now."""
    time = Timestamp()
    time.FromDatetime(NOW - timedelta(seconds=seconds))
    return time


def shown(seconds: float) -> str:
    return clock_time(at(seconds))


def order(state: str, reason: str = "UNSPECIFIED") -> Order:
    return Order(
        order_id="o1",
        state=OrderState.Value(f"ORDER_STATE_{state}"),
        cancel_reason=CancelReason.Value(f"CANCEL_REASON_{reason}"),
        create_time=at(15),
        update_time=at(12),
    )


def event(name: str, service: str = "order", published: bool = True, **places: pb.EventStatus) -> Event:
    recorded = pb.RecordedEvent(event=pb.FoundEvent(event_id=name, event_type=f"a.v1.{name}", time=at(12)))
    if published:
        recorded.publish_time.CopyFrom(at(11))
    return Event(service, recorded, {f"{listener}-from-order": one for listener, one in places.items()})


def facts(order: Order | None, *events: Event, **more: Any) -> Facts:
    return Facts(**{"order_id": "o1", "order": order, "events": events, "intents": (), "away": {}, "now": NOW} | more)


HANDLED = pb.EventStatus(place=pb.EVENT_PLACE_HANDLED)
WAITING = pb.EventStatus(place=pb.EVENT_PLACE_WAITING, consumer="inventory-from-order")
PARKED = pb.EventStatus(
    place=pb.EVENT_PLACE_PARKED,
    letter=pb.Letter(
        kind=pb.LETTER_KIND_PARKED, attempts=3, error="TimeoutError: slow\nmore", first_time=at(9), next_time=at(-5)
    ),
)
DEAD = pb.EventStatus(
    place=pb.EVENT_PLACE_DEAD,
    letter=pb.Letter(
        letter_id="inventory-from-order.7",
        kind=pb.LETTER_KIND_DEAD,
        reason="REFUSED",
        attempts=1,
        error="no",
        death_time=at(8),
    ),
)
DROPPED = pb.EventStatus(place=pb.EVENT_PLACE_DROPPED)
DEADLINE = ("order", pb.OpenIntent(kind="deadline", due_time=at(-18)))
CHARGE = ("payment", pb.OpenIntent(kind="charge", create_time=at(11), due_time=at(-2), attempts=2, error="refused"))


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (
            facts(order("PENDING"), event("OrderCreated", inventory=PARKED), intents=(DEADLINE,)),
            f"PENDING for 12 s: waits for inventory, where a.v1.OrderCreated is parked since {shown(9)} after 3 tries, "
            f"tried again at {shown(-5)}: TimeoutError: slow; the deadline ends it at {shown(-18)}",
        ),
        (
            facts(order("PENDING"), event("OrderCreated", inventory=DEAD, payment=HANDLED)),
            "PENDING for 12 s: waits for inventory, where a.v1.OrderCreated is a dead letter (REFUSED) since "
            f"{shown(8)} after 1 try: no",
        ),
        (
            facts(order("PENDING"), event("OrderCreated", inventory=WAITING), intents=(CHARGE,)),
            f"PENDING for 12 s: waits for payment, which tried `charge` 2 times in vain since {shown(11)}, again at "
            f"{shown(-2)}: refused; and for inventory, which has not read OrderCreated of {shown(11)} yet",
        ),
        (
            facts(
                order("PENDING"),
                event("OrderCreated", published=False),
                intents=(("order", pb.OpenIntent(kind="deadline")),),
            ),
            f"PENDING for 12 s: waits for order, which recorded OrderCreated at {shown(12)} and has not published it "
            "yet; its deadline begins once OrderCreated is published",
        ),
        (
            facts(order("PENDING"), event("OrderCreated", payment=HANDLED), event("PaymentCompleted", "payment")),
            "PENDING for 12 s: waits for inventory; and for shipping",
        ),
        (
            facts(order("PENDING"), event("OrderCreated", inventory=DROPPED), event("PaymentCompleted", "payment")),
            "PENDING for 12 s: waits for inventory, where OrderCreated was a dead letter that somebody dropped; and "
            "for shipping",
        ),
        (
            facts(order("CANCELLING"), event("OrderCancelRequested", shipping=HANDLED)),
            "CANCELLING for 12 s: waits for shipping, which decides",
        ),
        (
            facts(order("CONFIRMED"), event("OrderConfirmed", shipping=HANDLED)),
            "CONFIRMED for 12 s; it waits for `weft shipment dispatch o1`",
        ),
        (
            facts(order("CANCELLED", "OUT_OF_STOCK"), away={"payment": "gone"}),
            f"CANCELLED (out of stock) since {shown(12)}, 3 s after it was placed; not everything is done: waits for "
            "payment, which does not answer now",
        ),
        (facts(order("COMPLETED")), f"COMPLETED since {shown(12)}, 3 s after it was placed; nothing is open"),
        (
            facts(None, event("InventoryReserved", "inventory"), away={"order": "gone"}),
            "its state is not known, as order is away; open: order, which does not answer now",
        ),
    ],
)
def test_the_verdict_says_what_an_order_waits_for(known: Facts, said: str) -> None:
    assert verdict(known) == said


def test_of_several_consumers_of_a_service_the_worst_is_shown() -> None:
    places = {"order-from-payment": HANDLED, "order-history-g1-from-payment": DEAD, "shipping-from-payment": WAITING}
    one = Event("payment", pb.RecordedEvent(publish_time=at(1)), places)
    assert one.at_services() == {"order": DEAD, "shipping": WAITING}
    assert [letter.letter_id for letter in facts(None, one).letters()] == [DEAD.letter.letter_id]


def test_the_advice_is_commands_that_push_it_on() -> None:
    known = facts(order("PENDING"), event("OrderCreated", inventory=DEAD), event("OrderCancelled", inventory=WAITING))
    assert advice(known) == [
        "weft dlq retry inventory-from-order.7 --why …",
        "weft redeliver inventory-from-order --order o1 --dry-run",
        "weft order cancel o1 --as-operator --why …",
    ]
    assert advice(facts(order("COMPLETED"), event("OrderCreated", inventory=HANDLED))) == []
