"""What keeps a gateway from starting, and what its settings and options say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from pydantic import ValidationError

from gateway.__main__ import options
from gateway.contract.descriptors import Contract
from gateway.gateway import Gateway
from gateway.settings import GatewaySettings
from tests.gateway_probe import PROTO, SERVICE, compiled, probe_files
from weft import CannotStart

if TYPE_CHECKING:
    from collections.abc import Callable

COMMERCE = Path(__file__).parents[2] / "gen" / "commerce.binpb"
PROTO_HEAD = """
syntax = "proto3";
package wrong.v1;
import "google/api/annotations.proto";
message M { string id = 1; repeated string ids = 2; M m = 3; }
service S {
  rpc One(M) returns (M) { option (google.api.http) = {%s}; }
  rpc Two(M) returns (M) { option (google.api.http) = {%s}; }
}
"""
BARE = """
syntax = "proto3";
package bare.v1;
message M {}
service S { rpc One(M) returns (M); }
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Gateway]:
    """Make a gateway of these descriptors, without starting it."""

    def make(files: FileDescriptorSet, service: str = SERVICE) -> Gateway:
        path = tmp_path / "some.binpb"
        path.write_bytes(files.SerializeToString())
        return Gateway(GatewaySettings(gateway_descriptors=path, gateway_backends={service: "127.0.0.1:1"}))

    return make


@pytest.mark.parametrize(
    ("one", "two", "why"),
    [
        ('get: "/v1/{id"', 'get: "/b"', r"wrong.v1.S/One cannot be served: .*expected } .*get: \"/v1/{id\""),
        ('get: "/v1/{nope}"', 'get: "/b"', "S/One cannot be served: wrong.v1.M.nope, which is in the path, is not"),
        ('get: "/v1/{ids}"', 'get: "/b"', "ids is repeated"),
        ('get: "/v1/{m}"', 'get: "/b"', "is a message"),
        ('post: "/v1/a" body: "nope"', 'get: "/b"', "no field nope, which is to be the body"),
        ('get: "/v1/a" response_body: "nope"', 'get: "/b"', "no field nope, which is to be the response body"),
        ('body: "*"', 'get: "/b"', "it has no HTTP method"),
        (
            'get: "/a" additional_bindings {get: "/c" additional_bindings {get: "/d"}}',
            'get: "/b"',
            "must not be nested",
        ),
        ('get: "/v1/{id}"', 'get: "/v1/{m.id}"', "of wrong.v1.S/Two is the same as GET /v1/{id} of wrong.v1.S/One"),
    ],
)
def test_a_rule_that_cannot_be_served_names_the_method_and_the_rule(
    start: Callable[..., Gateway], one: str, two: str, why: str
) -> None:
    with pytest.raises(CannotStart, match=why):
        start(compiled(PROTO_HEAD % (one, two)), "wrong.v1.S")


def test_a_backend_for_a_service_that_is_not_in_the_descriptors_is_refused(start: Callable[..., Gateway]) -> None:
    with pytest.raises(CannotStart, match=r"no.Such is not in .*, which has probe.v1.Elsewhere, probe.v1.Probe"):
        start(probe_files(), "no.Such")


def test_a_contract_without_annotations_is_told_what_to_add(start: Callable[..., Gateway]) -> None:
    with pytest.raises(CannotStart, match=r"nothing to serve: in .* no method of bare.v1.S is annotated: add to a"):
        start(compiled(BARE), "bare.v1.S")


def test_a_server_to_ask_needs_no_backends() -> None:
    settings = GatewaySettings(**options(["--reflect", "h:1", "--no-auth"]))
    assert (settings.gateway_reflect, settings.gateway_descriptors, settings.gateway_backends) == ("h:1", None, {})


def test_files_may_come_in_any_order(start: Callable[..., Gateway]) -> None:
    backwards = FileDescriptorSet(file=reversed(probe_files().file))
    assert len(start(backwards).routes) == 14


def test_a_missing_import_is_named() -> None:
    own = FileDescriptorSet(file=[file for file in probe_files().file if file.package == "probe.v1"])
    with pytest.raises(CannotStart, match=r"lack google/api/annotations.proto: build them with their imports"):
        Contract(own)


def test_descriptors_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="cannot read the descriptors"):
        Contract.load(tmp_path / "none")
    (tmp_path / "text").write_text(PROTO.read_text())
    with pytest.raises(CannotStart, match="is not a FileDescriptorSet"):
        Contract.load(tmp_path / "text")


def test_the_contract_of_the_shop_can_be_served() -> None:
    contract = Contract.load(COMMERCE)
    names = [f"{name}/order" if name in contract.hosted_by else name for name in contract.methods]
    backends = dict.fromkeys(names, "127.0.0.1:1")
    gateway = Gateway(GatewaySettings(gateway_descriptors=COMMERCE, gateway_backends=backends))
    routes = {f"{route.method} {route.path}" for route in gateway.routes}
    assert {"POST /v1/orders", "GET /v1/orders/{order_id}:watch", "PATCH /v1/products/{product.sku}"} <= routes


