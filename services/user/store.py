"""How accounts, attempts to sign in, sessions and signing keys are kept: a row each."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from google.type.postal_address_pb2 import PostalAddress
from sqlalchemy import BigInteger, Index, MetaData
from sqlmodel import Field, SQLModel

from services.user.domain import Role, Session, SignInAttempts, User
from services.user.keys import SigningKey
from weft import Store, from_micros, micros

_MICROSECOND = timedelta(microseconds=1)


class Tables(SQLModel):
    """The tables of this service; times in microseconds since the epoch."""

    metadata = MetaData()


class UserRow(Tables, table=True):
    """One account; no two have the same email."""

    __tablename__ = "users"
    __table_args__ = (Index("users_by_email", "email", unique=True),)
    user_id: str = Field(primary_key=True)
    email: str
    password_hash: str
    password_revision: int = Field(sa_type=BigInteger)
    display_name: str
    address: bytes | None
    role: str
    revision: int = Field(sa_type=BigInteger)
    create_time: int = Field(sa_type=BigInteger)
    update_time: int = Field(sa_type=BigInteger)
    version: int = Field(sa_type=BigInteger)


class SignInAttemptsRow(Tables, table=True):
    """The failed attempts to sign in with one email."""

    __tablename__ = "sign_in_attempts"
    __table_args__ = (Index("sign_in_attempts_oldest", "last_time"),)
    email_hash: str = Field(primary_key=True)
    failures: int = Field(sa_type=BigInteger)
    locked_until: int = Field(sa_type=BigInteger)
    last_time: int = Field(sa_type=BigInteger)
    version: int = Field(sa_type=BigInteger)


class SessionRow(Tables, table=True):
    """One session: of its refresh tokens the hashes, several with spaces between."""

    __tablename__ = "sessions"
    __table_args__ = (Index("sessions_oldest", "expire_time"),)
    session_id: str = Field(primary_key=True)
    user_id: str
    password_revision: int = Field(sa_type=BigInteger)
    current_hashes: str
    previous_hash: str
    previous_until: int = Field(sa_type=BigInteger)
    create_time: int = Field(sa_type=BigInteger)
    expire_time: int = Field(sa_type=BigInteger)
    version: int = Field(sa_type=BigInteger)


class SigningKeyRow(Tables, table=True):
    """One Ed25519 key, as its 32 bytes each; `longest` in microseconds."""

    __tablename__ = "signing_keys"
    __table_args__ = (Index("signing_keys_in_order", "number", unique=True),)
    kid: str = Field(primary_key=True)
    number: int = Field(sa_type=BigInteger)
    private_key: bytes
    public_key: bytes
    sign_from: int = Field(sa_type=BigInteger)
    longest: int = Field(sa_type=BigInteger)
    create_time: int = Field(sa_type=BigInteger)
    version: int = Field(sa_type=BigInteger)


def _load_user(row: Any) -> User:
    return User(
        user_id=row.user_id,
        email=row.email,
        password_hash=row.password_hash,
        password_revision=row.password_revision,
        display_name=row.display_name,
        address=None if row.address is None else PostalAddress.FromString(row.address),
        role=Role(row.role),
        revision=row.revision,
        create_time=from_micros(row.create_time),
        update_time=from_micros(row.update_time),
    )


def _dump_user(user: User) -> dict[str, Any]:
    return {
        "user_id": user.user_id,
        "email": user.email,
        "password_hash": user.password_hash,
        "password_revision": user.password_revision,
        "display_name": user.display_name,
        "address": None if user.address is None else user.address.SerializeToString(deterministic=True),
        "role": user.role.value,
        "revision": user.revision,
        "create_time": micros(user.create_time),
        "update_time": micros(user.update_time),
    }


def _load_attempts(row: Any) -> SignInAttempts:
    return SignInAttempts(
        email_hash=row.email_hash,
        failures=row.failures,
        locked_until=from_micros(row.locked_until),
        last_time=from_micros(row.last_time),
    )


def _dump_attempts(one: SignInAttempts) -> dict[str, Any]:
    return {
        "email_hash": one.email_hash,
        "failures": one.failures,
        "locked_until": micros(one.locked_until),
        "last_time": micros(one.last_time),
    }


def _load_session(row: Any) -> Session:
    return Session(
        session_id=row.session_id,
        user_id=row.user_id,
        password_revision=row.password_revision,
        current=tuple(row.current_hashes.split()),
        previous=row.previous_hash,
        previous_until=from_micros(row.previous_until),
        create_time=from_micros(row.create_time),
        expire_time=from_micros(row.expire_time),
    )


def _dump_session(session: Session) -> dict[str, Any]:
    return {
        "session_id": session.session_id,
        "user_id": session.user_id,
        "password_revision": session.password_revision,
        "current_hashes": " ".join(session.current),
        "previous_hash": session.previous,
        "previous_until": micros(session.previous_until),
        "create_time": micros(session.create_time),
        "expire_time": micros(session.expire_time),
    }


def _load_key(row: Any) -> SigningKey:
    return SigningKey(
        kid=row.kid,
        number=row.number,
        private=row.private_key,
        public=row.public_key,
        sign_from=from_micros(row.sign_from),
        longest=row.longest * _MICROSECOND,
        create_time=from_micros(row.create_time),
    )


def _dump_key(key: SigningKey) -> dict[str, Any]:
    return {
        "kid": key.kid,
        "number": key.number,
        "private_key": key.private,
        "public_key": key.public,
        "sign_from": micros(key.sign_from),
        "longest": key.longest // _MICROSECOND,
        "create_time": micros(key.create_time),
    }


users = Store(
    UserRow,
    key="user_id",
    load=_load_user,
    dump=_dump_user,
)
attempts = Store(
    SignInAttemptsRow,
    key="email_hash",
    load=_load_attempts,
    dump=_dump_attempts,
    contended=True,
)
sessions = Store(
    SessionRow,
    key="session_id",
    load=_load_session,
    dump=_dump_session,
)
signing_keys = Store(
    SigningKeyRow,
    key="kid",
    load=_load_key,
    dump=_dump_key,
)
