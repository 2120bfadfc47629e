"""The registered versions: which there are, which one scores, and which ones did before.

The aliases say who scores: `MODEL_ALIAS`, by default `champion`, and `challenger`. Who scored before is kept in a tag
of the registered model, oldest first, so that a rollback can be followed by another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from connectors.models.champion import DIGEST_TAG, load_version
from connectors.models.mlflow_quietly import open_store
from connectors.models.onnx_file import OnnxModel
from connectors.models.registering import SNAPSHOT_FILE
from connectors.models.signing import SIGNATURE_TAG, signature
from connectors.partition_ends import PartitionEnd
from connectors.settings import Settings
from schemas.errors import ConfigurationError, NoModelError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

CHAMPION = "champion"
CHALLENGER = "challenger"

_FORMER = "former_champions"
_MOST_FORMER = 100  # MLflow cuts tags at 5,000 characters
_MOST_RUNS = 1000


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version; metrics and parameters are its training run's."""

    version: str
    aliases: tuple[str, ...]
    registered_at: datetime
    digest: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Moved:
    """Which version scored before, None if none did, and which one does now."""

    was: str | None
    now: str


def scoring_alias(settings: Settings) -> str:
    """Return the alias that workers score with: `MODEL_ALIAS`, or `champion` where that names the challenger."""
    return CHAMPION if settings.model_alias == CHALLENGER else settings.model_alias


def versions(settings: Settings) -> list[Version]:
    """List the registered versions, the newest first; raise UnavailableError where the registry does not answer."""
    with open_store(settings) as mlflow:
        if (aliases := _aliases(mlflow, settings)) is None:
            return []
        runs = _runs(mlflow, settings)
        found = mlflow.search_model_versions(f"name = '{settings.model_name}'")
        listed = [_version(one, aliases, runs) for one in found]
    return sorted(listed, key=lambda one: -int(one.version))


def find_version(settings: Settings, wanted: str) -> Version:
    """Return the version with a number or alias; raise NoModelError where there is none."""
    for one in versions(settings):
        if wanted == one.version or wanted in one.aliases:
            return one
    raise NoModelError(f"{settings.model_name} has no version or alias {wanted}.")


def load_found(settings: Settings, version: str) -> OnnxModel:
    """Load a version as a worker would; raise as `load_version` does."""
    with open_store(settings) as mlflow:
        one = mlflow.get_model_version(settings.model_name, version)
        location = mlflow.get_model_version_download_uri(settings.model_name, version)
    # A server's files are not this machine's, even where it calls them files.
    local = location if settings.mlflow_tracking_uri.startswith("sqlite:///") else None
    return load_version(settings, version, one.tags.get(DIGEST_TAG, ""), one.tags.get(SIGNATURE_TAG, ""), local)


def sign_version(settings: Settings, version: str) -> str:
    """Sign a registered version's digest, once its file was found to be of this digest; return the digest.

    Raises ConfigurationError without a `MODEL_SIGNING_KEY`, and what `load_version` raises.
    """
    model = load_found(settings.model_copy(update={"model_public_keys": ""}), version)
    given = signature(settings, model.digest)
    if given is None:
        raise ConfigurationError("MODEL_SIGNING_KEY must be set; `healthalliance model key` makes one.")
    with open_store(settings) as mlflow:
        mlflow.set_model_version_tag(settings.model_name, version, SIGNATURE_TAG, given)
    return model.digest


def snapshot_ends(settings: Settings, version: str) -> tuple[PartitionEnd, ...]:
    """Return how far the snapshot of a version had read each partition; nothing where it does not say."""
    with open_store(settings) as mlflow, TemporaryDirectory() as folder:
        run_id = mlflow.get_model_version(settings.model_name, version).run_id
        if not run_id or SNAPSHOT_FILE not in {one.path for one in mlflow.list_artifacts(run_id)}:
            return ()
        text = Path(mlflow.download_artifacts(run_id, SNAPSHOT_FILE, folder)).read_text("utf-8")
    return tuple(PartitionEnd(**end) for end in json.loads(text)["ends"])


def set_alias(settings: Settings, version: str, alias: str | None = None) -> None:
    """Let an alias, by default `MODEL_ALIAS`, point to a version; raise UnavailableError where it cannot be set."""
    with open_store(settings) as mlflow:
        mlflow.set_registered_model_alias(settings.model_name, alias or settings.model_alias, version)


def make_champion(settings: Settings, version: str, tags: Mapping[str, str] | None = None) -> Moved:
    """Let workers score with a version, which is no challenger any more, and remember which one they did before."""
    alias = scoring_alias(settings)
    with open_store(settings) as mlflow:
        for name, value in (tags or {}).items():
            mlflow.set_model_version_tag(settings.model_name, version, name, value)
        aliases = _aliases(mlflow, settings) or {}
        was = aliases.get(alias)
        if was not in (None, version):
            _remember(mlflow, settings, [*_former(mlflow, settings), str(was)])
        mlflow.set_registered_model_alias(settings.model_name, alias, version)
        if aliases.get(CHALLENGER) == version:
            mlflow.delete_registered_model_alias(settings.model_name, CHALLENGER)
    return Moved(was, version)


def roll_back(settings: Settings) -> Moved:
    """Let workers score with the version they scored with before the one of now; another call goes one further back.

    Raises NoModelError where none is left to go back to, ModelRefusedError where its file is not the registered one.
    """
    with open_store(settings) as mlflow:
        was = (_aliases(mlflow, settings) or {}).get(scoring_alias(settings))
        former = _former(mlflow, settings)
    while former and former[-1] == was:
        former.pop()
    if was is None or not former:
        raise NoModelError(f"{settings.model_name} has no earlier {scoring_alias(settings)} to go back to.")
    load_found(settings, former[-1])
    with open_store(settings) as mlflow:
        mlflow.set_registered_model_alias(settings.model_name, scoring_alias(settings), former[-1])
        _remember(mlflow, settings, former[:-1])
    return Moved(was, former[-1])


def _aliases(mlflow: MlflowClient, settings: Settings) -> dict[str, str] | None:
    """Return the aliases and their versions; None where there is no such model."""
    from mlflow.exceptions import MlflowException

    try:
        found = mlflow.get_registered_model(settings.model_name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return {alias: str(version) for alias, version in found.aliases.items()}


def _former(mlflow: MlflowClient, settings: Settings) -> list[str]:
    text = mlflow.get_registered_model(settings.model_name).tags.get(_FORMER, "")
    return text.split(",") if text else []


def _remember(mlflow: MlflowClient, settings: Settings, former: list[str]) -> None:
    mlflow.set_registered_model_tag(settings.model_name, _FORMER, ",".join(former[-_MOST_FORMER:]))


def _runs(mlflow: MlflowClient, settings: Settings) -> dict[str, Any]:
    experiment = mlflow.get_experiment_by_name(settings.model_name)
    found = mlflow.search_runs([experiment.experiment_id], max_results=_MOST_RUNS) if experiment else ()
    return {run.info.run_id: run.data for run in found}


def _version(one: Any, aliases: Mapping[str, str], runs: Mapping[str, Any]) -> Version:
    run = runs.get(one.run_id)
    return Version(
        version=str(one.version),
        aliases=tuple(sorted(alias for alias, version in aliases.items() if version == str(one.version))),
        registered_at=datetime.fromtimestamp(one.creation_timestamp / 1000, UTC),
        digest=one.tags.get(DIGEST_TAG, ""),
        tags=dict(one.tags),
        metrics=dict(run.metrics) if run else {},
        parameters=dict(run.params) if run else {},
    )
