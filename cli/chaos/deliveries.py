"""What the broker sends to consumers, counted from the bytes that pass."""

from __future__ import annotations

import re

# HMSG subject sid reply: the reply of a delivery names stream, consumer, count, and the number in the stream.
_DELIVERY = re.compile(rb"\$JS\.ACK\.(\w+)\.([\w-]+)\.\d+\.(\d+)\.\d+\.\d+\.\d+ \d")
_LONGEST_DELIVERY = 256


class Deliveries:
    """Counts what the broker sends to consumers, from what comes through the proxies."""

    def __init__(self) -> None:
        self.count = 0
        """All of them."""
        self._seen: set[tuple[bytes, ...]] = set()

    @property
    def again(self) -> int:
        """How many were sent before to the same consumer."""
        return self.count - len(self._seen)

    def tap(self) -> _Tap:
        """Return what listens to one line."""
        return _Tap(self)

    def note(self, delivery: tuple[bytes, ...]) -> None:
        """Count a delivery: stream, consumer, number in the stream."""
        self.count += 1
        self._seen.add(delivery)


class _Tap:
    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries
        self._rest = b""

    def __call__(self, data: bytes) -> None:
        text, end = self._rest + data, 0
        for match in _DELIVERY.finditer(text):
            self._deliveries.note(match.groups())
            end = match.end()
        self._rest = text[max(end, len(text) - _LONGEST_DELIVERY) :]
