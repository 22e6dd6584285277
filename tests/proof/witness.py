"""What is seen of a fault while it lasts: how each call ended and when, and that nothing moved that cannot move."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from sqlalchemy import NullPool, create_engine, func, select

from tests.component.support import retry_seconds
from tests.flow.shop import TIMEOUT, Shop
from weft import tables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Select

    from tests.flow.systems import WholeSystem

_GRACE = 3.0
"""Seconds that this process may take to see that a call has ended."""
_outbox = tables.outbox.c


@dataclass(frozen=True, slots=True)
class Call:
    """A `CreateOrder`, and how it ended. Times are those of `time.monotonic`, in seconds."""

    began: float
    ended: float
    error: grpc.aio.AioRpcError | None


class Witness(Shop):
    """A shop that writes down how every call ended that placed an order."""

    def __init__(self, system: WholeSystem) -> None:
        super().__init__(system)
        self.calls: list[Call] = []

    async def order(self, wanted: str | Mapping[str, int], token: str = "tok_ok") -> str:
        """See `Shop.order`."""
        began = time.monotonic()
        try:
            placed = await super().order(wanted, token)
        except grpc.aio.AioRpcError as error:
            self.calls.append(Call(began, time.monotonic(), error))
            raise
        self.calls.append(Call(began, time.monotonic(), None))
        return placed

    def within(self, began: float, ended: float | None = None) -> list[Call]:
        """Return the calls that began and ended between two moments; up to now if there is no second."""
        return [one for one in self.calls if began <= one.began and (ended is None or one.ended <= ended)]

    def refused(self, began: float) -> list[Call]:
        """Return the calls that began since then and were refused."""
        return [one for one in self.within(began) if one.error is not None]

    def check_calls(self) -> None:
        """Check that every call ended by its deadline, and that each refusal says honestly when to come again."""
        assert self.calls
        longest = max(one.ended - one.began for one in self.calls)
        assert longest < TIMEOUT + _GRACE, f"a call with a deadline of {TIMEOUT:g} s took {longest:.1f} s"
        for call in self.calls:
            if call.error is None or call.error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                continue
            assert retry_seconds(call.error) > 0  # and it is UNAVAILABLE


def published(system: WholeSystem, service: str) -> int:
    """Return how many events a service has noted as published."""
    return _number(system, service, select(func.count()).where(_outbox.published_at.is_not(None)))


def unpublished(system: WholeSystem, service: str) -> int:
    """Return how many events wait in the outbox of a service."""
    return _number(system, service, select(func.count()).where(_outbox.published_at.is_(None)))


def position(system: WholeSystem, service: str) -> int:
    """Return the sum of the positions up to which a service has handled its streams."""
    return _number(system, service, select(func.coalesce(func.sum(tables.progress.c.position), 0)))


def _number(system: WholeSystem, service: str, query: Select[tuple[int]]) -> int:
    engine = create_engine(system.database_url(service), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            return int(connection.execute(query).scalar_one())
    finally:
        engine.dispose()
