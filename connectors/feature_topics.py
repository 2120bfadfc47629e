"""The compacted `features.<institution>` topics, read from the beginning to fixed ends, as one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa

from connectors.feature_rows import NewestRows, ReadValue, value_reader
from connectors.kafka import topic_ids
from connectors.partition_ends import PartitionEnd, identity_digest
from connectors.ranges import (
    OnProgress,
    Partition,
    PartitionReader,
    Range,
    offset_ranges,
    partitions_of,
    range_consumer,
    read_ranges,
)
from connectors.registry import Registry
from connectors.settings import Settings
from schemas.errors import SnapshotGoneError
from schemas.institutions import institutions
from schemas.snapshot import SNAPSHOT_SCHEMA, content_digest, sorted_by_encounter
from schemas.topics import TopicFamily, topic_name


@dataclass(frozen=True)
class Snapshot:
    """The newest features of every encounter up to fixed ends, as a table of `schemas.snapshot`.

    `ends` identify the snapshot: a topic made anew under the same name has another id. The same identity is the same
    table, as long as nothing that was newest at the ends has been superseded or deleted since: compaction then takes
    it away, and reading the same ends again misses its encounter. Nothing in the topic tells that such a record was
    there; `content`, which is kept with a model, does.
    """

    table: pa.Table = field(repr=False)
    ends: tuple[PartitionEnd, ...]

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the identity, in hexadecimal; a topic's name is no part of it."""
        return identity_digest(self.ends)

    @cached_property
    def content(self) -> str:
        """The SHA-256 of the table's content, in hexadecimal."""
        return content_digest(self.table)


def read_snapshot(
    settings: Settings,
    on_progress: OnProgress = lambda _: None,
    institution_ids: Sequence[str] | None = None,
    ends: Sequence[PartitionEnd] | None = None,
) -> Snapshot:
    """Read the feature topics of the given institutions, by default of all, up to their ends of now or to `ends`.

    `on_progress` is told the share that is read, 0 to 1. Raises UnavailableError where Kafka or the schema registry
    does not answer, IncompatibleSchemaError for a record that this code cannot read, SnapshotGoneError where `ends`
    are those of a topic that is gone.
    """
    if ends is None:
        topics = [topic_name(TopicFamily.FEATURES, id_) for id_ in institution_ids or institutions()]
    else:
        topics = sorted({end.topic for end in ends})
    ids = topic_ids(settings, topics)
    with range_consumer(settings) as consumer:
        ranges = offset_ranges(consumer, partitions_of(consumer, topics))
        if ends is not None:
            ranges = ranges_to(ends, ids, ranges)
        with closing(Registry(settings.schema_registry_url)) as registry:
            table = read_table(consumer, ranges, value_reader(registry), on_progress)
    return Snapshot(table, tuple(PartitionEnd(topic, ids[topic], n, end) for (topic, n), (_, end) in ranges.items()))


def ranges_to(
    ends: Sequence[PartitionEnd], ids: Mapping[str, str], present: Mapping[Partition, Range]
) -> dict[Partition, Range]:
    """Return the ranges up to ends of an earlier snapshot, by what is present; raise SnapshotGoneError."""
    ranges = {}
    for end in ends:
        low, high = present.get((end.topic, end.partition), (0, 0))
        if ids.get(end.topic) != end.topic_id or end.end_offset > high:
            raise SnapshotGoneError(f"{end.topic} is not the topic the snapshot was read from.")
        ranges[end.topic, end.partition] = (min(low, end.end_offset), end.end_offset)
    return ranges


def read_table(
    consumer: PartitionReader,
    ranges: Mapping[Partition, Range],
    reader: ReadValue,
    on_progress: OnProgress = lambda _: None,
) -> pa.Table:
    """Read the partitions' ranges and return each encounter's newest row, sorted; a tombstone removes its encounter.

    A key is in one partition alone, so one partition at a time is read and only its superseded rows are in memory.
    """
    total = sum(end - low for low, end in ranges.values()) or 1
    done, topics = 0, dict[str, list[pa.Table]]()
    for (topic, number), (low, end) in sorted(ranges.items()):

        def tell(share: float, before: int = done, size: int = end - low) -> None:
            on_progress((before + share * size) / total)

        rows = NewestRows(topic, reader)
        for message in read_ranges(consumer, {(topic, number): (low, end)}, tell):
            rows.add(message.key() or b"", message.value())
        topics.setdefault(topic, []).append(rows.table())
        done += end - low
    sorted_ones = [sorted_by_encounter(pa.concat_tables(topics.pop(topic))) for topic in sorted(topics)]
    on_progress(1.0)
    return pa.concat_tables([SNAPSHOT_SCHEMA.empty_table(), *sorted_ones])
