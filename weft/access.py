"""Who may call a method: the rule in its contract, and whether a caller's token satisfies it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import descriptor_pool

from weft.domain import PermissionDenied, Unauthenticated
from weftapi.v1.annotations_pb2 import ACCESS_ADMIN, ACCESS_PUBLIC, ACCESS_UNSPECIFIED, Access, access

if TYPE_CHECKING:
    from weft.identity import Caller
    from weft.tokens import Verifier

_BEARER = "bearer "


def rule_of(method: str) -> Access.ValueType:
    """Return who may call a method, by `package.Service/Method`.

    A method whose contract is not among the imported ones needs a valid token, like one that says nothing.
    """
    service, _, name = method.rpartition("/")
    try:
        found = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
    except KeyError:
        return ACCESS_UNSPECIFIED
    return found.GetOptions().Extensions[access]


class Door:
    """Lets callers in to one method, or not."""

    __slots__ = ("_admins_only", "_open", "_verifier")

    def __init__(self, method: str, verifier: Verifier) -> None:
        rule = rule_of(method)
        self._open = rule == ACCESS_PUBLIC
        self._admins_only = rule == ACCESS_ADMIN
        self._verifier = verifier

    async def admit(self, authorization: str) -> Caller | None:
        """Return who calls; None where anybody may, and the token is not looked at.

        `authorization` is the call's metadata of that name (RFC 6750). Raises `Unauthenticated`,
        `PermissionDenied`, and `Unavailable` while there are no keys to verify tokens with.
        """
        if self._open:
            return None
        token = _token_in(authorization)
        caller = self._verifier.known(token) or await self._verifier.verify(token)
        if self._admins_only and not caller.is_admin:
            raise PermissionDenied("this needs the role admin")
        return caller


def _token_in(authorization: str) -> str:
    if authorization[: len(_BEARER)].lower() == _BEARER and (token := authorization[len(_BEARER) :].strip()):
        return token
    raise Unauthenticated("TOKEN_MISSING", "this needs a token: send `authorization: Bearer <access_token>`")