@pytest.mark.parametrize(
    ("backend", "why"),
    [
        ("weftapi.v1.OperationsService", r"the field service of .*: write weftapi.v1.OperationsService/NAME=h:1, once"),
        ("commerce.order.v1.OrderService/two", r"write commerce.order.v1.OrderService=h:1 without /two"),
    ],
)
def test_a_service_has_a_backend_for_each_host_if_the_contract_says_so(backend: str, why: str) -> None:
    with pytest.raises(CannotStart, match=why):
        Gateway(GatewaySettings(gateway_descriptors=COMMERCE, gateway_backends={backend: "h:1"}))


@pytest.mark.parametrize(
    ("value", "backends"),
    [
        ("a.B=h:1", {"a.B": "h:1"}),
        ("a.B=h:1,c.D=ipv4:1.1.1.1:1,2.2.2.2:2", {"a.B": "h:1", "c.D": "ipv4:1.1.1.1:1,2.2.2.2:2"}),
        (" a.B=ipv4:1.1.1.1:1,2.2.2.2:2 \n c.D=[::1]:2 ", {"a.B": "ipv4:1.1.1.1:1,2.2.2.2:2", "c.D": "[::1]:2"}),
        ("a.B=dns:///h:1; c.D=h:2", {"a.B": "dns:///h:1", "c.D": "h:2"}),
        ("a.B/x=h:1,a.B/y-2=h:2", {"a.B/x": "h:1", "a.B/y-2": "h:2"}),
    ],
)
def test_backends_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, value: str, backends: dict[str, str]
) -> None:
    monkeypatch.setenv("WEFT_GATEWAY_DESCRIPTORS", "x.binpb")
    monkeypatch.setenv("WEFT_GATEWAY_BACKENDS", value)
    monkeypatch.setenv("WEFT_GATEWAY_PORT", "81")
    monkeypatch.setenv("WEFT_GATEWAY_ALLOW_ORIGINS", "https://a.example, http://localhost:5173")
    monkeypatch.setenv("WEFT_LOG_LEVEL", "debug")
    settings = GatewaySettings()
    assert (settings.gateway_backends, settings.gateway_port, settings.log_level) == (backends, 81, "debug")
    assert settings.gateway_allow_origins == ("https://a.example", "http://localhost:5173")


def test_options_of_the_command_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_GATEWAY_PORT", "81")
    monkeypatch.setenv("WEFT_GATEWAY_OPS_PORT", "82")
    monkeypatch.setenv("WEFT_GATEWAY_BACKENDS", "x.Y=h:9")
    line = "--descriptors x.binpb --backend a.B=ipv4:1.1.1.1:1,2.2.2.2:2 --backend c.D=h:2 --port 83 --host 0.0.0.0"
    settings = GatewaySettings(**options(line.split()))
    assert settings.gateway_backends == {"a.B": "ipv4:1.1.1.1:1,2.2.2.2:2", "c.D": "h:2"}
    assert (settings.gateway_host, settings.gateway_port, settings.gateway_ops_port) == ("0.0.0.0", 83, 82)


def test_switches_are_off_unless_they_are_given() -> None:
    least = ["--descriptors", "x.binpb", "--backend", "a.B=h:1"]
    plain = GatewaySettings(**options(least))
    assert (plain.gateway_lenient, plain.gateway_omit_defaults) == (False, False)
    changed = GatewaySettings(**options([*least, "--lenient", "--omit-defaults"]))
    assert (changed.gateway_lenient, changed.gateway_omit_defaults) == (True, True)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"gateway_backends": " "}, "name at least one service"),
        ({"gateway_backends": "a.B"}, "'a.B' must look like pkg.v1.Service=host:port"),
        ({"gateway_backends": "a.B=h:1 a.B=h:2"}, "a.B is there twice"),
        ({"gateway_backends": "a B=h:1"}, "must look like"),
        ({"gateway_backends": "1a=h:1"}, "is not the full name of a service"),
        ({"gateway_backends": "a.B=h"}, "the target of a.B must look like host:port"),
        ({"gateway_allow_origins": "shop.example"}, "must look like https://shop.example"),
        ({"gateway_allow_origins": "https://shop.example/"}, "must look like https://shop.example"),
        ({"gateway_port": "65536"}, "less than or equal to 65535"),
        ({"gateway_reflect": "h:1"}, "or a server to ask for them, with --reflect host:port .*: one of the two"),
        ({"gateway_descriptors": None}, "name the services' descriptors, with --descriptors FILE"),
        ({"gateway_descriptors": None, "gateway_reflect": "h"}, "must look like host:port, and is 'h'"),
    ],
)
def test_a_wrong_setting_says_what_it_must_be(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        GatewaySettings(**{"gateway_descriptors": "x", "gateway_backends": "a.B=h:1"} | changed)
