"""`weft product` and `weft stock`: what is for sale, and how much of it there is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToDict
from rich.markup import escape

from cli.display import amount, print_json, print_table
from cli.errors import Problem
from cli.parsing import parse_price
from cli.remote import Target, reach
from cli.rest import at, read, unless
from commerce.inventory.v1.inventory_service_pb2 import Stock
from commerce.product.v1.product_service_pb2 import ListProductsResponse, Product

if TYPE_CHECKING:
    from cli.remote import Gateway
    from cli.rest import Answer

_HEARING = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)


async def add_product(target: Target, *, sku: str, title: str, price: str, description: str) -> None:
    """Add a product to the catalogue and print it."""
    new = Product(sku=sku, title=title, price=parse_price(price).message(), description=description)
    async with reach(target) as gateway:
        answer = await gateway.post("/v1/products", MessageToDict(new))
    if target.json:
        print_json(answer)
        return
    added = read(answer, Product())
    print(f"added {added.sku}: {added.title}, {amount(added.price)}; `weft stock add` puts some in stock")


async def update_product(
    target: Target, *, sku: str, title: str | None, price: str | None, description: str | None, active: bool | None
) -> None:
    """Change what is given (None leaves it as it is) of a product, and print it."""
    wanted: Answer = {
        "title": title,
        "price": None if price is None else MessageToDict(parse_price(price).message()),
        "description": description,
        "active": active,
    }
    changes = {name: value for name, value in wanted.items() if value is not None}
    if not changes:
        raise Problem("nothing to change: give --title, --price, --description, --active or --no-active")
    async with reach(target) as gateway:
        answer = await gateway.patch(at("/v1/products/{}", sku), changes, list(changes))
    _print_product(target, answer)


async def show_product(target: Target, sku: str) -> None:
    """Print one product."""
    async with reach(target, public=True) as gateway:
        answer = await gateway.get(at("/v1/products/{}", sku))
    _print_product(target, answer)


async def list_products(target: Target, limit: int) -> None:
    """Print up to `limit` products, ordered by sku."""
    async with reach(target, public=True) as gateway:
        answer = await gateway.list("/v1/products", "products", {}, limit)
    if target.json:
        print_json(answer)
    elif found := read(answer, ListProductsResponse()).products:
        print_table(("sku", "title", "price", "active"), map(_as_row, found))
    else:
        print("no products; `weft product add --help` says how to add one")


async def show_stock(target: Target, sku: str) -> None:
    """Print the level of one sku."""
    async with reach(target) as gateway:
        answer = await gateway.get(at("/v1/inventory/{}", sku))
    _print_stock(target, answer)


async def add_stock(target: Target, sku: str, quantity: int) -> None:
    """Add pieces of one sku and print its level; inventory may still have to hear of a product that is new."""
    async with reach(target) as gateway:
        answer = await _restock(gateway, sku, quantity)
    _print_stock(target, answer)


async def _restock(gateway: Gateway, sku: str, quantity: int) -> Answer:
    path, body = at("/v1/inventory/{}:restock", sku), {"quantity": quantity}
    for pause in _HEARING:
        with unless("NOT_FOUND"):
            return await gateway.post(path, body)
        await gateway.get(at("/v1/products/{}", sku))  # raises if there is no such product at all
        await asyncio.sleep(pause)
    return await gateway.post(path, body)


def _as_row(product: Product) -> tuple[str, ...]:
    return product.sku, escape(product.title), amount(product.price), "yes" if product.active else "no"


def _print_product(target: Target, answer: Answer) -> None:
    if target.json:
        print_json(answer)
        return
    product = read(answer, Product())
    _, title, price, active = _as_row(product)
    rows = [("title", title), ("price", price), ("active", active), ("description", escape(product.description))]
    print_table(("product", product.sku), rows)


def _print_stock(target: Target, answer: Answer) -> None:
    if target.json:
        print_json(answer)
        return
    stock = read(answer, Stock())
    row = (stock.sku, str(stock.on_hand), str(stock.reserved), str(stock.available))
    print_table(("sku", "on hand", "reserved", "available"), [row])
