from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from connectors.models import champion_version, load_champion
from connectors.settings import Settings
from model_training.job import Step, TrainingResult, train
from schemas.errors import LeakageError, NoModelError, NotEnoughStaysError
from schemas.features import FEATURE_NAMES
from schemas.messages import EncounterFeatures
from schemas.model import explain
from tests.unit.model_training.stays import simulated, snapshot

RECORDS = simulated(1, 5000)


def settings_in(folder: Path) -> Settings:
    return Settings(
        _env_file=None,
        data_dir=folder,
        mlflow_tracking_uri=f"sqlite:///{folder}/mlflow/mlflow.db",
        train_search_budget_s=0,
    )


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("job")
    (folder / "mlflow").mkdir()
    return settings_in(folder)


@pytest.fixture(scope="module")
def steps() -> list[Step]:
    return []


@pytest.fixture(scope="module")
def result(settings: Settings, steps: list[Step]) -> TrainingResult:
    return train(settings, 1, lambda step, _: steps.append(step), lambda *_: snapshot(RECORDS))


def test_a_run_ends_with_a_champion_that_scores(settings: Settings, result: TrainingResult, steps: list[Step]) -> None:
    model = load_champion(settings)
    assert (model.name, model.version, model.digest) == (settings.model_name, result.version, result.digest)
    explained = explain(model, np.zeros((2, len(FEATURE_NAMES)), dtype=np.float32))
    assert ((explained.probability > 0) & (explained.probability < 1)).all()
    assert list(dict.fromkeys(steps)) == [Step.LABEL, Step.FIT, Step.CHECK, Step.EVALUATE, Step.REGISTER]


def test_the_result_accounts_for_every_encounter(result: TrainingResult) -> None:
    stays = result.fit_stays + result.calibrate_stays + result.evaluation.stays
    assert stays + result.dropped_stays + sum(result.excluded.values()) == result.encounters == len(RECORDS)
    assert result.evaluation.auroc > 0.65
    assert result.onnx_difference < 1e-5
    assert result.seconds > 0


def test_the_registry_knows_what_the_model_was_trained_on(settings: Settings, result: TrainingResult) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(settings.mlflow_tracking_uri)
    version = client.get_model_version(result.model_name, result.version)
    assert version.run_id is not None
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["class_weight"] == "balanced"
    read = snapshot(RECORDS)
    assert (run.data.params["snapshot"], run.data.params["snapshot_content"]) == (read.digest, read.content)
    assert run.data.metrics["auroc"] == result.evaluation.auroc
    ends = json.loads(Path(client.download_artifacts(version.run_id, "snapshot.json")).read_text())["ends"]
    assert ends == [
        {
            "topic": "features.dkfz",
            "topic_id": "6f0c0b5e-0000-4000-8000-000000000001",
            "partition": 0,
            "end_offset": len(RECORDS),
        }
    ]


def test_the_same_snapshot_and_seed_give_the_same_file_as_the_next_version(
    settings: Settings, result: TrainingResult
) -> None:
    again = train(settings, 1, read=lambda *_: snapshot(RECORDS[::-1]))
    assert again.digest == result.digest
    assert int(again.version) == int(result.version) + 1
    assert champion_version(settings) == again.version


def test_too_little_history_registers_nothing(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with pytest.raises(NotEnoughStaysError):
        train(settings, 1, read=lambda *_: snapshot(RECORDS[:50]))
    with pytest.raises(NoModelError):
        load_champion(settings)


@pytest.mark.parametrize("leak", ["feature", "time"])
def test_a_feature_that_knows_the_future_registers_nothing(tmp_path: Path, leak: str) -> None:
    following = {one.encounter_pseudonym: later for one, later in pairwise(RECORDS)}

    def planted(one: EncounterFeatures) -> EncounterFeatures:
        if leak == "time":
            return replace(one, as_of=one.as_of + timedelta(seconds=1))
        later = following.get(one.encounter_pseudonym)
        is_back = later is not None and later.patient_pseudonym == one.patient_pseudonym
        return replace(one, features=replace(one.features, num_medications=7.0 if is_back else 2.0))

    settings = settings_in(tmp_path)
    with pytest.raises(LeakageError, match="num_medications alone" if leak == "feature" else "after their discharge"):
        train(settings, 1, read=lambda *_: snapshot([planted(one) for one in RECORDS]))
    with pytest.raises(NoModelError):
        load_champion(settings)
