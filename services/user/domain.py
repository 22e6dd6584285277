"""Who somebody is, and what is decided about their passwords: accounts, attempts to sign in, sessions.

What is secret comes in hashed: a password by argon2, a refresh token by SHA-256.
"""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from types import EllipsisType
from typing import TYPE_CHECKING, Self

from email_validator import EmailNotValidError, validate_email

from commerce.user.v1.user_events_pb2 import UserRegistered, UserUpdated
from weft.domain import Aggregate, Exhausted, InvalidInput, Violation, address_violations, etag_of, text_violations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.type.postal_address_pb2 import PostalAddress

MAX_EMAIL = 254
MAX_NAME = 200
MIN_PASSWORD = 8
MAX_PASSWORD = 128
FREE_FAILURES = 4
"""How many attempts in a row may fail; one more locks the email."""
FIRST_LOCK = timedelta(minutes=1)
LONGEST_LOCK = timedelta(minutes=15)
GRACE = timedelta(seconds=30)
"""For how long a refresh token that was just used up is taken once more, as its answer may have been lost."""

_MOST_CURRENT = 4
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


class Role(StrEnum):
    """What a user may do beyond their own affairs; tokens state it in these words."""

    CUSTOMER = "customer"
    ADMIN = "admin"


class User(Aggregate):
    """One account.

    `revision` grows with each change that others can see: copies apply only a higher one. `password_revision`
    grows with each new password: sessions that began under another one have ended.
    """

    __slots__ = (
        "address",
        "create_time",
        "display_name",
        "email",
        "password_hash",
        "password_revision",
        "revision",
        "role",
        "update_time",
        "user_id",
    )

    def __init__(
        self,
        *,
        user_id: str,
        email: str,
        password_hash: str,
        password_revision: int,
        display_name: str,
        address: PostalAddress | None,
        role: Role,
        revision: int,
        create_time: datetime,
        update_time: datetime,
    ) -> None:
        super().__init__()
        self.user_id = user_id
        self.email = email
        self.password_hash = password_hash
        self.password_revision = password_revision
        self.display_name = display_name
        self.address = address
        self.role = role
        self.revision = revision
        self.create_time = create_time
        self.update_time = update_time

    @property
    def etag(self) -> str:
        """What tells whether anything that others can see has changed."""
        return etag_of(self.user_id, self.revision)

    @classmethod
    def register(
        cls,
        *,
        user_id: str,
        email: str,
        password_hash: str,
        display_name: str = "",
        address: PostalAddress | None = None,
        role: Role = Role.CUSTOMER,
        now: datetime,
    ) -> Self:
        """Return a new account at revision 1 and record `UserRegistered`.

        Takes what `check_registration` let through.
        """
        user = cls(
            user_id=user_id,
            email=email,
            password_hash=password_hash,
            password_revision=1,
            display_name=display_name.strip() or _name_in(email),
            address=address,
            role=role,
            revision=1,
            create_time=now,
            update_time=now,
        )
        user.record(UserRegistered(user_id=user_id, address=address, revision=1))
        return user

    def change(
        self,
        *,
        now: datetime,
        display_name: str | None = None,
        address: PostalAddress | EllipsisType | None = ...,
    ) -> None:
        """Set what is given; record `UserUpdated` only if that is new.

        An empty name is the default one again; no address (None) takes the address away. Raises `InvalidInput`
        that names every wrong field, as in `user.address.region_code`, and then changes nothing.
        """
        new_address = self.address if isinstance(address, EllipsisType) else address
        wrong = [] if display_name is None else [*name_violations("user.display_name", display_name)]
        if new_address is not None and new_address is not self.address:
            wrong += address_violations("user.address", new_address)
        if wrong:
            raise InvalidInput(*wrong)
        new_name = self.display_name if display_name is None else display_name.strip() or _name_in(self.email)
        if (new_name, new_address) != (self.display_name, self.address):
            self.display_name, self.address = new_name, new_address
            self._changed(now)

    def promote(self, now: datetime) -> None:
        """Make the user an admin; one who is an admin stays one."""
        if self.role is not Role.ADMIN:
            self.role = Role.ADMIN
            self._changed(now)

    def set_password(self, password_hash: str) -> None:
        """Take a new password, which ends every session."""
        self.password_hash = password_hash
        self.password_revision += 1

    def _changed(self, now: datetime) -> None:
        self.revision += 1
        self.update_time = now
        self.record(UserUpdated(user_id=self.user_id, address=self.address, revision=self.revision))


