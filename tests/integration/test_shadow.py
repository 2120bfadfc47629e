"""A challenger beside the champion, swaps under load, outcomes and drift on the whole way."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pytest

from connectors.models import OnnxModel, load, register, set_alias
from connectors.models.mlflow_quietly import open_store
from connectors.score_tracing import challenger_of
from connectors.settings import Settings
from connectors.store import connect
from connectors.view_reading import reading
from healthalliance.explaining import challenged, explain_score
from healthalliance.progress import OUTCOMES, fetch, read_progress, wait_until_applied
from healthalliance.publishing import publish_events
from healthalliance.workers import WorkerProcesses
from schemas.challenger import ChallengerScore
from schemas.drift import Bins, drift
from schemas.features import FEATURE_NAMES, Features
from schemas.history import PatientHistory, decode_history
from schemas.institutions import institutions
from schemas.messages import record_id
from schemas.model import probabilities
from schemas.stored_score import StoredScore
from streams.outcomes import outcome_changes
from tests.integration.asking import is_running, samples
from tests.integration.command_line import run
from tests.integration.reading import keys_of
from tests.integration.running import Trained, ready_worker, wait_until
from tests.integration.simulated import events_of
from tests.unit.connectors.test_models import candidate

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("no_worker")]

_INSTITUTION = "ukhd"


@dataclass(frozen=True, slots=True)
class Shadowed:
    """What a worker left that scored with a challenger while champions were swapped."""

    settings: Settings = field(repr=False)
    workers: WorkerProcesses
    began: datetime
    events: int
    outcomes: dict[str, int]
    models: dict[str, OnnxModel]
    trained: str
    challenger: str


@pytest.fixture(scope="module")
def shadowed(trained: Trained) -> Iterator[Shadowed]:
    settings = trained.settings.model_copy(
        update={"model_alias": "swapped", "model_challenger_alias": "beside", "model_poll_s": 0.1,
                "performance_every_s": 0.3}
    )  # fmt: skip
    first, others = trained.training.version, [register(settings, candidate(seed)).version for seed in (1, 2)]
    set_alias(settings, first)
    set_alias(settings.model_copy(update={"model_alias": "beside"}), others[1])
    before, began = read_progress(settings)[_INSTITUTION].outcomes, datetime.now(UTC)
    events = events_of("shadow", _INSTITUTION, 150, datetime(2025, 1, 1, tzinfo=UTC), faults=0.02)
    with ready_worker(settings) as workers:
        published = publish_while_swapping(settings, events, [others[0], first])
        after = wait_until_applied(settings, 120)[_INSTITUTION].outcomes
        models = {version: load_version(settings, version) for version in (first, *others)}
        outcomes = {name: after[name] - before[name] for name in OUTCOMES}
        yield Shadowed(settings, workers, began, published, outcomes, models, first, others[1])
    with open_store(settings) as client:
        for alias in ("swapped", "beside", *(f"version-{one}" for one in (first, *others))):
            with suppress(Exception):
                client.delete_registered_model_alias(settings.model_name, alias)


def publish_while_swapping(settings: Settings, events: list[Any], versions: list[str]) -> int:
    """Publish at 300 events a second and let the alias point to one version after the other meanwhile."""
    publishing = threading.Thread(
        target=publish_events, args=(settings, _INSTITUTION, events), kwargs={"events_per_s": 300.0}
    )
    publishing.start()
    for number in range(100):
        if not publishing.is_alive():
            break
        set_alias(settings, versions[number % len(versions)])
        time.sleep(0.4)
    publishing.join()
    return len(events)


def load_version(settings: Settings, version: str) -> OnnxModel:
    set_alias(settings.model_copy(update={"model_alias": f"version-{version}"}), version)
    return load(f"models:/{settings.model_name}@version-{version}", settings)


def scores_of(shadowed: Shadowed) -> list[dict[str, Any]]:
    return [
        dict(row)
        for row in fetch(
            shadowed.settings,
            "SELECT score.*, beside.probability AS beside, beside.model_version AS beside_version "
            "FROM risk_scores AS score LEFT JOIN challenger_scores AS beside USING (record_id) "
            "WHERE score.institution = $1 AND score.scored_at >= $2",
            _INSTITUTION, shadowed.began,
        )
    ]  # fmt: skip


def rescored(model: OnnxModel, rows: list[dict[str, Any]]) -> list[float]:
    vectors = [Features(**json.loads(row["features"])).vector() for row in rows]
    return [float(one) for one in probabilities(model, np.array(vectors, dtype=np.float32))]


def test_no_event_goes_unscored_over_swaps_and_each_score_is_of_the_model_it_names(shadowed: Shadowed) -> None:
    assert is_running(shadowed.workers)
    assert sum(shadowed.outcomes.values()) == shadowed.events
    rows = [row for row in scores_of(shadowed) if row["features"]]
    assert len(rows) >= shadowed.outcomes["scored"] > 1000
    by_version: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_version.setdefault(row["model_version"], []).append(row)
        assert str(row["record_id"]) == record_id(
            str(row["topic_id"]), row["source_partition"], row["source_offset"], str(row["encounter_pseudonym"]),
            row["model_version"],
        )  # fmt: skip
    assert len(by_version) == 2
    for version, own in by_version.items():
        model = shadowed.models[version]
        assert {row["model_digest"] for row in own} == {model.digest}
        assert [row["probability"] for row in own] == pytest.approx(rescored(model, own), abs=1e-12)


def test_the_challenger_stands_beside_every_score_that_has_features(shadowed: Shadowed) -> None:
    rows = scores_of(shadowed)
    with_features = [row for row in rows if row["features"]]
    assert {row["beside_version"] for row in with_features} == {shadowed.challenger}
    assert {row["beside"] for row in rows if not row["features"]} <= {None}
    expected = rescored(shadowed.models[shadowed.challenger], with_features)
    assert [row["beside"] for row in with_features] == pytest.approx(expected, abs=1e-12)


def test_a_challengers_score_is_the_same_when_it_is_computed_again(shadowed: Shadowed) -> None:
    settings = shadowed.settings
    records = [str(row["record_id"]) for row in scores_of(shadowed) if row["features"]][:5]
    found = [explain_score(settings, one, "en") for one in records]
    again = [one.challenger.recomputed for one in found if one.challenger]
    assert [one.trouble or one.is_equal for one in again] == [True] * len(records)
    score = found[0].score
    said = asyncio.run(_challenger_of(settings, score))
    other = msgspec.structs.replace(said, probability=said.probability + 1e-15)
    assert challenged(settings, score, other).recomputed.is_equal is False
    assert challenged(settings, score, msgspec.structs.replace(said, model_digest="0" * 64)).recomputed.trouble
    text = " ".join(run(settings, "explain", records[0]).stdout.split())
    assert f"by {settings.model_name} version {shadowed.challenger}, " in text
    assert text.count("equal, bit by bit") == 2


async def _challenger_of(settings: Settings, score: StoredScore) -> ChallengerScore:
    async with reading(settings.database_url) as connection:
        found = await challenger_of(connection, score)
    assert found is not None
    return found


def test_the_outcomes_are_those_of_the_histories_however_they_came_about(shadowed: Shadowed) -> None:
    settings, expected = shadowed.settings, set()
    for id_, institution in institutions().items():
        keys = keys_of(settings, id_)
        rows = fetch(settings, "SELECT patient_pseudonym::text AS patient, history FROM patient_history "
                               "WHERE institution = $1", id_)  # fmt: skip
        for row in rows:
            history = decode_history(keys.unseal(row["history"], row["patient"]))
            changes = outcome_changes(PatientHistory(), history, history.encounters, row["patient"], institution, keys)
            expected |= {_told(change.row, change.row.patient_pseudonym) for _, change in changes if change.row}
    held = fetch(settings, "SELECT * FROM score_outcomes")
    assert len(held) > 1000
    assert {_told(Row(**row), row["patient_pseudonym"]) for row in held} == expected


class Row:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


def _told(row: Any, patient: object) -> tuple[Any, ...]:
    return (str(patient), str(row.encounter_pseudonym), row.discharged_at, row.outcome, row.because, row.readmitted_at)


def test_the_score_that_stood_at_a_discharge_is_the_first_one_as_of_it(shadowed: Shadowed) -> None:
    rows = fetch(
        shadowed.settings,
        "SELECT stay.record_id, (SELECT record_id FROM risk_scores AS score "
        "WHERE (institution, encounter_pseudonym, as_of) = (stay.institution, stay.encounter_pseudonym, discharged_at) "
        "AND status <> 'entered-in-error' AND inpatient ORDER BY source_offset, scored_at LIMIT 1) AS first "
        "FROM score_outcomes AS stay WHERE institution = $1 AND received_at >= $2",
        _INSTITUTION, shadowed.began,
    )  # fmt: skip
    assert len(rows) > 100
    assert [row for row in rows if row["record_id"] != row["first"]] == []


def test_the_known_end_is_the_latest_time_that_was_told(shadowed: Shadowed) -> None:
    rows = fetch(
        shadowed.settings,
        "SELECT source_partition, topic_id, known_until, (SELECT max(least(as_of, received_at)) FROM risk_scores "
        "WHERE risk_scores.topic_id = stream_progress.topic_id AND "
        "risk_scores.source_partition = stream_progress.source_partition AND features IS NOT NULL) AS scored "
        "FROM stream_progress WHERE institution = $1",
        _INSTITUTION,
    )
    assert rows
    assert [row for row in rows if row["scored"] and row["known_until"] < row["scored"]] == []


def test_the_gauges_show_what_the_view_and_the_last_stays_say(shadowed: Shadowed) -> None:
    settings = shadowed.settings
    view = fetch(settings, "SELECT * FROM model_performance_exact")
    assert {row["role"] for row in view if row["institution"] == _INSTITUTION} == {"champion", "challenger"}
    expected = {
        (f"healthalliance_model_{name}", row["institution"], row["model_version"], row["role"]): row[name]
        for row in view
        for name in ("outcomes", "auroc", "calibration_ratio", "brier")
        if row[name] is not None
    }
    wait_until("the gauges show it", lambda: gauges(shadowed.workers) == pytest.approx(expected))


def gauges(workers: WorkerProcesses) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for (name, labels), value in samples(workers).items():
        named = dict(labels)
        if name.startswith("healthalliance_model_") and "role" in named:
            found[name, named["institution"], named["model_version"], named["role"]] = value
    return found


def test_the_drift_of_features_is_shown_against_the_champions_own_reference(shadowed: Shadowed) -> None:
    settings = shadowed.settings
    set_alias(settings, shadowed.trained)
    reference = shadowed.models[shadowed.trained].card.reference
    assert reference is not None
    expected = asyncio.run(drifts(settings, reference[_INSTITUTION]))
    assert expected.keys() == set(FEATURE_NAMES)
    wait_until("the gauges show it", lambda: shown_drift(shadowed.workers) == pytest.approx(expected))
    assert shown_drift(shadowed.workers)["gender_encoded"] < 0.1


async def drifts(settings: Settings, reference: dict[str, Bins]) -> dict[str, float]:
    store = await connect(settings.database_url)
    try:
        edges = {name: one.edges for name, one in reference.items()}
        return drift(reference, await store.count_features(_INSTITUTION, edges, 2000))
    finally:
        await store.close()


def shown_drift(workers: WorkerProcesses) -> dict[str, float]:
    return {
        dict(labels)["feature"]: value
        for (name, labels), value in samples(workers).items()
        if name == "healthalliance_feature_psi" and dict(labels)["institution"] == _INSTITUTION
    }
