"""What a product is, and how it may change."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.type.money_pb2 import Money as MoneyMessage

from commerce.product.v1.product_events_pb2 import ProductCreated, ProductUpdated
from services.product.domain import MAX_DESCRIPTION, MAX_TITLE, Product
from weft.domain import InvalidInput, Money

NOW = datetime(2024, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
PRICE = MoneyMessage(currency_code="CHF", units=12, nanos=500_000_000)


def create(**changed: Any) -> Product:
    fields = {"sku": "chair", "title": "Chair", "description": "To sit on", "price": PRICE, "active": True}
    return Product.create(**{**fields, **changed}, now=NOW)


def created() -> Product:
    product = create()
    product.take_recorded()
    return product


def wrong_fields(error: pytest.ExceptionInfo[InvalidInput]) -> list[str]:
    return [violation.field for violation in error.value.violations]


def test_a_new_product_is_at_revision_one_and_tells_what_copies_need() -> None:
    product = create()
    assert (product.sku, product.title, product.description) == ("chair", "Chair", "To sit on")
    assert (product.price, product.active, product.revision) == (Money("CHF", 12_500_000_000), True, 1)
    assert (product.create_time, product.update_time, product.version) == (NOW, NOW, 0)
    assert product.take_recorded() == [ProductCreated(sku="chair", title="Chair", price=PRICE, active=True, revision=1)]


def test_a_title_is_trimmed() -> None:
    assert create(title="  Chair\n").title == "Chair"


def test_a_product_may_be_free_and_inactive() -> None:
    product = create(price=MoneyMessage(currency_code="CHF"), active=False)
    assert (product.price, product.active) == (Money("CHF", 0), False)


@pytest.mark.parametrize("sku", ["", "a.b", "a b", "*", "ü", "x" * 65, "chair\n"])
def test_a_sku_must_be_able_to_name_a_subject(sku: str) -> None:
    with pytest.raises(InvalidInput) as error:
        create(sku=sku)
    assert wrong_fields(error) == ["product.sku"]


@pytest.mark.parametrize("title", ["", "   ", "x" * (MAX_TITLE + 1), "a\0b"])
def test_a_title_must_be_there_and_not_too_long(title: str) -> None:
    with pytest.raises(InvalidInput) as error:
        create(title=title)
    assert wrong_fields(error) == ["product.title"]


@pytest.mark.parametrize("description", ["x" * (MAX_DESCRIPTION + 1), "a\0b"])
def test_a_description_must_not_be_too_long(description: str) -> None:
    with pytest.raises(InvalidInput) as error:
        create(description=description)
    assert wrong_fields(error) == ["product.description"]


@pytest.mark.parametrize(
    "price",
    [
        MoneyMessage(),
        MoneyMessage(currency_code="francs", units=1),
        MoneyMessage(currency_code="CHF", units=-1),
        MoneyMessage(currency_code="CHF", nanos=-1),
        MoneyMessage(currency_code="CHF", units=2**62),
    ],
)
def test_a_price_must_be_an_amount_that_is_not_negative(price: MoneyMessage) -> None:
    with pytest.raises(InvalidInput) as error:
        create(price=price)
    assert wrong_fields(error) == ["product.price"]


def test_every_wrong_field_is_named_at_once() -> None:
    with pytest.raises(InvalidInput) as error:
        create(sku="", title="", description="x" * 5001, price=MoneyMessage())
    assert wrong_fields(error) == ["product.sku", "product.title", "product.description", "product.price"]


def test_the_longest_texts_are_accepted() -> None:
    product = create(sku="x" * 64, title="x" * MAX_TITLE, description="x" * MAX_DESCRIPTION)
    assert len(product.title) == MAX_TITLE


def test_a_change_raises_the_revision_and_tells_the_whole_new_state() -> None:
    product = created()
    product.change(title=" Armchair ", price=MoneyMessage(currency_code="EUR", units=20), now=LATER)
    assert (product.title, product.price, product.revision) == ("Armchair", Money("EUR", 20 * 10**9), 2)
    assert (product.create_time, product.update_time) == (NOW, LATER)
    assert product.take_recorded() == [
        ProductUpdated(
            sku="chair",
            title="Armchair",
            price=MoneyMessage(currency_code="EUR", units=20),
            active=True,
            revision=2,
        )
    ]


@pytest.mark.parametrize("change", [{"description": ""}, {"active": False}, {"title": "Stool"}])
def test_any_single_field_can_change(change: dict[str, Any]) -> None:
    product = created()
    product.change(**change, now=LATER)
    (field, value), *_ = change.items()
    assert getattr(product, field) == value
    assert product.revision == 2
    assert [type(event) for event in product.take_recorded()] == [ProductUpdated]


@pytest.mark.parametrize("same", [{}, {"title": "Chair ", "description": "To sit on", "price": PRICE, "active": True}])
def test_a_change_that_changes_nothing_is_no_change(same: dict[str, Any]) -> None:
    product = created()
    product.change(**same, now=LATER)
    assert (product.revision, product.update_time, product.take_recorded()) == (1, NOW, [])


def test_a_wrong_change_names_every_wrong_field_and_changes_nothing() -> None:
    product = created()
    with pytest.raises(InvalidInput) as error:
        product.change(title=" ", description="\0", price=MoneyMessage(), active=False, now=LATER)
    assert wrong_fields(error) == ["product.title", "product.description", "product.price"]
    assert (product.title, product.active, product.revision) == ("Chair", True, 1)
    assert product.take_recorded() == []
