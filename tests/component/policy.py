"""What a gateway does where opinions differ: one case or more for each row of the tables in docs/gateway.md.

A case is a request, what the service gets of it, and what the client is told. The names of the cases are in the
tables; a test keeps the two together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo

INVALID = (400, "gateway/INVALID_REQUEST")
NO_ROUTE = (404, "gateway/ROUTE_NOT_FOUND")
JSON = "application/json"


@dataclass(frozen=True)
class Failure:
    """How the service fails."""

    code: grpc.StatusCode
    text: str
    details: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Case:
    """One request to the gateway `gateway`, and what comes of it; what is None is not looked at."""

    row: str
    request: str
    """As in `GET /v1/things/a?revision=1`."""
    body: Any = None
    """JSON, or the bytes as they are."""
    headers: dict[str, str] = field(default_factory=dict)
    gateway: str = "plain"
    reply: dict[str, Any] | Failure = field(default_factory=dict)
    """What the service answers, by the contract's names."""
    received: dict[str, Any] | None = None
    """What the service gets, by the contract's names; without it the service must not hear of the request."""
    status: int = 200
    reason: str = ""
    """Domain and reason of an error."""
    faults: dict[str, str] | None = None
    """The fields at fault, and what is wrong with them."""
    answer: Any = None
    """The JSON that the client gets; of an object the fields that are looked at."""
    told: dict[str, str | None] = field(default_factory=dict)
    """Headers of the answer; None for those that it must not have."""
    never: tuple[str, ...] = ()
    """What must not be in the answer."""


def wrong(row: str, request: str, body: Any = None, faults: dict[str, str] | None = None, **more: Any) -> Case:
    """Make a case of a request that is refused for its fields."""
    return Case(row, request, body, status=INVALID[0], reason=INVALID[1], faults=faults, **more)


def nowhere(row: str, request: str) -> Case:
    """Make a case of a path that is none."""
    return Case(row, request, status=NO_ROUTE[0], reason=NO_ROUTE[1])


def parameter(query: str, received: dict[str, Any], row: str) -> Case:
    """Make a case of a query that becomes fields of any type."""
    return Case(row, f"GET /v1/everything?{query}", received=received)


def packed(message: Any) -> AnyMessage:
    made = AnyMessage()
    made.Pack(message)
    return made


def raw(text: str, kind: str = JSON) -> dict[str, Any]:
    """Return a body as it is, with its type."""
    return {"body": text.encode(), "headers": {"Content-Type": kind}}


CONTRADICTS, UNKNOWN = "contradicts the path", "is not known here"
ECHO = "/v1/everything"

