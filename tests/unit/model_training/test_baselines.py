from __future__ import annotations

import numpy as np
import pytest

from model_training.baselines import baselines, lace_points
from tests.unit.model_training.datasets import dataset, dealt
from tests.unit.model_training.stays import features


@pytest.mark.parametrize(
    ("days", "emergency", "visits", "points"),
    [
        (0.9, 0, 0, 0),
        (1.0, 0, 0, 1),
        (2.5, 0, 0, 2),
        (3.0, 0, 0, 3),
        (4.0, 0, 0, 4),
        (6.9, 0, 0, 4),
        (7.0, 0, 0, 5),
        (13.9, 0, 0, 5),
        (14.0, 0, 0, 7),
        (300.0, 0, 0, 7),
        (0.0, 1, 0, 3),
        (0.0, 0, 3, 3),
        (0.0, 0, 9, 4),
        (14.0, 1, 4, 14),
    ],
)
def test_lace_points_are_those_of_the_paper(days: float, emergency: float, visits: float, points: float) -> None:
    stay = features(length_of_stay_days=days, emergency_admission=emergency, prior_emergency_visits_180d=visits)
    assert lace_points(np.array([stay.vector()], dtype=np.float32)).tolist() == [points]


def test_each_baseline_is_measured_on_the_test_part_with_its_score_calibrated() -> None:
    split = dealt(dataset(1, 5000), 1)
    measured = {one.name: one for one in baselines(split, 1)}
    assert list(measured) == [
        "logistic regression",
        "gradient boosting",
        "prior stays only",
        "LACE without comorbidity",
    ]
    prevalence = split.test.prevalence
    assert all(0.52 < one.auroc < 0.8 and one.auprc > prevalence for one in measured.values())
    # The outcome is drawn from a logistic model: nothing ranks it better, and a rule of two features less well.
    assert measured["logistic regression"].auroc == max(one.auroc for one in measured.values())
    assert all(one.brier < prevalence * (1 - prevalence) + 0.002 for one in measured.values())
    assert baselines(split, 1) == tuple(measured.values())
