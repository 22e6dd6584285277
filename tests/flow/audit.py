"""What must hold of every order once the system is quiet, whatever happened before: told from the outside.

The rules are those of `weft chaos`. The services' databases are read for nothing but the bodies of dead letters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import NullPool, create_engine, text

from cli.chaos.books import find_violations
from cli.chaos.desk import Desk
from cli.chaos.quiet import until_quiet
from cli.chaos.sources import gather_evidence
from tests.flow.shop import PATIENCE
from tests.flow.systems import SERVICES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Row

    from cli.chaos.books import Books
    from tests.flow.shop import Shop
    from tests.flow.systems import WholeSystem


async def audit(shop: Shop) -> Books:
    """Wait until nothing moves any more, check every order that was ever placed and every piece of stock.

    Raises `AssertionError`, which says what is wrong and where the system's files are.
    """
    system = shop.system
    await quiet(shop)
    _check_dead_letters(system)
    async with _desk(shop) as desk:
        evidence = await gather_evidence(
            desk, broker=system.nats, provider=system.provider, restocked=system.restocked, shipments=False
        )
    wrong = find_violations(evidence.books)
    assert not wrong, "\n".join([f"not as it should be in {system.data}:", *map(str, wrong)])
    return evidence.books


async def quiet(shop: Shop) -> None:
    """Return once nothing is under way: no intent, nothing unpublished or parked, every stream handled."""
    async with _desk(shop) as desk:
        open_ends = await until_quiet(desk, PATIENCE)
    assert not open_ends, f"the system in {shop.system.data} is not quiet: {open_ends}"


def _desk(shop: Shop) -> Desk:
    async def token() -> str:
        return shop.admin.removeprefix("Bearer ")

    return Desk({service: shop.system.address(service) for service in SERVICES}, token)


def _check_dead_letters(system: WholeSystem) -> None:
    found = [letter for service in SERVICES for letter in dead_letters(system, service)]
    wrong = [letter for letter in found if letter.key not in system.strangers]
    assert not wrong, wrong


class DeadLetter(NamedTuple):
    """An event that a service set aside for a person."""

    consumer: str
    subject: str
    reason: str
    error: str
    body: bytes

    @property
    def key(self) -> str:
        """The id of the aggregate that it is about."""
        return self.subject.rpartition(".")[2]


def dead_letters(system: WholeSystem, service: str) -> list[DeadLetter]:
    """Return the dead letters of a service, oldest first."""
    query = "SELECT consumer, subject, reason, error, body FROM dead_letters ORDER BY id"
    return [DeadLetter(*row) for row in _read(system, service, query)]


def _read(system: WholeSystem, service: str, query: str) -> Sequence[Row[Any]]:
    engine = create_engine(system.database_url(service), poolclass=NullPool)
    with engine.connect() as connection:
        return connection.execute(text(query)).all()
