"""What is read of accounts and keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import select

from services.user import store
from services.user.domain import Role
from services.user.keys import web_key
from weft.domain import NotFound, check_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from services.user.domain import User
    from services.user.keys import SigningKey
    from weft.identity import Caller

_users = store.users.table
_keys = store.signing_keys.table


@dataclass(frozen=True, slots=True)
class Account:
    """What it takes to check somebody's password."""

    user_id: str
    email: str
    role: Role
    password_revision: int
    password_hash: str = field(repr=False)


def get_user(connection: Connection, user_id: str, caller: Caller) -> User:
    """Return one user whom the caller may see. Raises `InvalidInput`, naming `user_id`, and `NotFound`."""
    check_id("user_id", user_id)
    user = store.users.find(connection, user_id) if caller.may_see(user_id) else None
    if user is None:
        raise NotFound("user", user_id)
    return user


def find_account(connection: Connection, *, email: str = "", user_id: str = "") -> Account | None:
    """Return the account with this email, or else with this id; None if there is none."""
    columns = (_users.c.user_id, _users.c.email, _users.c.role, _users.c.password_revision, _users.c.password_hash)
    wanted = _users.c.email == email if email else _users.c.user_id == user_id
    row = connection.execute(select(*columns).where(wanted)).one_or_none()
    if row is None:
        return None
    return Account(row.user_id, row.email, Role(row.role), row.password_revision, row.password_hash)


def signing_keys(connection: Connection) -> Sequence[SigningKey]:
    """Return every key, private part and all, by its number."""
    return store.signing_keys.from_rows(connection.execute(_keys.select().order_by(_keys.c.number)))


def published_keys(connection: Connection) -> list[dict[str, str]]:
    """Return the public part of every key as a JSON Web Key, oldest first."""
    query = select(_keys.c.kid, _keys.c.public_key).order_by(_keys.c.number)
    return [web_key(row.kid, row.public_key) for row in connection.execute(query)]
