"""Where a score came from and how long it took: its commit, its message, what became of the stay."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaException, TopicPartition

from connectors.kafka import end_offsets
from connectors.settings import Settings
from schemas.stored_score import StoredScore
from schemas.topics import TopicFamily, topic_name

_LOOK_S = 10.0
_EARLIER = timedelta(seconds=5)
_ID_AT = slice(6, 42)  # behind the magic byte, the schema's id and the text's length: the record's first field


async def committed_at(connection: asyncpg.Connection[Any], score: StoredScore) -> datetime | None:
    """Return when the row was committed, None where it was changed since, as by what superseded it."""
    found: datetime | None = await connection.fetchval(
        """SELECT pg_xact_commit_timestamp(xmin) FROM risk_scores
           WHERE record_id = $1 AND received_at = $2 AND superseded_by IS NULL""",
        score.record_id,
        score.received_at,
    )
    return found


async def outcome_of(connection: asyncpg.Connection[Any], score: StoredScore) -> str | None:
    """Return what became of the stay, by `risk_outcomes`; None where the score is not the one at its discharge."""
    found: str | None = await connection.fetchval(
        "SELECT outcome FROM risk_outcomes WHERE institution = $1 AND encounter_pseudonym = $2 AND record_id = $3",
        score.institution,
        score.encounter_pseudonym,
        score.record_id,
    )
    return found


def published_at(settings: Settings, score: StoredScore) -> datetime | None:
    """Return the time of the score's first message on `risk.<institution>`, None where it is not found. Blocks.

    Raises UnavailableError where Kafka does not answer.
    """
    topic = topic_name(TopicFamily.RISK, score.institution)
    ends = end_offsets(settings.kafka_bootstrap_servers, [topic])
    since = int((score.scored_at - _EARLIER).timestamp() * 1000)
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka_bootstrap_servers,
            "group.id": f"explain-{uuid.uuid4()}",
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    try:
        starts = consumer.offsets_for_times([TopicPartition(*one, since) for one in ends], timeout=_LOOK_S)
        return _find(consumer, [one for one in starts if one.offset >= 0], ends, score.record_id.encode())
    except KafkaException:
        return None
    finally:
        consumer.close()


def _find(
    consumer: Consumer, starts: list[TopicPartition], ends: dict[tuple[str, int], int], record_id: bytes
) -> datetime | None:
    left = {
        one.partition: ends[one.topic, one.partition] for one in starts if one.offset < ends[one.topic, one.partition]
    }
    consumer.assign([one for one in starts if one.partition in left])
    deadline = time.monotonic() + _LOOK_S
    while left and time.monotonic() < deadline:
        for message in consumer.consume(500, timeout=0.5):
            partition, offset, value = message.partition(), message.offset(), message.value()
            if message.error() is not None or partition is None or offset is None:
                continue
            if value is not None and value[_ID_AT] == record_id:
                kind, at = message.timestamp()
                return None if kind == TIMESTAMP_NOT_AVAILABLE else datetime.fromtimestamp(at / 1000, UTC)
            if offset + 1 >= left.get(partition, 0):
                left.pop(partition, None)
    return None
