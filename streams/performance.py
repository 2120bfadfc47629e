"""Keep the gauges of how models do and how far features have drifted; off the hot path, every few minutes."""

from __future__ import annotations

from connectors.store import Store
from schemas.drift import Reading, drift
from schemas.model import Model
from streams import metrics

# The stays that features are compared over: some weeks of a large hospital.
_LAST_STAYS = 2000

_COLUMNS = (
    (metrics.MODEL_OUTCOMES, "outcomes"),
    (metrics.MODEL_AUROC, "auroc"),
    (metrics.MODEL_CALIBRATION_RATIO, "calibration_ratio"),
    (metrics.MODEL_BRIER, "brier"),
)


async def show_performance(store: Store, champion: Model | None) -> None:
    """Set the gauges to what outcomes and the last stays' features say now, and note the drift for analysts."""
    rows = await store.model_performance()
    for gauge, column in _COLUMNS:
        gauge.clear()
        for row in rows:
            if row[column] is not None:
                gauge.labels(row["institution"], row["model_version"], row["role"]).set(row[column])
    readings = await _drifts(store, champion) if champion else []
    metrics.FEATURE_PSI.clear()
    for one in readings:
        metrics.FEATURE_PSI.labels(one.institution, one.feature).set(one.psi)
    if champion and readings:
        await store.note_drift(champion.name, champion.version, readings)


async def _drifts(store: Store, champion: Model) -> list[Reading]:
    found = []
    for institution, expected in (champion.card.reference or {}).items():
        edges = {name: one.edges for name, one in expected.items()}
        counted = await store.count_features(institution, edges, _LAST_STAYS)
        found += [
            Reading(institution, name, sum(counted[name]), value) for name, value in drift(expected, counted).items()
        ]
    return found
