"""What training calls a readmission and what the stream fills in as an outcome is the same, stay by stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from model_training.labels import Exclusion, label
from schemas.messages import EncounterFeatures
from schemas.readmission import FOLLOW_UP, Followed, NoIndex, Stay, follow
from schemas.snapshot import snapshot_table
from tests.unit.model_training.stays import stay, visit_at

Found = list[tuple[float, float | None, str | None, bool, bool, bool]]

# Few days, so that stays overlap, adjoin, follow within a day and within thirty.
DAYS = st.integers(0, 40) | st.integers(0, 180).map(lambda quarter: quarter / 4)
ENCOUNTERS = st.lists(
    st.tuples(
        DAYS,
        st.none() | st.integers(0, 20).map(lambda quarter: quarter / 4),
        st.sampled_from(["other-hcf", "home", None, "exp", "aadvice"]),
        st.booleans(),
        st.booleans(),
        st.sampled_from([False, False, False, True]),
    ),
    max_size=8,
)


@settings(max_examples=400, deadline=None)
@given(ENCOUNTERS, st.none() | DAYS, st.sampled_from([40.0, 70.0, 200.0]))
def test_a_label_is_the_outcome_of_the_stay(found: Found, deceased: float | None, end: float) -> None:
    patient, visit = list(records(found, deceased)), visit_at(end)
    table = snapshot_table([*patient, visit])
    labels = label(table)
    pseudonyms = [str(UUID(bytes=one)) for one in table.column("encounter_pseudonym").to_pylist()]
    labelled = dict(zip((pseudonyms[row] for row in labels.rows.tolist()), labels.readmitted.tolist(), strict=True))
    judged, known_until = followed(patient), max(one.as_of for one in (*patient, visit))
    assert labelled == {
        one.stay.encounter_pseudonym: one.readmitted_at is not None for one in judged if _matured(one, known_until)
    }
    left_out = {reason: labels.excluded.get(Exclusion[reason.name], 0) for reason in NoIndex}
    assert Counter(left_out) == Counter(one.because for one in judged if one.because)


def records(found: Found, deceased: float | None) -> Iterator[EncounterFeatures]:
    for number, (admitted, days, disposition, planned, inpatient, summary_only) in enumerate(found):
        yield stay(
            f"{number}",
            admitted,
            None if days is None else admitted + days,
            disposition=disposition,
            planned=planned,
            inpatient=inpatient,
            deceased=deceased,
            summary_only=summary_only,
        )


def followed(patient: list[EncounterFeatures]) -> list[Followed]:
    stays = (
        Stay(
            one.encounter_pseudonym, one.admitted_at, one.discharged_at, one.disposition, one.planned, one.summary_only
        )
        for one in patient
        if one.inpatient
    )
    return list(follow(stays, patient[0].deceased_at if patient else None))


def _matured(one: Followed, known_until: datetime) -> bool:
    discharged = one.stay.discharged_at
    return one.because is None and discharged is not None and discharged + FOLLOW_UP <= known_until
