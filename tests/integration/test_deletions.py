"""Tombstones: an Encounter's takes its score back, a patient's erases all that is known of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from connectors.kafka import OutMessage, Publisher
from connectors.settings import Settings
from healthalliance.progress import fetch, wait_until_applied
from schemas.topics import TopicFamily, topic_name
from tests.integration.reading import (
    Received,
    decoded,
    ends_of,
    keys_of,
    latest_risk,
    read_since,
    rows_of_encounters,
)
from tests.integration.running import Trained, ready_worker
from tests.unit.schemas.fhir_events import encounter, to_bytes

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("no_worker")]

_INSTITUTION = "ukhd"


@pytest.fixture(scope="module")
def deleted(trained: Trained) -> Iterator[Settings]:
    """Have three patients scored, then take one's encounter back and erase another; a fourth comes back at once."""
    settings = trained.settings
    publish(settings, *(event(f"gone-{number}") for number in (1, 2, 3)))
    publish(settings, event("gone-4"), tombstone("Patient/gone-4"), event("gone-4", "gone-4-new"))
    with ready_worker(settings):
        wait_until_applied(settings, 120)
        publish(settings, tombstone("Encounter/gone-1"), tombstone("Patient/gone-2"))
        wait_until_applied(settings, 120)
        yield settings


def event(patient: str, encounter_id: str | None = None) -> OutMessage:
    value = to_bytes(encounter(encounter_id or patient, patient=patient))
    return OutMessage(topic_name(TopicFamily.ENCOUNTERS, _INSTITUTION), f"Patient/{patient}".encode(), value)


def tombstone(key: str) -> OutMessage:
    return OutMessage(topic_name(TopicFamily.ENCOUNTERS, _INSTITUTION), key.encode(), None)


def publish(settings: Settings, *messages: OutMessage) -> None:
    Publisher(settings).publish(messages)


def scores(settings: Settings, encounter_id: str) -> list[dict[str, Any]]:
    return rows_of_encounters(settings, "risk_scores", _INSTITUTION, [encounter_id]).get(encounter_id, [])


def newest(settings: Settings, family: TopicFamily, key: str) -> Received:
    topic = topic_name(family, _INSTITUTION)
    beginning = dict.fromkeys(ends_of(settings, topic), 0)
    return [one for one in read_since(settings, topic, beginning) if one.key == key.encode()][-1]


def features_key(settings: Settings, encounter_id: str) -> str:
    return keys_of(settings, _INSTITUTION).encounter_pseudonym(encounter_id)


def test_what_nobody_deleted_keeps_its_score(deleted: Settings) -> None:
    assert latest_risk(deleted, _INSTITUTION, ["gone-3"])["gone-3"]["probability"] is not None
    assert newest(deleted, TopicFamily.RISK, "Patient/gone-3").value is not None
    assert newest(deleted, TopicFamily.FEATURES, features_key(deleted, "gone-3")).value is not None


def test_an_encounters_tombstone_supersedes_its_score_by_a_retraction(deleted: Settings) -> None:
    first, retraction = scores(deleted, "gone-1")
    assert latest_risk(deleted, _INSTITUTION, ["gone-1"]) == {}
    assert (first["status"], retraction["status"]) == ("final", "entered-in-error")
    assert first["superseded_by"] == retraction["record_id"]
    assert retraction["supersedes"] == first["record_id"]
    assert (retraction["reason"], retraction["probability"], retraction["features"]) == ("retracted", None, None)


def test_an_encounters_tombstone_is_told_to_the_hospital_and_leaves_the_training(deleted: Settings) -> None:
    [told] = decoded(deleted, [newest(deleted, TopicFamily.RISK, "Patient/gone-1")])
    assert (told["status"], told["encounter_reference"]) == ("entered-in-error", "Encounter/gone-1")
    assert newest(deleted, TopicFamily.FEATURES, features_key(deleted, "gone-1")).value is None


def test_a_patients_tombstone_erases_all_scores_and_features(deleted: Settings) -> None:
    assert scores(deleted, "gone-2") == []
    assert newest(deleted, TopicFamily.RISK, "Patient/gone-2").value is None
    assert newest(deleted, TopicFamily.FEATURES, features_key(deleted, "gone-2")).value is None


def test_what_is_left_of_an_erased_patient_is_no_history(deleted: Settings) -> None:
    keys = keys_of(deleted, _INSTITUTION)
    pseudonym = keys.patient_pseudonym("gone-2")
    [row] = fetch(deleted, "SELECT history FROM patient_history WHERE patient_pseudonym::text = $1", pseudonym)
    left = keys.unseal(row["history"], pseudonym)
    assert b"gone-2" not in left
    assert features_key(deleted, "gone-2").encode() in left  # so that its features can be deleted again


def test_a_patient_who_comes_back_right_after_being_erased_is_scored_anew(deleted: Settings) -> None:
    assert scores(deleted, "gone-4") == []
    assert latest_risk(deleted, _INSTITUTION, ["gone-4-new"]).keys() == {"gone-4-new"}
    assert newest(deleted, TopicFamily.RISK, "Patient/gone-4").value is not None
