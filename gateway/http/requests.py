"""What the headers of a request say: what passes on to the backend, how long it may take, what the body is."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING

import grpc

from gateway.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from uvicorn._types import HTTPScope

    from gateway.errors import Refusal

_PASSED_ON = {name.encode(): name for name in ("authorization", "accept-language", "idempotency-key", "x-request-id")}
"""Headers that become metadata. All others stay here, so that nobody can claim an identity by one of them; the settings
may name more, which `gateway.admission.protection` looks at."""
_READ = {*_PASSED_ON, b"traceparent", b"tracestate", b"content-type", b"x-request-timeout", b"grpc-timeout"} | {
    b"if-match",
    b"if-none-match",
}
_REQUEST_ID = "x-request-id"
_PROCESS, _NUMBERS = secrets.token_hex(6), count(1)
_PRINTABLE = re.compile(rb"[\x20-\x7e]*")
_LONGEST = 4096
NONE: Mapping[bytes, str] = MappingProxyType({})
_JSON = re.compile(rb"application/(?:json|[\w.-]+\+json)\s*(?:;\s*charset=\"?utf-?8\"?\s*)?", re.IGNORECASE)
_SECONDS = re.compile(rb"[0-9]{1,9}(\.[0-9]{1,9})?")
_GRPC_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


class Headers:
    """What of a request's headers matters here, read in one pass."""

    __slots__ = (
        "_asked",
        "authorization",
        "if_match",
        "if_none_match",
        "is_json",
        "metadata",
        "request_id",
        "traceparent",
        "tracestate",
    )

    def __init__(self, headers: Iterable[tuple[bytes, bytes]], also: Mapping[bytes, str] = NONE) -> None:
        """Read them; those of `also` pass on too, as metadata of that name.

        Raises `Refusal` (400) for a header that is malformed, or that cannot pass on.
        """
        self.traceparent = ""
        self.tracestate = ""
        self.is_json = False
        """Whether the body is said to be JSON, in UTF-8."""
        self.if_match: bytes | None = None
        self.if_none_match: bytes | None = None
        self._asked: float | None = None
        metadata: dict[str, str] = {}
        others: list[tuple[str, str | bytes]] = []
        for name, value in headers:
            if name not in _READ:
                if name in also:
                    others.append(_passed_on(also[name], value))
            elif (key := _PASSED_ON.get(name)) is not None:
                text = value.decode("latin-1")
                if key in metadata or len(text) > _LONGEST or not (text.isascii() and text.isprintable()):
                    raise _bad_header(key, f"must be there once, in at most {_LONGEST} characters of ASCII")
                metadata[key] = text
            elif name == b"content-type":
                self.is_json = _JSON.fullmatch(value) is not None
            elif name == b"traceparent":
                # Two of them make one that is malformed, which begins a new trace.
                self.traceparent += value.decode("latin-1")
            elif name == b"tracestate":
                self.tracestate += ("," if self.tracestate else "") + value.decode("latin-1")
            elif name == b"if-none-match":
                self.if_none_match = value if self.if_none_match is None else self.if_none_match + b"," + value
            elif name == b"if-match":
                self.if_match = value if self.if_match is None else self.if_match + b"," + value
            else:
                seconds = _seconds(name, value)
                self._asked = seconds if self._asked is None else min(seconds, self._asked)
        self.authorization = metadata.get("authorization", "")
        self.request_id = metadata.setdefault(_REQUEST_ID, "") or f"{_PROCESS}-{next(_NUMBERS):x}"
        """The client's own, or else a new one, by which the client and all that serve it can name the request."""
        metadata[_REQUEST_ID] = self.request_id
        self.metadata: tuple[tuple[str, str | bytes], ...] = (*metadata.items(), *others)
        """What passes on to the backend."""

    @property
    def has_token(self) -> bool:
        """Whether the client shows who it is."""
        return self.authorization != ""

    def timeout(self, default: float, most: float) -> float:
        """Return how many seconds the call may take.

        `X-Request-Timeout` is in seconds, as in `2.5`; `Grpc-Timeout` is as in gRPC, `2500m`; the shorter one
        holds, or else `default`; never longer than `most`. Raises `Refusal` (504) for no time at all, which gRPC would
        take for all the time there is.
        """
        if self._asked == 0:
            code = grpc.StatusCode.DEADLINE_EXCEEDED
            raise refusal(504, code, "NO_TIME", "the request leaves no time to answer it")
        return min(default if self._asked is None else self._asked, most)


def _passed_on(key: str, value: bytes) -> tuple[str, str | bytes]:
    """Return a header as metadata: of binary metadata, whose name ends in -bin, HTTP has the base64."""
    if len(value) > _LONGEST or not _PRINTABLE.fullmatch(value):
        raise _bad_header(key, f"must have at most {_LONGEST} characters of ASCII")
    if not key.endswith("-bin"):
        return key, value.decode("ascii")
    try:
        return key, base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        raise _bad_header(key, "must be base64, as binary metadata is") from None


def header(scope: HTTPScope, name: bytes) -> bytes | None:
    """Return a header of a request, whose values are one list if it is there several times; None without it."""
    values = [value for key, value in scope["headers"] if key == name]
    return b",".join(values) if values else None


def _seconds(name: bytes, value: bytes) -> float:
    if name == b"x-request-timeout":
        if not _SECONDS.fullmatch(value):
            raise _bad_header("x-request-timeout", "must be seconds, as in 2.5")
        return float(value)
    match = _GRPC_TIMEOUT.fullmatch(value)
    if match is None:
        raise _bad_header("grpc-timeout", "must be as in gRPC: 2500m are 2.5 seconds")
    return int(match[1]) * _UNITS[match[2]]


def _bad_header(name: str, what: str) -> Refusal:
    return refusal(400, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_HEADER", f"the header {name} {what}")
