"""Work off an institution's log anew, with the rules and the model of now, beside what is live."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass

from connectors.kafka import topic_ids
from connectors.migrate import migrate
from connectors.models import load_champion
from connectors.ranges import (
    Partition,
    Range,
    offset_ranges,
    partitions_of,
    range_consumer,
    read_by_arrival,
)
from connectors.settings import Settings
from connectors.side_schema import Live, Source, Window, side_schema
from connectors.store import connect
from healthalliance.comparison import Comparison, summed_up
from healthalliance.folding import folding_processor, read_ahead, require_key, sender_of
from schemas.errors import ConfigurationError
from schemas.model import Model
from schemas.topics import TopicFamily, topic_name
from streams.decision import Sender

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Replay:
    """What to replay: the log of an institution, into which schema, and which of its events to compare."""

    institution: str
    into: str
    window: Window
    replace: bool = False


@dataclass(frozen=True, slots=True)
class Replayed:
    """What was read and how it compares.

    ranges: each partition's first offset and the one after the last. begins_later: the log's beginning is gone, so
    patients known before are left out. compared_events: those received within the window.
    """

    institution: str
    into: str
    model_version: str
    ranges: dict[int, Range]
    begins_later: bool
    events: int
    compared_events: int
    seconds: float
    comparison: Comparison

    @property
    def events_per_s(self) -> float:
        """Events folded a second."""
        return self.events / self.seconds


def replay(settings: Settings, what: Replay, on_progress: OnProgress = lambda *_: None) -> Replayed:
    """Fold the whole log, as far as it is applied live, into the schema, and compare; publish nothing.

    `on_progress` is told how many of how many events are folded. Raises ConfigurationError for a schema that cannot
    be used, an empty window or another PSEUDONYM_KEY than the workers', NoModelError without a champion,
    UnavailableError where Kafka or PostgreSQL does not answer.
    """
    if what.window.until is not None and what.window.until <= what.window.since:
        raise ConfigurationError("Nothing is to be compared: --to is not after --from.")
    sender = sender_of(settings, what.institution)
    model = load_champion(settings)
    topic = topic_name(TopicFamily.ENCOUNTERS, what.institution)
    topic_id = topic_ids(settings, [topic])[topic]
    with range_consumer(settings) as consumer:
        held = offset_ranges(consumer, partitions_of(consumer, [topic]))
    source = Source(what.institution, topic_id, {number: first for (_, number), (first, _) in held.items()})
    asyncio.run(_make(settings, what, sender))
    migrate(settings.database_url, what.into)
    return asyncio.run(_replay(settings, what, source, held, _Now(sender, model), on_progress))


@dataclass(frozen=True, slots=True)
class _Now:
    """The rules and the model of now."""

    sender: Sender
    model: Model


async def _make(settings: Settings, what: Replay, sender: Sender) -> None:
    async with side_schema(settings.database_url, what.into) as side:
        if (held := await side.a_live_history(what.institution)) is not None:
            require_key(sender, *held)
        await side.make(replace=what.replace)


async def _replay(
    settings: Settings,
    what: Replay,
    source: Source,
    held: Mapping[Partition, Range],
    now: _Now,
    on_progress: OnProgress,
) -> Replayed:
    async with side_schema(settings.database_url, what.into) as side:
        live = await side.note_live(source)
        ranges = _applied(held, live)
        store = await connect(settings.database_url, what.into)
        try:
            started = time.monotonic()
            processor = folding_processor(settings, source.topic_id, store, now.sender)
            processor.model = now.model
            records = read_by_arrival(settings, ranges, most=settings.batch_max_events)
            total = sum(end - first for first, end in ranges.values())
            events = within = 0
            with closing(records):
                async for batch in read_ahead(processor, records, settings.batch_max_events):
                    await processor.apply(batch)
                    events += len(batch)
                    within += sum(what.window.holds(event.raw.received_at) for event in batch)
                    on_progress(events, total)
            seconds = time.monotonic() - started
        finally:
            await store.close()
        return Replayed(
            institution=what.institution,
            into=what.into,
            model_version=now.model.version,
            ranges={number: span for (_, number), span in ranges.items()},
            begins_later=live.begins_later,
            events=events,
            compared_events=within,
            seconds=seconds,
            comparison=summed_up(await side.compare(what.window)),
        )


def _applied(held: Mapping[Partition, Range], live: Live) -> dict[Partition, Range]:
    """Cut the ranges that the log holds where the live workers are."""
    return {
        (topic, number): (first, max(first, min(end, live.next_offsets.get(number, first))))
        for (topic, number), (first, end) in held.items()
    }
