"""Build the tables anew from the topics, after PostgreSQL was lost or was restored to an earlier moment.

Workers apply an event once, and go on behind what the consumer group has committed: of what lies before, an empty or
older database would never hear again. So that part of the log is folded here, by the same core, and nothing is
published, since it was. Each event is scored by the model that its record on `risk.<institution>` names, so that the
rows have the records' ids; where compaction has removed it, by the model of the events around it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby

from connectors.kafka import group_members, topic_ids
from connectors.models.versions import load_found
from connectors.ranges import (
    Partition,
    Range,
    committed_offsets,
    offset_ranges,
    partitions_of,
    range_consumer,
    read_by_arrival,
)
from connectors.restored_scores import Published, published_scores, take_over
from connectors.settings import Settings
from connectors.store import Store, connect, open_pool
from healthalliance.folding import folding_processor, read_ahead, require_key, sender_of
from healthalliance.progress import fetch
from schemas.errors import ConfigurationError
from schemas.model import Model
from schemas.topics import TopicFamily, topic_name
from streams.decision import Event, Sender

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What was folded of an institution, and how it compares with `risk.<institution>`.

    begins_later: the log's beginning is gone, so histories lack what came before. published: the records that the
    topic holds of patients that were not erased; equal: those of them that are in the table, with the same probability.
    """

    institution: str
    events: int
    seconds: float
    begins_later: bool
    published: int
    equal: int


def rebuild(
    settings: Settings,
    institution_id: str,
    *,
    incomplete: bool = False,
    on_progress: OnProgress = lambda *_: None,
) -> Rebuilt:
    """Fold what the consumer group has committed and the database does not hold.

    Raises ConfigurationError while workers run, with another PSEUDONYM_KEY than the histories', or where the log's
    beginning is gone and `incomplete` is not set; NoModelError where the registry lacks a model that has scored;
    UnavailableError where Kafka, the registries or PostgreSQL do not answer.
    """
    if members := group_members(settings, settings.consumer_group):
        raise ConfigurationError(f"{members} workers are in the group {settings.consumer_group}; stop them first.")
    sender = sender_of(settings, institution_id)
    for row in fetch(settings, _A_HISTORY, institution_id):
        require_key(sender, row["patient_pseudonym"], row["history"])
    topic = topic_name(TopicFamily.ENCOUNTERS, institution_id)
    topic_id = topic_ids(settings, [topic])[topic]
    ranges, begins_later = _left_out(settings, topic, topic_id)
    if begins_later and not incomplete:
        raise ConfigurationError(
            f"The beginning of {topic} is gone, and the database does not hold it: patients' histories would lack it. "
            "Restore a backup first, or accept that with --incomplete."
        )
    started = time.monotonic()
    events = asyncio.run(_fold(settings, sender, topic_id, ranges, on_progress))
    seconds = time.monotonic() - started
    published, missing = asyncio.run(_take_over(settings, institution_id, topic_id))
    return Rebuilt(institution_id, events, seconds, begins_later, published, published - missing)


def _left_out(settings: Settings, topic: str, topic_id: str) -> tuple[dict[Partition, Range], bool]:
    """Return what is committed but not in the database, and whether the log does not hold some of that any more."""
    with range_consumer(settings) as consumer:
        held = offset_ranges(consumer, partitions_of(consumer, [topic]))
    rows = fetch(settings, "SELECT source_partition, next_offset FROM stream_progress WHERE topic_id = $1", topic_id)
    applied = {row["source_partition"]: row["next_offset"] for row in rows}
    committed = committed_offsets(settings, settings.consumer_group, [topic])
    ranges, begins_later = {}, False
    for (name, number), (first, end) in held.items():
        begin, until = applied.get(number, 0), min(end, committed.get((name, number), 0))
        begins_later |= begin < min(first, until)
        ranges[name, number] = max(first, begin), max(first, begin, until)
    return ranges, begins_later


async def _fold(
    settings: Settings, sender: Sender, topic_id: str, ranges: Mapping[Partition, Range], on_progress: OnProgress
) -> int:
    @cache
    def model(version: str | None) -> Model | None:
        return None if version is None else load_found(settings, version)

    scored_by = _ScoredBy.of(published_scores(settings, sender.institution.id, topic_id))
    total, events = sum(end - first for first, end in ranges.values()), 0
    store = await _store(settings)
    try:
        processor = folding_processor(settings, topic_id, store, sender)
        records = read_by_arrival(settings, ranges, most=settings.batch_max_events)
        with closing(records):
            async for batch in read_ahead(processor, records, settings.batch_max_events):
                for version, some in groupby(batch, scored_by.version_for):
                    processor.model = model(version)
                    await processor.apply(list(some))
                events += len(batch)
                on_progress(events, total)
    finally:
        await store.close()
    return events


async def _store(settings: Settings) -> Store:
    store = await connect(settings.database_url)
    await store.ensure_partitions()
    return store


async def _take_over(settings: Settings, institution_id: str, topic_id: str) -> tuple[int, int]:
    async with await open_pool(settings.database_url, connections=1, session={}) as pool:
        return await take_over(pool, published_scores(settings, institution_id, topic_id))


@dataclass
class _ScoredBy:
    """Which model version has scored each event, as far as the topic tells; None before the first one that did."""

    versions: Mapping[tuple[int, int], str]  # by partition and offset
    _last: dict[int, str] = field(default_factory=dict)
    _last_of_any: str | None = None

    @classmethod
    def of(cls, published: Iterable[Published]) -> _ScoredBy:
        scores = (score for _, score in published if score is not None)
        return cls({(one["source_partition"], one["source_offset"]): one["model_version"] for one in scores})

    def version_for(self, event: Event) -> str | None:
        """Tell it of the next event by arrival; of one without a record, what its partition was scored by before."""
        partition = event.raw.partition
        if (known := self.versions.get((partition, event.raw.offset))) is not None:
            self._last[partition] = self._last_of_any = known
        return known or self._last.get(partition, self._last_of_any)


_A_HISTORY = "SELECT patient_pseudonym::text, history FROM patient_history WHERE institution = $1 LIMIT 1"
