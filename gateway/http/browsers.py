"""What browsers are told: how answers may be used, and which pages of other origins may call (CORS)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from uvicorn._types import ASGI3Application

_MAY_SEND = (
    "Authorization",
    "Content-Type",
    "Accept-Language",
    "Grpc-Timeout",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "Last-Event-ID",
    "X-Request-Id",
    "X-Request-Timeout",
    "traceparent",
    "tracestate",
)
_MAY_READ = (
    "Allow",
    "ETag",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "WWW-Authenticate",
    "X-Request-Id",
)


def safe_headers(*, for_others: bool, https_seconds: int) -> list[tuple[str, str]]:
    """Return the headers of every answer whatever it is, for browsers: it is what it says, and in nobody's frame.

    `for_others` is whether pages of other origins may use answers at all; `https_seconds` is for how long browsers are
    to come by https alone (RFC 6797), 0 if that is not said.
    """
    headers = [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("x-frame-options", "DENY"),
        ("content-security-policy", "frame-ancestors 'none'"),
        ("cross-origin-resource-policy", "cross-origin" if for_others else "same-origin"),
    ]
    if https_seconds:
        headers.append(("strict-transport-security", f"max-age={https_seconds}"))
    return headers


def for_pages_of(
    app: ASGI3Application, origins: Sequence[str], methods: Collection[str], headers: Sequence[str]
) -> ASGI3Application:
    """Return the application as pages of these origins may call it, with these methods and further headers.

    Without origins it is as it was.
    """
    if not origins:
        return app
    from starlette.middleware.cors import CORSMiddleware

    allowing: ASGI3Application = CORSMiddleware(  # type: ignore[assignment]
        app,  # type: ignore[arg-type]
        allow_origins=origins,
        allow_methods=sorted({"GET", "HEAD", *methods}),
        allow_headers=(*_MAY_SEND, *headers),
        expose_headers=_MAY_READ,
    )
    return allowing
