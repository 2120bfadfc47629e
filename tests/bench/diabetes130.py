"""Run the whole pipeline on the Diabetes 130 file, on a local stack of its own, and compare it with the file itself.

python -m tests.bench.diabetes130 FILE [SHARE]

Publish, stream, train on the compacted topics, score the held-out stays with a worker. Beside that: does every number
of the file come out as a feature and every outcome as a label, and does a forest fitted on the file's own columns do
better? SHARE, 1 by default, is how much of the file is taken, from its earliest stays on.
Writes `.local/diabetes130.json`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

from connectors.datasets.diabetes130 import Stay, read_stays, stay_events
from connectors.feature_topics import read_snapshot
from connectors.settings import Settings, load_settings
from healthalliance import local_stack
from healthalliance.demo import fresh_stack
from healthalliance.progress import fetch, wait_until_applied
from healthalliance.publishing import publish_events
from healthalliance.workers import WorkerOptions, WorkerProcesses
from model_training.calibrating import calibrate
from model_training.dataset import Dataset, assemble
from model_training.evaluation import Evaluation, evaluate
from model_training.job import train
from model_training.labels import label
from model_training.search import TreeShape, best, fit_forest, raw_probability
from model_training.splitting import split_by_patient_and_time
from schemas.model import Floats
from schemas.pseudonyms import institution_keys
from tests.bench.diabetes130_rows import columns_of, compared, places_in

_SEED = 1
_OTHER_SEEDS = range(2, 12)
# Pseudonyms decide who is held out: with a key of its own, each run would have other figures.
_KEY = "the benchmark's key hides nobody, for the file is public"
_TRAINED_AT, _SCORED_AT = "dkfz", "ukhd"
_SETTLE_S = 2.0  # after it, all that was applied is published too
_PATIENCE_S = 300.0
_REPORT = Path(".local/diabetes130.json")

_T = TypeVar("_T")

out = Console()


def run(path: Path, share: float) -> dict[str, Any]:
    """Measure everything in one run, on one stack."""
    stays = read_stays(path)
    stays = stays[: round(share * len(stays))]
    seconds: dict[str, float] = {}
    settings = local_stack.apart(load_settings(), Path(".local/diabetes130"))
    settings = settings.model_copy(update={"pseudonym_key": SecretStr(_KEY)})
    with fresh_stack(settings, lambda text: out.print(text, highlight=False)) as running:
        events = _timed(seconds, "publish", lambda: publish_events(running, _TRAINED_AT, stay_events(stays)))
        _timed(seconds, "stream", lambda: _work_off(running, history_only=True))
        result = _timed(seconds, "train", lambda: train(running, _SEED))
        table = read_snapshot(running).table
        labels = label(table)
        places = places_in(table, stays, institution_keys(_KEY, _TRAINED_AT))
        pipeline = assemble(table, labels)
        held_out, readmitted = _held_out(pipeline, places[labels.rows])
        probability = _timed(seconds, "score", lambda: _scored(running, [stays[place] for place in held_out]))
    shape = best(result.search)
    columns = replace(pipeline, rows=_float32([columns_of(stays[place]) for place in places[labels.rows]]))
    return {
        "rows": len(stays),
        "events": events,
        "seconds": seconds | {"all": sum(seconds.values())},
        "compared": asdict(compared(table, labels, stays, places)),
        "excluded": labels.excluded,
        "stays": {"fit": result.fit_stays, "calibrate": result.calibrate_stays, "dropped": result.dropped_stays},
        "shape": asdict(shape),
        "training": asdict(result.evaluation),
        "worker": asdict(evaluate(probability, readmitted)),
        "direct_auroc": _direct_auroc(columns, shape),
        "other_seeds": [asdict(_evaluated(pipeline, seed, shape)) for seed in _OTHER_SEEDS],
    }


def _timed(seconds: dict[str, float], step: str, take: Callable[[], _T]) -> _T:
    out.print(step)
    started = time.monotonic()
    taken = take()
    seconds[step] = round(time.monotonic() - started, 1)
    return taken


def _work_off(settings: Settings, *, history_only: bool) -> None:
    log = settings.data_dir / "logs" / "worker.log"
    with WorkerProcesses(settings, WorkerOptions(1, history_only, log)):
        wait_until_applied(settings, _PATIENCE_S)
        time.sleep(_SETTLE_S)


def _held_out(dataset: Dataset, places: NDArray[np.int64]) -> tuple[list[int], NDArray[np.bool_]]:
    """Return which stays of the file the test part holds, and their labels; `places` of the dataset's rows."""
    test = split_by_patient_and_time(replace(dataset, rows=_float32(places[:, None])), _SEED).test
    return test.rows[:, 0].astype(np.int64).tolist(), test.readmitted


