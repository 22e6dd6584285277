"""`python -m gateway --descriptors FILE.binpb --backend pkg.v1.Service=host:port` serves gRPC services as REST."""

from __future__ import annotations

import argparse
from typing import Any

from gateway.gateway import Gateway
from gateway.settings import GatewaySettings
from weft import run


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
    return {f"gateway_{name}": value for name, value in vars(parser.parse_args(arguments)).items()}


if __name__ == "__main__":
    chosen = options()
    run(lambda: [Gateway(GatewaySettings(**chosen))])
