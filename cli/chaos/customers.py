"""Customers who order over REST whatever happens."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from itertools import cycle, islice
from typing import TYPE_CHECKING, Self

from google.protobuf.json_format import MessageToDict

from cli.chaos.requests import Log, Request, Wish
from cli.errors import CallFailed, Problem
from cli.remote import Gateway
from cli.rest import Rest, at, read
from cli.samples import ADDRESS
from cli.tokens import read_admin, sign_in
from commerce.order.v1 import order_service_pb2 as orders
from commerce.product.v1.product_service_pb2 import Product
from weft.domain import Money, new_id

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from cli.chaos.house import House
    from cli.sessions import Session

_PEOPLE = 3
_SKUS = 6
_PIECES = 100_000
_PATIENCE = 60.0
_AGAIN = 1.0
_SHIPPED_OF = 8
_TRIES = 3
_LATEST = 5
_LOOK_AGAIN = 0.5
_SETTLED = ("ORDER_STATE_SHIPPED", "ORDER_STATE_COMPLETED", "ORDER_STATE_CANCELLED")


_TOKENS = {Wish.DECLINED: "tok_declined", Wish.SLOW: "tok_slow", Wish.TIMEOUT: "tok_timeout"}
# Of 30: 60% good, 20% with trouble at the provider, 20% out of stock or cancelled.
_MIX = (
    *[Wish.GOOD] * 18,
    *[Wish.DECLINED] * 2,
    *[Wish.SLOW] * 2,
    *[Wish.TIMEOUT] * 2,
    *[Wish.SOLD_OUT] * 3,
    *[Wish.CANCELLED] * 3,
)


class Person:
    """Somebody with an account, who signs in again when a token is about to expire."""

    def __init__(self, email: str, password: str) -> None:
        self.who, self.how = email, "its password"
        self._password = password
        self._session: Session | None = None
        self._signing_in = asyncio.Lock()

    async def token(self, rest: Rest) -> str:
        """Return an access token that has not expired."""
        async with self._signing_in:
            if self._session is None or not self._session.fresh:
                self._session = await sign_in(rest, self.who, self._password)
            return self._session.access_token

    async def renew(self, rest: Rest, rejected: str) -> str:
        """Raise `CallFailed`: a token that is fresh must be good."""
        raise CallFailed("UNAUTHENTICATED", f"a token of {self.who} that has not expired was rejected")


class Customers:
    """Orders at a rate and in bursts, within an `async with`: about `most` that are accepted.

    Raises `Problem` on entry if they find no shop.
    """

    def __init__(self, house: House, *, seed: int, most: int) -> None:
        self.log = Log(new_id())
        self._house = house
        self._dice = random.Random(seed)
        self._most = most
        self._wishes = cycle(self._dice.sample(_MIX, len(_MIX)))
        self._visits: set[asyncio.Task[None]] = set()
        self._failed: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._rest = await Rest(self._house.gateway).__aenter__()
        try:
            await self._open_shop()
        except BaseException:
            await self._rest.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for visit in self._visits:
            visit.cancel()
        await asyncio.gather(*self._visits, return_exceptions=True)
        await self._rest.__aexit__()

    @property
    def placed(self) -> int:
        """How many orders were accepted, or may yet be."""
        return sum(bool(one.order_id) or not one.answered for one in self.log.requests)

    async def come(self, rate: float, allowed: Callable[[], int]) -> None:
        """Send so many orders a second until all are placed; never more than are `allowed` by now.

        While all are turned away, they come twice a second; who is behind may send twice as many afterwards.
        """
        while self.placed < self._most and self._room:
            away = self._are_turned_away
            self.burst(max(0, min(1 if away else 2, allowed() - self.placed)))
            await asyncio.sleep(max(1 / rate, _LOOK_AGAIN if away else 0))

    def burst(self, orders: int) -> list[Request]:
        """Send so many orders at once, as far as there are any left; return them, not answered yet."""
        begun = []
        for wish in islice(self._wishes, min(orders, self._room)):
            request = Request(len(self.log.requests), wish, time.time())
            self.log.requests.append(request)
            begun.append(request)
            visit = asyncio.create_task(self._visit(request))
            self._visits.add(visit)
            visit.add_done_callback(self._leave)
        return begun

    @property
    def _are_turned_away(self) -> bool:
        latest = [one for one in self.log.requests[-_LATEST:] if one.answered]
        return bool(latest) and not any(one.order_id for one in latest)

    @property
    def _room(self) -> int:
        """How many more may be sent: an end, also where hardly any is accepted."""
        return max(0, _TRIES * self._most - len(self.log.requests))

    async def leave(self, seconds: float) -> None:
        """Return when everybody has gone, at most `seconds` from now. Raises what went wrong here, with no fault."""
        if self._visits:
            await asyncio.wait(self._visits, timeout=seconds)
        for visit in self._failed:
            visit.result()

    def _leave(self, visit: asyncio.Task[None]) -> None:
        self._visits.discard(visit)
        if not visit.cancelled() and visit.exception() is not None:
            self._failed.append(visit)

    async def _visit(self, request: Request) -> None:
        person = self._people[request.number % _PEOPLE]
        await asyncio.gather(self._look(person), self._order(person, request))
        if not request.order_id:
            return
        if request.wish is Wish.CANCELLED:
            await asyncio.sleep(self._dice.uniform(0, 1.5))
            await self._cancel(person, request)
        elif request.wish is Wish.GOOD and request.number % _SHIPPED_OF == 0:
            await self._ship(request.order_id, deliver=request.number % (2 * _SHIPPED_OF) == 0)

    async def _look(self, person: Gateway) -> None:
        since = time.time()
        with suppress(Problem):
            await person.get(at("/v1/users/{}", await person.user_id()))
        self.log.looks.append((since, time.time()))

    async def _order(self, person: Gateway, request: Request) -> None:
        wanted = self._basket(request)
        try:
            # It is asked for once more if no answer comes: under the same key, so that it is still one order.
            answer = await person.post("/v1/orders", MessageToDict(wanted), key=self.log.label(request.number))
        except CallFailed as failed:
            request.code = failed.code
        except Problem as problem:
            request.code = f"not understood: {problem}"
        else:
            request.code, request.order_id = "OK", read(answer, orders.Order()).order_id
        request.answered = time.time()

    def _basket(self, request: Request) -> orders.CreateOrderRequest:
        skus = self._dice.sample(self._skus, self._dice.randint(1, 3))
        lines = [orders.NewOrderLine(sku=sku, quantity=self._dice.randint(1, 3)) for sku in skus]
        if request.wish is Wish.SOLD_OUT:
            lines.append(orders.NewOrderLine(sku=self._sold_out, quantity=1))
        wanted = orders.CreateOrderRequest(lines=lines, payment_token=_TOKENS.get(request.wish, "tok_ok"))
        wanted.ship_to.CopyFrom(ADDRESS)
        wanted.ship_to.address_lines.append(self.log.label(request.number))
        return wanted

    async def _cancel(self, person: Gateway, request: Request) -> None:
        path = at("/v1/orders/{}:cancel", request.order_id)
        request.cancelled = await _insist(lambda: person.post(path)) is not None

    async def _ship(self, order_id: str, *, deliver: bool) -> None:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            with suppress(Problem):
                state = (await self._admin.get(at("/v1/orders/{}", order_id))).get("state")
                if state == "ORDER_STATE_CONFIRMED":
                    break
                if state in _SETTLED:
                    return
            await asyncio.sleep(_AGAIN)
        dispatch, deliver_path = (at(f"/v1/shipments/{{}}:{verb}", order_id) for verb in ("dispatch", "deliver"))
        # Shipping refuses until it has heard that the order is confirmed.
        dispatched = await _insist(lambda: self._admin.post(dispatch), also="FAILED_PRECONDITION")
        if dispatched is not None and deliver:
            await _insist(lambda: self._admin.post(deliver_path))

    async def _open_shop(self) -> None:
        """Add products, stock and customers of this run's own, by the admin whom the folder names."""
        self._admin = Gateway(self._rest, Person(*read_admin(self._house.data)))
        self._skus = [f"chaos-{self.log.run}-{number}" for number in range(_SKUS)]
        self._sold_out = f"chaos-{self.log.run}-sold-out"
        for sku in (*self._skus, self._sold_out):
            price = Money("EUR", self._dice.randint(1, 99) * 500_000_000).message()
            await self._admin.post("/v1/products", MessageToDict(Product(sku=sku, title="A thing", price=price)))
        for sku in (*self._skus, self._sold_out):
            await self._stock(sku, 0 if sku == self._sold_out else _PIECES)
        self._people = [await self._register(number) for number in range(_PEOPLE)]

    async def _stock(self, sku: str, pieces: int) -> None:
        """Wait until inventory knows a sku, and put pieces into stock."""
        if await _insist(lambda: self._admin.get(at("/v1/inventory/{}", sku)), also="NOT_FOUND") is None:
            raise Problem(f"inventory does not hear of the product {sku}")
        self.log.restocked[sku] = pieces
        if pieces:
            await self._admin.post(at("/v1/inventory/{}:restock", sku), {"quantity": pieces})

    async def _register(self, number: int) -> Gateway:
        account = {"email": f"chaos-{self.log.run}-{number}@example.com", "password": new_id()}
        await self._rest.send("POST", "/v1/users", body={**account, "address": MessageToDict(ADDRESS)})
        person = Gateway(self._rest, Person(**account))
        await person.token()
        return person


async def _insist(ask: Callable[[], Coroutine[Any, Any, Any]], also: str = "") -> Any:
    """Return what is answered, however often that takes in a minute; None if it is refused, or never answered.

    A refusal with the code `also` is no answer yet.
    """
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        try:
            return await ask()
        except CallFailed as failed:
            if failed.code not in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", also):
                return None
        except Problem:
            pass  # an answer that makes no sense is none
        await asyncio.sleep(_AGAIN)
    return None
