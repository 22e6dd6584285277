"""Messages to JSON: what json_format itself writes, for any message, and back."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, cast

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.contract.descriptors import Contract
from gateway.messages.codec import Codec, parse
from tests.gateway_probe import compiled, message, probe

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

PROTO2 = """
syntax = "proto2";
package old.v1;
import "google/protobuf/any.proto";
import "google/protobuf/empty.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
enum Size { NONE = 0; SMALL = 1; LARGE = 2; HUGE = 2; option allow_alias = true; }
message Old {
  required string id = 1;
  optional int32 number = 2 [default = 7];
  optional Size size = 3 [default = LARGE];
  repeated Size sizes = 4 [packed = true];
  optional group Part = 5 { optional fixed64 a = 1; repeated Old inner = 2; }
  oneof kind { float f = 6; bytes b = 7; google.protobuf.Empty nothing = 8; google.protobuf.NullValue null = 9; }
  map<uint64, Size> by_number = 10;
  map<sfixed32, google.protobuf.Value> values = 11;
  map<string, google.protobuf.Timestamp> times = 12;
  map<string, double> doubles = 13;
  repeated google.protobuf.FloatValue floats = 14;
  repeated google.protobuf.UInt64Value longs = 15;
  repeated google.protobuf.Value free = 17;
  repeated float singles = 18;
  repeated bytes parts = 19;
  repeated sint64 offsets = 20;
  optional double from = 21 [json_name = "import"];
  optional bool class = 22 [default = true];
  optional google.protobuf.DoubleValue a_wrapped_double = 23;
  repeated google.protobuf.Any anys = 24;
  extensions 100 to 200;
}
extend Old { optional int64 more = 100; repeated Old olds = 101; }
"""
OLD = Contract(compiled(PROTO2))
Old = OLD.class_of(OLD.pool.FindMessageTypeByName("old.v1.Old"))
Everything = message("Everything")

_F = FieldDescriptor
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
RANGES = {
    _F.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    _F.CPPTYPE_UINT32: (0, 2**32 - 1),
    _F.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    _F.CPPTYPE_UINT64: (0, 2**64 - 1),
}
SCALARS: dict[int, st.SearchStrategy[Any]] = {
    **{kind: st.integers(*range_) for kind, range_ in RANGES.items()},
    _F.CPPTYPE_DOUBLE: st.floats(),
    _F.CPPTYPE_FLOAT: st.floats(-(2.0**127), 2.0**127, width=32)
    | st.sampled_from([math.inf, -math.inf, math.nan])
    | st.sampled_from([0.1, 1e-45, 3e38, -0.0]),
    _F.CPPTYPE_BOOL: st.booleans(),
}
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
DEEPEST = 1


def some(draw: st.DrawFn, type_: Descriptor, made: Any, depth: int, contract: Contract) -> Any:
    """Fill a message with some of what its fields may hold."""
    name = type_.full_name
    if (fill := SPECIAL.get(name)) is not None:
        fill(draw, made, contract)
        return made
    for field in type_.fields:
        if field.is_required or draw(st.integers(0, 3)) == 0:
            put(draw, field, made, depth, contract)
    return made


def put(draw: st.DrawFn, field: FieldDescriptor, made: Any, depth: int, contract: Contract) -> None:
    type_ = field.message_type
    if type_ is not None and type_.GetOptions().map_entry:
        entries = getattr(made, field.name)
        for _ in range(draw(st.integers(0, 2))):
            key = draw(scalar(type_.fields_by_name["key"]))
            value = type_.fields_by_name["value"]
            if value.message_type is None:
                entries[key] = draw(scalar(value))
            else:
                some(draw, value.message_type, entries[key], depth + 1, contract)
    elif type_ is None:
        if field.is_repeated:
            getattr(made, field.name).extend(draw(st.lists(scalar(field), max_size=3)))
        else:
            setattr(made, field.name, draw(scalar(field)))
    elif depth < DEEPEST:
        held = getattr(made, field.name)
        if not field.is_repeated:
            held.SetInParent()
            some(draw, type_, held, depth + 1, contract)
            return
        for _ in range(draw(st.integers(0, 2))):
            some(draw, type_, held.add(), depth + 1, contract)


def scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.enum_type is not None:
        known = st.sampled_from(sorted(field.enum_type.values_by_number))
        is_null = field.enum_type.full_name == "google.protobuf.NullValue"
        return known if field.enum_type.is_closed or is_null else known | st.integers(-(2**31), 2**31 - 1)
    if field.type == _F.TYPE_BYTES:
        return st.binary(max_size=5)
    return SCALARS.get(field.cpp_type, TEXT)


def fill_value(draw: st.DrawFn, made: Any, _: Contract) -> None:
    json_format.ParseDict(draw(FREE), made)


FREE: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=3,
)


def fill_any(draw: st.DrawFn, made: Any, contract: Contract) -> None:
    kinds = [name for name in ("probe.v1.Price", "old.v1.Old", "google.protobuf.Timestamp") if has(contract, name)]
    type_ = contract.pool.FindMessageTypeByName(draw(st.sampled_from(kinds)))
    made.Pack(some(draw, type_, contract.class_of(type_)(), DEEPEST, contract))


def has(contract: Contract, name: str) -> bool:
    try:
        contract.pool.FindMessageTypeByName(name)
    except KeyError:
        return False
    return True


def fill_time(draw: st.DrawFn, made: Any, _: Contract) -> None:
    made.seconds = draw(st.integers(-62135596800, 253402300799))
    made.nanos = draw(NANOS)


def fill_duration(draw: st.DrawFn, made: Any, _: Contract) -> None:
    sign = draw(st.sampled_from([1, -1]))
    made.seconds, made.nanos = sign * draw(st.integers(0, 315576000000)), sign * draw(NANOS)


LISTS: st.SearchStrategy[Any] = st.lists(FREE, max_size=3)
NANOS = st.sampled_from([0, 500_000_000, 1_000, 1, 999_999_999]) | st.integers(0, 999_999_999)
PATHS = st.lists(st.from_regex(r"[a-z][a-z0-9]*(_[a-z][a-z0-9]*)?(\.[a-z]+)?", fullmatch=True), max_size=3)
SPECIAL: dict[str, Callable[[st.DrawFn, Any, Contract], None]] = {
    "google.protobuf.Any": fill_any,
    "google.protobuf.Duration": fill_duration,
    "google.protobuf.FieldMask": lambda draw, made, _: made.paths.extend(draw(PATHS)),
    "google.protobuf.ListValue": lambda draw, made, _: json_format.ParseDict(draw(LISTS), made),
    "google.protobuf.Struct": lambda draw, made, _: json_format.ParseDict(draw(st.dictionaries(TEXT, FREE)), made),
    "google.protobuf.Timestamp": fill_time,
    "google.protobuf.Value": fill_value,
}


@st.composite
def messages(draw: st.DrawFn) -> tuple[Contract, Message]:
    contract, class_ = draw(st.sampled_from([(probe(), Everything), (OLD, Old)]))
    made = class_()
    return contract, some(draw, cast("Descriptor", made.DESCRIPTOR), made, 0, contract)


def plain(contract: Contract, made: Message, *, omit_defaults: bool = False) -> Any:
    return json_format.MessageToDict(
        made, always_print_fields_with_no_presence=not omit_defaults, descriptor_pool=contract.pool
    )


@given(messages(), st.booleans())
@example((probe(), Everything()), False)
@example((OLD, Old(id="")), True)
def test_what_is_written_is_what_protobuf_itself_writes(made: tuple[Contract, Message], omit_defaults: bool) -> None:
    contract, one = made
    written = json.loads(Codec(contract.pool, omit_defaults=omit_defaults).write(one))
    assert written == plain(contract, one, omit_defaults=omit_defaults)


@given(messages(), st.booleans())
def test_what_protobuf_itself_writes_is_read_as_it_was(made: tuple[Contract, Message], omit_defaults: bool) -> None:
    contract, one = made
    text = json.dumps(plain(contract, one, omit_defaults=omit_defaults))
    theirs, ours = type(one)(), type(one)()
    json_format.Parse(text, theirs, descriptor_pool=contract.pool)
    Codec(contract.pool).read(parse(text.encode()), ours)
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)


def test_extensions_are_written_by_their_full_names() -> None:
    more, olds = (OLD.pool.FindExtensionByName(f"old.v1.{name}") for name in ("more", "olds"))
    one: Any = Old(id="a")
    one.Extensions[more] = 5
    one.Extensions[olds].add().id = "b"
    for omit_defaults in (False, True):
        written = json.loads(Codec(OLD.pool, omit_defaults=omit_defaults).write(one))
        assert written == plain(OLD, one, omit_defaults=omit_defaults)
        assert written["[old.v1.more]"] == "5"


@pytest.mark.parametrize(
    ("field", "absent", "present"),
    [
        ("aString", '""', {"aString": "x"}),
        ("manyPrices", "[]", {"manyPrices": [{"units": "1"}]}),
        ("labels", "{}", {"labels": {"a": "b"}}),
        ("third", '{"currencyCode":"","units":"0"}', {"third": {"units": "1"}}),
        ("anOptional", "null", {"anOptional": 0}),
        ("one", "null", {"one": ""}),
        ("aTime", "null", {"aTime": "1970-01-01T00:00:00Z"}),
        ("aWrappedInt", "null", {"aWrappedInt": "0"}),
        ("aValue", "null", {"aValue": None}),
        ("anAny", "null", {"anAny": {"@type": "x/probe.v1.Price", "units": "1", "currencyCode": ""}}),
    ],
)
def test_a_single_field_is_written_whether_it_is_there_or_not(field: str, absent: str, present: Any) -> None:
    write = Codec(probe().pool).write_field(cast("Descriptor", Everything.DESCRIPTOR).fields_by_camelcase_name[field])
    assert write(Everything()) == absent.encode()
    one = json_format.ParseDict(present, Everything(), descriptor_pool=probe().pool)
    assert json.loads(write(one)) == plain(probe(), one)[field]


def test_what_json_has_no_form_for_is_not_written() -> None:
    codec, one = Codec(probe().pool), cast("Any", Everything())
    one.an_any.type_url = "x/no.Such"
    with pytest.raises(TypeError):
        codec.write(one)
    one.Clear()
    one.a_time.seconds = 2**40
    with pytest.raises(ValueError, match="Timestamp"):
        codec.write(one)
    one.Clear()
    one.a_value.number_value = float("nan")
    with pytest.raises(ValueError, match="nan"):
        codec.write(one)
