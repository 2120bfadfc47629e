"""What the commands show, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from healthalliance.progress import OUTCOMES, Progress
from schemas.explanation import main_reasons


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
