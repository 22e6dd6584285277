"""What can be typed after `weft order`, `weft product`, `weft stock` and `weft shipment`."""

import asyncio
from collections.abc import Coroutine
from typing import Annotated

import typer

from cli.data import DEFAULT_DATA
from cli.options import Address, Data, Gateway, Json, Key, Why

orders = typer.Typer(help="Place orders, look at them, cancel them.", no_args_is_help=True)
products = typer.Typer(help="The catalogue: what is for sale, and at which price.", no_args_is_help=True)
stock = typer.Typer(help="How much there is of a product.", no_args_is_help=True)
shipments = typer.Typer(help="Send confirmed orders on their way (admins).", no_args_is_help=True)

OrderId = Annotated[str, typer.Argument(metavar="ORDER_ID", help="The order's id.")]
Sku = Annotated[str, typer.Argument(metavar="SKU", help="The product's sku.")]
Limit = Annotated[int, typer.Option(min=1, help="How many at most.")]
JsonLines = Annotated[bool, typer.Option("--json", help="Print the whole order as JSON, on a line for each state.")]
_STOPPED = 130
_PRICE = {"metavar": "AMOUNT CURRENCY", "help": "Of one piece, as in '12.50 EUR'."}


def _run_until_stopped(work: Coroutine[None, None, int]) -> int:
    """Return the exit code of a command, or the one of shells if Ctrl-C ends it."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        return _STOPPED


@orders.command("place")
def place_order(
    sku: Annotated[list[str], typer.Option(metavar="SKU[:QTY]", help="What to order; repeat it for more.")],
    token: Annotated[str, typer.Option(help="The card: tok_ok, tok_declined, tok_slow or tok_timeout.")] = "tok_ok",
    address: Address = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the order to its outcome; exit code 1 if it is cancelled.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show each of its states, as `weft order watch` does, until it has ended.")
    ] = False,
    key: Key = "",
    data: Data = DEFAULT_DATA,
    gateway: Gateway = None,
    json: Json = False,
) -> None:
    """Place an order: `weft order place --sku mug:2 --sku tee --wait`.

    Without --address it goes to your own address; the admin of the local system, who has none, gets a sample.
    """
    from cli import orders as work
    from cli.errors import Problem
    from cli.remote import Target

    if wait and watch:
        raise Problem("--wait and --watch are two ways to follow an order: choose one")
    target = Target(data, gateway, json)
    placing = work.place(target, skus=sku, token=token, address=address, wait=wait, watching=watch, key=key)
    raise typer.Exit(_run_until_stopped(placing))


@orders.command("watch")
def watch_order(order_id: OrderId, data: Data = DEFAULT_DATA, gateway: Gateway = None, json: JsonLines = False) -> None:
    """Show an order's state, and each one that follows, until it is completed or cancelled; Ctrl-C ends it sooner."""
    from cli import watch as work
    from cli.remote import Target

    raise typer.Exit(_run_until_stopped(work.watch(Target(data, gateway, json), order_id)))


@orders.command("show")
def show_order(order_id: OrderId, data: Data = DEFAULT_DATA, gateway: Gateway = None, json: Json = False) -> None:
    """Show an order, its payment and its shipment."""
    from cli import orders as work
    from cli.remote import Target

    asyncio.run(work.show(Target(data, gateway, json), order_id))


@orders.command("list")
def list_orders(
    user: Annotated[str, typer.Option(metavar="USER_ID", help="Only this user's (admins).")] = "",
    state: Annotated[
        str, typer.Option(help="Only those pending, confirmed, cancelling, shipped, completed or cancelled.")
    ] = "",
    stuck: Annotated[
        bool, typer.Option("--stuck", help="Only those that wait for a decision which should have come.")
    ] = False,
    older_than: Annotated[
        str,
        typer.Option(metavar="TIME", show_default="60s", help="With --stuck: unchanged for so long: 60s, 10m, 2h."),
    ] = "",
    limit: Limit = 50,
    data: Data = DEFAULT_DATA,
    gateway: Gateway = None,
    json: Json = False,
) -> None:
    """List your orders, newest first; as an admin everybody's."""
    from cli import orders as work
    from cli.errors import Problem
    from cli.remote import Target

    if older_than and not stuck:
        raise Problem("--older-than is about orders that are stuck: add --stuck")
    unfinished_for = (older_than or "60s") if stuck else ""
    listed = work.list_all(
        Target(data, gateway, json), user=user, state=state, unfinished_for=unfinished_for, limit=limit
    )
    asyncio.run(listed)


