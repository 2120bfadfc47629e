"""From a training run to an alias: the gate with a real registry, and what may pass it over."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from connectors.feature_topics import Snapshot
from connectors.models import champion_version
from connectors.models.versions import CHALLENGER, Moved, find_version, make_champion
from connectors.settings import Settings
from model_training.job import Options, TrainingResult, train
from model_training.promotion import compare, place_unmeasured, promote
from schemas.errors import NoModelError, PromotionRefusedError
from schemas.features import FEATURE_NAMES
from schemas.model import Sigmoid
from tests.unit.model_training.stays import simulated, snapshot

STEEP, FLAT = Sigmoid(5.0, -3.0), Sigmoid(0.0, -2.0)
WHOLE = snapshot(simulated(1, 3000))


def without_meaning(whole: Snapshot) -> Snapshot:
    """Deal the features out anew among the encounters: nothing can be learned from them."""
    table, order = whole.table, np.random.default_rng(1).permutation(len(whole.table))
    for name in FEATURE_NAMES:
        position = table.schema.get_field_index(name)
        table = table.set_column(position, table.schema.field(position), table.column(name).take(order))
    return replace(whole, table=table)


NOISE = without_meaning(WHOLE)
FLAT_SEED = 22  # parts the noise so that the forest ranks worse than chance


def run(settings: Settings, seed: int, read: Snapshot = WHOLE, *, force: bool = False) -> TrainingResult:
    return train(settings, seed, read=lambda *_: read, options=Options(force=force, note="Made up."))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("promotion")
    return Settings(
        _env_file=None,
        data_dir=folder,
        mlflow_tracking_uri=f"sqlite:///{folder}/mlflow.db",
        train_search_budget_s=0,
    )


@pytest.fixture(scope="module")
def first(settings: Settings) -> TrainingResult:
    return run(settings, 1)


@pytest.fixture(scope="module")
def noise(settings: Settings, first: TrainingResult) -> TrainingResult:
    return run(settings, 1, NOISE)


@pytest.fixture(autouse=True)
def first_scores(settings: Settings, first: TrainingResult) -> None:
    make_champion(settings, first.version)


def test_a_first_model_becomes_champion_compared_with_nothing(first: TrainingResult) -> None:
    assert (first.alias, first.verdict.reasons, first.verdict.compared_with) == ("champion", (), None)


def test_the_report_lies_in_the_data_folder_and_with_the_run(settings: Settings, first: TrainingResult) -> None:
    from mlflow.tracking import MlflowClient

    folder = settings.data_dir / "reports" / "readmission-risk-v1"
    assert first.report == str(folder)
    client = MlflowClient(settings.mlflow_tracking_uri)
    run_id = client.get_model_version("readmission-risk", first.version).run_id
    assert run_id is not None
    for name in ("report.html", "report.json"):
        assert Path(client.download_artifacts(run_id, name)).read_text() == (folder / name).read_text()
    document = json.loads((folder / "report.json").read_text())
    assert document["data"]["note"] == "Made up."
    assert document["groups"][0]["assessment"]["evaluation"]["auroc"] == first.evaluation.auroc
    assert [one["name"] for one in document["baselines"]]
    requirements = Path(client.download_artifacts(run_id, "requirements.txt")).read_text()
    assert f"numpy=={np.__version__}\n" in requirements
    saved = {one.path for one in client.list_artifacts(run_id, "model")}
    assert {"model/model.onnx", "model/input_example.json", "model/requirements.txt"} <= saved


def test_a_model_that_has_learned_nothing_becomes_challenger_and_the_champion_stays(
    settings: Settings, noise: TrainingResult
) -> None:
    assert noise.alias == CHALLENGER
    assert noise.verdict.compared_with == "1"
    assert any("calibration slope" in reason for reason in noise.verdict.reasons)
    assert champion_version(settings) == "1"
    assert find_version(settings, CHALLENGER).version == noise.version
    assert find_version(settings, CHALLENGER).tags["gate"] == " ".join(noise.verdict.reasons)


def test_a_first_model_that_gives_everybody_the_same_probability_is_held_back(settings: Settings) -> None:
    nobody = settings.model_copy(update={"model_alias": "of-nobody"})
    flat = run(nobody, FLAT_SEED, NOISE)
    assert (flat.alias, flat.verdict.compared_with) == (CHALLENGER, None)
    assert "the same probability" in flat.verdict.reasons[-1]
    assert champion_version(nobody) is None


def test_force_passes_over_the_gate_and_says_so(settings: Settings) -> None:
    forced = run(settings, 1, NOISE, force=True)
    assert forced.verdict.reasons
    assert champion_version(settings) == forced.version
    assert find_version(settings, forced.version).tags["forced"] == "true"


def test_a_run_for_the_challenger_never_moves_the_champion(settings: Settings) -> None:
    ready = run(settings.model_copy(update={"model_alias": CHALLENGER}), 2)
    assert (ready.alias, ready.verdict.compared_with) == (CHALLENGER, "1")
    assert champion_version(settings) == "1"


def test_a_version_is_promoted_by_the_gate_on_the_stays_of_now(settings: Settings, noise: TrainingResult) -> None:
    with pytest.raises(PromotionRefusedError, match=f"Version {noise.version} is held back: Its AUROC") as caught:
        promote(settings, noise.version, force=False, read=lambda *_: WHOLE)
    assert "champion version 1" in str(caught.value)
    assert champion_version(settings) == "1"
    assert promote(settings, noise.version, force=True).moved == Moved("1", noise.version)
    assert promote(settings, "1", force=False, read=lambda *_: WHOLE).moved == Moved(noise.version, "1")


def test_a_version_that_cannot_be_measured_beside_the_champion_is_champion_only_where_there_is_none(
    settings: Settings, noise: TrainingResult
) -> None:
    assert place_unmeasured(settings, noise.version, STEEP) == CHALLENGER
    assert champion_version(settings) == "1"
    other = settings.model_copy(update={"model_alias": "elsewhere"})
    assert place_unmeasured(other, noise.version, FLAT) == CHALLENGER
    assert place_unmeasured(other, noise.version, STEEP) == "elsewhere"
    assert champion_version(other) == noise.version


def test_an_unknown_version_is_refused_before_anything_is_read(settings: Settings) -> None:
    for wanted in ("99", "nobody"):
        with pytest.raises(NoModelError, match=wanted):
            promote(settings, wanted, force=False)


def test_two_versions_are_compared_on_the_same_stays(settings: Settings, noise: TrainingResult) -> None:
    found = compare(settings, "champion", noise.version, read=lambda *_: WHOLE)
    assert (found.first, found.second) == ("1", noise.version)
    assert found.difference.auroc.value == pytest.approx(found.second_evaluation.auroc - found.first_evaluation.auroc)
    assert found.difference.auroc.interval.high < 0 < found.difference.brier.interval.low
    assert found.remarks == ()
