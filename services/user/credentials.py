"""Proving who one is with a password: counted, bounded, and without telling which part was wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.user import commands
from services.user.domain import MAX_EMAIL, MAX_PASSWORD, normalise_email
from weft.domain import InvalidInput, Unauthenticated, Violation

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from services.user.commands import Begun
    from services.user.passwords import Passwords
    from weft import Writer


class Credentials:
    """Checks passwords, and begins and changes what a right one opens.

    An attempt is committed as failed before its password is looked at, so that guesses made at the same time
    all count; a right one takes that back.
    """

    def __init__(
        self, writer: Writer, passwords: Passwords, *, session_lifetime: timedelta, token_lifetime: timedelta
    ) -> None:
        self._writer = writer
        self._passwords = passwords
        self._session_lifetime = session_lifetime
        self._token_lifetime = token_lifetime

    async def sign_in(self, email: str, password: str) -> Begun:
        """Begin a session. Raises `InvalidInput`, `Unauthenticated` and `Exhausted`.

        A wrong password and an unknown email raise the same, after the same work.
        """
        _check_sizes({"email": (email, MAX_EMAIL), "password": (password, MAX_PASSWORD)})
        if "\0" in email:  # PostgreSQL could not even look for it
            raise InvalidInput(Violation("email", "must not contain the character NUL"))
        with self._passwords.place():
            account = await self._writer.run(commands.begin_attempt, _as_stored(email))
            known = account.password_hash if account is not None else None
            if not await self._passwords.matches(password, known) or account is None:
                raise commands.wrong_credentials()
            outdated = self._passwords.is_outdated(account.password_hash)
            return await self._writer.run(
                commands.begin_session,
                account,
                rehashed=await self._passwords.hash(password) if outdated else None,
                lifetime=self._session_lifetime,
                token_lifetime=self._token_lifetime,
            )

    async def change_password(self, user_id: str, current: str, new: str) -> None:
        """Replace a password whose successor was checked.

        Raises `InvalidInput`, `Unauthenticated`, `NotFound` and `Exhausted`.
        """
        _check_sizes({"current_password": (current, MAX_PASSWORD)})
        with self._passwords.place():
            account = await self._writer.run(commands.begin_attempt_of, user_id)
            if not await self._passwords.matches(current, account.password_hash):
                raise Unauthenticated("WRONG_CREDENTIALS", "the current password is wrong")
            await self._writer.run(commands.change_password, account, await self._passwords.hash(new))


def _as_stored(email: str) -> str:
    """Return an email as it would be stored; one that no account can have as it is."""
    try:
        return normalise_email(email)
    except ValueError:
        return email


def _check_sizes(fields: Mapping[str, tuple[str, int]]) -> None:
    wrong = [Violation(name, "is required") for name, (text, _) in fields.items() if not text]
    for name, (text, longest) in fields.items():
        if len(text) > longest:
            wrong.append(Violation(name, f"must be at most {longest} characters long"))
    if wrong:
        raise InvalidInput(*wrong)
