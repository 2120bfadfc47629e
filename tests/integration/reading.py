"""What topics and tables hold, read for comparison."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer

from connectors.kafka import end_offsets
from connectors.kafka_access import client_properties
from connectors.settings import Settings
from healthalliance.progress import fetch
from schemas.pseudonyms import InstitutionKeys, institution_keys

_READ_S = 30.0

Offsets = Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Received:
    """A message as a consumer sees it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


def ends_of(settings: Settings, topic: str) -> dict[int, int]:
    """Note where each of the topic's partitions ends now."""
    ends = end_offsets(settings, [topic])
    return {partition: offset for (_, partition), offset in ends.items()}


def read_since(settings: Settings, topic: str, starts: Offsets) -> list[Received]:
    """Read each partition from the noted offset to its present end, in offset order."""
    consumer = Consumer(
        {
            **client_properties(settings),
            "group.id": f"test-{uuid.uuid4()}",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.message.max.bytes": 12 * 1024 * 1024,
        }
    )
    try:
        consumer.assign([TopicPartition(topic, partition, offset) for partition, offset in starts.items()])
        return _read_to_ends(consumer, set(starts))
    finally:
        consumer.close()


def _read_to_ends(consumer: Consumer, partitions: set[int]) -> list[Received]:
    received: list[Received] = []
    deadline = time.monotonic() + _READ_S
    while partitions:
        assert time.monotonic() < deadline, f"partitions {partitions} were not read to their ends"
        for message in consumer.consume(1000, timeout=0.5):
            error = message.error()
            if error is None:
                received.append(_received(message))
            elif error.code() == KafkaError._PARTITION_EOF:
                partitions.discard(message.partition())
    return sorted(received, key=lambda one: (one.partition, one.offset))


def _received(message: Message) -> Received:
    partition, offset = message.partition(), message.offset()
    assert partition is not None
    assert offset is not None
    headers: Any = message.headers() or []
    return Received(partition, offset, message.key(), message.value(), tuple(headers))


def decoded(settings: Settings, messages: Iterable[Received]) -> list[dict[str, Any]]:
    """Read all but the tombstones as any consumer with Confluent's deserializer and the registry would."""
    with SchemaRegistryClient({"url": settings.schema_registry_url}) as client:
        deserialize = AvroDeserializer(client)
        return [deserialize(one.value) for one in messages if one.value is not None]


def keys_of(settings: Settings, institution: str) -> InstitutionKeys:
    return institution_keys(settings.pseudonym_key.get_secret_value(), institution)


def rows_of_encounters(
    settings: Settings, table: str, institution: str, encounter_ids: Iterable[str]
) -> dict[str, list[dict[str, Any]]]:
    """Read a table's rows of the given encounters by the hospital's id, oldest first."""
    keys = keys_of(settings, institution)
    id_of = {keys.encounter_pseudonym(id_): id_ for id_ in encounter_ids}
    rows = fetch(
        settings,
        f"SELECT * FROM {table} WHERE institution = $1 AND encounter_pseudonym = ANY($2::uuid[]) ORDER BY scored_at",
        institution,
        list(id_of),
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(id_of[str(row["encounter_pseudonym"])], []).append(dict(row))
    return found


def latest_risk(settings: Settings, institution: str, encounter_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Read the newest score of each encounter; fail where one has more than one."""
    found = rows_of_encounters(settings, "latest_risk", institution, encounter_ids)
    assert all(len(rows) == 1 for rows in found.values()), "an encounter has two newest scores"
    return {id_: rows[0] for id_, rows in found.items()}


def texts_of(
    settings: Settings, table: str, left_out: Iterable[str], *, schema: str = "public", institution: str | None = None
) -> list[str]:
    """Return a table's rows as texts, without some columns, in their own order; of an institution if one is named."""
    columns = [
        row["column_name"]
        for row in fetch(
            settings,
            "SELECT column_name FROM information_schema.columns WHERE table_schema = $1 AND table_name = $2 "
            "AND column_name <> ALL($3) ORDER BY 1",
            schema,
            table,
            list(left_out),
        )
    ]
    assert columns
    query = f"SELECT ROW({', '.join(columns)})::text AS text FROM {schema}.{table}"
    if institution is None:
        found = fetch(settings, f"{query} ORDER BY 1")
    else:
        found = fetch(settings, f"{query} WHERE institution = $1 ORDER BY 1", institution)
    return [row["text"] for row in found]
