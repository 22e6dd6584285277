"""Shipments."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "shipments",
        sa.Column("order_id", sa.String, primary_key=True),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("lines", sa.String, nullable=False),
        sa.Column("ship_to", sa.LargeBinary),
        sa.Column("paid", sa.Boolean, nullable=False),
        sa.Column("reserved", sa.Boolean, nullable=False),
        sa.Column("confirmed", sa.Boolean, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("update_time", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
