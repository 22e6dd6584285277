"""Order's gRPC service."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from commerce.order.v1 import order_service_pb2 as api
from commerce.order.v1.order_service_pb2_grpc import OrderServiceServicer
from services.order import commands, domain, queries, store
from services.order.domain import MAX_NOTE, State
from weft import pages, timestamp
from weft.domain import InvalidInput, PermissionDenied, Unavailable, Violation, check_id, new_id, text_violations
from weft.identity import caller

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from datetime import datetime, timedelta

    from grpc.aio import ServicerContext

    from services.order.addresses import AddressBook
    from services.order.catalogue import Catalogue
    from services.order.domain import Order
    from weft import Changes, Reader, Watch, Writer

_POSITION = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_LOOK_AGAIN = 1.0
"""Seconds after which a watched order is read again: another instance may have changed it."""


class OrderApi(OrderServiceServicer):
    """`commerce.order.v1.OrderService`."""

    def __init__(
        self,
        writer: Writer,
        reader: Reader,
        catalogue: Catalogue,
        addresses: AddressBook,
        changes: Changes,
        draining: asyncio.Event,
        patience: timedelta,
    ) -> None:
        """`patience` is how long an order may stay undecided; watches end when `draining` is set."""
        self._writer = writer
        self._reader = reader
        self._catalogue = catalogue
        self._addresses = addresses
        self._changes = changes
        self._draining = draining
        self._patience = patience

    async def CreateOrder(
        self,
        request: api.CreateOrderRequest,
        context: ServicerContext[api.CreateOrderRequest, api.CreateOrderResponse],
    ) -> api.CreateOrderResponse:
        domain.check_request(request)
        user_id = caller().subject
        products = await self._catalogue.find([line.sku for line in request.lines])
        lines = domain.price_lines(request.lines, products)
        return await self._writer.answer(
            _created,
            commands.place_order,
            new_id(),
            user_id,
            lines=lines,
            ship_to=request.ship_to if request.HasField("ship_to") else await self._addresses.find(user_id),
            payment_token=request.payment_token,
            patience=self._patience,
        )

    async def GetOrder(
        self,
        request: api.GetOrderRequest,
        context: ServicerContext[api.GetOrderRequest, api.GetOrderResponse],
    ) -> api.GetOrderResponse:
        order = await self._reader.look_up(queries.get_order, check_id("order_id", request.order_id), caller())
        return api.GetOrderResponse(order=_message(order))

    async def ListOrders(
        self,
        request: api.ListOrdersRequest,
        context: ServicerContext[api.ListOrdersRequest, api.ListOrdersResponse],
    ) -> api.ListOrdersResponse:
        page, token = await self._reader.run(
            queries.list_orders,
            pages.PageRequest.of(request),
            user_id=_whose(request),
            state=_state(request.state),
            unfinished_since=_unfinished_since(request, self._writer.clock.now()),
        )
        return api.ListOrdersResponse(orders=map(_message, page), next_page_token=token)

    async def CancelOrder(
        self,
        request: api.CancelOrderRequest,
        context: ServicerContext[api.CancelOrderRequest, api.CancelOrderResponse],
    ) -> api.CancelOrderResponse:
        order_id = check_id("order_id", request.order_id)
        if wrong := _note_violations(request.operator_note):
            raise InvalidInput(*wrong)
        return await self._writer.answer(_cancelled, commands.cancel_order, order_id, caller(), request.operator_note)

    async def WatchOrder(
        self,
        request: api.WatchOrderRequest,
        context: ServicerContext[api.WatchOrderRequest, api.WatchOrderResponse],
    ) -> AsyncIterator[api.WatchOrderResponse]:
        order_id = check_id("order_id", request.order_id)
        seen = _version_at(request.after_position)
        watcher = caller()
        with self._changes.watch(store.orders, order_id) as watch:
            while True:
                order = await self._reader.look_up(queries.get_order, order_id, watcher)
                # What is read here may be behind what another instance showed the watcher.
                if order.version > seen:
                    yield api.WatchOrderResponse(order=_message(order), position=str(order.version))
                    seen = order.version
                if order.ended:
                    return
                await self._wait(watch)

    async def _wait(self, watch: Watch) -> None:
        """Return when it is time to look again. Raises `Unavailable` when the server drains."""
        waits = [asyncio.ensure_future(watch.wait(_LOOK_AGAIN)), asyncio.ensure_future(self._draining.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
        if self._draining.is_set():
            raise Unavailable("the service is stopping; watch again")


def _version_at(position: str) -> int:
    """Return the version of an order that a watcher has seen; 0 for none. Raises `InvalidInput`."""
    if not position:
        return 0
    if not _POSITION.fullmatch(position):
        raise InvalidInput(Violation("after_position", "is no position that a watch has told"))
    return int(position)


def _note_violations(note: str) -> Sequence[Violation]:
    if note and not note.strip():
        return [Violation("operator_note", "must not be blank: say why, or leave it out")]
    return text_violations("operator_note", note, MAX_NOTE)


def _whose(request: api.ListOrdersRequest) -> str:
    """Return whose orders are meant; nothing for everybody's. Raises `PermissionDenied`."""
    wanted = request.user_id and check_id("user_id", request.user_id)
    if caller().may_see(wanted):
        return wanted
    if wanted:
        raise PermissionDenied("only an admin may list another user's orders")
    return caller().subject


def _state(value: api.OrderState.ValueType) -> State | None:
    if value == api.ORDER_STATE_UNSPECIFIED:
        return None
    if value not in api.OrderState.values():
        raise InvalidInput(Violation("state", "is not a state that an order can be in"))
    return State(api.OrderState.Name(value).removeprefix("ORDER_STATE_"))


def _unfinished_since(request: api.ListOrdersRequest, now: datetime) -> datetime | None:
    """Return since when orders are to be unfinished, if that matters. Raises `InvalidInput`."""
    if not request.HasField("unfinished_for"):
        return None
    try:
        since = now - request.unfinished_for.ToTimedelta()
    except OverflowError:
        since = None
    if since is None or since > now:
        raise InvalidInput(Violation("unfinished_for", "must be 0 s or more, and at most some centuries"))
    return since


def _created(order: Order) -> api.CreateOrderResponse:
    return api.CreateOrderResponse(order=_message(order))


def _cancelled(order: Order) -> api.CancelOrderResponse:
    return api.CancelOrderResponse(order=_message(order))


def _message(order: Order) -> api.Order:
    return api.Order(
        order_id=order.order_id,
        user_id=order.user_id,
        state=api.OrderState.Value(f"ORDER_STATE_{order.state}"),
        cancel_reason=_cancel_reason(order),
        lines=[line.message() for line in order.lines],
        total=order.total.message(),
        ship_to=order.ship_to,
        create_time=timestamp(order.create_time),
        update_time=timestamp(order.update_time),
    )


def _cancel_reason(order: Order) -> api.CancelReason.ValueType:
    """Return why an order is cancelled; nothing while it only is to be."""
    reason = order.cancel_reason if order.state is State.CANCELLED else None
    return api.CancelReason.Value(f"CANCEL_REASON_{reason or 'UNSPECIFIED'}")
