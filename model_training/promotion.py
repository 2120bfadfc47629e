"""Who becomes champion: measure candidate and champion on the same held-out stays, judge, move the alias."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from connectors.feature_topics import Snapshot, read_snapshot
from connectors.models.versions import (
    CHALLENGER,
    Moved,
    Version,
    find_version,
    load_found,
    make_champion,
    scoring_alias,
    set_alias,
    snapshot_ends,
    versions,
)
from connectors.partition_ends import PartitionEnd
from connectors.settings import Settings
from model_training.dataset import Dataset, assemble
from model_training.evaluation import Evaluation, Group, HeldOut, assess, evaluate, predicted, stays_per_day
from model_training.gate import Champion, Rules, Verdict, judge, same_for_everybody
from model_training.labels import label
from model_training.measures import Difference, difference
from model_training.splitting import require_enough, split_by_patient_and_time
from schemas.errors import ModelRefusedError, PromotionRefusedError
from schemas.model import Calibration, Model

Read = Callable[[Settings, Callable[[float], None]], Snapshot]
OnRead = Callable[[float], None]

# Of the registered version: what the gate said, whether it was passed over.
GATE_TAG = "gate"
FORCED_TAG = "forced"


@dataclass(frozen=True, slots=True)
class Promoted:
    """A version that was made champion, and what the gate said; `verdict` is None where it was not asked."""

    moved: Moved
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two versions on the same held-out stays; difference: the second's measures less the first's.

    remarks: what makes the comparison unfair.
    """

    first: str
    second: str
    stays: int
    readmissions: int
    first_evaluation: Evaluation
    second_evaluation: Evaluation
    difference: Difference
    remarks: tuple[str, ...]


def rules_of(settings: Settings) -> Rules:
    """Return the gate's bounds as they are set."""
    return Rules(
        auroc_margin=settings.gate_auroc_margin,
        brier_margin=settings.gate_brier_margin,
        calibration_ratio=settings.gate_calibration_ratio,
        group_auroc_floor=settings.gate_group_auroc_floor,
        group_min=settings.gate_group_min,
    )


def hold_out(model: Model, test: Dataset, everybody: Dataset) -> HeldOut:
    """Score the test part of a dataset; `everybody` tells how many stays a day it stands for."""
    span = test.discharged_at.min(), test.discharged_at.max()
    return HeldOut(
        rows=test.rows,
        probability=predicted(model, test.rows),
        readmitted=test.readmitted,
        persons=test.persons,
        institutions=test.institutions,
        stays_per_day=stays_per_day(everybody.discharged_at, span),
    )


def judged(
    settings: Settings,
    groups: Sequence[Group],
    calibration: Calibration,
    ends: Sequence[PartitionEnd],
    test: Dataset,
    seed: int,
) -> Verdict:
    """Judge a candidate against today's champion, which is measured on the same test part by its registered file.

    A champion whose file workers with this code would refuse is none to compare with.
    """
    holder = _holder(settings)
    champion = _measured(settings, holder, test, seed) if holder else None
    return judge(groups, calibration, ends, champion, rules_of(settings))


def place(settings: Settings, version: str, verdict: Verdict, *, force: bool) -> str:
    """Give a newly registered version its alias and return that.

    `MODEL_ALIAS` where the gate passes it or `force` is given, else `challenger`. Where `MODEL_ALIAS` is itself
    `challenger`, it is that whatever the gate says.
    """
    if settings.model_alias != CHALLENGER and (verdict.passed or force):
        make_champion(settings, version)
        return settings.model_alias
    set_alias(settings, version, CHALLENGER)
    return CHALLENGER


def place_unmeasured(settings: Settings, version: str, calibration: Calibration) -> str:
    """Give a newly registered version its alias where today's champion could not be measured on the same stays.

    Then it becomes champion only while there is none, and if it tells persons apart; else challenger: `promote` asks
    the gate where rows can be read.
    """
    holder = _holder(settings)
    unmeasured = (f"Champion version {holder.version} was not measured on the same stays.",) if holder else ()
    reasons = (*unmeasured, *same_for_everybody(calibration))
    return place(settings, version, Verdict(reasons, holder.version if holder else None), force=False)


def promote(
    settings: Settings, wanted: str, *, force: bool, on_read: OnRead = lambda _: None, read: Read = read_snapshot
) -> Promoted:
    """Make a version champion, if the gate passes it on the held-out stays of the feature topics as they are now.

    Its file is loaded as a worker would load it. `force` leaves the gate out. Raises NoModelError for an unknown
    version, ModelRefusedError for a file that is not the registered one, PromotionRefusedError with the gate's reasons.
    """
    version = find_version(settings, wanted)
    model = load_found(settings, version.version)
    if force:
        return Promoted(make_champion(settings, version.version, {FORCED_TAG: "true"}), None)
    seed = _seed(version)
    everybody, test = _held_out_part(read(settings, on_read), seed)
    groups = assess(hold_out(model, test, everybody), model.card.thresholds, seed)
    ends = snapshot_ends(settings, version.version)
    verdict = judged(settings, groups, model.card.calibration, ends, test, seed)
    if not verdict.passed:
        raise PromotionRefusedError(f"Version {version.version} is held back: {' '.join(verdict.reasons)}")
    return Promoted(make_champion(settings, version.version, {GATE_TAG: "passed"}), verdict)


def compare(
    settings: Settings, first: str, second: str, *, on_read: OnRead = lambda _: None, read: Read = read_snapshot
) -> Comparison:
    """Measure two versions on the held-out stays of the feature topics as they are now, split as for the first.

    Raises NoModelError for an unknown version, ModelRefusedError for a file that is not the registered one,
    NotEnoughStaysError where the held-out stays say nothing.
    """
    one, other = find_version(settings, first), find_version(settings, second)
    models = [load_found(settings, version.version) for version in (one, other)]
    seed = _seed(one)
    _, test = _held_out_part(read(settings, on_read), seed)
    probabilities = [predicted(model, test.rows) for model in models]
    evaluations = [evaluate(each, test.readmitted, test.persons, seed) for each in probabilities]
    return Comparison(
        first=one.version,
        second=other.version,
        stays=len(test),
        readmissions=int(test.readmitted.sum()),
        first_evaluation=evaluations[0],
        second_evaluation=evaluations[1],
        difference=difference(probabilities[0], probabilities[1], test.readmitted, test.persons, seed),
        remarks=tuple(_remarks(one, other)),
    )


def _holder(settings: Settings) -> Version | None:
    alias = scoring_alias(settings)
    return next((one for one in versions(settings) if alias in one.aliases), None)


def _measured(settings: Settings, holder: Version, test: Dataset, seed: int) -> Champion | None:
    try:
        model = load_found(settings, holder.version)
    except ModelRefusedError:
        return None
    evaluation = evaluate(predicted(model, test.rows), test.readmitted, test.persons, seed)
    return Champion(holder.version, evaluation, snapshot_ends(settings, holder.version))


def _held_out_part(snapshot: Snapshot, seed: int) -> tuple[Dataset, Dataset]:
    everybody = assemble(snapshot.table, label(snapshot.table))
    split = split_by_patient_and_time(everybody, seed)
    require_enough(split)
    return everybody, split.test


def _seed(version: Version) -> int:
    return int(version.parameters.get("seed", 1))


def _remarks(one: Version, other: Version) -> list[str]:
    if _seed(one) == _seed(other):
        return []
    return [
        f"Version {other.version} was split with another seed than version {one.version}: "
        f"it may have learned from some of these stays."
    ]
