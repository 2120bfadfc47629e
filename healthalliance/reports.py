"""What the commands show, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from healthalliance.progress import OUTCOMES, Progress
from model_training.job import TrainingResult

# Feature → how a reason reads; the feature's own value stands before it.
_REASONS = {
    "age_years": "years of age",
    "gender_encoded": "gender",
    "num_conditions": "active conditions",
    "num_medications": "active medications",
    "recent_encounters": "encounters in the year before",
    "prior_inpatient_stays_365d": "inpatient stays in the year before",
    "prior_emergency_visits_180d": "emergency visits in 180 days before",
    "length_of_stay_days": "days of stay",
    "emergency_admission": "emergency admission",
}
_SPOKEN_WITHOUT_VALUE = frozenset({"gender_encoded", "emergency_admission"})


def training_table(result: TrainingResult) -> Table:
    """Show what a training run read, made and measured."""
    table = Table(title=f"{result.model_name} version {result.version} is {result.alias}", show_header=False)
    rows = {
        "encounters read": result.encounters,
        "stays to fit / calibrate / test": f"{result.fit_stays} / {result.calibrate_stays} / {result.evaluation.stays}",
        "readmitted within 30 days": f"{result.evaluation.prevalence:.1%} of the test stays",
        "AUROC / AUPRC": f"{result.evaluation.auroc:.3f} / {result.evaluation.auprc:.3f}",
        "Brier score": f"{result.evaluation.brier:.4f}",
        "calibration slope": f"{result.evaluation.calibration_slope:.2f}",
        "digest": result.digest[:16] + "…",
        "seconds": f"{result.seconds:.1f}",
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def progress_table(progress: Mapping[str, Progress], published: Mapping[str, int] | None = None) -> Table:
    """Show how each institution's events ended; beside how many wait or, given those, were published."""
    columns = (*OUTCOMES, "waiting") if published is None else ("published", *OUTCOMES)
    table = Table("institution", *columns, title="Events by how they ended", pad_edge=False)  # fits 80 columns
    for institution, one in progress.items():
        counts = [one.outcomes[outcome] for outcome in OUTCOMES]
        numbers = (*counts, one.waiting) if published is None else (published[institution], *counts)
        table.add_row(institution, *(f"{number:,}" for number in numbers))
    return table


def risk_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Show scores with the reasons that weigh most."""
    table = Table("institution", "patient", "risk", "band", "main reasons", title="Highest current risks")
    for row in rows:
        table.add_row(
            row["institution"],
            f"{row['patient_pseudonym'][:8]}…",
            f"{row['probability']:.1%}",
            row["band"],
            "; ".join(main_reasons(row["features"], row["contributions"])),
        )
    return table


def main_reasons(features: Mapping[str, float | None], contributions: Mapping[str, float], most: int = 3) -> list[str]:
    """Name the features that raise the risk most, with their values and percentage points."""
    raising = sorted((item for item in contributions.items() if item[1] > 0), key=lambda item: -item[1])[:most]
    return [f"{_spoken(name, features[name])} (+{100 * points:.1f})" for name, points in raising]


def _spoken(name: str, value: float | None) -> str:
    if name in _SPOKEN_WITHOUT_VALUE:
        return _REASONS[name] if value or name == "gender_encoded" else f"no {_REASONS[name]}"
    return f"{'unknown' if value is None else f'{value:g}' if value == int(value) else f'{value:.1f}'} {_REASONS[name]}"
