"""Train as the command line does: one run at a time, wherever it runs; and what it shows of that."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console
from rich.table import Table

from connectors.models.versions import CHALLENGER
from connectors.settings import Settings
from connectors.training_lock import only_training_run
from healthalliance.auditing import note_access
from model_training.backends import Backend
from model_training.job import OnProgress, Options, TrainingResult, train
from schemas.audit import EVERYBODY, Action


def chosen_options(backend: str, *, force: bool, note: str | None) -> Options:
    """Return the job's options; its own words of the data where there is no note."""
    chosen = Options(Backend(backend), force)
    return chosen if note is None else replace(chosen, note=note)


def train_alone(settings: Settings, seed: int, options: Options, on_progress: OnProgress) -> TrainingResult:
    """Train while nobody else does, and note which version got which alias.

    Raises as `train` does, and TrainingUnderWayError where somebody does.
    """
    with only_training_run(settings.database_url, settings.model_name):
        result = train(settings, seed, on_progress, options=options)
        note_access(settings, Action.TRAIN, EVERYBODY, [f"model:{settings.model_name}/{result.version}/{result.alias}"])
        return result


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