class SignInAttempts(Aggregate):
    """How often somebody tried to sign in with an email, whether or not an account has it.

    An attempt counts as failed from its beginning, so that guesses made at the same time all count.
    """

    __slots__ = ("email_hash", "failures", "last_time", "locked_until")

    def __init__(
        self, *, email_hash: str, failures: int = 0, locked_until: datetime = _NEVER, last_time: datetime = _NEVER
    ) -> None:
        super().__init__()
        self.email_hash = email_hash
        self.failures = failures
        self.locked_until = locked_until
        self.last_time = last_time

    def begin(self, now: datetime) -> None:
        """Count one. Raises `Exhausted`, and counts nothing, while too many have failed."""
        if now < self.locked_until:
            wait = self.locked_until - now
            raise Exhausted("too many failed attempts: try again later", retry_after=wait.total_seconds())
        self.failures += 1
        self.last_time = now
        if self.failures > FREE_FAILURES:
            doublings = min(self.failures - FREE_FAILURES - 1, 10)
            self.locked_until = now + min(FIRST_LOCK * 2**doublings, LONGEST_LOCK)

    def succeeded(self) -> None:
        """Forget the failures: the latest attempt was none."""
        self.failures = 0
        self.locked_until = _NEVER


class Session(Aggregate):
    """What a user began by signing in; a chain of refresh tokens, each of which is used up by the next.

    `current` has the hashes of the tokens that may be used next: one, or several where answers were lost.
    """

    __slots__ = (
        "create_time",
        "current",
        "expire_time",
        "password_revision",
        "previous",
        "previous_until",
        "session_id",
        "user_id",
    )

    def __init__(
        self,
        *,
        session_id: str,
        user_id: str,
        password_revision: int,
        current: tuple[str, ...],
        previous: str = "",
        previous_until: datetime = _NEVER,
        create_time: datetime,
        expire_time: datetime,
    ) -> None:
        super().__init__()
        self.session_id = session_id
        self.user_id = user_id
        self.password_revision = password_revision
        self.current = current
        self.previous = previous
        self.previous_until = previous_until
        self.create_time = create_time
        self.expire_time = expire_time

    def renew(self, shown: str, following: str, now: datetime) -> bool:
        """Exchange a token for the one that follows, both by their hashes; tell whether the session goes on.

        A token that was used up before ends the session: somebody else has a copy. Only the latest of them is
        taken again for 30 s.
        """
        if now >= self.expire_time:
            return False
        if shown in self.current:
            self.current = (following,)
            self.previous, self.previous_until = shown, now + GRACE
            return True
        if shown == self.previous and now < self.previous_until:
            self.current = (*self.current, following)[-_MOST_CURRENT:]
            return True
        self.end(now)
        return False

    def end(self, now: datetime) -> None:
        """End it, unless it has ended."""
        self.expire_time = min(self.expire_time, now)


def check_registration(
    *, email: str, password: str, display_name: str = "", address: PostalAddress | None = None
) -> str:
    """Return the email of a new account as it is stored. Raises `InvalidInput` that names every wrong field."""
    wrong: list[Violation] = []
    stored = _read_email(email, wrong)
    wrong += [*password_violations("password", password), *name_violations("display_name", display_name)]
    if address is not None:
        wrong += address_violations("address", address)
    if wrong:
        raise InvalidInput(*wrong)
    return stored


def check_email(email: str) -> str:
    """Return an email as it is stored. Raises `InvalidInput`, naming `email`."""
    wrong: list[Violation] = []
    stored = _read_email(email, wrong)
    if wrong:
        raise InvalidInput(*wrong)
    return stored


def _read_email(email: str, wrong: list[Violation]) -> str:
    try:
        return normalise_email(email)
    except ValueError as error:
        wrong.append(Violation("email", str(error)))
        return ""


def normalise_email(email: str) -> str:
    """Return an email as it is stored, whatever its case. Raises `ValueError`, which says why it is none."""
    if not email:
        raise ValueError("is required")
    if len(email) > MAX_EMAIL:
        raise ValueError(f"must be at most {MAX_EMAIL} characters long")
    try:
        valid = validate_email(email, check_deliverability=False).normalized
    except EmailNotValidError as error:
        raise ValueError(f"is not an email address: {error}") from None
    return _lower(valid)


def hash_email(email: str) -> str:
    """Return what attempts to sign in with an email are counted under, even if it is none."""
    try:
        known = normalise_email(email)
    except ValueError:
        known = _lower(email)
    return sha256(known.encode()).hexdigest()


def _lower(email: str) -> str:
    return unicodedata.normalize("NFC", email.lower())


def password_violations(field: str, password: str) -> Iterator[Violation]:
    """Return what is wrong with a new password."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        yield Violation(field, f"must be {MIN_PASSWORD} to {MAX_PASSWORD} characters long")
    elif any("\ud800" <= character <= "\udfff" for character in password):
        yield Violation(field, "must be text")


def name_violations(field: str, name: str) -> list[Violation]:
    """Return what is wrong with the name of a user."""
    return text_violations(field, name, MAX_NAME)


def _name_in(email: str) -> str:
    return email.rpartition("@")[0]
