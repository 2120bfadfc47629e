"""The compacted `features.<institution>` topics, read from the beginning to a fixed end."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import httpx2
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.schema_registry.error import SchemaRegistryError
from fastavro.read import SchemaResolutionError

from connectors.kafka import topic_ids
from connectors.registry import Registry
from connectors.settings import Settings
from schemas.errors import IncompatibleSchemaError, UnavailableError
from schemas.features import Features
from schemas.institutions import institutions
from schemas.messages import EncounterFeatures
from schemas.topics import TopicFamily, topic_name

_TIMEOUT_S = 15.0
_SILENCE_S = 30.0  # without a record or the end of a partition, the broker counts as away
_LEADER_TRIES = 20
_LEADER_PAUSE_S = 0.5
_SETTLING = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.REQUEST_TIMED_OUT,
}
_POLL_S = 1.0
_POLL_RECORDS = 5000

OnProgress = Callable[[float], None]
Partition = tuple[str, int]


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

    records: tuple[EncounterFeatures, ...]
    ends: tuple[PartitionEnd, ...]


class PartitionReader(Protocol):
    """The part of a confluent-kafka Consumer that reading to an end needs."""

    def assign(self, partitions: list[TopicPartition]) -> None:
        """Read these partitions from the given offsets."""
        ...

    def consume(self, num_messages: int, timeout: float) -> list[Message]:
        """Return at most `num_messages`, as many as arrive within `timeout` seconds."""
        ...

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float) -> tuple[int, int] | None:
        """Return the partition's first offset and the one its next record will get; None when time is up."""
        ...


def read_snapshot(
    settings: Settings, on_progress: OnProgress = lambda _: None, institution_ids: Sequence[str] | None = None
) -> Snapshot:
    """Read the feature topics of the given institutions, by default of all, up to their ends of now.

    `on_progress` is told the share that is read, 0 to 1. Raises UnavailableError where Kafka or the schema registry
    does not answer, IncompatibleSchemaError for a record that this code cannot read.
    """
    topics = [topic_name(TopicFamily.FEATURES, id_) for id_ in institution_ids or institutions()]
    ids = topic_ids(settings.kafka_bootstrap_servers, topics)
    consumer = _consumer(settings.kafka_bootstrap_servers)
    try:
        ranges = offset_ranges(consumer, _partitions(consumer, topics))
        values = newest_values(consumer, ranges, on_progress)
    except KafkaException as error:
        raise UnavailableError(f"Kafka could not be read: {error.args[0].str()}") from error
    finally:
        consumer.close()
    ends = tuple(PartitionEnd(topic, ids[topic], number, end) for (topic, number), (_, end) in ranges.items())
    return Snapshot(decoded(values, Registry(settings.schema_registry_url)), ends)


def offset_ranges(consumer: PartitionReader, partitions: Sequence[Partition]) -> dict[Partition, tuple[int, int]]:
    """Look up each partition's first offset and its end; raise UnavailableError when one does not answer."""
    ranges = {}
    for topic, number in sorted(partitions):
        offsets = _watermarks(consumer, TopicPartition(topic, number))
        if offsets is None:
            raise UnavailableError(f"Kafka does not tell where partition {number} of {topic} ends.")
        ranges[topic, number] = offsets
    return ranges


def _watermarks(consumer: PartitionReader, partition: TopicPartition) -> tuple[int, int] | None:
    for tries_left in reversed(range(_LEADER_TRIES)):
        try:
            return consumer.get_watermark_offsets(partition, timeout=_TIMEOUT_S)
        except KafkaException as error:
            if not tries_left or error.args[0].code() not in _SETTLING:
                raise
            time.sleep(_LEADER_PAUSE_S)  # a partition made just now, or moving, has no leader yet
    return None


def newest_values(
    consumer: PartitionReader,
    ranges: Mapping[Partition, tuple[int, int]],
    on_progress: OnProgress = lambda _: None,
) -> dict[tuple[str, bytes], bytes]:
    """Read the partitions' ranges and return the last value of each (topic, key); a tombstone removes its key.

    The consumer reports the ends of partitions (`enable.partition.eof`): compaction may have removed the last
    offsets of a range, and then nothing but that report tells that it is read.
    """
    left = {partition: (low, end) for partition, (low, end) in ranges.items() if low < end}
    total = sum(end - low for low, end in left.values())
    values: dict[tuple[str, bytes], bytes] = {}
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for topic, number in left])
    for messages in _polls(consumer, left):
        for message in messages:
            _take(message, left, values)
        on_progress(1 - sum(end - position for position, end in left.values()) / total)
    on_progress(1.0)
    return values


def _take(message: Message, left: dict[Partition, tuple[int, int]], values: dict[tuple[str, bytes], bytes]) -> None:
    """Take a record into `values` if it lies before its partition's end, and move on in what is `left` to read."""
    partition = (str(message.topic()), int(message.partition() or 0))
    if partition not in left:
        return
    offset, (_, end) = int(message.offset() or 0), left[partition]
    if message.error() is not None or offset >= end:
        del left[partition]
        return
    key, value = (partition[0], message.key() or b""), message.value()
    if value is None:
        values.pop(key, None)
    else:
        values[key] = value
    left[partition] = (offset + 1, end)
    if offset + 1 == end:
        del left[partition]


def _polls(consumer: PartitionReader, left: Mapping[Partition, object]) -> Iterator[list[Message]]:
    """Yield records and reports of partitions' ends as they arrive, while any partition is left."""
    silent_s = 0.0
    while left:
        batch = consumer.consume(_POLL_RECORDS, timeout=_POLL_S)
        useful = [message for message in batch if _record_or_end(message)]
        silent_s = 0.0 if useful else silent_s + _POLL_S
        if silent_s > _SILENCE_S:
            raise UnavailableError(f"Kafka sent nothing for {_SILENCE_S:.0f} s while the feature topics were read.")
        yield useful


def _record_or_end(message: Message) -> bool:
    error = message.error()
    if error is None or error.code() == KafkaError._PARTITION_EOF:
        return True
    # Codes below 0 are the client's own troubles, which it mends by itself.
    if error.fatal() or (error.code() > 0 and error.code() not in _SETTLING):
        raise UnavailableError(f"Kafka could not be read: {error.str()}")
    return False


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


def _partitions(consumer: Consumer, topics: Sequence[str]) -> list[Partition]:
    known = {topic: consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic] for topic in topics}
    return [(topic, number) for topic, metadata in known.items() for number in metadata.partitions]


def _consumer(bootstrap_servers: str) -> Consumer:
    settings: dict[str, Any] = {
        "bootstrap.servers": bootstrap_servers,
        "group.id": "healthalliance-training",  # demanded by the client; nothing is committed under it
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "enable.partition.eof": True,
        "queued.max.messages.kbytes": 65_536,
        "log_level": 0,
    }
    return Consumer(settings)