RULES = [
    Case("nested-variable", "PATCH /v1/things/a", {}, received={"thing": {"id": "a"}}),
    Case("multi-segment", "GET /v1/shelves/s/things/a", received={"shelf": "shelves/s", "id": "a"}),
    Case("rest-of-the-path", "GET /v1/files/a/b/c", received={"path": "a/b/c"}),
    Case("rest-of-the-path", "GET /v1/files", received={}),
    Case("verb", "POST /v1/things/a:use", {}, received={"id": "a"}),
    Case("verb", "GET /v1/things/a:b", received={"id": "a:b"}),
    Case("typed-variable", f"GET {ECHO}/7/true/COLOUR_RED",
         received={"an_int64": "7", "a_bool": True, "an_enum": "COLOUR_RED"}),
    wrong("typed-variable", f"GET {ECHO}/x/true/1", faults={"anInt64": "must be a whole number"}),
    Case("additional-binding", "GET /v1/names", reply={"names": ["a"]}, received={}, answer=["a"]),
    Case("custom-method", "PURGE /v1/things/a", received={"id": "a"}),
    Case("body-all", "POST /v1/things/a:use", {"revision": 2}, received={"id": "a", "revision": 2}),
    wrong("body-all", "POST /v1/things/a:use?revision=2", {},
          {"revision": "is not known here: this method takes its fields in the body"}),
    Case("body-field", "POST /v1/things?dryRun=true", {"id": "a"}, received={"thing": {"id": "a"}, "dry_run": True}),
    wrong("body-field", "POST /v1/things?thing.id=a", {}, {"thing.id": "belongs into the body"}),
    Case("body-list", "PUT /v1/things", [{"id": "a"}, {}], received={"things": [{"id": "a"}, {}]}),
    wrong("body-none", "GET /v1/things/a", {}, {"": "this method takes no body"}),
    Case("response-body", "POST /v1/things", {}, reply={"thing": {"id": "a"}}, received={"thing": {}},
         answer={"id": "a"}),
    Case("head", "HEAD /v1/things/a", received={"id": "a"}, answer=b""),
    Case("specific-first", "GET /v1/things/a", received={"id": "a"}),
    nowhere("no-annotation", "GET /probe.v1.Probe/Unannotated"),
    nowhere("no-annotation", "POST /probe.v1.Probe/Unannotated"),
    # Parameters, by the type of their field.
    Case("nested-field", "GET /v1/things?like.unitPrice.currency_code=EUR",
         received={"like": {"unit_price": {"currency_code": "EUR"}}}),
    parameter("within.within.aString=x", {"within": {"within": {"a_string": "x"}}}, "nested-field"),
    parameter("manyInts=1&manyInts=2&many_strings=a", {"many_ints": [1, 2], "many_strings": ["a"]}, "repeated"),
    wrong("repeated", f"GET {ECHO}?manyPrices.units=1", faults={"manyPrices.units": UNKNOWN}),
    parameter("anEnum=COLOUR_RED&manyEnums=-5&manyEnums=COLOUR_RED",
              {"an_enum": "COLOUR_RED", "many_enums": ["COLOUR_NEGATIVE", "COLOUR_RED"]}, "enum"),
    parameter("anEnum=1", {"an_enum": "COLOUR_RED"}, "enum"),
    wrong("enum", f"GET {ECHO}?anEnum=red"),
    parameter("aWrappedInt=0&aWrappedString=&aWrappedBool=false",
              {"a_wrapped_int": "0", "a_wrapped_string": "", "a_wrapped_bool": False}, "wrapper"),
    parameter("aTime=2026-01-31T12:00:00%2B01:00", {"a_time": "2026-01-31T11:00:00Z"}, "timestamp"),
    wrong("timestamp", f"GET {ECHO}?aTime=yesterday"),
    parameter("aDuration=1.5s", {"a_duration": "1.500s"}, "duration"),
    wrong("duration", f"GET {ECHO}?aDuration=1h"),
    parameter("aMask=displayName,unit_price.units", {"a_mask": "displayName,unitPrice.units"}, "field-mask"),
    parameter("someBytes=-_8", {"some_bytes": "+/8="}, "bytes"),
    parameter("someBytes=%2B/8%3D", {"some_bytes": "+/8="}, "bytes"),
    parameter("labels[a]=b&labels%5Bc.d%5D=e+f&counts[true]=1",
              {"labels": {"a": "b", "c.d": "e f"}, "counts": {"true": "1"}}, "map"),
    wrong("map", f"GET {ECHO}?labels=1", faults={"labels": "must be given by key, as in labels[key]"}),
    wrong("map", f"GET {ECHO}?prices[1]=1", faults={"prices[1]": "is a map of messages, which only a body can give"}),
    parameter("third.units=3", {"third": {"units": "3"}}, "oneof"),
    wrong("oneof", f"GET {ECHO}?one=a&other=1", faults={"other": "must not be there beside one"}),
    wrong("oneof", f"POST {ECHO}", {"one": "a", "other": 1}, {"other": "must not be there beside one"}),
    parameter("an_int32=1&aString=x&$odd=y", {"an_int32": 1, "a_string": "x", "odd_name": "y"}, "names"),
    Case("names", f"POST {ECHO}", {"an_int32": 1, "aString": "x"}, received={"an_int32": 1, "a_string": "x"}),
    wrong("names", f"POST {ECHO}", {"an_int32": 1, "anInt32": 1}, {"anInt32": "must not be there beside an_int32"}),
    # PATCH.
    Case("patch-mask", "PATCH /v1/things/a", {"displayName": None, "unit_price": {"units": 1}, "id": "a"},
         received={"thing": {"id": "a", "unit_price": {"units": "1"}}, "update_mask": "displayName,unitPrice"}),
    Case("patch-mask", "PATCH /v1/things/a?updateMask=unitPrice.units", {"displayName": "x"},
         received={"thing": {"id": "a", "display_name": "x"}, "update_mask": "unitPrice.units"}),
]  # fmt: skip

