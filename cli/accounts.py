"""`weft login`, `logout` and `whoami`: who one is at a gateway."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer
from google.protobuf.json_format import MessageToDict
from rich.markup import escape

from cli.display import address_line, print_json, print_table, words
from cli.errors import CallFailed, Problem
from cli.parsing import parse_address
from cli.remote import Place, Target, reach
from cli.rest import Rest, at, read
from cli.sessions import Sessions
from cli.tokens import read_admin, sign_in
from commerce.user.v1.user_service_pb2 import RegisterUserRequest, User, UserRole

if TYPE_CHECKING:
    from cli.remote import Gateway
    from cli.rest import Answer


async def log_in(target: Target, *, email: str, password_stdin: bool) -> None:
    """Begin a session and keep it; without `email` as the admin of the local system."""
    place = target.find()
    if email:
        password = read_password(from_stdin=password_stdin)
    else:
        email, password = _local_admin(place)
    await _begin(place, email, password)


async def register(target: Target, *, email: str, name: str, address: str, password_stdin: bool) -> None:
    """Open an account, begin a session and keep it."""
    if not email:
        raise Problem("--register opens an account: say for which EMAIL")
    place = target.find()
    request = RegisterUserRequest(email=email, display_name=name)
    if address:
        request.address.CopyFrom(parse_address(address))
    request.password = read_password(from_stdin=password_stdin, new=True)
    async with Rest(place.url) as rest:
        await rest.send("POST", "/v1/users", body=MessageToDict(request))
    await _begin(place, email, request.password)


async def log_out(target: Target) -> None:
    """End the session that is kept for the gateway, and forget it."""
    place, sessions = target.find(), Sessions.of_this_user()
    async with sessions.locked(), Rest(place.url) as rest:
        session = sessions.find(place.url)
        if session is None:
            print(f"nobody is signed in at {place.url}")
            return
        sessions.forget(place.url)
        try:
            await rest.send("POST", "/v1/sessions:end", body={"refreshToken": session.refresh_token})
        except CallFailed as failed:
            print(f"weft: forgotten here, but it lasts there until it expires: {failed}", file=sys.stderr)
    print(f"signed out {session.email} at {place.url}")
    if place.data and place.data.admin_file.exists():
        print(f"from now on commands act as the admin in {place.data.admin_file}")


async def who_am_i(target: Target, *, token: bool) -> None:
    """Print the account that commands act as; with `token` its access token alone."""
    async with reach(target) as gateway:
        answer = await gateway.get(at("/v1/users/{}", await gateway.user_id()))
        if token:
            print(await gateway.token())
        elif target.json:
            print_json(answer)
        else:
            _print_user(gateway, answer)


def read_password(*, from_stdin: bool, new: bool = False) -> str:
    """Return a password from the first line of standard input, or ask for it without showing it.

    A `new` one is asked for twice. Raises `Problem` if there is nobody to ask.
    """
    if from_stdin:
        if line := sys.stdin.readline().rstrip("\r\n"):
            return line
        raise Problem("--password-stdin: standard input is empty")
    if not sys.stdin.isatty():
        raise Problem("there is no terminal to ask for the password on: give --password-stdin")
    password: str = typer.prompt("password", hide_input=True, confirmation_prompt=new, err=True)
    return password


def _local_admin(place: Place) -> tuple[str, str]:
    if place.data is None:
        raise Problem("say who signs in: `weft login EMAIL`")
    return read_admin(place.data)


async def _begin(place: Place, email: str, password: str) -> None:
    sessions = Sessions.of_this_user()
    async with Rest(place.url) as rest, sessions.locked():
        sessions.keep(place.url, await sign_in(rest, email, password))
    print(f"signed in as {email} at {place.url}")


def _print_user(gateway: Gateway, answer: Answer) -> None:
    user = read(answer, User())
    rows = [
        ("user", user.user_id),
        ("name", escape(user.display_name)),
        ("role", words(UserRole.Name(user.role), "USER_ROLE_")),
        ("address", address_line(user.address) or "none"),
        ("gateway", gateway.url),
        ("by", gateway.account.how),
    ]
    print_table(("email", escape(user.email)), rows)
