"""Server-sent events as a gateway sends them (the HTML standard, 9.2.6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `id` is what its stream goes on after when it was cut off, if the gateway says one."""

    id: str
    name: str
    data: str


async def read_events(lines: AsyncIterable[bytes]) -> AsyncGenerator[Event, None]:
    """Yield the events that a body has, line by line; what is no event, as a heartbeat is, is passed over."""
    given: dict[str, str] = {}
    async for line in lines:
        text = line.decode(errors="replace").rstrip("\r\n")
        if text:
            name, _, value = text.partition(":")
            value = value.removeprefix(" ")
            given[name] = f"{given[name]}\n{value}" if name == "data" and name in given else value
            continue
        if "data" in given:
            yield Event(given.get("id", ""), given.get("event", "message"), given["data"])
        given = {}
