"""What is saved is what comes back: each store on a real SQLite, and what the migrations make for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from google.type.postal_address_pb2 import PostalAddress
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, create_engine, inspect

from commerce.payment.v1.payment_events_pb2 import PaymentCompleted, PaymentFailed, PaymentRefunded
from commerce.payment.v1.payment_journal_pb2 import PaymentCancelled, PaymentRequested
from services.inventory import domain as inventory
from services.inventory import store as inventory_store
from services.order import domain as order
from services.order import store as order_store
from services.payment import store as payment_store
from services.payment.domain import Payment
from services.product import domain as product
from services.product import store as product_store
from services.shipping import domain as shipping
from services.shipping import store as shipping_store
from services.user import domain as user
from services.user import store as user_store
from services.user.keys import SigningKey
from tests.unit.flow import state_of
from weft.database import Database
from weft.domain import Aggregate, Money
from weft.sql import Sqlite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message
    from sqlmodel import SQLModel

    from weft.store import AggregateStore

SERVICES = Path(__file__).parents[2] / "services"
SQL = Sqlite()
TABLES: dict[str, type[SQLModel]] = {
    "inventory": inventory_store.Tables,
    "order": order_store.Tables,
    "payment": payment_store.Tables,
    "product": product_store.Tables,
    "shipping": shipping_store.Tables,
    "user": user_store.Tables,
}

ids = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
# PostgreSQL stores no NUL, and the edge lets none in.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
flags = st.booleans()
counts = st.integers(0, 2**63 - 1)
times = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
amounts = st.builds(Money, st.sampled_from(["CHF", "EUR", "JPY"]), counts)
quantities = st.integers(1, 10_000)

products = st.builds(
    product.Product,
    sku=ids,
    title=texts,
    description=texts,
    price=amounts,
    active=flags,
    revision=counts,
    create_time=times,
    update_time=times,
)
product_copies = st.builds(order.ProductCopy, sku=ids, price=amounts, active=flags, revision=counts)
stock_items = st.builds(inventory.StockItem, sku=ids, on_hand=counts, reserved=counts)
reservations = st.builds(
    inventory.Reservation,
    order_id=ids,
    state=st.sampled_from(inventory.State),
    lines=st.lists(st.builds(inventory.Line, ids, quantities)).map(tuple),
)
addresses = st.builds(
    PostalAddress,
    region_code=st.sampled_from(["CH", "DE"]),
    postal_code=texts,
    locality=texts,
    address_lines=st.lists(texts, max_size=3),
    recipients=st.lists(texts, max_size=2),
)
orders = st.builds(
    lambda currency, lines, total, **fields: order.Order(
        lines=tuple(order.Line(sku, quantity, Money(currency, nanos)) for sku, quantity, nanos in lines),
        total=Money(currency, total),
        **fields,
    ),
    st.sampled_from(["CHF", "EUR", "JPY"]),
    st.lists(st.tuples(ids, quantities, counts)),
    counts,
    order_id=ids,
    user_id=ids,
    state=st.sampled_from(order.State),
    cancel_reason=st.none() | st.sampled_from(order.CancelReason),
    ship_to=addresses,
    create_time=times,
    update_time=times,
)
shipments = st.builds(
    shipping.Shipment,
    order_id=ids,
    state=st.sampled_from(shipping.State),
    lines=st.lists(st.builds(shipping.Line, ids, quantities)).map(tuple),
    ship_to=st.none() | addresses,
    paid=flags,
    reserved=flags,
    confirmed=flags,
    create_time=times,
    update_time=times,
    user_id=ids,
)
users = st.builds(
    user.User,
    user_id=ids,
    email=texts,
    password_hash=texts,
    password_revision=counts,
    display_name=texts,
    address=st.none() | addresses,
    role=st.sampled_from(user.Role),
    revision=counts,
    create_time=times,
    update_time=times,
)
attempts = st.builds(user.SignInAttempts, email_hash=ids, failures=counts, locked_until=times, last_time=times)
sessions = st.builds(
    user.Session,
    session_id=ids,
    user_id=ids,
    password_revision=counts,
    current=st.lists(ids, min_size=1, max_size=4).map(tuple),
    previous=st.just("") | ids,
    previous_until=times,
    create_time=times,
    expire_time=times,
)
signing_keys = st.builds(
    SigningKey,
    kid=ids,
    number=counts,
    private=st.binary(min_size=32, max_size=32),
    public=st.binary(min_size=32, max_size=32),
    sign_from=times,
    longest=st.timedeltas(timedelta(0), timedelta(days=3650)),
    create_time=times,
)


def journal_of(order_id: str, amount: Money, reference: str) -> dict[type[Message], Message]:
    """Return one event of each type that may be in a payment's journal."""
    money = amount.message()
    events: list[Message] = [
        PaymentRequested(order_id=order_id, amount=money),
        PaymentCancelled(order_id=order_id),
        PaymentCompleted(order_id=order_id, amount=money, charge_reference=reference),
        PaymentFailed(order_id=order_id, reason=reference),
        PaymentRefunded(order_id=order_id, amount=money, refund_reference=reference),
    ]
    return {type(event): event for event in events}


