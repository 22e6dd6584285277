"""Whose order a shipment is of; what was there before is for admins alone to see."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("shipments", sa.Column("user_id", sa.String, nullable=False, server_default=""))
