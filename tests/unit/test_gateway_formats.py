"""Which format of a stream a client gets, and which contracts' positions can be served."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, NamedTuple

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.events import Event, read_events
from gateway.contract.descriptors import Contract
from gateway.streaming.formats import ServerSentEvents, choose
from gateway.streaming.positions import position_of
from tests.gateway_probe import compiled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

EVENTS, LINES, NEITHER = b"text/event-stream", b"application/x-ndjson", b""


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", LINES),
        ("*/*", LINES),
        ("application/json", LINES),
        ("application/*", LINES),
        ("application/x-ndjson", LINES),
        ("text/event-stream", EVENTS),
        ("TEXT/Event-Stream", EVENTS),
        ("text/*", EVENTS),
        ("text/event-stream, */*", EVENTS),
        ("text/event-stream;q=0.5, */*", LINES),
        ("text/event-stream;q=0.5, application/json;q=0.4", EVENTS),
        ("application/json, text/event-stream", LINES),
        ("application/json;q=0, */*;q=0.1", LINES),
        ("application/json;q=0, application/x-ndjson;q=0, */*", EVENTS),
        ("text/event-stream;charset=utf-8;q=1.0", EVENTS),
        ("text/event-stream;q=nonsense", EVENTS),
        ("text/html", NEITHER),
        ("*/*;q=0", NEITHER),
        ("text/event-stream;q=0", NEITHER),
    ],
)
def test_the_format_is_what_accept_likes_best(accept: str, expected: bytes) -> None:
    assert choose(accept.encode()) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("string a = 1;", ""),
        ("string a = 1; string b = 2 [(weftapi.v1.stream_position) = true];", "b"),
        ("int64 a = 1 [(weftapi.v1.stream_position) = true];", None),
        ("repeated string a = 1 [(weftapi.v1.stream_position) = true];", None),
        (
            "string a = 1 [(weftapi.v1.stream_position) = true]; string b = 2 [(weftapi.v1.stream_position) = true];",
            None,
        ),
    ],
)
def test_a_position_is_one_field_of_text(fields: str, expected: str | None) -> None:
    files = compiled(
        'syntax = "proto3"; package p.v1; import "weftapi/v1/annotations.proto";message Tick {' + fields + "}"
    )
    found = Contract(files).pool.FindMessageTypeByName("p.v1.Tick")
    if expected is None:
        with pytest.raises(ValueError, match="one field of text"):
            position_of(found)
    else:
        assert position_of(found) == expected


class Tick(NamedTuple):
    """Stands for a message."""

    text: str
    place: str


async def _lines(body: bytes) -> AsyncIterator[bytes]:
    for line in body.splitlines(keepends=True):
        yield line


@given(st.lists(st.builds(Tick, st.text(), st.text())))
def test_what_is_written_as_events_is_read_as_them(ticks: list[Tick]) -> None:
    written = ServerSentEvents(lambda tick: orjson.dumps(tick.text), "place")  # type: ignore[attr-defined]
    parts = [written.write(tick) + written.heartbeat for tick in ticks]  # type: ignore[arg-type]
    body = written.opening + b"".join(parts) + written.write_error(b"{}")

    async def read() -> list[Event]:
        return [event async for event in read_events(_lines(body))]

    *found, last = asyncio.run(read())
    assert [json.loads(event.data) for event in found] == [tick.text for tick in ticks]
    places = [tick.place if not set("\r\n\0") & set(tick.place) else "" for tick in ticks]
    assert [event.id for event in found] == places
    assert (last.name, last.data) == ("error", "{}")


async def test_an_event_may_have_several_lines_and_comments_are_none() -> None:
    body = b":\n\nevent: a\ndata: 1\ndata:2\nid:3\n\nretry: 5\n\ndata: lost"
    assert [event async for event in read_events(_lines(body))] == [Event("3", "a", "1\n2")]
