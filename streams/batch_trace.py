"""What logs and spans say of a batch: where its events lie, and which traces they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from aiokafka.structs import ConsumerRecord
from opentelemetry.trace import Span, SpanKind
from structlog.contextvars import bound_contextvars

from connectors.tracing import span, traceparent_of
from schemas.messages import RiskScore
from streams.decision import Event

Coordinates = tuple[str, int, int]  # topic id, partition, offset


@contextmanager
def about_batch(records: Sequence[ConsumerRecord[bytes, bytes]]) -> Iterator[Span]:
    """Name the batch in all that is logged by what begins here, and open its span, which the caller ends.

    The span is linked to the trace of each event that has one.
    """
    where = _where(records)
    with (
        bound_contextvars(batch=where),
        span(
            "process batch",
            kind=SpanKind.CONSUMER,
            links=dict.fromkeys(filter(None, (traceparent_of(record.headers) for record in records))),
            ends=False,
            messaging__system="kafka",
            messaging__operation__type="process",
            messaging__batch__message_count=len(records),
            healthalliance__batch=where,
        ) as opened,
    ):
        yield opened


def traceparents_of(events: Iterable[Event]) -> Mapping[Coordinates, bytes]:
    """Return the trace contexts that events came with."""
    found = {}
    for event in events:
        if event.raw.headers and (context := traceparent_of(event.raw.headers)):
            found[event.topic_id, event.raw.partition, event.raw.offset] = context
    return found


def coordinates_of(score: RiskScore) -> Coordinates:
    """Name the event that a score was made of."""
    return score.topic_id, score.source_partition, score.source_offset


def _where(records: Sequence[ConsumerRecord[bytes, bytes]]) -> list[str]:
    """List topic/partition:first-last, offsets."""
    ends: dict[tuple[str, int], tuple[int, int]] = {}
    for record in records:
        first, _ = ends.get((record.topic, record.partition), (record.offset, 0))
        ends[record.topic, record.partition] = first, record.offset
    return [f"{topic}/{partition}:{first}-{last}" for (topic, partition), (first, last) in ends.items()]
