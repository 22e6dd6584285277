"""What can be typed after `weft` about accounts: `login`, `logout`, `whoami` and `admin`."""

import asyncio
from typing import Annotated

import typer

from cli.data import DEFAULT_DATA
from cli.options import Address, Data, Gateway, Json, PasswordStdin

admins = typer.Typer(help="Admins, made directly in user's database.", no_args_is_help=True)


def login(
    email: Annotated[str, typer.Argument(metavar="[EMAIL]", help="Who; the admin of the local system if absent.")] = "",
    password_stdin: PasswordStdin = False,
    register: Annotated[bool, typer.Option("--register", help="Open the account first.")] = False,
    name: Annotated[str, typer.Option(help="With --register: what to call you.")] = "",
    address: Address = "",
    data: Data = DEFAULT_DATA,
    gateway: Gateway = None,
) -> None:
    """Sign in; what you do then is done as you, until `weft logout`.

    The session is kept for this gateway in `$XDG_STATE_HOME/weft` (`~/.local/state/weft`), readable by you alone,
    and goes on by itself. WEFT_TOKEN, an access token, goes before it. Who is not signed in to the system of
    DIR acts as the admin in DIR/admin.json. With --register, --name and --address are those of the new account.
    """
    from cli import accounts as work
    from cli.errors import Problem
    from cli.remote import Target

    target = Target(data, gateway)
    if register:
        opened = work.register(target, email=email, name=name, address=address, password_stdin=password_stdin)
        asyncio.run(opened)
    elif name or address:
        raise Problem("--name and --address are for a new account: add --register")
    else:
        asyncio.run(work.log_in(target, email=email, password_stdin=password_stdin))


def logout(data: Data = DEFAULT_DATA, gateway: Gateway = None) -> None:
    """End your session at this gateway."""
    from cli import accounts as work
    from cli.remote import Target

    asyncio.run(work.log_out(Target(data, gateway)))


def whoami(
    token: Annotated[bool, typer.Option("--token", help="Print the access token alone, for curl and grpcurl.")] = False,
    data: Data = DEFAULT_DATA,
    gateway: Gateway = None,
    json: Json = False,
) -> None:
    """Show the account that commands act as."""
    from cli import accounts as work
    from cli.remote import Target

    asyncio.run(work.who_am_i(Target(data, gateway, json), token=token))


@admins.command("create")
def create_admin(
    email: Annotated[str, typer.Option(help="The email to sign in with.")],
    password_stdin: PasswordStdin = False,
    promote: Annotated[
        bool, typer.Option("--promote", help="Make an admin of the account that has this email; its password stays.")
    ] = False,
    database_url: Annotated[
        str,
        typer.Option(metavar="URL", envvar="WEFT_DATABASE_URL", help="User's database; else that of DIR."),
    ] = "",
    data: Data = DEFAULT_DATA,
) -> None:
    """Make an admin, without a running system."""
    from cli import admin as work

    made = work.create(
        email=email, password_stdin=password_stdin, promote=promote, database_url=database_url, data=data
    )
    asyncio.run(made)
