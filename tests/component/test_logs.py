"""Log lines: what each has, for machines and on a terminal, and what none may have."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from contextvars import copy_context
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct
from google.rpc.status_pb2 import Status
from google.type.postal_address_pb2 import PostalAddress

from commerce.order.v1 import order_events_pb2, order_service_pb2
from weft import logs
from weft.tracing import TraceContext, Tracing

if TYPE_CHECKING:
    from collections.abc import Iterator

PLACE = TraceContext("00-" + "a" * 32 + "-" + "b" * 16 + "-00")

log = logs.logger("weft.test")
library = logging.getLogger("some.library")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    chatty = {name: logging.getLogger(name).level for name in ("alembic", "asyncio", "uvicorn.error")}
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    for name, its_level in chatty.items():
        logging.getLogger(name).setLevel(its_level)


@pytest.fixture
def out() -> io.StringIO:
    """JSON lines from level info on."""
    stream = io.StringIO()
    logs.configure(stream=stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """Return what was logged."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_time_level_logger_and_message_first(out: io.StringIO) -> None:
    log.info("order %s confirmed", "o-1", lines=2)

    [line] = lines(out)
    assert list(line)[:4] == ["time", "level", "logger", "message"]
    assert line["level"] == "info"
    assert line["logger"] == "weft.test"
    assert line["message"] == "order o-1 confirmed"
    assert line["lines"] == 2
    assert line["time"].endswith("Z")
    assert abs((datetime.now(UTC) - datetime.fromisoformat(line["time"])).total_seconds()) < 60


def test_lines_of_libraries_come_out_the_same_way(out: io.StringIO) -> None:
    with logs.bound(service="order"), Tracing.resumed(PLACE):
        library.warning("retrying in %s s", 2, extra={"attempt": 3})

    [line] = lines(out)
    assert list(line)[:4] == ["time", "level", "logger", "message"]
    assert line["message"] == "retrying in 2 s"
    assert line["logger"] == "some.library"
    assert line["service"] == "order"
    assert line["attempt"] == 3
    assert line["trace_id"] == "a" * 32


def test_bound_ids_are_on_every_line_within(out: io.StringIO) -> None:
    with logs.bound(service="order", instance="order-1"):
        with logs.bound(event_id="e-1", order_id="o-1"):
            log.info("within")
        log.info("after")
    log.info("outside")

    within, after, outside = lines(out)
    assert (within["service"], within["instance"], within["event_id"]) == ("order", "order-1", "e-1")
    assert "event_id" not in after
    assert after["service"] == "order"
    assert "service" not in outside


def test_a_trace_is_on_every_line_within(out: io.StringIO) -> None:
    with Tracing.resumed(PLACE):
        log.info("within")
    log.info("outside")

    within, outside = lines(out)
    assert (within["trace_id"], within["span_id"]) == ("a" * 32, "b" * 16)
    assert "trace_id" not in outside


async def test_two_services_of_one_process_log_under_their_own_names(out: io.StringIO) -> None:
    async def serve(name: str) -> None:
        with logs.bound(service=name):
            await asyncio.sleep(0)
            log.info("ready", mine=name)

    await asyncio.gather(serve("order"), serve("payment"))

    assert [line["service"] == line["mine"] for line in lines(out)] == [True, True]


def test_a_thread_that_runs_in_a_copied_context_keeps_the_ids(out: io.StringIO) -> None:
    with logs.bound(service="order"):
        thread = threading.Thread(target=copy_context().run, args=(log.info, "from the thread"))
        thread.start()
        thread.join()

    assert lines(out)[0]["service"] == "order"


def test_the_fields_of_a_line_win_over_bound_ids_but_not_over_its_head(out: io.StringIO) -> None:
    with logs.bound(order_id="bound"):
        log.info("message", order_id="given", level="mine", time="mine")

    [line] = lines(out)
    assert line["order_id"] == "given"
    assert line["level"] == "info"
    assert line["time"] != "mine"


def test_an_exception_is_one_field_with_its_stack(out: io.StringIO) -> None:
    try:
        raise ValueError("what went wrong")
    except ValueError as error:
        log.exception("failed")
        library.error("failed too", exc_info=True)
        log.error("and later", exc_info=error)

    for line in lines(out):
        assert "ValueError: what went wrong" in line["exception"]
        assert "exc_info" not in line


def test_lines_below_the_level_are_not_written() -> None:
    stream = io.StringIO()
    logs.configure(level="warning", stream=stream)
    log.info("no")
    library.info("no")
    logging.getLogger("uvicorn.error").info("no")
    log.warning("yes")

    assert [line["message"] for line in lines(stream)] == ["yes"]


def test_configuring_again_replaces_what_was_there(out: io.StringIO) -> None:
    again = io.StringIO()
    logs.configure(stream=again)
    log.info("once")

    assert lines(out) == []
    assert len(lines(again)) == 1


@pytest.mark.parametrize("value", ["\ud800", 2**70, {1: "a"}, {"when": datetime.now(UTC)}, object(), b"bytes"])
def test_no_value_can_break_a_line(out: io.StringIO, value: object) -> None:
    log.info("odd", value=value)

    [line] = lines(out)
    assert line["message"] == "odd"


