"""`weft dlq list` and `show`: the letters of all services, which are dead or parked events."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToDict
from rich.markup import escape

from cli.display import clock_time, count, first_line, print_json, print_table
from cli.errors import Problem
from cli.fleet import GLANCE, ask, path_of, service_of, services_of, warn_of
from cli.parsing import parse_duration
from cli.remote import reach
from cli.rest import read
from weftapi.v1 import operations_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from google.protobuf.timestamp_pb2 import Timestamp

    from cli.remote import Gateway, Target


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters are meant: all that match everything that is set, as it was typed."""

    service: str = ""
    consumer: str = ""
    event_type: str = ""
    reason: str = ""
    order: str = ""
    older_than: str = ""
    parked: bool = False

    @property
    def is_set(self) -> bool:
        """Whether it lets only some letters through."""
        return self != Filter()

    def services(self) -> tuple[str, ...]:
        """Return the services to ask. Raises `Problem` for what cannot be."""
        if not self.consumer:
            return services_of(self.service)
        owner = service_of(self.consumer)
        if self.service not in ("", owner):
            raise Problem(f"--consumer {self.consumer} is {owner}'s, and not {self.service}'s")
        return (owner,)

    def message(self) -> pb.LetterFilter:
        """Return it as it is sent."""
        kind = pb.LETTER_KIND_PARKED if self.parked else pb.LETTER_KIND_DEAD
        sent = pb.LetterFilter(
            kind=kind,
            consumer=self.consumer,
            event_type=self.event_type,
            reason=self.reason.upper(),
            aggregate_id=self.order,
        )
        if self.older_than:
            sent.older_than.FromTimedelta(parse_duration("--older-than", self.older_than))
        return sent


async def list_all(target: Target, wanted: Filter, limit: int) -> int:
    """Print letters of all services, the oldest first; return 1 if a service is away."""
    async with reach(target) as gateway:
        answers = await ask(wanted.services(), lambda service: list_in(gateway, service, wanted, limit))
    letters = oldest_first(answers.found.values())[:limit]
    if target.json:
        print_json({"letters": list(map(MessageToDict, letters)), "away": dict(answers.away)})
    elif letters:
        print_letters(letters)
    elif not answers.away:
        print("no parked events" if wanted.parked else "no dead letters")
    warn_of(answers.away)
    return answers.exit_code


async def show(target: Target, letter_id: str) -> None:
    """Print one letter with its message."""
    async with reach(target) as gateway:
        answer = await gateway.get(path_of(service_of(letter_id), "/letters/{}", letter_id))
    if target.json:
        print_json(answer)
        return
    letter = read(answer, pb.Letter())
    dead = letter.kind == pb.LETTER_KIND_DEAD
    rows = [
        ("kind", f"dead: {letter.reason}" if dead else "parked"),
        ("error", letter.error),
        ("attempts", str(letter.attempts)),
        ("first", clock_time(letter.first_time)),
        ("died", clock_time(letter.death_time)) if dead else ("tried again", clock_time(letter.next_time)),
        ("event", f"{letter.event_type} {letter.event_id}"),
        ("about", letter.aggregate_id),
        ("stream", f"{letter.stream} {letter.stream_seq}"),
        *((name, letter.headers[name]) for name in sorted(letter.headers)),
    ]
    print_table(("letter", escape(letter.letter_id)), [(escape(name), escape(value)) for name, value in rows])
    print(f"\n{_body(letter)}")


async def list_in(gateway: Gateway, service: str, wanted: Filter, limit: int) -> list[pb.Letter]:
    """Return letters of one service, the oldest first."""
    fields = MessageToDict(wanted.message())
    query = {f"filter.{name}": str(value) for name, value in fields.items()}
    answer = await gateway.list(path_of(service, "/letters"), "letters", query, limit, patience=GLANCE)
    return list(read(answer, pb.ListLettersResponse()).letters)


def oldest_first(found: Iterable[Sequence[pb.Letter]]) -> list[pb.Letter]:
    """Return the letters of several services in one list."""
    return sorted((letter for letters in found for letter in letters), key=lambda one: _since(one).ToNanoseconds())


def _since(letter: pb.Letter) -> Timestamp:
    return letter.death_time if letter.kind == pb.LETTER_KIND_DEAD else letter.first_time


def print_letters(letters: Sequence[pb.Letter]) -> None:
    """Print letters as a table."""
    headings = ("letter", "event", "about", "why", "tries", "since", "error")
    print_table(headings, map(_as_row, letters))


def _as_row(letter: pb.Letter) -> tuple[str, ...]:
    dead = letter.kind == pb.LETTER_KIND_DEAD
    why = f"[red]{letter.reason}[/]" if dead else f"[yellow]parked[/], again {clock_time(letter.next_time)}"
    event, about = letter.event_type.rpartition(".")[2], letter.aggregate_id
    since = clock_time(_since(letter))
    return (
        *map(escape, (letter.letter_id, event, about)),
        why,
        str(letter.attempts),
        since,
        escape(first_line(letter.error)),
    )


def _body(letter: pb.Letter) -> str:
    if not letter.payload_json:
        return f"its body, {count(letter.body_size, 'byte')}, cannot be read as {letter.event_type}"
    return json.dumps(json.loads(letter.payload_json), indent=2, ensure_ascii=False)
