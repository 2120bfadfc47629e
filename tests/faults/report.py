"""What a run of a scenario comes to, as JSON and as a table."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from tests.faults.oracle import Verdict
from tests.faults.trial import Trial

Report = dict[str, Any]


def report(trial: Trial, verdict: Verdict, seed: int, scale: float, seconds: float) -> Report:
    """Sum up a run: it passed if the oracle found nothing, all strikes landed and no figure is above its most."""
    scenario = trial.scenario
    violations: dict[str, float] = {**verdict.violations(), **scenario.check(trial)}
    figures = {**trial.figures, "repeat_share": verdict.repeat_share}
    if trial.gave_up is not None:
        violations[trial.gave_up] = 1
    if missed := trial.strikes - trial.landed:
        violations["strikes that found nothing in flight"] = missed
    for name, most in scenario.most.items():
        if figures[name] > most:
            violations[f"{name} above {most:g}"] = round(figures[name], 4)
    return {
        "scenario": scenario.name,
        "promise": scenario.promise,
        "seed": seed,
        "scale": scale,
        "machine": f"{os.cpu_count()} cores, {psutil.virtual_memory().total >> 30} GiB",
        "passed": not violations,
        "violations": violations,
        "strikes": trial.landed,
        "figures": {name: round(value, 4) for name, value in sorted(figures.items())},
        "verdict": asdict(verdict),
        "seconds": round(seconds),
    }


def show(reports: Iterable[Report], out: Console) -> None:
    """Print one line a scenario."""
    table = Table("scenario", "events", "strikes", "scores", "repeats", "figures", "violations", "s", title="Faults")
    for one in reports:
        verdict = one["verdict"]
        figures = {name: value for name, value in one["figures"].items() if name != "repeat_share"}
        table.add_row(
            one["scenario"],
            f"{verdict['published']:,}",
            str(one["strikes"]),
            f"{verdict['scores']:,}",
            f"{verdict['repeats']} ({one['figures']['repeat_share']:.2%})",
            ", ".join(f"{name} {value:g}" for name, value in figures.items()),
            ", ".join(f"{name}: {number}" for name, number in one["violations"].items()) or "none",
            str(one["seconds"]),
        )
    out.print(table)
