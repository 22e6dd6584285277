"""The time that decisions use. Durations inside one process use the monotonic clock instead."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Clock:
    """Tells the time of day in UTC; a test gives a service another one."""

    def now(self) -> datetime:
        """Return the time, aware, in UTC."""
        return datetime.now(UTC)


class ManualClock(Clock):
    """A clock that moves only when told to, for tests."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start

    def now(self) -> datetime:
        """Return the time it was last set to."""
        return self._now

    def advance(self, by: timedelta) -> None:
        """Move it; backwards too, as a real clock may."""
        self._now += by


def micros(time: datetime) -> int:
    """Return microseconds since the epoch, as the databases store times."""
    return (time - _EPOCH) // _MICROSECOND


def from_micros(value: int) -> datetime:
    """Return the aware UTC time of `value` microseconds since the epoch."""
    return _EPOCH + timedelta(microseconds=value)


def timestamp(time: datetime) -> Timestamp:
    """Return an aware time as protobuf has it."""
    seconds, rest = divmod(micros(time), 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest * 1000)
