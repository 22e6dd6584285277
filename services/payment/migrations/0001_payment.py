"""The journal of payments."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "payment_events",
        sa.Column("order_id", sa.String, primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True),
        sa.Column("type", sa.String, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
    )
    first = sa.text("version = 1")
    op.create_index(
        "payment_events_newest",
        "payment_events",
        ["time", "order_id"],
        sqlite_where=first,
        postgresql_where=first,
    )
