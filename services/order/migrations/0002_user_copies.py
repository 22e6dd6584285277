"""What order remembers of users."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "user_copies",
        sa.Column("user_id", sa.String, primary_key=True),
        sa.Column("address", sa.LargeBinary),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
