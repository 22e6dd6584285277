"""JSON to messages and back: as protobuf's own mapping does it, and stricter where that guesses."""

from __future__ import annotations

import base64
import json
import math
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from gateway.messages.codec import Codec, parse
from gateway.messages.values import Wrong
from tests.gateway_probe import message, probe

if TYPE_CHECKING:
    from google.protobuf.message import Message

CODEC = Codec(probe().pool)
Everything = message("Everything")


def decoded(value: Any, type_: type[Message] = Everything) -> Message:
    read = type_()
    CODEC.read(parse(orjson.dumps(value) if not isinstance(value, bytes) else value), read)
    return read


def faults(value: Any) -> dict[str, str]:
    with pytest.raises(Wrong) as wrong:
        decoded(value)
    return dict(wrong.value.faults)


def of_plain(value: Any) -> Message:
    return json_format.ParseDict(value, Everything(), descriptor_pool=probe().pool)


INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
UINT64 = st.integers(0, 2**64 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
PRICE = st.fixed_dictionaries({}, optional={"currencyCode": TEXT, "units": INT64 | INT64.map(str)})
COLOUR = st.sampled_from(["COLOUR_RED", "COLOUR_NEGATIVE", 1, -5, 77])
TIME = st.sampled_from(["2026-01-31T12:00:00Z", "1969-12-31T23:59:59.5Z", "2026-01-31T12:00:00.123456+02:00"])
FREE = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
CHOICE = st.fixed_dictionaries({"one": TEXT}) | st.fixed_dictionaries({"other": INT32})
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "aDouble": st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(["NaN", "Infinity", "-Infinity"]),
    "a_float": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "anInt32": INT32 | INT32.map(str),
    "anInt64": INT64.map(str) | INT64,
    "aUint32": st.integers(0, 2**32 - 1),
    "a_uint64": UINT64.map(str),
    "aSint32": INT32.map(float),
    "aFixed64": UINT64,
    "aBool": st.booleans(),
    "aString": TEXT,
    "someBytes": st.binary(max_size=9).map(lambda data: base64.b64encode(data).decode())
    | st.binary(max_size=9).map(lambda data: base64.urlsafe_b64encode(data).decode().rstrip("=")),
    "anEnum": COLOUR,
    "anOptional": INT32 | st.none(),
    "manyInts": st.lists(INT32, max_size=3),
    "manyStrings": st.lists(TEXT, max_size=3) | st.none(),
    "manyPrices": st.lists(PRICE, max_size=2),
    "labels": st.dictionaries(TEXT, TEXT, max_size=3),
    "prices": st.dictionaries(INT32.map(str), PRICE, max_size=2),
    "counts": st.dictionaries(st.sampled_from(["true", "false"]), INT64, max_size=2),
    "aTime": TIME,
    "aDuration": st.sampled_from(["1s", "-1.5s", "0.000000001s"]),
    "aMask": st.sampled_from(["", "a", "aB,c.dE"]),
    "aWrappedInt": INT64 | st.none(),
    "aWrappedString": TEXT,
    "aWrappedBool": st.booleans(),
    "someWrappedBytes": st.just("AAE="),
    "aStruct": st.dictionaries(TEXT, FREE, max_size=3),
    "aValue": FREE,
    "aList": st.lists(FREE, max_size=3),
    "anAny": st.just({"@type": "type.googleapis.com/probe.v1.Price", "units": "3"}),
    "manyTimes": st.lists(TIME, max_size=2),
    "aNull": st.none(),
    "manyEnums": st.lists(COLOUR, max_size=2),
    "$odd": TEXT,
}
EVERYTHING = st.builds(
    lambda some, choice: some | choice, st.fixed_dictionaries({}, optional=FIELDS), CHOICE | st.just({})
)
NESTED = st.builds(lambda outer, inner: outer | {"within": inner}, EVERYTHING, EVERYTHING)


@given(EVERYTHING | NESTED)
def test_what_is_read_is_what_protobuf_itself_reads(value: dict[str, Any]) -> None:
    assert decoded(value).SerializeToString(deterministic=True) == of_plain(value).SerializeToString(deterministic=True)


