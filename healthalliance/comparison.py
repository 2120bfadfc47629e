"""What a replay would change, summed up from how its rows differ from the live ones: pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from connectors.side_schema import Rows, Tallies

# What an order that nobody promised can cause, where a patient's events lie in several partitions.
_BY_ORDER = frozenset({"new", "gone", "other-facts"})


@dataclass(frozen=True, slots=True)
class Example:
    """An encounter by its pseudonym, with its probabilities; None where there is no score."""

    encounter_pseudonym: str
    was: float | None
    would_be: float | None


@dataclass(frozen=True, slots=True)
class Crossing:
    """Encounters whose band would be another one; None: no score."""

    from_band: str | None
    to_band: str | None
    encounters: int
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class ByModel:
    """Score versions that are there live and replayed, by the model's version then and now."""

    scored_by: str
    replayed_by: str
    scores: int


@dataclass(frozen=True, slots=True)
class OtherReason:
    """Events that are rejected live and replayed, but with other issues; the reasons are the first ones."""

    from_reason: str
    to_reason: str
    events: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """What would change.

    Encounters are compared by the score that stood at the window's end, scores (every version of them) by the event
    that caused them. order_dependent: scores that differ but whose patient's events lie in several partitions, the
    order between which is not kept; they count in nothing else here but `scores`.
    """

    encounters: int
    differing_encounters: int
    newly_scored: int
    no_longer_scored: int
    crossings: tuple[Crossing, ...]
    scores: int
    same_scores: int
    new_scores: int
    gone_scores: int
    with_other_facts: int
    with_other_numbers: int
    order_dependent: int
    models: tuple[ByModel, ...]
    rejected: int
    newly_rejected: Mapping[str, int] = field(default_factory=dict)
    no_longer_rejected: Mapping[str, int] = field(default_factory=dict)
    otherwise_rejected: tuple[OtherReason, ...] = ()
    left_out_patients: int = 0

    @property
    def differs(self) -> bool:
        """Tell whether anything would change."""
        return bool(
            self.differing_encounters
            or self.scores - self.same_scores - self.order_dependent
            or self.newly_rejected
            or self.no_longer_rejected
            or self.otherwise_rejected
        )


def summed_up(tallies: Tallies) -> Comparison:
    """Sum up what was counted."""
    encounters, rejections = tallies.encounters, tallies.rejections
    found = _counts((row["found"], row) for row in tallies.scores if not _is_by_order(row))
    return Comparison(
        encounters=_total(encounters),
        differing_encounters=_total(row for row in encounters if row["differs"]),
        newly_scored=_total(row for row in encounters if row["scored_by"] is None),
        no_longer_scored=_total(row for row in encounters if row["replayed_by"] is None),
        crossings=_crossings(encounters, tallies.examples),
        scores=_total(tallies.scores),
        same_scores=found["equal"],
        new_scores=found["new"],
        gone_scores=found["gone"],
        with_other_facts=found["other-facts"],
        with_other_numbers=found["other-numbers"],
        order_dependent=_total(filter(_is_by_order, tallies.scores)),
        models=_models(tallies.scores),
        rejected=_total(rejections),
        newly_rejected=dict(_counts((row["to_reason"], row) for row in rejections if row["from_reason"] is None)),
        no_longer_rejected=dict(_counts((row["from_reason"], row) for row in rejections if row["to_reason"] is None)),
        otherwise_rejected=tuple(
            OtherReason(row["from_reason"], row["to_reason"], row["number"])
            for row in rejections
            if row["differs"] and row["from_reason"] is not None and row["to_reason"] is not None
        ),
        left_out_patients=tallies.left_out_patients,
    )


def _is_by_order(row: Mapping[str, Any]) -> bool:
    return row["spread"] and row["found"] in _BY_ORDER


def _crossings(encounters: Rows, examples: Rows) -> tuple[Crossing, ...]:
    counts = _counts(((row["from_band"], row["to_band"]), row) for row in encounters)
    return tuple(
        Crossing(
            bands[0],
            bands[1],
            number,
            tuple(
                Example(one["encounter_pseudonym"], one["was"], one["would_be"])
                for one in examples
                if (one["from_band"], one["to_band"]) == bands
            ),
        )
        for bands, number in counts.items()
        if bands[0] != bands[1]
    )


def _models(scores: Rows) -> tuple[ByModel, ...]:
    both = [row for row in scores if row["scored_by"] is not None and row["replayed_by"] is not None]
    counts = _counts(((row["scored_by"], row["replayed_by"]), row) for row in both)
    return tuple(ByModel(then, now, number) for (then, now), number in counts.items())


def _counts(rows: Iterable[tuple[Any, Mapping[str, Any]]]) -> Counter[Any]:
    counts: Counter[Any] = Counter()
    for name, row in rows:
        counts[name] += row["number"]
    return counts


def _total(rows: Iterable[Mapping[str, Any]]) -> int:
    return sum(int(row["number"]) for row in rows)
