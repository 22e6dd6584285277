"""Token buckets, one for each of many callers: at most `burst` at once, and `rate` a second in the long run."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_SECOND = 1_000_000_000
_FORGOTTEN_AT_ONCE = 2


class Buckets:
    """Buckets by who they are of.

    Of each it knows when it is full again, and no more; a full one is forgotten, as it is like a new one. So each
    taking costs the same, and there are no more buckets than callers within the time in which one fills up.
    """

    __slots__ = ("_clock", "_full_at", "_most", "interval", "span")

    def __init__(
        self, rate: float, burst: int, *, most: int = 50_000, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Make buckets that hold `burst` and get `rate` a second; `clock` tells nanoseconds.

        Over `most` buckets, the one that was used the longest time ago is forgotten.
        """
        self.interval = math.ceil(_SECOND / rate)
        """Nanoseconds in which one more is in a bucket."""
        self.span = burst * self.interval
        """Nanoseconds in which an empty bucket is full."""
        self._most = most
        self._clock = clock
        self._full_at: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: str) -> int:
        """Take one out of a bucket, if there is one; return what is left then, in nanoseconds of filling.

        Below 0 there was none to take, and there is one after so many nanoseconds.
        """
        now, full_at = self._clock(), self._full_at
        full = full_at.get(key, now)
        if full < now:
            full = now
        left = self.span - self.interval - full + now
        if left >= 0:
            full_at[key] = full + self.interval
            full_at.move_to_end(key)
            self._forget(now)
        return left

    def _forget(self, now: int) -> None:
        """Forget full ones among those that were used the longest time ago: more than ever come new."""
        full_at = self._full_at
        for _ in range(_FORGOTTEN_AT_ONCE):
            oldest = next(iter(full_at))
            if full_at[oldest] > now and len(full_at) <= self._most:
                return
            del full_at[oldest]
            if not full_at:
                return