@given(EVERYTHING | NESTED)
def test_what_is_written_is_read_back(value: dict[str, Any]) -> None:
    original = of_plain(value)
    read = decoded(CODEC.write(original))
    assert read.SerializeToString(deterministic=True) == original.SerializeToString(deterministic=True)


def test_fields_with_default_values_are_written_and_names_are_lower_camel_case() -> None:
    written = json.loads(CODEC.write(message("Thing")(id="x")))
    assert written == {"id": "x", "displayName": "", "offers": []}


@pytest.mark.parametrize(
    ("value", "field", "what"),
    [
        ({"nope": 1}, "nope", "is not known here"),
        ({"within": {"manyPrices": [{}, {"nope": 1}]}}, "within.manyPrices[1].nope", "is not known here"),
        ({"within": []}, "within", "must be an object"),
        ({"anInt32": 2**31}, "anInt32", "must be -2147483648 to 2147483647"),
        ({"an_int32": 1.5}, "an_int32", "must be a whole number"),
        ({"anInt32": True}, "anInt32", "must be a whole number"),
        ({"anInt32": "1 "}, "anInt32", "must be a whole number"),
        ({"anInt64": "9223372036854775808"}, "anInt64", "must be -9223372036854775808 to 9223372036854775807"),
        ({"aUint32": -1}, "aUint32", "must be 0 to 4294967295"),
        ({"aDouble": "x"}, "aDouble", "must be a number"),
        ({"aDouble": True}, "aDouble", "must be a number"),
        ({"aFloat": 1e39}, "aFloat", "must not be so large"),
        ({"aDouble": "1e999"}, "aDouble", "must not be so large"),
        (b'{"aDouble": 1e999}', "aDouble", "must not be so large"),
        ({"aBool": 1}, "aBool", "must be true or false"),
        ({"aString": 1}, "aString", "must be a string"),
        (b'{"aString": "\\ud800"}', "aString", "must not have half a surrogate pair in it"),
        ({"someBytes": "a"}, "someBytes", "must be base64"),
        ({"someBytes": "a!b="}, "someBytes", "must be base64"),
        ({"anEnum": "RED"}, "anEnum", "must be one of COLOUR_UNSPECIFIED, COLOUR_RED, COLOUR_NEGATIVE"),
        ({"manyInts": 1}, "manyInts", "must be an array"),
        ({"manyInts": [1, "x"]}, "manyInts[1]", "must be a whole number"),
        ({"manyInts": [None]}, "manyInts[0]", "must not be null"),
        ({"labels": {"a": 1}}, 'labels["a"]', "must be a string"),
        ({"prices": {"x": {}}}, 'prices["x"]', "must be a whole number"),
        ({"prices": {"1": {"units": "x"}}}, 'prices["1"].units', "must be a whole number"),
        ({"counts": {"yes": 1}}, 'counts["yes"]', "must be true or false"),
        ({"one": "a", "other": 1}, "other", "must not be there beside one"),
        ({"anInt32": 1, "an_int32": 1}, "an_int32", "must not be there beside anInt32"),
        ({"aTime": "yesterday"}, "aTime", "must be a time, as in 2026-01-31T12:00:00Z"),
        ({"aTime": 5}, "aTime", "must be a time, as in 2026-01-31T12:00:00Z"),
        ({"aDuration": "5"}, "aDuration", "must be seconds, as in 1.5s"),
        ({"aMask": "a b"}, "aMask", "must be the names of fields, with commas between"),
        ({"aWrappedInt": "x"}, "aWrappedInt", "must be a whole number"),
        (b'{"aStruct": {"a": 1%s}}' % (b"0" * 400), "aStruct", "cannot be read as a google.protobuf.Struct"),
        (b'{"aValue": 1e999}', "aValue", "cannot be read as a google.protobuf.Value"),
        ({"aStruct": []}, "aStruct", "cannot be read as a google.protobuf.Struct"),
        ({"anAny": {"@type": "type.googleapis.com/no.Such"}}, "anAny", "cannot be read as a google.protobuf.Any"),
        (b'{"a": 1, "a": 2}', "a", "is there twice in one object"),
        (b'{"within": {"aStruct": {"b": 1, "b": 1}}}', "b", "is there twice in one object"),
        (b"[]", "", "must be an object"),
        (b"null", "", "must be an object"),
        (b"{", "", "the body is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (b'{"aDouble": NaN}', "", "the body is not JSON: write NaN as a string"),
        (b'{"a": "\xff"}', "", "the body is not JSON: it is not UTF-8"),
        (b'{"a": ' + b"1" * 5000 + b"}", "", "the body has a number in it that is too long"),
        (b"[" * 100_000, "", "the body is nested too deeply"),
    ],
)
def test_a_wrong_value_is_named_by_the_clients_own_path(value: Any, field: str, what: str) -> None:
    assert faults(value) == {field: what}


def test_every_fault_is_named_up_to_a_bound() -> None:
    assert list(faults({"anInt32": "x", "nope": 1, "within": {"aBool": 2}})) == ["anInt32", "nope", "within.aBool"]
    assert len(faults({f"no{number}": 1 for number in range(1000)})) == 20
    assert len(faults({"manyInts": ["x"] * 1000})) == 20


def test_a_message_that_is_nested_too_deeply_is_refused() -> None:
    value: dict[str, Any] = {}
    for _ in range(90):
        value = {"within": value}
    assert list(faults(value).values()) == ["is nested too deeply"]


def test_numbers_may_be_written_as_protobuf_allows() -> None:
    read: Any = decoded(b'{"anInt32": 1e3, "aDouble": "-1.5e2", "manyInts": [1.0, "-7"], "aMask": "a_b,cD"}')
    assert (read.an_int32, read.a_double, list(read.many_ints)) == (1000, -150.0, [1, -7])
    assert list(read.a_mask.paths) == ["a_b", "c_d"]
    assert math.isnan(decoded({"aDouble": "NaN"}).a_double)  # type: ignore[attr-defined]


def test_a_lenient_codec_passes_over_fields_that_are_not_known() -> None:
    lenient, read = Codec(probe().pool, lenient=True), Everything()
    within: Any = {"no": {"a": [1]}, "aBool": True, "anAny": {"@type": "x/probe.v1.Price", "no": 1, "units": "3"}}
    lenient.read({"nope": 1, "anInt32": 5, "within": within}, read)
    assert read == of_plain(
        {"anInt32": 5, "within": {"aBool": True, "anAny": {"@type": "x/probe.v1.Price", "units": "3"}}}
    )
    with pytest.raises(Wrong, match=r"within.anAny.units: must be a whole number"):
        lenient.read({"within": {"anAny": {"@type": "x/probe.v1.Price", "units": "x"}}}, Everything())


@pytest.mark.parametrize(
    ("value", "field", "what"),
    [
        ({"nope": 1}, "anAny", "cannot be read as a google.protobuf.Any"),
        ({"@type": 5}, "anAny", "cannot be read as a google.protobuf.Any"),
        (b'{"anAny": {"@type": "\\ud800/probe.v1.Price"}}', "anAny", "cannot be read as a google.protobuf.Any"),
        ([], "anAny", "must be an object"),
        ({"@type": "x/probe.v1.Price", "nope": 1}, "anAny.nope", "is not known here"),
        ({"@type": "x/google.protobuf.Duration", "value": "5"}, "anAny.value", "must be seconds, as in 1.5s"),
        ({"@type": "x/google.protobuf.Duration", "value": "5s", "a": 1}, "anAny.a", "is not known here"),
        ({"@type": "x/google.protobuf.Duration"}, "anAny.value", "must be seconds, as in 1.5s"),
    ],
)
def test_what_is_wrong_within_an_any_is_named(value: Any, field: str, what: str) -> None:
    assert faults(value if isinstance(value, bytes) else {"anAny": value}) == {field: what}


def test_an_any_that_is_nested_too_deeply_is_refused() -> None:
    value: dict[str, Any] = {}
    for _ in range(90):
        value = {"@type": "x/google.protobuf.Any", "value": value}
    assert list(faults({"anAny": value}).values()) == ["is nested too deeply"]
