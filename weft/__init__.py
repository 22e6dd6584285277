"""Weft's chassis: what a service stands on. A service uses these names, and `weft.domain` in its domain.

Names are imported when they are first used, so that a program pays only for what it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weft.breaker import CircuitBreaker
    from weft.changes import Changes
    from weft.clock import Clock, from_micros, micros
    from weft.consumer import Subscription, loads
    from weft.grpc_client import connect
    from weft.intents import Intent, Timer
    from weft.service import Service, run
    from weft.settings import ServiceSettings
    from weft.startup import CannotStart
    from weft.store import EventStore, Store
    from weft.work import Load, UnitOfWork
    from weft.writer import Reader, Writer

_HOME = {
    "CannotStart": "weft.startup",
    "Changes": "weft.changes",
    "CircuitBreaker": "weft.breaker",
    "Clock": "weft.clock",
    "EventStore": "weft.store",
    "Intent": "weft.intents",
    "Load": "weft.work",
    "Reader": "weft.writer",
    "Service": "weft.service",
    "ServiceSettings": "weft.settings",
    "Store": "weft.store",
    "Subscription": "weft.consumer",
    "Timer": "weft.intents",
    "UnitOfWork": "weft.work",
    "Writer": "weft.writer",
    "connect": "weft.grpc_client",
    "from_micros": "weft.clock",
    "loads": "weft.consumer",
    "micros": "weft.clock",
    "run": "weft.service",
}

__all__ = [
    "CannotStart",
    "Changes",
    "CircuitBreaker",
    "Clock",
    "EventStore",
    "Intent",
    "Load",
    "Reader",
    "Service",
    "ServiceSettings",
    "Store",
    "Subscription",
    "Timer",
    "UnitOfWork",
    "Writer",
    "connect",
    "from_micros",
    "loads",
    "micros",
    "run",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'weft' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value
