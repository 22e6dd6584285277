"""From path, query and body to a request: what goes where, what wins, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus, urlencode

import orjson
import pytest
from google.protobuf import json_format
from google.rpc.error_details_pb2 import BadRequest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Refusal
from gateway.messages.codec import Codec
from gateway.messages.mapping import CannotServe, Mapping
from gateway.routing.template import parse
from tests.gateway_probe import message, probe

if TYPE_CHECKING:
    from google.protobuf.message import Message

CODEC = Codec(probe().pool)
LENIENT = Codec(probe().pool, lenient=True)


class Rule:
    """A rule for requests of one type, and what comes of requests to it."""

    def __init__(self, type_: str, path: str, body: str = "", codec: Codec = CODEC, **options: Any) -> None:
        self.type = message(type_)
        self.mapping = Mapping(self.type, parse(path), body, codec, **options)

    def request(self, path: str = "/x", query: str = "", body: Any = None) -> dict[str, Any]:
        """Return the request that these make, in the contract's names, fields with default values left out."""
        sent = b"" if body is None else orjson.dumps(body)
        encoded = self.mapping.request(path[1:].split("/"), query.encode(), sent)
        made: dict[str, Any] = json_format.MessageToDict(
            self.type.FromString(encoded), preserving_proto_field_name=True, descriptor_pool=probe().pool
        )
        return made

    def faults(self, path: str = "/x", query: str = "", body: Any = None) -> dict[str, str]:
        """Return what is wrong with these, by field."""
        with pytest.raises(Refusal) as refused:
            self.request(path, query, body)
        told = BadRequest()
        assert refused.value.http == 400
        assert any(detail.Unpack(told) for detail in refused.value.status.details)
        return {one.field: one.description for one in told.field_violations}


LIST = Rule("ListThingsRequest", "/x")
ECHO = Rule("Everything", "/x")
UPDATE = Rule("ChangeThingRequest", "/v1/{thing.id}", "thing", fills_mask=True)
USE = Rule("GetThingRequest", "/v1/{id}", "*")


@pytest.mark.parametrize(
    ("query", "request_"),
    [
        ("", {}),
        ("page_size=3", {"page_size": 3}),
        ("pageSize=3&", {"page_size": 3}),
        ("pageSize=0", {}),
        ("colours=COLOUR_RED&colours=-5", {"colours": ["COLOUR_RED", "COLOUR_NEGATIVE"]}),
        ("madeAfter=2026-01-31T12:00:00Z", {"made_after": "2026-01-31T12:00:00Z"}),
        ("madeAfter=2026-01-31T12%3A00%3A00%2B01:00", {"made_after": "2026-01-31T11:00:00Z"}),
        ("like.unitPrice.currency_code=EUR", {"like": {"unit_price": {"currency_code": "EUR"}}}),
        ("like.displayName=a+b%2Bc%20d", {"like": {"display_name": "a b+c d"}}),
        ("like.display_name=%C3%A9=1", {"like": {"display_name": "é=1"}}),
        ("like.id", {"like": {}}),
        ("like%2Eid=x", {"like": {"id": "x"}}),
    ],
)
def test_query_parameters_become_fields(query: str, request_: dict[str, Any]) -> None:
    assert LIST.request(query=query) == request_


@pytest.mark.parametrize(
    ("query", "request_"),
    [
        ("aBool=true", {"a_bool": True}),
        ("anInt64=-9223372036854775808", {"an_int64": "-9223372036854775808"}),
        ("aDouble=Infinity", {"a_double": "Infinity"}),
        ("someBytes=-_8", {"some_bytes": "+/8="}),
        ("anOptional=0", {"an_optional": 0}),
        ("manyInts=1&manyInts=2", {"many_ints": [1, 2]}),
        ("labels[a]=b&labels[c.d]=e+f", {"labels": {"a": "b", "c.d": "e f"}}),
        ("counts%5Btrue%5D=1", {"counts": {"true": "1"}}),
        ("other=3", {"other": 3}),
        ("third.units=3", {"third": {"units": "3"}}),
        ("within.within.aString=x", {"within": {"within": {"a_string": "x"}}}),
        ("aDuration=1.5s", {"a_duration": "1.500s"}),
        ("aMask=displayName,unit_price.units", {"a_mask": "displayName,unitPrice.units"}),
        ("aWrappedInt=0&aWrappedString=", {"a_wrapped_int": "0", "a_wrapped_string": ""}),
        ("manyTimes=1970-01-01T00:00:00Z", {"many_times": ["1970-01-01T00:00:00Z"]}),
        ("$odd=x", {"odd_name": "x"}),
        ("odd_name=x", {"odd_name": "x"}),
    ],
)
def test_query_parameters_may_be_of_any_type_that_text_can_be(query: str, request_: dict[str, Any]) -> None:
    assert ECHO.request(query=query) == request_


