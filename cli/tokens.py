"""Whose token goes with a request, and where the next one comes from when it has expired."""

from __future__ import annotations

import base64
import json
import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from cli.errors import CallFailed, Problem
from cli.rest import read
from cli.sessions import Session, Sessions
from commerce.user.v1 import user_service_pb2 as users

if TYPE_CHECKING:
    from cli.data import DataDirectory
    from cli.remote import Place
    from cli.rest import Answer, Rest

# RFC 6750, section 2.1.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class Account(Protocol):
    """Somebody who makes requests."""

    @property
    def who(self) -> str:
        """Say who it is, for people."""

    @property
    def how(self) -> str:
        """Say why it is them, for people."""

    async def token(self, rest: Rest) -> str:
        """Return an access token that has not expired; empty for nobody."""

    async def renew(self, rest: Rest, rejected: str) -> str:
        """Return another token than the one that was just rejected. Raises `Problem` if there is none."""


class Nobody:
    """Makes requests that need no token."""

    who = "nobody"
    how = "no token is needed"

    async def token(self, rest: Rest) -> str:
        """Return none."""
        return ""

    async def renew(self, rest: Rest, rejected: str) -> str:
        """Raise `Problem`: there is no other."""
        raise Problem(f"{rest.url} asks for a token where none should be needed.")


class Bearer:
    """Has a token, and no means to get another."""

    def __init__(self, token: str, who: str, how: str) -> None:
        self._token, self.who, self.how = token, who, how

    async def token(self, rest: Rest) -> str:
        """Return it."""
        return self._token

    async def renew(self, rest: Rest, rejected: str) -> str:
        """Raise `Problem`: there is no other."""
        raise Problem(f"the token ({self.how}) is not, or no longer, accepted at {rest.url}.")


class SignedIn:
    """Somebody who signed in with `weft login`."""

    def __init__(self, sessions: Sessions, session: Session) -> None:
        self._sessions, self.who = sessions, session.email
        self.how = "weft login"

    async def token(self, rest: Rest) -> str:
        """Return the session's access token, refreshed if it has expired."""
        session = self._sessions.find(rest.url)
        return session.access_token if session and session.fresh else await self.renew(rest, "")

    async def renew(self, rest: Rest, rejected: str) -> str:
        """Refresh the session, unless another `weft` did meanwhile: its refresh token is good for one time."""
        async with self._sessions.locked():
            session = self._sessions.find(rest.url)
            if session is None:
                raise Problem(f"{self.who} was signed out of {rest.url} meanwhile.")
            if not session.fresh or session.access_token == rejected:
                session = await self._refresh(rest, session)
                self._sessions.keep(rest.url, session)
            return session.access_token

    async def _refresh(self, rest: Rest, session: Session) -> Session:
        body = {"refreshToken": session.refresh_token}
        try:
            return session_of(await rest.send("POST", "/v1/sessions:refresh", body=body), session.email)
        except CallFailed as failed:
            if failed.code != "UNAUTHENTICATED":
                raise
            raise Problem(
                f"the session of {session.email} at {rest.url} has ended: `weft login {session.email}` begins "
                "another, `weft logout` forgets it."
            ) from None


class LocalAdmin:
    """The admin whom `weft up` made for the system of a folder; whoever can read its file may be that."""

    def __init__(self, sessions: Sessions, data: DataDirectory) -> None:
        self._sessions, self._data = sessions, data
        self.who, self.how = "the admin of the local system", str(data.admin_file)

    async def token(self, rest: Rest) -> str:
        """Return the access token that the last command got, or sign in."""
        session = self._find(rest.url)
        return session.access_token if session else await self.renew(rest, "")

    async def renew(self, rest: Rest, rejected: str) -> str:
        """Sign in, unless another `weft` did meanwhile."""
        async with self._sessions.locked():
            session = self._find(rest.url)
            if session is None or session.access_token == rejected:
                signed_in = await sign_in(rest, *read_admin(self._data))
                session = replace(signed_in, admin_of=str(self._data.path))
                self._sessions.keep(rest.url, session)
            return session.access_token

    def _find(self, url: str) -> Session | None:
        session = self._sessions.find(url)
        return session if session and session.admin_of == str(self._data.path) and session.fresh else None


def choose_account(place: Place) -> Account:
    """Return who makes requests at `place`: whoever has WEFT_TOKEN, has signed in, or owns the folder.

    Raises `Problem` if nobody does.
    """
    if token := os.environ.get("WEFT_TOKEN", "").strip():
        if not _TOKEN.fullmatch(token):
            raise Problem("WEFT_TOKEN is no bearer token; `weft whoami --token` prints one.")
        return Bearer(token, "the user of WEFT_TOKEN", "WEFT_TOKEN")
    sessions = Sessions.of_this_user()
    session = sessions.find(place.url)
    if session and not session.admin_of:
        return SignedIn(sessions, session)
    if place.data and place.data.admin_file.exists():
        return LocalAdmin(sessions, place.data)
    raise Problem(
        f"nobody is signed in at {place.url}: `weft login EMAIL` signs in, and with --register opens an account; "
        "programs set WEFT_TOKEN."
    )


async def sign_in(rest: Rest, email: str, password: str) -> Session:
    """Begin a session. Raises `CallFailed` if the email or the password is wrong."""
    return session_of(await rest.send("POST", "/v1/sessions", body={"email": email, "password": password}), email)


def session_of(answer: Answer, email: str) -> Session:
    """Read a session from the gateway's answer."""
    session = read(answer, users.Session())
    return Session(email, session.access_token, session.expire_time.ToNanoseconds() / 1e9, session.refresh_token)


def claims_of(token: str) -> dict[str, Any]:
    """Return what a JSON Web Token states, unverified: good for asking, never for believing.

    Raises `Problem` if it is none.
    """
    try:
        _, payload, _ = token.split(".")
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except ValueError:
        claims = None
    if not isinstance(claims, dict) or not claims.get("sub"):
        raise Problem("the access token is no JSON Web Token of a user.")
    return claims


def read_admin(data: DataDirectory) -> tuple[str, str]:
    """Return email and password of the admin whom `weft up` made in `data`.

    Raises `Problem` if that is not to be read.
    """
    path = data.admin_file
    try:
        admin = json.loads(path.read_text())
        return str(admin["email"]), str(admin["password"])
    except OSError as error:
        raise Problem(f"cannot read {path}: {error.strerror}; `weft login EMAIL` signs in as somebody else.") from None
    except (ValueError, TypeError, KeyError):
        raise Problem(f"{path} names no admin; remove it, and `weft up` makes another.") from None
