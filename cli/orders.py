"""`weft order` and `weft shipment`: places, shows, lists and cancels orders, and sends them on their way."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.markup import escape

from cli.display import address_line, amount, local_time, order_lines, order_state, print_json, print_table, words
from cli.errors import REFUSED, CallFailed, Problem
from cli.parsing import parse_address, parse_duration, parse_line
from cli.remote import Target, pauses, reach
from cli.rest import at, read, unless
from cli.samples import ADDRESS
from cli.watch import show_states
from commerce.order.v1 import order_service_pb2 as pb
from commerce.payment.v1.payment_service_pb2 import Payment, PaymentState
from commerce.shipping.v1.shipping_service_pb2 import Shipment, ShipmentState
from commerce.user.v1.user_service_pb2 import User
from weft.domain import new_id

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from google.type.postal_address_pb2 import PostalAddress

    from cli.remote import Gateway
    from cli.rest import Answer

_WAIT = 120.0


async def place(
    target: Target,
    *,
    skus: Sequence[str],
    token: str,
    address: str,
    wait: bool,
    watching: bool = False,
    key: str = "",
) -> int:
    """Place an order; with `wait` follow it until its outcome. Return 1 if it ended CANCELLED, else 0.

    When `watching`, show its states instead, until it has ended, and return 0.

    `key` is that of an earlier try, which then counts; by default a new one.
    """
    request = pb.CreateOrderRequest(lines=[parse_line(text) for text in skus], payment_token=token)
    async with reach(target) as gateway:
        ship_to = parse_address(address) if address else await _usual_address(target, gateway)
        if ship_to:
            request.ship_to.CopyFrom(ship_to)
        answer = await _create(gateway, request, key or new_id())
        if watching:
            if not target.json:
                _print_order(target, answer)
            await show_states(gateway, str(answer.get("orderId")), as_json=target.json)
            return 0
        if wait:
            answer = await _outcome(gateway, answer, quiet=target.json)
    _print_order(target, answer)
    return REFUSED if answer.get("state") == "ORDER_STATE_CANCELLED" else 0


async def show(target: Target, order_id: str) -> None:
    """Print one order; for people, with its payment and its shipment."""
    async with reach(target) as gateway:
        answer = await gateway.get(at("/v1/orders/{}", order_id))
        if target.json:
            print_json(answer)
            return
        payment, shipment = await asyncio.gather(_payment(gateway, order_id), _shipment(gateway, order_id))
    _print_order(target, answer, ("payment", payment), ("shipment", shipment))


async def cancel(target: Target, order_id: str, *, operator_note: str = "", key: str = "") -> None:
    """Cancel an order, or ask for it, and print it; with a note as an operator, who says why; `key` as in `place`."""
    body = {"operatorNote": operator_note} if operator_note else {}
    async with reach(target) as gateway:
        answer = await gateway.post(at("/v1/orders/{}:cancel", order_id), body, key=key or new_id())
    _print_order(target, answer)


async def list_all(target: Target, *, user: str, state: str, unfinished_for: str = "", limit: int) -> None:
    """Print up to `limit` orders, newest first; with `unfinished_for` those that wait so long for a decision."""
    wanted = {"userId": user, "state": _parse_state(state)}
    if unfinished_for:
        wanted["unfinishedFor"] = f"{parse_duration('--older-than', unfinished_for).total_seconds():g}s"
    async with reach(target) as gateway:
        query = {name: value for name, value in wanted.items() if value}
        answer = await gateway.list("/v1/orders", "orders", query, limit)
    if target.json:
        print_json(answer)
    elif found := read(answer, pb.ListOrdersResponse()).orders:
        print_table(("order", "placed", "user", "lines", "total", "state"), map(_as_row, found))
    else:
        print("no orders are stuck" if unfinished_for else "no orders")


async def send_on(target: Target, order_id: str, step: str) -> None:
    """Have an order's shipment take a step, `dispatch` or `deliver`, and print it."""
    async with reach(target) as gateway:
        # An order's shipment bears its id.
        answer = await gateway.post(at("/v1/shipments/{}:" + step, order_id))
    if target.json:
        print_json(answer)
        return
    shipment = read(answer, Shipment())
    print_table(("shipment", shipment.shipment_id), [("state", _shipment_state(shipment).upper())])


