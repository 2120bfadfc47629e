"""`healthalliance rebuild`."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from healthalliance.console import Json, connected, err, out, print_json
from schemas.audit import Action
from schemas.institutions import institution as find_institution
from schemas.institutions import institutions


def rebuild(
    institution: Annotated[list[str] | None, typer.Option("--institution", "-i", help="Only of these.")] = None,
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Go on although the log's beginning is gone.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Build the tables anew from the topics, after the database was lost or restored to an earlier moment."""
    from connectors.migrate import migrate
    from healthalliance.auditing import noted_change
    from healthalliance.rebuild import rebuild as run_rebuild

    chosen = [find_institution(one).id for one in institution or institutions()]
    settings = connected()
    migrate(settings.database_url)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    results = []
    with Progress(*columns, console=err, disable=as_json) as progress:
        for one in chosen:
            show = partial(_show, progress, progress.add_task(one, total=None))
            with noted_change(settings, Action.REBUILD, one):
                results.append(run_rebuild(settings, one, incomplete=incomplete, on_progress=show))
    if as_json:
        print_json([asdict(one) for one in results])
        return
    for rebuilt in results:
        id_ = rebuilt.institution
        out.print(
            f"{id_}: {rebuilt.events:,} events in {rebuilt.seconds:.1f} s; of {rebuilt.published:,} scores on "
            f"its topic, {rebuilt.equal:,} are in the table, equal.",
            highlight=False,
        )
        if rebuilt.begins_later:
            out.print(f"{id_}: histories lack what was on the topic before it begins now.", highlight=False)


def _show(progress: Progress, task: TaskID, done: int, total: int) -> None:
    progress.update(task, completed=done, total=total)
