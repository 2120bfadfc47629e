"""The schema registry: register the output records' schemas, write and read their wire format."""

from __future__ import annotations

import io
import json
import struct
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import fastavro
import httpx2
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from schemas import avro
from schemas.errors import IncompatibleSchemaError, UnavailableError
from schemas.institutions import institutions
from schemas.messages import EncounterFeatures, RiskScore
from schemas.topics import TOPIC_SPECS, topic_name

_RACE_S = 1.0
_HEADER = struct.Struct(">bI")  # Confluent wire format: magic byte 0, schema id


class Registry:
    """A Confluent-compatible schema registry."""

    def __init__(self, url: str) -> None:
        self._client = SchemaRegistryClient({"url": url, "timeout": 10})

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def register_all(self) -> dict[str, int]:
        """Register every output topic's schema as BACKWARD compatible; return the schema id by topic.

        Raises IncompatibleSchemaError if the registry refuses a schema, UnavailableError if it does not answer.
        """
        return {
            topic_name(family, id_): self._register(topic_name(family, id_), spec.record)
            for family, spec in TOPIC_SPECS.items()
            if spec.record is not None
            for id_ in institutions()
        }

    def _register(self, topic: str, record: str, *, again: bool = True) -> int:
        subject = f"{topic}-value"
        try:
            schema_id = self._client.register_schema(subject, Schema(avro.schema_text(record), "AVRO"))
            self._client.set_compatibility(subject, "BACKWARD")
        except SchemaRegistryError as error:
            if error.http_status_code == 409:
                if again:  # another worker that registers the same at this moment looks like a conflict
                    time.sleep(_RACE_S)
                    return self._register(topic, record, again=False)
                raise IncompatibleSchemaError(f"{subject}: the registry refuses the schema as incompatible.") from error
            raise UnavailableError(f"The schema registry refuses {subject}: {error.error_message}") from error
        except (httpx2.HTTPError, OSError) as error:
            raise UnavailableError("The schema registry at SCHEMA_REGISTRY_URL does not answer.") from error
        return schema_id

    def is_up(self) -> bool:
        """Tell whether the registry answers."""
        try:
            self._client.get_subjects()
        except (SchemaRegistryError, httpx2.HTTPError, OSError):
            return False
        return True

    def decode(self, record: str, value: bytes) -> dict[str, Any]:
        """Read a message's value as its record, whatever version it was written with."""
        schema_id = _HEADER.unpack_from(value)[1]
        return avro.decode(record, value[_HEADER.size :], _writer_schema(self._client, schema_id))

    def plain_reader(self, record: str) -> Callable[[bytes], dict[str, Any]]:
        """Return what reads messages' values as the record's newest release, whatever version each was written with.

        Times stay as they are written, in µs since 1970 in UTC: many are read sooner so.
        """
        newest = avro.plain(json.loads(avro.schema_text(record)))
        readers: dict[int, tuple[Any, Any]] = {}

        def read(value: bytes) -> dict[str, Any]:
            schema_id = _HEADER.unpack_from(value)[1]
            if schema_id not in readers:
                writer = avro.plain(json.loads(_schema_text(self._client, schema_id)))
                # The same schema on both sides would be resolved field by field all the same.
                same = writer == newest
                readers[schema_id] = fastavro.parse_schema(writer), None if same else fastavro.parse_schema(newest)
            content = io.BytesIO(value)
            content.seek(_HEADER.size)
            fields = fastavro.schemaless_reader(content, *readers[schema_id])
            assert isinstance(fields, dict)
            return fields

        return read


@cache
def _writer_schema(client: SchemaRegistryClient, schema_id: int) -> Any:
    return fastavro.parse_schema(json.loads(_schema_text(client, schema_id)))


def _schema_text(client: SchemaRegistryClient, schema_id: int) -> str:
    return str(client.get_schema(schema_id).schema_str)


def to_wire(schema_id: int, record: RiskScore | EncounterFeatures) -> bytes:
    """Write a record in the Confluent wire format."""
    return _HEADER.pack(0, schema_id) + avro.encode(record)
