"""The steps of a federated training: each reads files, and returns one that can be handed over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from connectors.feature_topics import Snapshot, read_snapshot
from connectors.models import Candidate, from_bytes, register
from connectors.settings import Settings
from model_training.dataset import assemble
from model_training.federation.coordinator import (
    ALL,
    Measured,
    calibrate,
    measured,
    merge,
    probe_rows,
    thresholds,
)
from model_training.federation.exchange import (
    FEDERATED,
    POOLED,
    ForestRecord,
    MergedForest,
    SiteForest,
    SiteScores,
    digest,
    from_json,
    to_forest,
    to_json,
    tree_record,
)
from model_training.federation.kept import folder_of, joined, keep, kept
from model_training.federation.site import fit_site, score_site
from model_training.forest_onnx import build, require_agreement
from model_training.forests import Forest, as_forest
from model_training.labels import label
from model_training.leakage import require_judged_at_discharge, require_no_leak
from model_training.promotion import place_unmeasured
from model_training.search import best, fit_forest, search
from model_training.splitting import require_enough, split_by_patient_and_time
from schemas.errors import ConfigurationError
from schemas.features import FEATURE_NAMES, FEATURE_SET
from schemas.model import Calibration, ModelCard, Thresholds

_PROBES = 20_000

Read = Callable[[Settings, str], Snapshot]


@dataclass(frozen=True, slots=True)
class FederatedResult:
    """What came of a federated training.

    calibration: its family. onnx_difference: the model file's largest difference from the forest, on rows made of its
    thresholds. measured: every forest at every site and in all.
    """

    model_name: str
    version: str
    alias: str
    digest: str
    calibration: str
    onnx_difference: float
    measured: tuple[Measured, ...]


def _read_own(settings: Settings, institution: str) -> Snapshot:
    return read_snapshot(settings, institution_ids=[institution])


def fit_own(settings: Settings, institution: str, seed: int, read: Read = _read_own) -> bytes:
    """Fit on the institution's own topic, keep the split for the next round, and return the file with its trees.

    Raises NotEnoughStaysError, LeakageError, UnavailableError where Kafka or the schema registry does not answer.
    """
    snapshot = read(settings, institution)
    labels = label(snapshot.table)
    require_judged_at_discharge(snapshot.table, labels)
    split = split_by_patient_and_time(assemble(snapshot.table, labels), seed)
    require_enough(split)
    require_no_leak(split)
    handed_over = to_json(fit_site(split, institution, snapshot.digest, seed, settings.train_search_budget_s))
    keep(folder_of(settings.data_dir, institution), split, handed_over)
    return handed_over


def merge_forests(files: Sequence[Path], pooled: ForestRecord | None = None) -> bytes:
    """Merge the sites' trees, and return the file that each site scores with.

    pooled: a forest to be scored beside the merged one. Raises ConfigurationError for a file that is none of a site's.
    """
    handed_over = [_bytes(path) for path in files]
    sites = [from_json(data, SiteForest, str(path)) for data, path in zip(handed_over, files, strict=True)]
    forests = {FEDERATED: merge(sites)} | ({POOLED: pooled} if pooled else {})
    made_of = {site.institution: digest(data) for site, data in zip(sites, handed_over, strict=True)}
    snapshots = {site.institution: site.snapshot for site in sites}
    return to_json(MergedForest(made_of=made_of, snapshots=snapshots, forests=forests))


def score_own(settings: Settings, institution: str, merged: Path) -> bytes:
    """Score the institution's held-out stays with the forests in a merged file, and return the file with the cells.

    Raises ConfigurationError where that file was not made with what this institution handed over last.
    """
    data = _bytes(merged)
    forests = from_json(data, MergedForest, str(merged))
    split, handed_over = kept(folder_of(settings.data_dir, institution))
    if forests.made_of.get(institution) != digest(handed_over):
        raise ConfigurationError(f"{merged} was not made with the last forest of {institution}.")
    own = from_json(handed_over, SiteForest, "The kept file")
    return to_json(score_site(split, own, forests, digest(data)))


def register_federated(settings: Settings, merged: Path, files: Sequence[Path]) -> FederatedResult:
    """Calibrate the merged forest by the sites' cells, measure it, register it; it is champion if there is none yet.

    Raises ConfigurationError where a site is missing or answered to another forest, ModelRefusedError where the
    model file fails its check, UnavailableError where the registry does not answer.
    """
    data = _bytes(merged)
    forests = from_json(data, MergedForest, str(merged))
    sites = [from_json(_bytes(path), SiteScores, str(path)) for path in files]
    _require_all(forests, sites, digest(data))
    forest = to_forest(forests.forests[FEDERATED])
    parts = [site.scores[FEDERATED].calibrate for site in sites]
    calibration = calibrate(parts)
    onnx_file = build(forest, _card(forest, calibration, thresholds(parts)))
    model = from_bytes(onnx_file, name=settings.model_name, version="candidate")
    difference = require_agreement(model, forest, probe_rows(forest, _PROBES, seed=1))
    registered = register(settings, _candidate(onnx_file, forests, calibration, measured(sites)))
    return FederatedResult(
        model_name=registered.name,
        version=registered.version,
        alias=place_unmeasured(settings, registered.version, calibration),
        digest=registered.digest,
        calibration=type(calibration).__name__.lower(),
        onnx_difference=difference,
        measured=measured(sites),
    )


def fit_pooled(settings: Settings, institutions: Sequence[str], seed: int) -> ForestRecord:
    """Fit a forest on what all sites kept on this machine to fit on, to compare the merged one with."""
    whole = joined([kept(folder_of(settings.data_dir, institution))[0].fit for institution in institutions])
    shape = best(search(whole, seed, settings.train_search_budget_s))
    forest = as_forest(fit_forest(whole, shape, seed))
    return ForestRecord(tuple(tree_record(tree) for tree in forest.trees), tuple(forest.weights.tolist()))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from None


def _require_all(merged: MergedForest, sites: Sequence[SiteScores], merged_digest: str) -> None:
    if sorted(site.institution for site in sites) != sorted(merged.made_of):
        wanted = ", ".join(sorted(merged.made_of))
        raise ConfigurationError(f"The scores of each of these institutions are needed, once: {wanted}.")
    if any(site.merged != merged_digest or FEDERATED not in site.scores for site in sites):
        raise ConfigurationError("Some of the scores are not those of this merged forest.")


def _card(forest: Forest, calibration: Calibration, bands: Thresholds) -> ModelCard:
    return ModelCard(
        feature_names=FEATURE_NAMES,
        feature_set=FEATURE_SET,
        raw_baseline=forest.baseline,
        calibration=calibration,
        thresholds=bands,
    )


def _candidate(onnx_file: bytes, merged: MergedForest, calibration: Calibration, rows: Sequence[Measured]) -> Candidate:
    (whole,) = (row for row in rows if (row.forest, row.institution) == (FEDERATED, ALL))
    names = ", ".join(sorted(merged.made_of))
    return Candidate(
        onnx=onnx_file,
        parameters={
            "federated": names,
            "n_estimators": len(merged.forests[FEDERATED].trees),
            "calibration": type(calibration).__name__.lower(),
            "feature_set": FEATURE_SET,
            **{f"snapshot_{institution}": of for institution, of in merged.snapshots.items()},
        },
        metrics=_metrics(rows) | {"auroc": whole.auroc, "brier": whole.brier},
        snapshot=(),
        description=(
            f"30-day readmission, random forest from trees of {names}, which shared no rows. "
            f"On {whole.stays} held-out stays: AUROC {whole.auroc:.3f}, Brier {whole.brier:.3f}."
        ),
    )


def _metrics(rows: Sequence[Measured]) -> dict[str, float]:
    named = [(f"{row.forest}_{row.institution}", row) for row in rows]
    return {f"{name}_auroc": row.auroc for name, row in named} | {f"{name}_brier": row.brier for name, row in named}
