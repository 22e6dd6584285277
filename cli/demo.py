"""`weft demo`: three orders through the running system, followed as they go, and how each one went."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.json_format import MessageToDict

from cli.errors import OPERATOR, REFUSED, CallFailed, Problem
from cli.orders import follow
from cli.progress import Progress, print_outcomes
from cli.remote import Gateway
from cli.rest import Rest, at, read, unless
from cli.samples import ADDRESS, IN_STOCK, PRODUCTS, RESTOCKED, SAMPLES
from cli.tokens import Bearer, choose_account, read_admin, sign_in
from cli.trial import Trial
from commerce.inventory.v1.inventory_service_pb2 import Stock
from commerce.order.v1.order_service_pb2 import Order
from commerce.payment.v1.payment_service_pb2 import Payment
from commerce.shipping.v1.shipping_service_pb2 import Shipment

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cli.remote import Place, Target
    from cli.rest import Answer
    from cli.samples import Sample
    from commerce.product.v1.product_service_pb2 import Product

T = TypeVar("T")

_POLL = 0.05
_PATIENCE = 60.0
_SETTLING = 20.0
_RETRIES = (0.2, 0.4, 0.8, 1.6)


def run_demo(target: Target) -> int:
    """Place the sample orders in a system, and print how they went.

    Returns 0 if they went as they should, else 1. Raises `Problem` if the system refuses, or nobody may add products.
    """
    try:
        return asyncio.run(_run(target.find()))
    except CallFailed as failed:
        raise Problem(f"the demo stopped: {failed}", failed.exit_code) from failed
    except TimeoutError:
        raise Problem(
            f"the demo did not end within {_PATIENCE:g} s; `weft order list` shows its orders", REFUSED
        ) from None


async def _run(place: Place) -> int:
    async with asyncio.timeout(_PATIENCE), Rest(place.url) as rest:
        with Progress() as progress:
            progress.say("adding sample products and stock")
            merchant = await _merchant(place, rest)
            await fill(merchant)
            shop = Shop(await _customer(rest))
            trials = await asyncio.gather(*(shop.place(sample, progress) for sample in SAMPLES))
    print_outcomes(trials)
    return 0 if all(trial.went_as_expected for trial in trials) else REFUSED


async def fill(merchant: Gateway) -> None:
    """Add the sample products that are not there, and restock those that can be bought."""
    await asyncio.gather(*(_add(merchant, product) for product in PRODUCTS))


class Shop:
    """A system as a customer sees it."""

    def __init__(self, customer: Gateway) -> None:
        self._customer = customer

    async def place(self, sample: Sample, progress: Progress) -> Trial:
        """Place a sample order and follow it until nothing about it changes any more."""
        before = await _stock(self._customer, sample.sku)
        since = time.monotonic()
        created = await self._customer.post("/v1/orders", MessageToDict(sample.request(before.available)))
        trial = Trial(sample, read(created, Order()), before)
        async with aclosing(follow(self._customer, created, _PATIENCE)) as changes:
            async for answer in changes:
                trial.order = read(answer, Order())
                trial.took = time.monotonic() - since
                progress.show(trial)
                if trial.decided:
                    break
        await self._settle(trial, progress)
        return trial

    async def _settle(self, trial: Trial, progress: Progress) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLING):
                while not trial.settled:
                    await self._look_around(trial)
                    progress.show(trial)
                    await asyncio.sleep(_POLL)

    async def _look_around(self, trial: Trial) -> None:
        """Ask the other services what they did about the order."""
        order_id = trial.order.order_id
        with unless("NOT_FOUND", "UNAVAILABLE"):
            trial.payment = read(await self._customer.get(at("/v1/orders/{}/payment", order_id)), Payment())
        with unless("NOT_FOUND", "UNAVAILABLE"):
            trial.shipment = read(await self._customer.get(at("/v1/orders/{}/shipment", order_id)), Shipment())
        trial.stock = await _stock(self._customer, trial.sample.sku)


async def _merchant(place: Place, rest: Rest) -> Gateway:
    """Return the gateway as an admin: of a local system the one in its folder, whoever else is signed in."""
    if place.data:
        email, password = read_admin(place.data)
        session = await _patiently(lambda: sign_in(rest, email, password))
        return Gateway(rest, Bearer(session.access_token, session.email, "the demo"))
    merchant = Gateway(rest, choose_account(place))
    if not await merchant.is_admin():
        raise Problem(
            f"the demo adds products and stock, and {merchant.account.who} is no admin at {place.url}: sign in as one "
            "with `weft login EMAIL`",
            OPERATOR,
        )
    return merchant


async def _customer(rest: Rest) -> Gateway:
    """Open an account for this run of the demo, and sign in."""
    email, password = f"sample-{secrets.token_hex(6)}@weft.example", secrets.token_urlsafe(18)
    new: Answer = {"email": email, "password": password, "displayName": "A sample customer"}
    new["address"] = MessageToDict(ADDRESS)
    with unless("ALREADY_EXISTS"):  # the answer to the first try was lost
        await _patiently(lambda: rest.send("POST", "/v1/users", body=new))
    session = await _patiently(lambda: sign_in(rest, email, password))
    return Gateway(rest, Bearer(session.access_token, email, "the demo"))


async def _add(merchant: Gateway, product: Product) -> None:
    with unless("ALREADY_EXISTS"):
        await _patiently(lambda: merchant.post("/v1/products", MessageToDict(product)))
    stock = await _stock(merchant, product.sku)
    if product.sku in RESTOCKED and stock.available < IN_STOCK:
        body = {"quantity": IN_STOCK - stock.available}
        await _patiently(lambda: merchant.post(at("/v1/inventory/{}:restock", product.sku), body))


async def _stock(gateway: Gateway, sku: str) -> Stock:
    """Return a sku's level, once inventory has heard of it."""
    while True:
        with unless("NOT_FOUND", "UNAVAILABLE"):
            return read(await gateway.get(at("/v1/inventory/{}", sku)), Stock())
        await asyncio.sleep(_POLL)


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Make a call that may be made twice, again while what it needs is being restarted; an order's never is."""
    for pause in _RETRIES:
        with unless("UNAVAILABLE"):
            return await call()
        await asyncio.sleep(pause)
    return await call()
