"""What the gateway says of itself: the document of awkward messages, and of the commerce API; its pages."""

from __future__ import annotations

import json
import zlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest
from hypothesis import given
from openapi_spec_validator import validate

from gateway.contract.comments import comments_of, first_sentence
from gateway.contract.descriptors import Contract
from gateway.messages.codec import Codec
from gateway.openapi import describe, site
from gateway.openapi.constraints import limits
from gateway.pages import index
from tests.gateway_probe import compiled, probe
from tests.unit.test_gateway_writing import messages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

    Schema = dict[str, Any]

COMMERCE = Path(__file__).parents[2] / "gen" / "commerce.binpb"
_METHODS = {"get", "put", "post", "delete", "patch"}

AWKWARD = """
syntax = "proto3";
package awkward.v1;
import "google/api/annotations.proto";
import "google/api/field_behavior.proto";
import "google/api/httpbody.proto";
import "google/protobuf/wrappers.proto";
service Awkward {
  rpc Get(Node) returns (Node) { option (google.api.http) = {get: "/v1/{name=shelves/*/books/*}:read"}; }
  rpc Files(Node) returns (Node) { option (google.api.http) = {get: "/v1/files/{name=**}"}; }
  rpc File(Node) returns (Node) { option (google.api.http) = {get: "/v1/files/{name}"}; }
  rpc Make(Node) returns (Node) { option (google.api.http) = {post: "/v1/nodes/*" body: "*"}; }
  rpc Anything(Node) returns (Node) {
    option (google.api.http) = {custom {kind: "*" path: "/v1/anything"} response_body: "weight"};
  }
  rpc Weigh(Node) returns (Node) { option (google.api.http) = {get: "/v1/weight" response_body: "weight"}; }
  rpc Raw(google.api.HttpBody) returns (google.api.HttpBody) {
    option (google.api.http) = {post: "/v1/raw" body: "*"};
  }
  rpc Collect(stream Node) returns (Node) { option (google.api.http) = {post: "/v1/collect" body: "*"}; }
}
message Node {
  string name = 1 [(google.api.field_behavior) = REQUIRED];
  Node child = 2;
  repeated Node children = 3;
  map<string, int64> sizes = 4;
  google.protobuf.DoubleValue weight = 5;
  string made_by = 6 [(google.api.field_behavior) = OUTPUT_ONLY];
  string old = 7 [deprecated = true];
  oneof kind { string text = 8; Leaf leaf = 9; }
}
message Leaf { int32 size = 1; Node parent = 2; }
"""


@cache
def commerce() -> Schema:
    contract = Contract.load(COMMERCE)
    return describe(contract, contract.methods)


@cache
def probed() -> Schema:
    return describe(probe(), ["probe.v1.Probe"])


@cache
def awkward() -> Schema:
    return describe(Contract(compiled(AWKWARD)), ["awkward.v1.Awkward"])


def operations(document: Schema) -> Iterator[tuple[str, str, Schema]]:
    for path, item in document["paths"].items():
        for method in item.keys() & _METHODS:
            yield method, path, item[method]


def parameters(operation: Schema) -> dict[str, Schema]:
    return {one["name"]: one for one in operation.get("parameters", ())}


def example(operation: Schema) -> Any:
    return operation["requestBody"]["content"]["application/json"]["example"]


def validator(document: Schema, schema: Schema) -> jsonschema_rs.Validator:
    """Return what checks against a schema, which may refer to the components of its document."""
    return jsonschema_rs.Draft202012Validator({**schema, "components": document["components"]})


@pytest.mark.parametrize("document", [commerce, probed, awkward])
def test_the_document_is_openapi(document: Any) -> None:
    validate(document())
    names = [operation["operationId"] for _, _, operation in operations(document())]
    assert len(names) == len(set(names))
    assert json.loads(json.dumps(document())) == document()


