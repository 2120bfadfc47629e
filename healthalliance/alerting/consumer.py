"""The scores of `risk.<institution>`, read in a consumer group."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import httpx2
from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.schema_registry.error import SchemaRegistryError

from connectors.kafka_access import client_properties, failure, is_not_allowed
from connectors.registry import Registry
from connectors.settings import Settings
from schemas.access import alerts_groups
from schemas.alert import Scored, scored
from schemas.errors import UnavailableError
from schemas.topics import TopicFamily, topic_name

log = logging.getLogger("healthalliance.alerts")

_MOST = 500
_POLL_S = 0.5
_NOT_FOUND = frozenset({404, 422})


@dataclass(frozen=True, slots=True)
class Read:
    """What one poll brought: scores in each partition's order, how many messages were none, where it ended."""

    scores: tuple[Scored, ...]
    unreadable: int
    positions: tuple[TopicPartition, ...]


def group_of(institution: str, channel: str) -> str:
    """Name the consumer group that a channel's processes share."""
    return f"{alerts_groups(institution)}{channel}"


class ScoreConsumer:
    """Reads an institution's scores; blocks, and is to be called from one thread at a time."""

    def __init__(self, settings: Settings, institution: str, channel: str) -> None:
        self._topic = topic_name(TopicFamily.RISK, institution)
        self._settings = settings
        self._registry = Registry(settings.schema_registry_url)
        self._consumer = Consumer(
            client_properties(settings)
            | {
                "group.id": group_of(institution, channel),
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "session.timeout.ms": 10_000,  # so long a killed process's partitions wait for another
                "log_level": 0,
            }
        )
        self._consumer.subscribe([self._topic])
        self._undecided: list[Message] = []
        self._ended: set[int] = set()

    def poll(self) -> Read:
        """Wait shortly for messages; raise UnavailableError where the registry does not answer,
        AccessRefusedError where Kafka does not let this user in or read.

        What was read before such an error is returned by the next call.
        """
        if not self._undecided:
            self._undecided = self._consumer.consume(_MOST, _POLL_S)
        found, unreadable, ends = list[Scored](), 0, dict[int, TopicPartition]()
        for message in self._undecided:
            error, partition, offset = message.error(), message.partition(), message.offset()
            if error is not None:
                self._note(error, partition)
                continue
            assert partition is not None
            assert offset is not None
            ends[partition] = TopicPartition(self._topic, partition, offset + 1)
            value = message.value()
            if value is None:
                continue  # the patient was erased, and the tables know
            score = self._decoded(bytes(value))
            if score is None:
                log.warning("Message %d of partition %d is no score.", offset, partition)
                unreadable += 1
            else:
                found.append(score)
        self._undecided = []
        return Read(tuple(found), unreadable, tuple(ends.values()))

    def _note(self, error: KafkaError, partition: int | None) -> None:
        if error.code() == KafkaError._PARTITION_EOF and partition is not None:
            self._ended.add(partition)
        elif error.code() == KafkaError._AUTHENTICATION or is_not_allowed(error):
            raise failure(error, f"read {self._topic}")
        elif error.code() != KafkaError._ALL_BROKERS_DOWN:  # it goes on by itself once they are there
            log.warning("Kafka: %s.", error.str())

    def _decoded(self, value: bytes) -> Scored | None:
        if len(value) < 5 or value[0] != 0:
            return None
        try:
            return scored(self._registry.decode("RiskScore", value))
        except SchemaRegistryError as error:
            if error.http_status_code in _NOT_FOUND:
                return None
            raise UnavailableError("The schema registry at SCHEMA_REGISTRY_URL does not answer.") from error
        except (httpx2.HTTPError, OSError) as error:
            raise UnavailableError("The schema registry at SCHEMA_REGISTRY_URL does not answer.") from error
        except Exception:  # whatever the bytes make of the decoder
            return None

    def commit(self, positions: Sequence[TopicPartition]) -> None:
        """Tell the group how far this process is; what is not told comes again, and is known."""
        if not positions:
            return
        try:
            self._consumer.commit(offsets=list(positions), asynchronous=False)
        except KafkaException as error:
            log.warning("Offsets were not committed: %s.", error.args[0].str())

    def has_read_all(self) -> bool:
        """Tell whether it has been at the end of each of its partitions since it got them; False while it has none."""
        mine = {one.partition for one in self._consumer.assignment()}
        self._ended &= mine
        return bool(mine) and self._ended == mine

    def lag(self) -> int:
        """Count the messages of this process's partitions that it has not read, as far as it knows."""
        waiting = 0
        for one in self._consumer.position(self._consumer.assignment()):
            _, high = self._consumer.get_watermark_offsets(one, cached=True)
            if one.offset != OFFSET_INVALID and high > one.offset:
                waiting += high - one.offset
        return waiting

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()
        self._registry.close()
