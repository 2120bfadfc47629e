"""Write a trained model into the MLflow registry."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from connectors.models.champion import DIGEST_TAG, FILE_NAME, sqlite_path
from connectors.models.environment import environment, requirements
from connectors.models.mlflow_quietly import open_store
from connectors.models.onnx_file import OnnxModel, from_bytes
from connectors.models.signing import SIGNATURE_TAG, signature
from connectors.partition_ends import PartitionEnd
from connectors.settings import Settings
from schemas.features import FEATURE_NAMES
from schemas.model import OUTPUT_NAME

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SNAPSHOT_FILE = "snapshot.json"

_TO_SCORE = ("numpy", "onnx", "onnxruntime")

_FOLDER = "model"

# Somebody made up: an example must not be a patient's.
_EXAMPLE = {
    "age_years": 71.0,
    "gender_encoded": 0.0,
    "num_conditions": 4.0,
    "num_medications": 6.0,
    "recent_encounters": 3.0,
    "prior_inpatient_stays_365d": 1.0,
    "prior_emergency_visits_180d": 1.0,
    "length_of_stay_days": 5.0,
    "emergency_admission": 1.0,
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trained model and what is to be known of it.

    onnx: the file (`schemas.model`). parameters, metrics, tags: as MLflow shows them; tags are the version's too.
    snapshot: what it was trained on. documents: texts to keep beside it, by file name.
    """

    onnx: bytes
    parameters: Mapping[str, str | int | float]
    metrics: Mapping[str, float]
    snapshot: Sequence[PartitionEnd]
    description: str
    documents: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


def register(settings: Settings, candidate: Candidate) -> OnnxModel:
    """Log a candidate and register it as a new version of `model_name`; return it as it would be loaded.

    It is signed where there is a `MODEL_SIGNING_KEY`. The alias stays where it is. Raises ModelRefusedError for a file
    that workers would refuse, UnavailableError where the registry does not take it.
    """
    checked = from_bytes(candidate.onnx, name=settings.model_name, version="new")
    given = signature(settings, checked.digest)
    signed = {SIGNATURE_TAG: given} if given else {}
    with open_store(settings) as mlflow, _run(mlflow, settings) as run:
        _log(mlflow, run.info.run_id, candidate, checked)
        _ensure_registered_model(mlflow, settings.model_name)
        registered = mlflow.create_model_version(
            settings.model_name,
            source=f"{run.info.artifact_uri}/{_FOLDER}",
            run_id=run.info.run_id,
            tags={DIGEST_TAG: checked.digest, **signed, **candidate.tags},
            description=candidate.description,
        )
    registered_at = registered.creation_timestamp / 1000
    return OnnxModel(
        checked.name, str(registered.version), checked.digest, checked.card, checked.session, registered_at
    )


@contextmanager
def _run(mlflow: MlflowClient, settings: Settings) -> Iterator[Any]:
    run = mlflow.create_run(_experiment(mlflow, settings))
    try:
        yield run
    except BaseException:
        mlflow.set_terminated(run.info.run_id, "FAILED")
        raise
    mlflow.set_terminated(run.info.run_id)


def _experiment(mlflow: MlflowClient, settings: Settings) -> str:
    present = mlflow.get_experiment_by_name(settings.model_name)
    if present is not None:
        return str(present.experiment_id)
    uri = settings.mlflow_tracking_uri
    # Without a server MLflow would put the files below the working directory.
    beside = (sqlite_path(uri).resolve().parent / "artifacts").as_uri() if uri.startswith("sqlite:///") else None
    return str(mlflow.create_experiment(settings.model_name, artifact_location=beside))


def _ensure_registered_model(mlflow: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        mlflow.get_registered_model(name)
    except MlflowException:
        mlflow.create_registered_model(name)


def _log(mlflow: MlflowClient, run_id: str, candidate: Candidate, checked: OnnxModel) -> None:
    for name, parameter in candidate.parameters.items():
        mlflow.log_param(run_id, name, parameter)
    for name, metric in candidate.metrics.items():
        mlflow.log_metric(run_id, name, metric)
    for name, tag in {DIGEST_TAG: checked.digest, **candidate.tags}.items():
        mlflow.set_tag(run_id, name, tag)
    mlflow.log_dict(run_id, {"ends": [asdict(end) for end in candidate.snapshot]}, SNAPSHOT_FILE)
    mlflow.log_dict(run_id, msgspec.to_builtins(checked.card), "model_card.json")
    for name, text in {"requirements.txt": requirements(), **candidate.documents}.items():
        mlflow.log_text(run_id, text, name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / _FOLDER
        _save(candidate.onnx, path)
        mlflow.log_artifacts(run_id, str(path), _FOLDER)


def _save(onnx_file: bytes, path: Path) -> None:
    """Write the folder that MLflow calls a model; the ONNX file stays as it is, byte by byte."""
    import mlflow.onnx
    import onnx
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema, TensorSpec

    features = Schema([ColSpec("float", name) for name in FEATURE_NAMES])
    contributions = Schema([TensorSpec(np.dtype(np.float32), (-1, len(FEATURE_NAMES)), OUTPUT_NAME)])
    mlflow.onnx.save_model(
        onnx.load_from_string(onnx_file),
        str(path),
        signature=ModelSignature(inputs=features, outputs=contributions),
        input_example=pd.DataFrame(
            [[_EXAMPLE[name] for name in FEATURE_NAMES]], columns=FEATURE_NAMES, dtype=np.float32
        ),
        pip_requirements=[f"{name}=={version}" for name, version in environment().items() if name in _TO_SCORE],
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
    )
    (path / FILE_NAME).write_bytes(onnx_file)
