"""What an operator needs: where the streams were, what was done by hand, and read models."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_Serial = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_LAST_NUMBER = {
    "sqlite": "SELECT seq FROM sqlite_sequence WHERE name = 'outbox'",
    "postgresql": "SELECT last_value FROM outbox_seq_seq WHERE is_called",
}


def upgrade() -> None:
    op.add_column("progress", sa.Column("event_id", sa.Text, nullable=False, server_default=""))
    op.create_table(
        "published",
        sa.Column("context", sa.Text, primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
    )
    op.create_table(
        "read_models",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("building", sa.Integer, nullable=False),
        sa.Column("begun_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "actions",
        sa.Column("id", _Serial, primary_key=True, autoincrement=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("outbox_by_aggregate", "outbox", ["aggregate_id"])
    op.create_index("actions_by_target", "actions", ["target"])
    op.create_index("parked_by_age", "parked", ["first_at"])
    _note_removed()


def _note_removed() -> None:
    """Note what was removed from the outbox so far: what is before its first row, or all if it has none."""
    database = op.get_bind()
    first = database.scalar(sa.text("SELECT min(seq) FROM outbox"))
    removed = first - 1 if first else database.scalar(sa.text(_LAST_NUMBER[database.dialect.name]))
    if removed:
        statement = sa.text("INSERT INTO published (context, seq, event_id) VALUES ('', :seq, '')")
        database.execute(statement, {"seq": removed})