def _float32(rows: object) -> NDArray[np.float32]:
    # The file's ids are not among them, and its numbers are small: exact.
    return np.array(rows, dtype=np.float32)


def _scored(settings: Settings, stays: Sequence[Stay]) -> Floats:
    """Let a worker with the champion meet stays at an institution that never heard of them; return its scores."""
    publish_events(settings, _SCORED_AT, stay_events(stays))
    _work_off(settings, history_only=False)
    rows = fetch(settings, _SCORES, _SCORED_AT)
    probability = {str(row["encounter_pseudonym"]): row["probability"] for row in rows}
    keys = institution_keys(_KEY, _SCORED_AT)
    return np.array([probability[keys.encounter_pseudonym(stay.encounter_id)] for stay in stays], dtype=np.float64)


def _direct_auroc(columns: Dataset, shape: TreeShape) -> float:
    """Fit scikit-learn's forest on the file's columns: the same parameters, rows and split, nothing else of ours."""
    split = split_by_patient_and_time(columns, _SEED)
    forest = RandomForestClassifier(100, class_weight="balanced", **asdict(shape), random_state=_SEED, n_jobs=-1)
    forest.fit(split.fit.rows, split.fit.readmitted)
    return float(roc_auc_score(split.test.readmitted, forest.predict_proba(split.test.rows)[:, 1]))


def _evaluated(dataset: Dataset, seed: int, shape: TreeShape) -> Evaluation:
    """Measure with other persons held out: how much of the figures is the draw."""
    split = split_by_patient_and_time(dataset, seed)
    forest = fit_forest(split.fit, shape, seed)
    calibration = calibrate(raw_probability(forest, split.calibrate.rows), split.calibrate, seed)
    return evaluate(calibration(raw_probability(forest, split.test.rows)), split.test.readmitted)


_SCORES = """
SELECT encounter_pseudonym, probability FROM risk_scores
WHERE institution = $1 AND superseded_by IS NULL AND status <> 'entered-in-error'
"""


def show(report: dict[str, Any]) -> None:
    """Print the figures beside their targets."""
    found, measured, worker = report["compared"], report["training"], report["worker"]
    table = Table("figure", "measured", "target", title=f"Diabetes 130, {report['rows']:,} rows")
    for step, seconds in report["seconds"].items():
        table.add_row(f"seconds: {step}", f"{seconds:.0f}", "")
    table.add_row("rows that differ in a feature", str(sum(found["features"].values()) + found["missing"]), "0")
    unequal = found["labels_different"] + found["labels_lacking"] + found["others_labelled"]
    table.add_row(f"labels that differ, of {found['eligible']:,} rows", str(unequal), "0")
    table.add_row("held-out stays, prevalence", f"{measured['stays']:,}, {measured['prevalence']:.3f}", "")
    table.add_row("AUROC", f"{measured['auroc']:.4f}", "≥ 0.62")
    table.add_row("Brier", f"{measured['brier']:.4f}", "≤ 0.098")
    table.add_row("calibration slope", f"{measured['calibration_slope']:.3f}", "0.9 to 1.1")
    table.add_row("AUROC of what a worker stored", f"{worker['auroc']:.4f}", "the same")
    lost = report["direct_auroc"] - measured["auroc"]
    table.add_row("AUROC of a direct forest, lost", f"{report['direct_auroc']:.4f}, {lost:.4f}", "≤ 0.01")
    for name in ("auroc", "brier", "calibration_slope"):
        values = [one[name] for one in report["other_seeds"]]
        text = f"{np.mean(values):.3f}, {min(values):.3f} to {max(values):.3f}"
        table.add_row(f"{name}, {len(values)} other splits", text, "")
    out.print(table)


if __name__ == "__main__":
    result = run(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 1.0)
    _REPORT.write_text(json.dumps(result, indent=2), "utf-8")
    show(result)
    out.print(f"Written to {_REPORT}.")
