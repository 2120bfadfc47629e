"""Folding: any order, any number of deliveries, the same history and the same bytes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.history import (
    DELETED,
    ConditionFacts,
    Effect,
    EncounterFacts,
    Entry,
    Facts,
    Kind,
    MedicationFacts,
    PatientFacts,
    PatientHistory,
    Scheme,
    ScoreState,
    Version,
    decode_history,
    encode_history,
    fold,
    held_entry,
)

AT = datetime(2024, 1, 1, tzinfo=UTC)
FACTS: dict[Kind, Facts] = {
    Kind.PATIENT: PatientFacts(date(1950, 1, 1), "female", False, None),
    Kind.ENCOUNTER: EncounterFacts("finished", "IMP", None, None, AT, AT, None, "home", True),
    Kind.CONDITION: ConditionFacts("I50", AT, None, "e"),
    Kind.MEDICATION: MedicationFacts("C03", AT, None, None),
}


def version(number: int, scheme: Scheme = Scheme.VERSION_ID) -> Version:
    return Version(scheme, number)


def entry(kind: Kind, id_: str, version_: Version, content: str = "", retracts: bool = False) -> Entry:
    digest = b"" if version_ == DELETED else f"{kind}{id_}{version_}{content}".encode()
    return Entry(kind, id_, "p", "", version_, digest, None if retracts or version_ == DELETED else FACTS[kind])


def folded(entries: Iterable[Entry], history: PatientHistory | None = None) -> PatientHistory:
    history = history or PatientHistory("p")
    for one in entries:
        history, _ = fold(history, one)
    return history


VERSIONS = st.builds(
    version, st.integers(0, 3), st.sampled_from([Scheme.OFFSET, Scheme.LAST_UPDATED, Scheme.VERSION_ID])
)
ENTRIES = st.lists(
    st.builds(
        # Content is bound to the version: two contents under one version are a conflict.
        lambda kind, id_, version_: entry(
            kind, "p" if kind is Kind.PATIENT else id_, version_, "", version_.number == 2
        ),
        st.sampled_from(Kind),
        st.sampled_from("abc"),
        VERSIONS | st.just(DELETED),
    ),
    max_size=20,
)


@settings(max_examples=200, deadline=None)
@given(ENTRIES, st.data())
def test_any_order_of_any_number_of_deliveries_gives_the_same_bytes(entries: list[Entry], data: st.DataObject) -> None:
    again = data.draw(st.lists(st.sampled_from(entries), max_size=8)) if entries else []
    shuffled = data.draw(st.permutations(entries + again))
    assert encode_history(folded(shuffled)) == encode_history(folded(entries))


@settings(max_examples=100, deadline=None)
@given(ENTRIES)
def test_what_is_folded_again_changes_nothing(entries: list[Entry]) -> None:
    once = folded(entries)
    for one in entries:
        again, effect = fold(once, one)
        assert again is once or encode_history(again) == encode_history(once)
        assert effect in (Effect.UNCHANGED, Effect.DELETED_BEFORE)


@settings(max_examples=100, deadline=None)
@given(ENTRIES)
def test_of_each_resource_the_greatest_version_is_held(entries: list[Entry]) -> None:
    history = folded(entries)
    for kind, id_ in {(one.kind, one.id) for one in entries}:
        held = held_entry(history, kind, id_)
        assert held is not None
        assert held.version == max(one.version for one in entries if (one.kind, one.id) == (kind, id_))


@settings(max_examples=100, deadline=None)
@given(ENTRIES)
def test_a_history_is_read_back_as_it_was_written(entries: list[Entry]) -> None:
    history = folded(entries)
    assert decode_history(encode_history(history)) == history


def test_a_history_with_scores_and_erased_encounters_is_read_back() -> None:
    history = PatientHistory("p", scores={"b": ScoreState("r", AT, b"1"), "a": ScoreState("", AT, b"2")}, erased=("x",))
    assert decode_history(encode_history(history)) == history


def test_folding_does_not_change_the_history_it_is_given() -> None:
    empty = PatientHistory("p")
    folded([entry(kind, "a", version(1)) for kind in Kind], empty)
    assert empty == PatientHistory("p")


@pytest.mark.parametrize("kind", Kind)
def test_a_deletion_wins_in_any_order_and_for_good(kind: Kind) -> None:
    deletion, newest = entry(kind, "a", DELETED), entry(kind, "a", version(99))
    for order in ([deletion, newest], [newest, deletion]):
        held = held_entry(folded(order), kind, "a")
        assert held is not None
        assert (held.version, held.facts) == (DELETED, None)
    assert fold(folded([deletion]), newest)[1] is Effect.DELETED_BEFORE


@pytest.mark.parametrize("kind", Kind)
def test_a_retraction_holds_until_a_newer_version_says_otherwise(kind: Kind) -> None:
    retracted = folded([entry(kind, "a", version(1)), entry(kind, "a", version(2), retracts=True)])
    held = held_entry(retracted, kind, "a")
    assert held is not None
    assert held.facts is None
    back = held_entry(folded([entry(kind, "a", version(3))], retracted), kind, "a")
    assert back is not None
    assert back.facts == FACTS[kind]


@pytest.mark.parametrize("kind", Kind)
def test_of_two_contents_under_one_version_the_first_stays(kind: Kind) -> None:
    first, second = entry(kind, "a", version(1), "first"), entry(kind, "a", version(1), "second")
    history, effect = fold(folded([first]), second)
    held = held_entry(history, kind, "a")
    assert effect is Effect.CONFLICT
    assert held is not None
    assert held.digest == first.digest


def test_a_stronger_scheme_beats_any_number_of_a_weaker_one() -> None:
    ascending = [
        version(10**17, Scheme.OFFSET),
        version(10**16, Scheme.LAST_UPDATED),
        version(1, Scheme.VERSION_ID),
        version(2, Scheme.VERSION_ID),
        version(10, Scheme.VERSION_ID),
        DELETED,
    ]
    backwards = ascending[::-1]
    assert sorted(backwards) == ascending
    assert str(ascending[2]) == "version_id:1"