POLICY = [
    Case("path-wins", "POST /v1/things/a:use", {"id": "a"}, received={"id": "a"}),
    Case("path-wins", "GET /v1/things/a?id=a", received={"id": "a"}),
    Case("path-wins", "POST /v1/things/a:use", {"id": ""}, received={"id": "a"}),
    wrong("path-contradicted", "POST /v1/things/a:use", {"id": "b"}, {"id": CONTRADICTS}),
    wrong("path-contradicted", "PATCH /v1/things/a", {"id": "b"}, {"id": CONTRADICTS}),
    wrong("path-contradicted", "GET /v1/things/a?id=b", faults={"id": CONTRADICTS}),
    wrong("unknown-parameter", "GET /v1/things?nope=1&like.no=2", faults={"nope": UNKNOWN, "like.no": UNKNOWN}),
    wrong("unknown-field", "POST /v1/things", {"unitPrice": {"no": 1}, "nope": 2},
          {"unitPrice.no": UNKNOWN, "nope": UNKNOWN}),
    Case("lenient", "GET /v1/things?nope=1&pageSize=3", gateway="relaxed", received={"page_size": 3}),
    Case("lenient", "POST /v1/things", {"unitPrice": {"no": 1}, "id": "a"}, gateway="relaxed",
         received={"thing": {"id": "a", "unit_price": {}}}),
    wrong("lenient", "GET /v1/things/a?id=b", faults={"id": CONTRADICTS}, gateway="relaxed"),
    Case("wrong-method", "DELETE /v1/things/a", status=405, reason="gateway/METHOD_NOT_ALLOWED",
         told={"allow": "GET, HEAD, PATCH, PURGE"}),
    Case("wrong-method", "GET /v1/things/a:use", status=405, told={"allow": "POST"}),
    nowhere("unknown-path", "GET /v2/things"),
    nowhere("unknown-path", "GET /v1//things"),
    Case("backend-not-found", "GET /v1/things/a", received={"id": "a"}, status=404, reason="probe/NO_THING",
         reply=Failure(grpc.StatusCode.NOT_FOUND, "no", (ErrorInfo(reason="NO_THING", domain="probe"),))),
    wrong("duplicate-key", "POST /v1/things", **raw('{"id": "a", "id": "b"}'),
          faults={"id": "is there twice in one object"}),
    wrong("duplicate-key", "POST /v1/things", **raw('{"unitPrice": {"units": 1, "units": 1}}')),
    Case("slash-in-segment", "GET /v1/things/a%2Fb", received={"id": "a/b"}),
    Case("slash-in-segment", "GET /v1/shelves/s%2F1/things/a", received={"shelf": "shelves/s%2F1", "id": "a"}),
    Case("slash-in-rest", "GET /v1/files/a%2Fb/c%20d", received={"path": "a%2Fb/c d"}),
    Case("plus", "GET /v1/things?like.displayName=a+b%2Bc%20d", received={"like": {"display_name": "a b+c d"}}),
    Case("plus", "GET /v1/things/a+b", received={"id": "a+b"}),
    nowhere("trailing-slash", "GET /v1/things/a/"),
    nowhere("trailing-slash", "GET /v1/things/"),
    wrong("two-values", "GET /v1/things?pageSize=1&pageSize=1", faults={"pageSize": "must not be there 2 times"}),
    wrong("two-values", "GET /v1/things?pageSize=1&page_size=1",
          faults={"page_size": "must not be there beside pageSize"}),
    Case("not-json", "POST /v1/things", **raw("{}", "text/plain"), status=415, reason="gateway/UNSUPPORTED_MEDIA_TYPE"),
    Case("not-json", "POST /v1/things", **raw("{}", f"{JSON}; charset=latin-1"), status=415,
         reason="gateway/UNSUPPORTED_MEDIA_TYPE"),
    Case("not-json", "POST /v1/things", **raw("a=1", "application/x-www-form-urlencoded"), status=415,
         reason="gateway/UNSUPPORTED_MEDIA_TYPE"),
    Case("kinds-of-json", "PATCH /v1/things/a", **raw("{}", "application/merge-patch+json; charset=utf-8"),
         received={"thing": {"id": "a"}}),
    wrong("malformed", "POST /v1/things", **raw('{"id": NaN}')),
    wrong("malformed", "POST /v1/things", **raw("{} {}")),
    wrong("malformed", "GET /v1/things/%ff"),
    wrong("malformed", "GET /v1/things?like.id=%zz"),
    Case("defaults", "GET /v1/things/a", received={"id": "a"}, answer={"id": "", "displayName": "", "offers": []}),
    Case("defaults-omitted", "GET /v1/things/a", gateway="relaxed", received={"id": "a"}, answer={}),
    Case("presence", f"GET {ECHO}", reply={"an_optional": 0, "a_wrapped_int": {}}, received={},
         answer={"anOptional": 0, "aWrappedInt": "0", "anInt64": "0", "anEnum": "COLOUR_UNSPECIFIED"},
         never=("aWrappedString", "within", '"one"')),
]  # fmt: skip

