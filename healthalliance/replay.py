"""Work off an institution's log anew, with the rules and the model of now, beside what is live."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

from cryptography.exceptions import InvalidTag

from connectors.kafka import topic_ids
from connectors.migrate import migrate
from connectors.models import load_champion
from connectors.ranges import (
    LogRecord,
    Partition,
    Range,
    offset_ranges,
    partitions_of,
    range_consumer,
    read_by_arrival,
)
from connectors.settings import Settings
from connectors.side_schema import Live, Source, Window, side_schema
from connectors.store import Store, connect
from healthalliance.comparison import Comparison, summed_up
from schemas.errors import ConfigurationError
from schemas.institutions import institution as find_institution
from schemas.intake.event_bytes import Limits
from schemas.intake.structure import structure_validator
from schemas.model import Model
from schemas.pseudonyms import institution_keys
from schemas.topics import TopicFamily, topic_name
from streams.decision import Event, Sender
from streams.processor import Processor

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
    sender = _sender(settings, what.institution)
    model = load_champion(settings)
    topic = topic_name(TopicFamily.ENCOUNTERS, what.institution)
    topic_id = topic_ids(settings.kafka_bootstrap_servers, [topic])[topic]
    with range_consumer(settings.kafka_bootstrap_servers) as consumer:
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


def _sender(settings: Settings, institution_id: str) -> Sender:
    keys = institution_keys(settings.pseudonym_key.get_secret_value(), institution_id)
    return Sender(find_institution(institution_id), keys)


async def _make(settings: Settings, what: Replay, sender: Sender) -> None:
    async with side_schema(settings.database_url, what.into) as side:
        if (held := await side.a_live_history(what.institution)) is not None:
            pseudonym, history = held
            try:
                sender.keys.unseal(history, pseudonym)
            except InvalidTag:
                raise ConfigurationError(
                    "PSEUDONYM_KEY is not the one that the live histories are sealed with."
                ) from None
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
            fold = _Fold(_processor(settings, source.topic_id, store, now), what.window)
            records = read_by_arrival(settings.kafka_bootstrap_servers, ranges, most=settings.batch_max_events)
            total = sum(end - first for first, end in ranges.values())
            with closing(records):
                await fold.run(records, settings.batch_max_events, lambda folded: on_progress(folded, total))
            seconds = time.monotonic() - started
        finally:
            await store.close()
        return Replayed(
            institution=what.institution,
            into=what.into,
            model_version=now.model.version,
            ranges={number: span for (_, number), span in ranges.items()},
            begins_later=live.begins_later,
            events=fold.events,
            compared_events=fold.within,
            seconds=seconds,
            comparison=summed_up(await side.compare(what.window)),
        )


def _applied(held: Mapping[Partition, Range], live: Live) -> dict[Partition, Range]:
    """Cut the ranges that the log holds where the live workers are."""
    return {
        (topic, number): (first, max(first, min(end, live.next_offsets.get(number, first))))
        for (topic, number), (first, end) in held.items()
    }


def _processor(settings: Settings, topic_id: str, store: Store, now: _Now) -> Processor:
    topic = topic_name(TopicFamily.ENCOUNTERS, now.sender.institution.id)
    processor = Processor(
        senders={topic: now.sender},
        limits=Limits(settings.event_max_bytes, settings.event_max_depth),
        validate=structure_validator(settings.structure_validator),
        store=store,
        publisher=None,
        schema_ids={},
        retry_timeout_s=settings.retry_timeout_s,
    )
    processor.topic_ids, processor.model = {topic: topic_id}, now.model
    return processor


class _Fold:
    """Reads a batch while the one before is applied."""

    def __init__(self, processor: Processor, window: Window) -> None:
        self._processor, self._window = processor, window
        self.events = self.within = 0

    async def run(self, records: Iterator[LogRecord], most: int, on_folded: Callable[[int], None]) -> None:
        ahead = asyncio.create_task(self._read(records, most))
        try:
            while batch := await ahead:
                ahead = asyncio.create_task(self._read(records, most))
                await self._processor.apply(batch)
                self.events += len(batch)
                self.within += sum(self._window.holds(event.raw.received_at) for event in batch)
                on_folded(self.events)
        finally:
            await asyncio.wait([ahead])  # a thread may be reading still

    async def _read(self, records: Iterator[LogRecord], most: int) -> list[Event]:
        batch = await asyncio.to_thread(list, islice(records, most))
        return await self._processor.read(batch)
