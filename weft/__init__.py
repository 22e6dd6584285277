"""Weft's chassis: what a service stands on.

A service uses the names below; its domain uses `weft.domain` alone, and teams' tests use `weft.testing`. A checker
holds services to that. Behind them, by concept:

    data         database  tables  sql  store  work (unit of work)  writer (and readers)  answers (kept)
                 changes  migrations/
    events       events (CloudEvents)  broker  wire  _nats (nats-py)  relay (outbox)  pull  consumer (inbox)  parking
                 letters
    read models  views (their rows and functions)  row_store  builds  feeder  read_models
    losses       acknowledged (by the broker)  lost (events)  recovery (by hand)  scan (of a stream)
    callers      identity  access (rules of the contract)  tokens (JWT, the issuer's keys)
    promises     intents (calls to the outside, timers)  leases
    gRPC         grpc_server  grpc_calls  idempotency (keys)  call_metrics  grpc_client  status (errors)  health
                 deadlines  breaker  pages
    operators    operations (their rpcs)  letter_box  letter_queries  letter_messages  inspection  actions
                 backlog  progress (of consumers)
    operations   service (start to drain)  process (from start to end)  settings  secret_files  startup  ops
                 http_server  ports  tasks  clock  crash_points
    to be seen   logs  tracing  trace_context
    servers      embedded (a real NATS and PostgreSQL as child processes), with _child, _attached, _postgres

Names are imported when they are first used, so that a program pays only for what it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weft import deadlines, identity, logs, pages
    from weft.breaker import CircuitBreaker
    from weft.changes import Changes, Watch
    from weft.clock import Clock, from_micros, micros, timestamp
    from weft.consumer import Subscription, loads
    from weft.grpc_client import connect
    from weft.intents import Intent, Timer
    from weft.process import run
    from weft.read_models import ModelReader
    from weft.service import Service
    from weft.settings import Environment, ServiceSettings
    from weft.startup import CannotStart
    from weft.store import EventStore, Store
    from weft.tracing import Tracing
    from weft.views import Build, Projection, ReadModel, Rows, View
    from weft.work import Load, UnitOfWork
    from weft.writer import Reader, Writer

_HOME = {
    "Build": "weft.views",
    "CannotStart": "weft.startup",
    "Changes": "weft.changes",
    "CircuitBreaker": "weft.breaker",
    "Clock": "weft.clock",
    "Environment": "weft.settings",
    "EventStore": "weft.store",
    "Intent": "weft.intents",
    "Load": "weft.work",
    "ModelReader": "weft.read_models",
    "Projection": "weft.views",
    "ReadModel": "weft.views",
    "Reader": "weft.writer",
    "Rows": "weft.views",
    "Service": "weft.service",
    "ServiceSettings": "weft.settings",
    "Store": "weft.store",
    "Subscription": "weft.consumer",
    "Timer": "weft.intents",
    "Tracing": "weft.tracing",
    "UnitOfWork": "weft.work",
    "View": "weft.views",
    "Watch": "weft.changes",
    "Writer": "weft.writer",
    "connect": "weft.grpc_client",
    "from_micros": "weft.clock",
    "loads": "weft.consumer",
    "micros": "weft.clock",
    "run": "weft.process",
    "timestamp": "weft.clock",
}

__all__ = [
    "Build",
    "CannotStart",
    "Changes",
    "CircuitBreaker",
    "Clock",
    "Environment",
    "EventStore",
    "Intent",
    "Load",
    "ModelReader",
    "Projection",
    "ReadModel",
    "Reader",
    "Rows",
    "Service",
    "ServiceSettings",
    "Store",
    "Subscription",
    "Timer",
    "Tracing",
    "UnitOfWork",
    "View",
    "Watch",
    "Writer",
    "connect",
    "deadlines",
    "from_micros",
    "identity",
    "loads",
    "logs",
    "micros",
    "pages",
    "run",
    "timestamp",
]


def __getattr__(name: str) -> Any:
    if name in ("deadlines", "identity", "logs", "pages"):
        return import_module(f"weft.{name}")
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'weft' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value
