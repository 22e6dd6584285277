"""Payment that ends at the worst moment: the provider has acted, and nothing of it is saved yet."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from sqlalchemy import create_engine, text

from commerce.order.v1.order_events_pb2 import OrderCancelled
from commerce.payment.v1.payment_events_pb2 import PaymentCompleted, PaymentRefunded
from services.payment.service import build
from services.payment.settings import Settings
from tests.component.payments import (
    CHARGED_ONCE,
    GIVEN_BACK,
    NEVER_CHARGED,
    ROOT,
    Sandbox,
    journal,
    order,
    outcomes,
)
from tests.component.support import count, running
from weft.testing import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from google.protobuf.message import Message
    from sqlalchemy import Connection

    from tests.component.support import NewDatabase, Streams


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path_factory.mktemp("provider"))
    sandbox.start()
    yield sandbox
    sandbox.stop()


@pytest_asyncio.fixture
async def settings(new_database_url: NewDatabase, nats_url: str, sandbox: Sandbox) -> AsyncIterator[Settings]:
    url = await new_database_url("payment")
    yield Settings(database_url=url, nats_url=nats_url, provider_url=sandbox.url, retry_base=0.05)


@contextmanager
def as_a_process(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """Run payment as a process of its own within the `with`; it is killed at the latest at its end."""
    given = {f"WEFT_{name.upper()}": str(value) for name, value in settings.model_dump().items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "services.payment"],
        cwd=ROOT,
        env={**os.environ, **given},
        stdout=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


@contextmanager
def looking_at(settings: Settings) -> Iterator[Connection]:
    """Open payment's database from outside."""
    engine = create_engine(settings.database_url)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def is_promised(connection: Connection, kind: str) -> bool:
    with connection.begin():
        query = text("SELECT count(*) FROM intents WHERE kind = :kind")
        return bool(connection.execute(query, {"kind": kind}).scalar_one())


@contextmanager
def nothing_saved(connection: Connection) -> Iterator[None]:
    """Let nobody save a payment's events within the `with`."""
    is_sqlite = connection.dialect.name == "sqlite"
    lock = "BEGIN IMMEDIATE" if is_sqlite else "LOCK TABLE payment_events IN SHARE ROW EXCLUSIVE MODE"
    with connection.begin() as transaction:
        connection.exec_driver_sql(lock)
        yield
        transaction.rollback()


async def die_before_saving(
    settings: Settings, streams: Streams, sandbox: Sandbox, event: Message, kind: str, money: tuple[int, int, str]
) -> None:
    """Run payment until it had the provider act on `event`, and kill it before it can save that."""
    order_id: str = event.order_id  # type: ignore[attr-defined]

    async def has_acted() -> bool:
        return await sandbox.money(order_id) == money

    with as_a_process(settings) as payment, looking_at(settings) as database, sandbox.paused():
        await streams.publish(event)
        await eventually(lambda: is_promised(database, kind), 30.0, f"the {kind} is promised")
        with nothing_saved(database):
            sandbox.resume()
            await eventually(has_acted, what="the provider has acted")
            payment.kill()
            payment.wait(10)


async def test_a_charge_that_was_made_when_payment_was_killed_is_made_once(
    settings: Settings, streams: Streams, sandbox: Sandbox
) -> None:
    created = order()
    await die_before_saving(settings, streams, sandbox, created, "charge", CHARGED_ONCE)
    async with running(build(settings)) as service:
        completed = await streams.wait_for(PaymentCompleted, created.order_id)
        assert await journal(service, created.order_id) == ["PaymentRequested", "PaymentCompleted"]
        assert await count(service, "intents") == 0
    assert completed.body is not None
    assert await outcomes(streams, created.order_id) == ["PaymentCompleted"]
    assert await sandbox.money(created.order_id) == CHARGED_ONCE


async def test_a_refund_that_was_made_when_payment_was_killed_is_made_once(
    settings: Settings, streams: Streams, sandbox: Sandbox
) -> None:
    created = order()
    async with running(build(settings)):
        await streams.publish(created)
        await streams.wait_for(PaymentCompleted, created.order_id)
    cancelled = OrderCancelled(order_id=created.order_id)
    await die_before_saving(settings, streams, sandbox, cancelled, "refund", GIVEN_BACK)
    async with running(build(settings)) as service:
        await streams.wait_for(PaymentRefunded, created.order_id)
        history = await journal(service, created.order_id)
    assert history == ["PaymentRequested", "PaymentCompleted", "PaymentCancelled", "PaymentRefunded"]
    assert await outcomes(streams, created.order_id) == ["PaymentCompleted", "PaymentRefunded"]
    assert await sandbox.money(created.order_id) == GIVEN_BACK


async def test_a_charge_that_was_made_before_the_kill_and_cancelled_after_it_is_given_back(
    settings: Settings, streams: Streams, sandbox: Sandbox
) -> None:
    created = order()
    await die_before_saving(settings, streams, sandbox, created, "charge", CHARGED_ONCE)
    await streams.publish(OrderCancelled(order_id=created.order_id))
    async with running(build(settings)):
        await streams.wait_for(PaymentRefunded, created.order_id)
    assert await outcomes(streams, created.order_id) == ["PaymentCompleted", "PaymentRefunded"]
    assert await sandbox.money(created.order_id) == GIVEN_BACK


async def test_a_stop_while_the_provider_is_silent_is_not_held_up_and_forgets_nothing(
    settings: Settings, streams: Streams, sandbox: Sandbox
) -> None:
    created = order()
    patient = settings.model_copy(update={"provider_timeout": 100.0})
    with sandbox.paused():
        async with asyncio.timeout(30), running(build(patient)) as service:
            await streams.publish(created)
            await eventually(lambda: count(service, "intents"), what="the charge is promised")
        assert await outcomes(streams, created.order_id) == []
    assert await sandbox.money(created.order_id) in (NEVER_CHARGED, CHARGED_ONCE)
    async with running(build(settings)):
        await streams.wait_for(PaymentCompleted, created.order_id)
    assert await outcomes(streams, created.order_id) == ["PaymentCompleted"]
    assert await sandbox.money(created.order_id) == CHARGED_ONCE
