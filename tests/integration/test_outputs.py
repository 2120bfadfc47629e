"""What the stream publishes and what it stores: the same scores, and nobody's identity where it must not be."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient

from connectors.settings import Settings
from healthalliance.progress import fetch, wait_until_applied
from healthalliance.publishing import publish_events
from healthalliance.workers import WorkerProcesses
from schemas.features import FEATURE_NAMES
from schemas.topics import TopicFamily, topic_name
from tests.integration.reading import Received, decoded, ends_of, keys_of, read_since
from tests.integration.running import Trained
from tests.integration.simulated import events_of

pytestmark = pytest.mark.stack

_INSTITUTION = "embl"
_NAME = "visible"  # in the ids of all patients and encounters of this module, and nowhere else


@dataclass(frozen=True, slots=True)
class Published:
    """What the stream published for some patients, and the settings to look their rows up with."""

    settings: Settings = field(repr=False)
    risk: list[Received] = field(repr=False)
    features: list[Received] = field(repr=False)


@pytest.fixture(scope="module")
def published(trained: Trained, worker: WorkerProcesses) -> Published:
    settings = trained.settings
    topics = [topic_name(family, _INSTITUTION) for family in (TopicFamily.RISK, TopicFamily.FEATURES)]
    starts = [ends_of(settings, topic) for topic in topics]
    publish_events(settings, _INSTITUTION, events_of(_NAME, _INSTITUTION, 40, datetime(2024, 1, 1, tzinfo=UTC)))
    wait_until_applied(settings, 120)
    risk, features = (read_since(settings, topic, start) for topic, start in zip(topics, starts, strict=True))
    return Published(settings, risk, features)


def score_rows(published: Published, record_ids: list[str]) -> dict[str, dict[str, Any]]:
    rows = fetch(published.settings, "SELECT * FROM risk_scores WHERE record_id = ANY($1::uuid[])", record_ids)
    return {str(row["record_id"]): dict(row) for row in rows}


def as_message(row: dict[str, Any]) -> dict[str, Any]:
    """Write a row as the message that was published for it, but for the hospital's own references."""
    values = {name: value for name, value in row.items() if not name.startswith("superseded_")}
    uuids = ("record_id", "patient_pseudonym", "encounter_pseudonym", "supersedes", "topic_id")
    return {
        **values,
        **{name: None if values[name] is None else str(values[name]) for name in uuids},
        "contributions": json.loads(values["contributions"]),
        "features": json.loads(values["features"]) if values["features"] else None,
    }


def test_each_risk_message_equals_its_row(published: Published) -> None:
    messages = decoded(published.settings, published.risk)
    rows = score_rows(published, [one["record_id"] for one in messages])
    references = ("patient_reference", "encounter_reference")
    without = [{name: value for name, value in one.items() if name not in references} for one in messages]
    assert len(messages) > 100
    assert [one for one in without if as_message(rows[one["record_id"]]) != one] == []


def test_a_risk_message_is_keyed_by_the_patient_it_names(published: Published) -> None:
    keys = keys_of(published.settings, _INSTITUTION)
    messages = decoded(published.settings, published.risk)
    for received, one in zip(published.risk, messages, strict=True):
        kind, _, id_ = one["patient_reference"].partition("/")
        assert received.key == one["patient_reference"].encode()
        assert (kind, keys.patient_pseudonym(id_)) == ("Patient", one["patient_pseudonym"])
        assert keys.encounter_pseudonym(one["encounter_reference"].partition("/")[2]) == one["encounter_pseudonym"]


def test_baseline_and_contributions_add_up_to_the_probability(published: Published) -> None:
    scored = [one for one in decoded(published.settings, published.risk) if one["status"] != "entered-in-error"]
    assert len({one["probability"] for one in scored}) > 20
    for one in scored:
        assert set(one["contributions"]) == set(FEATURE_NAMES)
        assert math.isclose(one["baseline"] + sum(one["contributions"].values()), one["probability"], abs_tol=1e-9)


def test_the_schema_ids_on_the_wire_are_those_of_the_topics_subjects(published: Published) -> None:
    for family, messages in ((TopicFamily.RISK, published.risk), (TopicFamily.FEATURES, published.features)):
        with SchemaRegistryClient({"url": published.settings.schema_registry_url}) as client:
            registered = client.get_latest_version(f"{topic_name(family, _INSTITUTION)}-value").schema_id
        headers = {struct.unpack_from(">bI", one.value) for one in messages if one.value is not None}
        assert headers == {(0, registered)}


def test_a_features_message_is_keyed_by_the_encounters_pseudonym(published: Published) -> None:
    messages = decoded(published.settings, published.features)
    keys = [one.key for one in published.features if one.value is not None]
    assert len(messages) > 100
    assert keys == [one["encounter_pseudonym"].encode() for one in messages]


def test_the_newest_features_are_those_of_the_newest_score(published: Published) -> None:
    pseudonyms = {one.key.decode() for one in published.features if one.key}
    newest = {one["encounter_pseudonym"]: one for one in decoded(published.settings, published.features)}
    rows = fetch(
        published.settings,
        "SELECT encounter_pseudonym::text AS id, features, as_of FROM risk_scores "
        "WHERE encounter_pseudonym = ANY($1::uuid[]) AND superseded_by IS NULL AND status <> 'entered-in-error'",
        list(pseudonyms),
    )
    assert len(rows) > 50
    for row in rows:
        assert newest[row["id"]]["features"] == json.loads(row["features"])
        assert newest[row["id"]]["as_of"] == row["as_of"]


def tables(settings: Settings) -> list[str]:
    return [row["tablename"] for row in fetch(settings, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]


def test_no_table_holds_a_patients_or_encounters_own_id(published: Published) -> None:
    for table in tables(published.settings):
        # The text of a bytea is hexadecimal, so its bytes are searched for as well.
        found = fetch(
            published.settings,
            f"SELECT count(*) AS n FROM {table} AS t WHERE t::text LIKE '%{_NAME}%' OR t::text LIKE $1",
            f"%{_NAME.encode().hex()}%",
        )
        assert found[0]["n"] == 0, table


def test_the_features_topic_holds_no_patients_or_encounters_own_id(published: Published) -> None:
    assert any(_NAME.encode() in (one.value or b"") for one in published.risk)  # where the hospital's ids may be
    assert [one for one in published.features if _NAME.encode() in (one.key or b"") + (one.value or b"")] == []


def test_the_workers_log_holds_no_patients_or_encounters_own_id(published: Published) -> None:
    log = (published.settings.data_dir / "logs" / "worker.log").read_text()
    assert "Scoring with readmission-risk version 1" in log
    assert _NAME not in log
