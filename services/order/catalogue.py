"""What can be ordered, at which price: what product says; while it does not answer, what order remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from commerce.product.v1.product_service_pb2 import BatchGetProductsRequest
from services.order import queries
from services.order.domain import ProductCopy
from weft import deadlines, logs
from weft.domain import Money, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from commerce.product.v1.product_service_pb2 import Product
    from commerce.product.v1.product_service_pb2_grpc import ProductServiceAsyncStub
    from weft import CircuitBreaker, Reader

_log = logs.logger("order.catalogue")


class Catalogue:
    """The products, from the service that owns them or from order's copies."""

    def __init__(
        self, products: ProductServiceAsyncStub, reader: Reader, breaker: CircuitBreaker, timeout: float = 1.0
    ) -> None:
        """Ask over `products` for at most `timeout` seconds, unless `breaker` is open."""
        self._products = products
        self._reader = reader
        self._breaker = breaker
        self._timeout = timeout

    async def find(self, skus: Sequence[str]) -> dict[str, ProductCopy]:
        """Return those of the products that exist.

        Raises `Unavailable` if product does not answer and order does not remember every one of them.
        """
        request = BatchGetProductsRequest(skus=skus)
        try:
            with self._breaker.attempt():
                answer = await self._products.BatchGetProducts(request, timeout=self._patience())
        except (grpc.aio.AioRpcError, Unavailable) as error:
            why = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
            _log.warning("product does not answer: its last known prices count", cause=why)
            return await self._remember(skus)
        return {product.sku: _copy(product) for product in answer.products}

    def _patience(self) -> float:
        left = deadlines.remaining()
        # The other half of the caller's time is for going on without an answer.
        return self._timeout if left is None else min(self._timeout, left / 2)

    async def _remember(self, skus: Sequence[str]) -> dict[str, ProductCopy]:
        known = await self._reader.run(queries.remembered_products, skus)
        unknown = [sku for sku in skus if sku not in known]
        if unknown:
            raise Unavailable(f"the price of {', '.join(unknown)} cannot be learned now; try again")
        return known


def _copy(product: Product) -> ProductCopy:
    price = Money.of(product.price)
    return ProductCopy(sku=product.sku, price=price, active=product.active, revision=product.revision)
