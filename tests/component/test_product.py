"""Product over gRPC, on both databases: what it stores, what it publishes and what it refuses."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest_asyncio
from google.protobuf.field_mask_pb2 import FieldMask
from google.type.money_pb2 import Money

from commerce.product.v1 import product_service_pb2 as api
from commerce.product.v1.product_events_pb2 import ProductCreated, ProductUpdated
from commerce.product.v1.product_service_pb2_grpc import ProductServiceStub
from services.product.service import build
from services.product.settings import Settings
from tests.component.support import calling, count, reason, refusal, running, violations

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from commerce.product.v1.product_service_pb2_grpc import ProductServiceAsyncStub
    from tests.component.support import NewDatabase, Streams
    from weft import Service

PRICE = Money(currency_code="EUR", units=12, nanos=500_000_000)
ID_RULE = "must match [A-Za-z0-9_-]{1,64}"
MALFORMED_IDS = ("", "no.dots", "nul\0", "x" * 65)
WRONG_PRODUCTS: list[tuple[dict[str, Any], list[str]]] = [
    ({"sku": ""}, ["product.sku"]),
    ({"sku": "no.dots"}, ["product.sku"]),
    ({"sku": "nul\0"}, ["product.sku"]),
    ({"sku": "x" * 65}, ["product.sku"]),
    ({"title": " "}, ["product.title"]),
    ({"title": "nul\0"}, ["product.title"]),
    ({"description": "x" * 5001}, ["product.description"]),
    ({"price": None}, ["product.price"]),
    ({"price": Money(currency_code="eur", units=1)}, ["product.price"]),
    ({"price": Money(currency_code="EUR", units=-1)}, ["product.price"]),
    ({"price": Money(currency_code="EUR", units=1, nanos=-1)}, ["product.price"]),
    ({"price": Money(currency_code="EUR", units=10**10)}, ["product.price"]),
    ({"sku": "a b", "title": "", "price": None}, ["product.price", "product.sku", "product.title"]),
]
WRONG_UPDATES: list[tuple[list[str], dict[str, Any], dict[str, str]]] = [
    (["colour"], {}, {"update_mask": "names 'colour'; it may name title, description, price, active"}),
    (["title", "price.units"], {"title": "Cup"}, {"update_mask": "names 'price.units'; it may name"}),
    (["revision"], {}, {"update_mask": "names 'revision'; it may name"}),
    (["sku"], {}, {"update_mask": "names sku, which never changes"}),
    (["price"], {}, {"product.price": "must be set, as update_mask names it"}),
    (["active"], {}, {"product.active": "must be set, as update_mask names it"}),
    (["title"], {}, {"product.title": "must be 1 to 200 characters long"}),
    ([], {"price": Money(currency_code="EUR", units=-1)}, {"product.price": "must not be negative"}),
    ([], {"sku": "no.dots", "title": "Cup"}, {"product.sku": ID_RULE}),
]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Product running, and a client of it."""

    service: Service
    stub: ProductServiceAsyncStub

    async def create(self, sku: str, **changed: Any) -> api.Product:
        fields: dict[str, Any] = {"title": "Mug", "description": "Holds tea", "price": PRICE} | changed
        product = api.Product(sku=sku, **fields)
        return (await self.stub.CreateProduct(api.CreateProductRequest(product=product))).product

    async def update(self, *mask: str, sku: str = "mug", **changes: Any) -> api.Product:
        product = api.Product(sku=sku, **changes)
        request = api.UpdateProductRequest(product=product, update_mask=FieldMask(paths=mask))
        return (await self.stub.UpdateProduct(request)).product

    async def list(self, **wanted: Any) -> Sequence[api.Product]:
        return (await self.stub.ListProducts(api.ListProductsRequest(**wanted))).products

    async def get(self, sku: str) -> api.Product:
        return (await self.stub.GetProduct(api.GetProductRequest(sku=sku))).product


@pytest_asyncio.fixture
async def settings(new_database_url: NewDatabase, nats_url: str) -> Settings:
    return Settings(database_url=await new_database_url("product"), nats_url=nats_url)


@pytest_asyncio.fixture
async def catalogue(settings: Settings) -> AsyncIterator[Catalogue]:
    async with running(build(settings)) as service, calling(service) as channel:
        yield Catalogue(service, ProductServiceStub(channel))


