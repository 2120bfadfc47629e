"""The wire format: what the registry's id says a message was written with is what it is read with."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from connectors.registry import Registry, to_wire
from schemas import avro
from schemas.features import Features
from schemas.messages import EncounterFeatures

NOW = datetime(2025, 6, 1, tzinfo=UTC)
ONE = EncounterFeatures(
    institution="dkfz",
    patient_pseudonym="p",
    encounter_pseudonym="e",
    encounter_version="version_id:1",
    status="finished",
    class_code="IMP",
    inpatient=True,
    admitted_at=NOW,
    discharged_at=None,
    as_of=NOW,
    disposition=None,
    deceased_at=None,
    features=Features(None, *[1.0] * 8),
    feature_set=1,
)


class Schemas:
    """A registry's client that knows two schemas and counts how often it is asked."""

    def __init__(self) -> None:
        newer = json.loads(avro.schema_text("EncounterFeatures"))
        newer["fields"].append({"name": "ward", "type": "string", "default": ""})
        self.texts = {7: avro.schema_text("EncounterFeatures"), 8: json.dumps(newer)}
        self.asked: list[int] = []

    def get_schema(self, schema_id: int) -> Any:
        self.asked.append(schema_id)
        return SimpleNamespace(schema_str=self.texts[schema_id])


def registry(schemas: Schemas) -> Registry:
    one: Any = Registry("http://nowhere")
    one._client = schemas
    return one  # type: ignore[no-any-return]  # it is one


def test_a_message_is_read_with_the_schema_its_id_names_and_the_registry_is_asked_once() -> None:
    schemas = Schemas()
    reader = registry(schemas)
    values = [reader.decode("EncounterFeatures", to_wire(7, ONE)) for _ in range(3)]
    assert values == [vars(ONE) | {"features": vars(ONE.features)}] * 3
    assert schemas.asked == [7]


def test_a_message_of_a_newer_release_is_read_without_what_this_one_does_not_know() -> None:
    newer = to_wire(8, ONE) + b"\x08ward"  # its last field: four characters
    assert registry(Schemas()).decode("EncounterFeatures", newer) == vars(ONE) | {"features": vars(ONE.features)}