@pytest.mark.parametrize("document", [commerce, probed, awkward])
def test_every_example_is_as_its_schema_says(document: Any) -> None:
    shown = 0
    for _, path, operation in operations(document()):
        contents = [operation.get("requestBody", {}), *operation["responses"].values()]
        for one in (media for content in contents for media in content.get("content", {}).values()):
            if "example" in one:
                shown += 1
                assert not [*validator(document(), one["schema"]).iter_errors(one["example"])], (path, one)
        for one in operation.get("parameters", ()):
            if "example" in one:
                assert validator(document(), one["schema"]).is_valid(one["example"]), (path, one)
    assert shown


@given(messages())
def test_what_the_gateway_writes_is_as_the_schema_of_the_message_says(made: tuple[Contract, Message]) -> None:
    contract, message = made
    if contract is probe():
        written = json.loads(Codec(contract.pool).write(message))
        schema = {"$ref": "#/components/schemas/probe.v1.Everything"}
        faults = [one.message for one in validator(probed(), schema).iter_errors(written)]
        assert not [one for one in faults if "COLOUR_" not in one and 'not of type "string"' not in one]


def test_every_route_of_the_shop_is_there_and_says_what_its_comments_say() -> None:
    document = commerce()
    contract = Contract.load(COMMERCE)
    annotated = [method for methods in contract.methods.values() for method in methods if method.rule is not None]
    assert len([*operations(document)]) == len(annotated)
    order = document["paths"]["/v1/orders/{orderId}:cancel"]["post"]
    assert order["summary"].startswith("Cancels a PENDING order at once; asks shipping about a CONFIRMED one")
    assert order["tags"] == ["OrderService"]
    assert order["responses"]["400"]["description"] == "FAILED_PRECONDITION once it is shipped."
    tags = {one["name"]: one["description"] for one in document["tags"]}
    assert tags["OrderService"] == "Orders, and the flow that takes each from the customer to the door."
    state = document["components"]["schemas"]["commerce.order.v1.OrderState"]
    assert "- `ORDER_STATE_SHIPPED`: On its way; it can no longer be cancelled." in state["description"]


def test_who_may_call_an_operation_is_said() -> None:
    paths = commerce()["paths"]
    assert paths["/v1/products"]["get"]["security"] == []
    assert "401" not in paths["/v1/products"]["get"]["responses"]
    assert paths["/v1/products"]["post"]["security"] == [{"bearer": ["admin"]}]
    assert "For admins alone." in paths["/v1/products"]["post"]["description"]
    assert paths["/v1/orders"]["get"]["security"] == [{"bearer": []}]
    assert {"401", "403"} <= paths["/v1/orders"]["get"]["responses"].keys()


def test_a_gateway_that_verifies_no_tokens_says_nothing_of_them() -> None:
    document = describe(probe(), ["probe.v1.Probe"], guarded=False)
    assert "securitySchemes" not in document["components"]
    for _, _, operation in operations(document):
        assert "security" not in operation
        assert not {"401", "403"} & operation["responses"].keys()
        assert "access_token" not in parameters(operation)


def test_what_an_operation_can_beyond_its_messages_is_said() -> None:
    paths = commerce()["paths"]
    create = paths["/v1/orders"]["post"]
    assert parameters(create)["Idempotency-Key"]["in"] == "header"
    assert "422" in create["responses"]
    watch = paths["/v1/orders/{orderId}:watch"]["get"]
    assert {"Last-Event-ID", "access_token", "afterPosition"} <= parameters(watch).keys()
    assert watch["responses"]["200"]["content"].keys() == {"text/event-stream", "application/x-ndjson"}
    product = paths["/v1/products/{sku}"]
    assert "If-None-Match" in parameters(product["get"])
    assert "ETag" in product["get"]["responses"]["200"]["headers"]
    assert "304" in product["get"]["responses"]
    assert "If-Match" in parameters(product["patch"])
    assert "412" in product["patch"]["responses"]
    assert "Idempotency-Key" not in parameters(product["patch"])


