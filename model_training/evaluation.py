"""How good a calibrated model is on persons it has not seen, for everybody and for each group: pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, brier_score_loss

from model_training.measures import (
    CurvePoint,
    Interval,
    Operating,
    Outcomes,
    Persons,
    Ranking,
    auroc,
    calibration_curve,
    calibration_line,
    observed_to_expected,
    operating_at,
    sweep,
)
from schemas.features import FEATURE_NAMES, UNKNOWN
from schemas.model import Floats, Model, Thresholds, explain

# Fewer say nothing, and might say something of somebody.
MIN_OF_EACH_OUTCOME = 10

_IMPORTANCE_ROWS = 20_000
_IMPORTANCE_REPEATS = 3

_BATCH = 10_000

_GENDERS = {0.0: "female", 1.0: "male", 2.0: "other or unknown"}
_AGES = {"under 18": 0, "18–44": 18, "45–64": 45, "65–79": 65, "80 and over": 80}

Score = Callable[[NDArray[np.float32]], Floats]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model's measures on held-out stays; 95 % intervals where they are given.

    auroc, auprc: ranking; 0.5 and the prevalence are chance. brier: mean squared error of the probability.
    calibration_slope, calibration_intercept: of the outcome on the probability's logit; 1 and 0 are perfect.
    observed_to_expected: readmissions for each that was predicted, calibration in the large; 1 is perfect.
    """

    stays: int
    readmissions: int
    prevalence: float
    mean_predicted: float
    auroc: float
    auroc_interval: Interval
    auprc: float
    brier: float
    calibration_slope: float
    calibration_slope_interval: Interval
    calibration_intercept: float
    observed_to_expected: float
    observed_to_expected_interval: Interval

    def metrics(self) -> dict[str, float]:
        """Return the measures by name, an interval as `_low` and `_high`."""
        found: dict[str, float] = {}
        for name in self.__dataclass_fields__:
            match getattr(self, name):
                case Interval(low, high):
                    stem = name.removesuffix("_interval")
                    found |= {f"{stem}_low": low, f"{stem}_high": high}
                case value:
                    found[name] = value
        return found


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Held-out stays [n] and what a model says of them.

    rows: float32 [n, features]. persons: whose stay it is, any labels. stays_per_day: how many index stays there are
    each day in all, of which these are a sample.
    """

    rows: NDArray[np.float32]
    probability: Floats
    readmitted: Outcomes
    persons: Persons
    institutions: NDArray[np.str_]
    stays_per_day: float

    def where(self, chosen: NDArray[np.bool_]) -> HeldOut:
        """Return the chosen stays; `chosen` is bool [n]."""
        return HeldOut(
            self.rows[chosen],
            self.probability[chosen],
            self.readmitted[chosen],
            self.persons[chosen],
            self.institutions[chosen],
            self.stays_per_day * float(chosen.mean()),
        )


@dataclass(frozen=True, slots=True)
class Assessment:
    """All that is measured of one group: numbers, curves, what comes of the bands, what of each threshold."""

    evaluation: Evaluation
    calibration_curve: tuple[CurvePoint, ...]
    medium: Operating
    high: Operating
    thresholds: tuple[Operating, ...]


class Kind(StrEnum):
    """What a group is one of."""

    ALL = "all"
    INSTITUTION = "institution"
    GENDER = "gender"
    AGE = "age group"


@dataclass(frozen=True, slots=True)
class Group:
    """A group's assessment; None where fewer than 10 stays were, or fewer than 10 were not, followed by a readmission.

    Of a group that is too small not even the number of stays is told.
    """

    kind: Kind
    name: str
    assessment: Assessment | None

    def __str__(self) -> str:
        return "everybody" if self.kind is Kind.ALL else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Importance:
    """How much AUROC is lost when a feature's values are shuffled among the stays: the mean, and from least to most."""

    feature: str
    auroc_drop: float
    least: float
    most: float


def predicted(model: Model, rows: NDArray[np.float32]) -> Floats:
    """Return a model's calibrated probabilities, [n], for rows [n, features], a batch at a time."""
    batches = [explain(model, rows[start : start + _BATCH]).probability for start in range(0, len(rows), _BATCH)]
    return np.concatenate(batches) if batches else np.empty(0)


