"""Ranges of topics' partitions, read to fixed ends."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from connectors.kafka_access import client_properties, failure
from connectors.settings import Settings
from schemas.access import RANGES_GROUP
from schemas.errors import UnavailableError

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
_POLL_S = 0.1  # a poll waits this long if it is not filled before
_POLL_RECORDS = 5000

OnProgress = Callable[[float], None]
Partition = tuple[str, int]  # topic, number
Range = tuple[int, int]  # first offset, the one after the last


class LogRecord(msgspec.Struct, gc=False):
    """A record as it lies on its topic; `timestamp` in epoch milliseconds."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


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


@contextmanager
def range_consumer(settings: Settings, group: str = RANGES_GROUP) -> Iterator[Consumer]:
    """Open a consumer that reads ranges and commits nothing; its KafkaException becomes the error of `failure`.

    It reads what a worker reads: records of transactions that were aborted too.
    """
    properties = client_properties(settings) | {
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
        "isolation.level": "read_uncommitted",
        "fetch.wait.max.ms": 10,  # what a range holds is there: waiting for more only delays the next range
        "queued.max.messages.kbytes": 16_384,
        "log_level": 0,
    }
    consumer = Consumer(properties)
    try:
        yield consumer
    except KafkaException as error:
        raise failure(error.args[0], "be read") from error
    finally:
        consumer.close()


def partitions_of(consumer: Consumer, topics: Sequence[str]) -> list[Partition]:
    """List the topics' partitions."""
    known = {topic: consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic] for topic in topics}
    return [(topic, number) for topic, metadata in known.items() for number in metadata.partitions]


def offset_ranges(consumer: PartitionReader, partitions: Sequence[Partition]) -> dict[Partition, Range]:
    """Look up each partition's first offset and its end; raise UnavailableError when one does not answer."""
    ranges = {}
    for topic, number in sorted(partitions):
        offsets = _watermarks(consumer, TopicPartition(topic, number))
        if offsets is None:
            raise UnavailableError(f"Kafka does not tell where partition {number} of {topic} ends.")
        ranges[topic, number] = offsets
    return ranges


def committed_offsets(settings: Settings, group: str, topics: Sequence[str]) -> dict[Partition, int]:
    """Return the offset below which a group has committed each partition; those it never committed are left out.

    Asked as one of the group, which does not join it: librdkafka's administrative request ends the whole process where
    the group's coordinator is not there yet. Raises UnavailableError where Kafka does not answer.
    """
    with range_consumer(settings, group) as consumer:
        partitions = [TopicPartition(*one) for one in partitions_of(consumer, topics)]
        found = consumer.committed(partitions, timeout=_TIMEOUT_S)
    return {(one.topic, one.partition): one.offset for one in found if one.offset >= 0}


def _watermarks(consumer: PartitionReader, partition: TopicPartition) -> Range | None:
    for tries_left in reversed(range(_LEADER_TRIES)):
        try:
            return consumer.get_watermark_offsets(partition, timeout=_TIMEOUT_S)
        except KafkaException as error:
            if not tries_left or error.args[0].code() not in _SETTLING:
                raise
            time.sleep(_LEADER_PAUSE_S)  # a partition made just now, or moving, has no leader yet
    return None


def read_ranges(
    consumer: PartitionReader,
    ranges: Mapping[Partition, Range],
    on_progress: OnProgress = lambda _: None,
    *,
    most: int = _POLL_RECORDS,
) -> Iterator[Message]:
    """Yield the ranges' records as they arrive, each partition's in offset order; at most `most` wait in memory.

    The consumer reports the ends of partitions (`enable.partition.eof`): compaction may have removed the last
    offsets of a range, and then nothing but that report tells that it is read. `on_progress` is told the share that
    is read, 0 to 1. Raises UnavailableError where Kafka does not answer.
    """
    left = {partition: (low, end) for partition, (low, end) in ranges.items() if low < end}
    total = sum(end - low for low, end in left.values())
    consumer.assign([TopicPartition(topic, number, low) for (topic, number), (low, _) in left.items()])
    for messages in _polls(consumer, left, most):
        for message in messages:
            if _is_in(message, left):
                yield message
        on_progress(1 - sum(end - position for position, end in left.values()) / total)
    on_progress(1.0)


def _is_in(message: Message, left: dict[Partition, Range]) -> bool:
    """Tell whether this is a record of its partition's range, and move on in what is `left` to read."""
    partition = (str(message.topic()), int(message.partition() or 0))
    if partition not in left:
        return False
    offset, (_, end) = int(message.offset() or 0), left[partition]
    if message.error() is not None or offset >= end:
        del left[partition]
        return False
    left[partition] = (offset + 1, end)
    if offset + 1 == end:
        del left[partition]
    return True


def _polls(consumer: PartitionReader, left: Mapping[Partition, object], most: int) -> Iterator[list[Message]]:
    """Yield records and reports of partitions' ends as they arrive, while any partition is left."""
    silent_s = 0.0
    while left:
        batch = consumer.consume(most, timeout=_POLL_S)
        useful = [message for message in batch if _record_or_end(message)]
        silent_s = 0.0 if useful else silent_s + _POLL_S
        if silent_s > _SILENCE_S:
            raise UnavailableError(f"Kafka sent nothing for {_SILENCE_S:.0f} s while topics were read.")
        yield useful


def _record_or_end(message: Message) -> bool:
    error = message.error()
    if error is None or error.code() == KafkaError._PARTITION_EOF:
        return True
    if error.code() == KafkaError._AUTO_OFFSET_RESET:
        raise UnavailableError("Kafka removed the beginning of a topic by its retention while it was read.")
    # Codes below 0 are the client's own troubles, which it mends by itself.
    told = error.code() > 0 and error.code() not in _SETTLING
    if told or error.fatal() or error.code() == KafkaError._AUTHENTICATION:
        raise failure(error, "be read")
    return False


def read_by_arrival(
    settings: Settings, ranges: Mapping[Partition, Range], *, most: int
) -> Generator[LogRecord, None, None]:
    """Yield the ranges' records in the order of their timestamps, each partition's in offset order.

    Each partition waits with at most `most` records in memory. Raises as `read_ranges`.
    """
    with ExitStack() as stack:
        consumers = {one: stack.enter_context(range_consumer(settings)) for one in sorted(ranges)}
        partitions = [
            map(log_record, read_ranges(consumer, {one: ranges[one]}, most=most)) for one, consumer in consumers.items()
        ]
        yield from heapq.merge(*partitions, key=lambda record: record.timestamp)


def log_record(message: Message) -> LogRecord:
    """Take over a message."""
    _, timestamp = message.timestamp()
    headers: Any = message.headers() or ()
    return LogRecord(
        str(message.topic()),
        message.partition() or 0,
        message.offset() or 0,
        timestamp,
        message.key(),
        message.value(),
        tuple(headers),
    )