def test_secrets_are_typed_in_and_never_read() -> None:
    schemas = commerce()["components"]["schemas"]
    password = schemas["commerce.user.v1.SignInRequest"]["properties"]["password"]
    assert (password["format"], password["writeOnly"]) == ("password", True)
    assert "format" not in schemas["commerce.user.v1.SignInRequest"]["properties"]["email"]
    assert "writeOnly" not in schemas["commerce.user.v1.Session"]["properties"]["accessToken"]


def test_what_is_only_sent_is_closed_and_what_comes_back_is_open() -> None:
    schemas = commerce()["components"]["schemas"]
    assert schemas["commerce.order.v1.CreateOrderRequest"]["additionalProperties"] is False
    assert "additionalProperties" not in schemas["commerce.order.v1.Order"]
    assert "additionalProperties" not in schemas["google.rpc.ErrorInfo"]
    contract = Contract.load(COMMERCE)
    lenient = describe(contract, ["commerce.order.v1.OrderService"], lenient=True)["components"]["schemas"]
    assert "additionalProperties" not in lenient["commerce.order.v1.CreateOrderRequest"]


def test_what_only_comes_back_has_every_field_unless_defaults_are_left_out() -> None:
    order = commerce()["components"]["schemas"]["commerce.order.v1.Order"]
    assert order["required"] == ["orderId", "userId", "state", "cancelReason", "lines"]  # Others may be absent.
    assert "required" not in commerce()["components"]["schemas"]["commerce.product.v1.Product"]
    contract = Contract.load(COMMERCE)
    sparse = describe(contract, ["commerce.order.v1.OrderService"], omits_defaults=True)["components"]["schemas"]
    assert "required" not in sparse["commerce.order.v1.Order"]


def test_the_example_of_a_request_is_one_that_the_shop_takes() -> None:
    paths = commerce()["paths"]
    order = example(paths["/v1/orders"]["post"])
    assert (order["lines"], order["paymentToken"]) == ([{"sku": "sample-mug", "quantity": 1}], "tok_ok")
    assert example(paths["/v1/orders/{orderId}:cancel"]["post"]) == {}  # A note is for operators.
    assert example(paths["/v1/users/{userId}"]["patch"]).keys() == {"displayName", "address"}
    # A key that a page fills in by itself would be the same for every order.
    assert "example" not in parameters(paths["/v1/orders"]["post"])["Idempotency-Key"]
    shown = paths["/v1/orders"]["post"]["responses"]["200"]["content"]["application/json"]["example"]
    assert (shown["state"], shown["cancelReason"]) == ("ORDER_STATE_PENDING", "CANCEL_REASON_UNSPECIFIED")


def test_comments_call_fields_as_json_does() -> None:
    update = commerce()["paths"]["/v1/users/{userId}"]["patch"]
    assert update["summary"].startswith("Changes the fields that updateMask names")
    assert "of `displayName` and `address`" in parameters(update)["updateMask"]["description"]
    action = commerce()["components"]["schemas"]["weftapi.v1.Action"]["properties"]["action"]
    assert "as `cancel_order`" in action["description"]  # Which is no field.


def test_every_schema_is_used() -> None:
    for document in (commerce(), probed(), awkward()):
        text = json.dumps(document)
        assert not [name for name in document["components"]["schemas"] if f'schemas/{name}"' not in text]