def test_a_line_break_cannot_forge_a_line(out: io.StringIO) -> None:
    log.info("one\n{}", name='x\n{"level": "error"}')
    assert len(lines(out)) == 1


@pytest.mark.parametrize(("format", "stream"), [("auto", Terminal()), ("text", io.StringIO())])
def test_on_a_terminal_lines_are_for_people(format: Literal["auto", "text"], stream: io.StringIO) -> None:
    logs.configure(format=format, stream=stream)
    with logs.bound(service="order", instance="order-1"), Tracing.resumed(PLACE):
        log.warning("stock is low", sku="sku-1", note="two\nlines")

    text = stream.getvalue()
    assert text.count("\n") == 1
    for part in ("warning", "order-1", "weft.test", "stock is low", "sku-1", "a" * 32, r"two\nlines"):
        assert part in text
    assert ("\x1b[" in text) is stream.isatty()


def test_an_instance_with_a_short_name_is_shown_with_its_service() -> None:
    stream = io.StringIO()
    logs.configure(format="text", stream=stream)
    with logs.bound(service="order", instance="1"):
        log.info("ready")
        try:
            raise ValueError("wrong")
        except ValueError:
            log.exception("failed")

    assert " order-1 " in stream.getvalue()
    assert stream.getvalue().rstrip().endswith("ValueError: wrong")


def test_colours_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    logs.configure(stream=stream)
    log.info("plain")
    assert "\x1b[" not in stream.getvalue()


def test_a_terminal_can_have_json_too() -> None:
    stream = Terminal()
    logs.configure(format="json", stream=stream)
    log.info("for machines")
    assert lines(stream)[0]["message"] == "for machines"


def test_ids_of_a_message_are_its_own_ids_and_its_sku() -> None:
    request = order_service_pb2.Order(user_id="u-1")
    request.lines.add(sku="sku-1")

    assert logs.ids_of(request) == {"user_id": "u-1"}
    assert logs.ids_of(order_service_pb2.NewOrderLine(sku="sku-1")) == {"sku": "sku-1"}
    assert logs.ids_of(order_service_pb2.GetOrderRequest()) == {}


def test_an_id_from_outside_cannot_flood_the_log() -> None:
    assert logs.ids_of(order_service_pb2.GetOrderRequest(order_id="x" * 10_000)) == {"order_id": "x" * 64}


def test_only_single_strings_that_may_be_shown_are_ids() -> None:
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="weft_test_ids.proto", package="weft.test", syntax="proto3")
    message = file.message_type.add(name="Ids")
    one, many = kinds.LABEL_OPTIONAL, kinds.LABEL_REPEATED
    message.field.add(name="order_id", number=1, type=kinds.TYPE_STRING, label=one)
    message.field.add(name="card_id", number=2, type=kinds.TYPE_STRING, label=one).options.debug_redact = True
    message.field.add(name="item_id", number=3, type=kinds.TYPE_STRING, label=many)
    message.field.add(name="number_id", number=4, type=kinds.TYPE_INT64, label=one)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    ids = message_factory.GetMessageClass(pool.FindMessageTypeByName("weft.test.Ids"))

    assert logs.ids_of(ids(order_id="o", card_id="c", item_id=["i"], number_id=1)) == {"order_id": "o"}


def created() -> order_events_pb2.OrderCreated:
    """Return an event with personal data in it."""
    event = order_events_pb2.OrderCreated(order_id="o-1", payment_token="tok_secret")
    event.ship_to.CopyFrom(PostalAddress(region_code="CH", address_lines=["Secret Street 1"]))
    event.lines.add(sku="sku-1", quantity=2)
    return event


def test_personal_data_is_blanked_wherever_it_is() -> None:
    shown = logs.redacted(created())

    assert "payment_token: [REDACTED]" in shown
    assert "ship_to: [REDACTED]" in shown
    assert 'order_id: "o-1"' in shown
    assert 'sku: "sku-1"' in shown
    assert "secret" not in shown.lower()

    order = order_service_pb2.GetOrderResponse()
    order.order.state = order_service_pb2.ORDER_STATE_CONFIRMED
    order.order.ship_to.address_lines.append("Secret Street 1")
    nested = logs.redacted(order)
    assert nested == "order: { state: ORDER_STATE_CONFIRMED ship_to: [REDACTED] }"


def test_maps_lists_and_packed_messages_are_shown_without_what_cannot_be_checked() -> None:
    struct = Struct()
    struct.update({"a": "b"})
    assert 'key: "a"' in logs.redacted(struct)
    assert logs.redacted(FieldMask(paths=["a", "b"])) == 'paths: "a" paths: "b"'
    packed = AnyMessage()
    packed.Pack(created())
    in_bytes = descriptor_pb2.UninterpretedOption(string_value=b"12345")
    assert logs.redacted(in_bytes) == "string_value: <5 bytes>"
    shown = logs.redacted(Status(message="m", details=[packed]))
    assert "commerce.order.v1.OrderCreated" in shown
    assert "secret" not in shown.lower()


def test_a_message_in_a_line_is_blanked_too(out: io.StringIO) -> None:
    text = io.StringIO()
    log.info("got", message_seen=created())
    logs.configure(format="text", stream=text)
    log.info("got", message_seen=created())

    for written in (out.getvalue(), text.getvalue()):
        assert "o-1" in written
        assert "secret" not in written.lower()
