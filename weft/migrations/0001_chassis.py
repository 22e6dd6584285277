"""The chassis' tables."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_Serial = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _letter() -> list[sa.Column[Any]]:
    return [
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("stream", sa.Text, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("headers", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("first_at", sa.BigInteger, nullable=False),
    ]


def _trail() -> list[sa.Column[Any]]:
    names = ("traceparent", "tracestate", "correlation_id", "causation_id")
    return [sa.Column(name, sa.Text, nullable=False) for name in names]


def upgrade() -> None:
    op.create_table(
        "outbox",
        sa.Column("seq", _Serial, primary_key=True, autoincrement=True),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("aggregate_id", sa.Text, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        *_trail(),
        sa.Column("published_at", sa.BigInteger),
        sqlite_autoincrement=True,
    )
    unpublished = sa.text("published_at IS NULL")
    op.create_index("outbox_unpublished", "outbox", ["seq"], sqlite_where=unpublished, postgresql_where=unpublished)
    op.create_table(
        "inbox",
        sa.Column("consumer", sa.Text, primary_key=True),
        sa.Column("event_id", sa.Text, primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("beat", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "progress",
        sa.Column("consumer", sa.Text, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("stream_made", sa.BigInteger, nullable=False),
        sa.Column("interrupted", sa.Integer, nullable=False),
        sa.Column("trying", sa.BigInteger, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
    )
    op.create_table(
        "parked",
        sa.Column("consumer", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, primary_key=True),
        *_letter(),
        sa.Column("next_at", sa.BigInteger, nullable=False),
    )
    op.create_index("parked_in_order", "parked", ["consumer", "key", "seq"])
    op.create_index("parked_by_key", "parked", ["key"])
    op.create_table(
        "dead_letters",
        sa.Column("id", _Serial, primary_key=True, autoincrement=True),
        sa.Column("consumer", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        *_letter(),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("died_at", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("dead_letters_once", "dead_letters", ["consumer", "event_id"], unique=True)
    op.create_table(
        "intents",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("due_at", sa.BigInteger),
        sa.Column("starts_with", sa.Text),
        sa.Column("delay", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        *_trail(),
    )
    due = sa.text("due_at IS NOT NULL")
    op.create_index("intents_due", "intents", ["due_at"], sqlite_where=due, postgresql_where=due)
    waiting = sa.text("starts_with IS NOT NULL")
    op.create_index("intents_waiting", "intents", ["starts_with"], sqlite_where=waiting, postgresql_where=waiting)
