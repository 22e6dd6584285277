"""What can be typed by operators: `weft dlq`, `redeliver`, `outbox`, `rebuild` and `audit`."""

import asyncio
from typing import Annotated

import typer

from cli.data import DEFAULT_DATA
from cli.options import Data, Gateway, Json, Service, Why

letters = typer.Typer(
    help="Dead letters, which wait for a person, and parked events, which are tried again by themselves (admins).",
    no_args_is_help=True,
)
outbox = typer.Typer(help="What services recorded, and streams should have (admins).", no_args_is_help=True)

Consumer = Annotated[str, typer.Option(metavar="CONSUMER", help="Only of this consumer: payment-from-order.")]
EventType = Annotated[str, typer.Option("--type", metavar="TYPE", help="Only this event: OrderCreated.")]
Reason = Annotated[
    str, typer.Option(help="Only for this reason: undecodable, unknown_type, refused, exhausted or crashed.")
]
Order = Annotated[str, typer.Option(metavar="ID", help="Only about this order, or other aggregate.")]
OlderThan = Annotated[str, typer.Option(metavar="TIME", help="Only what is older than this: 60s, 10m, 2h or 3d.")]
Parked = Annotated[bool, typer.Option("--parked", help="Parked events instead of dead letters.")]
LetterIds = Annotated[list[str] | None, typer.Argument(metavar="[LETTER]...", help="Letters: payment-from-order.7.")]
All = Annotated[bool, typer.Option("--all", help="All of them.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Since = Annotated[
    str, typer.Option(metavar="TIME|NUMBER", help="From when: 10m (ago), 14:30, 2030-01-31T14:30, or a number in it.")
]


@letters.command("list")
def list_letters(
    service: Service = "",
    consumer: Consumer = "",
    event_type: EventType = "",
    reason: Reason = "",
    order: Order = "",
    older_than: OlderThan = "",
    parked: Parked = False,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 100,
    data: Data = DEFAULT_DATA,
    gateway: Gateway = None,
    json: Json = False,
) -> None:
    """List dead letters of all services, the oldest first; exit code 1 if a service is away."""
    from cli import letters as work
    from cli.remote import Target

    wanted = work.Filter(service, consumer, event_type, reason, order, older_than, parked)
    raise typer.Exit(asyncio.run(work.list_all(Target(data, gateway, json), wanted, limit)))


@letters.command("show")
def show_letter(
    letter: Annotated[str, typer.Argument(metavar="LETTER", help="The letter's id: payment-from-order.7.")],
    data: Data = DEFAULT_DATA,
    gateway: Gateway = None,
    json: Json = False,
) -> None:
    """Show a dead letter or a parked event, with its message as it came, but for what is not to be shown."""
    from cli import letters as work
    from cli.remote import Target

    asyncio.run(work.show(Target(data, gateway, json), letter))


@letters.command("retry")
def retry_letters(
    letter: LetterIds = None,
    service: Service = "",
    consumer: Consumer = "",
    event_type: EventType = "",
    reason: Reason = "",
    order: Order = "",
    older_than: OlderThan = "",
    parked: Parked = False,
    everything: All = False,
    dry_run: DryRun = False,
    why: Why = "",
    yes: Yes = False,
    data: Data = DEFAULT_DATA,
    gateway: Gateway = None,
    json: Json = False,
) -> None:
    """Have letters handled again: those named, all that match the options, or --all.

    An event keeps its id, so that what it did once is not done twice. What fails again for good is a dead letter again.
    Unless letters are named, it asks first.
    """
    from cli import letter_changes as work
    from cli.letters import Filter
    from cli.remote import Target

    wanted = Filter(service, consumer, event_type, reason, order, older_than, parked)
    choice = work.Choice(letter or [], wanted, everything)
    raise typer.Exit(asyncio.run(work.retry(Target(data, gateway, json), choice, dry_run=dry_run, why=why, yes=yes)))


@letters.command("drop")
def drop_letters(
    why: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is written down.")],
    letter: LetterIds = None,
    service: Service = "",
    consumer: Consumer = "",
    event_type: EventType = "",
    reason: Reason = "",
    order: Order = "",
    older_than: OlderThan = "",
    everything: All = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    data: Data = DEFAULT_DATA,
    gateway: Gateway = None,
    json: Json = False,
) -> None:
    """Forget dead letters: their events will never be handled there. It asks first.

    What their events would have done is for you to do by other means, or not at all.
    """
    from cli import letter_changes as work
    from cli.letters import Filter
    from cli.remote import Target

    wanted = Filter(service, consumer, event_type, reason, order, older_than)
    choice = work.Choice(letter or [], wanted, everything)
    raise typer.Exit(asyncio.run(work.drop(Target(data, gateway, json), choice, dry_run=dry_run, why=why, yes=yes)))


@outbox.command("republish")
def republish(
    service: Service = "",
    since: Since = "",
    dry_run: DryRun = False,
    why: Why = "",
    data: Data = DEFAULT_DATA,
    gateway: Gateway = None,
    json: Json = False,
) -> None:
    """Publish again what outboxes have as published and streams do not have, as after a loss of the broker's data.

    Services do so by themselves when they find that the end of their stream is gone; this looks at all of it.
    """
    from cli import repairs as work
    from cli.remote import Target

    done = work.republish(Target(data, gateway, json), service=service, since=since, dry_run=dry_run, why=why)
    raise typer.Exit(asyncio.run(done))


def redeliver(
    consumer: Annotated[str, typer.Argument(metavar="CONSUMER", help="Who is to read again: payment-from-order.")],
    since: Since = "",
    order: Order = "",
    dry_run: DryRun = False,
    why: Why = "",
    data: Data = DEFAULT_DATA,
    gateway: Gateway = None,
    json: Json = False,
) -> None:
    """Fill gaps: look through a stream for events that a consumer should have handled and has not (admins).

    What it has handled it does not handle again, however often this is run.
    """
    from cli import repairs as work
    from cli.remote import Target

    target = Target(data, gateway, json)
    asyncio.run(work.redeliver(target, consumer, since=since, order=order, dry_run=dry_run, why=why))


def rebuild(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="The service.")],
    read_model: Annotated[str, typer.Argument(metavar="READ_MODEL", help="Its read model.")],
    why: Why = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Whether to follow it to its end.")] = True,
    data: Data = DEFAULT_DATA,
    gateway: Gateway = None,
    json: Json = False,
) -> None:
    """Build a read model anew from the streams, beside the one that serves, and exchange them (admins).

    Ctrl-C leaves it to the service, which goes on; the same command follows it again.
    """
    from cli import repairs as work
    from cli.remote import Target

    asyncio.run(work.rebuild(Target(data, gateway, json), service, read_model, why=why, wait=wait))


def audit(
    service: Service = "",
    order: Order = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 50,
    data: Data = DEFAULT_DATA,
    gateway: Gateway = None,
    json: Json = False,
) -> None:
    """Show what operators did, when and why, the latest first (admins); exit code 1 if a service is away.

    --order finds what was done to the order itself, however long ago, and what was done to its events, of the latest
    10,000 actions of each service.
    """
    from cli import actions as work
    from cli.remote import Target

    target = Target(data, gateway, json)
    raise typer.Exit(asyncio.run(work.list_all(target, service=service, order=order, limit=limit)))