@pytest.mark.parametrize(
    ("query", "field", "what"),
    [
        ("nope=1", "nope", "is not known here"),
        ("within.nope=1", "within.nope", "is not known here"),
        ("aString.x=1", "aString.x", "is not known here"),
        ("manyPrices.units=1", "manyPrices.units", "is not known here"),
        ("=1", "", "is not known here"),
        ("within=1", "within", "is a message: give its fields, as in a.b"),
        ("manyPrices=1", "manyPrices", "is a message: give its fields, as in a.b"),
        ("aStruct=1", "aStruct", "is a message: give its fields, as in a.b"),
        ("prices[1]=1", "prices[1]", "is a map of messages, which only a body can give"),
        ("labels=1", "labels", "must be given by key, as in labels[key]"),
        ("aString[1]=1", "aString[1]", "has no keys"),
        ("labels[a]=1&labels[a]=2", "labels[a]", "must not be there 2 times"),
        ("anInt32=1&anInt32=1", "anInt32", "must not be there 2 times"),
        ("anInt32=1&an_int32=1", "an_int32", "must not be there beside anInt32"),
        ("anInt32=", "anInt32", "must be a whole number"),
        ("aBool=1", "aBool", "must be true or false"),
        ("one=a&other=1", "other", "must not be there beside one"),
        ("one=a&third.units=3", "third.units", "must not be there beside one"),
        ("aString=%zz", "", "the query cannot be read: a percent sign must be followed by two hexadecimal digits"),
    ],
)
def test_a_wrong_query_parameter_is_named(query: str, field: str, what: str) -> None:
    assert ECHO.faults(query=query) == {field: what}


def test_a_name_that_is_nested_too_deeply_is_refused_and_cut() -> None:
    faults = ECHO.faults(query="within." * 40 + "aBool=true")
    assert [(len(name), what) for name, what in faults.items()] == [(200, "is nested too deeply")]


def test_all_that_is_wrong_is_named_at_once() -> None:
    assert list(UPDATE.faults("/v1/a", "nope=1&dry_run=x")) == ["nope", "dry_run"]


def test_a_query_of_thousands_of_faults_is_told_of_some() -> None:
    assert len(ECHO.faults(query="&".join(f"no{number}" for number in range(1000)))) == 20


@pytest.mark.parametrize("name", ["\ud800", "x" * 100_000])
def test_no_name_that_a_client_makes_up_is_too_strange_or_too_long_to_be_refused(name: str) -> None:
    with pytest.raises(Refusal) as refused:
        USE.mapping.request(["v1", "a"], b"", json.dumps({name: 1}).encode())
    assert refused.value.http == 400
    assert len(refused.value.status.SerializeToString()) < 2000


def test_a_body_is_the_field_that_the_rule_names() -> None:
    rule = Rule("ChangeThingRequest", "/x", "thing")
    assert rule.request(body={"displayName": "x"}) == {"thing": {"display_name": "x"}}
    assert rule.request(query="dryRun=true", body={"id": "a"}) == {"thing": {"id": "a"}, "dry_run": True}
    assert rule.request() == {}
    assert rule.faults(query="thing.id=a") == {"thing.id": "belongs into the body"}
    assert rule.faults(body={"unitPrice": {"units": "x"}}) == {"unitPrice.units": "must be a whole number"}
    assert rule.faults(body=[]) == {"": "must be an object"}


def test_a_body_may_be_a_repeated_field() -> None:
    rule = Rule("ListThingsReply", "/x", "things")
    assert rule.request(body=[{"id": "a"}, {}]) == {"things": [{"id": "a"}, {}]}
    assert rule.faults(body=[{"nope": 1}]) == {"[0].nope": "is not known here"}


def test_a_body_of_everything_leaves_nothing_to_the_query() -> None:
    assert USE.request("/v1/a", body={"revision": 2}) == {"id": "a", "revision": 2}
    assert USE.faults("/v1/a", "revision=2") == {
        "revision": "is not known here: this method takes its fields in the body"
    }


def test_a_body_where_none_belongs_is_refused() -> None:
    assert LIST.faults(body={}) == {"": "this method takes no body"}


def test_the_path_wins_over_what_says_the_same_and_refuses_what_contradicts_it() -> None:
    assert USE.request("/v1/a", body={"id": "a"}) == {"id": "a"}
    assert USE.faults("/v1/a", body={"id": "b"}) == {"id": "contradicts the path"}
    get = Rule("GetThingRequest", "/v1/{id}")
    assert get.request("/v1/a", "id=a") == {"id": "a"}
    assert get.faults("/v1/a", "id=b") == {"id": "contradicts the path"}
    assert UPDATE.faults("/v1/a", body={"id": "b"}) == {"id": "contradicts the path"}


def test_a_path_fills_fields_of_any_type_that_text_can_be() -> None:
    rule = Rule("Everything", "/{an_int64}/{an_enum}/{a_time}/{a_wrapped_int}/{one}")
    made = rule.request("/-5/COLOUR_RED/2026-01-31T12:00:00Z/7/x")
    assert made == {
        "an_int64": "-5",
        "an_enum": "COLOUR_RED",
        "a_time": "2026-01-31T12:00:00Z",
        "a_wrapped_int": "7",
        "one": "x",
    }
    path = "/x/RED/now/1/x"
    assert list(rule.faults(path)) == ["anInt64", "anEnum", "aTime"]
    assert rule.faults("/1/1/2026-01-31T12:00:00Z/1/x", "other=1") == {"one": "must not be there beside other"}
    assert rule.faults("/1/1/2026-01-31T12:00:00Z/1/x", "aWrappedInt=2") == {"aWrappedInt": "contradicts the path"}


