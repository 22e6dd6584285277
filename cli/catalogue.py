"""`weft product` and `weft stock`: what is for sale, and how much of it there is."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING

from cli.display import amount, print_json, print_table
from cli.errors import Problem
from cli.remote import TIMEOUT, reach
from commerce.inventory.v1 import inventory_service_pb2 as inventory
from commerce.inventory.v1.inventory_service_pb2_grpc import InventoryServiceStub
from commerce.product.v1 import product_service_pb2 as product
from commerce.product.v1.product_service_pb2_grpc import ProductServiceStub
from weft.domain import Money

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PAGE = 1000
_PRICE = re.compile(r"(?P<number>[0-9]+(\.[0-9]{1,9})?)\s*(?P<currency>[A-Za-z]{3})")


def add_product(data: Path, *, sku: str, title: str, price: str, description: str, json: bool) -> None:
    """Add a product to the catalogue and print it."""
    new = product.Product(sku=sku, title=title, price=parse_price(price).message(), description=description)
    with reach("product", data) as channel:
        request = product.CreateProductRequest(product=new)
        added = ProductServiceStub(channel).CreateProduct(request, timeout=TIMEOUT).product
    if json:
        print_json(added)
    else:
        print(f"added {added.sku}: {added.title}, {amount(added.price)}; `weft stock add` puts some in stock")


def list_products(data: Path, *, limit: int, json: bool) -> None:
    """Print up to `limit` products, ordered by sku."""
    with reach("product", data) as channel:
        found = list(_pages(ProductServiceStub(channel), limit))
    if json:
        print_json(product.ListProductsResponse(products=found))
    elif found:
        rows = [(p.sku, p.title, amount(p.price), "yes" if p.active else "no") for p in found]
        print_table(("sku", "title", "price", "active"), rows)
    else:
        print("no products; `weft product add --help` says how to add one")


def show_stock(data: Path, *, sku: str, json: bool) -> None:
    """Print the level of one sku."""
    with reach("inventory", data) as channel:
        asked = inventory.GetStockRequest(sku=sku)
        _print_stock(InventoryServiceStub(channel).GetStock(asked, timeout=TIMEOUT).stock, json=json)


def add_stock(data: Path, *, sku: str, quantity: int, json: bool) -> None:
    """Add pieces of one sku and print its level."""
    with reach("inventory", data) as channel:
        asked = inventory.RestockRequest(sku=sku, quantity=quantity)
        _print_stock(InventoryServiceStub(channel).Restock(asked, timeout=TIMEOUT).stock, json=json)


def parse_price(text: str) -> Money:
    """Read an amount and its currency, as in `12.50 EUR`."""
    if match := _PRICE.fullmatch(text.strip()):
        nanos = Decimal(match["number"]).scaleb(9)
        price = Money(match["currency"].upper(), int(nanos))
        if price.nanos == nanos and price.fits:
            return price
    raise Problem(f"--price '{text}': write an amount and a currency, as in '12.50 EUR'")


def _pages(products: ProductServiceStub, limit: int) -> Iterator[product.Product]:
    wanted = product.ListProductsRequest()
    while limit > 0:
        wanted.page_size = min(limit, _PAGE)
        page = products.ListProducts(wanted, timeout=TIMEOUT)
        yield from page.products[:limit]
        limit -= len(page.products)
        wanted.page_token = page.next_page_token
        if not page.next_page_token:
            return


def _print_stock(stock: inventory.Stock, *, json: bool) -> None:
    if json:
        print_json(stock)
        return
    row = (stock.sku, str(stock.on_hand), str(stock.reserved), str(stock.available))
    print_table(("sku", "on hand", "reserved", "available"), [row])
