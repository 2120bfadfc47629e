from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from model_training.measures import (
    Ranking,
    auroc,
    calibration_curve,
    calibration_line,
    difference,
    observed_to_expected,
    operating_at,
    resampled,
    sweep,
    wilson,
)
from schemas.model import Floats

RNG = np.random.default_rng(1)
N = 2000
PROBABILITY = RNG.uniform(0.02, 0.4, N)
READMITTED = RNG.random(N) < PROBABILITY
EACH = np.arange(N)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.4]), st.booleans(), st.integers(0, 3)), min_size=2, max_size=40
    )
)
def test_the_weighted_auroc_is_that_of_rows_repeated_as_often_as_they_weigh(
    rows: list[tuple[float, bool, int]],
) -> None:
    probability, readmitted, weights = (np.array(column) for column in zip(*rows, strict=True))
    found = Ranking(probability, readmitted).auroc(weights.astype(np.float64))
    repeated = np.repeat(readmitted, weights)
    if repeated.all() or not repeated.any():
        assert np.isnan(found)
    else:
        assert found == pytest.approx(roc_auc_score(repeated, np.repeat(probability, weights)))


def test_a_resample_draws_whole_persons_as_many_as_there_are() -> None:
    persons = np.array(["a", "b", "a", "c", "b", "a"])
    for weights in resampled(persons, 1):
        by_person = dict(zip(persons, weights, strict=True))
        assert weights.tolist() == [by_person[one] for one in persons]
        assert sum(by_person.values()) == 3


def test_the_interval_of_auroc_is_as_wide_as_its_spread_over_fresh_samples() -> None:
    fresh = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        probability = rng.uniform(0.02, 0.4, N)
        fresh.append(roc_auc_score(rng.random(N) < probability, probability))
    interval = auroc(PROBABILITY, READMITTED, EACH, 1).interval
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * np.std(fresh), rel=0.2)


def test_stays_of_one_person_do_not_count_as_evidence_of_four() -> None:
    once = auroc(PROBABILITY, READMITTED, EACH, 1)
    four_times = auroc(np.tile(PROBABILITY, 4), np.tile(READMITTED, 4), np.tile(EACH, 4), 1)
    assert four_times.value == pytest.approx(once.value)
    assert (four_times.interval.low, four_times.interval.high) == pytest.approx(
        (once.interval.low, once.interval.high), abs=0.003
    )


def test_the_same_seed_gives_the_same_interval_and_another_seed_nearly() -> None:
    first, again, other = (auroc(PROBABILITY, READMITTED, EACH, seed).interval for seed in (1, 1, 2))
    assert first == again != other
    assert (other.low, other.high) == pytest.approx((first.low, first.high), abs=0.01)


def test_a_model_differs_from_itself_by_nothing_and_from_a_blunter_one_surely() -> None:
    same = difference(PROBABILITY, PROBABILITY, READMITTED, EACH, 1)
    assert (same.auroc.value, same.auroc.interval.low, same.brier.interval.high) == (0, 0, 0)
    blunt = np.where(EACH % 2 == 0, PROBABILITY, 0.21)
    better = difference(blunt, PROBABILITY, READMITTED, EACH, 1)
    assert better.auroc.interval.low > 0
    assert better.brier.value == pytest.approx(
        np.mean((PROBABILITY - READMITTED) ** 2) - np.mean((blunt - READMITTED) ** 2)
    )
    assert better.brier.interval.high < 0


def covered(truth: float, lows_and_highs: list[tuple[float, float]]) -> float:
    return float(np.mean([low <= truth <= high for low, high in lows_and_highs]))


def simulated(seed: int) -> tuple[Floats, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    rng = np.random.default_rng(seed)
    probability = rng.uniform(0.02, 0.4, 600)
    return probability, rng.random(600) < probability


def test_intervals_of_slope_and_calibration_in_the_large_hold_the_truth_nineteen_times_of_twenty() -> None:
    slopes, ratios = [], []
    for seed in range(100):
        probability, readmitted = simulated(seed)
        slope = calibration_line(probability, readmitted, np.arange(600))[0].interval
        ratio = observed_to_expected(probability, readmitted, np.arange(600)).interval
        slopes.append((slope.low, slope.high))
        ratios.append((ratio.low, ratio.high))
    assert covered(1.0, slopes) == pytest.approx(0.95, abs=0.05)
    assert covered(1.0, ratios) == pytest.approx(0.95, abs=0.05)


def test_risks_told_too_low_show_in_observed_for_each_expected() -> None:
    assert observed_to_expected(np.array([0.1, 0.3]), np.array([True, False]), np.arange(2)).value == pytest.approx(2.5)


def test_the_calibration_curve_has_ten_bins_of_like_size_that_lie_on_the_truth() -> None:
    curve = calibration_curve(PROBABILITY, READMITTED)
    assert [one.stays for one in curve] == [200] * 10
    assert all(one.interval.low - 0.02 < one.predicted < one.interval.high + 0.02 for one in curve)
    assert [one.predicted for one in curve] == sorted(one.predicted for one in curve)


@pytest.mark.parametrize(("stays", "bins"), [(49, 1), (120, 2), (1000, 10)])
def test_few_stays_make_fewer_bins(stays: int, bins: int) -> None:
    assert len(calibration_curve(PROBABILITY[:stays], READMITTED[:stays])) == bins


def test_stays_of_one_probability_are_one_bin() -> None:
    [point] = calibration_curve(np.full(500, 0.1), np.arange(500) < 50)
    assert (point.stays, point.observed) == (500, 0.1)
    assert point.predicted == pytest.approx(0.1)


def test_what_comes_of_a_threshold_is_as_worked_out_by_hand() -> None:
    probability = np.array([0.05, 0.1, 0.25, 0.3, 0.6])
    readmitted = np.array([False, True, False, True, True])
    found = operating_at(0.25, probability, readmitted, stays_per_day=10)
    assert (found.share_alerted, found.sensitivity, found.ppv) == pytest.approx((0.6, 2 / 3, 2 / 3))
    assert (found.alerts_per_day, found.caught_per_day) == pytest.approx((6, 4))
    assert found.net_benefit == pytest.approx((2 - 1 * 0.25 / 0.75) / 5)
    assert found.net_benefit_all == pytest.approx((3 - 2 * 0.25 / 0.75) / 5)


def test_a_threshold_that_nobody_reaches_has_no_ppv_and_no_benefit() -> None:
    found = operating_at(0.9, np.array([0.1, 0.2]), np.array([True, False]), 1.0)
    assert (found.ppv, found.net_benefit, found.sensitivity) == (None, 0, 0)


def test_the_sweep_begins_by_alerting_for_all_and_a_true_model_is_never_worse_than_that_or_than_nothing() -> None:
    rows = sweep(PROBABILITY, READMITTED, 5.0)
    assert [one.threshold for one in rows] == pytest.approx([number / 100 for number in range(1, 51)])
    assert rows[0].net_benefit == pytest.approx(rows[0].net_benefit_all)
    assert rows[0].alerts_per_day == pytest.approx(5.0)
    assert all(one.net_benefit > max(0, one.net_benefit_all) - 0.005 for one in rows)


def test_wilsons_interval_is_the_published_one() -> None:
    assert (wilson(0.1, 10).low, wilson(0.1, 10).high) == pytest.approx((0.0179, 0.4042), abs=1e-4)
