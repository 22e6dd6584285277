"""`python -m gateway --descriptors FILE.binpb --backend pkg.v1.Service=host:port` serves gRPC services as REST.

`--reflect host:port` asks the server there what it has, and serves that.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from gateway.gateway import Gateway
from gateway.settings import GatewaySettings
from weft import logs, run

_SHARED = frozenset({"jwks_url"})
"""Options whose settings services have as well."""


def options(arguments: list[str] | None = None) -> dict[str, Any]:
    """Return what the command line sets, by the names of the settings; the environment sets the rest."""
    parser = argparse.ArgumentParser(
        prog="python -m gateway",
        description="Serve gRPC services as REST and JSON, as the google.api.http annotations of their contract say.",
        epilog="Each option can be set in the environment as well, as in WEFT_GATEWAY_PORT; so can limits and times.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--descriptors", metavar="FILE", help="FileDescriptorSet of the services, with its imports")
    parser.add_argument(
        "--reflect",
        metavar="TARGET",
        help="instead: server, as host:port, whose gRPC reflection describes its services",
    )
    parser.add_argument(
        "--backend",
        dest="backends",
        action="append",
        metavar="SERVICE=TARGET",
        help="where a service is, as in pkg.v1.Service=host:port, or pkg.v1.Service/name=host:port for one of its "
        "hosts; may be repeated",
    )
    parser.add_argument("--host", help="address on which to listen (127.0.0.1)")
    parser.add_argument("--port", metavar="N", help="port on which to listen (8080); 0 takes any free one")
    parser.add_argument("--ops-port", metavar="N", help="port of /livez, /readyz and /metrics (any free one)")
    parser.add_argument(
        "--allow-origin",
        dest="allow_origins",
        action="append",
        metavar="ORIGIN",
        help="origin whose pages may call from a browser; may be repeated",
    )
    parser.add_argument("--jwks-url", metavar="URL", help="where the issuer of the callers' tokens publishes its keys")
    parser.add_argument(
        "--no-auth", dest="auth", action="store_false", help="look at no token: the services do so, or need none"
    )
    parser.add_argument(
        "--pass-header",
        dest="pass_headers",
        action="append",
        metavar="NAME",
        help="request header that passes on to the services as metadata; may be repeated",
    )
    for option, text in (
        ("--omit-defaults", "leave fields that have their default value out of answers"),
        ("--lenient", "pass over query parameters and JSON fields that are not known"),
    ):
        parser.add_argument(option, action="store_true", help=text)
    chosen = vars(parser.parse_args(arguments))
    return {name if name in _SHARED else f"gateway_{name}": value for name, value in chosen.items()}


def build(chosen: dict[str, Any]) -> list[Gateway]:
    """Make the gateway; logging first, as it may have to wait for a server that is to describe itself."""
    settings = GatewaySettings(**chosen)
    logs.configure(level=settings.log_level, format=settings.log_format)
    return [Gateway(settings)]


if __name__ == "__main__":
    chosen = options()
    try:
        run(lambda: build(chosen))
    except KeyboardInterrupt:
        sys.exit(130)
