"""`weft admin`: makes admins in user's database, for where no admin is there to do anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from cli.accounts import read_password
from cli.credentials import make_accounts
from cli.data import DataDirectory
from cli.errors import REFUSED, Problem
from cli.system import POSTGRES, Design, System, ports_of
from services.user.admin import create_admin
from services.user.settings import Settings
from weft import CannotStart
from weft.domain import InvalidInput, Refused, WeftError

if TYPE_CHECKING:
    from pathlib import Path


async def create(*, email: str, password_stdin: bool, promote: bool, database_url: str, data: Path) -> None:
    """Make an admin; with `promote` of the account that has the email, whose password stays.

    Raises `Problem` if the database is not to be used, or it has something against it.
    """
    settings = _read_settings(database_url, DataDirectory.at(data))
    password = "" if promote else read_password(from_stdin=password_stdin, new=True)
    try:
        user_id = await create_admin(settings, email, password, promote=promote)
    except CannotStart as reason:
        raise Problem(str(reason)) from None
    except InvalidInput as wrong:
        if promote and any(violation.field == "password" for violation in wrong.violations):
            raise Problem(f"nobody has an account with {email}: without --promote one is made", REFUSED) from None
        raise Problem(f"not accepted: {wrong}", REFUSED) from None
    except Refused:
        raise Problem(f"{email} is a customer's: --promote makes an admin of them", REFUSED) from None
    except WeftError as error:
        raise Problem(str(error), REFUSED) from None
    print(f"{email} is an admin (user {user_id}); `weft login {email}` signs in")


def find_database(data: DataDirectory) -> str:
    """Return the URL of user's database in a folder. Raises `Problem` if it cannot be used now."""
    if data.accounts_file.exists():
        ports = ports_of(data.read_run())
        if (POSTGRES, "client") not in ports:
            raise Problem(f"the databases in {data.path} are in PostgreSQL, which runs while `weft up` does: start it.")
        passwords = make_accounts(data.accounts_file, ())
        return System(data.path, ports, Design(data.accounts_file), passwords).database_url("user")
    if not (data.path / "user.db").exists():
        raise Problem(f"{data.path} has no database of user's: name one with --database-url, or another --data.")
    if data.holder() is not None or data.processes_run():
        raise Problem(
            f"the system in {data.path} runs, and its SQLite databases are its own meanwhile: `weft down` stops it. "
            f"It has an admin already, in {data.admin_file}."
        )
    return f"sqlite:///{data.path / 'user.db'}"


def _read_settings(database_url: str, data: DataDirectory) -> Settings:
    """Return user's settings, with its database as it was given, or is set, or is in the folder."""
    try:
        if database_url:
            return Settings(database_url=database_url)
        try:
            return Settings()
        except ValidationError as error:
            if any(one["type"] != "missing" for one in error.errors()):
                raise
        return Settings(database_url=find_database(data))
    except CannotStart as reason:
        raise Problem(str(reason)) from None
    except ValidationError as error:
        faults = (f"WEFT_{'_'.join(map(str, one['loc'])).upper()}: {one['msg']}" for one in error.errors())
        raise Problem("; ".join(faults)) from None
