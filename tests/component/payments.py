"""What payment's tests share: the provider's stand-in as a process, orders, and what became of them."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web
from google.type.money_pb2 import Money
from google.type.postal_address_pb2 import PostalAddress
from sqlalchemy import text

from commerce.order.v1.order_events_pb2 import OrderCreated
from commerce.order.v1.order_service_pb2 import OrderLine
from commerce.payment.v1 import payment_service_pb2 as api
from commerce.payment.v1.payment_service_pb2_grpc import PaymentServiceStub
from tests.component.support import calling
from weft.domain import new_id
from weft.testing import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from tests.component.support import Streams
    from weft import Service

ROOT = Path(__file__).parents[2]
TOTAL = Money(currency_code="CHF", units=25, nanos=500_000_000)

CHARGED_ONCE = (1, 0, "25500000000")
GIVEN_BACK = (1, 1, "0")
NEVER_CHARGED = (0, 0, "0")


def order(token: str = "tok_ok", total: Money = TOTAL) -> OrderCreated:
    """Return a new order, as the order service publishes it."""
    return OrderCreated(
        order_id=new_id(),
        user_id="u1",
        lines=[OrderLine(sku="tea", quantity=1, unit_price=total)],
        total=total,
        ship_to=PostalAddress(region_code="CH", address_lines=["Bahnhofstrasse 1"]),
        payment_token=token,
    )


class Sandbox:
    """The provider's stand-in: a process with a ledger, which keeps its port when it is started again."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._ledger = folder / "ledger.db"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it; it takes requests when this returns."""
        command = [sys.executable, "-m", "sandbox", "--port", str(self.port), "--ledger", str(self._ledger)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        with self._process.stdout as output:
            assert output.readline().strip().endswith(self.url)

    def stop(self) -> None:
        """End it; its ledger stays."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Have nobody listen on its port within the `with`."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Have it accept connections and do nothing within the `with`, or until `resume`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.resume()

    def resume(self) -> None:
        """Have it go on with what was asked meanwhile."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def money(self, order_id: str) -> tuple[int, int, str]:
        """Return how many charges and refunds of an order there were, and what was kept, in nanos."""
        async with (
            aiohttp.ClientSession(self.url) as session,
            session.get("/v1/ledger", params={"reference": order_id}) as response,
        ):
            ledger = await response.json()
        made = [charge for charge in ledger["charges"] if charge["status"] == "succeeded"]
        return len(made), len(ledger["refunds"]), ledger["net"].get(order_id, {}).get("CHF", "0")


class ScriptedProvider:
    """A provider that gives the answers it is told to, in their order, and keeps the requests."""

    def __init__(self, url: str, requests: list[web.Request]) -> None:
        self.url = url
        self.requests = requests


@asynccontextmanager
async def answering(*answers: tuple[int, dict[str, Any]]) -> AsyncIterator[ScriptedProvider]:
    """Run a provider that gives these answers: HTTP status and JSON document."""
    left = list(answers)
    requests: list[web.Request] = []

    async def answer(request: web.Request) -> web.Response:
        requests.append(request)
        status, document = left.pop(0)
        return web.json_response(document, status=status)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield ScriptedProvider(f"http://127.0.0.1:{runner.addresses[0][1]}", requests)
    finally:
        await runner.cleanup()


def a_charge(created: OrderCreated, **changed: Any) -> dict[str, Any]:
    """Return the provider's document of an order's charge."""
    nanos = created.total.units * 10**9 + created.total.nanos
    amount = {"currency": created.total.currency_code, "nanos": str(nanos)}
    document = {"id": "ch_1", "status": "succeeded", "reference": created.order_id, "amount": amount}
    return document | changed


def refusal(code: str) -> dict[str, Any]:
    """Return the provider's document of a refusal."""
    return {"error": {"code": code, "message": code}}


async def outcomes(streams: Streams, order_id: str) -> Sequence[str]:
    """Return the short names of what payment published of an order."""
    return await streams.types_of("commerce.payment", order_id)


async def journal(service: Service, order_id: str) -> Sequence[str]:
    """Return the short names of the events in an order's journal."""
    query = text("SELECT type FROM payment_events WHERE order_id = :id ORDER BY version")
    names = await service.reader.run(lambda c: c.execute(query, {"id": order_id}).scalars().all())
    return [name.rpartition(".")[2] for name in names]


async def payment_of(service: Service, order_id: str) -> api.Payment:
    """Return an order's payment, asked for as any client would."""
    async with calling(service) as channel:
        request = api.GetPaymentRequest(order_id=order_id)
        reply: api.GetPaymentResponse = await PaymentServiceStub(channel).GetPayment(request)
        return reply.payment
