"""Admins that nobody made over gRPC: the one of `admin_file`, and those that `weft admin create` makes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import orjson

from services.user import queries, store
from services.user.commands import register_user
from services.user.domain import Role, check_email, check_registration
from services.user.passwords import Passwords
from weft import CannotStart, Service, logs
from weft.domain import AlreadyExists, InvalidInput, NotFound, Refused

if TYPE_CHECKING:
    from argon2 import PasswordHasher

    from services.user.domain import User
    from services.user.settings import Settings
    from weft import Reader, UnitOfWork, Writer

MIGRATIONS = Path(__file__).parent / "migrations"
_log = logs.logger("user.admin")


class Login(NamedTuple):
    """An email as it is stored, and a password."""

    email: str
    password: str

    def __repr__(self) -> str:
        """Return it without the password."""
        return f"Login({self.email!r})"


async def create_admin(
    settings: Settings, email: str, password: str, *, promote: bool = False, hasher: PasswordHasher | None = None
) -> str:
    """Make an admin directly in user's database, and return the user's id.

    With `promote` the account that has the email, if one has, becomes an admin's and keeps its own password. On
    SQLite no instance of user may run meanwhile.

    Raises `InvalidInput`, `AlreadyExists` if the email is an admin's, `Refused` if it is a customer's and `promote`
    is false, and `CannotStart` if the database cannot be used.
    """
    stored = check_email(email)
    service = Service("user", "commerce.user", settings, migrations=MIGRATIONS)
    passwords = Passwords(at_once=1, waiting=0, hasher=hasher)
    try:
        async with service.at_rest():
            password_hash = ""
            if await service.reader.run(queries.find_account, email=stored) is None:
                check_registration(email=stored, password=password)
                password_hash = await passwords.hash(password)
            return await service.writer.run(_create, stored, password_hash, promote)
    finally:
        await passwords.close()


def _create(work: UnitOfWork, email: str, password_hash: str, promote: bool) -> str:
    account = queries.find_account(work.connection, email=email)
    if account is None:
        return register_user(work, email=email, password_hash=password_hash, role=Role.ADMIN).user_id
    if account.role is Role.ADMIN:
        raise AlreadyExists("admin", email)
    if not promote:
        raise Refused("IS_A_CUSTOMER", f"{email!r} is a customer's account: promote it, or use another email")
    _user(work, account.user_id).promote(work.now)
    return account.user_id


def read_admin_file(file: Path) -> Login:
    """Return the email and the password in the file. Raises `CannotStart`, which never shows what is in it."""
    try:
        content = orjson.loads(file.read_bytes())
        email, password = content["email"], content["password"]
    except OSError as error:
        raise CannotStart(f"WEFT_ADMIN_FILE {file} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError):
        email = password = None
    if not isinstance(email, str) or not isinstance(password, str):
        raise CannotStart(f'WEFT_ADMIN_FILE {file} must be JSON like {{"email": "…", "password": "…"}}')
    try:
        return Login(check_registration(email=email, password=password), password)
    except InvalidInput as error:
        raise CannotStart(f"WEFT_ADMIN_FILE {file}: {error}") from None


async def ensure_admin(login: Login, writer: Writer, reader: Reader, passwords: Passwords) -> None:
    """Make sure that an admin with this email and password exists."""
    while not await _ensured(login, writer, reader, passwords):
        # Another instance that starts now does the same: look at what it made.
        _log.debug("the admin changed meanwhile")


async def _ensured(login: Login, writer: Writer, reader: Reader, passwords: Passwords) -> bool:
    account = await reader.run(queries.find_account, email=login.email)
    password_hash = None
    if account is None or not await passwords.matches(login.password, account.password_hash):
        password_hash = await passwords.hash(login.password)
    elif account.role is Role.ADMIN:
        return True
    seen = 0 if account is None else account.password_revision
    try:
        return await writer.run(_ensure, login.email, password_hash, seen)
    except AlreadyExists:  # made between two looks of one transaction
        return False


def _ensure(work: UnitOfWork, email: str, password_hash: str | None, seen: int) -> bool:
    """Make the account as it should be, unless its password is another than the one that was seen."""
    account = queries.find_account(work.connection, email=email)
    if seen != (0 if account is None else account.password_revision):
        return False
    if account is None:
        assert password_hash is not None, "it matches none"
        user = register_user(work, email=email, password_hash=password_hash, role=Role.ADMIN)
    else:
        user = _user(work, account.user_id)
        user.promote(work.now)
        if password_hash is not None:
            user.set_password(password_hash)
    _log.info("the admin is as WEFT_ADMIN_FILE says", user_id=user.user_id)
    return True


def _user(work: UnitOfWork, user_id: str) -> User:
    user = work.get(store.users, user_id)
    if user is None:
        raise NotFound("user", user_id)
    return user
