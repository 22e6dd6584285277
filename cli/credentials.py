"""Passwords that a data folder makes up for itself, each in a file that only its owner can read."""

from __future__ import annotations

import json
import os
import secrets
from typing import TYPE_CHECKING, Any

from cli.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ADMIN = "admin@weft.example"
"""The email address of the admin that `weft up` makes."""
_RANDOM_BYTES = 18


def make_admin(file: Path) -> None:
    """Write the admin's email and a random password to `file` unless it is there; user reads it when it starts."""
    if not file.exists():
        write_secret(file, {"email": ADMIN, "password": _new_password()})


def make_accounts(file: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the password of each database account; those that `file` has none for get a random one there.

    Raises `Problem` if the file makes no sense.
    """
    there = _read_accounts(file) if file.exists() else {}
    accounts = there | {name: _new_password() for name in names if name not in there}
    if accounts != there:
        write_secret(file, accounts)
    return accounts


def write_secret(file: Path, content: dict[str, Any]) -> None:
    """Write JSON to `file` for its owner alone: whole, or not at all."""
    draft = file.with_suffix(f".{os.getpid()}.tmp")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
        output.write(json.dumps(content, indent=2) + "\n")
        output.flush()
        os.fsync(output.fileno())
    draft.replace(file)


def _new_password() -> str:
    return secrets.token_urlsafe(_RANDOM_BYTES)


def _read_accounts(file: Path) -> dict[str, str]:
    try:
        accounts = json.loads(file.read_text())
        return {str(name): str(password) for name, password in accounts.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise Problem(f"{file} has the passwords of the databases, but cannot be read ({error}).") from None
