"""The training job: read, label, split, fit, calibrate, check, evaluate, register."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

from connectors.feature_topics import Snapshot, read_snapshot
from connectors.models import Candidate, from_bytes, register, set_alias
from connectors.settings import Settings
from model_training.backends import Backend, fitting_on
from model_training.dataset import assemble
from model_training.evaluation import Evaluation, evaluate
from model_training.forest_onnx import build, raw_baseline, require_agreement
from model_training.labels import Exclusion, Labels, label
from model_training.leakage import require_judged_at_discharge, require_no_leak
from model_training.search import Tried, raw_probability
from model_training.splitting import Split, require_enough, split_by_patient_and_time
from model_training.training import Fitted, fit
from schemas.features import FEATURE_NAMES, FEATURE_SET
from schemas.model import ModelCard


class Step(StrEnum):
    """What the job is at."""

    READ = "reading the feature topics"
    LABEL = "labelling stays"
    FIT = "fitting the forest"
    CHECK = "checking the model file"
    REGISTER = "registering the model"


OnProgress = Callable[[Step, float], None]
Read = Callable[[Settings, Callable[[float], None]], Snapshot]


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What came of a training run.

    encounters: read; excluded: of them, by reason; dropped_stays: those the split left out; fit_stays,
    calibrate_stays: in those parts; evaluation: on the test part. onnx_difference: the model file's largest difference
    from the forest there. search: the shapes of trees that were tried. seconds: the whole run.
    """

    model_name: str
    version: str
    alias: str
    digest: str
    encounters: int
    excluded: Mapping[Exclusion, int]
    dropped_stays: int
    fit_stays: int
    calibrate_stays: int
    evaluation: Evaluation
    onnx_difference: float
    search: tuple[Tried, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class _Trained:
    onnx_file: bytes
    onnx_difference: float
    evaluation: Evaluation
    fitted: Fitted


def train(
    settings: Settings,
    seed: int,
    on_progress: OnProgress = lambda *_: None,
    read: Read = read_snapshot,
    backend: Backend = Backend.THREADS,
) -> TrainingResult:
    """Train on the feature topics as they are now, register the model, let the alias point to it.

    `on_progress` is told each step and the share of it that is done, 0 to 1. Raises NotEnoughStaysError, LeakageError,
    ModelRefusedError where the file fails its check, UnavailableError where Kafka or a registry does not answer.
    """
    started = time.monotonic()
    snapshot = read(settings, lambda share: on_progress(Step.READ, share))
    on_progress(Step.LABEL, 0.0)
    labels = label(snapshot.table)
    require_judged_at_discharge(snapshot.table, labels)
    split = split_by_patient_and_time(assemble(snapshot.table, labels), seed)
    require_enough(split)
    require_no_leak(split)
    with fitting_on(backend, settings.dask_scheduler_address):
        trained = _train(split, settings, seed, on_progress)
    on_progress(Step.REGISTER, 0.0)
    model = register(settings, _candidate(trained, snapshot, labels, split, seed))
    set_alias(settings, model.version)
    on_progress(Step.REGISTER, 1.0)
    return TrainingResult(
        model_name=model.name,
        version=model.version,
        alias=settings.model_alias,
        digest=model.digest,
        encounters=len(snapshot.table),
        excluded=labels.excluded,
        dropped_stays=split.dropped,
        fit_stays=len(split.fit),
        calibrate_stays=len(split.calibrate),
        evaluation=trained.evaluation,
        onnx_difference=trained.onnx_difference,
        search=trained.fitted.search,
        seconds=time.monotonic() - started,
    )


def _train(split: Split, settings: Settings, seed: int, on_progress: OnProgress) -> _Trained:
    on_progress(Step.FIT, 0.0)
    fitted = fit(split, seed, settings.train_search_budget_s)
    onnx_file = build(fitted.forest, _card(fitted))
    on_progress(Step.CHECK, 0.0)
    model = from_bytes(onnx_file, name=settings.model_name, version="candidate")
    difference = require_agreement(model, fitted.forest, split.test.rows)
    probability = fitted.calibration(raw_probability(fitted.forest, split.test.rows))
    return _Trained(onnx_file, difference, evaluate(probability, split.test.readmitted), fitted)


def _candidate(trained: _Trained, snapshot: Snapshot, labels: Labels, split: Split, seed: int) -> Candidate:
    return Candidate(
        onnx=trained.onnx_file,
        parameters=_parameters(trained.fitted, split, labels, seed)
        | {"snapshot": snapshot.digest, "snapshot_content": snapshot.content},
        metrics=asdict(trained.evaluation) | {"onnx_difference": trained.onnx_difference},
        snapshot=snapshot.ends,
        description=_description(split, trained.evaluation),
    )


def _card(fitted: Fitted) -> ModelCard:
    return ModelCard(
        feature_names=FEATURE_NAMES,
        feature_set=FEATURE_SET,
        raw_baseline=raw_baseline(fitted.forest),
        calibration=fitted.calibration,
        thresholds=fitted.thresholds,
    )


def _parameters(fitted: Fitted, split: Split, labels: Labels, seed: int) -> dict[str, str | int | float]:
    return {
        **fitted.parameters,
        "seed": seed,
        "feature_set": FEATURE_SET,
        "split_at": str(split.at),
        "dropped_stays": split.dropped,
        "fit_stays": len(split.fit),
        "calibrate_stays": len(split.calibrate),
        "test_stays": len(split.test),
        **{f"excluded_{reason.name.lower()}": count for reason, count in labels.excluded.items()},
    }


def _description(split: Split, evaluation: Evaluation) -> str:
    return (
        f"30-day readmission, random forest on {len(split.fit)} stays, calibrated on {len(split.calibrate)}. "
        f"On {evaluation.stays} stays of other patients: AUROC {evaluation.auroc:.3f}, Brier {evaluation.brier:.3f}, "
        f"prevalence {evaluation.prevalence:.3f}."
    )
