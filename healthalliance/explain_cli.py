"""`healthalliance explain`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from healthalliance.console import Json, connected, out, print_json
from schemas.audit import Action

if TYPE_CHECKING:
    from connectors.score_tracing import Source
    from healthalliance.explaining import Challenged, Explained, Recomputed
    from schemas.stored_score import StoredScore


def explain(
    record_id: Annotated[str, typer.Argument(help="Of a stored score.")],
    language: Annotated[Literal["en", "de"], typer.Option(help="Of the sentences.")] = "en",
    as_json: Json = False,
) -> None:
    """Compute a stored score again, and show where it came from, how long it took and why it is what it is.

    A challenger's score of the same record is computed again too.
    """
    from healthalliance.auditing import note_access
    from healthalliance.explaining import explain_score

    settings = connected("kafka", "postgres", "mlflow")
    found = explain_score(settings, record_id, language)
    note_access(settings, Action.EXPLAIN, found.score.institution, [f"record:{found.score.record_id}"])
    if as_json:
        print_json(asdict(found))
    else:
        _show(found)


def _show(found: Explained) -> None:
    score = found.score
    out.print(found.headline, highlight=False)
    for step in found.steps:
        out.print(f"  {step.sentence}", highlight=False)
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in {
        "computed again": _verdict(found.recomputed),
        "model": f"{score.model_name} version {score.model_version}, {score.model_digest[:16]}…",
        "challenger": _challenger(found.challenger),
        "event": _event(found.source, score),
        "received": score.received_at.isoformat(),
        "scored": _after(score.scored_at, score.received_at),
        "committed": _after(found.committed_at, score.received_at),
        "published": _after(found.published_at, score.received_at),
        "replaces": f"{score.supersedes}: {found.because}" if score.supersedes else "nothing",
        "replaced by": f"{score.superseded_by}: {found.superseded_because}" if score.superseded_by else "nothing",
        "outcome": found.outcome or "not known",
    }.items():
        table.add_row(name, value)
    out.print(table)


def _event(source: Source, score: StoredScore) -> str:
    place = f"partition {score.source_partition}, offset {score.source_offset}"
    kept = "still there" if source.is_retained else "there no more"
    return f"{source.topic} (topic id {score.topic_id}), {place}: {kept}"


def _challenger(one: Challenged | None) -> str:
    if one is None:
        return "none scored it"
    named = f"{one.model_name} version {one.model_version}, {one.model_digest[:16]}…"
    return f"{one.probability:.1%} ({one.band}) by {named}; computed again: {_verdict(one.recomputed)}"


def _verdict(again: Recomputed) -> str:
    if again.is_equal is None:
        return f"could not be: {again.trouble}"
    return "equal, bit by bit" if again.is_equal else f"DIFFERS: {again.probability!r} today"


def _after(at: datetime | None, start: datetime) -> str:
    return "not known" if at is None else f"{1000 * (at - start).total_seconds():.0f} ms after"
