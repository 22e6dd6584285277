"""What a product is, and how it may change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from commerce.product.v1.product_events_pb2 import ProductCreated, ProductUpdated
from weft.domain import Aggregate, InvalidInput, Money, Violation, etag_of, id_violations, text_violations

if TYPE_CHECKING:
    from datetime import datetime

    from google.type.money_pb2 import Money as MoneyMessage

MAX_TITLE = 200
MAX_DESCRIPTION = 5000


class Product(Aggregate):
    """One thing that can be ordered. `revision` grows with each change: copies apply only a higher one."""

    __slots__ = ("active", "create_time", "description", "price", "revision", "sku", "title", "update_time")

    def __init__(
        self,
        *,
        sku: str,
        title: str,
        description: str,
        price: Money,
        active: bool,
        revision: int,
        create_time: datetime,
        update_time: datetime,
    ) -> None:
        super().__init__()
        self.sku = sku
        self.title = title
        self.description = description
        self.price = price
        self.active = active
        self.revision = revision
        self.create_time = create_time
        self.update_time = update_time

    @property
    def etag(self) -> str:
        """What tells whether it has changed."""
        return etag_of(self.sku, self.revision)

    @classmethod
    def create(
        cls, *, sku: str, title: str, description: str, price: MoneyMessage, active: bool, now: datetime
    ) -> Self:
        """Return a new product at revision 1 and record `ProductCreated`.

        Raises `InvalidInput` that names every wrong field of the request, as in `product.sku`.
        """
        wrong = id_violations("product.sku", sku)
        title = title.strip()
        wrong += _title_violations(title) + _description_violations(description)
        amount = _read_price(price, wrong)
        if wrong or amount is None:
            raise InvalidInput(*wrong)
        product = cls(
            sku=sku,
            title=title,
            description=description,
            price=amount,
            active=active,
            revision=1,
            create_time=now,
            update_time=now,
        )
        product.record(ProductCreated(sku=sku, title=title, price=amount.message(), active=active, revision=1))
        return product

    def change(
        self,
        *,
        now: datetime,
        title: str | None = None,
        description: str | None = None,
        price: MoneyMessage | None = None,
        active: bool | None = None,
    ) -> None:
        """Set the fields that are given; record `ProductUpdated` only if one of them has a new value.

        Raises `InvalidInput` that names every wrong field, and then changes nothing.
        """
        new_title = self.title if title is None else title.strip()
        new_description = self.description if description is None else description
        wrong = _title_violations(new_title) + _description_violations(new_description)
        new_price = self.price if price is None else _read_price(price, wrong)
        if wrong or new_price is None:
            raise InvalidInput(*wrong)
        values = (new_title, new_description, new_price, self.active if active is None else active)
        if values == (self.title, self.description, self.price, self.active):
            return
        self.title, self.description, self.price, self.active = values
        self.revision += 1
        self.update_time = now
        self.record(
            ProductUpdated(
                sku=self.sku,
                title=self.title,
                price=self.price.message(),
                active=self.active,
                revision=self.revision,
            )
        )


def _title_violations(title: str) -> list[Violation]:
    if not 1 <= len(title) <= MAX_TITLE:
        return [Violation("product.title", f"must be 1 to {MAX_TITLE} characters long")]
    return text_violations("product.title", title, MAX_TITLE)


def _description_violations(description: str) -> list[Violation]:
    return text_violations("product.description", description, MAX_DESCRIPTION)


def _read_price(price: MoneyMessage, wrong: list[Violation]) -> Money | None:
    try:
        amount = Money.of(price)
    except ValueError as error:
        wrong.append(Violation("product.price", str(error)))
        return None
    if amount.nanos < 0:
        wrong.append(Violation("product.price", "must not be negative"))
        return None
    return amount
