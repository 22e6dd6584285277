"""`weft order explain`: what an order waits for, since when, and where each of its events is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from cli.display import clock_time, first_line, make_console, print_json, print_table
from cli.errors import REFUSED
from cli.facts import gather
from cli.fleet import warn_of
from cli.letters import print_letters
from cli.remote import reach
from cli.system import SERVICES
from cli.verdict import advice, verdict
from weftapi.v1 import operations_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Container

    from cli.facts import Event, Facts
    from cli.remote import Target

_PLACES = {
    pb.EVENT_PLACE_HANDLED: "[green]handled[/]",
    pb.EVENT_PLACE_PARKED: "[yellow]parked[/]",
    pb.EVENT_PLACE_DEAD: "[red]dead[/]",
    pb.EVENT_PLACE_WAITING: "[yellow]waiting[/]",
    pb.EVENT_PLACE_DROPPED: "[red]dropped[/]",
}


async def explain(target: Target, order_id: str) -> int:
    """Print what is known of an order; return 1 if a service is away, so that not everything is."""
    async with reach(target) as gateway:
        facts = await gather(gateway, order_id)
    if target.json:
        print_json({"verdict": verdict(facts), "advice": advice(facts), **facts.as_json()})
    else:
        _print(facts)
    warn_of(facts.away)
    return REFUSED if facts.away else 0


def _print(facts: Facts) -> None:
    console = make_console()
    console.print(verdict(facts), style="bold", markup=False, soft_wrap=True)
    if facts.events:
        print()
        heard = {name for event in facts.events for name in event.at_services()}
        listening = [name for name in SERVICES if name in heard or name in facts.away]
        rows = [_as_row(event, listening, facts.away) for event in facts.events]
        print_table(("time", "event", "of", "published", *(f"at {name}" for name in listening)), rows)
    if facts.intents:
        print()
        headings = ("promised", "what", "by", "due", "tries", "error")
        print_table(headings, [_intent_row(service, intent) for service, intent in facts.intents])
    if letters := list(facts.letters()):
        print()
        print_letters(letters)
    if commands := advice(facts):
        console.print("\nwhat can be done:", *(f"  {command}" for command in commands), sep="\n", markup=False)


def _as_row(event: Event, services: list[str], away: Container[str]) -> tuple[str, ...]:
    published = clock_time(event.recorded.publish_time) or "[red]not yet[/]"
    here = event.at_services()
    places = ("[dim]unknown[/]" if service in away else _place(here.get(service)) for service in services)
    return clock_time(event.recorded.event.time), escape(event.name), event.service, published, *places


def _place(status: pb.EventStatus | None) -> str:
    return "" if status is None else _PLACES.get(status.place, "?")


def _intent_row(service: str, intent: pb.OpenIntent) -> tuple[str, ...]:
    due = clock_time(intent.due_time) or "once published"
    texts = (clock_time(intent.create_time), intent.kind, service, due, str(intent.attempts), first_line(intent.error))
    return tuple(map(escape, texts))
