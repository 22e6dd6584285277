"""Every interleaving of one order, over the real domain objects.

Each context reads each log in order at its own pace; the provider answers, the customer cancels, the deadline
passes, the shipment is dispatched and delivered at any moment or never; and an event may be set aside as a
dead letter and retried at any later moment, after its successors. A context's step depends on nothing but
its own state, so each is taken once with real objects and remembered.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from copy import deepcopy
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.unit.flow import (
    Context,
    Inventory,
    Orders,
    Payments,
    Shipments,
    World,
    check_at_rest,
    check_journal,
    check_stock,
    state_of,
)
from weft.domain import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from google.protobuf.message import Message

ORDER, PAYMENT, INVENTORY, SHIPPING = CONTEXTS = ("order", "payment", "inventory", "shipping")
LISTENS = {
    ORDER: (PAYMENT, INVENTORY, SHIPPING),
    PAYMENT: (ORDER,),
    INVENTORY: (ORDER, SHIPPING),
    SHIPPING: (ORDER, PAYMENT, INVENTORY),
}
READS = [(CONTEXTS.index(reader), CONTEXTS.index(log)) for reader in CONTEXTS for log in LISTENS[reader]]


def _cancel(orders: Context) -> None:
    assert isinstance(orders, Orders)
    orders.cancel("o1")


def _deadline(orders: Context) -> None:
    assert isinstance(orders, Orders)
    orders.deadline_passed("o1")


def _answer(payments: Context) -> None:
    assert isinstance(payments, Payments)
    for intent in payments.intents[:1]:
        payments.act(intent)
        before = state_of(payments.payments["o1"])
        payments.learn(intent)
        assert state_of(payments.payments["o1"]) == before, "moved by a repeated answer"


def _dispatch(shipments: Context) -> None:
    assert isinstance(shipments, Shipments)
    shipments.dispatch("o1")


def _deliver(shipments: Context) -> None:
    assert isinstance(shipments, Shipments)
    shipments.deliver("o1")


ACTIONS: dict[str, tuple[int, Callable[[Context], None]]] = {
    "cancel": (CONTEXTS.index(ORDER), _cancel),
    "deadline": (CONTEXTS.index(ORDER), _deadline),
    "answer": (CONTEXTS.index(PAYMENT), _answer),
    "dispatch": (CONTEXTS.index(SHIPPING), _dispatch),
    "deliver": (CONTEXTS.index(SHIPPING), _deliver),
}


class Node(NamedTuple):
    """Where everything is; contexts' states and events are numbers in `Exploration`."""

    states: tuple[int, ...]
    logs: tuple[tuple[int, ...], ...]
    cursors: tuple[int, ...]
    aside: tuple[tuple[int, int], ...]
    spare: int
    """How many more events may be set aside."""


