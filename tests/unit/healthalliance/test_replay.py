"""What a replay would change, summed up and told."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from connectors.side_schema import Rows, Tallies, Window
from healthalliance.comparison import ByModel, Crossing, Example, OtherReason, summed_up
from healthalliance.replay import Replayed
from healthalliance.replay_report import replay_document, show_replay


def encounters(number: int, from_band: str | None, to_band: str | None, *, differs: bool = True) -> dict[str, Any]:
    return {
        "from_band": from_band,
        "to_band": to_band,
        "scored_by": from_band and "3",
        "replayed_by": to_band and "4",
        "differs": differs,
        "number": number,
    }


def scores(number: int, found: str, *, spread: bool = False, now: str = "3") -> dict[str, Any]:
    return {
        "scored_by": None if found == "new" else "3",
        "replayed_by": None if found == "gone" else now,
        "found": found,
        "spread": spread,
        "number": number,
    }


def rejections(number: int, from_reason: str | None, to_reason: str | None, *, differs: bool = True) -> dict[str, Any]:
    return {"from_reason": from_reason, "to_reason": to_reason, "differs": differs, "number": number}


def tallies(
    encounters: Rows | None = None,
    scores: Rows | None = None,
    rejections: Rows | None = None,
    examples: Rows | None = None,
) -> Tallies:
    return Tallies(encounters or [], examples or [], scores or [], rejections or [], 0)


ALIKE = tallies(
    [encounters(5, "low", "low", differs=False)],
    [scores(9, "equal")],
    [rejections(2, "not-json", "not-json", differs=False)],
)


def test_what_is_alike_does_not_differ() -> None:
    found = summed_up(ALIKE)
    assert not found.differs
    assert (found.encounters, found.scores, found.same_scores, found.rejected) == (5, 9, 9, 2)
    assert (found.crossings, found.differing_encounters) == ((), 0)


@pytest.mark.parametrize(
    "tallied",
    [
        tallies([encounters(1, "low", "low")]),
        tallies([encounters(1, None, "low")]),
        *(tallies(scores=[scores(1, found)]) for found in ("new", "gone", "other-facts", "other-numbers")),
        tallies(rejections=[rejections(1, None, "too-large")]),
        tallies(rejections=[rejections(1, "too-large", None)]),
        tallies(rejections=[rejections(1, "too-large", "too-large")]),
    ],
)
def test_any_difference_counts(tallied: Tallies) -> None:
    assert summed_up(tallied).differs


def test_encounters_are_told_by_the_band_they_leave_and_the_one_they_reach() -> None:
    example = {"from_band": "low", "to_band": "high", "encounter_pseudonym": "e", "was": 0.1, "would_be": 0.6}
    rows = [
        encounters(4, "low", "low"),
        encounters(1, "low", "high"),
        encounters(2, None, "low"),
        encounters(3, "high", None),
    ]
    found = summed_up(tallies(rows, examples=[example]))
    assert found.crossings == (
        Crossing("low", "high", 1, (Example("e", 0.1, 0.6),)),
        Crossing(None, "low", 2, ()),
        Crossing("high", None, 3, ()),
    )
    assert (found.encounters, found.differing_encounters) == (10, 10)
    assert (found.newly_scored, found.no_longer_scored) == (2, 3)


def test_what_only_the_order_between_partitions_explains_is_no_difference() -> None:
    found = summed_up(tallies(scores=[scores(2, "gone", spread=True), scores(3, "equal", spread=True)]))
    assert (found.order_dependent, found.gone_scores, found.same_scores) == (2, 0, 3)
    assert not found.differs


def test_the_order_between_partitions_explains_no_other_number_of_the_same_facts() -> None:
    found = summed_up(tallies(scores=[scores(2, "other-numbers", spread=True)]))
    assert (found.order_dependent, found.with_other_numbers) == (0, 2)


def test_scores_are_counted_by_the_model_then_and_now() -> None:
    rows = [scores(1, "equal", now="4"), scores(2, "other-numbers", now="4"), scores(5, "new"), scores(6, "gone")]
    assert summed_up(tallies(scores=rows)).models == (ByModel("3", "4", 3),)


def test_rejections_are_counted_by_reason() -> None:
    rows = [
        rejections(1, None, "too-large"),
        rejections(2, "not-json", None),
        rejections(3, "structure", "invalid-code"),
        rejections(4, "structure", "structure", differs=False),
    ]
    found = summed_up(tallies(rejections=rows))
    assert (found.newly_rejected, found.no_longer_rejected) == ({"too-large": 1}, {"not-json": 2})
    assert found.otherwise_rejected == (OtherReason("structure", "invalid-code", 3),)
    assert found.rejected == 10


def test_a_window_holds_its_beginning_and_not_its_end() -> None:
    first, last = datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 1, 2, tzinfo=UTC)
    assert [Window(first, last).holds(one) for one in (first, last)] == [True, False]
    assert Window(first, None).holds(last)


# --- what is shown


def replayed(tallied: Tallies, *, begins_later: bool = False) -> Replayed:
    return Replayed("ukhd", "what_if", "4", {0: (0, 30)}, begins_later, 30, 20, 0.5, summed_up(tallied))


def shown(one: Replayed) -> str:
    out = StringIO()
    show_replay(one, Console(file=out, width=200))
    return out.getvalue()


def test_a_replay_without_differences_says_so() -> None:
    text = shown(replayed(ALIKE))
    assert "Replayed 30 events of ukhd with model version 4 in 0.5 s (60 events/s); 20 of them are compared." in text
    assert "Nothing would change." in text
    assert "not comparable" not in text


def test_a_replay_with_differences_shows_bands_models_and_reasons() -> None:
    text = shown(
        replayed(
            tallies(
                [encounters(1, "low", "high"), encounters(1, None, "low")],
                [scores(2, "other-numbers", now="4"), scores(1, "gone", spread=True)],
                [rejections(7, None, "too-large"), rejections(8, "structure", "invalid-code")],
                [{"from_band": "low", "to_band": "high", "encounter_pseudonym": "e1", "was": 0.1, "would_be": 0.6}],
            )
        )
    )
    assert "Nothing would change" not in text
    assert "2 scored by version 3 then, 4 now." in text
    assert "1 more may differ by chance" in text
    assert "newly rejected: 7 too-large" in text
    assert "rejected otherwise: 8 structure -> invalid-code" in text
    assert ["low", "high", "1", "e1", "10.0%", "60.0%"] in [line.split() for line in text.splitlines()]
    assert "no score" in text


def test_a_log_without_its_beginning_is_told() -> None:
    assert "patients known before it are not comparable" in shown(replayed(ALIKE, begins_later=True))


def test_the_document_holds_every_figure() -> None:
    document = json.loads(json.dumps(replay_document(replayed(ALIKE))))
    assert (document["differs"], document["events_per_s"], document["ranges"]) == (False, 60, {"0": [0, 30]})
    assert document["comparison"]["scores"] == 9


def test_the_document_tells_rejections_by_their_reasons() -> None:
    one = replayed(tallies(rejections=[rejections(1, None, "too-large"), rejections(2, "not-json", None)]))
    found = json.loads(json.dumps(replay_document(one)))["comparison"]
    assert (found["newly_rejected"], found["no_longer_rejected"]) == ({"too-large": 1}, {"not-json": 2})
