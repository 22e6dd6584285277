"""What the headers of a request say: what passes on to the backend, how long it may take, what the body is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import grpc

from gateway.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.errors import Refusal

_PASSED_ON = {b"authorization": "authorization", b"accept-language": "accept-language", b"x-request-id": "x-request-id"}
"""Headers that become metadata. All others stay here, so that nobody can claim an identity by one of them."""
_READ = {*_PASSED_ON, b"traceparent", b"tracestate", b"content-type", b"x-request-timeout", b"grpc-timeout"}
_PRINTABLE = re.compile(rb"[\x20-\x7e]*")
_LONGEST = 4096
_JSON = re.compile(rb"application/(?:json|[\w.-]+\+json)\s*(?:;\s*charset=\"?utf-?8\"?\s*)?", re.IGNORECASE)
_SECONDS = re.compile(rb"[0-9]{1,9}(\.[0-9]{1,9})?")
_GRPC_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


class Headers:
    """What of a request's headers matters here, read in one pass."""

    __slots__ = ("_asked", "has_token", "is_json", "metadata", "traceparent", "tracestate")

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Raises `Refusal` (400) for a header that is malformed, or that cannot pass on."""
        self.traceparent = ""
        self.tracestate = ""
        self.is_json = False
        """Whether the body is said to be JSON, in UTF-8."""
        self._asked: float | None = None
        metadata: dict[str, str] = {}
        for name, value in headers:
            if name not in _READ:
                continue
            if (key := _PASSED_ON.get(name)) is not None:
                if key in metadata or len(value) > _LONGEST or not _PRINTABLE.fullmatch(value):
                    raise _bad_header(key, f"must be there once, in at most {_LONGEST} characters of ASCII")
                metadata[key] = value.decode("ascii")
            elif name == b"content-type":
                self.is_json = _JSON.fullmatch(value) is not None
            elif name == b"traceparent":
                # Two of them make one that is malformed, which begins a new trace.
                self.traceparent += value.decode("latin-1")
            elif name == b"tracestate":
                self.tracestate += ("," if self.tracestate else "") + value.decode("latin-1")
            else:
                seconds = _seconds(name, value)
                self._asked = seconds if self._asked is None else min(seconds, self._asked)
        self.metadata = tuple(metadata.items())
        self.has_token = "authorization" in metadata

    def timeout(self, default: float, most: float) -> float:
        """Return how many seconds the call may take.

        `X-Request-Timeout` is in seconds, as in `2.5`; `Grpc-Timeout` is as in gRPC, `2500m`; the shorter one
        holds, or else `default`; never longer than `most`.
        """
        return min(default if self._asked is None else self._asked, most)


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