kinds = st.sampled_from(list(journal_of("o1", Money("CHF", 1), "")))
journals = st.builds(
    lambda order_id, amount, reference, chosen: [journal_of(order_id, amount, reference)[kind] for kind in chosen],
    ids,
    amounts,
    texts,
    st.lists(kinds, min_size=1, max_size=8),
)


@pytest.fixture(scope="module")
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        for tables in TABLES.values():
            tables.metadata.create_all(connection)
        yield connection
    engine.dispose()


def saved(connection: Connection, store: AggregateStore[Any], aggregate: Aggregate) -> Aggregate:
    """Save a new aggregate, and return it as it is loaded again."""
    key = store.key_of(aggregate)
    memo = store.memo(aggregate, None, aggregate.take_recorded())
    savepoint = connection.begin_nested()
    store.save(connection, SQL, [(aggregate, None, memo)], 1)
    loaded, same = store.fetch(connection, SQL, [key])[key]
    savepoint.rollback()
    assert same == memo
    assert state_of(store.revive(memo, 7)) == state_of(aggregate)
    assert store.revive(memo, 7).version == 7
    assert isinstance(loaded, Aggregate)
    return loaded


@given(one=products)
def test_a_product_comes_back_as_it_was(connection: Connection, one: product.Product) -> None:
    assert state_of(saved(connection, product_store.products, one)) == state_of(one)


@given(one=product_copies)
def test_a_copy_of_a_product_comes_back_as_it_was(connection: Connection, one: order.ProductCopy) -> None:
    assert state_of(saved(connection, order_store.products, one)) == state_of(one)


@given(one=orders)
def test_an_order_comes_back_as_it_was(connection: Connection, one: order.Order) -> None:
    assert state_of(saved(connection, order_store.orders, one)) == state_of(one)


@given(item=stock_items)
def test_a_stock_item_comes_back_as_it_was(connection: Connection, item: inventory.StockItem) -> None:
    assert state_of(saved(connection, inventory_store.stock, item)) == state_of(item)


@given(reservation=reservations)
def test_a_reservation_comes_back_as_it_was(connection: Connection, reservation: inventory.Reservation) -> None:
    assert state_of(saved(connection, inventory_store.reservations, reservation)) == state_of(reservation)


@given(shipment=shipments)
def test_a_shipment_comes_back_as_it_was(connection: Connection, shipment: shipping.Shipment) -> None:
    assert state_of(saved(connection, shipping_store.shipments, shipment)) == state_of(shipment)


@given(one=users)
def test_an_account_comes_back_as_it_was(connection: Connection, one: user.User) -> None:
    assert state_of(saved(connection, user_store.users, one)) == state_of(one)


@given(one=attempts)
def test_attempts_to_sign_in_come_back_as_they_were(connection: Connection, one: user.SignInAttempts) -> None:
    assert state_of(saved(connection, user_store.attempts, one)) == state_of(one)


@given(one=sessions)
def test_a_session_comes_back_as_it_was(connection: Connection, one: user.Session) -> None:
    assert state_of(saved(connection, user_store.sessions, one)) == state_of(one)


@given(one=signing_keys)
def test_a_signing_key_comes_back_as_it_was(connection: Connection, one: SigningKey) -> None:
    assert state_of(saved(connection, user_store.signing_keys, one)) == state_of(one)


@given(journal=journals)
def test_a_payment_comes_back_as_it_was(connection: Connection, journal: list[Message]) -> None:
    payment = Payment(order_id=journal[0].order_id)  # type: ignore[attr-defined]
    for event in journal:
        payment.record(event)
    loaded = saved(connection, payment_store.payments, payment)
    assert state_of(loaded) == state_of(payment)
    assert loaded.version == len(journal)


@given(journal=journals)
def test_of_a_payments_events_only_outcomes_leave_the_service(journal: list[Message]) -> None:
    outcomes = (PaymentCompleted, PaymentFailed, PaymentRefunded)
    published = payment_store.payments.published(journal)
    assert published == [event for event in journal if isinstance(event, outcomes)]


@pytest.mark.parametrize("service", TABLES)
def test_the_migrations_make_the_tables_that_the_store_declares(service: str, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / service}.db", migrations=SERVICES / service / "migrations")
    database.open()
    metadata = TABLES[service].metadata
    declared = create_engine("sqlite://")
    metadata.create_all(declared)
    try:
        for table in metadata.tables:
            assert shape(database.read, table) == shape(declared, table)
    finally:
        database.close()
        declared.dispose()


def shape(engine: Engine, table: str) -> list[tuple[Any, ...]]:
    """Return the columns of a table in a database, and what each can hold."""
    columns: list[Any] = list(inspect(engine).get_columns(table))
    return [(one["name"], str(one["type"]), one["nullable"], one["primary_key"]) for one in columns]
