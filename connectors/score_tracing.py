"""Where a score came from and how long it took: event, commit, message; its challenger, and the outcome of the stay."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from confluent_kafka import TopicPartition

from connectors.kafka import present_topics, topic_ids
from connectors.ranges import log_record, offset_ranges, partitions_of, range_consumer, read_ranges
from connectors.settings import Settings
from schemas.challenger import ChallengerScore
from schemas.stored_score import StoredScore
from schemas.topics import TopicFamily, topic_name

_LOOK_S = 10.0
_EARLIER = timedelta(seconds=5)
_ID_AT = slice(6, 42)  # behind the magic byte, the schema's id and the text's length: the record's first field


@dataclass(frozen=True, slots=True)
class Source:
    """The topic a score's event came from, and whether it still holds the event."""

    topic: str
    is_retained: bool


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


async def challenger_of(connection: asyncpg.Connection[Any], score: StoredScore) -> ChallengerScore | None:
    """Return what a challenger said of the same record, None where none did."""
    columns = ", ".join(ChallengerScore.__struct_fields__)
    row = await connection.fetchrow(f"SELECT {columns} FROM challenger_scores WHERE record_id = $1", score.record_id)
    if row is None:
        return None
    values = {name: str(one) if isinstance(one, UUID) else one for name, one in row.items()}
    return msgspec.convert(values, ChallengerScore)


def source_of(settings: Settings, score: StoredScore) -> Source:
    """Tell which topic a score's event came from, and whether it is there yet: retention or an operator removes it.

    A topic that was made anew under the same name holds it no more. Raises UnavailableError where Kafka does not
    answer. Blocks.
    """
    topic = topic_name(TopicFamily.ENCOUNTERS, score.institution)
    if topic not in present_topics(settings) or topic_ids(settings, [topic])[topic] != score.topic_id:
        return Source(topic, is_retained=False)
    partition = topic, score.source_partition
    with range_consumer(settings) as consumer:
        first, end = offset_ranges(consumer, [partition])[partition]
    return Source(topic, first <= score.source_offset < end)


def published_at(settings: Settings, score: StoredScore) -> datetime | None:
    """Return the time of the score's first message on `risk.<institution>`, None where it is not found soon. Blocks.

    Raises UnavailableError where Kafka does not answer.
    """
    topic = topic_name(TopicFamily.RISK, score.institution)
    since = int((score.scored_at - _EARLIER).timestamp() * 1000)
    deadline = time.monotonic() + _LOOK_S
    with range_consumer(settings) as consumer:
        ends = offset_ranges(consumer, partitions_of(consumer, [topic]))
        starts = consumer.offsets_for_times([TopicPartition(*one, since) for one in ends], timeout=_LOOK_S)
        ranges = {(one.topic, one.partition): (one.offset, ends[one.topic, one.partition][1]) for one in starts}
        asked = {one: range_ for one, range_ in ranges.items() if range_[0] >= 0}
        for record in map(log_record, read_ranges(consumer, asked)):
            if record.value is not None and record.value[_ID_AT] == score.record_id.encode():
                return datetime.fromtimestamp(record.timestamp / 1000, UTC)
            if time.monotonic() > deadline:
                break
    return None
