"""How far consumers have read their streams."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sqlalchemy import select

from weft import tables
from weft.pull import BrokerTrouble
from weftapi.v1 import operations_service_pb2 as api

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Connection

    from weft.consumer import Consumer
    from weft.writer import Reader


def positions(connection: Connection, names: Iterable[str]) -> dict[str, int]:
    """Return up to where consumers have read for certain, by name; nothing of those that never did."""
    progress = tables.progress.c
    found = connection.execute(select(progress.consumer, progress.position).where(progress.consumer.in_(list(names))))
    return {row.consumer: row.position for row in found}


async def progress_of(reader: Reader, consumers: Sequence[Consumer]) -> list[api.ConsumerProgress]:
    """Return how far each consumer has read, and what its stream holds for it, if the broker tells that promptly."""
    reached = await reader.run(positions, [one.name for one in consumers])
    last = await asyncio.gather(*map(_last_seq, consumers))
    return [
        api.ConsumerProgress(consumer=one.name, stream=one.stream, position=reached.get(one.name, 0), last_seq=last_seq)
        for one, last_seq in zip(consumers, last, strict=True)
    ]


async def _last_seq(consumer: Consumer) -> int | None:
    try:
        return await consumer.last_seq()
    except BrokerTrouble:
        return None
