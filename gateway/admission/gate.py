"""Who is let in: what is looked at before a request is read.

First how much its address asks, then its token, then how much its user asks: so that whoever guesses, or sends what is
no token, has no more of it than of all else. The services verify tokens again: the gateway keeps from them what is
refused anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import grpc

from gateway.admission.rates import told, too_many
from gateway.errors import Refusal, refusal
from weft.domain import PermissionDenied, Unauthenticated, Unavailable, WeftError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from uvicorn._types import HTTPScope

    from gateway.admission.addresses import Addresses
    from gateway.admission.rates import Limit, Share
    from gateway.http.answers import Header
    from gateway.http.requests import Headers
    from gateway.routes import Route
    from weft.access import Door
    from weft.identity import Caller

_DOMAIN = "weft"
"""The gateway refuses in the words in which the services would."""


class Rates(NamedTuple):
    """How much may be asked; None is as much as they like."""

    address: Limit | None = None
    user: Limit | None = None


class Admitted(NamedTuple):
    """A request that was let in."""

    who: str
    """Whose it is: a user's, or an address's where no user is known; nothing where neither is."""
    told: Sequence[Header]
    """What the answer's headers are to tell besides."""


class Admission:
    """Lets requests in, or not."""

    def __init__(self, doors: Mapping[str, Door], addresses: Addresses, rates: Rates) -> None:
        """`doors` are by the rpc, `pkg.v1.Service/Method`; where there is none, no token is looked at."""
        self._doors = doors
        self._addresses = addresses
        self._rates = rates

    async def admit(self, route: Route, headers: Headers, scope: HTTPScope) -> Admitted:
        """Let a request in. Raises `Refusal`: 401, 403, 429, 503."""
        shares: list[Share] = []
        address = self._addresses.of(scope)
        if self._rates.address is not None and address:
            _charge(shares, self._rates.address, address)
        door = self._doors.get(route.rpc)
        caller = None if door is None else await _let_in(door, headers.authorization, shares)
        if caller is None:
            return Admitted(address, told(shares))
        if self._rates.user is not None:
            _charge(shares, self._rates.user, caller.subject)
        return Admitted(f"user {caller.subject}", told(shares))


def _charge(shares: list[Share], limit: Limit, key: str) -> None:
    share = limit.take(key)
    shares.append(share)
    if share.spent:
        raise too_many(shares)


async def _let_in(door: Door, authorization: str, shares: Sequence[Share]) -> Caller | None:
    try:
        return await door.admit(authorization)
    except WeftError as error:
        raise _refused(error, told(shares)) from error


def _refused(error: WeftError, headers: Sequence[Header]) -> Refusal:
    message = str(error)
    match error:
        case Unauthenticated():
            code = grpc.StatusCode.UNAUTHENTICATED
            return refusal(401, code, error.reason, message, headers=headers, domain=_DOMAIN)
        case PermissionDenied():
            code = grpc.StatusCode.PERMISSION_DENIED
            return refusal(403, code, error.slug, message, headers=headers, domain=_DOMAIN)
        case Unavailable():
            code = grpc.StatusCode.UNAVAILABLE
            return refusal(503, code, error.slug, message, headers=headers, domain=_DOMAIN)
    raise error
