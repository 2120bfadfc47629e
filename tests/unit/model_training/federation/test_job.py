from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from connectors.models import champion_version, load_champion
from connectors.settings import Settings
from model_training.federation.coordinator import ALL
from model_training.federation.exchange import FEDERATED, POOLED
from model_training.federation.job import (
    FederatedResult,
    fit_own,
    fit_pooled,
    merge_forests,
    register_federated,
    score_own,
)
from schemas.errors import ConfigurationError, NotEnoughStaysError
from schemas.features import FEATURE_NAMES
from schemas.model import explain
from tests.unit.model_training.stays import simulated, snapshot

RECORDS = {"dkfz": simulated(1, 2500, "dkfz"), "ukhd": simulated(2, 1500, "ukhd")}


class Exchange:
    """What two sites and a coordinator do with files in a folder; each site has a data folder of its own."""

    def __init__(self, folder: Path, *, on_one_machine: bool = False) -> None:
        self.folder, self.on_one_machine = folder, on_one_machine
        (folder / "mlflow").mkdir()

    def settings(self, who: str) -> Settings:
        data = self.folder / ("all" if self.on_one_machine else who)
        uri = f"sqlite:///{self.folder}/mlflow/mlflow.db"
        return Settings(_env_file=None, data_dir=data, mlflow_tracking_uri=uri, train_search_budget_s=0)

    def file(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def fit(self, institution: str, seed: int = 1) -> Path:
        data = fit_own(self.settings(institution), institution, seed, lambda _, own: snapshot(RECORDS[own]))
        return self.file(f"{institution}.forest.json", data)

    def score(self, institution: str, merged: Path) -> Path:
        return self.file(f"{institution}.scores.json", score_own(self.settings(institution), institution, merged))


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Exchange:
    return Exchange(tmp_path_factory.mktemp("federation"))


@pytest.fixture(scope="module")
def merged(exchange: Exchange) -> Path:
    return exchange.file("merged.json", merge_forests([exchange.fit(one) for one in RECORDS]))


@pytest.fixture(scope="module")
def scores(exchange: Exchange, merged: Path) -> list[Path]:
    return [exchange.score(one, merged) for one in RECORDS]


@pytest.fixture(scope="module")
def result(exchange: Exchange, merged: Path, scores: list[Path]) -> FederatedResult:
    return register_federated(exchange.settings("coordinator"), merged, scores)


def test_two_rounds_of_files_end_with_a_champion_that_scores(exchange: Exchange, result: FederatedResult) -> None:
    settings = exchange.settings("coordinator")
    model = load_champion(settings)
    assert (model.version, model.digest) == (result.version, result.digest)
    explained = explain(model, np.zeros((2, len(FEATURE_NAMES)), dtype=np.float32))
    assert ((explained.probability > 0) & (explained.probability < 1)).all()
    assert result.onnx_difference < 1e-5
    whole = next(row for row in result.measured if (row.forest, row.institution) == (FEDERATED, ALL))
    assert whole.auroc > 0.6


def test_a_site_keeps_its_rows_where_only_it_can_read_them(exchange: Exchange, merged: Path) -> None:
    folder = exchange.settings("dkfz").data_dir / "federation" / "dkfz"
    assert folder.stat().st_mode & 0o077 == 0
    assert not (exchange.settings("coordinator").data_dir / "federation").exists()
    assert not (exchange.settings("ukhd").data_dir / "federation" / "dkfz").exists()


def test_scores_of_a_missing_site_or_of_another_forest_register_nothing(
    exchange: Exchange, result: FederatedResult, merged: Path, scores: list[Path]
) -> None:
    settings = exchange.settings("coordinator")
    with pytest.raises(ConfigurationError, match="dkfz, ukhd"):
        register_federated(settings, merged, scores[:1])
    other = exchange.file("other.json", merged.read_bytes().replace(b'"probability":[0.5', b'"probability":[0.6', 1))
    with pytest.raises(ConfigurationError, match="not those of this merged forest"):
        register_federated(settings, other, scores)
    assert champion_version(settings) == result.version


def test_a_forest_that_a_site_had_no_last_part_in_is_not_scored_there(tmp_path: Path) -> None:
    again = Exchange(tmp_path)
    merged = again.file("merged.json", merge_forests([again.fit("dkfz", seed=1)]))
    again.fit("dkfz", seed=2)
    with pytest.raises(ConfigurationError, match="not made with the last forest of dkfz"):
        again.score("dkfz", merged)
    with pytest.raises(ConfigurationError, match="ukhd has handed no forest over"):
        again.score("ukhd", merged)


def test_a_pooled_forest_is_scored_beside_where_all_sites_lie_on_one_machine(tmp_path: Path) -> None:
    one = Exchange(tmp_path, on_one_machine=True)
    settings = one.settings("coordinator")
    files = [one.fit(institution) for institution in RECORDS]
    merged = one.file("merged.json", merge_forests(files, fit_pooled(settings, list(RECORDS), 1)))
    result = register_federated(settings, merged, [one.score(institution, merged) for institution in RECORDS])
    auroc = {row.forest: row.auroc for row in result.measured if row.institution == ALL}
    assert auroc[FEDERATED] == pytest.approx(auroc[POOLED], abs=0.02)


def test_an_institution_with_too_few_stays_hands_nothing_over(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    with pytest.raises(NotEnoughStaysError):
        fit_own(exchange.settings("dkfz"), "dkfz", 1, lambda *_: snapshot(RECORDS["dkfz"][:50]))
    assert not (exchange.settings("dkfz").data_dir / "federation").exists()


def test_a_file_that_is_not_there_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.json cannot be read"):
        merge_forests([tmp_path / "none.json"])
