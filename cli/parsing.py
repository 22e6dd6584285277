"""What people type for a line of an order, an address and a price."""

from __future__ import annotations

import re
from decimal import Decimal

from google.type.postal_address_pb2 import PostalAddress

from cli.errors import Problem
from commerce.order.v1.order_service_pb2 import NewOrderLine
from weft.domain import Money

_PRICE = re.compile(r"(?P<number>[0-9]+(\.[0-9]{1,9})?)\s*(?P<currency>[A-Za-z]{3})")


def parse_line(text: str) -> NewOrderLine:
    """Read `SKU` or `SKU:QUANTITY`. Whether they make sense is for the order service to say."""
    sku, _, quantity = text.partition(":")
    try:
        return NewOrderLine(sku=sku, quantity=int(quantity) if quantity else 1)
    except ValueError:
        raise Problem(f"--sku {text}: write SKU or SKU:QUANTITY, as in mug:2") from None


def parse_address(text: str) -> PostalAddress:
    """Read `LINE, LINE, ..., COUNTRY`, the country as its two-letter code."""
    *lines, country = (part.strip() for part in text.split(","))
    return PostalAddress(region_code=country.upper(), address_lines=[line for line in lines if line])


def parse_price(text: str) -> Money:
    """Read an amount and its currency, as in `12.50 EUR`."""
    if match := _PRICE.fullmatch(text.strip()):
        nanos = Decimal(match["number"]).scaleb(9)
        price = Money(match["currency"].upper(), int(nanos))
        if price.nanos == nanos and price.fits:
            return price
    raise Problem(f"--price '{text}': write an amount and a currency, as in '12.50 EUR'")
