"""`weft redeliver`, `weft outbox republish` and `weft rebuild`: fills gaps, and shows how far that has come."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from cli.display import clock_time, count, print_json, print_table
from cli.errors import REFUSED, Problem
from cli.fleet import WORK, ask, check_service, path_of, service_of, services_of, warn_of
from cli.parsing import parse_since
from cli.remote import pauses, reach
from cli.rest import read, unless
from weftapi.v1 import operations_service_pb2 as pb

if TYPE_CHECKING:
    from cli.remote import Gateway, Target
    from cli.rest import Answer

_SHOWN = 20


@dataclass(slots=True)
class Search:
    """What a search for gaps found, part by part."""

    scanned: int = 0
    missing: list[pb.FoundEvent] = field(default_factory=list)

    def as_json(self) -> Answer:
        """Return it for programs."""
        return {"scanned": self.scanned, "missing": list(map(MessageToDict, self.missing))}


async def redeliver(target: Target, consumer: str, *, since: str, order: str, dry_run: bool, why: str) -> None:
    """Have a consumer handle what it should have and has not, and print what that was."""
    path = path_of(service_of(consumer), "/consumers/{}:redeliver", consumer)
    body = {**_from(since), "aggregateId": order, "dryRun": dry_run, "why": why}
    async with reach(target) as gateway:
        with _progress() as progress:
            found = await _search(gateway, path, body, progress, consumer)
    if target.json:
        print_json({**found.as_json(), "dryRun": dry_run})
        return
    _print_missing(found.missing)
    done = f"{_are(found, 'missing')}: " + ("nothing was done" if dry_run else f"{consumer} handles them now")
    print(f"looked at {count(found.scanned, 'message')} for {consumer}; " + (done if found.missing else "no gap"))


async def republish(target: Target, *, service: str, since: str, dry_run: bool, why: str) -> int:
    """Publish again what streams lack and outboxes have, and print it; return 1 if a service is away."""
    body = {**_from(since), "dryRun": dry_run, "why": why}
    if body.get("fromSeq") and not service:
        raise Problem("a number is one outbox's own: add --service, or give a time")
    async with reach(target) as gateway:
        with _progress() as progress:

            async def search(name: str) -> Search:
                return await _search(gateway, path_of(name, "/outbox:republish"), body, progress, name)

            answers = await ask(services_of(service), search)
    if target.json:
        found = {name: one.as_json() for name, one in answers.found.items()}
        print_json({"services": found, "away": dict(answers.away), "dryRun": dry_run})
    else:
        for name, one in answers.found.items():
            _print_missing(one.missing)
            done = f"{_are(one, 'missing')} in the stream: " + ("nothing was done" if dry_run else "published again")
            print(f"{name}: looked at {count(one.scanned, 'event')}; " + (done if one.missing else "none is missing"))
    warn_of(answers.away)
    return answers.exit_code


async def rebuild(target: Target, service: str, read_model: str, *, why: str, wait: bool) -> None:
    """Build a read model anew, and unless told otherwise follow that to its end."""
    path = path_of(check_service(service), "/readModels/{}:rebuild", read_model)
    async with reach(target) as gateway:
        model = read(await gateway.post(path, {"why": why}, patience=WORK), pb.ReadModel())
        if wait:
            with _progress() as progress:
                model = await _follow(gateway, service, model, progress)
    if target.json:
        print_json(MessageToDict(model))
    elif model.building:
        print(f"{read_model} is being built: build {model.building}; build {model.generation} serves meanwhile")
    else:
        print(f"{read_model} is built: build {model.generation} serves")


def _from(since: str) -> dict[str, Any]:
    """Return the fields that say where to begin."""
    if not since:
        return {}
    start = parse_since(since)
    if not isinstance(start, datetime):
        return {"fromSeq": str(start)}
    time = Timestamp()
    time.FromDatetime(start)
    return {"fromTime": time.ToJsonString()}


async def _search(gateway: Gateway, path: str, body: dict[str, Any], progress: Progress, what: str) -> Search:
    """Look through all parts, the last one's end included."""
    found, bar = Search(), progress.add_task(what, total=None)
    while True:
        part = read(await gateway.post(path, body, patience=WORK), pb.RedeliverResponse())
        found.scanned += part.scanned
        found.missing += part.missing
        left = part.last_seq - part.next_seq + 1 if part.next_seq else 0
        progress.update(bar, completed=found.scanned, total=found.scanned + left)
        if not part.next_seq:
            return found
        # From now on by number: the time was for the first part.
        body = {**{name: value for name, value in body.items() if name != "fromTime"}, "fromSeq": str(part.next_seq)}


async def _follow(gateway: Gateway, service: str, model: pb.ReadModel, progress: Progress) -> pb.ReadModel:
    """Return a read model once no build of it is in progress."""
    bar = progress.add_task(model.read_model, total=None)
    for pause in pauses():
        _show(progress, bar, model)
        if not model.building:
            break
        await asyncio.sleep(pause)
        with unless("UNAVAILABLE"):
            answer = read(await gateway.get(path_of(service, "/readModels")), pb.ListReadModelsResponse())
            model = _named(model.read_model, answer)
    return model


def _named(name: str, answer: pb.ListReadModelsResponse) -> pb.ReadModel:
    for model in answer.read_models:
        if model.read_model == name:
            return model
    raise Problem(f"the service does not have the read model {name} any more", REFUSED)


def _show(progress: Progress, bar: TaskID, model: pb.ReadModel) -> None:
    done = sum(one.position for one in model.progress)
    total = sum(max(one.position, one.last_seq) for one in model.progress)
    progress.update(bar, completed=done, total=total or None)


def _progress() -> Progress:
    """Return bars on the standard error stream, while it is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _are(found: Search, what: str) -> str:
    """Return how many there are, and of which types, as in `2 are missing (1 OrderCreated, 1 OrderCancelled)`."""
    kinds = Counter(event.event_type.rpartition(".")[2] for event in found.missing)
    listed = ", ".join(f"{number:,} {kind}" for kind, number in sorted(kinds.items()))
    number = len(found.missing)
    return f"{number:,} {'is' if number == 1 else 'are'} {what} ({listed})"


def _print_missing(missing: list[pb.FoundEvent]) -> None:
    if missing:
        print_table(("number", "event", "about", "time", "id"), map(_as_row, missing[:_SHOWN]))
    if len(missing) > _SHOWN:
        print(f"and {count(len(missing) - _SHOWN, 'event')} more")


def _as_row(event: pb.FoundEvent) -> tuple[str, ...]:
    name, time = event.event_type.rpartition(".")[2], clock_time(event.time)
    return tuple(map(escape, (str(event.seq), name, event.aggregate_id, time, event.event_id)))
