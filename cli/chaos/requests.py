"""What customers wanted, and what they were told."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from commerce.order.v1.order_service_pb2 import Order


class Wish(StrEnum):
    """What a customer is about to do."""

    GOOD = "good"
    DECLINED = "declined"
    SLOW = "slow"
    TIMEOUT = "timing out"
    SOLD_OUT = "out of stock"
    CANCELLED = "cancelled"
    """By the customer, soon after it was placed."""


@dataclass(slots=True)
class Request:
    """An order as one customer asked for it; times are seconds since 1970."""

    number: int
    wish: Wish
    sent: float
    answered: float = 0.0
    order_id: str = ""
    """Of an order that was accepted; empty if it was refused, or nothing was answered: then it is unknown."""
    code: str = ""
    """What was answered: a name of `google.rpc.Code`; empty before that."""
    cancelled: bool = False
    """Whether a cancel was accepted."""


@dataclass(slots=True)
class Log:
    """What customers did, and what they were told."""

    run: str
    """Written on each order, so that it can be told from others'."""
    requests: list[Request] = field(default_factory=list)
    looks: list[tuple[float, float]] = field(default_factory=list)
    """When customers looked at their accounts: from and to."""
    restocked: dict[str, int] = field(default_factory=dict)

    @property
    def accepted(self) -> dict[str, Request]:
        """The requests that were answered with an order, by its id."""
        return {one.order_id: one for one in self.requests if one.order_id}

    @property
    def unknown(self) -> list[Request]:
        """The requests of which it is not known whether they made an order."""
        return [one for one in self.requests if not one.order_id]

    def label(self, number: int) -> str:
        """Return the address line that is on the order of a request."""
        return f"chaos {self.run} order {number}"

    def number_of(self, order: Order) -> int | None:
        """Return the number of the request that made an order; None if it is somebody else's."""
        prefix = self.label(0).removesuffix("0")
        found = (line.removeprefix(prefix) for line in order.ship_to.address_lines if line.startswith(prefix))
        return next((int(number) for number in found if number.isdecimal()), None)
