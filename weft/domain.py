"""What a service's domain may use of the chassis: aggregates, money, ids, checks of what callers send, and errors.

This module imports neither a database, gRPC, NATS nor OpenTelemetry, so a domain that keeps to it can be
tested, and reasoned about, on its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, ClassVar, Self

import uuid_utils
from google.type.money_pb2 import Money as MoneyMessage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message
    from google.type.postal_address_pb2 import PostalAddress

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CURRENCY = re.compile(r"[A-Z]{3}")
_NANOS = 1_000_000_000
_MAX_NANOS = 2**63 - 1
_REGION = re.compile(r"[A-Z]{2}|[0-9]{3}")
_ADDRESS_TEXTS = (
    "language_code",
    "postal_code",
    "sorting_code",
    "administrative_area",
    "locality",
    "sublocality",
    "organization",
)
MAX_ADDRESS_LINES = 10
MAX_ADDRESS_TEXT = 200


def new_id() -> str:
    """Return a new UUIDv7 (RFC 9562) as a string: ids sort by the time of their making."""
    return str(uuid_utils.uuid7())


def is_id(value: str) -> bool:
    """Tell whether `value` can be an aggregate's id: it becomes a token of a NATS subject."""
    return _ID.fullmatch(value) is not None


def etag_of(name: str, revision: int) -> str:
    """Return the etag of the thing `name` at a revision: a strong one, in quotation marks (RFC 9110, AIP-154)."""
    return f'"{blake2b(f"{name}/{revision}".encode(), digest_size=12).hexdigest()}"'


class Aggregate:
    """A consistency boundary: its methods decide, change its state and record the events that happened.

    Subclasses are plain classes. The unit of work loads and saves them, checks `version` on save, and
    publishes what they recorded in the transaction that saves them.
    """

    __slots__ = ("_recorded", "version")

    def __init__(self) -> None:
        self._recorded: list[Message] = []
        self.version = 0
        """How often it was saved; 0 for a new one. Set by the unit of work."""

    def record(self, event: Message) -> None:
        """Remember that `event` happened, to be published when the unit of work commits."""
        self._recorded.append(event)

    def take_recorded(self) -> Sequence[Message]:
        """Return the events recorded since the last call, oldest first, and forget them."""
        taken, self._recorded = self._recorded, []
        return taken


@dataclass(frozen=True, slots=True, order=False)
class Money:
    """An exact amount of one currency, at home in `google.type.Money`.

    `nanos` is the whole amount in billionths of the currency's unit and fits a signed 64-bit integer, so
    amounts go up to nine billion units.
    """

    currency: str
    nanos: int

    @classmethod
    def of(cls, message: MoneyMessage) -> Self:
        """Read a protobuf amount.

        Raises `ValueError` if the currency is not an ISO 4217 code in capitals, if `nanos` is out of range or
        of another sign than `units` (both are wrong in google/type/money.proto), or if it is too large.
        """
        if not _CURRENCY.fullmatch(message.currency_code):
            raise ValueError("currency_code must be three capital letters (ISO 4217)")
        if not -_NANOS < message.nanos < _NANOS:
            raise ValueError("nanos must be between -999999999 and 999999999")
        if message.units * message.nanos < 0:
            raise ValueError("units and nanos must have the same sign")
        nanos = message.units * _NANOS + message.nanos
        if abs(nanos) > _MAX_NANOS:
            raise ValueError("the amount is too large")
        return cls(message.currency_code, nanos)

    def message(self) -> MoneyMessage:
        """Return it as a protobuf amount."""
        sign = -1 if self.nanos < 0 else 1
        units, nanos = divmod(abs(self.nanos), _NANOS)
        return MoneyMessage(currency_code=self.currency, units=sign * units, nanos=sign * nanos)

    def __add__(self, other: Money) -> Money:
        if other.currency != self.currency:
            raise ValueError(f"cannot add {other.currency} to {self.currency}")
        return Money(self.currency, self.nanos + other.nanos)

    def __mul__(self, count: int) -> Money:
        return Money(self.currency, self.nanos * count)

    def __str__(self) -> str:
        """Return it for people: `12.50 EUR`, with more decimals only where there are any."""
        sign = "-" if self.nanos < 0 else ""
        units, nanos = divmod(abs(self.nanos), _NANOS)
        decimals = f"{nanos:09d}".rstrip("0").ljust(2, "0")
        return f"{sign}{units}.{decimals} {self.currency}"

    @property
    def fits(self) -> bool:
        """Whether it is small enough to be stored."""
        return abs(self.nanos) <= _MAX_NANOS


