"""The training job: read, label, split, fit, calibrate, check, evaluate, register."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

import numpy as np

from connectors.feature_topics import Snapshot, read_snapshot
from connectors.models import Candidate, from_bytes, register, set_alias
from connectors.settings import Settings
from model_training.dataset import assemble
from model_training.evaluation import Evaluation, evaluate
from model_training.forest_onnx import build, raw_baseline, require_agreement
from model_training.labels import Exclusion, Labels, label
from model_training.training import FOREST, Fitted, Split, fit, raw_probability, split_by_patient
from schemas.drift import Reference, reference
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

    encounters: read; excluded: of them, by reason; fit_stays, calibrate_stays: in those parts; evaluation: on the
    test part. onnx_difference: the model file's largest difference from the forest there. seconds: the whole run.
    """

    model_name: str
    version: str
    alias: str
    digest: str
    encounters: int
    excluded: Mapping[Exclusion, int]
    fit_stays: int
    calibrate_stays: int
    evaluation: Evaluation
    onnx_difference: float
    seconds: float


@dataclass(frozen=True, slots=True)
class _Trained:
    onnx_file: bytes
    onnx_difference: float
    evaluation: Evaluation


def train(
    settings: Settings, seed: int, on_progress: OnProgress = lambda *_: None, read: Read = read_snapshot
) -> TrainingResult:
    """Train on the feature topics as they are now, register the model, let the alias point to it.

    `on_progress` is told each step and the share of it that is done, 0 to 1. Raises NotEnoughStaysError,
    ModelRefusedError where the file fails its check, UnavailableError where Kafka or a registry does not answer.
    """
    started = time.monotonic()
    snapshot = read(settings, lambda share: on_progress(Step.READ, share))
    on_progress(Step.LABEL, 0.0)
    labels = label(snapshot.records)
    dataset = assemble(labels.stays)
    split = split_by_patient(dataset, seed)
    seen = reference(dataset.rows, np.array([one.stay.institution for one in labels.stays], dtype=np.str_))
    trained = _train(split, seen, settings.model_name, seed, on_progress)
    on_progress(Step.REGISTER, 0.0)
    model = register(settings, _candidate(trained, snapshot, labels, split, seed))
    set_alias(settings, model.version)
    on_progress(Step.REGISTER, 1.0)
    return TrainingResult(
        model_name=model.name,
        version=model.version,
        alias=settings.model_alias,
        digest=model.digest,
        encounters=len(snapshot.records),
        excluded=labels.excluded,
        fit_stays=len(split.fit),
        calibrate_stays=len(split.calibrate),
        evaluation=trained.evaluation,
        onnx_difference=trained.onnx_difference,
        seconds=time.monotonic() - started,
    )


def _train(split: Split, seen: Reference, name: str, seed: int, on_progress: OnProgress) -> _Trained:
    on_progress(Step.FIT, 0.0)
    fitted = fit(split, seed)
    onnx_file = build(fitted.forest, _card(fitted, seen))
    on_progress(Step.CHECK, 0.0)
    model = from_bytes(onnx_file, name=name, version="candidate")
    difference = require_agreement(model, fitted.forest, split.test.rows)
    probability = fitted.calibration(raw_probability(fitted.forest, split.test.rows))
    return _Trained(onnx_file, difference, evaluate(probability, split.test.readmitted))


def _candidate(trained: _Trained, snapshot: Snapshot, labels: Labels, split: Split, seed: int) -> Candidate:
    return Candidate(
        onnx=trained.onnx_file,
        parameters=_parameters(split, labels, seed),
        metrics=asdict(trained.evaluation) | {"onnx_difference": trained.onnx_difference},
        snapshot=snapshot.ends,
        description=_description(split, trained.evaluation),
    )


def _card(fitted: Fitted, seen: Reference) -> ModelCard:
    return ModelCard(
        feature_names=FEATURE_NAMES,
        feature_set=FEATURE_SET,
        raw_baseline=raw_baseline(fitted.forest),
        calibration=fitted.calibration,
        thresholds=fitted.thresholds,
        reference=seen,
    )


def _parameters(split: Split, labels: Labels, seed: int) -> dict[str, str | int | float]:
    return {
        **FOREST,
        "seed": seed,
        "feature_set": FEATURE_SET,
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
