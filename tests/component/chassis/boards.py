"""A service that has nothing but a read model: the orders, and what happened, from the orders' and products' streams.

`python -m tests.component.chassis.boards` runs it as a process.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Index, MetaData, select
from sqlmodel import Field, SQLModel

from commerce.order.v1.order_events_pb2 import OrderConfirmed, OrderCreated
from commerce.product.v1.product_events_pb2 import ProductCreated
from tests.component.chassis.toy import Settings
from weft import Projection, ReadModel, Rows, Service, run
from weft.domain import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from weft import Build, ModelReader, View


class Tables(SQLModel):
    """The tables of the read model, from which those of each build are made."""

    metadata = MetaData()


class OrderRow(Tables, table=True):
    """An order; `events` counts what was heard of it."""

    __tablename__ = "orders"
    __table_args__ = (Index("orders_by_user", "user_id", "order_id"),)
    order_id: str = Field(primary_key=True)
    user_id: str
    state: str
    events: int = Field(sa_type=BigInteger)


class EntryRow(Tables, table=True):
    """Something that happened."""

    __tablename__ = "entries"
    event_id: str = Field(primary_key=True)
    about: str = Field(index=True)
    type: str
    note: str | None


ORDERS = Rows(OrderRow)
ENTRIES = Rows(EntryRow, write_only=True)


class Board:
    """The functions of the read model, and what a test makes of them."""

    def __init__(self, folder: Path | None = None, created: str = "PENDING") -> None:
        self.created = created
        """The state of an order that is created."""
        self.hold = folder / "hold" if folder else None
        """While there is such a file, what happens to the order `held` cannot be written."""
        self.tries: list[str] = []
        """The ids of the events that came, in order."""
        self.besides: Callable[[View], Any] = lambda view: None
        """What is done besides, for a created order."""

    def create(self, view: View, event: OrderCreated) -> None:
        """Write a new order."""
        self._enter(view)
        view.put(ORDERS, order_id=event.order_id, user_id=event.user_id, state=self.created, events=1)
        self.besides(view)

    def confirm(self, view: View, event: OrderConfirmed) -> None:
        """Change an order."""
        self._enter(view)
        order = view.get(ORDERS, event.order_id)
        if order is None:
            order = view.put(ORDERS, order_id=event.order_id, user_id="", state="", events=0)
        order["state"] = "CONFIRMED"
        order["events"] += 1

    def learn(self, view: View, event: ProductCreated) -> None:
        """Write that there is a product."""
        self._enter(view, note=event.title)

    def _enter(self, view: View, note: str | None = None) -> None:
        about = view.event.key
        if about == "held" and self.hold is not None and self.hold.exists():
            raise Unavailable("told to wait")
        self.tries.append(view.event.event_id)
        view.put(ENTRIES, event_id=view.event.event_id, about=about, type=view.event.type, note=note)

    def model(self, *rows: Rows) -> ReadModel:
        """Return the read model."""
        return ReadModel(
            "board",
            rows or (ORDERS, ENTRIES),
            [
                Projection(OrderCreated, self.create, loads=lambda event: [(ORDERS, event.order_id)]),
                Projection(OrderConfirmed, self.confirm, loads=lambda event: [(ORDERS, event.order_id)]),
                Projection(ProductCreated, self.learn),
            ],
        )


def find_orders(connection: Connection, build: Build) -> dict[str, tuple[str, str, int]]:
    """Return user, state and number of events of every order."""
    orders = build[ORDERS]
    return {row.order_id: (row.user_id, row.state, row.events) for row in connection.execute(select(orders))}


def count_entries(connection: Connection, build: Build, about: str) -> int:
    """Return how many things happened to something."""
    entries = build[ENTRIES]
    return len(connection.execute(select(entries.c.event_id).where(entries.c.about == about)).all())


def build_board(settings: Settings, board: Board | None = None) -> tuple[Service, ModelReader]:
    """Return the service, ready to start, and what asks its read model."""
    migrations = Path(__file__).parent / "migrations"
    service = Service("toy", "commerce.inventory", settings, migrations=migrations)
    return service, service.projects((board or Board(settings.folder)).model())


if __name__ == "__main__":
    run(lambda: [build_board(Settings())[0]])