class WeftError(Exception):
    """The root of the errors that a caller may meet.

        WeftError
        ├── InvalidInput      INVALID_ARGUMENT     what was sent is wrong, whatever the state
        ├── NotFound          NOT_FOUND            there is no such thing
        ├── AlreadyExists     ALREADY_EXISTS       the name is taken
        ├── Refused           FAILED_PRECONDITION  not in the state it is in
        ├── Outdated          ABORTED              it has changed since the caller read it
        ├── Unauthenticated   UNAUTHENTICATED      the caller does not prove who they are
        ├── PermissionDenied  PERMISSION_DENIED    the caller may not do this
        ├── Exhausted         RESOURCE_EXHAUSTED   too much or too often; the same again later may work
        └── Unavailable       UNAVAILABLE          not now; the same again may work

    Each is mapped to its gRPC status once, at the edge. Raised by an event's handler, all but `Unavailable`
    mean that trying again is useless: the event goes to the dead letters at once.
    """

    slug: ClassVar[str] = "ERROR"
    """The machine-readable reason in `google.rpc.ErrorInfo`."""


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong with one field: `field` is its path, as in `lines[0].quantity`."""

    field: str
    description: str


class InvalidInput(WeftError):
    """What was sent is wrong, whatever the state; names every wrong field."""

    slug = "INVALID_INPUT"

    def __init__(self, *violations: Violation) -> None:
        self.violations = violations
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))


class NotFound(WeftError):
    """There is no such thing."""

    slug = "NOT_FOUND"

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        super().__init__(f"there is no {kind} {name!r}")


class AlreadyExists(WeftError):
    """The name is taken."""

    slug = "ALREADY_EXISTS"

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        super().__init__(f"{kind} {name!r} exists already")


class Refused(WeftError):
    """The thing is in a state in which this cannot be done."""

    slug = "REFUSED"

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        """A constant in capitals, for programs, as in `ORDER_ALREADY_SHIPPED`."""
        super().__init__(message)


class Outdated(WeftError):
    """The thing has changed since the caller read it: read it again, and decide anew."""

    slug = "ETAG_MISMATCH"

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} {name!r} has changed, and has another etag now: read it again")


class Unauthenticated(WeftError):
    """The caller does not prove who they are."""

    slug = "UNAUTHENTICATED"

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        """A constant in capitals, for programs, as in `TOKEN_EXPIRED`."""
        super().__init__(message)


class PermissionDenied(WeftError):
    """The caller is known, and may not do this."""

    slug = "PERMISSION_DENIED"


class Exhausted(WeftError):
    """Too much was asked, or too often; the same request may work after `retry_after` seconds."""

    slug = "EXHAUSTED"

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class Unavailable(WeftError):
    """It cannot be done now; the same request may work after `retry_after` seconds."""

    slug = "UNAVAILABLE"

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        self.retry_after = retry_after
        super().__init__(message)


def id_violations(field: str, value: str) -> list[Violation]:
    """Return what is wrong with an id in the field of a request: nothing, or that it is none."""
    return [] if is_id(value) else [Violation(field, "must match [A-Za-z0-9_-]{1,64}")]


def check_id(field: str, value: str) -> str:
    """Return the id in the field of a request. Raises `InvalidInput` if it is none."""
    wrong = id_violations(field, value)
    if wrong:
        raise InvalidInput(*wrong)
    return value


def text_violations(field: str, text: str, longest: int) -> list[Violation]:
    """Return what is wrong with a text: more than `longest` characters, or one that cannot be stored."""
    if len(text) > longest:
        return [Violation(field, f"must be at most {longest} characters long")]
    # PostgreSQL cannot store it.
    return [Violation(field, "must not contain the character NUL")] if "\0" in text else []


def address_violations(field: str, address: PostalAddress) -> list[Violation]:
    """Return what is wrong with a `google.type.PostalAddress`, by the paths of its fields below `field`."""
    wrong: list[Violation] = []
    if not _REGION.fullmatch(address.region_code):
        wrong.append(Violation(f"{field}.region_code", "must be a CLDR region code, as in CH"))
    if not any(text.strip() for text in address.address_lines):
        wrong.append(Violation(f"{field}.address_lines", "must have at least one line"))
    for name in ("address_lines", "recipients"):
        texts = getattr(address, name)
        if len(texts) > MAX_ADDRESS_LINES:
            wrong.append(Violation(f"{field}.{name}", f"must have at most {MAX_ADDRESS_LINES} lines"))
            continue
        for n, text in enumerate(texts):
            wrong += text_violations(f"{field}.{name}[{n}]", text, MAX_ADDRESS_TEXT)
    for name in _ADDRESS_TEXTS:
        wrong += text_violations(f"{field}.{name}", getattr(address, name), MAX_ADDRESS_TEXT)
    return wrong
