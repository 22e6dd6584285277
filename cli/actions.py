"""`weft audit`: what operators did, when and why, in all services."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToDict
from rich.markup import escape

from cli.display import clock_time, first_line, print_json, print_table
from cli.fleet import AWAY, GLANCE, ask, path_of, services_of, warn_of
from cli.remote import reach
from cli.rest import at, read, unless
from commerce.user.v1.user_service_pb2 import User
from weftapi.v1 import operations_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cli.remote import Gateway, Target

_SEARCHED = 10_000
_WORD = re.compile(r"[A-Za-z0-9_-]+")


async def list_all(target: Target, *, service: str, order: str, limit: int) -> int:
    """Print up to `limit` actions, the latest first; return 1 if a service is away.

    With `order` those that have to do with it: what was done to the order itself, and of the latest 10,000 actions of
    each service those that name it in what came of them.
    """
    async with reach(target) as gateway:
        answers = await ask(services_of(service), lambda name: _actions(gateway, name, order, limit))
        found = [(name, one) for name, actions in answers.found.items() for one in actions]
        found = sorted(found, key=lambda one: -one[1].time.ToNanoseconds())[:limit]
        people = {} if target.json else await _emails(gateway, {action.actor for _, action in found})
    if target.json:
        actions = [{"service": name, **MessageToDict(action)} for name, action in found]
        print_json({"actions": actions, "away": dict(answers.away)})
    elif found:
        headings = ("when", "service", "who", "did", "to", "why", "what came of it")
        print_table(headings, [_as_row(name, action, people) for name, action in found])
    elif not answers.away:
        print("nobody did anything")
    warn_of(answers.away)
    return answers.exit_code


async def _actions(gateway: Gateway, service: str, order: str, limit: int) -> list[pb.Action]:
    """Return actions of one service: the latest, or those that have to do with an order."""
    if not order:
        return await _fetch(gateway, service, {}, limit)
    to_itself = await _fetch(gateway, service, {"target": order}, limit)
    latest = await _fetch(gateway, service, {}, _SEARCHED)
    # What was done to an event of it names it in what came of that.
    return list({one.action_id: one for one in (*to_itself, *latest) if order in (one.target, *_words(one))}.values())


async def _fetch(gateway: Gateway, service: str, query: Mapping[str, str], limit: int) -> list[pb.Action]:
    answer = await gateway.list(path_of(service, "/actions"), "actions", query, limit, patience=GLANCE)
    return list(read(answer, pb.ListActionsResponse()).actions)


def _words(action: pb.Action) -> list[str]:
    return _WORD.findall(action.outcome)


async def _emails(gateway: Gateway, actors: Iterable[str]) -> dict[str, str]:
    """Return by what name those actors are known who have an account; while user is away nobody's."""
    people: dict[str, str] = {}

    async def look_up(actor: str) -> None:
        with unless("NOT_FOUND", "INVALID_ARGUMENT", *AWAY):
            people[actor] = read(await gateway.get(at("/v1/users/{}", actor), patience=GLANCE), User()).email

    await asyncio.gather(*(look_up(actor) for actor in actors if actor))
    return people


def _as_row(service: str, action: pb.Action, people: Mapping[str, str]) -> tuple[str, ...]:
    who, outcome = people.get(action.actor, action.actor), first_line(action.outcome)
    told = (clock_time(action.time), service, who, action.action, action.target, action.why, outcome)
    return tuple(map(escape, told))
