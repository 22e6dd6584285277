"""The `weft` command: what can be typed, and what it means. The work is imported when it is to be done."""

import os
import sys
from enum import StrEnum
from typing import Annotated

import typer

from cli.chaos.command import chaos
from cli.data import DEFAULT_DATA
from cli.errors import Problem
from cli.operations import audit, letters, outbox, rebuild, redeliver
from cli.options import Data, Gateway
from cli.people import admins, login, logout, whoami
from cli.shop import orders, products, shipments, stock

app = typer.Typer(
    name="weft",
    help="Weft: a commerce backend of event-driven services. `weft up` starts all of it on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(orders, name="order")
app.add_typer(products, name="product")
app.add_typer(stock, name="stock")
app.add_typer(shipments, name="shipment")
app.add_typer(admins, name="admin")
app.add_typer(letters, name="dlq")
app.add_typer(outbox, name="outbox")


class LogLevel(StrEnum):
    """The least level that the services log."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How the services' log files are written."""

    JSON = "json"
    TEXT = "text"


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"weft {version('weft')}")
        raise typer.Exit


@app.callback()
def weft(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take what all commands share."""


@app.command()
def up(
    data: Data = DEFAULT_DATA,
    one_process: Annotated[
        bool, typer.Option("--one-process", help="Host all services in one process instead of one each.")
    ] = False,
    demo: Annotated[
        bool, typer.Option("--demo", help="Once ready, place three sample orders and follow them.")
    ] = False,
    gateway_port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, show_default="8080, or a free one if that is taken", help="Where REST is; 0 is any free."
        ),
    ] = None,
    postgres: Annotated[
        bool, typer.Option("--postgres", help="Keep the data in PostgreSQL, which comes along, instead of SQLite.")
    ] = False,
    scale: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SERVICE=COUNT", help="Run so many instances of a service, as in order=2; needs PostgreSQL."
        ),
    ] = None,
    log_level: Annotated[LogLevel, typer.Option(help="The least level that the services log.")] = LogLevel.INFO,
    log_format: Annotated[LogFormat, typer.Option(help="How DIR/logs/*.log are written.")] = LogFormat.JSON,
) -> None:
    """Start everything on this machine and serve until Ctrl-C or SIGTERM.

    Runs a NATS server, a stand-in for the payment provider, the services, and a gateway with REST; restarts
    what dies, and keeps all data under DIR: a second `weft up` on the same DIR goes on where the first stopped.
    The first one decides between SQLite and PostgreSQL. DIR/run.json says what runs and where, DIR/admin.json
    who may change the catalogue; DIR/logs has a log for each process.
    """
    from cli.plan import Wishes
    from cli.up import up as serve

    wishes = Wishes(
        data,
        one_process=one_process,
        demo=demo,
        gateway_port=gateway_port,
        postgres=postgres,
        scale=tuple(scale or ()),
        log_level=log_level.value,
        log_format=log_format.value,
    )
    raise typer.Exit(serve(wishes))


@app.command()
def down(
    data: Data = DEFAULT_DATA,
    timeout: Annotated[float, typer.Option(min=0, help="How many seconds to wait for the end.")] = 60.0,
) -> None:
    """Stop what `weft up` started in DIR, and wait until all of it is gone."""
    from cli.up import down as stop

    print(stop(data, timeout))


@app.command()
def demo(data: Data = DEFAULT_DATA, gateway: Gateway = None) -> None:
    """Place three sample orders in the running system: one that succeeds, one declined, one out of stock.

    Opens an account for a sample customer, and adds sample products and stock: as the admin of the system of DIR;
    at another --gateway you have to be an admin.
    """
    from cli.demo import run_demo
    from cli.remote import Target

    raise typer.Exit(run_demo(Target(data, gateway)))


app.command()(login)
app.command()(logout)
app.command()(whoami)
app.command()(redeliver)
app.command()(rebuild)
app.command()(audit)
app.command()(chaos)


def main() -> None:
    """Run what the command line asks for, and exit. A `Problem` is told in its own words."""
    try:
        app()
    except Problem as problem:
        print(f"weft: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
    except BrokenPipeError:
        # The reader had enough, as `weft order list | head` has; Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