@pytest.mark.parametrize(
    ("query", "body", "mask"),
    [
        ("", {"displayName": "x"}, "displayName"),
        ("", {"display_name": "x", "unitPrice": {"units": "1"}}, "displayName,unitPrice"),
        ("", {"displayName": None}, "displayName"),
        ("", {"displayName": "x", "id": "a"}, "displayName"),
        ("", {}, None),
        ("", None, None),
        ("updateMask=unitPrice.units", {"displayName": "x"}, "unitPrice.units"),
        ("update_mask=", {"displayName": "x"}, ""),
    ],
)
def test_an_absent_mask_is_what_the_body_has(query: str, body: Any, mask: str | None) -> None:
    assert UPDATE.request("/v1/a", query, body).get("update_mask") == mask


def test_a_mask_is_filled_only_where_the_rule_asks_for_it() -> None:
    assert "update_mask" not in Rule("ChangeThingRequest", "/x", "thing").request(body={"id": "a"})


@pytest.mark.parametrize(
    ("type_", "path", "body", "why"),
    [
        ("GetThingRequest", "/{nope}", "", "GetThingRequest.nope, which is in the path, is not known here"),
        ("ChangeThingRequest", "/{thing}", "", "is a message"),
        ("ChangeThingRequest", "/{thing.nope}", "", "is not known here"),
        ("Everything", "/{many_ints}", "", "many_ints is repeated"),
        ("Everything", "/{labels}", "", "labels is repeated"),
        ("Everything", "/{many_prices.units}", "", "is not known here"),
        ("GetThingRequest", "/x", "nope", "has no field nope, which is to be the body"),
        ("ChangeThingRequest", "/x", "thing.id", "has no field thing.id"),
        ("GetThingRequest", "/{id}", "id", "both in the path and the body"),
    ],
)
def test_a_rule_that_cannot_be_served_is_found_at_once(type_: str, path: str, body: str, why: str) -> None:
    with pytest.raises(CannotServe, match=why):
        Rule(type_, path, body)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "an_int32": st.integers(-(2**31), 2**31 - 1),
    "an_int64": st.integers(-(2**63), 2**63 - 1),
    "a_uint64": st.integers(0, 2**64 - 1),
    "a_double": st.floats(allow_nan=False, allow_infinity=False),
    "a_bool": st.booleans(),
    "a_string": TEXT,
    "an_optional": st.integers(-5, 5),
    "many_strings": st.lists(TEXT, max_size=3),
    "many_ints": st.lists(st.integers(-5, 5), max_size=3),
    "labels": st.dictionaries(TEXT, TEXT, max_size=2),
}


@given(st.fixed_dictionaries({}, optional=SCALARS), st.booleans())
def test_a_request_survives_the_way_through_a_query(values: dict[str, Any], json_names: bool) -> None:
    expected = ECHO.type(**values)
    fields = expected.DESCRIPTOR.fields_by_name
    pairs: list[tuple[str, str]] = []
    for name, value in values.items():
        shown = fields[name].json_name if json_names else name
        if isinstance(value, dict):
            pairs += [(f"{shown}[{key}]", item) for key, item in value.items()]
        else:
            pairs += [(shown, text_of(item)) for item in (value if isinstance(value, list) else [value])]
    encoded = ECHO.mapping.request(["x"], urlencode(pairs, quote_via=quote_plus).encode(), b"")
    assert same(ECHO.type.FromString(encoded), expected)


def text_of(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def same(one: Message, other: Message) -> bool:
    return one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


def test_a_lenient_gateway_passes_over_what_is_not_known() -> None:
    listed = Rule("ListThingsRequest", "/x", codec=LENIENT)
    assert listed.request(query="utm_source=a&utm_source=b&pageSize=3&like.nope.deeper=1") == {"page_size": 3}
    used = Rule("GetThingRequest", "/v1/{id}", "*", codec=LENIENT)
    assert used.request("/v1/7", "utm_source=a", {"nope": {"a": 1}, "shelf": "s"}) == {"id": "7", "shelf": "s"}


def test_a_lenient_gateway_refuses_all_else_that_is_wrong() -> None:
    listed = Rule("ListThingsRequest", "/x", codec=LENIENT)
    assert list(listed.faults(query="pageSize=x&like=1&pageSize[a]=1&utm=1")) == ["pageSize", "like", "pageSize[a]"]
    used = Rule("GetThingRequest", "/v1/{id}", "*", codec=LENIENT)
    assert used.faults("/v1/7", "shelf=s") == {"shelf": "belongs into the body"}
    assert used.faults("/v1/7", body={"id": "8"}) == {"id": "contradicts the path"}
    assert used.faults("/v1/7", body={"nope": 1, "revision": "x"}) == {"revision": "must be a whole number"}