class Exploration:
    """All nodes that can be reached from one order, with or without money and stock."""

    def __init__(self, *, card: bool, stock: bool, aside: int) -> None:
        self.contexts: list[Context] = []
        self.numbers: dict[Hashable, int] = {}
        self.events: list[Message] = []
        self.event_numbers: dict[Hashable, int] = {}
        self.steps: dict[tuple[int, str | int], tuple[int, tuple[int, ...]]] = {}
        self.unmoved: set[tuple[int, int]] = set()
        self.first = self._first(card=card, stock=stock, aside=aside)
        self.seen: dict[Node, tuple[Node, str] | None] = {self.first: None}
        self.outcomes: set[str] = set()

    def run(self) -> None:
        """Visit every node once; where nothing must happen any more, the order must have ended well."""
        todo = deque([self.first])
        while todo:
            node = todo.popleft()
            self._check_repeats(node)
            must = list(self._must(node))
            if not must:
                self._check_rest(node)
            for label, after in [*must, *self._may(node)]:
                if after not in self.seen:
                    self.seen[after] = (node, label)
                    todo.append(after)

    def _first(self, *, card: bool, stock: bool, aside: int) -> Node:
        world = World()
        world.do(world.catalogue, lambda: world.catalogue.create("chair", 10))
        world.do(world.catalogue, lambda: world.catalogue.create("table", 90))
        world.come_to_rest()
        world.do(world.inventory, lambda: world.inventory.restock("chair", 3))
        world.do(world.inventory, lambda: world.inventory.restock("table", 2 if stock else 1))
        token = "tok_ok" if card else "tok_declined"
        world.do(world.orders, lambda: world.orders.place("o1", {"chair": 2, "table": 2}, token))
        contexts = (world.orders, world.payments, world.inventory, world.shipments)
        return Node(
            states=tuple(self._number(context) for context in contexts),
            logs=tuple(tuple(self._event(event) for event in world.logs[name]) for name in CONTEXTS),
            cursors=(0,) * len(READS),
            aside=(),
            spare=aside,
        )

    def _must(self, node: Node) -> Iterator[tuple[str, Node]]:
        """What happens sooner or later: events are delivered, the provider answers."""
        for n, (reader, log) in enumerate(READS):
            if node.cursors[n] < len(node.logs[log]):
                event = node.logs[log][node.cursors[n]]
                read = node._replace(cursors=(*node.cursors[:n], node.cursors[n] + 1, *node.cursors[n + 1 :]))
                yield self._say(reader, "reads", event), self._step(read, reader, event)
                if node.spare:
                    late = tuple(sorted((*node.aside, (reader, event))))
                    later = read._replace(aside=late, spare=node.spare - 1)
                    yield self._say(reader, "sets aside", event), later
        for n, (reader, event) in enumerate(node.aside):
            rest = node._replace(aside=node.aside[:n] + node.aside[n + 1 :])
            yield self._say(reader, "reads late", event), self._step(rest, reader, event)
        yield from self._act(node, "answer")

    def _may(self, node: Node) -> Iterator[tuple[str, Node]]:
        """What happens at any moment or never."""
        for name in ("cancel", "deadline", "dispatch", "deliver"):
            yield from self._act(node, name)

    def _act(self, node: Node, name: str) -> Iterator[tuple[str, Node]]:
        after = self._step(node, ACTIONS[name][0], name)
        if after != node:
            yield name, after

    def _step(self, node: Node, who: int, what: str | int) -> Node:
        state, published = self._take_step(node.states[who], what)
        if state == node.states[who] and not published:
            return node
        states = (*node.states[:who], state, *node.states[who + 1 :])
        logs = (*node.logs[:who], node.logs[who] + published, *node.logs[who + 1 :])
        return node._replace(states=states, logs=logs)

    def _take_step(self, state: int, what: str | int) -> tuple[int, tuple[int, ...]]:
        if (state, what) not in self.steps:
            context = deepcopy(self.contexts[state])
            if isinstance(what, str):
                with suppress(Refused):
                    ACTIONS[what][1](context)
            else:
                context.handle(self.events[what])
            published = tuple(self._event(event) for event in context.take())
            self.steps[state, what] = self._number(context), published
        return self.steps[state, what]

    def _number(self, context: Context) -> int:
        key = (context.name, context.state())
        if key not in self.numbers:
            if isinstance(context, Inventory):
                check_stock(context)
            if isinstance(context, Payments):
                check_journal(context)
            self.numbers[key] = len(self.contexts)
            self.contexts.append(context)
        return self.numbers[key]

    def _event(self, event: Message) -> int:
        key = (event.DESCRIPTOR.full_name, event.SerializeToString(deterministic=True))
        if key not in self.event_numbers:
            self.event_numbers[key] = len(self.events)
            self.events.append(event)
        return self.event_numbers[key]

    def _check_repeats(self, node: Node) -> None:
        for n, (reader, log) in enumerate(READS):
            for event in node.logs[log][: node.cursors[n]]:
                repeat = (node.states[reader], event)
                if repeat not in self.unmoved and (reader, event) not in node.aside:
                    assert self._take_step(*repeat) == (node.states[reader], ()), (
                        f"{self._say(reader, 'is moved by a repeated', event)} after {self._story(node)}"
                    )
                    self.unmoved.add(repeat)

    def _check_rest(self, node: Node) -> None:
        orders, payments, inventory, shipments = (self.contexts[state] for state in node.states)
        assert isinstance(orders, Orders)
        assert isinstance(payments, Payments)
        assert isinstance(inventory, Inventory)
        assert isinstance(shipments, Shipments)
        self.outcomes.add(orders.orders["o1"].cancel_reason or orders.orders["o1"].state)
        try:
            check_at_rest("o1", orders, payments, inventory, shipments)
        except AssertionError as error:
            error.add_note(f"after {self._story(node)}")
            raise

    def _say(self, reader: int, does: str, event: int) -> str:
        return f"{CONTEXTS[reader]} {does} {self.events[event].DESCRIPTOR.name}"

    def _story(self, node: Node) -> str:
        told: list[str] = []
        while before := self.seen[node]:
            node, label = before
            told.append(label)
        return ", ".join(reversed(told))


GIVEN_UP = {"CUSTOMER_REQUEST", "DEADLINE_EXCEEDED"}
ENDS = {
    (True, True): {"CONFIRMED", "SHIPPED", "COMPLETED", *GIVEN_UP},
    (True, False): {"OUT_OF_STOCK", *GIVEN_UP},
    (False, True): {"PAYMENT_DECLINED", *GIVEN_UP},
    (False, False): {"PAYMENT_DECLINED", "OUT_OF_STOCK", *GIVEN_UP},
}


@pytest.mark.parametrize(("card", "stock"), ENDS)
def test_an_order_ends_well_in_every_interleaving(card: bool, stock: bool) -> None:
    exploration = Exploration(card=card, stock=stock, aside=2)
    exploration.run()
    assert exploration.outcomes == ENDS[card, stock]
