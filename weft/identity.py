"""Who calls: the identity that the edge found in the token of the call in progress."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextvars import Token


class Role(StrEnum):
    """What a caller may do beyond their own affairs."""

    CUSTOMER = "customer"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever makes a call: a user by their id, with a role that their token states."""

    subject: str
    role: str
    token: str = field(default="", repr=False)
    """The token itself, which calls to other services carry on."""

    @property
    def is_admin(self) -> bool:
        """Whether the caller may change and see what is not theirs."""
        return self.role == Role.ADMIN

    def may_see(self, user_id: str) -> bool:
        """Tell whether what belongs to `user_id` is the caller's own, or the caller an admin."""
        return self.subject == user_id or self.is_admin


_caller: ContextVar[Caller | None] = ContextVar("weft_caller", default=None)


def caller() -> Caller:
    """Return who makes the call in progress.

    Raises `RuntimeError` outside of a call, and in a call of a public rpc: there is nobody to know.
    """
    found = _caller.get()
    if found is None:
        raise RuntimeError("nobody is known to call: not within a call, or the rpc is public")
    return found


def bearer() -> str:
    """Return the `authorization` to send on to other services; nothing outside of a call that has one."""
    found = _caller.get()
    return f"Bearer {found.token}" if found is not None else ""


class Acting:
    """Within its `with`, a caller makes the call in progress."""

    __slots__ = ("_caller", "_token")
    _token: Token[Caller | None]

    def __init__(self, caller: Caller | None) -> None:
        self._caller = caller

    def __enter__(self) -> None:
        self._token = _caller.set(self._caller)

    def __exit__(self, *_: object) -> None:
        _caller.reset(self._token)
