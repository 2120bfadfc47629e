"""The commands of a federated training: each reads files and writes one, which people or a job carry to the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from connectors.settings import load_settings
from healthalliance.console import Json, connected, out, print_json
from schemas.access import site_user
from schemas.institutions import institution as find_institution

if TYPE_CHECKING:
    from model_training.federation.coordinator import Measured
    from model_training.federation.job import FederatedResult

app = typer.Typer(no_args_is_help=True, help="Train over institutions that share no rows.")

Merged = Annotated[Path, typer.Option("--merged", help="The merged forest, as `merge` wrote it.")]
OutFile = Annotated[Path, typer.Option("--out", help="The file to write and hand over.")]


@app.command()
def site(
    institution: Annotated[str, typer.Option("--institution", "-i", help="Whose topic is read; no other is.")],
    file: OutFile,
    merged: Annotated[
        Path | None, typer.Option("--merged", help="Second round: the merged forest to score held-out stays with.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Splits and fits the same way for the same seed.")] = 1,
    as_json: Json = False,
) -> None:
    """Fit on the institution's own topic and write its trees; with --merged, write how that forest scores it."""
    from model_training.federation.job import fit_own, score_own

    find_institution(institution)
    if merged is None:
        file.write_bytes(fit_own(connected("kafka", "registry", user=site_user(institution)), institution, seed))
    else:
        file.write_bytes(score_own(load_settings(), institution, merged))
    _told(file, institution, "trees" if merged is None else "scores", as_json)


@app.command()
def merge(
    files: Annotated[list[Path], typer.Argument(help="The sites' trees, as `site` wrote them.")],
    file: OutFile,
    as_json: Json = False,
) -> None:
    """Merge the sites' trees into one forest, which goes to each site to be scored with."""
    from model_training.federation.job import merge_forests

    file.write_bytes(merge_forests(files))
    _told(file, "coordinator", "merged forest", as_json)


@app.command()
def register(
    files: Annotated[list[Path], typer.Argument(help="The sites' scores, as `site --merged` wrote them.")],
    merged: Merged,
    as_json: Json = False,
) -> None:
    """Calibrate the merged forest by the sites' scores, measure it, and register it."""
    from model_training.federation.job import register_federated

    show_federated(register_federated(connected("mlflow"), merged, files), as_json)


def show_federated(result: FederatedResult, as_json: bool) -> None:
    """Print what came of a federated training."""
    if as_json:
        print_json(asdict(result))
        return
    out.print(measured_table(f"{result.model_name} version {result.version} is {result.alias}", result.measured))


def measured_table(title: str, rows: Sequence[Measured]) -> Table:
    """Show AUROC and Brier score of each forest at each institution and in all."""
    places = list(dict.fromkeys(row.institution for row in rows))
    by_place = {(row.forest, row.institution): f"{row.auroc:.3f} / {row.brier:.4f}" for row in rows}
    table = Table("AUROC / Brier", *places, title=title)
    for forest in dict.fromkeys(row.forest for row in rows):
        table.add_row(forest, *(by_place.get((forest, place), "") for place in places))
    return table


def _told(file: Path, who: str, what: str, as_json: bool) -> None:
    if as_json:
        print_json({"from": who, "what": what, "file": str(file), "bytes": file.stat().st_size})
    else:
        out.print(f"{file} holds the {what} of {who}.", highlight=False)