async def test_a_new_product_is_stored_and_published(catalogue: Catalogue, streams: Streams) -> None:
    created = await catalogue.create("mug", title=" Mug ")
    assert (created.sku, created.title, created.description, created.price) == ("mug", "Mug", "Holds tea", PRICE)
    assert (created.active, created.revision) == (True, 1)
    assert created.create_time == created.update_time
    assert created.create_time.seconds > 0
    assert await catalogue.get("mug") == created
    event = await streams.wait_for(ProductCreated, "mug")
    assert event.body == ProductCreated(sku="mug", title="Mug", price=PRICE, active=True, revision=1)


async def test_a_product_may_begin_inactive(catalogue: Catalogue) -> None:
    assert not (await catalogue.create("mug", active=False)).active


async def test_a_product_with_wrong_fields_is_refused_and_nothing_is_written(catalogue: Catalogue) -> None:
    for changed, fields in WRONG_PRODUCTS:
        error = await refusal(catalogue.create(**{"sku": "mug"} | changed))
        assert sorted(violations(error)) == fields, changed
    assert (await count(catalogue.service, "products"), await count(catalogue.service, "outbox")) == (0, 0)


async def test_a_request_without_a_product_names_what_is_required(catalogue: Catalogue) -> None:
    error = await refusal(catalogue.stub.CreateProduct(api.CreateProductRequest()))
    assert sorted(violations(error)) == ["product.price", "product.sku", "product.title"]


async def test_a_taken_sku_is_refused(catalogue: Catalogue) -> None:
    await catalogue.create("mug")
    error = await refusal(catalogue.create("mug", title="Another"))
    assert (error.code(), reason(error)) == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")
    assert (await catalogue.get("mug")).title == "Mug"


async def test_of_two_that_want_the_same_sku_at_once_one_gets_it(catalogue: Catalogue) -> None:
    wishes = [catalogue.create("mug", title=f"Mug {n}") for n in range(8)]
    outcomes = await asyncio.gather(*wishes, return_exceptions=True)
    created = [one for one in outcomes if isinstance(one, api.Product)]
    refused = [one.code() for one in outcomes if isinstance(one, grpc.aio.AioRpcError)]
    assert (len(created), refused) == (1, [grpc.StatusCode.ALREADY_EXISTS] * 7)
    assert await catalogue.get("mug") == created[0]
    assert await count(catalogue.service, "outbox") == 1


async def test_an_update_changes_only_what_the_mask_names(catalogue: Catalogue, streams: Streams) -> None:
    before = await catalogue.create("mug")
    changed = await catalogue.update(
        "title", "description", title="Cup", price=Money(currency_code="EUR", units=1), active=False
    )
    assert (changed.title, changed.description) == ("Cup", "")
    assert (changed.price, changed.active, changed.revision) == (PRICE, True, 2)
    assert changed.create_time == before.create_time
    assert await catalogue.get("mug") == changed
    event = await streams.wait_for(ProductUpdated, "mug")
    assert event.body == ProductUpdated(sku="mug", title="Cup", price=PRICE, active=True, revision=2)


async def test_an_update_without_a_mask_changes_the_fields_that_are_set(catalogue: Catalogue) -> None:
    await catalogue.create("mug")
    cheaper = Money(currency_code="EUR", units=9)
    changed = await catalogue.update(price=cheaper, active=False)
    assert (changed.price, changed.active) == (cheaper, False)
    assert (changed.title, changed.description, changed.revision) == ("Mug", "Holds tea", 2)


async def test_an_update_to_the_same_values_publishes_nothing(catalogue: Catalogue) -> None:
    created = await catalogue.create("mug")
    assert await catalogue.update(title="Mug", active=True) == created
    assert await catalogue.update() == created
    assert await count(catalogue.service, "outbox") == 1


async def test_an_update_with_wrong_fields_is_refused_and_nothing_is_written(catalogue: Catalogue) -> None:
    created = await catalogue.create("mug")
    for mask, changes, wrong in WRONG_UPDATES:
        found = violations(await refusal(catalogue.update(*mask, **{"sku": "mug"} | changes)))
        assert found.keys() == wrong.keys(), (mask, changes)
        assert all(found[field].startswith(text) for field, text in wrong.items()), found
    assert await catalogue.get("mug") == created
    assert await count(catalogue.service, "outbox") == 1


