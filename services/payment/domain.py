"""What becomes of a payment: its state is the replay of its events.

An outcome at the provider is always recorded. A charge that succeeds after the order was cancelled makes a
refund wanted; an order that is cancelled before payment heard of it is never charged.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Self

from commerce.payment.v1.payment_events_pb2 import PaymentCompleted, PaymentFailed, PaymentRefunded
from commerce.payment.v1.payment_journal_pb2 import PaymentCancelled, PaymentRequested
from weft.domain import Aggregate, Money, Refused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.message import Message
    from google.type.money_pb2 import Money as MoneyMessage

PUBLISHED = (PaymentCompleted, PaymentFailed, PaymentRefunded)
"""The journal's events that others hear of; the rest is payment's own."""

JOURNAL = (PaymentRequested, PaymentCancelled, *PUBLISHED)
"""Every event that a payment's journal may hold."""


class State(StrEnum):
    """Where a payment is; the names are those of `PaymentState` without their prefix, and NEW."""

    NEW = "NEW"
    """Nothing happened yet. Never stored: a payment exists from its first event."""
    PENDING = "PENDING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    REFUNDING = "REFUNDING"
    REFUNDED = "REFUNDED"
    VOIDED = "VOIDED"


_AFTER_CANCEL = {State.NEW: State.VOIDED, State.COMPLETED: State.REFUNDING}


class Payment(Aggregate):
    """The payment of one order. `Payment(order_id=...)` is one to which nothing happened yet."""

    __slots__ = (
        "amount",
        "cancelled",
        "charge_reference",
        "failure_reason",
        "order_id",
        "refund_reference",
        "state",
        "user_id",
    )

    def __init__(self, *, order_id: str) -> None:
        super().__init__()
        self.order_id = order_id
        self.state = State.NEW
        self.amount: Money | None = None
        """What is or was to be charged; None if payment never heard of the order itself."""
        self.cancelled = False
        """Whether a charge, made or to come, must not stand."""
        self.charge_reference = ""
        self.refund_reference = ""
        self.failure_reason = ""
        self.user_id = ""
        """Whose order it is."""

    @classmethod
    def replay(cls, order_id: str, events: Iterable[Message]) -> Self:
        """Return the payment to which `events`, its whole journal from the oldest on, happened."""
        payment = cls(order_id=order_id)
        for event in events:
            payment.apply(event)
        return payment

    def apply(self, event: Message) -> None:
        """Change the state as `event` says, deciding nothing. Raises `TypeError` for another's event."""
        match event:
            case PaymentRequested():
                self.state = State.PENDING
                self.amount = Money.of(event.amount)
                self.user_id = event.user_id
            case PaymentCancelled():
                self.cancelled = True
                self.user_id = self.user_id or event.user_id
                self.state = _AFTER_CANCEL.get(self.state, self.state)
            case PaymentCompleted():
                self.state = State.REFUNDING if self.cancelled else State.COMPLETED
                self.charge_reference = event.charge_reference
            case PaymentFailed():
                self.state = State.FAILED
                self.failure_reason = event.reason
            case PaymentRefunded():
                self.state = State.REFUNDED
                self.refund_reference = event.refund_reference
            case _:
                raise TypeError(f"{event.DESCRIPTOR.full_name} is not an event of a payment")

    def record(self, event: Message) -> None:
        """Apply `event` and remember it for the journal."""
        self.apply(event)
        super().record(event)

    def request(self, amount: Money, user_id: str) -> bool:
        """The order was placed. Returns whether a charge of `amount` is now wanted."""
        if self.state is not State.NEW:
            return False
        self.record(PaymentRequested(order_id=self.order_id, amount=amount.message(), user_id=user_id))
        return True

    def cancel(self, user_id: str) -> bool:
        """The order was cancelled. Returns whether a refund is now wanted.

        It is not while the charge's outcome is unknown: then `charged` tells.
        """
        if self.cancelled or self.state is State.FAILED:
            return False
        self.record(PaymentCancelled(order_id=self.order_id, user_id=user_id))
        return self.state is State.REFUNDING

    def charged(self, reference: str) -> bool:
        """The provider made the charge. Returns whether a refund is now wanted, for a cancel came meanwhile.

        Raises `Refused` if no charge was wanted.
        """
        if not self._awaits_outcome():
            return False
        event = PaymentCompleted(order_id=self.order_id, amount=self._amount_message(), charge_reference=reference)
        self.record(event)
        return self.state is State.REFUNDING

    def declined(self, reason: str) -> None:
        """The provider refused the charge. Raises `Refused` if no charge was wanted."""
        if self._awaits_outcome():
            self.record(PaymentFailed(order_id=self.order_id, reason=reason))

    def refunded(self, reference: str) -> None:
        """The provider returned the charge. Raises `Refused` if no refund was wanted."""
        if self.state is State.REFUNDED:
            return
        if self.state is not State.REFUNDING:
            raise Refused("REFUND_NOT_WANTED", f"no refund of {self.order_id} is wanted: it is {self.state}")
        event = PaymentRefunded(order_id=self.order_id, amount=self._amount_message(), refund_reference=reference)
        self.record(event)

    def _awaits_outcome(self) -> bool:
        """Whether the outcome of the charge is news: the first one stands."""
        if self.state in (State.NEW, State.VOIDED):
            raise Refused("CHARGE_NOT_WANTED", f"no charge for {self.order_id} is wanted: it is {self.state}")
        return self.state is State.PENDING

    def _amount_message(self) -> MoneyMessage | None:
        return None if self.amount is None else self.amount.message()
