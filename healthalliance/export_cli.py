"""The commands that write files for analysts."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from healthalliance.console import Json, connected, out, print_json
from healthalliance.since import month_of, since
from schemas.audit import Action
from schemas.institutions import institution as find_institution
from schemas.institutions import institutions

app = typer.Typer(no_args_is_help=True, help="Files for analysts; pseudonyms only.")


@app.callback()
def _group() -> None:
    """Keep `scores` a command of its own while it is the only one."""


@app.command()
def scores(
    folder: Annotated[Path, typer.Argument(help="Where the files go; made where it is missing.")],
    begin: Annotated[str, typer.Option("--since", help="30d, 2025-03 or 2025-03-01; its whole month is written.")],
    institution: Annotated[str | None, typer.Option("--institution", "-i", help="Only this one's.")] = None,
    as_json: Json = False,
) -> None:
    """Write the standing scores as Parquet, a file for each institution and month."""
    from connectors.score_files import ScoreFile, export_scores
    from healthalliance.auditing import note_access

    def show(one: ScoreFile) -> None:
        if not as_json:
            out.print(f"{one.path}  {one.rows:,} scores", markup=False, highlight=False, soft_wrap=True)

    first_month = month_of(since(begin, datetime.now(UTC)))
    chosen = find_institution(institution).id if institution else None
    settings = connected("postgres")
    for one in [chosen] if chosen else institutions():
        note_access(settings, Action.EXPORT_SCORES, one, [f"since:{first_month:%Y-%m}"])
    written = export_scores(settings.database_url, folder, first_month, chosen, show)
    if as_json:
        files = [
            {"path": str(one.path), "institution": one.institution, "month": f"{one.month:%Y-%m}", "rows": one.rows}
            for one in written
        ]
        print_json({"files": files, "rows": sum(one.rows for one in written)})
    elif not written:
        out.print(f"There are no scores from {first_month:%Y-%m} on.", highlight=False)