@orders.command("explain")
def explain_order(order_id: OrderId, data: Data = DEFAULT_DATA, gateway: Gateway = None, json: Json = False) -> None:
    """Say what an order waits for, since when, and where each of its events is (admins).

    A service that is away is named, and the rest is shown; then the exit code is 1.
    """
    from cli import explain as work
    from cli.remote import Target

    raise typer.Exit(asyncio.run(work.explain(Target(data, gateway, json), order_id)))


@orders.command("cancel")
def cancel_order(
    order_id: OrderId,
    as_operator: Annotated[
        bool, typer.Option("--as-operator", help="Not as its customer wants: needs --why (admins).")
    ] = False,
    why: Why = "",
    key: Key = "",
    data: Data = DEFAULT_DATA,
    gateway: Gateway = None,
    json: Json = False,
) -> None:
    """Cancel an order that is not shipped yet; an admin who cancels somebody else's is an operator anyway."""
    from cli import orders as work
    from cli.errors import Problem
    from cli.remote import Target

    if as_operator != bool(why):
        raise Problem("--as-operator and --why belong together: an operator says why, a customer need not")
    asyncio.run(work.cancel(Target(data, gateway, json), order_id, operator_note=why, key=key))


@shipments.command("dispatch")
def dispatch(order_id: OrderId, data: Data = DEFAULT_DATA, gateway: Gateway = None, json: Json = False) -> None:
    """Hand a confirmed order's shipment to the carrier; from then on it cannot be cancelled."""
    from cli import orders as work
    from cli.remote import Target

    asyncio.run(work.send_on(Target(data, gateway, json), order_id, "dispatch"))


@shipments.command("deliver")
def deliver(order_id: OrderId, data: Data = DEFAULT_DATA, gateway: Gateway = None, json: Json = False) -> None:
    """Record that the customer received an order's shipment."""
    from cli import orders as work
    from cli.remote import Target

    asyncio.run(work.send_on(Target(data, gateway, json), order_id, "deliver"))


@products.command("add")
def add_product(
    sku: Sku,
    price: Annotated[str, typer.Option(**_PRICE)],
    title: Annotated[str, typer.Option(help="What customers call it; the sku if absent.")] = "",
    description: Annotated[str, typer.Option(help="What customers should know about it.")] = "",
    data: Data = DEFAULT_DATA,
    gateway: Gateway = None,
    json: Json = False,
) -> None:
    """Add a product to the catalogue (admins); there is none of it until `weft stock add`."""
    from cli import catalogue as work
    from cli.remote import Target

    target = Target(data, gateway, json)
    asyncio.run(work.add_product(target, sku=sku, title=title or sku, price=price, description=description))


@products.command("update")
def update_product(
    sku: Sku,
    price: Annotated[str | None, typer.Option(**_PRICE)] = None,
    title: Annotated[str | None, typer.Option(help="What customers call it.")] = None,
    description: Annotated[str | None, typer.Option(help="What customers should know about it.")] = None,
    active: Annotated[bool | None, typer.Option(help="Whether it can be ordered.")] = None,
    data: Data = DEFAULT_DATA,
    gateway: Gateway = None,
    json: Json = False,
) -> None:
    """Change what is given of a product (admins); orders keep the prices that they were placed at."""
    from cli import catalogue as work
    from cli.remote import Target

    asyncio.run(
        work.update_product(
            Target(data, gateway, json), sku=sku, title=title, price=price, description=description, active=active
        )
    )


@products.command("show")
def show_product(sku: Sku, data: Data = DEFAULT_DATA, gateway: Gateway = None, json: Json = False) -> None:
    """Show one product."""
    from cli import catalogue as work
    from cli.remote import Target

    asyncio.run(work.show_product(Target(data, gateway, json), sku))


@products.command("list")
def list_products(limit: Limit = 50, data: Data = DEFAULT_DATA, gateway: Gateway = None, json: Json = False) -> None:
    """List the catalogue, ordered by sku."""
    from cli import catalogue as work
    from cli.remote import Target

    asyncio.run(work.list_products(Target(data, gateway, json), limit))


@stock.command("show")
def show_stock(sku: Sku, data: Data = DEFAULT_DATA, gateway: Gateway = None, json: Json = False) -> None:
    """Show how many pieces there are, and how many of them are promised to orders."""
    from cli import catalogue as work
    from cli.remote import Target

    asyncio.run(work.show_stock(Target(data, gateway, json), sku))


@stock.command("add")
def add_stock(
    sku: Sku,
    quantity: Annotated[int, typer.Argument(help="How many pieces to add.")],
    data: Data = DEFAULT_DATA,
    gateway: Gateway = None,
    json: Json = False,
) -> None:
    """Add pieces to the stock of a product (admins)."""
    from cli import catalogue as work
    from cli.remote import Target

    asyncio.run(work.add_stock(Target(data, gateway, json), sku, quantity))