def test_a_body_has_not_what_the_path_has() -> None:
    update = commerce()["paths"]["/v1/products/{sku}"]["patch"]
    schema = commerce()["components"]["schemas"]["ProductService_UpdateProduct.Body"]
    assert update["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("_UpdateProduct.Body")
    assert "sku" not in schema["properties"]
    assert "title" in schema["properties"]
    cancel = commerce()["components"]["schemas"]["OrderService_CancelOrder.Body"]
    assert cancel["properties"].keys() == {"operatorNote"}


def test_query_parameters_are_those_that_the_gateway_takes() -> None:
    found = parameters(probed()["paths"]["/v1/everything"]["get"])
    assert found["aString"]["schema"] == {"type": "string"}
    assert not [name for name in found if name.startswith("within")]  # Or else it would never end.
    assert found["manyInts"]["schema"]["type"] == "array"
    assert found["manyEnums"]["schema"]["items"] == {"$ref": "#/components/schemas/probe.v1.Colour"}
    assert (found["labels"]["style"], found["labels"]["schema"]["type"]) == ("deepObject", "object")
    assert found["aTime"]["schema"]["format"] == "date-time"
    assert found["aWrappedInt"]["schema"]["format"] == "int64"
    assert found["third.units"]["schema"]["type"] == "string"
    assert not found.keys() & {"manyPrices", "prices", "aStruct", "aValue", "aList", "anAny", "third"}


def test_methods_of_one_path_share_its_names() -> None:
    paths = probed()["paths"]
    assert {"get", "patch"} <= paths["/v1/things/{id}"].keys()
    assert parameters(paths["/v1/things/{id}"]["patch"])["id"]["in"] == "path"
    assert (
        "There is also PURGE /v1/things/{id}, which is `probe.v1.Probe/PurgeThing`."
        in (paths["/v1/things/{id}"]["description"])
    )


def test_wildcards_are_parameters_and_the_rest_of_a_pattern_is_spelled_out() -> None:
    assert "/v1/shelves/{shelf}/things/{id}" in probed()["paths"]
    read = awkward()["paths"]["/v1/shelves/{name1}/books/{name2}:read"]["get"]
    assert "`shelves/*/books/*`" in parameters(read)["name1"]["description"]
    assert "/v1/nodes/{segment}" in awkward()["paths"]
    files = awkward()["paths"]["/v1/files/{name}"]
    assert "its slashes are sent as they are" in parameters(files["get"])["name"]["description"]
    assert "There is also GET /v1/files/{name}, which is `awkward.v1.Awkward/File`." in files["description"]
    assert "There is also any other method" in awkward()["paths"]["/v1/anything"]["description"]


def test_messages_refer_to_each_other_however_they_are_nested() -> None:
    node = awkward()["components"]["schemas"]["awkward.v1.Node"]
    assert node["properties"]["child"] == {"$ref": "#/components/schemas/awkward.v1.Node"}
    assert node["properties"]["sizes"]["additionalProperties"]["format"] == "int64"
    assert node["required"] == ["name"]
    assert node["properties"]["madeBy"]["readOnly"] is True
    assert node["properties"]["old"]["deprecated"] is True


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ({"name": "a"}, True),
        ({"name": "a", "text": "b"}, True),
        ({"name": "a", "leaf": {"size": 1}}, True),
        ({"name": "a", "text": "b", "leaf": {}}, False),
        ({"text": "b"}, False),
        ({"name": "a", "weight": "NaN"}, True),
        ({"name": "a", "weight": None}, True),
        ({"name": "a", "weight": "heavy"}, False),
        ({"name": "a", "sizes": {"x": "1"}}, True),
        ({"name": "a", "sizes": {"x": 1}}, False),
    ],
)
def test_a_schema_takes_what_the_json_of_a_message_is(value: Any, fits: bool) -> None:
    schema = {"$ref": "#/components/schemas/awkward.v1.Node"}
    assert validator(awkward(), schema).is_valid(value) is fits


