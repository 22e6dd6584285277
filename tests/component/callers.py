"""Who calls in the tests: tokens that every service of a test trusts, and channels that carry one."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import grpc

from weft.testing import Issuer

if TYPE_CHECKING:
    from collections.abc import Callable

_folder = TemporaryDirectory(prefix="weft-issuer-")


@cache
def issuer() -> Issuer:
    """Return the issuer whose keys WEFT_JWKS_URL names while tests run."""
    return Issuer(Path(_folder.name))


@cache
def bearer(subject: str = "ann", role: str = "admin") -> str:
    """Return the `authorization` of a caller."""
    return f"Bearer {issuer().token(subject, role, lifetime=3600)}"


def signed(user: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a call that a customer makes; none for nobody."""
    return (("authorization", bearer(user, "customer")),) if user else ()


class _Signed:
    """Sends `authorization` with each call that has none."""

    def __init__(self, authorization: str) -> None:
        self._authorization = authorization

    async def _sign(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        if "authorization" not in metadata:
            metadata.add("authorization", self._authorization)
        return await continuation(details._replace(metadata=metadata), request)


# gRPC takes each interceptor for the first kind of call that it could be for.
class _SignedUnary(_Signed, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]
    intercept_unary_unary = _Signed._sign


class _SignedStream(_Signed, grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]
    intercept_unary_stream = _Signed._sign


def signed_channel(address: str, authorization: str, options: tuple[tuple[str, Any], ...] = ()) -> grpc.aio.Channel:
    """Return a plain channel whose calls carry `authorization`; with an empty one, a plain channel."""
    kinds = (_SignedUnary(authorization), _SignedStream(authorization)) if authorization else ()
    return grpc.aio.insecure_channel(address, options=options, interceptors=kinds)
