"""Whether a model may become champion: pure.

The rules, in this order; all but the last are measured on the same held-out stays.

1. Its snapshot is not older than the champion's: no partition was read less far.
2. Its AUROC is at most a margin below the champion's.
3. Its Brier score is at most a margin above the champion's.
4. Its calibration slope, and the readmissions observed for each expected, lie within a ratio of 1.
5. No institution, gender or age group, nor everybody, has an AUROC below a floor. Groups of fewer than a number of
   readmissions, or of stays without one, do not count: by chance alone a good model would fail there.
6. It does not give everybody the same probability, as a forest does that is calibrated to rank no better than chance.

Without a champion there is nothing to be worse than, nobody has any score, and data are few. So rules 1 to 3 fall away,
and rule 4 holds from 200 held-out readmissions, and as many stays without one, on: fewer say little about calibration
(Van Calster et al. 2016, doi:10.1016/j.jclinepi.2015.12.005).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from model_training.evaluation import Evaluation, Group
from schemas.model import Calibration

_ENOUGH_FOR_CALIBRATION = 200


@dataclass(frozen=True, slots=True)
class Rules:
    """The bounds.

    calibration_ratio: r lets 1/r to r pass. group_min: of both outcomes, from which on a group counts.
    """

    auroc_margin: float
    brier_margin: float
    calibration_ratio: float
    group_auroc_floor: float
    group_min: int


class ReadTo(Protocol):
    """How far a snapshot has read a partition (`connectors.partition_ends.PartitionEnd`)."""

    @property
    def topic(self) -> str:
        """Its topic's name."""
        ...

    @property
    def topic_id(self) -> str:
        """Its topic's id: a topic made anew under an old name is another one."""
        ...

    @property
    def partition(self) -> int:
        """Its number."""
        ...

    @property
    def end_offset(self) -> int:
        """Offsets below were read."""
        ...


@dataclass(frozen=True, slots=True)
class Champion:
    """Today's champion, measured on the candidate's held-out stays, and the ends of the snapshot it was trained on."""

    version: str
    evaluation: Evaluation
    ends: Sequence[ReadTo]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says: the reasons to hold the model back, none where it may pass.

    compared_with: the champion's version; None where there was none.
    """

    reasons: tuple[str, ...]
    compared_with: str | None

    @property
    def passed(self) -> bool:
        """Tell whether the model may become champion."""
        return not self.reasons


def judge(
    groups: Sequence[Group], calibration: Calibration, ends: Sequence[ReadTo], champion: Champion | None, rules: Rules
) -> Verdict:
    """Judge a candidate by its assessment of everybody, which comes first, and of each group, and its calibration."""
    compared_with = champion.version if champion else None
    assessment = groups[0].assessment
    if assessment is None:
        return Verdict(("There are too few held-out stays to measure it on.",), compared_with)
    everybody = assessment.evaluation
    reasons = [
        *(_older(ends, champion) if champion else ()),
        *(_worse(everybody, champion, rules) if champion else ()),
        *(_miscalibrated(everybody, rules) if champion or _tells_calibration(everybody) else ()),
        *_below_floor(groups, rules),
        *same_for_everybody(calibration),
    ]
    return Verdict(tuple(reasons), compared_with)


def same_for_everybody(calibration: Calibration) -> Iterator[str]:
    """Yield rule 6's reason, which needs no held-out stays; nothing where the calibration tells persons apart."""
    if calibration.is_flat:
        yield "It gives everybody the same probability: on its calibration part it ranks no better than chance."


def _older(ends: Sequence[ReadTo], champion: Champion) -> Iterator[str]:
    read = {(one.topic_id, one.partition): one.end_offset for one in ends}
    for one in champion.ends:
        here = read.get((one.topic_id, one.partition))
        if here is not None and here < one.end_offset:
            yield (
                f"Its snapshot is older than that of champion version {champion.version}: {one.topic}/{one.partition} "
                f"was read to offset {here}, the champion's to {one.end_offset}."
            )
            return


def _worse(candidate: Evaluation, champion: Champion, rules: Rules) -> Iterator[str]:
    other, name = champion.evaluation, f"champion version {champion.version}"
    if candidate.auroc < other.auroc - rules.auroc_margin:
        yield (
            f"Its AUROC {candidate.auroc:.4f} is more than {rules.auroc_margin:g} below {other.auroc:.4f} of {name}."
        )
    if candidate.brier > other.brier + rules.brier_margin:
        yield (
            f"Its Brier score {candidate.brier:.4f} is more than {rules.brier_margin:g} above "
            f"{other.brier:.4f} of {name}."
        )


def _tells_calibration(candidate: Evaluation) -> bool:
    return min(candidate.readmissions, candidate.stays - candidate.readmissions) >= _ENOUGH_FOR_CALIBRATION


def _miscalibrated(candidate: Evaluation, rules: Rules) -> Iterator[str]:
    low, high = 1 / rules.calibration_ratio, rules.calibration_ratio
    slope, ratio = candidate.calibration_slope, candidate.observed_to_expected
    if not low <= slope <= high:
        told = f"{slope:.2f} ({candidate.calibration_slope_interval})"
        yield f"Its calibration slope {told} is not within {low:.2f} to {high:.2f}."
    if not low <= ratio <= high:
        told = f"{ratio:.2f} ({candidate.observed_to_expected_interval})"
        yield f"Its readmissions observed for each expected, {told}, are not within {low:.2f} to {high:.2f}."


def _below_floor(groups: Sequence[Group], rules: Rules) -> Iterator[str]:
    for group in groups:
        if group.assessment is None:
            continue
        found = group.assessment.evaluation
        counts = min(found.readmissions, found.stays - found.readmissions) >= rules.group_min
        if counts and found.auroc < rules.group_auroc_floor:
            yield (
                f"Its AUROC for {group} is {found.auroc:.3f} ({found.auroc_interval}) on {found.stays:,} stays, "
                f"below {rules.group_auroc_floor:g}."
            )
