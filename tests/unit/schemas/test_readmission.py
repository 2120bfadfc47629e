"""What became of a stay: a table of cases, a rule each, and that the order of the stays does not matter."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.intake.dispositions import AGAINST_ADVICE, DIED, TRANSFERRED
from schemas.readmission import NoIndex, Outcome, OutcomeChange, Stay, StayOutcome, follow

START = datetime(2024, 1, 1, tzinfo=UTC)


def day(number: float) -> datetime:
    return START + timedelta(days=number)


def stay(
    name: str, admitted: float, discharged: float | None, disposition: str | None = "home", *, planned: bool = False
) -> Stay:
    return Stay(name, day(admitted), None if discharged is None else day(discharged), disposition, planned)


def followed(*stays: Stay, deceased: float | None = None) -> dict[str, str | None]:
    """Return of each stay why it is no index stay, or the stay that is its readmission."""
    found = follow(stays, None if deceased is None else day(deceased))
    names = {one.admitted_at: one.encounter_pseudonym for one in stays}
    return {
        one.stay.encounter_pseudonym: one.because or (names[one.readmitted_at] if one.readmitted_at else None)
        for one in found
    }


CASES: dict[str, tuple[dict[str, str | None], dict[str, str | None]]] = {
    "nobody came back": (followed(stay("a", 0, 5)), {"a": None}),
    "back after 30 days to the second": (followed(stay("a", 0, 5), stay("b", 35, 36)), {"a": "b", "b": None}),
    "back later": (followed(stay("a", 0, 5), stay("b", 35.001, 36)), {"a": None, "b": None}),
    "back and not discharged yet": (followed(stay("a", 0, 5), stay("b", 9, None)), {"a": "b", "b": NoIndex.OPEN}),
    "a planned return": (followed(stay("a", 0, 5), stay("b", 9, 10, planned=True)), {"a": None, "b": None}),
    "an unplanned return after a planned one": (
        followed(stay("a", 0, 5), stay("b", 9, 10, planned=True), stay("c", 20, 21)),
        {"a": None, "b": "c", "c": None},
    ),
    "stays that overlap": (
        followed(stay("a", 0, 5), stay("b", 4, 9), stay("c", 20, 21)),
        {"a": NoIndex.SAME_EPISODE, "b": "c", "c": None},
    ),
    "a stay within another": (
        followed(stay("a", 0, 9), stay("b", 4, 5), stay("c", 20, 21)),
        {"b": NoIndex.SAME_EPISODE, "a": "c", "c": None},
    ),
    "stays that adjoin": (followed(stay("a", 0, 5), stay("b", 5, 9)), {"a": NoIndex.SAME_EPISODE, "b": None}),
    "an open stay swallows nothing": (
        followed(stay("a", 0, None), stay("b", 4, 9)), {"a": NoIndex.OPEN, "b": None}
    ),
    "back from another hospital within a day": (
        followed(stay("a", 0, 5, TRANSFERRED), stay("b", 6, 9)), {"a": NoIndex.SAME_EPISODE, "b": None}
    ),
    "back from another hospital later": (
        followed(stay("a", 0, 5, TRANSFERRED), stay("b", 7, 9)), {"a": NoIndex.TRANSFERRED, "b": None}
    ),
    "left against advice": (
        followed(stay("a", 0, 5, AGAINST_ADVICE), stay("b", 9, 10)), {"a": NoIndex.AGAINST_ADVICE, "b": None}
    ),
    "died in hospital": (followed(stay("a", 0, 5, DIED)), {"a": NoIndex.DIED}),
    "died before the discharge by what the Patient says": (followed(stay("a", 0, 5), deceased=5), {"a": NoIndex.DIED}),
    "died at home": (followed(stay("a", 0, 5), deceased=9), {"a": None}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_became_of_each_stay(case: str) -> None:
    found, expected = CASES[case]
    assert found == expected


STAYS = st.lists(
    st.builds(
        lambda number, admitted, days, disposition, planned: stay(
            f"{number}", admitted / 2, None if days is None else (admitted + days) / 2, disposition, planned=planned
        ),
        st.integers(0, 10**6),
        st.integers(0, 120),
        st.none() | st.integers(0, 20),
        st.sampled_from([None, "home", DIED, TRANSFERRED, AGAINST_ADVICE]),
        st.booleans(),
    ),
    max_size=8,
    unique_by=lambda one: one.encounter_pseudonym,
)


@given(STAYS, st.randoms(use_true_random=False))
def test_each_stay_is_followed_once_in_whatever_order_they_come(stays: list[Stay], random: object) -> None:
    mixed = list(stays)
    random.shuffle(mixed)  # type: ignore[attr-defined]  # Hypothesis's Random
    assert set(follow(mixed)) == set(follow(stays))
    assert sorted(one.stay for one in follow(stays)) == sorted(stays)


def row(discharged: float, record: str | None, outcome: Outcome = Outcome.PENDING) -> StayOutcome:
    return StayOutcome("dkfz", "e", "p", day(discharged), outcome, None, None, record, day(discharged))


def test_of_two_changes_the_later_one_counts_but_the_score_that_stood_at_the_discharge_stays() -> None:
    first, second = OutcomeChange(row(5, "r1"), True), OutcomeChange(row(5, "r2", Outcome.READMITTED), False)
    joined = second.after(first)
    assert joined.row is not None
    assert (joined.row.outcome, joined.row.record_id, joined.is_new) == (Outcome.READMITTED, "r1", True)


def test_a_discharge_at_another_time_after_all_has_the_score_of_that_time() -> None:
    moved = OutcomeChange(row(6, "r2"), False).after(OutcomeChange(row(5, "r1"), False))
    assert (moved.row and moved.row.record_id, moved.is_new) == ("r2", False)


def test_a_stay_that_was_taken_away_begins_anew() -> None:
    gone, again = OutcomeChange(None, False), OutcomeChange(row(5, "r2"), True)
    assert gone.after(OutcomeChange(row(5, "r1"), True)) == gone
    assert again.after(gone) == again
