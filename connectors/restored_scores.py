"""Scores as `risk.<institution>` holds them, for a database that is built anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from connectors.ranges import offset_ranges, partitions_of, range_consumer, read_ranges
from connectors.registry import Registry
from connectors.score_reading import Connection
from connectors.settings import Settings
from schemas.topics import TopicFamily, topic_name

_AT_ONCE = 5_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Patient = bytes  # the topic's key
Score = Mapping[str, Any]  # a RiskScore; times in µs since 1970, UTC
Published = tuple[Patient, Score | None]  # None: a tombstone, the patient was erased


def published_scores(settings: Settings, institution: str, topic_id: str) -> Iterator[Published]:
    """Yield what `risk.<institution>` holds of scores that came from the encounter topic with this id.

    Raises UnavailableError where Kafka or the schema registry does not answer.
    """
    read = Registry(settings.schema_registry_url).plain_reader("RiskScore")
    with range_consumer(settings) as consumer:
        topic = topic_name(TopicFamily.RISK, institution)
        for message in read_ranges(consumer, offset_ranges(consumer, partitions_of(consumer, [topic]))):
            patient, value = message.key() or b"", message.value()
            if value is None:
                yield patient, None
            elif (score := read(value))["topic_id"] == topic_id:
                yield patient, score


async def take_over(connection: Connection, published: Iterator[Published]) -> tuple[int, int]:
    """Give the rows that are there the times at which they were scored first.

    Return how many records of patients that were not erased there are, and how many of them are not in the table with
    the same probability.
    """
    there, missing = 0, dict[str, Patient]()
    while some := list(islice(published, _AT_ONCE)):
        scores = {score["record_id"]: score for _, score in some if score is not None}
        rows = await connection.fetch(
            _TAKE_OVER,
            list(scores),
            [_at(one["received_at"]) for one in scores.values()],
            [_at(one["scored_at"]) for one in scores.values()],
            [one["probability"] for one in scores.values()],
        )
        found = {str(row["record_id"]) for row in rows}
        there += len(found)
        for patient, score in some:
            if score is None:
                missing = {id_: whose for id_, whose in missing.items() if whose != patient}
            elif score["record_id"] not in found:
                missing[score["record_id"]] = patient
    return there + len(missing), len(missing)


def _at(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


_TAKE_OVER = """
UPDATE risk_scores AS held SET scored_at = new.scored_at
FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::float8[])
    AS new(record_id, received_at, scored_at, probability)
WHERE held.record_id = new.record_id AND held.received_at = new.received_at
  AND held.probability IS NOT DISTINCT FROM new.probability
RETURNING held.record_id
"""