PRICE = "thing.unit_price.currency_code"
ERRORS = [
    Case("violations", "POST /v1/things", {}, received={"thing": {}}, status=400,
         reply=Failure(grpc.StatusCode.INVALID_ARGUMENT, f"{PRICE}: must be set", (
             BadRequest(field_violations=[BadRequest.FieldViolation(field=PRICE, description="must be set")]),)),
         faults={"unitPrice.currencyCode": "must be set"},
         answer={"code": 3, "message": "unitPrice.currencyCode: must be set"}),
    Case("error-info", "GET /v1/things/a", received={"id": "a"}, status=403, reason="probe/WHY", answer={"code": 7},
         reply=Failure(grpc.StatusCode.PERMISSION_DENIED, "no", (ErrorInfo(reason="WHY", domain="probe"),))),
    Case("unknown-detail", "GET /v1/things/a", received={"id": "a"}, status=409,
         reply=Failure(grpc.StatusCode.ALREADY_EXISTS, "no", (
             AnyMessage(type_url="type.googleapis.com/no.Such", value=b"\x01"),)),
         answer={"details": [{"@type": "type.googleapis.com/no.Such", "value": "AQ=="}]}),
    Case("retry-after", "GET /v1/things/a", received={"id": "a"}, status=429, told={"retry-after": "3"},
         reply=Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "no", (
             RetryInfo(retry_delay=Duration(seconds=2, nanos=1)),))),
    Case("no-leak", "GET /v1/things/a", received={"id": "a"}, status=500, reason="gateway/INTERNAL",
         reply=Failure(grpc.StatusCode.UNKNOWN, "Traceback: secret at 10.0.0.1"), never=("secret", "10.0.0.1")),
    Case("no-leak", "GET /v1/files/a", received={"path": "a"}, status=503, reason="gateway/BACKEND_UNAVAILABLE",
         reply=Failure(grpc.StatusCode.UNAVAILABLE, "ipv4:10.0.0.1:50051: Connection refused"), never=("10.0.0.1",),
         told={"retry-after": "1"}),
    Case("not-cached", "GET /v1/things/a", received={"id": "a"}, status=404,
         reply=Failure(grpc.StatusCode.NOT_FOUND, "no"), told={"cache-control": "no-store", "etag": None}),
]  # fmt: skip

SHELF = {"name": "s", "title": "T", "etag": '"v1"'}
UNTAGGED = {"name": "s", "title": "T"}
HASHED = 'W/"GNYXvn-1h1QWvp3P"'
KEPT = {"cache-control": "private, no-cache"}
MISMATCH = Failure(grpc.StatusCode.ABORTED, "read it again", (ErrorInfo(reason="ETAG_MISMATCH", domain="probe"),))


def known(tag: str, row: str, told: str = '"v1"', reply: dict[str, Any] = SHELF, status: int = 304) -> Case:
    """Make a case of a client that says which answers it has."""
    return Case(row, "GET /v1/shelves/s", headers={"If-None-Match": tag}, reply=reply, received={"name": "s"},
                status=status, told={"etag": told, **KEPT}, answer=b"" if status == 304 else None)  # fmt: skip


def guarded(tag: str, row: str = "if-match", **more: Any) -> Case:
    """Make a case of a change with a condition."""
    given: dict[str, Any] = {"request": "PATCH /v1/shelves/s", "body": {"title": "U"}} | more
    return Case(row, headers={"If-Match": tag}, **given)


