"""What `replay` shows and prints."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from healthalliance.comparison import Comparison
from healthalliance.replay import Replayed

_NONE = "no score"


def replay_document(replayed: Replayed) -> dict[str, Any]:
    """Return all figures, for `--json`."""
    return {
        **asdict(replayed),
        "differs": replayed.comparison.differs,
        "seconds": round(replayed.seconds, 3),
        "events_per_s": round(replayed.events_per_s),
    }


def show_replay(replayed: Replayed, out: Console) -> None:
    """Print what was replayed and what would change."""
    for line in (*_what_was_read(replayed), *_what_differs(replayed)):
        out.print(line, highlight=False)
    if replayed.comparison.crossings:
        out.print(_crossings_table(replayed.comparison))
    out.print(f"The rows are in the schema {replayed.into}; `DROP SCHEMA {replayed.into} CASCADE` removes them.")


def _what_was_read(replayed: Replayed) -> list[str]:
    lines = [
        f"Replayed {replayed.events:,} events of {replayed.institution} with model version {replayed.model_version} "
        f"in {replayed.seconds:.1f} s ({replayed.events_per_s:,.0f} events/s); "
        f"{replayed.compared_events:,} of them are compared."
    ]
    if replayed.begins_later:
        lines.append(
            "The log's beginning is gone: patients known before it are not comparable. "
            f"{replayed.comparison.left_out_patients:,} with scores in it are left out, and so are the rejections "
            "that depend on what was known; of others the history may be incomplete."
        )
    return lines


def _what_differs(replayed: Replayed) -> list[str]:
    found = replayed.comparison
    lines = [] if found.differs else ["Nothing would change."]
    lines += [
        f"Encounters: {found.encounters:,} compared, {found.differing_encounters:,} differ, of which "
        f"{found.newly_scored:,} are newly scored and {found.no_longer_scored:,} no longer.",
        f"Versions of scores: {found.scores:,} compared, {found.same_scores:,} are the same, "
        f"{found.with_other_facts:,} have other facts or features, {found.with_other_numbers:,} only other numbers, "
        f"{found.new_scores:,} are new, {found.gone_scores:,} are gone.",
    ]
    if found.order_dependent:
        lines.append(
            f"{found.order_dependent:,} more may differ by chance: their patients' events lie in several partitions."
        )
    lines += [
        f"{one.scores:,} scored by version {one.scored_by} then, {one.replayed_by} now."
        for one in found.models
        if one.scored_by != one.replayed_by
    ]
    return lines + _rejections(found)


def _rejections(found: Comparison) -> list[str]:
    lines = [
        f"Rejected events: {found.rejected:,} compared, {sum(found.newly_rejected.values()):,} newly rejected, "
        f"{sum(found.no_longer_rejected.values()):,} would pass now."
    ]
    lines += [f"  newly rejected: {number:,} {reason}" for reason, number in found.newly_rejected.items()]
    lines += [f"  would pass now: {number:,} {reason}" for reason, number in found.no_longer_rejected.items()]
    lines += [
        f"  rejected otherwise: {one.events:,} {one.from_reason} -> {one.to_reason}" for one in found.otherwise_rejected
    ]
    return lines


def _crossings_table(found: Comparison) -> Table:
    columns = ("from", "to", "number", "for example", "then", "now")
    table = Table(*columns, title="Encounters by bands", box=None, pad_edge=False)  # fits 80 columns
    for one in found.crossings:
        table.add_row(
            one.from_band or _NONE,
            one.to_band or _NONE,
            f"{one.encounters:,}",
            "\n".join(example.encounter_pseudonym for example in one.examples),
            "\n".join(_percent(example.was) for example in one.examples),
            "\n".join(_percent(example.would_be) for example in one.examples),
        )
    return table


def _percent(probability: float | None) -> str:
    return "–" if probability is None else f"{probability:.1%}"
