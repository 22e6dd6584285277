"""What payment promises to have the provider do: a charge and its refund, each once per order.

A promise is a row that is committed with the change that calls for it, and stays until the provider's answer
is recorded. The customer's payment token is in the promise of a charge, and nowhere else.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from services.payment import store
from services.payment.provider import Charged, Declined, Provider, ProviderRefused, Refunded
from weft import Intent, Load, UnitOfWork
from weft.domain import Money, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from services.payment.domain import Payment
    from weft import Tracing

    Payload = Mapping[str, Any]

_CHARGE = "charge"
_REFUND = "refund"
_NOTHING = "nothing"
"""The reference of a charge of nothing, and of its refund: no provider takes those."""


def charge(work: UnitOfWork, order_id: str, amount: Money, token: str) -> None:
    """Promise to charge `amount` to the card that `token` stands for."""
    payload = {"order_id": order_id, "currency": amount.currency, "nanos": amount.nanos, "token": token}
    work.intend(_CHARGE, order_id, payload)


def refund(work: UnitOfWork, order_id: str, charge_reference: str) -> None:
    """Promise to give a charge back."""
    work.intend(_REFUND, order_id, {"charge_reference": charge_reference})


class Cashier:
    """Keeps the promises."""

    def __init__(self, provider: Provider, tracing: Tracing) -> None:
        self._provider = provider
        self._tracing = tracing

    def intents(self) -> Iterable[Intent]:
        """Return the kinds of promises, for the service to act on."""
        return [
            Intent(_CHARGE, self.charge, record_charge, _payment_of),
            Intent(_REFUND, self.refund, record_refund, _payment_of),
        ]

    async def charge(self, key: str, payload: Payload) -> Charged | Declined:
        """Have the provider charge. Raises `OutcomeUnknown`, or `ProviderRefused` if a person has to look."""
        amount = Money(payload["currency"], payload["nanos"])
        if amount.nanos == 0:
            return Charged(_NOTHING)
        ask = partial(
            self._provider.charge, key, payload["order_id"], amount, payload["token"], headers=self._headers()
        )
        try:
            return await ask()
        except ProviderRefused as refusal:
            if not refusal.reason.startswith("INVALID_"):
                raise
        try:
            # An earlier request, whose answer was lost, may have been taken: look for it first.
            return await ask(repeat=True)
        except ProviderRefused as refusal:
            return Declined(refusal.reason.lower())

    async def refund(self, key: str, payload: Payload) -> Refunded:
        """Have the provider refund. Raises as `charge` does."""
        reference = payload["charge_reference"]
        if reference == _NOTHING:
            return Refunded(_NOTHING)
        return await self._provider.refund(key, reference, headers=self._headers())

    def _headers(self) -> dict[str, str]:
        place = self._tracing.current()
        headers = {"traceparent": place.traceparent, "tracestate": place.tracestate}
        return {name: value for name, value in headers.items() if value}


def record_charge(work: UnitOfWork, order_id: str, _: Payload, outcome: Charged | Declined) -> None:
    """Record what became of a charge; promise its refund if the order was cancelled meanwhile."""
    payment = _payment(work, order_id)
    match outcome:
        case Declined(reason):
            payment.declined(reason)
        case Charged(reference):
            if payment.charged(reference):
                refund(work, order_id, reference)


def record_refund(work: UnitOfWork, order_id: str, _: Payload, outcome: Refunded) -> None:
    """Record a refund."""
    _payment(work, order_id).refunded(outcome.reference)


def _payment_of(order_id: str) -> Iterable[Load]:
    return [(store.payments, order_id)]


def _payment(work: UnitOfWork, order_id: str) -> Payment:
    payment = work.get(store.payments, order_id)
    if payment is None:
        raise NotFound("payment", order_id)
    return payment
