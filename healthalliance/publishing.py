"""Publish events to an institution's topic, with every delivery confirmed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from connectors.kafka import OutMessage, Publisher, present_topics
from connectors.settings import Settings
from connectors.source_event import SourceEvent
from schemas.errors import UnavailableError
from schemas.topics import TopicFamily, topic_name


@dataclass(slots=True)
class Ledger:
    """What the broker confirmed: (topic, partition, offset) → when the event was handed over, in epoch seconds."""

    published_at: dict[tuple[str, int, int], float] = field(default_factory=dict)

    def count(self, topic: str) -> int:
        """Count a topic's confirmed events."""
        return sum(one[0] == topic for one in self.published_at)


def publish_events(
    settings: Settings,
    institution_id: str,
    events: Iterable[SourceEvent],
    *,
    ledger: Ledger | None = None,
    events_per_s: float | None = None,
    on_published: Callable[[int], None] = lambda _: None,
) -> int:
    """Publish events in order, at `events_per_s` if given; return their number once all are confirmed."""
    topic = topic_name(TopicFamily.ENCOUNTERS, institution_id)
    if topic not in present_topics(settings):
        raise UnavailableError(f"Kafka has no topic {topic}; `healthalliance up` or a worker makes it.")
    publisher = Publisher(settings)
    started, count = time.monotonic(), 0
    for count, event in enumerate(events, start=1):
        if events_per_s is not None:
            _wait_until(started + count / events_per_s, publisher)
        publisher.send(OutMessage(topic, event.key, event.value), _noting(ledger, topic))
        publisher.poll()
        on_published(count)
    publisher.flush()
    return count


def _wait_until(due: float, publisher: Publisher) -> None:
    while (left := due - time.monotonic()) > 0:
        publisher.poll()
        time.sleep(min(left, 0.005))


def _noting(ledger: Ledger | None, topic: str) -> Callable[[int, int], None] | None:
    if ledger is None:
        return None
    handed_over = time.time()

    def note(partition: int, offset: int) -> None:
        ledger.published_at[topic, partition, offset] = handed_over

    return note


def write_ndjson(path: Path, events: Iterable[SourceEvent]) -> int:
    """Write events as NDJSON, a line each, and return their number; a tombstone becomes a Bundle that deletes."""
    with path.open("wb") as file:
        # Broken events stay broken, but on one line.
        lines = ((event.value or _deletion(event.key)).replace(b"\n", b" ") for event in events)
        return sum(bool(file.write(line + b"\n")) for line in lines)


def _deletion(key: bytes) -> bytes:
    entry = {"request": {"method": "DELETE", "url": key.decode()}}
    return json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": [entry]}).encode()
