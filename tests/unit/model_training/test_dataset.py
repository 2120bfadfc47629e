from __future__ import annotations

import numpy as np

from schemas.features import FEATURE_NAMES, UNKNOWN
from tests.unit.model_training.stays import dataset_of, features, stay, visit_at

LATE = visit_at(365)


def test_rows_are_the_features_in_order_with_unknown_below_every_real_value() -> None:
    facts = features(age_years=None, length_of_stay_days=2.5)
    dataset = dataset_of([stay("a", 0, 5, facts=facts), stay("b", 20, 21, planned=True), LATE])
    row = dataset.rows[dataset.discharged_at.argmin()]
    assert dataset.rows.dtype == np.float32
    assert dict(zip(FEATURE_NAMES, row, strict=True)) == {**vars(facts), "age_years": UNKNOWN}


def test_every_column_tells_of_the_same_stay() -> None:
    stays = [
        stay(f"{day}", day, day + 5, patient=f"{day}", institution=place, facts=features(num_conditions=float(day)))
        for place in ("dkfz", "embl")
        for day in range(0, 200, 7)
    ]
    back = stay("back", 26, 27, patient="14", facts=features(num_conditions=0.0))
    dataset = dataset_of([*stays, back, LATE, visit_at(365, "embl")])
    days = (dataset.discharged_at - np.datetime64("2024-01-01")) / np.timedelta64(1, "D")
    conditions = dataset.rows[:, FEATURE_NAMES.index("num_conditions")]
    assert len(dataset) == len(stays) + 1
    assert np.isin(days, [*(conditions + 5), 27]).all()
    assert conditions[dataset.readmitted].tolist() == [14.0]
    assert dataset.institutions[dataset.readmitted].tolist() == ["dkfz"]
    assert dataset.institutions.tolist() == ["dkfz"] * (len(stays) // 2 + 1) + ["embl"] * (len(stays) // 2)


def test_a_person_is_who_the_patient_is_linked_to_and_never_at_two_institutions() -> None:
    dataset = dataset_of(
        [
            stay("a", 0, 5, patient="p"),
            stay("b", 50, 55, patient="q", person="p"),
            stay("c", 100, 105, patient="r"),
            stay("d", 0, 5, patient="p", institution="embl"),
            LATE,
            visit_at(365, "embl"),
        ]
    )
    by_day = {
        (place, day): person
        for place, day, person in zip(
            dataset.institutions.tolist(),
            (dataset.discharged_at - np.datetime64("2024-01-01")).astype("timedelta64[D]").astype(int).tolist(),
            dataset.persons.tolist(),
            strict=True,
        )
    }
    assert by_day["dkfz", 5] == by_day["dkfz", 55]
    assert len({by_day["dkfz", 5], by_day["dkfz", 105], by_day["embl", 5]}) == 3


def test_no_stays_make_an_empty_dataset_with_all_its_columns() -> None:
    dataset = dataset_of([])
    assert dataset.rows.shape == (0, len(FEATURE_NAMES))
    assert [len(column) for column in (dataset.persons, dataset.institutions, dataset.discharged_at)] == [0, 0, 0]
    assert dataset.prevalence == 0