async def test_an_update_with_an_etag_is_made_only_if_it_is_still_the_products(catalogue: Catalogue) -> None:
    created = await catalogue.create("mug", etag="ignored")
    changed = await catalogue.update("title", "etag", title="Cup", etag=created.etag)
    assert (changed.title, len({"ignored", "", created.etag, changed.etag})) == ("Cup", 4)
    assert [one.etag for one in await catalogue.list()] == [changed.etag]
    error = await refusal(catalogue.update(title="Jug", etag=created.etag))
    assert (error.code(), reason(error)) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert await catalogue.get("mug") == changed


async def test_of_two_updates_with_one_etag_one_is_made(catalogue: Catalogue) -> None:
    etag = (await catalogue.create("mug")).etag
    tries = (catalogue.update(title=title, etag=etag) for title in ("Cup", "Jug", "Pot"))
    made = [one for one in await asyncio.gather(*tries, return_exceptions=True) if isinstance(one, api.Product)]
    assert [await catalogue.get("mug")] == made


async def test_updates_at_once_all_count(catalogue: Catalogue) -> None:
    await catalogue.create("mug")
    prices = [Money(currency_code="EUR", units=100 + n) for n in range(10)]
    await asyncio.gather(*(catalogue.update(price=price) for price in prices))
    last = await catalogue.get("mug")
    assert last.revision == 11
    assert last.price in prices


async def test_an_unknown_product_is_not_found(catalogue: Catalogue) -> None:
    for call in (catalogue.get("mug"), catalogue.update(title="Cup")):
        error = await refusal(call)
        assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_a_malformed_sku_is_named(catalogue: Catalogue) -> None:
    for sku in MALFORMED_IDS:
        assert violations(await refusal(catalogue.get(sku))) == {"sku": ID_RULE}
        many = catalogue.stub.BatchGetProducts(api.BatchGetProductsRequest(skus=["mug", sku]))
        assert violations(await refusal(many)) == {"skus[1]": ID_RULE}


async def test_a_batch_leaves_unknown_skus_out(catalogue: Catalogue) -> None:
    created = [await catalogue.create(sku) for sku in ("mug", "tee")]
    answer = await catalogue.stub.BatchGetProducts(api.BatchGetProductsRequest(skus=["tee", "hat", "mug", "mug"]))
    assert sorted(answer.products, key=lambda product: product.sku) == created
    assert not (await catalogue.stub.BatchGetProducts(api.BatchGetProductsRequest())).products


async def test_a_batch_has_at_most_200_skus(catalogue: Catalogue) -> None:
    skus = [f"sku-{n}" for n in range(201)]
    await catalogue.stub.BatchGetProducts(api.BatchGetProductsRequest(skus=skus[:200]))
    error = await refusal(catalogue.stub.BatchGetProducts(api.BatchGetProductsRequest(skus=skus)))
    assert violations(error) == {"skus": "must be at most 200"}


async def test_the_catalogue_is_listed_page_by_page_in_the_order_of_skus(catalogue: Catalogue) -> None:
    skus = ["b-2", "a_1", "C3", "d4", "b-1"]
    await asyncio.gather(*map(catalogue.create, skus))
    listed: list[str] = []
    sizes: list[int] = []
    request = api.ListProductsRequest(page_size=2)
    while not sizes or request.page_token:
        page = await catalogue.stub.ListProducts(request)
        listed += [product.sku for product in page.products]
        sizes.append(len(page.products))
        request.page_token = page.next_page_token
    assert (sizes, listed) == ([2, 2, 1], sorted(skus))
    assert len((await catalogue.stub.ListProducts(api.ListProductsRequest())).products) == 5


async def test_a_list_names_what_is_wrong_with_its_page(catalogue: Catalogue) -> None:
    for size in (-1, 1001):
        error = await refusal(catalogue.stub.ListProducts(api.ListProductsRequest(page_size=size)))
        assert list(violations(error)) == ["page_size"]
    error = await refusal(catalogue.stub.ListProducts(api.ListProductsRequest(page_token="made-up")))
    assert list(violations(error)) == ["page_token"]


async def test_a_restarted_product_has_what_it_had(settings: Settings) -> None:
    async with running(build(settings)) as service, calling(service) as channel:
        catalogue = Catalogue(service, ProductServiceStub(channel))
        created = [await catalogue.create(sku) for sku in ("cup", "mug")]
        page = await catalogue.stub.ListProducts(api.ListProductsRequest(page_size=1))
    async with running(build(settings)) as service, calling(service) as channel:
        catalogue = Catalogue(service, ProductServiceStub(channel))
        assert await catalogue.get("cup") == created[0]
        assert await catalogue.list(page_token=page.next_page_token) == created[1:]
