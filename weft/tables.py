"""The tables that the chassis keeps in every service's database, beside the service's own.

Times are microseconds since the epoch, UTC. Alembic scripts in `weft/migrations` create them.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, Table, Text

metadata = MetaData()

# A 64-bit key that counts by itself in both databases: SQLite does that for INTEGER alone.
_Serial = BigInteger().with_variant(Integer, "sqlite")

trail = ("traceparent", "tracestate", "correlation_id", "causation_id")
"""What an event or intent goes back to, as columns."""

outbox = Table(
    "outbox",
    metadata,
    Column("seq", _Serial, primary_key=True, autoincrement=True),
    Column("event_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("aggregate_id", Text, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    *(Column(name, Text, nullable=False) for name in trail),
    Column("published_at", BigInteger),
    sqlite_autoincrement=True,
)
Index("outbox_by_aggregate", outbox.c.aggregate_id)
Index(
    "outbox_unpublished",
    outbox.c.seq,
    sqlite_where=outbox.c.published_at.is_(None),
    postgresql_where=outbox.c.published_at.is_(None),
)

published = Table(
    "published",
    metadata,
    Column("context", Text, primary_key=True),
    # What the broker last acknowledged: the stream's number and the event's id. The empty context stands for what is
    # removed from the outbox: up to this number of its own.
    Column("seq", BigInteger, nullable=False),
    Column("event_id", Text, nullable=False),
)

inbox = Table(
    "inbox",
    metadata,
    Column("consumer", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
    sqlite_with_rowid=False,
)

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("beat", BigInteger, nullable=False),
)

progress = Table(
    "progress",
    metadata,
    Column("consumer", Text, primary_key=True),
    # The stream's sequence up to which everything is handled, parked or dead, and the id of the event there: if the
    # stream has another one there now, it lost its tail.
    Column("position", BigInteger, nullable=False),
    Column("event_id", Text, nullable=False),
    # When that stream was made: another one of the same name is read from its beginning.
    Column("stream_made", BigInteger, nullable=False),
    # Starts in a row that found deliveries which their receiver never committed.
    Column("interrupted", Integer, nullable=False),
    # The sequence that is being tried alone, and how often that was begun.
    Column("trying", BigInteger, nullable=False),
    Column("tries", Integer, nullable=False),
)

_letter = (
    ("event_id", Text),
    ("type", Text),
    ("subject", Text),
    ("stream", Text),
    ("seq", BigInteger),
    ("headers", Text),
    ("body", LargeBinary),
    ("error", Text),
    ("attempts", Integer),
    ("first_at", BigInteger),
)

parked = Table(
    "parked",
    metadata,
    Column("consumer", Text, primary_key=True),
    Column("key", Text, nullable=False),
    *(Column(name, kind, primary_key=name == "event_id", nullable=False) for name, kind in _letter),
    Column("next_at", BigInteger, nullable=False),
)
Index("parked_in_order", parked.c.consumer, parked.c.key, parked.c.seq)
Index("parked_by_key", parked.c.key)
Index("parked_by_age", parked.c.first_at)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("consumer", Text, nullable=False),
    *(Column(name, kind, nullable=False) for name, kind in _letter),
    Column("reason", Text, nullable=False),
    Column("died_at", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)
Index("dead_letters_once", dead_letters.c.consumer, dead_letters.c.event_id, unique=True)

intents = Table(
    "intents",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("payload", Text, nullable=False),
    # When to act; none while it waits for the event `starts_with` to be published.
    Column("due_at", BigInteger),
    Column("starts_with", Text),
    Column("delay", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("error", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    *(Column(name, Text, nullable=False) for name in trail),
)
Index(
    "intents_due",
    intents.c.due_at,
    sqlite_where=intents.c.due_at.is_not(None),
    postgresql_where=intents.c.due_at.is_not(None),
)
Index(
    "intents_waiting",
    intents.c.starts_with,
    sqlite_where=intents.c.starts_with.is_not(None),
    postgresql_where=intents.c.starts_with.is_not(None),
)

read_models = Table(
    "read_models",
    metadata,
    Column("name", Text, primary_key=True),
    # The build that serves, and the one in progress; 0 for none.
    Column("generation", Integer, nullable=False),
    Column("building", Integer, nullable=False),
    Column("begun_at", BigInteger, nullable=False),
)

actions = Table(
    "actions",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    *(Column(name, Text, nullable=False) for name in ("actor", "action", "target", "why", "outcome")),
    sqlite_autoincrement=True,
)
Index("actions_by_target", actions.c.target)

kept_answers = Table(
    "kept_answers",
    metadata,
    # Who called what, under which idempotency key; the SHA-256 of the request; and the answer's bytes.
    Column("user_id", Text, primary_key=True),
    Column("method", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("answer", LargeBinary, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)
Index("kept_answers_by_age", kept_answers.c.created_at)

secrets = Table(
    "secrets",
    metadata,
    # What all instances of the service share, and nobody else knows.
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
