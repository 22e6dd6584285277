"""Stock and reservations."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "stock",
        sa.Column("sku", sa.String, primary_key=True),
        sa.Column("on_hand", sa.BigInteger, nullable=False),
        sa.Column("reserved", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "reservations",
        sa.Column("order_id", sa.String, primary_key=True),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("lines", sa.String, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