CONDITIONS = [
    Case("own-etag", "GET /v1/shelves/s", reply=SHELF, received={"name": "s"}, answer=SHELF,
         told={"etag": '"v1"', **KEPT}),
    Case("own-etag", "GET /v1/shelves/s:find", reply={"shelf": SHELF}, received={"name": "s"}, told={"etag": '"v1"'}),
    Case("own-etag", "GET /v1/shelves/s", reply=SHELF | {"etag": "a b"}, received={"name": "s"},
         told={"etag": '"=YSBi"'}),
    Case("own-etag", "HEAD /v1/shelves/s", reply=SHELF, received={"name": "s"}, told={"etag": '"v1"'}, answer=b""),
    Case("hashed", "GET /v1/shelves/s", reply=UNTAGGED, received={"name": "s"}, told={"etag": HASHED, **KEPT}),
    Case("not-tagged", "GET /v1/rooms/r/shelves", received={"name": "r"},
         told={"etag": None, "cache-control": "no-store"}),
    Case("not-tagged", "GET /v1/shelves/s/labels", received={"name": "s"}, told={"etag": None}),
    Case("not-tagged", "GET /v1/things", received={}, told={"etag": None}),
    Case("not-tagged", "POST /v1/shelves", {}, reply=SHELF, received={"shelf": {}}, told={"etag": None}),
    known('"v1"', "if-none-match"),
    known('W/"v1"', "if-none-match"),
    known('"v0", "v1"', "if-none-match"),
    known("*", "if-none-match"),
    known(HASHED, "if-none-match", HASHED, UNTAGGED),
    known('"v2"', "if-none-match", status=200),
    known("v1", "if-none-match", status=200),
    guarded('"v1"', received={"shelf": {"name": "s", "title": "U", "etag": '"v1"'}, "update_mask": "title"}),
    guarded('"=YSBi"', received={"shelf": {"name": "s", "title": "U", "etag": "a b"}, "update_mask": "title"}),
    guarded("*", received={"shelf": {"name": "s", "title": "U"}, "update_mask": "title"}),
    guarded('"v1"', request="DELETE /v1/shelves/s", body=None, received={"name": "s", "etag": '"v1"'}),
    guarded('"v1"', body={"title": "U", "etag": '"v1"'},
            received={"shelf": {"name": "s", "title": "U", "etag": '"v1"'}, "update_mask": "title"}),
    guarded('"v1"', body={"etag": '"v2"'}, status=400, reason=INVALID[1], faults={"etag": "contradicts If-Match"}),
    guarded("v1", status=400, reason="gateway/INVALID_HEADER"),
    guarded('"v1", "v2"', status=400, reason="gateway/INVALID_HEADER"),
    guarded('"v0"', "etag-mismatch", reply=MISMATCH, status=412, reason="probe/ETAG_MISMATCH", answer={"code": 10},
            received={"shelf": {"name": "s", "title": "U", "etag": '"v0"'}, "update_mask": "title"}),
    guarded('"v0"', "etag-mismatch", reply=Failure(grpc.StatusCode.ABORTED, "no"), status=412,
            received={"shelf": {"name": "s", "title": "U", "etag": '"v0"'}, "update_mask": "title"}),
    Case("etag-mismatch", "PATCH /v1/shelves/s", {"etag": '"v0"'}, reply=MISMATCH, status=412,
         received={"shelf": {"name": "s", "etag": '"v0"'}}),
    Case("etag-mismatch", "PATCH /v1/shelves/s", {}, reply=Failure(grpc.StatusCode.ABORTED, "no"), status=409,
         received={"shelf": {"name": "s"}}),
    guarded('"v1"', "no-condition", request="PATCH /v1/things/a", body={}, status=412,
            reason="gateway/CONDITION_NOT_SUPPORTED"),
    guarded('"v1"', "no-condition", request="POST /v1/shelves", body={}, status=412,
            reason="gateway/CONDITION_NOT_SUPPORTED"),
    Case("no-condition", "PATCH /v1/shelves/s", {}, headers={"If-None-Match": "*"}, status=412,
         reason="gateway/CONDITION_NOT_SUPPORTED"),
    guarded('"v0"', "condition-on-get", request="GET /v1/shelves/s", body=None, reply=SHELF, received={"name": "s"}),
]  # fmt: skip

CASES = [*RULES, *POLICY, *ERRORS, *CONDITIONS]