async def follow(gateway: Gateway, answer: Answer, patience: float) -> AsyncGenerator[Answer, None]:
    """Yield an order as it is, and again whenever it changed; a gateway that is away for a moment is waited for.

    Raises `Problem` after `patience` seconds.
    """
    end = time.monotonic() + patience
    path = at("/v1/orders/{}", answer.get("orderId", ""))
    yield answer
    for pause in pauses():
        if time.monotonic() > end:
            raise Problem(
                f"the order is not decided after {patience:g} s; `weft order show {answer['orderId']}` shows it",
                REFUSED,
            )
        await asyncio.sleep(pause)
        found = answer
        with unless("UNAVAILABLE"):
            found = await gateway.get(path)
        if found != answer:
            yield (answer := found)


async def _usual_address(target: Target, gateway: Gateway) -> PostalAddress | None:
    """Return None, which is the user's own address; for an admin of the local system without one, the sample."""
    if target.find().data is None or not await gateway.is_admin():
        return None
    admin = read(await gateway.get(at("/v1/users/{}", await gateway.user_id())), User())
    return None if admin.HasField("address") else ADDRESS


async def _create(gateway: Gateway, request: pb.CreateOrderRequest, key: str) -> Answer:
    try:
        return await gateway.post("/v1/orders", MessageToDict(request), key=key)
    except CallFailed as failed:
        if request.HasField("ship_to") or not any(name.startswith(("shipTo", "ship_to")) for name in failed.fields):
            raise
        raise failed.with_advice("say where it goes: --address 'LINE, LINE, COUNTRY'") from None


async def _outcome(gateway: Gateway, answer: Answer, *, quiet: bool) -> Answer:
    console = Console(quiet=quiet, highlight=False)
    with console.status(f"waiting for the outcome of {answer.get('orderId')}"):
        async with aclosing(follow(gateway, answer, _WAIT)) as changes:
            async for answer in changes:
                if read(answer, pb.Order()).state != pb.ORDER_STATE_PENDING:
                    break
    return answer


def _parse_state(text: str) -> str:
    if not text:
        return ""
    name = f"ORDER_STATE_{text.upper().removeprefix('ORDER_STATE_')}"
    if name in pb.OrderState.keys()[1:]:
        return name
    known = ", ".join(words(name, "ORDER_STATE_") for name in pb.OrderState.keys()[1:])
    raise Problem(f"--state {text}: there are {known}")


def _as_row(order: pb.Order) -> tuple[str, ...]:
    placed, total = local_time(order.create_time), amount(order.total)
    return order.order_id, placed, order.user_id, order_lines(order), total, order_state(order)


def _print_order(target: Target, answer: Answer, *more: tuple[str, str]) -> None:
    if target.json:
        print_json(answer)
        return
    order = read(answer, pb.Order())
    rows = [
        ("state", order_state(order)),
        ("user", order.user_id),
        *(("line", f"{line.quantity} x {line.sku} at {amount(line.unit_price)}") for line in order.lines),
        ("total", amount(order.total)),
        ("ship to", address_line(order.ship_to)),
        ("placed", local_time(order.create_time)),
        ("changed", local_time(order.update_time)),
    ]
    print_table(("order", order.order_id), [*rows, *more])


async def _payment(gateway: Gateway, order_id: str) -> str:
    try:
        payment = read(await gateway.get(at("/v1/orders/{}/payment", order_id)), Payment())
    except CallFailed as failed:
        return escape(str(failed))
    reason = f": {payment.failure_reason}" if payment.failure_reason else ""
    return escape(words(PaymentState.Name(payment.state), "PAYMENT_STATE_") + reason)


async def _shipment(gateway: Gateway, order_id: str) -> str:
    try:
        return _shipment_state(read(await gateway.get(at("/v1/orders/{}/shipment", order_id)), Shipment()))
    except CallFailed as failed:
        return escape(str(failed))


def _shipment_state(shipment: Shipment) -> str:
    return words(ShipmentState.Name(shipment.state), "SHIPMENT_STATE_")
