"""What people type for a line of an order, an address, a price, a time and how long something took."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from google.type.postal_address_pb2 import PostalAddress

from cli.errors import Problem
from commerce.order.v1.order_service_pb2 import NewOrderLine
from weft.domain import Money

_DURATION = re.compile(r"(?P<number>[0-9]{1,9}(\.[0-9]{1,3})?)\s*(?P<unit>[smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SEQ = re.compile(r"[0-9]{1,18}")
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


def parse_duration(option: str, text: str) -> timedelta:
    """Read a number and its unit, as in `60s`, `10m`, `2h` or `3d`."""
    if match := _DURATION.fullmatch(text.strip()):
        return timedelta(**{_UNITS[match["unit"]]: float(match["number"])})
    raise Problem(f"{option} {text}: write a number and s, m, h or d, as in 60s or 10m")


def parse_since(text: str) -> int | datetime:
    """Read a number in a stream, or a time: `10m` (ago), `14:30` (today), or ISO 8601, of this machine's zone."""
    if _SEQ.fullmatch(text):
        return int(text)
    now = datetime.now(UTC)
    if _DURATION.fullmatch(text.strip()):
        return now - parse_duration("--since", text)
    for day in ("", f"{date.today().isoformat()}T"):
        try:
            return datetime.fromisoformat(day + text).astimezone(UTC)
        except ValueError:
            continue
    raise Problem(f"--since {text}: write a time, as in 2030-01-31T14:30 or 14:30 or 10m (ago), or a number")
