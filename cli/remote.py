"""Reaches the services of a running system, and turns their refusals into lines for people."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import grpc
from google.rpc import error_details_pb2, status_pb2

from cli.data import DEFAULT_DATA, DataDirectory
from cli.errors import REFUSED, Problem
from cli.probes import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TIMEOUT = 15.0
"""Seconds that a call may take."""
CHANNEL_OPTIONS = (("grpc.enable_http_proxy", 0),)
"""No proxy stands between this machine and itself."""
_CONNECT = 5.0
_DETAILS = "grpc-status-details-bin"


def find_service(data: Path, service: str) -> str:
    """Return `host:port` of a service's gRPC in the system that runs in `data`.

    Raises `Problem` if nothing runs there.
    """
    directory = DataDirectory.at(data)
    run = directory.read_run()
    if run is None or directory.holder() is None:
        option = "" if data == DEFAULT_DATA else f" --data {data}"
        raise Problem(f"nothing runs in {directory.path}; start it with `weft up{option}`.")
    for process in run["processes"]:
        if process["name"] == service:
            return f"{LOOPBACK}:{process['ports']['grpc']}"
    raise Problem(f"{directory.run_file} names no {service} service.")


@contextmanager
def reach(service: str, data: Path, address: str | None = None) -> Iterator[grpc.Channel]:
    """Yield a channel to a service, at `address` or in the system that runs in `data`.

    Within it a failed call becomes a `Problem` that says what the service answered.
    """
    target = address or find_service(data, service)
    with grpc.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
        try:
            grpc.channel_ready_future(channel).result(_CONNECT)
        except grpc.FutureTimeoutError:
            raise Problem(f"the {service} service does not answer at {target}; does `weft up` run?") from None
        try:
            yield channel
        except grpc.RpcError as error:
            raise Problem(explain(error), REFUSED) from error


def explain(error: grpc.RpcError) -> str:
    """Say for people what a failed call answered: each wrong field on a line of its own."""
    call = cast("grpc.Call", error)
    code, message = call.code().name, call.details() or "no reason given"
    violations = [f"  {v.field}: {v.description}" for v in _violations(call)]
    return "\n".join([f"{code}: not accepted", *violations]) if violations else f"{code}: {message}"


def _violations(call: grpc.Call) -> list[error_details_pb2.BadRequest.FieldViolation]:
    found: list[error_details_pb2.BadRequest.FieldViolation] = []
    for packed in _status(call).details:
        detail = error_details_pb2.BadRequest()
        if packed.Unpack(detail):
            found += detail.field_violations
    return found


def _status(call: grpc.Call) -> status_pb2.Status:
    for key, value in call.trailing_metadata() or ():
        if key == _DETAILS and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    return status_pb2.Status()
