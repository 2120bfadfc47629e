"""What the commands show, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from connectors.models.versions import CHALLENGER
from healthalliance.progress import OUTCOMES, Progress
from model_training.job import TrainingResult
from schemas.explanation import main_reasons


def show_training(result: TrainingResult, out: Console) -> None:
    """Show what a training run read, made and measured, what the gate said, and where the report is."""
    out.print(training_table(result))
    for line in verdict_lines(result):
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    out.print(f"Report: {result.report}/report.html", markup=False, highlight=False, soft_wrap=True)


def verdict_lines(result: TrainingResult) -> list[str]:
    """Say what the gate said: a line for each reason to hold the model back."""
    verdict, champion = result.verdict, result.verdict.compared_with
    compared = f"compared with champion version {champion}" if champion else "no champion to compare with"
    if verdict.passed:
        return [f"The gate passes it ({compared})."]
    passed_over = result.forced and result.alias != CHALLENGER
    told = "--force passes over the gate, which holds it back" if passed_over else "The gate holds it back"
    return [f"{told} ({compared}):", *(f"  {reason}" for reason in verdict.reasons)]


def training_table(result: TrainingResult) -> Table:
    """Show what a training run read, made and measured."""
    table = Table(title=f"{result.model_name} version {result.version} is {result.alias}", show_header=False)
    found = result.evaluation
    rows = {
        "encounters read": result.encounters,
        "stays to fit / calibrate / test": f"{result.fit_stays} / {result.calibrate_stays} / {found.stays}",
        "readmitted within 30 days": f"{found.prevalence:.1%} of the test stays",
        "AUROC (95 % interval)": f"{found.auroc:.3f} ({found.auroc_interval})",
        "AUPRC": f"{found.auprc:.3f}",
        "Brier score": f"{found.brier:.4f}",
        "calibration slope": f"{found.calibration_slope:.2f}",
        "observed / expected": f"{found.observed_to_expected:.2f}",
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
