"""Rate limits: how often one user, or one address, may ask; what answers say of it, and the refusal (429).

The headers are those of draft-ietf-httpapi-ratelimit-headers-10: `RateLimit-Policy` says how much there is (`q`) and in
how many seconds that much comes anew (`w`), `RateLimit` how much is left (`r`) and in how many seconds there is more
(`t`): all of it where something is left, else the next one.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, NamedTuple

import grpc
from google.rpc.error_details_pb2 import QuotaFailure, RetryInfo

from gateway.admission.buckets import Buckets
from gateway.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.errors import Refusal
    from gateway.http.answers import Header

_SECOND = 1_000_000_000


class Share(NamedTuple):
    """What a caller still has of a limit."""

    limit: Limit
    key: str
    left: int
    """In nanoseconds of filling; below 0 there was nothing left."""

    @property
    def spent(self) -> bool:
        """Whether this was one too many."""
        return self.left < 0


class Limit:
    """One limit, of everybody alike: `rate` requests a second, and up to `burst` at once."""

    def __init__(self, name: str, rate: float, burst: int, *, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """`name` says of what there is one for each: "user", "address"."""
        self.name = name
        self.rate = rate
        self._buckets = Buckets(rate, burst, clock=clock)
        self.policy = f'"{name}";q={burst};w={math.ceil(burst / rate)}'.encode()
        """The item of RateLimit-Policy."""
        self._state = f'"{name}";r=%d;t=%d'.encode()
        self._interval, self._span = self._buckets.interval, self._buckets.span

    def take(self, key: str) -> Share:
        """Count one request of this one."""
        return Share(self, key, self._buckets.take(key))

    def state(self, left: int) -> bytes:
        """Return the item of RateLimit."""
        if left < 0:
            return self._state % (0, -(left // _SECOND))
        return self._state % (left // self._interval, -((left - self._span) // _SECOND))


def told(shares: Sequence[Share]) -> Sequence[Header]:
    """Return the headers that say what is left."""
    if not shares:
        return ()
    policy = b", ".join([limit.policy for limit, _, _ in shares])
    state = b", ".join([limit.state(left) for limit, _, left in shares])
    return ((b"ratelimit-policy", policy), (b"ratelimit", state))


def too_many(shares: Sequence[Share]) -> Refusal:
    """Make the 429 for the last one of these, which is spent."""
    limit, key, left = shares[-1]
    retry, quota = RetryInfo(), QuotaFailure()
    retry.retry_delay.FromNanoseconds(-left)
    what = f"more than {limit.rate:g} requests a second"
    quota.violations.add(subject=f"{limit.name}:{key}", description=what)
    message = f"too many requests of this {limit.name}: there may be {limit.rate:g} a second; try again later"
    headers = told(shares)
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    return refusal(429, code, "RATE_LIMITED", message, retry, quota, headers=headers)
