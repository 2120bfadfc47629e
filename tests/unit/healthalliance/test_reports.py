"""What the commands show, as people read it."""

from __future__ import annotations

import subprocess
import sys
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

from healthalliance.progress import OUTCOMES, Progress
from healthalliance.reports import progress_table, risk_table

FEATURES: dict[str, float | None] = {
    "age_years": 71.0,
    "gender_encoded": 0.0,
    "num_conditions": 4.0,
    "num_medications": 2.0,
    "recent_encounters": 0.0,
    "prior_inpatient_stays_365d": 1.0,
    "prior_emergency_visits_180d": 0.0,
    "length_of_stay_days": 3.25,
    "emergency_admission": 1.0,
}


def shown(table: Table) -> str:
    out = StringIO()
    Console(file=out, width=200).print(table)
    return out.getvalue()


def test_a_risk_is_shown_with_its_pseudonyms_beginning_and_its_reasons() -> None:
    row: dict[str, Any] = {
        "institution": "dkfz", "patient_pseudonym": "12345678-aaaa", "probability": 0.314, "band": "high",
        "features": FEATURES, "contributions": {"num_conditions": 0.1},
    }  # fmt: skip
    text = shown(risk_table([row]))
    assert "12345678…" in text
    assert "aaaa" not in text
    assert "31.4%" in text
    assert "4 active conditions (+10.0)" in text


def test_progress_shows_each_outcome_and_what_was_published() -> None:
    progress = {"dkfz": Progress({outcome: 1000 + n for n, outcome in enumerate(OUTCOMES)}, waiting=7)}
    text = shown(progress_table(progress, {"dkfz": 5017}))
    assert [cell.strip() for cell in text.splitlines()[-2].strip("│").split("│")] == [
        "dkfz", "5,017", "1,000", "1,001", "1,002", "1,003", "1,004",
    ]  # fmt: skip


def test_showing_the_stack_loads_nothing_that_trains_or_scores() -> None:
    program = (
        "import sys, healthalliance.local_stack, healthalliance.reports;"
        "print(*{'mlflow', 'onnxruntime', 'pyarrow', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
