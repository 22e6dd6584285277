"""A customer, the merchant and the warehouse of a running system: they know nothing but its gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import grpc
from google.type.money_pb2 import Money
from google.type.postal_address_pb2 import PostalAddress

from cli.chaos.books import reason_of, state_of
from commerce.inventory.v1 import inventory_service_pb2 as inventory
from commerce.inventory.v1.inventory_service_pb2_grpc import InventoryServiceStub
from commerce.order.v1 import order_service_pb2 as orders
from commerce.order.v1.order_service_pb2_grpc import OrderServiceStub
from commerce.payment.v1 import payment_service_pb2 as payments
from commerce.payment.v1.payment_service_pb2_grpc import PaymentServiceStub
from commerce.product.v1 import product_service_pb2 as products
from commerce.product.v1.product_service_pb2_grpc import ProductServiceStub
from commerce.shipping.v1 import shipping_service_pb2 as shipping
from commerce.shipping.v1.shipping_service_pb2_grpc import ShippingServiceStub
from commerce.user.v1 import user_service_pb2 as users
from commerce.user.v1.user_service_pb2_grpc import UserServiceStub
from tests.component.callers import signed_channel
from weft.domain import new_id
from weft.testing import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Mapping

    from tests.flow.systems import WholeSystem

PATIENCE = 60.0
TIMEOUT = 10.0
_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
)
HOME = PostalAddress(region_code="CH", address_lines=["Bahnhofstrasse 1", "8001 Zürich"])
EUR_5 = Money(currency_code="EUR", units=5)


class Shop:
    """Calls to the services of one system; an async context manager.

    Orders are a customer's, who has an account of their own; all else is done by the system's admin.
    """

    def __init__(self, system: WholeSystem) -> None:
        self.system = system
        self._channels: list[grpc.aio.Channel] = []

    async def __aenter__(self) -> Self:
        self._users = UserServiceStub(self._channel("user"))
        if not self.system.tokens:
            await self._sign_in()
        self.customer, self.admin = self.system.tokens["customer"], self.system.tokens["admin"]
        self._products = ProductServiceStub(self._channel("product", self.admin))
        self._customers_orders = OrderServiceStub(self._channel("order", self.customer))
        self._orders = OrderServiceStub(self._channel("order", self.admin))
        self._payments = PaymentServiceStub(self._channel("payment", self.admin))
        self._inventory = InventoryServiceStub(self._channel("inventory", self.admin))
        self._shipping = ShippingServiceStub(self._channel("shipping", self.admin))
        return self

    async def _sign_in(self) -> None:
        customer = {"email": f"{new_id()}@example.com", "password": "correct horse"}
        await self._register(customer)
        for who, account in (("customer", customer), ("admin", self.system.admin)):
            session = (await self._users.SignIn(users.SignInRequest(**account), timeout=TIMEOUT)).session
            self.system.tokens[who] = f"Bearer {session.access_token}"

    async def _register(self, account: Mapping[str, str]) -> None:
        await self._users.RegisterUser(users.RegisterUserRequest(**account, address=HOME), timeout=TIMEOUT)

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels:
            await channel.close()

    def _channel(self, service: str, authorization: str = "") -> grpc.aio.Channel:
        channel = signed_channel(self.system.address(service), authorization, _OPTIONS)
        self._channels.append(channel)
        return channel

    async def offer(self, pieces: int, price: Money = EUR_5) -> str:
        """Add a product of which there are so many pieces; return its sku."""
        sku = f"sku-{new_id()}"
        await self.create(sku, price)
        await eventually(lambda: self.stock(sku), PATIENCE, f"inventory hears of {sku}")
        self.system.restocked[sku] = pieces
        if pieces:
            await self.restock(sku, pieces)
        return sku

    async def create(self, sku: str, price: Money = EUR_5) -> None:
        """Add a product."""
        product = products.Product(sku=sku, title="A thing", price=price)
        await self._products.CreateProduct(products.CreateProductRequest(product=product), timeout=TIMEOUT)

    async def change(self, sku: str, price: Money) -> None:
        """Give a product another price."""
        product = products.Product(sku=sku, price=price)
        await self._products.UpdateProduct(products.UpdateProductRequest(product=product), timeout=TIMEOUT)

    async def restock(self, sku: str, pieces: int) -> None:
        """Put pieces into stock."""
        await self._inventory.Restock(inventory.RestockRequest(sku=sku, quantity=pieces), timeout=TIMEOUT)

    async def register(self) -> None:
        """Open an account for somebody new, and sign them in."""
        account = {"email": f"{new_id()}@example.com", "password": "correct horse"}
        await self._register(account)
        await self._users.SignIn(users.SignInRequest(**account), timeout=TIMEOUT)

    async def order(self, wanted: str | Mapping[str, int], token: str = "tok_ok") -> str:
        """Place an order of one piece of a sku, or of so many pieces of each; return its id.

        While prices cannot be learned, as when an earlier test stopped product, it is asked for again.
        """
        lines = {wanted: 1} if isinstance(wanted, str) else wanted
        request = orders.CreateOrderRequest(
            lines=[orders.NewOrderLine(sku=sku, quantity=quantity) for sku, quantity in lines.items()],
            payment_token=token,
        )
        key = (("idempotency-key", new_id()),)

        async def place() -> orders.CreateOrderResponse:
            return await self._customers_orders.CreateOrder(request, timeout=TIMEOUT, metadata=key)

        placed = (await eventually(place, PATIENCE, "an order is taken")).order
        assert placed.state == orders.ORDER_STATE_PENDING
        return placed.order_id

    async def cancel(self, order_id: str) -> str:
        """Ask to cancel an order; return the state that it is then in."""
        answer = await self._customers_orders.CancelOrder(orders.CancelOrderRequest(order_id=order_id), timeout=TIMEOUT)
        return state_of(answer.order)

    async def dispatch(self, order_id: str) -> str:
        """Hand the shipment of an order to the carrier; return the state that it is then in."""
        request = shipping.DispatchRequest(shipment_id=order_id)
        return _shipment_state((await self._shipping.Dispatch(request, timeout=TIMEOUT)).shipment)

    async def deliver(self, order_id: str) -> str:
        """Record that the customer has the shipment of an order; return the state that it is then in."""
        request = shipping.DeliverRequest(shipment_id=order_id)
        return _shipment_state((await self._shipping.Deliver(request, timeout=TIMEOUT)).shipment)

    async def find(self, order_id: str) -> orders.Order:
        """Return an order."""
        answer = await self._orders.GetOrder(orders.GetOrderRequest(order_id=order_id), timeout=TIMEOUT)
        return answer.order

    async def becomes(self, order_id: str, *states: str) -> orders.Order:
        """Return an order once it is in one of `states`, or a state that none of them can follow."""

        async def look() -> orders.Order | None:
            order = await self.find(order_id)
            return order if state_of(order) in {*states, "COMPLETED", "CANCELLED"} else None

        order = await eventually(look, PATIENCE, f"{order_id} becomes {' or '.join(states)}")
        assert order is not None
        assert state_of(order) in states, f"{order_id} became {state_of(order)} ({reason_of(order)})"
        return order

    async def watch(self, order_id: str) -> AsyncGenerator[str, None]:
        """Yield the state of an order, now and whenever it changed, until nothing can change any more."""
        watching = self._orders.WatchOrder(orders.WatchOrderRequest(order_id=order_id), timeout=PATIENCE)
        async for answer in watching:
            yield state_of(answer.order)

    async def all_orders(self) -> list[orders.Order]:
        """Return every order that there is."""
        found: list[orders.Order] = []
        token = ""
        while True:
            request = orders.ListOrdersRequest(page_size=1000, page_token=token)
            page = await self._orders.ListOrders(request, timeout=TIMEOUT)
            found += page.orders
            token = page.next_page_token
            if not token:
                return found

    async def all_payments(self) -> list[payments.Payment]:
        """Return every payment that there is."""
        found: list[payments.Payment] = []
        token = ""
        while True:
            request = payments.ListPaymentsRequest(page_size=1000, page_token=token)
            page = await self._payments.ListPayments(request, timeout=TIMEOUT)
            found += page.payments
            token = page.next_page_token
            if not token:
                return found

    async def payment_state(self, order_id: str) -> str:
        """Return where the payment of an order is."""
        request = payments.GetPaymentRequest(order_id=order_id)
        payment = (await self._payments.GetPayment(request, timeout=TIMEOUT)).payment
        return payments.PaymentState.Name(payment.state).removeprefix("PAYMENT_STATE_")

    async def shipment_state(self, order_id: str) -> str:
        """Return where the shipment of an order is."""
        request = shipping.GetShipmentRequest(order_id=order_id)
        return _shipment_state((await self._shipping.GetShipment(request, timeout=TIMEOUT)).shipment)

    async def stock(self, sku: str) -> inventory.Stock:
        """Return the level of a sku."""
        answer = await self._inventory.GetStock(inventory.GetStockRequest(sku=sku), timeout=TIMEOUT)
        return answer.stock


def _shipment_state(shipment: shipping.Shipment) -> str:
    return shipping.ShipmentState.Name(shipment.state).removeprefix("SHIPMENT_STATE_")


async def refused(call: Awaitable[object]) -> grpc.StatusCode | None:
    """Return the code with which a call is refused; None if it is not."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return None