def test_bytes_as_they_are_and_streams_of_clients_are_told_apart_from_json() -> None:
    raw = awkward()["paths"]["/v1/raw"]["post"]
    assert raw["requestBody"]["content"].keys() == raw["responses"]["200"]["content"].keys() == {"*/*"}
    collect = awkward()["paths"]["/v1/collect"]["post"]
    assert "200" not in collect["responses"]
    assert "501" in collect["responses"]
    weight = awkward()["paths"]["/v1/weight"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert {"type": "null"} in weight["anyOf"]


def field_with(comment: str, kind: str) -> Schema:
    files = compiled(f'syntax = "proto3"; package p; message M {{ {kind} f = 1; }}')
    return limits(Contract(files).pool.FindMessageTypeByName("p.M").fields_by_name["f"], comment)


@pytest.mark.parametrize(
    ("comment", "kind", "found"),
    [
        ("How many: 1 to 10000.", "int32", {"minimum": 1, "maximum": 10000}),
        ("How many: 1 to 1000; 0 means 50.", "int32", {"minimum": 0, "maximum": 1000}),
        ("How many, at most 1000; 0 for 50.", "uint32", {"maximum": 1000}),
        ("What to order: 1 to 100 lines.", "repeated string", {"minItems": 1, "maxItems": 100}),
        ("At most 200 skus.", "repeated string", {"maxItems": 200}),
        ("The password: 8 to 128 characters.", "string", {"minLength": 8, "maxLength": 128}),
        ("At most 200 characters.", "string", {"maxLength": 200}),
        ("A name: `[a-z]{1,9}`, for ever.", "string", {"pattern": "^[a-z]{1,9}$"}),
        ("For the next part, as at most 1000 are taken at once.", "string", {}),
        ("Grows from 1 to 60.", "int32", {}),
        ("Used by versions 1 to 3.", "string", {}),
        ("As in `[...]`, or not.", "string", {}),
        ("How many: 1 to 10.", "int64", {}),
        ("How many: 1 to 10.", "bool", {}),
    ],
)
def test_a_comment_limits_values_only_where_it_clearly_says_so(comment: str, kind: str, found: Schema) -> None:
    assert field_with(comment, kind) == found


def test_comments_are_found_where_descriptors_have_them() -> None:
    comments = Contract.load(COMMERCE).comments
    assert comments["commerce.order.v1.Order.order_id"] == "The order's id, a UUIDv7."
    assert comments["commerce.order.v1.OrderState.ORDER_STATE_SHIPPED"].startswith("On its way")
    assert comments_of(compiled('syntax = "proto3"; /* lost */ message M {}').file) == {}
    assert first_sentence("Ends `a`,\nor not. Or so.") == "Ends a, or not"


async def ask(path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    scope: Any = {"headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]}
    status, found, body = await PAGES[path](scope)
    return status, {name.decode(): value.decode() for name, value in found}, body


PAGES = site({"openapi": "3.1.0", "info": {"title": "<A> & B"}, "paths": {}})


async def test_the_document_is_sent_once_and_asked_for_again() -> None:
    status, headers, body = await ask("/openapi.json")
    assert (status, headers["content-type"], headers["cache-control"]) == (200, "application/json", "no-cache")
    assert json.loads(body)["openapi"] == "3.1.0"
    assert (await ask("/openapi.json", if_none_match=headers["etag"]))[::2] == (304, b"")
    assert (await ask("/openapi.json", if_none_match='"another"'))[0] == 200
    _, packed, small = await ask("/openapi.json", accept_encoding="gzip")
    assert packed["content-encoding"] == "gzip"
    assert zlib.decompress(small, wbits=31) == body


async def test_the_page_lets_nothing_in_but_what_is_served_beside_it() -> None:
    _, headers, body = await ask("/docs")
    page = body.decode()
    assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert "<title>&lt;A&gt; &amp; B</title>" in page
    assert "//" not in page
    for path in PAGES.keys() - {"/docs", "/openapi.json"}:
        assert path.removeprefix("/") in page
        _, headers, asset = await ask(path)
        assert "immutable" in headers["cache-control"]
        assert asset


async def test_the_root_sends_people_to_the_page_and_programs_to_both() -> None:
    page = index([])
    people: Any = {"headers": [(b"accept", b"text/html,application/xhtml+xml,*/*;q=0.8")]}
    programs: Any = {"headers": [(b"accept", b"*/*")]}
    sent = await page(people)
    assert (sent.status, dict(sent.headers)[b"location"]) == (302, b"docs")
    listed = json.loads((await page(programs)).body)
    assert {listed["docs"], listed["openapi"]} <= PAGES.keys()
