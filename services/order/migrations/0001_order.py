"""Orders, and what order remembers of products."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "orders",
        sa.Column("order_id", sa.String, primary_key=True),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("cancel_reason", sa.String),
        sa.Column("lines", sa.String, nullable=False),
        sa.Column("currency", sa.String, nullable=False),
        sa.Column("total_nanos", sa.BigInteger, nullable=False),
        sa.Column("ship_to", sa.LargeBinary, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("update_time", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    # Lists are newest first, which is by order_id: each list reads an index backwards and sorts nothing.
    op.create_index("orders_by_user", "orders", ["user_id", "order_id"])
    op.create_index("orders_by_state", "orders", ["state", "order_id"])
    op.create_table(
        "product_copies",
        sa.Column("sku", sa.String, primary_key=True),
        sa.Column("currency", sa.String, nullable=False),
        sa.Column("price_nanos", sa.BigInteger, nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
