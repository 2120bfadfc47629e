"""Three institutions of different sizes and risks: together they learn as much as if all rows lay in one place."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score

from model_training.federation.coordinator import (
    ALL,
    Measured,
    allotted,
    calibrate,
    measured,
    merge,
    probe_rows,
)
from model_training.federation.exchange import (
    ALONE,
    FEDERATED,
    FEWEST,
    POOLED,
    ForestRecord,
    MergedForest,
    Scores,
    SiteForest,
    SiteScores,
    scores_of,
    to_forest,
    to_json,
    tree_record,
)
from model_training.federation.kept import joined
from model_training.federation.site import fit_site, require_no_small_node, score_site
from model_training.forests import as_forest
from model_training.search import SHAPES, TreeShape, fit_forest
from model_training.splitting import Split
from schemas.errors import ConfigurationError, NotEnoughStaysError
from schemas.model import Calibration, Isotonic, Sigmoid
from tests.unit.model_training.datasets import dataset, dealt


@dataclass(frozen=True)
class Federation:
    splits: dict[str, Split]
    sites: list[SiteForest]
    merged: MergedForest
    scores: list[SiteScores]
    calibration: Calibration
    rows: dict[tuple[str, str], Measured]


@pytest.fixture(scope="module")
def federation() -> Federation:
    of = {
        "dkfz": dataset(1, 6000, "dkfz"),
        "ukhd": dataset(2, 3000, "ukhd", -3.0),
        "embl": dataset(3, 1500, "embl", -4),
    }
    splits = {institution: dealt(whole, 1) for institution, whole in of.items()}
    sites = [fit_site(split, institution, "0" * 64, 1, 0.0) for institution, split in splits.items()]
    pooled = as_forest(fit_forest(joined([split.fit for split in splits.values()]), SHAPES[0], 1))
    record = ForestRecord(tuple(tree_record(tree) for tree in pooled.trees), tuple(pooled.weights.tolist()))
    merged = MergedForest(made_of={}, snapshots={}, forests={FEDERATED: merge(sites), POOLED: record})
    scores = [score_site(splits[site.institution], site, merged, "0" * 64) for site in sites]
    rows = {(row.forest, row.institution): row for row in measured(scores)}
    return Federation(
        splits, sites, merged, scores, calibrate([one.scores[FEDERATED].calibrate for one in scores]), rows
    )


def test_the_federated_forest_ranks_as_well_as_a_pooled_one(federation: Federation) -> None:
    rows = federation.rows
    assert set(rows) == {(f, i) for f in (FEDERATED, POOLED, ALONE) for i in ("dkfz", "ukhd", "embl", ALL)}
    assert rows[FEDERATED, ALL].auroc >= rows[POOLED, ALL].auroc - 0.01
    assert rows[FEDERATED, ALL].brier <= rows[POOLED, ALL].brier + 0.002
    # The small hospital gains what it could not learn alone.
    assert rows[FEDERATED, "embl"].auroc > rows[ALONE, "embl"].auroc
    stays = [rows[FEDERATED, institution].stays for institution in federation.splits]
    assert sum(stays) == rows[FEDERATED, ALL].stays == sum(len(split.test) for split in federation.splits.values())


def test_what_is_measured_from_cells_is_what_rows_would_say(federation: Federation) -> None:
    forest = to_forest(federation.merged.forests[FEDERATED])
    whole = joined([split.test for split in federation.splits.values()])
    probability = federation.calibration(forest.probability(whole.rows))
    row = federation.rows[FEDERATED, ALL]
    assert row.readmissions == int(whole.readmitted.sum())
    assert row.auroc == pytest.approx(roc_auc_score(whole.readmitted, probability), abs=0.002)
    assert row.brier == pytest.approx(brier_score_loss(whole.readmitted, probability), abs=0.0005)
    assert probability.mean() == pytest.approx(whole.prevalence, abs=0.02)


def test_a_site_hands_over_trees_and_cells_and_nothing_else(federation: Federation) -> None:
    site, scores = (json.loads(to_json(one)) for one in (federation.sites[0], federation.scores[0]))
    assert set(site) == {"type", "institution", "feature_set", "feature_names", "snapshot", "fit_stays", "trees"}
    assert all(set(tree) == {"feature", "threshold", "left", "right", "probability"} for tree in site["trees"])
    assert site["fit_stays"] % 10 == 0
    assert set(scores) == {"type", "institution", "merged", "scores"}
    parts = [part for forest in scores["scores"].values() for part in forest.values()]
    assert len(parts) == 6
    cells = [cell for part in parts for outcome in ("readmitted", "others") for cell in part[outcome]]
    assert all(len(cell) == 2 and cell[0] >= FEWEST for cell in cells)
    assert sum(set(part) == {"readmitted", "others"} for part in parts) == len(parts)


def test_no_pseudonym_time_or_row_is_in_what_a_site_hands_over(federation: Federation) -> None:
    split = federation.splits["dkfz"]
    for record in (federation.sites[0], federation.scores[0]):
        text = to_json(record).decode()
        words = set(re.findall(r"[^\s\"\[\]{},:]+", text))
        assert not words & {person.decode() for person in split.fit.persons.tolist()}
        assert not re.search(r"\d{4}-\d\d-\d\d", text)
    own = to_forest(ForestRecord(federation.sites[0].trees, (1.0,) * 100))
    raw = {round(score, 6) for score in own.probability(split.test.rows).tolist()}
    told = {cell.score for cell in federation.scores[0].scores[ALONE].test.others}
    # Means of ten scores and more: hardly one is the score of a single stay.
    assert len(told & raw) < len(told) / 10


def test_no_node_stands_for_fewer_than_ten_stays(federation: Federation) -> None:
    split = federation.splits["embl"]
    for shape in SHAPES:
        require_no_small_node(fit_forest(split.fit, shape, 1))
    with pytest.raises(NotEnoughStaysError, match="fewer than 10"):
        require_no_small_node(fit_forest(split.fit, TreeShape(10, 9), 1))


def test_trees_are_merged_in_proportion_to_stays(federation: Federation) -> None:
    merged = federation.merged.forests[FEDERATED]
    stays = np.array([site.fit_stays for site in sorted(federation.sites, key=lambda site: site.institution)])
    count = allotted(stays / stays.sum(), 100)
    assert len(merged.trees) == sum(count) == 100
    shares = [sum(part) for part in np.split(np.array(merged.weights), np.cumsum(count)[:-1])]
    assert shares == pytest.approx(stays / stays.sum())
    assert merge(federation.sites[::-1]) == merged
    with pytest.raises(ConfigurationError, match="same institution"):
        merge([federation.sites[0], federation.sites[0]])


@given(st.lists(st.integers(20, 10**7), min_size=1, max_size=30))
def test_a_hundred_trees_are_dealt_out_and_everybody_has_one(stays: list[int]) -> None:
    share = np.array(stays) / sum(stays)
    count = allotted(share, 100)
    assert min(count) >= 1
    assert all(abs(number - 100 * part) <= 1 for number, part in zip(count, share, strict=True))


def test_curves_are_told_from_sigmoids_by_cells_alone() -> None:
    rng = np.random.default_rng(1)

    def sites(risk: np.ndarray[tuple[int], np.dtype[np.float64]]) -> list[Scores]:
        readmitted = rng.random(len(raw)) < risk
        return [scores_of(raw[number::3], readmitted[number::3]) for number in range(3)]

    raw = rng.uniform(0, 1, 30_000)
    straight = calibrate(sites(1 / (1 + np.exp(-(4 * raw - 3)))))
    assert isinstance(straight, Sigmoid)
    assert (straight.slope, straight.intercept) == pytest.approx((4, -3), abs=0.2)
    bent = np.where(raw < 0.5, 0.1, 0.1 + 0.6 * (raw - 0.5))
    curve = calibrate(sites(bent))
    assert isinstance(curve, Isotonic)
    assert np.abs(curve(raw) - bent).mean() < 0.01
    assert calibrate(sites(1 - raw)) == Sigmoid(0.0, pytest.approx(0.0, abs=0.05))  # type: ignore[arg-type]


def test_probes_lie_on_the_thresholds_and_right_beside_them(federation: Federation) -> None:
    forest = to_forest(federation.merged.forests[FEDERATED])
    rows = probe_rows(forest, 3000, 1)
    thresholds = np.concatenate([tree.threshold[(tree.feature == 7) & (tree.left >= 0)] for tree in forest.trees])
    exact = np.unique(np.append(thresholds, 0).astype(np.float32))
    beside = np.concatenate([exact, np.nextafter(exact, np.float32(np.inf)), np.nextafter(exact, np.float32(-np.inf))])
    assert np.isin(rows[:, 7], beside).all()
    assert np.isin(exact, rows[:, 7]).mean() > 0.5
    assert len(np.unique(forest.probability(rows))) > 1000
