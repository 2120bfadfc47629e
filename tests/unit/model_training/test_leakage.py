from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from model_training.dataset import Dataset
from model_training.evaluation import evaluate
from model_training.leakage import require_no_leak, single_feature_aurocs, standard_error
from model_training.splitting import split_by_patient_and_time
from model_training.training import fit, raw_probability
from schemas.errors import LeakageError
from schemas.features import FEATURE_NAMES
from tests.unit.model_training.stays import dataset_of, simulated

PLACE = FEATURE_NAMES.index("num_medications")


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return dataset_of(simulated(2, 15000))


def planted(dataset: Dataset, values: NDArray[np.float64]) -> Dataset:
    """Put values [n] in the place of a feature."""
    rows = dataset.rows.copy()
    rows[:, PLACE] = values
    return replace(dataset, rows=rows)


def test_shuffled_labels_teach_nothing(dataset: Dataset) -> None:
    shuffled = replace(dataset, readmitted=np.random.default_rng(4).permutation(dataset.readmitted))
    split = split_by_patient_and_time(shuffled, 4)
    fitted = fit(split, 4, budget_s=0)
    probability = fitted.calibration(raw_probability(fitted.forest, split.test.rows))
    assert evaluate(probability, split.test.readmitted).auroc == pytest.approx(0.5, abs=0.03)


def test_plausible_features_pass(dataset: Dataset) -> None:
    require_no_leak(split_by_patient_and_time(dataset, 1))


@pytest.mark.parametrize(
    "kind", ["the outcome", "the days until the next stay", "the outcome, in the middle", "hidden"]
)
def test_a_feature_that_knows_the_future_is_caught(dataset: Dataset, kind: str) -> None:
    rng, back = np.random.default_rng(3), dataset.readmitted
    values = {
        "the outcome": back.astype(np.float64),
        "the days until the next stay": np.where(back, rng.uniform(0, 30, len(back)), rng.uniform(25, 900, len(back))),
        "the outcome, in the middle": np.where(back, 5.0, rng.choice([4.0, 6.0], len(back))),
        "hidden": dataset.rows[:, PLACE] + 8 * (back & (rng.random(len(back)) < 0.9)),
    }[kind]
    with pytest.raises(LeakageError, match="num_medications alone"):
        require_no_leak(split_by_patient_and_time(planted(dataset, values), 1))


def test_a_strong_but_honest_feature_passes(dataset: Dataset) -> None:
    rng, back = np.random.default_rng(3), dataset.readmitted
    split = split_by_patient_and_time(planted(dataset, rng.normal(back * 1.2, 1)), 1)
    assert single_feature_aurocs(split)["num_medications"][0] == pytest.approx(0.8, abs=0.03)
    require_no_leak(split)


def test_the_standard_error_is_that_of_hanley_and_mcneils_example() -> None:
    # Their table of an AUROC of 0.893 with 51 abnormal and 58 normal images gives 0.032.
    assert standard_error(0.893, 51, 58) == pytest.approx(0.032, abs=0.001)
    assert standard_error(1.0, 5, 5) == 0
