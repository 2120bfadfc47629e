"""The training job: read, label, split, fit, check, evaluate, judge, report, register, promote."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from connectors.feature_topics import Snapshot, read_snapshot
from connectors.models import Candidate, OnnxModel, from_bytes, register
from connectors.models.environment import environment
from connectors.settings import Settings
from model_training.backends import Backend, fitting_on
from model_training.baselines import Baseline, baselines
from model_training.dataset import Dataset, assemble
from model_training.evaluation import Evaluation, Group, Importance, assess, importance, predicted
from model_training.forest_onnx import build, raw_baseline, require_agreement
from model_training.gate import Verdict
from model_training.labels import Exclusion, Labels, label
from model_training.leakage import require_judged_at_discharge, require_no_leak
from model_training.promotion import FORCED_TAG, GATE_TAG, hold_out, judged, place
from model_training.report import DataFacts, ModelFacts, Part, PartitionRead, Report, as_html, as_json
from model_training.search import Tried
from model_training.splitting import Split, require_enough, split_by_patient_and_time
from model_training.training import Fitted, fit
from schemas.drift import reference
from schemas.errors import ConfigurationError
from schemas.features import FEATURE_NAMES, FEATURE_SET
from schemas.model import ModelCard

# What the model card says of the data where nobody says more.
_NO_NOTE = "Nothing is said of whether these are real patients."


class Step(StrEnum):
    """What the job is at."""

    READ = "reading the feature topics"
    LABEL = "labelling stays"
    FIT = "fitting the forest"
    CHECK = "checking the model file"
    EVALUATE = "evaluating the model"
    REGISTER = "registering the model"


OnProgress = Callable[[Step, float], None]
Read = Callable[[Settings, Callable[[float], None]], Snapshot]


@dataclass(frozen=True, slots=True)
class Options:
    """How to train.

    force: let the model become champion whatever the gate says. note: what its card is to say of the data.
    """

    backend: Backend = Backend.THREADS
    force: bool = False
    note: str = _NO_NOTE


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What came of a training run.

    encounters: read; excluded: of them, by reason; dropped_stays: those the split left out; fit_stays,
    calibrate_stays: in those parts; evaluation: on the test part. onnx_difference: the model file's largest difference
    from the forest there. search: the shapes of trees that were tried. alias: what the version was given; verdict: why.
    report: the folder with the report. seconds: the whole run.
    """

    model_name: str
    version: str
    alias: str
    digest: str
    verdict: Verdict
    forced: bool
    encounters: int
    excluded: Mapping[Exclusion, int]
    dropped_stays: int
    fit_stays: int
    calibrate_stays: int
    evaluation: Evaluation
    onnx_difference: float
    search: tuple[Tried, ...]
    report: str
    seconds: float


@dataclass(frozen=True, slots=True)
class _Data:
    snapshot: Snapshot
    labels: Labels
    stays: Dataset
    split: Split


@dataclass(frozen=True, slots=True)
class _Trained:
    fitted: Fitted
    onnx_file: bytes
    model: OnnxModel
    onnx_difference: float


@dataclass(frozen=True, slots=True)
class _Measured:
    groups: tuple[Group, ...]
    importance: tuple[Importance, ...]
    baselines: tuple[Baseline, ...]
    verdict: Verdict

    @property
    def evaluation(self) -> Evaluation:
        assessment = self.groups[0].assessment
        assert assessment is not None  # the split has enough of each outcome
        return assessment.evaluation


def train(
    settings: Settings,
    seed: int,
    on_progress: OnProgress = lambda *_: None,
    read: Read = read_snapshot,
    options: Options = Options(),
) -> TrainingResult:
    """Train on the feature topics as they are now, register the model with its report, and give it its alias.

    `on_progress` is told each step and the share of it that is done, 0 to 1. Raises NotEnoughStaysError, LeakageError,
    ModelRefusedError where the file fails its check, UnavailableError where Kafka or a registry does not answer.
    """
    started = time.monotonic()
    data = _data(read(settings, lambda share: on_progress(Step.READ, share)), seed, on_progress)
    trained = _trained(settings, data, seed, options, on_progress)
    on_progress(Step.EVALUATE, 0.0)
    measured = _measured(settings, data, trained, seed)
    report = _report(settings, data, trained, measured, seed, options)
    on_progress(Step.REGISTER, 0.0)
    documents = {"report.html": as_html(report), "report.json": as_json(report)}
    model = register(settings, _candidate(data, trained, measured, report, documents, options))
    folder = _write(settings.data_dir / "reports" / f"{model.name}-v{model.version}", documents)
    alias = place(settings, model.version, measured.verdict, force=options.force)
    on_progress(Step.REGISTER, 1.0)
    return TrainingResult(
        model_name=model.name,
        version=model.version,
        alias=alias,
        digest=model.digest,
        verdict=measured.verdict,
        forced=options.force,
        encounters=len(data.snapshot.table),
        excluded=data.labels.excluded,
        dropped_stays=data.split.dropped,
        fit_stays=len(data.split.fit),
        calibrate_stays=len(data.split.calibrate),
        evaluation=measured.evaluation,
        onnx_difference=trained.onnx_difference,
        search=trained.fitted.search,
        report=str(folder),
        seconds=time.monotonic() - started,
    )


