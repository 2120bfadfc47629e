"""The compacted `features.<institution>` topics, read from the beginning to a fixed end."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import httpx2
import pyarrow as pa
from confluent_kafka.schema_registry.error import SchemaRegistryError
from fastavro.read import SchemaResolutionError

from connectors.kafka import topic_ids
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
from schemas.errors import IncompatibleSchemaError, UnavailableError
from schemas.features import Features
from schemas.institutions import institutions
from schemas.messages import EncounterFeatures
from schemas.snapshot import snapshot_table
from schemas.topics import TopicFamily, topic_name


@dataclass(frozen=True, slots=True)
class PartitionEnd:
    """How far a partition was read: offsets below `end_offset`."""

    topic: str
    topic_id: str
    partition: int
    end_offset: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The newest features of every encounter up to fixed ends, by institution and pseudonym.

    `ends` identify the snapshot: a topic made anew under the same name has another id.
    """

    table: pa.Table
    ends: tuple[PartitionEnd, ...]

    @property
    def digest(self) -> str:
        """The SHA-256 of the identity, in hexadecimal."""
        ends = sorted((end.topic_id, end.partition, end.end_offset) for end in self.ends)
        return sha256(json.dumps(ends).encode()).hexdigest()


def read_snapshot(
    settings: Settings, on_progress: OnProgress = lambda _: None, institution_ids: Sequence[str] | None = None
) -> Snapshot:
    """Read the feature topics of the given institutions, by default of all, up to their ends of now.

    `on_progress` is told the share that is read, 0 to 1. Raises UnavailableError where Kafka or the schema registry
    does not answer, IncompatibleSchemaError for a record that this code cannot read.
    """
    topics = [topic_name(TopicFamily.FEATURES, id_) for id_ in institution_ids or institutions()]
    ids = topic_ids(settings.kafka_bootstrap_servers, topics)
    with range_consumer(settings.kafka_bootstrap_servers) as consumer:
        ranges = offset_ranges(consumer, partitions_of(consumer, topics))
        values = newest_values(consumer, ranges, on_progress)
    ends = tuple(PartitionEnd(topic, ids[topic], number, end) for (topic, number), (_, end) in ranges.items())
    return Snapshot(snapshot_table(decoded(values, Registry(settings.schema_registry_url))), ends)


def newest_values(
    consumer: PartitionReader,
    ranges: Mapping[Partition, Range],
    on_progress: OnProgress = lambda _: None,
) -> dict[tuple[str, bytes], bytes]:
    """Read the partitions' ranges and return the last value of each (topic, key); a tombstone removes its key."""
    values: dict[tuple[str, bytes], bytes] = {}
    for message in read_ranges(consumer, ranges, on_progress):
        key, value = (str(message.topic()), message.key() or b""), message.value()
        if value is None:
            values.pop(key, None)
        else:
            values[key] = value
    return values


def decoded(values: Mapping[tuple[str, bytes], bytes], registry: Registry) -> tuple[EncounterFeatures, ...]:
    """Read the values of (topic, key) as records, by institution and pseudonym.

    Raises UnavailableError where the registry does not give a schema, IncompatibleSchemaError for what is no record.
    """
    records = [_record(topic, value, registry) for (topic, _), value in values.items()]
    return tuple(sorted(records, key=lambda record: (record.institution, record.encounter_pseudonym)))


def _record(topic: str, value: bytes, registry: Registry) -> EncounterFeatures:
    try:
        fields = registry.decode("EncounterFeatures", value)
    except (SchemaRegistryError, httpx2.HTTPError, OSError) as error:
        raise UnavailableError("The schema registry at SCHEMA_REGISTRY_URL does not give a record's schema.") from error
    except (SchemaResolutionError, struct.error, EOFError, ValueError, IndexError) as error:
        raise IncompatibleSchemaError(f"{topic} holds a record that this code cannot read.") from error
    return EncounterFeatures(**{**fields, "features": Features(**fields["features"])})
