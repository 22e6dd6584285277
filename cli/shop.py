"""What can be typed after `weft order`, `weft product` and `weft stock`."""

from typing import Annotated

import typer

from cli.data import DEFAULT_DATA
from cli.options import Data, Json, OrderAddress

orders = typer.Typer(help="Place orders, look at them, cancel them.", no_args_is_help=True)
products = typer.Typer(help="The catalogue: what is for sale, and at which price.", no_args_is_help=True)
stock = typer.Typer(help="How much there is of a product.", no_args_is_help=True)

OrderId = Annotated[str, typer.Argument(metavar="ID", help="The order's id.")]
Sku = Annotated[str, typer.Argument(metavar="SKU", help="The product's sku.")]


@orders.command("place")
def place_order(
    sku: Annotated[list[str], typer.Option(metavar="SKU[:QTY]", help="What to order; repeat it for more.")],
    user: Annotated[str, typer.Option(help="Whose order it is.")] = "guest",
    token: Annotated[str, typer.Option(help="The card: tok_ok, tok_declined, tok_slow or tok_timeout.")] = "tok_ok",
    address: Annotated[
        str, typer.Option(help="Where it goes: lines and a two-letter country, separated by commas.")
    ] = "1 Sample Street, 10115 Berlin, DE",
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the order to its outcome; exit code 1 if it is cancelled.")
    ] = False,
    data: Data = DEFAULT_DATA,
    order_address: OrderAddress = None,
    json: Json = False,
) -> None:
    """Place an order: `weft order place --sku mug:2 --sku tee --wait`."""
    from cli import orders as work

    source = work.Source(data, order_address, json)
    raise typer.Exit(work.place(source, skus=sku, user=user, token=token, address=address, wait=wait))


@orders.command("show")
def show_order(
    order_id: OrderId, data: Data = DEFAULT_DATA, order_address: OrderAddress = None, json: Json = False
) -> None:
    """Show an order, its payment and its shipment."""
    from cli import orders as work

    work.show(work.Source(data, order_address, json), order_id)


@orders.command("list")
def list_orders(
    user: Annotated[str, typer.Option(help="Only this user's.")] = "",
    state: Annotated[
        str, typer.Option(help="Only those pending, confirmed, cancelling, shipped, completed or cancelled.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    data: Data = DEFAULT_DATA,
    order_address: OrderAddress = None,
    json: Json = False,
) -> None:
    """List orders, newest first."""
    from cli import orders as work

    work.list_all(work.Source(data, order_address, json), user=user, state=state, limit=limit)


@orders.command("cancel")
def cancel_order(
    order_id: OrderId, data: Data = DEFAULT_DATA, order_address: OrderAddress = None, json: Json = False
) -> None:
    """Cancel an order that is not shipped yet."""
    from cli import orders as work

    work.cancel(work.Source(data, order_address, json), order_id)


@products.command("add")
def add_product(
    sku: Sku,
    price: Annotated[str, typer.Option(metavar="AMOUNT CURRENCY", help="Of one piece, as in '12.50 EUR'.")],
    title: Annotated[str, typer.Option(help="What customers call it; the sku if absent.")] = "",
    description: Annotated[str, typer.Option(help="What customers should know about it.")] = "",
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Add a product to the catalogue; there is none of it until `weft stock add`."""
    from cli import catalogue as work

    work.add_product(data, sku=sku, title=title or sku, price=price, description=description, json=json)


@products.command("list")
def list_products(
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """List the catalogue, ordered by sku."""
    from cli import catalogue as work

    work.list_products(data, limit=limit, json=json)


@stock.command("show")
def show_stock(sku: Sku, data: Data = DEFAULT_DATA, json: Json = False) -> None:
    """Show how many pieces there are, and how many of them are promised to orders."""
    from cli import catalogue as work

    work.show_stock(data, sku=sku, json=json)


@stock.command("add")
def add_stock(
    sku: Sku,
    quantity: Annotated[int, typer.Argument(help="How many pieces to add.")],
    data: Data = DEFAULT_DATA,
    json: Json = False,
) -> None:
    """Add pieces to the stock of a product."""
    from cli import catalogue as work

    work.add_stock(data, sku=sku, quantity=quantity, json=json)
