"""`weft chaos`: what can be typed."""

from pathlib import Path
from typing import Annotated

import typer

from cli.errors import Problem

_CUTS = 20


def chaos(
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", show_default="a temporary one", help="The folder of the system that is started."),
    ] = None,
    attach: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Break the system that runs in DIR instead; its connections cannot be cut."),
    ] = None,
    postgres: Annotated[bool, typer.Option("--postgres", help="Keep the data in PostgreSQL, not in SQLite.")] = False,
    scale: Annotated[
        list[str] | None,
        typer.Option(metavar="SERVICE=COUNT", help="Run so many instances, as in order=2; needs PostgreSQL."),
    ] = None,
    orders: Annotated[int, typer.Option(min=1, help="How many orders are to be accepted, about.")] = 2000,
    rate: Annotated[
        float, typer.Option(min=0.1, max=1000, help="How many are sent a second, beside those just before a fault.")
    ] = 10.0,
    kills: Annotated[int, typer.Option(min=0, help="How often a process is killed (SIGKILL).")] = 60,
    pauses: Annotated[int, typer.Option(min=0, help="How often one stands still for 1 to 15 s (SIGSTOP).")] = 20,
    cuts: Annotated[
        int | None,
        typer.Option(
            min=0,
            show_default="20; 0 with --attach",
            help="How often a connection between two is cut for 0.5 to 5 s.",
        ),
    ] = None,
    outages: Annotated[int, typer.Option(min=0, help="How often the payment provider has an outage.")] = 4,
    restarts: Annotated[int, typer.Option(min=0, help="How often the broker is restarted in order.")] = 2,
    longest_pause: Annotated[float, typer.Option(min=1, max=600, help="In seconds.")] = 15.0,
    seed: Annotated[int, typer.Option(help="The same seed makes the same plan of faults.")] = 1,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report there too.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the temporary folder although nothing is wrong.")] = False,
) -> None:
    """Break a system on purpose while customers order, then heal it, and audit it from the outside.

    Starts a system as `weft up` does, with a proxy in each connection between its processes, and kills, pauses, cuts
    off and restarts them by a plan that the seed makes. Then nothing may be lost, doubled or left open: no order,
    no payment against the provider's ledger, no piece of stock, no event.

    Exit code 0: nothing is. 1: something is, and it says which orders. 3: nothing is, but that proved nothing: a fault
    did not come about, a process was never killed, or too few faults hit a process while an order was open in it, too
    few orders were accepted, or too few had to be undone. 130: it was interrupted, and healed what it had broken.
    """
    from cli.chaos.plan import Counts
    from cli.chaos.run import Ordeal, undergo

    if attach is not None and (data is not None or postgres or scale):
        raise Problem("--attach takes the system as it runs: leave --data, --postgres and --scale out.")
    if attach is not None and cuts:
        raise Problem(
            "--cuts does not go with --attach: connections are cut in proxies, which only a system that is started here"
            " has between its processes. Leave one of the two out."
        )
    if cuts is None:
        cuts = 0 if attach is not None else _CUTS
    counts = Counts(kills, pauses, cuts, outages, restarts)
    ordeal = Ordeal(
        orders,
        rate,
        seed,
        counts,
        longest_pause=longest_pause,
        data=data,
        postgres=postgres,
        scale=tuple(scale or ()),
        attach=attach,
        json=json,
        keep=keep,
    )
    raise typer.Exit(undergo(ordeal))
