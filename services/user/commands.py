"""What a caller can have user do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.user import queries, store
from services.user.domain import Role, Session, SignInAttempts, User, hash_email
from services.user.keys import signing_one
from services.user.tokens import hash_token, new_refresh_token, new_session_id, session_in
from weft.domain import AlreadyExists, NotFound, Outdated, Unauthenticated, new_id

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta
    from typing import Any

    from google.type.postal_address_pb2 import PostalAddress

    from services.user.keys import SigningKey
    from services.user.queries import Account
    from weft import UnitOfWork
    from weft.identity import Caller


@dataclass(frozen=True, slots=True)
class Begun:
    """A session that began, or goes on: whose, and what its tokens are made of."""

    user_id: str
    role: Role
    key: SigningKey
    time: datetime
    refresh_token: str = field(repr=False)
    refresh_expire_time: datetime


def wrong_credentials() -> Unauthenticated:
    """Return the one answer to a wrong password and to an unknown email."""
    return Unauthenticated("WRONG_CREDENTIALS", "the email or the password is wrong")


def register_user(
    work: UnitOfWork,
    *,
    email: str,
    password_hash: str,
    display_name: str = "",
    address: PostalAddress | None = None,
    role: Role = Role.CUSTOMER,
) -> User:
    """Open an account, of which everything was checked. Raises `AlreadyExists` if the email has one."""
    if queries.find_account(work.connection, email=email) is not None:
        raise AlreadyExists("user", email)
    user = User.register(
        user_id=new_id(),
        email=email,
        password_hash=password_hash,
        display_name=display_name,
        address=address,
        role=role,
        now=work.now,
    )
    work.add(store.users, user)
    return user


def update_user(work: UnitOfWork, user_id: str, caller: Caller, changes: Mapping[str, Any], etag: str = "") -> User:
    """Set fields, by `User.change`'s names, to new values, if the user still has the `etag` that is given.

    Raises `NotFound`, `Outdated` and `InvalidInput`.
    """
    user = work.get(store.users, user_id) if caller.may_see(user_id) else None
    if user is None:
        raise NotFound("user", user_id)
    if etag and etag != user.etag:
        raise Outdated("user", user_id)
    user.change(now=work.now, **changes)
    return user


def begin_attempt(work: UnitOfWork, email: str) -> Account | None:
    """Count an attempt to sign in, and return the account if the email has one. Raises `Exhausted`."""
    _attempts(work, email).begin(work.now)
    return queries.find_account(work.connection, email=email)


def begin_attempt_of(work: UnitOfWork, user_id: str) -> Account:
    """Count an attempt to prove who one is, and return the account. Raises `NotFound` and `Exhausted`."""
    account = queries.find_account(work.connection, user_id=user_id)
    if account is None:
        raise NotFound("user", user_id)
    _attempts(work, account.email).begin(work.now)
    return account


def begin_session(
    work: UnitOfWork, account: Account, *, rehashed: str | None, lifetime: timedelta, token_lifetime: timedelta
) -> Begun:
    """Begin a session of somebody who proved to know the password, and forget failed attempts.

    `rehashed` is a new hash of the same password, if it needs one. Raises `Unauthenticated` if the password was
    replaced meanwhile.
    """
    user = _proven(work, account)
    if rehashed is not None:
        user.password_hash = rehashed
    session_id = new_session_id()
    refresh_token = new_refresh_token(session_id)
    session = Session(
        session_id=session_id,
        user_id=user.user_id,
        password_revision=user.password_revision,
        current=(hash_token(refresh_token),),
        create_time=work.now,
        expire_time=work.now + lifetime,
    )
    work.add(store.sessions, session)
    return _begun(work, user, session, refresh_token, token_lifetime)


def renew_session(work: UnitOfWork, shown: str, token_lifetime: timedelta) -> Begun | None:
    """Go on with the session of a refresh token; return None if it has ended, or ends by this."""
    session = _session(work, shown)
    user = work.get(store.users, session.user_id) if session is not None else None
    if session is None or user is None or session.password_revision != user.password_revision:
        return None
    following = new_refresh_token(session.session_id)
    if not session.renew(hash_token(shown), hash_token(following), work.now):
        return None
    return _begun(work, user, session, following, token_lifetime)


def end_session(work: UnitOfWork, refresh_token: str) -> None:
    """End the session of a refresh token; an ended or unknown one stays as it is."""
    session = _session(work, refresh_token)
    if session is not None:
        session.end(work.now)


def change_password(work: UnitOfWork, account: Account, password_hash: str) -> None:
    """Replace the password of somebody who proved to know it; that ends every session.

    Raises `Unauthenticated` if it was replaced meanwhile.
    """
    _proven(work, account).set_password(password_hash)


def _proven(work: UnitOfWork, account: Account) -> User:
    user = work.get(store.users, account.user_id)
    if user is None or user.password_revision != account.password_revision:
        raise wrong_credentials()
    _attempts(work, user.email).succeeded()
    return user


def _attempts(work: UnitOfWork, email: str) -> SignInAttempts:
    key = hash_email(email)
    found = work.get(store.attempts, key)
    if found is None:
        found = SignInAttempts(email_hash=key)
        work.add(store.attempts, found)
    return found


def _session(work: UnitOfWork, refresh_token: str) -> Session | None:
    session_id = session_in(refresh_token)
    return None if session_id is None else work.get(store.sessions, session_id)


def _begun(work: UnitOfWork, user: User, session: Session, refresh_token: str, token_lifetime: timedelta) -> Begun:
    key = signing_one(queries.signing_keys(work.connection), work.now)
    mine = work.get(store.signing_keys, key.kid)
    if mine is not None:
        mine.sign_for(token_lifetime)
    return Begun(user.user_id, user.role, key, work.now, refresh_token, session.expire_time)
