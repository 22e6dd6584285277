"""`python -m bench.proxy PORT TARGET` is the least that turns REST into gRPC: what the cost of a gateway is put beside.

uvicorn, a fixed dict of routes, functions generated for these messages, grpc.aio with bytes as they are. There is no
check, no token, no limit, no deadline, no trace, no log and no error but a crash.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import orjson
import uvicorn
import uvloop
from grpc import aio

from bench.generated import Generated
from cli.probes import LOOPBACK
from commerce.order.v1 import order_service_pb2 as orders
from commerce.product.v1 import product_service_pb2 as products

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope


class Route(NamedTuple):
    """One method: how its request is made of the end of the path and the body, and its answer of the reply."""

    call: Callable[[bytes], Awaitable[bytes]]
    request: Callable[[str, bytes], bytes]
    answer: Callable[[bytes], bytes]


class Proxy:
    """The ASGI application."""

    def __init__(self, channel: aio.Channel) -> None:
        self._routes = _routes(channel)

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Pass one request on."""
        assert scope["type"] == "http"
        above, _, last = scope["path"].rpartition("/")
        route = self._routes[scope["method"], above]
        body = b""
        while True:
            message: Any = await receive()
            body += message["body"]
            if not message["more_body"]:
                break
        answer = route.answer(await route.call(route.request(last, body)))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": False})
        await send({"type": "http.response.body", "body": answer, "more_body": False})


def _call(channel: aio.Channel, path: str) -> Callable[[bytes], Awaitable[bytes]]:
    made: Any = channel.unary_unary(path)
    return cast("Callable[[bytes], Awaitable[bytes]]", made)


def _routes(channel: aio.Channel) -> Mapping[tuple[str, str], Route]:
    generated = Generated()
    write_order = generated.writer(orders.Order.DESCRIPTOR)
    write_product = generated.writer(products.Product.DESCRIPTOR)
    read_new = generated.reader(orders.CreateOrderRequest.DESCRIPTOR)

    def create(_: str, body: bytes) -> bytes:
        request = orders.CreateOrderRequest()
        read_new(orjson.loads(body), request)
        return request.SerializeToString()

    return {
        ("GET", "/v1/orders"): Route(
            _call(channel, "/commerce.order.v1.OrderService/GetOrder"),
            lambda last, _: orders.GetOrderRequest(order_id=last).SerializeToString(),
            lambda reply: orjson.dumps(write_order(orders.GetOrderResponse.FromString(reply).order)),
        ),
        ("GET", "/v1/products"): Route(
            _call(channel, "/commerce.product.v1.ProductService/GetProduct"),
            lambda last, _: products.GetProductRequest(sku=last).SerializeToString(),
            lambda reply: orjson.dumps(write_product(products.GetProductResponse.FromString(reply).product)),
        ),
        ("POST", "/v1"): Route(
            _call(channel, "/commerce.order.v1.OrderService/CreateOrder"),
            create,
            lambda reply: orjson.dumps(write_order(orders.CreateOrderResponse.FromString(reply).order)),
        ),
    }


async def _serve(port: int, target: str) -> None:
    async with aio.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        config = uvicorn.Config(
            Proxy(channel),
            host=LOOPBACK,
            port=port,
            http="httptools",
            interface="asgi3",
            lifespan="off",
            ws="none",
            access_log=False,
            log_config=None,
            proxy_headers=False,
            server_header=False,
        )
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    try:
        uvloop.run(_serve(int(sys.argv[1]), sys.argv[2]))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(0)
