"""Ranges of partitions: read from their first offset to their end, or the trouble told."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, Message, TopicPartition

from connectors.ranges import read_ranges
from schemas.errors import UnavailableError

TOPIC = "t"


class FakeReader:
    """A consumer that hands over what it was given, however much is asked for at once."""

    def __init__(self, *polls: list[Message]) -> None:
        self._polls = list(polls)
        self.assigned: list[TopicPartition] = []
        self.asked: list[int] = []

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.assigned = partitions

    def consume(self, num_messages: int, timeout: float) -> list[Message]:
        self.asked.append(num_messages)
        return self._polls.pop(0)

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float) -> tuple[int, int] | None:
        raise NotImplementedError


def record(offset: int) -> Message:
    return Message(TOPIC, 0, offset, value=b"%d" % offset)


def trouble(code: int) -> Message:
    return Message(TOPIC, 0, error=KafkaError(code))


def test_a_range_is_read_from_its_first_offset_to_the_one_before_its_end() -> None:
    reader = FakeReader([record(5), record(6)], [record(7), record(8)])
    assert [one.offset() for one in read_ranges(reader, {(TOPIC, 0): (5, 8)}, most=2)] == [5, 6, 7]
    assert [(one.topic, one.partition, one.offset) for one in reader.assigned] == [(TOPIC, 0, 5)]
    assert reader.asked == [2, 2]


def test_nothing_is_read_ahead_of_who_takes_it() -> None:
    reader = FakeReader([record(0)], [record(1)])
    records = read_ranges(reader, {(TOPIC, 0): (0, 2)})
    next(records)
    assert len(reader.asked) == 1


def test_a_beginning_that_is_removed_meanwhile_is_told() -> None:
    with pytest.raises(UnavailableError, match="removed the beginning"):
        list(read_ranges(FakeReader([trouble(KafkaError._AUTO_OFFSET_RESET)]), {(TOPIC, 0): (0, 2)}))


def test_what_the_client_mends_by_itself_is_no_trouble() -> None:
    reader = FakeReader([trouble(KafkaError._TRANSPORT)], [record(0)])
    assert len(list(read_ranges(reader, {(TOPIC, 0): (0, 1)}))) == 1
