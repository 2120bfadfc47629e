"""The gate: each rule by itself, and what falls away where there is no champion."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from model_training.evaluation import Assessment, Evaluation, Group, Kind
from model_training.gate import Champion, Rules, judge
from model_training.measures import Interval, Operating
from schemas.model import Calibration, Isotonic, Sigmoid

RULES = Rules(auroc_margin=0.01, brier_margin=0.002, calibration_ratio=1.25, group_auroc_floor=0.55, group_min=50)
GOOD = Evaluation(
    stays=2000,
    readmissions=200,
    prevalence=0.1,
    mean_predicted=0.1,
    auroc=0.66,
    auroc_interval=Interval(0.62, 0.7),
    auprc=0.2,
    brier=0.085,
    calibration_slope=1.0,
    calibration_slope_interval=Interval(0.8, 1.2),
    calibration_intercept=0.0,
    observed_to_expected=1.0,
    observed_to_expected_interval=Interval(0.9, 1.1),
)
STEEP = Sigmoid(slope=5.0, intercept=-3.0)
NOTHING = Operating(0.2, 0, 0, None, 0, 0, 0, 0)


@dataclass(frozen=True)
class End:
    topic: str
    topic_id: str
    partition: int
    end_offset: int


ENDS = (End("features.dkfz", "id", 0, 100), End("features.dkfz", "id", 1, 100))
CHAMPION = Champion("3", GOOD, ENDS)


def groups(evaluation: Evaluation = GOOD, **of_group: Evaluation | None) -> list[Group]:
    def group(kind: Kind, name: str, one: Evaluation | None) -> Group:
        return Group(kind, name, None if one is None else Assessment(one, (), NOTHING, NOTHING, ()))

    return [
        group(Kind.ALL, "all", evaluation),
        *(group(Kind.INSTITUTION, name, one) for name, one in of_group.items()),
    ]


def reasons(
    candidate: list[Group], champion: Champion | None = CHAMPION, calibration: Calibration = STEEP
) -> list[str]:
    verdict = judge(candidate, calibration, ENDS, champion, RULES)
    assert verdict.passed == (not verdict.reasons)
    assert verdict.compared_with == (champion.version if champion else None)
    return list(verdict.reasons)


def test_a_model_as_good_as_the_champion_passes() -> None:
    assert reasons(groups()) == []


@pytest.mark.parametrize(("auroc", "passes"), [(0.6501, True), (0.6499, False), (0.9, True)])
def test_auroc_may_be_a_margin_below_the_champions(auroc: float, passes: bool) -> None:
    found = reasons(groups(replace(GOOD, auroc=auroc)))
    assert found == ([] if passes else ["Its AUROC 0.6499 is more than 0.01 below 0.6600 of champion version 3."])


@pytest.mark.parametrize(("brier", "passes"), [(0.0869, True), (0.0871, False), (0.01, True)])
def test_the_brier_score_may_be_a_margin_above_the_champions(brier: float, passes: bool) -> None:
    found = reasons(groups(replace(GOOD, brier=brier)))
    told = ["Its Brier score 0.0871 is more than 0.002 above 0.0850 of champion version 3."]
    assert found == ([] if passes else told)


@pytest.mark.parametrize(("value", "passes"), [(0.79, False), (0.81, True), (1.24, True), (1.26, False)])
def test_slope_and_calibration_in_the_large_lie_within_a_ratio(value: float, passes: bool) -> None:
    for changed in (replace(GOOD, calibration_slope=value), replace(GOOD, observed_to_expected=value)):
        found = reasons(groups(changed))
        assert [str(value) in one and "0.80 to 1.25" in one for one in found] == ([] if passes else [True])


def test_no_group_that_is_large_enough_may_fall_below_the_floor() -> None:
    below = replace(GOOD, auroc=0.53)
    assert reasons(groups(embl=below, dkfz=GOOD)) == [
        "Its AUROC for institution embl is 0.530 (0.620 to 0.700) on 2,000 stays, below 0.55."
    ]
    assert reasons(groups(embl=replace(below, readmissions=49), dkfz=None)) == []
    assert reasons(groups(embl=replace(below, readmissions=1951))) == []


def test_a_snapshot_that_was_read_less_far_than_the_champions_is_older() -> None:
    further = replace(CHAMPION, ends=(ENDS[0], replace(ENDS[1], end_offset=101)))
    [reason] = reasons(groups(), further)
    assert "features.dkfz/1 was read to offset 100, the champion's to 101" in reason


def test_a_topic_that_was_made_anew_is_neither_older_nor_newer() -> None:
    assert reasons(groups(), replace(CHAMPION, ends=(End("features.dkfz", "another", 0, 10**9),))) == []


@pytest.mark.parametrize("champion", [CHAMPION, None])
@pytest.mark.parametrize(
    ("calibration", "passes"),
    [
        (Sigmoid(0.0, -2.3), False),
        (Isotonic((0.4,), (0.1,)), False),
        (Isotonic((0.4, 0.5), (0.1, 0.1)), False),
        (Isotonic((0.4, 0.5), (0.1, 0.2)), True),
    ],
)
def test_a_model_that_gives_everybody_the_same_probability_never_passes(
    calibration: Calibration, passes: bool, champion: Champion | None
) -> None:
    found = reasons(groups(replace(GOOD, readmissions=20)), champion, calibration)
    assert ["the same probability" in one for one in found] == ([] if passes else [True])


def test_every_reason_is_told() -> None:
    bad = replace(GOOD, auroc=0.5, brier=0.1, calibration_slope=0.1, observed_to_expected=2.0)
    assert len(reasons(groups(bad, dkfz=bad), calibration=Sigmoid(0.0, -2.3))) == 7


# --- without a champion


def test_a_first_model_on_few_data_passes_though_its_calibration_is_out_of_bounds() -> None:
    few = replace(GOOD, stays=1900, readmissions=199, calibration_slope=0.6, observed_to_expected=1.4)
    assert reasons(groups(few), None) == []
    assert len(reasons(groups(few))) == 2  # beside a champion it would not


def test_a_first_model_on_enough_data_must_be_calibrated() -> None:
    enough = replace(GOOD, readmissions=200, calibration_slope=0.6)
    assert reasons(groups(enough), None) == ["Its calibration slope 0.60 (0.800 to 1.200) is not within 0.80 to 1.25."]


def test_a_first_model_that_ranks_no_better_than_chance_is_held_back() -> None:
    [reason] = reasons(groups(replace(GOOD, auroc=0.51)), None)
    assert "for everybody" in reason
