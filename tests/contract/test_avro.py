"""The Avro schemas: released as generated, each release able to read the one before it, and they hold any record."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings

from connectors.registry import to_wire
from schemas import avro
from schemas.errors import IncompatibleSchemaError
from schemas.messages import EncounterFeatures, RiskScore
from schemas.topics import TOPIC_SPECS
from tests.contract.records import records

BOTH = pytest.mark.parametrize("record", avro.RECORDS)


@BOTH
def test_the_newest_release_is_what_the_record_generates(record: str) -> None:
    assert avro.released(record)[-1].read_text("utf-8") == avro.generate(record)


def test_all_releases_are_current_and_compatible() -> None:
    avro.check()


@BOTH
def test_releases_are_numbered_from_one_without_a_gap(record: str) -> None:
    files = avro.released(record)
    assert [file.name for file in files] == [f"{record}.v{number}.avsc" for number in range(1, len(files) + 1)]


def test_the_topics_carry_the_records_that_have_schemas() -> None:
    assert {spec.record for spec in TOPIC_SPECS.values()} - {None} == set(avro.RECORDS)


# --- what a next release may and may not change

Fields = list[dict[str, Any]]


def changed(record: str, change: Callable[[Fields], object]) -> str:
    """Return a record's schema with its fields changed."""
    schema = json.loads(avro.schema_text(record))
    change(schema["fields"])
    return json.dumps(schema)


def add(**field: Any) -> Callable[[Fields], object]:
    return lambda fields: fields.append(field)


def retype(name: str, type_: Any) -> Callable[[Fields], object]:
    return lambda fields: next(one for one in fields if one["name"] == name).update(type=type_)


def rename(name: str, to: str) -> Callable[[Fields], object]:
    return lambda fields: next(one for one in fields if one["name"] == name).update(name=to)


INCOMPATIBLE = {
    "a new field without default": add(name="ward", type="string"),
    "another type": retype("institution", "long"),
    "a narrower type": retype("feature_set", "int"),
    "another shape": retype("features", "string"),
    "a field renamed": rename("institution", "site"),
}
COMPATIBLE = {
    "nothing": lambda fields: None,
    "a new field with default": add(name="ward", type="string", default=""),
    "a new optional field": add(name="ward", type=["null", "string"], default=None),
    "a field removed": lambda fields: fields.pop(),
    "a wider type": retype("feature_set", "double"),
    "null allowed": retype("institution", ["string", "null"]),
}


@BOTH
@pytest.mark.parametrize("case", INCOMPATIBLE)
def test_a_release_that_cannot_read_the_one_before_it_is_caught(case: str, record: str) -> None:
    after = changed(record, INCOMPATIBLE[case])
    with pytest.raises(IncompatibleSchemaError, match=record):
        avro.require_backward_compatible(record, avro.schema_text(record), after)


@BOTH
def test_removing_a_default_is_caught_where_older_data_lack_the_field(record: str) -> None:
    with_default = changed(record, add(name="ward", type="string", default=""))
    without = changed(record, add(name="ward", type="string"))
    avro.require_backward_compatible(record, avro.schema_text(record), with_default)
    with pytest.raises(IncompatibleSchemaError):
        avro.require_backward_compatible(record, avro.schema_text(record), without)


@BOTH
@pytest.mark.parametrize("case", COMPATIBLE)
def test_a_release_that_can_read_the_one_before_it_passes(case: str, record: str) -> None:
    avro.require_backward_compatible(record, avro.schema_text(record), changed(record, COMPATIBLE[case]))


def test_a_record_that_changed_without_a_release_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(avro.RECORDS, "RiskScore", EncounterFeatures)
    with pytest.raises(IncompatibleSchemaError, match=r"python -m schemas\.avro write"):
        avro.check()


# --- any record


def plain(record: RiskScore | EncounterFeatures) -> dict[str, Any]:
    return asdict(record)


@settings(max_examples=50, deadline=None)
@given(records(RiskScore))
def test_any_score_comes_back_as_it_was(score: RiskScore) -> None:
    assert avro.decode("RiskScore", avro.encode(score)) == plain(score)


@settings(max_examples=50, deadline=None)
@given(records(EncounterFeatures))
def test_any_encounters_features_come_back_as_they_were(features: EncounterFeatures) -> None:
    assert avro.decode("EncounterFeatures", avro.encode(features)) == plain(features)


@settings(max_examples=25, deadline=None)
@given(records(EncounterFeatures))
def test_fastavro_alone_reads_a_record_with_the_released_schema(features: EncounterFeatures) -> None:
    schema = fastavro.parse_schema(json.loads(avro.released("EncounterFeatures")[-1].read_text("utf-8")))
    assert fastavro.schemaless_reader(io.BytesIO(avro.encode(features)), schema, None) == plain(features)


@settings(max_examples=25, deadline=None)
@given(records(RiskScore))
def test_on_the_wire_a_record_follows_a_zero_byte_and_four_bytes_of_schema_id(score: RiskScore) -> None:
    magic, schema_id = struct.unpack(">bI", to_wire(4_000_000_001, score)[:5])
    assert (magic, schema_id) == (0, 4_000_000_001)
    assert to_wire(4_000_000_001, score)[5:] == avro.encode(score)


@settings(max_examples=25, deadline=None)
@given(records(EncounterFeatures))
def test_what_an_older_release_wrote_is_read_with_its_own_schema(features: EncounterFeatures) -> None:
    older = json.loads(changed("EncounterFeatures", lambda fields: fields.append({"name": "old", "type": "string"})))
    writer, out = fastavro.parse_schema(older), io.BytesIO()
    fastavro.schemaless_writer(out, writer, plain(features) | {"old": "x"})
    assert avro.decode("EncounterFeatures", out.getvalue(), writer) == plain(features)
