"""The customer, the products and the orders of the demo, and how each order is expected to go."""

from __future__ import annotations

from dataclasses import dataclass

from google.type.postal_address_pb2 import PostalAddress

from commerce.order.v1 import order_service_pb2 as orders
from commerce.product.v1.product_service_pb2 import Product
from weft.domain import Money

ADDRESS = PostalAddress(region_code="DE", address_lines=["1 Sample Street", "10115 Berlin"])
"""Where sample orders go."""
IN_STOCK = 20
"""How many pieces of what can be bought the demo starts with, at least."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One order of the demo."""

    what: str
    sku: str
    quantity: int
    token: str
    outcome: orders.OrderState.ValueType

    def request(self, available: int) -> orders.CreateOrderRequest:
        """Return what to send, given how many pieces can be promised; it goes to the customer's own address."""
        in_stock = self.sku in RESTOCKED
        line = orders.NewOrderLine(sku=self.sku, quantity=self.quantity if in_stock else available + 1)
        return orders.CreateOrderRequest(lines=[line], payment_token=self.token)


def _product(sku: str, title: str, cents: int) -> Product:
    return Product(sku=sku, title=title, price=Money("EUR", cents * 10_000_000).message())


PRODUCTS = (
    _product("sample-mug", "A mug", 12_50),
    _product("sample-scarf", "A woven scarf", 39_00),
    _product("sample-loom", "A loom", 480_00),
)
RESTOCKED = ("sample-mug", "sample-scarf")

# Each has a sku of its own, so that what is held of the sku tells what is held for the order.
SAMPLES = (
    Sample("all is well", "sample-mug", 2, "tok_ok", orders.ORDER_STATE_CONFIRMED),
    Sample("a declined card", "sample-scarf", 1, "tok_declined", orders.ORDER_STATE_CANCELLED),
    Sample("out of stock", "sample-loom", 1, "tok_ok", orders.ORDER_STATE_CANCELLED),
)
