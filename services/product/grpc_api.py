"""Product's gRPC service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from commerce.product.v1 import product_service_pb2 as api
from commerce.product.v1.product_service_pb2_grpc import ProductServiceServicer
from services.product import commands, queries
from weft import pages, timestamp
from weft.domain import InvalidInput, Violation, id_violations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from grpc.aio import ServicerContext

    from services.product.domain import Product
    from weft import Reader, Writer

_CHANGEABLE = ("title", "description", "price", "active")
_WITH_PRESENCE = ("price", "active")
_CONDITION = "etag"
"""Which a mask made of all that a client sent names too; it changes nothing."""


class ProductApi(ProductServiceServicer):
    """`commerce.product.v1.ProductService`."""

    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader

    async def CreateProduct(
        self,
        request: api.CreateProductRequest,
        context: ServicerContext[api.CreateProductRequest, api.CreateProductResponse],
    ) -> api.CreateProductResponse:
        new = request.product
        product = await self._writer.run(
            commands.create_product,
            sku=new.sku,
            title=new.title,
            description=new.description,
            price=new.price,
            active=new.active or not new.HasField("active"),
        )
        return api.CreateProductResponse(product=_message(product))

    async def UpdateProduct(
        self,
        request: api.UpdateProductRequest,
        context: ServicerContext[api.UpdateProductRequest, api.UpdateProductResponse],
    ) -> api.UpdateProductResponse:
        asked = request.product
        product = await self._writer.run(commands.update_product, asked.sku, _changes(request), asked.etag)
        return api.UpdateProductResponse(product=_message(product))

    async def GetProduct(
        self,
        request: api.GetProductRequest,
        context: ServicerContext[api.GetProductRequest, api.GetProductResponse],
    ) -> api.GetProductResponse:
        product = await self._reader.look_up(queries.get_product, request.sku)
        return api.GetProductResponse(product=_message(product))

    async def BatchGetProducts(
        self,
        request: api.BatchGetProductsRequest,
        context: ServicerContext[api.BatchGetProductsRequest, api.BatchGetProductsResponse],
    ) -> api.BatchGetProductsResponse:
        products = await self._reader.look_up(queries.get_products, request.skus)
        return api.BatchGetProductsResponse(products=map(_message, products))

    async def ListProducts(
        self,
        request: api.ListProductsRequest,
        context: ServicerContext[api.ListProductsRequest, api.ListProductsResponse],
    ) -> api.ListProductsResponse:
        page, token = await self._reader.run(queries.list_products, pages.PageRequest.of(request))
        return api.ListProductsResponse(products=map(_message, page), next_page_token=token)


def _changes(request: api.UpdateProductRequest) -> dict[str, Any]:
    """Return the new values that the request has, by field. Raises `InvalidInput`."""
    product = request.product
    wrong = id_violations("product.sku", product.sku)
    wrong += _mask_violations(request)
    if wrong:
        raise InvalidInput(*wrong)
    named = request.update_mask.paths or [field.name for field, _ in product.ListFields()]
    return {name: getattr(product, name) for name in named if name in _CHANGEABLE}


def _mask_violations(request: api.UpdateProductRequest) -> Iterator[Violation]:
    allowed = ", ".join(_CHANGEABLE)
    for path in request.update_mask.paths:
        if path == "sku":
            yield Violation("update_mask", "names sku, which never changes")
        elif path not in (*_CHANGEABLE, _CONDITION):
            yield Violation("update_mask", f"names {path!r}; it may name {allowed}")
        elif path in _WITH_PRESENCE and not request.product.HasField(path):  # type: ignore[arg-type]
            yield Violation(f"product.{path}", "must be set, as update_mask names it")


def _message(product: Product) -> api.Product:
    return api.Product(
        sku=product.sku,
        title=product.title,
        description=product.description,
        price=product.price.message(),
        active=product.active,
        revision=product.revision,
        create_time=timestamp(product.create_time),
        update_time=timestamp(product.update_time),
        etag=product.etag,
    )
