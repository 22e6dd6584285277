"""What can be ordered, at which price: what product says; while it does not answer, what order remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from commerce.product.v1.product_service_pb2 import BatchGetProductsRequest
from services.order import queries
from services.order.domain import ProductCopy
from services.order.upstream import Upstream
from weft.domain import Money, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from commerce.product.v1.product_service_pb2 import Product
    from commerce.product.v1.product_service_pb2_grpc import ProductServiceAsyncStub
    from weft import Reader


class Catalogue:
    """The products, from the service that owns them or from order's copies."""

    def __init__(self, products: ProductServiceAsyncStub, reader: Reader) -> None:
        self._products = products
        self._reader = reader
        self._upstream = Upstream("product")

    async def find(self, skus: Sequence[str]) -> dict[str, ProductCopy]:
        """Return those of the products that exist.

        Raises `Unavailable` if product does not answer and order does not remember every one of them.
        """
        answer = await self._upstream.ask(self._products.BatchGetProducts, BatchGetProductsRequest(skus=skus))
        if answer is None:
            return await self._remember(skus)
        return {product.sku: _copy(product) for product in answer.products}

    async def _remember(self, skus: Sequence[str]) -> dict[str, ProductCopy]:
        known = await self._reader.run(queries.remembered_products, skus)
        unknown = [sku for sku in skus if sku not in known]
        if unknown:
            raise Unavailable(f"the price of {', '.join(unknown)} cannot be learned now; try again")
        return known


def _copy(product: Product) -> ProductCopy:
    price = Money.of(product.price)
    return ProductCopy(sku=product.sku, price=price, active=product.active, revision=product.revision)
