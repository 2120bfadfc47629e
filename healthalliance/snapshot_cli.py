"""The commands for snapshots of the feature topics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from connectors.settings import load_settings
from healthalliance.console import Json, connected, err, out, print_json
from schemas.errors import ConfigurationError, SnapshotGoneError
from schemas.institutions import institution as find_institution

if TYPE_CHECKING:
    from connectors.feature_topics import Snapshot
    from connectors.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Snapshots of what models are trained on.")

Institutions = Annotated[
    list[str] | None, typer.Option("--institution", "-i", help="Only this one's; can be repeated.")
]


@app.callback()
def _group() -> None:
    """Keep `export` a command of its own while it is the only one."""


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Where the files go; made where it is missing.")],
    institution: Institutions = None,
    like: Annotated[Path | None, typer.Option(help="An earlier snapshot.json: read up to its ends again.")] = None,
    push: Annotated[bool, typer.Option("--push", help="Push it to DVC_REMOTE_URL.")] = False,
    as_json: Json = False,
) -> None:
    """Write the features as they are now as Parquet that DVC tracks, and what they are as snapshot.json."""
    from connectors import dvc
    from connectors.snapshot_files import ROWS_FILE, write_snapshot

    if institution and like:
        raise typer.BadParameter("an earlier snapshot says itself which institutions it is of.")
    if push and not load_settings().dvc_remote_url:
        raise ConfigurationError("DVC_REMOTE_URL must be set to push a snapshot.")
    settings = connected("kafka", "registry")
    columns = (TextColumn("reading"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=as_json) as progress:
        task = progress.add_task("", total=1.0)
        snapshot = _read(settings, institution, like, lambda share: progress.update(task, completed=share))
    identity = write_snapshot(snapshot, folder)
    tracked = dvc.track(folder / ROWS_FILE)
    if push:
        dvc.push(folder / ROWS_FILE, settings.dvc_remote_url)
    report = {**identity, "folder": str(folder), "tracked_by": str(tracked), "pushed": push}
    if as_json:
        print_json(report)
        return
    for id_, rows in identity["rows"].items():
        out.print(f"{id_:<16} {rows:,} encounters", highlight=False)
    out.print(
        f"Snapshot {identity['digest'][:16]}… is in {folder}{' and was pushed' if push else ''}.", highlight=False
    )


def _read(
    settings: Settings, institutions: list[str] | None, like: Path | None, on_progress: Callable[[float], None]
) -> Snapshot:
    """Read the topics as they are now, or as they were; raise SnapshotGoneError where they no longer are."""
    from connectors.feature_topics import read_snapshot
    from connectors.snapshot_files import read_identity

    if like is None:
        ids = [find_institution(id_).id for id_ in institutions or ()]
        return read_snapshot(settings, on_progress, ids or None)
    ends, content = read_identity(like)
    snapshot = read_snapshot(settings, on_progress, ends=ends)
    if snapshot.content != content:
        raise SnapshotGoneError("What was newest then has been superseded or deleted since, and compaction took it.")
    return snapshot
