"""The store's rows: scores come back as they went in, and nothing of a patient goes in with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.store import SCORE_COLUMNS, Batch, RejectedRow, Writes, _score_row, score_values
from schemas.errors import FencedError
from schemas.features import Features
from schemas.messages import RiskScore
from schemas.rejection import Issue, Reason
from tests.unit.schemas.fhir_events import encounter, findings, parse, to_bytes

NOW = datetime(2025, 6, 1, tzinfo=UTC)
ID = "00000000-0000-0000-0000-000000000001"
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
FEATURES = st.builds(Features, st.none() | NUMBERS, *[NUMBERS] * 8)
UUIDS = {"record_id", "patient_pseudonym", "encounter_pseudonym", "supersedes", "topic_id"}


def risk_score(**changes: Any) -> RiskScore:
    values: dict[str, Any] = {
        "record_id": ID,
        "institution": "dkfz",
        "patient_reference": "Patient/pat-4",
        "encounter_reference": "Encounter/enc-17",
        "patient_pseudonym": ID,
        "encounter_pseudonym": ID,
        "encounter_version": "version_id:1",
        "status": "final",
        "inpatient": True,
        "as_of": NOW,
        "received_at": NOW,
        "scored_at": NOW,
        "probability": 0.5,
        "band": "high",
        "baseline": 0.25,
        "contributions": {"age_years": 0.25},
        "features": Features(70.0, *[1.0] * 8),
        "feature_set": 1,
        "model_name": "m",
        "model_version": "1",
        "model_digest": "0" * 64,
        "supersedes": None,
        "reason": None,
        "topic_id": ID,
        "source_partition": 0,
        "source_offset": 7,
    }
    return RiskScore(**values | changes)


def as_fetched(row: tuple[object, ...]) -> Mapping[str, Any]:
    """Return a written row as asyncpg reads it: UUIDs as such, JSON as text."""
    values = dict(zip(SCORE_COLUMNS, row, strict=True))
    return {name: UUID(str(value)) if name in UUIDS and value is not None else value for name, value in values.items()}


@settings(deadline=None)
@given(st.none() | FEATURES, st.dictionaries(st.text(max_size=8), NUMBERS, max_size=4), st.none() | st.uuids().map(str))
def test_a_score_comes_back_as_it_was_without_the_hospitals_references(
    features: Features | None, contributions: dict[str, float], supersedes: str | None
) -> None:
    score = risk_score(features=features, contributions=contributions, supersedes=supersedes)
    values = score_values(as_fetched(_score_row(score)))
    expected = vars(score) | {"features": features and vars(features)}
    assert values == {name: value for name, value in expected.items() if not name.endswith("_reference")}


def test_a_scores_row_holds_neither_patient_nor_encounter_of_the_hospital() -> None:
    assert not [value for value in _score_row(risk_score()) if "pat-4" in str(value) or "enc-17" in str(value)]


# --- what is sent, on a connection that only listens


@dataclass
class Connection:
    """An asyncpg connection that keeps what it is told; it answers that one row was updated."""

    told: list[str] = field(default_factory=list)
    inserted: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)
    status: str = "UPDATE 1"

    async def execute(self, query: str, *arguments: object) -> str:
        words = query.split()[:3]
        self.told.append(" ".join(words))
        if words[0] == "INSERT" and all(isinstance(one, list) for one in arguments):
            self.inserted[words[2]] = list(zip(*cast("tuple[list[Any], ...]", arguments), strict=True))
        return self.status


def writes(**changes: Any) -> Writes:
    nothing: dict[str, Any] = {
        "now": NOW, "advances": (), "histories": {}, "patient_of": {}, "scores": (), "superseded": (), "rejected": (),
        "erased": {}, "stay_outcomes": {}, "challenger_scores": (),
    }  # fmt: skip
    return Writes(**nothing | changes)


async def written(changes: Writes, status: str = "UPDATE 1") -> Connection:
    connection = Connection(status=status)
    await Batch(cast(Any, connection)).write(changes)
    return connection


async def test_an_erasure_spares_the_scores_that_came_after_it_in_the_same_batch() -> None:
    connection = await written(writes(scores=[risk_score()], erased={("dkfz", ID): (ID,)}))
    assert connection.told.index("DELETE FROM risk_scores") < connection.told.index("INSERT INTO risk_scores")


async def test_a_history_that_another_worker_changed_meanwhile_stops_this_one() -> None:
    histories = {("dkfz", ID): (3, b"sealed")}
    await written(writes(histories=histories))
    with pytest.raises(FencedError):
        await written(writes(histories=histories), status="UPDATE 0")


def rejected(*issues: Issue) -> RejectedRow:
    return RejectedRow(ID, 0, 7, "dkfz", NOW, issues)


MADE_UP: dict[str, bytes] = {
    "an unknown element": to_bytes(encounter(JaneDoe="x")),
    "an unknown element deep down": to_bytes(encounter(meta={"JaneDoe": "x"})),
    "an element that repeats": to_bytes(encounter())[:-1] + b', "JaneDoe": 1, "JaneDoe": 2}',
}


@pytest.mark.parametrize("case", MADE_UP)
async def test_an_elements_name_that_the_sender_made_up_is_not_stored(case: str) -> None:
    parsed = parse(MADE_UP[case])
    assert [path for _, path in findings(parsed) if "JaneDoe" in path]
    connection = await written(writes(rejected=[rejected(*parsed.issues)]))
    assert "JaneDoe" not in str(connection.inserted["rejected_events"])


async def test_a_rejection_is_stored_with_reasons_and_paths_and_without_its_text() -> None:
    text = "Encounter.status: 'Jane' is not one of them."
    row = rejected(Issue(Reason.INVALID_CODE, "Encounter.status", text), Issue(Reason.MISSING_CLASS, "Encounter", text))
    [stored] = (await written(writes(rejected=[row]))).inserted["rejected_events"]
    assert stored[:-1] == (ID, 0, 7, "dkfz", NOW, NOW, "invalid-code")
    assert json.loads(stored[-1]) == [
        {"reason": "invalid-code", "path": "Encounter.status"},
        {"reason": "missing-class", "path": "Encounter"},
    ]
