"""`weft order`: places, shows, lists and cancels orders over gRPC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.type.postal_address_pb2 import PostalAddress
from rich.console import Console

from cli.display import amount, local_time, order_lines, order_state, print_json, print_table, words
from cli.errors import OPERATOR, REFUSED, Problem
from cli.remote import TIMEOUT, reach
from commerce.order.v1 import order_service_pb2 as pb
from commerce.order.v1.order_service_pb2_grpc import OrderServiceStub
from commerce.payment.v1.payment_service_pb2 import GetPaymentRequest, PaymentState
from commerce.payment.v1.payment_service_pb2_grpc import PaymentServiceStub
from commerce.shipping.v1.shipping_service_pb2 import GetShipmentRequest, ShipmentState
from commerce.shipping.v1.shipping_service_pb2_grpc import ShippingServiceStub

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_PAGE = 1000
_WAIT = 120.0


@dataclass(frozen=True, slots=True)
class Source:
    """Which system's orders are meant, and whether a program reads the answer."""

    data: Path
    address: str | None = None
    json: bool = False


def place(source: Source, *, skus: Sequence[str], user: str, token: str, address: str, wait: bool) -> int:
    """Place an order; with `wait` follow it until its outcome. Return 1 if it ended CANCELLED, else 0."""
    request = pb.CreateOrderRequest(
        user_id=user,
        lines=[parse_line(text) for text in skus],
        payment_token=token,
        ship_to=parse_address(address),
    )
    with reach("order", source.data, source.address) as channel:
        orders = OrderServiceStub(channel)
        order = orders.CreateOrder(request, timeout=TIMEOUT).order
        if wait:
            order = _follow(orders, order, quiet=source.json)
    _print_order(source, order)
    return REFUSED if order.state == pb.ORDER_STATE_CANCELLED else 0


def show(source: Source, order_id: str) -> None:
    """Print one order; for people, with its payment and its shipment."""
    with reach("order", source.data, source.address) as channel:
        request = pb.GetOrderRequest(order_id=order_id)
        order = OrderServiceStub(channel).GetOrder(request, timeout=TIMEOUT).order
    if source.json or source.address:
        _print_order(source, order)
        return
    payment = ("payment", _describe_payment(source.data, order_id))
    _print_order(source, order, payment, ("shipment", _describe_shipment(source.data, order_id)))


def cancel(source: Source, order_id: str) -> None:
    """Cancel an order, or ask for it, and print it."""
    with reach("order", source.data, source.address) as channel:
        request = pb.CancelOrderRequest(order_id=order_id)
        order = OrderServiceStub(channel).CancelOrder(request, timeout=TIMEOUT).order
    _print_order(source, order)


def list_all(source: Source, *, user: str, state: str, limit: int) -> None:
    """Print up to `limit` orders, newest first."""
    wanted = pb.ListOrdersRequest(user_id=user, state=_parse_state(state))
    with reach("order", source.data, source.address) as channel:
        found = list(_pages(OrderServiceStub(channel), wanted, limit))
    if source.json:
        print_json(pb.ListOrdersResponse(orders=found))
    elif found:
        print_table(("order", "placed", "user", "lines", "total", "state"), map(_as_row, found))
    else:
        print("no orders")


def parse_line(text: str) -> pb.NewOrderLine:
    """Read `SKU` or `SKU:QUANTITY`. Whether they make sense is for the order service to say."""
    sku, _, quantity = text.partition(":")
    try:
        return pb.NewOrderLine(sku=sku, quantity=int(quantity) if quantity else 1)
    except ValueError:
        raise Problem(f"--sku {text}: write SKU or SKU:QUANTITY, as in mug:2", OPERATOR) from None


def parse_address(text: str) -> PostalAddress:
    """Read `LINE, LINE, ..., COUNTRY`, the country as its two-letter code."""
    *lines, country = (part.strip() for part in text.split(","))
    return PostalAddress(region_code=country.upper(), address_lines=[line for line in lines if line])


def _follow(orders: OrderServiceStub, order: pb.Order, *, quiet: bool) -> pb.Order:
    console = Console(quiet=quiet, highlight=False)
    watched = orders.WatchOrder(pb.WatchOrderRequest(order_id=order.order_id), timeout=_WAIT)
    with console.status(f"waiting for the outcome of {order.order_id}"):
        for answer in watched:
            order = answer.order
            if order.state != pb.ORDER_STATE_PENDING:
                watched.cancel()
                break
    return order


def _pages(orders: OrderServiceStub, wanted: pb.ListOrdersRequest, limit: int) -> Iterator[pb.Order]:
    while limit > 0:
        wanted.page_size = min(limit, _PAGE)
        page = orders.ListOrders(wanted, timeout=TIMEOUT)
        yield from page.orders[:limit]
        limit -= len(page.orders)
        wanted.page_token = page.next_page_token
        if not page.next_page_token:
            return


def _parse_state(text: str) -> pb.OrderState.ValueType:
    if not text:
        return pb.ORDER_STATE_UNSPECIFIED
    try:
        return pb.OrderState.Value(f"ORDER_STATE_{text.upper().removeprefix('ORDER_STATE_')}")
    except ValueError:
        known = ", ".join(words(name, "ORDER_STATE_") for name in pb.OrderState.keys()[1:])
        raise Problem(f"--state {text}: there are {known}") from None


def _as_row(order: pb.Order) -> tuple[str, ...]:
    placed, total = local_time(order.create_time), amount(order.total)
    return order.order_id, placed, order.user_id, order_lines(order), total, order_state(order)


def _print_order(source: Source, order: pb.Order, *more: tuple[str, str]) -> None:
    if source.json:
        print_json(order)
        return
    rows = [
        ("state", order_state(order)),
        ("user", order.user_id),
        *(("line", f"{line.quantity} x {line.sku} at {amount(line.unit_price)}") for line in order.lines),
        ("total", amount(order.total)),
        ("ship to", ", ".join([*order.ship_to.address_lines, order.ship_to.region_code])),
        ("placed", local_time(order.create_time)),
        ("changed", local_time(order.update_time)),
    ]
    print_table(("order", order.order_id), [*rows, *more])


def _describe_payment(data: Path, order_id: str) -> str:
    try:
        with reach("payment", data) as channel:
            asked = GetPaymentRequest(order_id=order_id)
            payment = PaymentServiceStub(channel).GetPayment(asked, timeout=TIMEOUT).payment
    except Problem as problem:
        return str(problem)
    reason = f": {payment.failure_reason}" if payment.failure_reason else ""
    return words(PaymentState.Name(payment.state), "PAYMENT_STATE_") + reason


def _describe_shipment(data: Path, order_id: str) -> str:
    try:
        with reach("shipping", data) as channel:
            asked = GetShipmentRequest(order_id=order_id)
            shipment = ShippingServiceStub(channel).GetShipment(asked, timeout=TIMEOUT).shipment
    except Problem as problem:
        return str(problem)
    return words(ShipmentState.Name(shipment.state), "SHIPMENT_STATE_")