def _data(snapshot: Snapshot, seed: int, on_progress: OnProgress) -> _Data:
    on_progress(Step.LABEL, 0.0)
    labels = label(snapshot.table)
    require_judged_at_discharge(snapshot.table, labels)
    stays = assemble(snapshot.table, labels)
    split = split_by_patient_and_time(stays, seed)
    require_enough(split)
    require_no_leak(split)
    return _Data(snapshot, labels, stays, split)


def _trained(settings: Settings, data: _Data, seed: int, options: Options, on_progress: OnProgress) -> _Trained:
    on_progress(Step.FIT, 0.0)
    with fitting_on(options.backend, settings.dask_scheduler_address):
        fitted = fit(data.split, seed, settings.train_search_budget_s)
    onnx_file = build(fitted.forest, _card(fitted, data.stays))
    on_progress(Step.CHECK, 0.0)
    model = from_bytes(onnx_file, name=settings.model_name, version="candidate")
    return _Trained(fitted, onnx_file, model, require_agreement(model, fitted.forest, data.split.test.rows))


def _measured(settings: Settings, data: _Data, trained: _Trained, seed: int) -> _Measured:
    held_out = hold_out(trained.model, data.split.test, data.stays)
    groups = assess(held_out, trained.fitted.thresholds, seed)
    return _Measured(
        groups=groups,
        importance=importance(held_out, lambda rows: predicted(trained.model, rows), seed),
        baselines=baselines(data.split, seed),
        verdict=judged(settings, groups, trained.fitted.calibration, data.snapshot.ends, data.split.test, seed),
    )


def _card(fitted: Fitted, stays: Dataset) -> ModelCard:
    return ModelCard(
        feature_names=FEATURE_NAMES,
        feature_set=FEATURE_SET,
        raw_baseline=raw_baseline(fitted.forest),
        calibration=fitted.calibration,
        thresholds=fitted.thresholds,
        reference=reference(stays.rows, stays.institutions),
    )


def _report(
    settings: Settings, data: _Data, trained: _Trained, measured: _Measured, seed: int, options: Options
) -> Report:
    fitted, split = trained.fitted, data.split
    return Report(
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        model=ModelFacts(
            name=settings.model_name,
            digest=trained.model.digest,
            feature_set=FEATURE_SET,
            features=FEATURE_NAMES,
            calibration=type(fitted.calibration).__name__.lower(),
            threshold_medium=fitted.thresholds.medium,
            threshold_high=fitted.thresholds.high,
            onnx_difference=trained.onnx_difference,
        ),
        data=DataFacts(
            snapshot=data.snapshot.digest,
            ends=tuple(PartitionRead(**asdict(end)) for end in data.snapshot.ends),
            encounters=len(data.snapshot.table),
            excluded={str(reason): count for reason, count in data.labels.excluded.items()},
            note=options.note,
        ),
        parts=tuple(
            _part(name, part)
            for name, part in (("fit", split.fit), ("calibrate", split.calibrate), ("test", split.test))
        ),
        parameters=_parameters(data, fitted, seed, options),
        search=tuple(asdict(one.shape) | {"auroc": one.auroc} for one in fitted.search),
        baselines=measured.baselines,
        groups=measured.groups,
        importance=measured.importance,
        verdict=measured.verdict,
        environment=environment(),
    )


def _part(name: str, part: Dataset) -> Part:
    first, last = part.discharged_at.min(), part.discharged_at.max()
    readmissions, persons = int(part.readmitted.sum()), len(set(part.persons.tolist()))
    return Part(name, len(part), readmissions, persons, f"{first}Z", f"{last}Z")


def _candidate(
    data: _Data, trained: _Trained, measured: _Measured, report: Report, documents: Mapping[str, str], options: Options
) -> Candidate:
    passed = {GATE_TAG: "passed" if measured.verdict.passed else " ".join(measured.verdict.reasons)}
    return Candidate(
        onnx=trained.onnx_file,
        parameters={**report.parameters, **{f"installed_{name}": text for name, text in report.environment.items()}},
        metrics=measured.evaluation.metrics() | {"onnx_difference": trained.onnx_difference},
        snapshot=data.snapshot.ends,
        description=_description(data.split, measured.evaluation),
        documents=documents,
        tags=passed | ({FORCED_TAG: "true"} if options.force and not measured.verdict.passed else {}),
    )


def _parameters(data: _Data, fitted: Fitted, seed: int, options: Options) -> dict[str, str | int | float]:
    split = data.split
    return {
        **fitted.parameters,
        "backend": str(options.backend),
        "seed": seed,
        "feature_set": FEATURE_SET,
        "snapshot": data.snapshot.digest,
        "snapshot_content": data.snapshot.content,
        "split_at": str(split.at),
        "dropped_stays": split.dropped,
        "fit_stays": len(split.fit),
        "calibrate_stays": len(split.calibrate),
        "test_stays": len(split.test),
        **{f"excluded_{reason.name.lower()}": count for reason, count in data.labels.excluded.items()},
    }


def _description(split: Split, evaluation: Evaluation) -> str:
    return (
        f"30-day readmission, random forest on {len(split.fit)} stays, calibrated on {len(split.calibrate)}. "
        f"On {evaluation.stays} stays of other patients: AUROC {evaluation.auroc:.3f}, Brier {evaluation.brier:.3f}, "
        f"prevalence {evaluation.prevalence:.3f}."
    )


def _write(folder: Path, documents: Mapping[str, str]) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in documents.items():
            (folder / name).write_text(text, "utf-8")
    except OSError as error:
        raise ConfigurationError(f"DATA_DIR: {folder} cannot be written: {error.strerror}.") from None
    return folder
