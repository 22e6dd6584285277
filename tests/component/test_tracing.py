"""Trace contexts as they travel, and the spans of one service."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from weft.tracing import SpanKind, TraceContext, Tracing

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACE_ID, SPAN_ID = "a" * 32, "b" * 16
SAMPLED = TraceContext(f"00-{TRACE_ID}-{SPAN_ID}-01", "vendor=1")
UNSAMPLED = TraceContext(f"00-{TRACE_ID}-{SPAN_ID}-00")


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def recording(spans: InMemorySpanExporter) -> Tracing:
    return Tracing("order", "order-1", environ={}, processors=[SimpleSpanProcessor(spans)])


@pytest.fixture
def silent() -> Tracing:
    return Tracing("order", environ={})


def test_a_context_tells_its_ids() -> None:
    assert (SAMPLED.trace_id, SAMPLED.span_id, SAMPLED.sampled) == (TRACE_ID, SPAN_ID, True)
    assert (UNSAMPLED.trace_id, UNSAMPLED.sampled) == (TRACE_ID, False)
    assert SAMPLED
    assert not TraceContext()
    assert (TraceContext().trace_id, TraceContext().span_id, TraceContext().sampled) == ("", "", False)


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (f"00-{TRACE_ID}-{SPAN_ID}-01", f"00-{TRACE_ID}-{SPAN_ID}-01"),
        (f"00-{TRACE_ID}-{SPAN_ID}-ff", f"00-{TRACE_ID}-{SPAN_ID}-03"),
        (f"01-{TRACE_ID}-{SPAN_ID}-01", f"00-{TRACE_ID}-{SPAN_ID}-01"),
        (f"01-{TRACE_ID}-{SPAN_ID}-01-more", f"00-{TRACE_ID}-{SPAN_ID}-01"),
    ],
)
def test_what_a_caller_sent_is_read_as_the_version_that_we_know(sent: str, read: str) -> None:
    assert TraceContext.of(sent, "vendor=1") == TraceContext(read, "vendor=1")


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "nonsense",
        f"00-{TRACE_ID}-{SPAN_ID}",
        f"00-{TRACE_ID}-{SPAN_ID}-01-more",
        f"00-{TRACE_ID}-{SPAN_ID}-01\n",
        f"01-{TRACE_ID}-{SPAN_ID}-01more",
        f"ff-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID.upper()}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-01" + "-x" * 300,
        f"01-{TRACE_ID}-{SPAN_ID}-01" + "-x" * 300,
    ],
)
def test_a_malformed_traceparent_is_ignored(sent: str) -> None:
    assert not TraceContext.of(sent, "vendor=1")


@pytest.mark.parametrize("state", ["x" * 513, "vendor=1\r\nevil: header", "vendor=\u00e9"])
def test_a_tracestate_that_is_too_long_or_no_header_is_left_out(state: str) -> None:
    assert TraceContext.of(SAMPLED.traceparent, state) == TraceContext(SAMPLED.traceparent)


def test_a_new_root_has_an_id_and_is_not_sampled() -> None:
    root = TraceContext.root()
    assert TraceContext.of(root.traceparent) == root
    assert not root.sampled
    assert root != TraceContext.root()


def test_outside_of_a_trace_there_is_none() -> None:
    assert Tracing.current() == TraceContext()


@pytest.mark.parametrize("place", [SAMPLED, UNSAMPLED, TraceContext.root()])
def test_a_resumed_context_is_the_current_one(place: TraceContext) -> None:
    with Tracing.resumed(place):
        assert Tracing.current() == place
        with Tracing.resumed(TraceContext()):
            assert not Tracing.current()
        assert Tracing.current() == place
    assert not Tracing.current()


def test_opentelemetry_sees_a_resumed_context_as_its_own() -> None:
    with Tracing.resumed(SAMPLED):
        seen = trace.get_current_span().get_span_context()
    assert (f"{seen.trace_id:032x}", f"{seen.span_id:016x}", seen.trace_flags) == (TRACE_ID, SPAN_ID, 1)
    assert seen.trace_state.to_header() == "vendor=1"
    assert seen.is_remote


async def test_contexts_of_tasks_do_not_mix() -> None:
    async def work(place: TraceContext) -> bool:
        with Tracing.resumed(place):
            await asyncio.sleep(0)
            return Tracing.current() == place

    assert all(await asyncio.gather(*(work(TraceContext.root()) for _ in range(10))))


def test_a_span_below_a_resumed_context_is_its_child(recording: Tracing, spans: InMemorySpanExporter) -> None:
    with (
        recording.resumed(SAMPLED),
        recording.span("work", kind=SpanKind.CONSUMER, attributes={"n": 1}) as span,
    ):
        inner = recording.current()
        assert inner.trace_id == TRACE_ID
        assert inner.span_id == f"{span.get_span_context().span_id:016x}" != SPAN_ID
        assert inner.tracestate == "vendor=1"

    [recorded] = spans.get_finished_spans()
    assert recorded.parent is not None
    assert f"{recorded.parent.span_id:016x}" == SPAN_ID
    assert (recorded.name, recorded.kind, dict(recorded.attributes or {})) == (
        "work",
        SpanKind.CONSUMER,
        {"n": 1},
    )
    assert recorded.resource.attributes["service.name"] == "order"
    assert recorded.resource.attributes["service.instance.id"] == "order-1"


def test_a_span_links_where_else_its_work_came_from(recording: Tracing, spans: InMemorySpanExporter) -> None:
    with recording.span("batch", links=[SAMPLED, TraceContext()]):
        pass
    [recorded] = spans.get_finished_spans()
    assert [f"{link.context.span_id:016x}" for link in recorded.links] == [SPAN_ID]


def test_a_parent_may_be_named_instead_of_resumed(recording: Tracing, spans: InMemorySpanExporter) -> None:
    with recording.span("outer"), recording.span("inner", parent=SAMPLED):
        pass
    inner, outer = spans.get_finished_spans()
    assert f"{inner.context.trace_id:032x}" == TRACE_ID != f"{outer.context.trace_id:032x}"


def test_an_error_fails_its_span(recording: Tracing, spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="wrong"), recording.span("work"):
        raise ValueError("wrong")
    with pytest.raises(ValueError, match="wrong"), recording.span("work", reports=False):
        raise ValueError("wrong")
    failed, kept = spans.get_finished_spans()
    assert failed.status.status_code == StatusCode.ERROR
    assert [event.name for event in failed.events] == ["exception"]
    assert kept.status.status_code == StatusCode.UNSET


def test_what_its_caller_did_not_sample_is_not_recorded(recording: Tracing, spans: InMemorySpanExporter) -> None:
    with recording.resumed(UNSAMPLED), recording.span("work") as span:
        assert not span.is_recording()
        assert recording.current() == UNSAMPLED
    assert spans.get_finished_spans() == ()


def test_without_an_exporter_contexts_are_passed_on_untouched(silent: Tracing) -> None:
    with silent.span("edge", parent=SAMPLED):
        assert silent.current() == SAMPLED
        with silent.span("work"):
            assert silent.current() == SAMPLED


def test_without_an_exporter_a_span_still_begins_a_trace(silent: Tracing) -> None:
    with silent.span("edge"):
        place = silent.current()
        assert place.trace_id
        with silent.span("work"):
            assert silent.current() == place
    assert not silent.current()


def test_two_services_of_one_process_record_apart() -> None:
    exporters = {name: InMemorySpanExporter() for name in ("order", "payment")}
    for name, exporter in exporters.items():
        with Tracing(name, environ={}, processors=[SimpleSpanProcessor(exporter)]).span("work"):
            pass
    for name, exporter in exporters.items():
        [span] = exporter.get_finished_spans()
        assert span.resource.attributes["service.name"] == name


class Collector(BaseHTTPRequestHandler):
    """Takes OTLP over HTTP."""

    received: list[ExportTraceServiceRequest]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.received.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ExportTraceServiceRequest]]:
    received: list[ExportTraceServiceRequest] = []
    server = HTTPServer(("127.0.0.1", 0), type("OneCollector", (Collector,), {"received": received}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield received
    server.shutdown()
    thread.join()
    server.server_close()


async def test_with_an_endpoint_everything_is_exported(collector: list[ExportTraceServiceRequest]) -> None:
    tracing = Tracing("order", "order-1")
    with tracing.span("work"):
        pass
    await tracing.close()

    [resource] = [resource for request in collector for resource in request.resource_spans]
    attributes = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert attributes["service.name"] == "order"
    assert [span.name for scope in resource.scope_spans for span in scope.spans] == ["work"]


async def test_the_sampler_of_the_environment_decides(
    collector: list[ExportTraceServiceRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    tracing = Tracing("order")
    with tracing.span("mine"):
        assert tracing.current().trace_id
    with tracing.span("sampled by its caller", parent=SAMPLED):
        pass
    await tracing.close()

    spans = [span for r in collector for one in r.resource_spans for scope in one.scope_spans for span in scope.spans]
    assert [span.name for span in spans] == ["sampled by its caller"]


@pytest.mark.parametrize(
    "environ",
    [{"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "console"}, {"OTEL_TRACES_EXPORTER": "none"}],
)
def test_exporting_can_be_switched_off(environ: dict[str, str]) -> None:
    with Tracing("order", environ=environ).span("work") as span:
        assert not span.is_recording()


async def test_spans_can_be_seen_on_the_console(capsys: pytest.CaptureFixture[str]) -> None:
    tracing = Tracing("order", environ={"OTEL_TRACES_EXPORTER": "console"})
    with tracing.span("work"):
        pass
    await tracing.close()
    assert '"name": "work"' in capsys.readouterr().out


def test_an_unknown_exporter_is_named(caplog: pytest.LogCaptureFixture) -> None:
    Tracing("order", environ={"OTEL_TRACES_EXPORTER": "zipkin"})
    assert "OTEL_TRACES_EXPORTER=zipkin" in caplog.text


class Slow(SpanProcessor):
    """A processor that shuts down only when it is released, as with a collector that does not answer."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def shutdown(self) -> None:
        self.released.wait(30)


async def test_closing_waits_no_longer_than_it_may_and_does_not_block_the_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    slow = Slow()
    tracing = Tracing("order", environ={}, processors=[slow])
    began, ticks = time.monotonic(), 0
    closing = asyncio.create_task(tracing.close(0.1))
    while not closing.done():
        await asyncio.sleep(0.005)
        ticks += 1
    slow.released.set()

    assert time.monotonic() - began < 5
    assert ticks > 5
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_a_tracing_that_records_nothing_closes_at_once(silent: Tracing) -> None:
    await silent.close(0)


def test_the_sdk_is_imported_only_where_something_is_recorded() -> None:
    code = (
        "import sys; from weft.tracing import Tracing; Tracing('order', environ={});"
        "sys.exit('opentelemetry.sdk.trace' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
