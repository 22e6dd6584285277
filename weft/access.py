"""Who may call a method: the rule in its contract, and whether a caller's token satisfies it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf import descriptor_pool

from weft.domain import PermissionDenied
from weftapi.v1.annotations_pb2 import ACCESS_ADMIN, ACCESS_PUBLIC, ACCESS_UNSPECIFIED, Access, access

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor

    from weft.identity import Caller
    from weft.tokens import Verifier


def rule_of(method: str) -> Access.ValueType:
    """Return who may call a method, by `package.Service/Method`.

    A method whose contract is not among the imported ones needs a valid token, like one that says nothing.
    """
    contract = contract_of(method)
    return ACCESS_UNSPECIFIED if contract is None else contract.GetOptions().Extensions[access]


def contract_of(method: str) -> MethodDescriptor | None:
    """Return what the contract says of a method, by `package.Service/Method`, if it is among the imported ones."""
    service, _, name = method.rpartition("/")
    try:
        return descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
    except KeyError:
        return None


class Door:
    """Lets callers in to one method, or not."""

    __slots__ = ("_admins_only", "_open", "_verifier")

    def __init__(self, rule: Access.ValueType, verifier: Verifier) -> None:
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
        caller = self._verifier.known(authorization) or await self._verifier.verify(authorization)
        if self._admins_only and not caller.is_admin:
            raise PermissionDenied("this needs the role admin")
        return caller
