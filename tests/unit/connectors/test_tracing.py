"""Trace contexts: what is one goes on, what is none does not, and a span says nothing of what an error says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from connectors import tracing
from connectors.tracing import HEADER, as_headers, own_traceparent, span, traceparent_of

CONTEXT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def test_a_messages_context_goes_on_as_it_came() -> None:
    assert as_headers(traceparent_of([("other", b"x"), (HEADER, CONTEXT)])) == ((HEADER, CONTEXT),)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"Patient/mustermann",
        CONTEXT + b"-Patient/mustermann",
        CONTEXT.replace(b"00-", b"ff-", 1),
        CONTEXT.upper(),
        b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01",
        b"00-0af7651916cd43dd8448eb211c80319c-" + b"0" * 16 + b"-01",
        None,
    ],
)
def test_what_is_no_context_does_not(value: bytes) -> None:
    assert traceparent_of([(HEADER, value)]) is None
    assert as_headers(None) == ()


@given(st.binary(max_size=80))
def test_nothing_but_a_context_is_taken_for_one(value: bytes) -> None:
    found = traceparent_of([(HEADER, value)])
    assert found is None or (len(found) == 55 and b"Patient" not in found)


def test_without_a_collector_no_span_is_recorded() -> None:
    with span("batch", links=[CONTEXT]):
        assert own_traceparent() is None


def test_a_span_is_linked_and_lies_below_what_is_open(exported: InMemorySpanExporter) -> None:
    with span("batch", links=[CONTEXT], messaging__system="kafka"), span("write"):
        inner = own_traceparent()
    write, batch = exported.get_finished_spans()
    assert [trace.format_trace_id(one.context.trace_id) for one in batch.links] == [CONTEXT[3:35].decode()]
    assert batch.attributes == {"messaging.system": "kafka"}
    assert write.parent is not None
    assert write.parent.span_id == batch.context.span_id
    assert inner is not None
    assert inner[3:35].decode() == trace.format_trace_id(batch.context.trace_id)


def test_a_given_parent_is_the_spans(exported: InMemorySpanExporter) -> None:
    with span("publish", parent=CONTEXT):
        pass
    [publish] = exported.get_finished_spans()
    assert trace.format_trace_id(publish.context.trace_id) == CONTEXT[3:35].decode()


def test_of_an_error_a_span_tells_the_kind_alone(exported: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="mustermann"), span("write"):
        raise ValueError("Key (patient)=(mustermann) exists.")
    [write] = exported.get_finished_spans()
    assert write.status.description == "ValueError"
    assert "mustermann" not in write.to_json()