def evaluate(probability: Floats, readmitted: Outcomes, persons: Persons | None = None, seed: int = 1) -> Evaluation:
    """Measure calibrated probabilities [n] against outcomes [n]; both outcomes must occur.

    Without `persons` each stay counts as a person of its own.
    """
    persons = np.arange(len(readmitted)) if persons is None else persons
    ranked = auroc(probability, readmitted, persons, seed)
    slope, intercept = calibration_line(probability, readmitted, persons)
    ratio = observed_to_expected(probability, readmitted, persons)
    return Evaluation(
        stays=len(readmitted),
        readmissions=int(readmitted.sum()),
        prevalence=float(readmitted.mean()),
        mean_predicted=float(probability.mean()),
        auroc=ranked.value,
        auroc_interval=ranked.interval,
        auprc=float(average_precision_score(readmitted, probability)),
        brier=float(brier_score_loss(readmitted, probability)),
        calibration_slope=slope.value,
        calibration_slope_interval=slope.interval,
        calibration_intercept=intercept,
        observed_to_expected=ratio.value,
        observed_to_expected_interval=ratio.interval,
    )


def assess(held_out: HeldOut, thresholds: Thresholds, seed: int) -> tuple[Group, ...]:
    """Assess everybody, then each institution, gender and age group that occurs."""
    return tuple(
        Group(kind, name, _assessment(held_out.where(chosen), thresholds, seed))
        for kind, name, chosen in _groups(held_out)
    )


def importance(held_out: HeldOut, score: Score, seed: int) -> tuple[Importance, ...]:
    """Shuffle each feature three times on at most 20,000 of the stays, and say what that costs; the greatest first.

    Breiman's permutation importance (doi:10.1023/A:1010933404324): features that stand for each other share theirs.
    """
    random = np.random.default_rng(seed)
    chosen = np.sort(random.permutation(len(held_out.rows))[:_IMPORTANCE_ROWS])
    rows, readmitted = held_out.rows[chosen], held_out.readmitted[chosen]
    whole = _plain_auroc(held_out.probability[chosen], readmitted)
    found = []
    for column, name in enumerate(FEATURE_NAMES):
        drops = [
            whole - _plain_auroc(score(_shuffled(rows, column, random)), readmitted) for _ in range(_IMPORTANCE_REPEATS)
        ]
        found.append(Importance(name, float(np.mean(drops)), min(drops), max(drops)))
    return tuple(sorted(found, key=lambda one: -one.auroc_drop))


def stays_per_day(discharged_at: NDArray[np.datetime64], span: Sequence[np.datetime64]) -> float:
    """Count the discharges a day within a span, both ends included; a span shorter than a day counts as one."""
    within = (discharged_at >= span[0]) & (discharged_at <= span[1])
    days = (span[1] - span[0]) / np.timedelta64(1, "D")
    return float(within.sum() / max(1.0, days))


def _assessment(held_out: HeldOut, thresholds: Thresholds, seed: int) -> Assessment | None:
    readmitted, probability, per_day = held_out.readmitted, held_out.probability, held_out.stays_per_day
    if min(readmitted.sum(), (~readmitted).sum()) < MIN_OF_EACH_OUTCOME:
        return None
    return Assessment(
        evaluate(probability, readmitted, held_out.persons, seed),
        calibration_curve(probability, readmitted),
        operating_at(thresholds.medium, probability, readmitted, per_day),
        operating_at(thresholds.high, probability, readmitted, per_day),
        sweep(probability, readmitted, per_day),
    )


def _groups(held_out: HeldOut) -> Iterator[tuple[Kind, str, NDArray[np.bool_]]]:
    yield Kind.ALL, "all", np.ones(len(held_out.rows), dtype=np.bool_)
    for name in np.unique(held_out.institutions):
        yield Kind.INSTITUTION, str(name), held_out.institutions == name
    gender = held_out.rows[:, FEATURE_NAMES.index("gender_encoded")]
    for code, name in _GENDERS.items():
        if (chosen := gender == code).any():
            yield Kind.GENDER, name, chosen
    for name, chosen in _by_age(held_out.rows[:, FEATURE_NAMES.index("age_years")]):
        if chosen.any():
            yield Kind.AGE, name, chosen


def _by_age(age: NDArray[np.float32]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    ends = [*list(_AGES.values())[1:], np.inf]
    for (name, start), end in zip(_AGES.items(), ends, strict=True):
        yield name, (age >= start) & (age < end)
    yield "unknown", age == UNKNOWN


def _plain_auroc(probability: Floats, readmitted: Outcomes) -> float:
    return Ranking(probability, readmitted).auroc(np.ones(len(readmitted)))


def _shuffled(rows: NDArray[np.float32], column: int, random: np.random.Generator) -> NDArray[np.float32]:
    changed = rows.copy()
    changed[:, column] = random.permutation(changed[:, column])
    return changed
