"""Traces: a hospital's W3C trace context goes on to what is made of its event; spans where a collector is configured.

A span holds coordinates and numbers, never what an event or an error says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from connectors.settings import Settings

Headers = Sequence[tuple[str, bytes]]

HEADER = "traceparent"
_TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_propagator = TraceContextTextMapPropagator()
_tracer = trace.get_tracer("healthalliance")


def start_tracing(settings: Settings, part: str) -> None:
    """Export this process's spans as `healthalliance-<part>`, where OTEL_EXPORTER_OTLP_ENDPOINT says where to."""
    if not settings.otel_exporter_otlp_endpoint:
        return
    # Only here: what exports takes a tenth of a second to import.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(
        resource=Resource.create({"service.name": f"healthalliance-{part}"}),
        span_limits=SpanLimits(max_links=settings.batch_max_events),
    )
    exporter = OTLPSpanExporter(endpoint=f"{settings.otel_exporter_otlp_endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def traceparent_of(headers: Headers) -> bytes | None:
    """Return the trace context among a message's headers, None where there is none or it is not one.

    >>> traceparent_of([("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")])
    b'00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
    >>> traceparent_of([("traceparent", b"Patient/17")])
    """
    for name, value in headers:
        if name == HEADER and value is not None and _TRACEPARENT.fullmatch(value):
            return value
    return None


def own_traceparent() -> bytes | None:
    """Return the context of the span that is open here, None where none is exported."""
    if not trace.get_current_span().is_recording():
        return None
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier[HEADER].encode()


def as_headers(traceparent: bytes | None) -> tuple[tuple[str, bytes], ...]:
    """Return a message's headers that carry the context on."""
    return ((HEADER, traceparent),) if traceparent else ()


@contextmanager
def span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    parent: bytes | None = None,
    links: Iterable[bytes] = (),
    ends: bool = True,
    **attributes: AttributeValue,
) -> Iterator[Span]:
    """Open a span below the one that is open, or below `parent`; its `links` are other traces' contexts.

    Where it does not end with the block (`ends`), whoever opened it ends it. Attributes' names have `__` for a dot.
    Of an error it tells the kind alone.
    """
    with _tracer.start_as_current_span(
        name,
        context=_context(parent) if parent else None,
        kind=kind,
        links=[Link(trace.get_current_span(_context(one)).get_span_context()) for one in links],
        attributes={key.replace("__", "."): value for key, value in attributes.items()},
        record_exception=False,
        set_status_on_exception=False,
        end_on_exit=ends,
    ) as opened:
        try:
            yield opened
        except BaseException as error:
            opened.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def _context(traceparent: bytes) -> Context:
    return _propagator.extract({HEADER: traceparent.decode()})
