"""The money that moved: every charge and refund, durable before anybody hears of it."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_VERSION = 1
_SCHEMA = """
BEGIN;
CREATE TABLE charges (
    id TEXT PRIMARY KEY,
    idempotency_key TEXT NOT NULL UNIQUE,
    request_hash TEXT NOT NULL,
    reference TEXT NOT NULL,
    currency TEXT NOT NULL,
    nanos INTEGER NOT NULL CHECK (nanos > 0),
    decline_reason TEXT,
    created INTEGER NOT NULL
);
CREATE INDEX charges_by_reference ON charges (reference);
CREATE TABLE refunds (
    id TEXT PRIMARY KEY,
    idempotency_key TEXT NOT NULL UNIQUE,
    charge_id TEXT NOT NULL UNIQUE REFERENCES charges (id),
    created INTEGER NOT NULL
);
PRAGMA user_version = 1;
COMMIT;
"""
_CHARGE = """
SELECT c.id, c.reference, c.currency, c.nanos, c.decline_reason, c.created, c.request_hash, r.id IS NOT NULL
FROM charges c LEFT JOIN refunds r ON r.charge_id = c.id
"""
_REFUND = """
SELECT r.id, r.charge_id, c.reference, c.currency, c.nanos, r.created, r.idempotency_key
FROM refunds r JOIN charges c ON c.id = r.charge_id
"""


class LedgerUnusable(Exception):
    """The ledger's file cannot be used; the message says why and what to do, in one line."""


class KeyReused(Exception):
    """The idempotency key was used before, for another request."""


class NotRefundable(Exception):
    """There is nothing to give back; `refund` is the one that was made already, if it is that."""

    def __init__(self, refund: Refund | None) -> None:
        self.refund = refund
        super().__init__("the charge was refunded already" if refund else "the charge was declined")


@dataclass(frozen=True, slots=True)
class Charge:
    """An attempt to take `nanos` billionths of `currency`; it failed if there is a `decline_reason`."""

    id: str
    reference: str
    currency: str
    nanos: int
    decline_reason: str | None
    created: int
    """Microseconds since the epoch, UTC."""
    request_hash: str
    refunded: bool


@dataclass(frozen=True, slots=True)
class Refund:
    """The whole amount of a charge, given back."""

    id: str
    charge_id: str
    reference: str
    currency: str
    nanos: int
    created: int
    idempotency_key: str


class Ledger:
    """Charges and refunds in one SQLite file, for one thread; several processes may share the file."""

    def __init__(self, path: Path) -> None:
        """Open `path`, or make it. Raises `LedgerUnusable`."""
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            version = self._configure()
        except sqlite3.Error as error:
            message = f"the ledger {path} cannot be used ({error}): is its folder there?"
            raise LedgerUnusable(message) from error
        if version > _VERSION:
            self._db.close()
            raise LedgerUnusable(f"the ledger {path} is of a newer sandbox: update, or name another file")
        if version == 0:
            self._db.executescript(_SCHEMA)

    def _configure(self) -> int:
        for pragma in (
            "busy_timeout = 5000",
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
        ):
            self._db.execute(f"PRAGMA {pragma}")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        return int(version)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def charge(
        self,
        key: str,
        request_hash: str,
        *,
        reference: str,
        currency: str,
        nanos: int,
        decline_reason: str | None,
    ) -> tuple[Charge, bool]:
        """Record a charge once per `key`; return it, and whether it is new.

        Raises `KeyReused` if the key was used for a request with another hash.
        """
        row = (_new_id("ch"), key, request_hash, reference, currency, nanos, decline_reason, _now())
        statement = "INSERT INTO charges VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (idempotency_key) DO NOTHING"
        is_new = self._db.execute(statement, row).rowcount == 1
        charge = self.charge_by_key(key)
        if charge is None or charge.request_hash != request_hash:
            raise KeyReused(key)
        return charge, is_new

    def charge_by_key(self, key: str) -> Charge | None:
        """Return the charge that was asked for with `key`."""
        return self._charge("WHERE c.idempotency_key = ?", key)

    def charge_by_id(self, charge_id: str) -> Charge | None:
        """Return the charge with this id."""
        return self._charge("WHERE c.id = ?", charge_id)

    def refund(self, key: str, charge: Charge) -> Refund:
        """Give the whole charge back, once; the same key gets the same refund again.

        Raises `KeyReused` if the key was used for another charge, `NotRefundable` if the charge was declined,
        or refunded under another key.
        """
        if charge.decline_reason is not None:
            raise NotRefundable(None)
        statement = "INSERT INTO refunds VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
        self._db.execute(statement, (_new_id("re"), key, charge.id, _now()))
        ours = self._refund("WHERE r.idempotency_key = ?", key)
        if ours is None:
            raise NotRefundable(self._refund("WHERE r.charge_id = ?", charge.id))
        if ours.charge_id != charge.id:
            raise KeyReused(key)
        return ours

    def entries(self, reference: str | None = None) -> tuple[list[Charge], list[Refund]]:
        """Return every charge and refund, of one reference or of all, oldest first."""
        where, values = ("WHERE c.reference = ?", (reference,)) if reference is not None else ("", ())
        charges = self._db.execute(f"{_CHARGE} {where} ORDER BY c.created, c.id", values)
        refunds = self._db.execute(f"{_REFUND} {where} ORDER BY r.created, r.id", values)
        return [_charge(row) for row in charges], [Refund(*row) for row in refunds]

    def _charge(self, where: str, value: str) -> Charge | None:
        row = self._db.execute(f"{_CHARGE} {where}", (value,)).fetchone()
        return _charge(row) if row else None

    def _refund(self, where: str, value: str) -> Refund | None:
        row = self._db.execute(f"{_REFUND} {where}", (value,)).fetchone()
        return Refund(*row) if row else None


def net(charges: list[Charge], refunds: list[Refund]) -> dict[str, dict[str, int]]:
    """Return what was kept, in nanos by reference and currency, of every reference that was ever charged."""
    sums: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for charge in charges:
        sums[charge.reference][charge.currency] += 0 if charge.decline_reason else charge.nanos
    for refund in refunds:
        sums[refund.reference][refund.currency] -= refund.nanos
    return sums


def _charge(row: tuple[str, str, str, int, str | None, int, str, int]) -> Charge:
    return Charge(*row[:7], refunded=bool(row[7]))


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def _now() -> int:
    return time.time_ns() // 1000
