"""Which scores are alerted: crossings, whatever is repeated or late."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from healthalliance.alerting.decision import Change, Left, State, decide, decide_all, is_newer
from schemas.alert import Crossing, Opened, Scored
from schemas.messages import Band, rank
from tests.unit.healthalliance.alert_scores import BEGIN, a_score

BANDS = {"l": "low", "m": "medium", "h": "high", "-": None}


def of(letters: str) -> list[Scored]:
    return [a_score(offset, BANDS[letter]) for offset, letter in enumerate(letters)]


def run(scores: Iterable[Scored], least: Band, *, told_at_once: bool) -> tuple[State, list[Change | None]]:
    """Take scores in; `told_at_once`: each alert is given out before the next score."""
    state, changes = State(), []
    for one in scores:
        change = decide(state, one, least)
        changes.append(change)
        if change:
            state = replace(change.state, waiting=None) if told_at_once else change.state
    return state, changes


def crossed(scores: Iterable[Scored], least: Band) -> list[str]:
    """Name the scores that opened an alert."""
    scores = list(scores)
    _, changes = run(scores, least, told_at_once=True)
    return [one.record_id for one, change in zip(scores, changes, strict=True) if change and change.opened]


@pytest.mark.parametrize(
    ("letters", "least", "alerted"),
    [
        ("h", "high", "h"),
        ("l", "high", "."),
        ("m", "high", "."),
        ("mh", "high", ".h"),
        ("hh", "high", "h."),
        ("hhhh", "high", "h..."),
        ("hlh", "high", "h.h"),
        ("hmh", "high", "h.h"),
        ("h-h", "high", "h.h"),
        ("-", "high", "."),
        ("lmh", "medium", ".mh"),
        ("hmh", "medium", "h.h"),
        ("hml", "medium", "h.."),
        ("mhm", "medium", "mh."),
        ("mmhh", "medium", "m.h."),
        ("m-mh", "medium", "m.mh"),
        ("lm", "low", "lm"),
        ("mlm", "low", "m.m"),
        ("l-l", "low", "l.l"),
    ],
)
def test_an_encounter_is_alerted_once_for_each_band_that_it_rises_into(letters: str, least: str, alerted: str) -> None:
    scores = of(letters)
    expected = [one.record_id for one, mark in zip(scores, alerted, strict=True) if mark != "."]
    assert crossed(scores, Band(least)) == expected


@pytest.mark.parametrize(
    ("letters", "least", "waits", "left"),
    [
        ("h", "high", 0, []),
        ("hh", "high", 0, []),
        ("hl", "high", None, [Left.LOWER]),
        ("h-", "high", None, [Left.LOWER]),
        ("hlh", "high", 2, [Left.LOWER]),
        ("mh", "medium", 1, [Left.HIGHER]),
        ("hm", "medium", 0, []),  # nobody knew of medium either
        ("hml", "medium", None, [Left.LOWER]),
        ("hmh", "medium", 2, [Left.HIGHER]),
        ("mhm", "medium", 1, [Left.HIGHER]),
        ("mhl", "medium", None, [Left.HIGHER, Left.LOWER]),
    ],
)
def test_an_alert_waits_until_a_newer_score_outdates_it(
    letters: str, least: str, waits: int | None, left: list[Left]
) -> None:
    scores = of(letters)
    state, changes = run(scores, Band(least), told_at_once=False)
    assert (state.waiting.record_id if state.waiting else None) == (None if waits is None else scores[waits].record_id)
    assert [one.left for one in changes if one and one.left] == left


def test_a_rise_that_waits_goes_when_the_score_falls_back_to_what_was_told() -> None:
    medium, high, again = of("mhm")
    state = decide(State(medium), high, Band.MEDIUM)
    assert state
    fallen = decide(state.state, again, Band.MEDIUM)
    assert fallen
    assert (fallen.left, fallen.state) == (Left.LOWER, State(again))


def test_what_was_there_before_the_alerts_began_stands_but_is_not_alerted() -> None:
    high, low, again = of("hlh")
    first = decide(State(), high, Band.HIGH, alerting=False)
    assert first == Change(State(high))
    second = decide(first.state, low, Band.HIGH)
    assert second
    third = decide(second.state, again, Band.HIGH)
    assert third
    assert third.opened


# --- batches


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("lmh-")), min_size=1, max_size=14), st.data())
def test_where_a_batch_is_cut_changes_nothing_but_alerts_that_nobody_was_told(
    rises: list[tuple[str, str]], data: st.DataObject
) -> None:
    scores = [a_score(offset, BANDS[letter], encounter=name) for offset, (name, letter) in enumerate(rises)]
    whole = decide_all({}, scores, Band.MEDIUM, BEGIN)
    cut = data.draw(st.integers(0, len(scores)))
    first = decide_all({}, scores[:cut], Band.MEDIUM, BEGIN)
    waiting = {one.score.encounter_pseudonym: one.crossing for one in first.opened}
    states = {one.encounter_pseudonym: State(one, waiting.get(one.encounter_pseudonym)) for one in first.standings}
    second = decide_all(states, scores[cut:], Band.MEDIUM, BEGIN)
    stands = {one.encounter_pseudonym: one for part in (first, second) for one in part.standings}
    assert stands == {one.encounter_pseudonym: one for one in whole.standings}
    still = [one for one in (*first.opened, *second.opened) if one.crossing.record_id not in second.left]
    assert sorted(still, key=str) == sorted(whole.opened, key=str)
    assert whole.left == {}
    assert (whole.repeats, first.repeats, second.repeats) == (0, 0, 0)


def test_a_batch_tells_why_alerts_of_before_left_and_what_was_a_repeat() -> None:
    high, low = of("hl")
    first = decide_all({}, [high, high], Band.HIGH, BEGIN)
    assert (first.opened, first.repeats) == ((Opened(Crossing(high.record_id, None), high),), 1)
    second = decide_all({"e": State(high, first.opened[0].crossing)}, [low, high], Band.HIGH, BEGIN)
    assert (second.standings, second.opened, second.repeats) == ((low,), (), 1)
    assert second.left == {high.record_id: Left.LOWER}
    assert decide_all({}, [high], Band.HIGH, BEGIN + timedelta(hours=1)).opened == ()


# --- order


def test_of_one_partition_the_higher_offset_is_newer_whatever_the_clocks_say() -> None:
    older, newer = a_score(1, "low", at=BEGIN + timedelta(days=1)), a_score(2, "high", at=BEGIN)
    assert is_newer(newer, older)
    assert not is_newer(older, newer)


def test_across_topics_what_supersedes_is_newer_whatever_the_clocks_say() -> None:
    older = a_score(9, "low", at=BEGIN + timedelta(days=1))
    newer = a_score(1, "high", topic_id="u", supersedes=older.record_id, at=BEGIN)
    assert is_newer(newer, older)
    assert not is_newer(older, newer)


def test_where_the_link_is_missing_the_later_one_is_newer() -> None:
    older, newer = a_score(9, "low", at=BEGIN), a_score(1, "high", topic_id="u", at=BEGIN + timedelta(seconds=1))
    assert is_newer(newer, older)
    assert not is_newer(older, newer)


def test_no_score_is_newer_than_itself() -> None:
    assert not is_newer(a_score(1, "low"), a_score(1, "low"))


chains = st.text("lmh-", min_size=1, max_size=12).map(of)
leasts = st.sampled_from(list(Band))


@given(chains, leasts, st.data())
def test_repeats_and_late_ones_change_nothing(scores: list[Scored], least: Band, data: st.DataObject) -> None:
    mixed: list[Scored] = []
    for number, one in enumerate(scores):
        mixed += [one, *data.draw(st.lists(st.sampled_from(scores[: number + 1]), max_size=3))]
    assert crossed(mixed, least) == crossed(scores, least)
    for told_at_once in (True, False):
        assert run(mixed, least, told_at_once=told_at_once)[0] == run(scores, least, told_at_once=told_at_once)[0]


@given(chains.flatmap(lambda scores: st.tuples(st.just(scores), st.permutations(scores))), leasts)
def test_in_any_order_the_newest_stands_and_alerts_are_those_of_the_news(
    case: tuple[list[Scored], Sequence[Scored]], least: Band
) -> None:
    scores, mixed = case
    state, _ = run(mixed, least, told_at_once=True)
    assert state.standing == scores[-1]
    newest, news = -1, list[Scored]()
    for one in mixed:
        if one.source_offset > newest:
            newest, news = one.source_offset, [*news, one]
    assert crossed(mixed, least) == crossed(news, least)
    assert len(crossed(mixed, least)) <= len(crossed(scores, least))


@given(chains, leasts)
def test_whoever_stands_above_what_people_know_has_an_alert_that_waits(scores: list[Scored], least: Band) -> None:
    state, _ = run(scores, least, told_at_once=False)
    assert state.standing
    assert (state.waiting is not None) == (rank(state.standing.band) >= rank(least))


@given(chains, st.sets(st.integers(0, 11)), leasts)
def test_people_never_know_of_less_than_what_stands(scores: list[Scored], told: set[int], least: Band) -> None:
    state, known = State(), 0  # the rank that people were told of since the encounter last fell
    for number, one in enumerate(scores):
        change = decide(state, one, least)
        assert change
        state = change.state
        now = rank(one.band) if rank(one.band) >= rank(least) else 0
        known = min(known, now)
        assert (state.waiting is not None) == (now > known)
        if state.waiting and number in told:
            state, known = State(one), now
