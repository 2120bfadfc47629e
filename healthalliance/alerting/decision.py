"""Which scores are news, and which of them are to be alerted: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from schemas.alert import Crossing, Opened, Scored
from schemas.messages import Band, rank


class Left(StrEnum):
    """Why an alert left the queue without being given to anybody."""

    LOWER = "lower"  # a newer score lies below it, or was retracted
    HIGHER = "higher"  # a newer score has crossed into a higher band, which has an alert of its own
    EXPIRED = "expired"  # it waited for its turn for too long


@dataclass(frozen=True, slots=True)
class State:
    """An encounter's newest score that was seen, and its alert that waits, if one does."""

    standing: Scored | None = None
    waiting: Crossing | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What a score changes. left: why the alert that waited no longer does; opened: the one that waits since."""

    state: State
    left: Left | None = None
    opened: bool = False


def is_newer(score: Scored, standing: Scored) -> bool:
    """Tell whether a score of an encounter replaces the one that stands.

    A worker that was frozen may publish an older score after a newer one, and a crash repeats some. Of two scores from
    one partition the one with the higher offset is newer; else the one that supersedes the other; else, where a link
    of the chain is missing, the one that was made later.
    """
    if score.record_id == standing.record_id:
        return False
    if (score.topic_id, score.source_partition) == (standing.topic_id, standing.source_partition):
        return score.source_offset > standing.source_offset
    if score.supersedes == standing.record_id:
        return True
    if standing.supersedes == score.record_id:
        return False
    return score.scored_at > standing.scored_at


def decide(state: State, score: Scored, least: Band, *, alerting: bool = True) -> Change | None:
    """Take a score in; None if it is no news.

    An encounter crosses where its standing score reaches the least band coming from below, or a higher band than it was
    in. Its alert waits until it is given out or a newer score outdates it: one that falls back to what people know of
    already, or below the least band. One that falls to something between stays, as the lower news that it is now.

    alerting: False for scores that were there before the alerts began, which stand but are not told of.
    """
    if state.standing is not None and not is_newer(score, state.standing):
        return None
    before = _told(state.standing.band, least) if state.standing else None
    now = _told(score.band, least)
    waiting = state.waiting
    if rank(now) > rank(before) and alerting:
        opened = Crossing(score.record_id, waiting.known if waiting else before)
        return Change(State(score, opened), Left.HIGHER if waiting else None, opened=True)
    if waiting and rank(now) <= rank(waiting.known):
        return Change(State(score), Left.LOWER)
    return Change(State(score, waiting))


@dataclass(frozen=True, slots=True)
class Decided:
    """What a batch of scores changes.

    standings: the new standing score of each encounter that has one. left: why alerts of before no longer wait, by the
    record that crossed. repeats: scores that were no news.
    """

    standings: tuple[Scored, ...]
    opened: tuple[Opened, ...]
    left: Mapping[str, Left]
    repeats: int


def decide_all(states: Mapping[str, State], scores: Iterable[Scored], least: Band, started_at: datetime) -> Decided:
    """Take scores in, in their order; `states` by encounter pseudonym. What was scored before `started_at` only stands.

    An alert that opens and leaves within the batch has been told to nobody, and is left out.
    """
    now, repeats = dict(states), 0
    opened, left = dict[str, Opened](), dict[str, Left]()
    for score in scores:
        before = now.get(score.encounter_pseudonym, State())
        change = decide(before, score, least, alerting=score.scored_at >= started_at)
        if change is None:
            repeats += 1
            continue
        now[score.encounter_pseudonym] = change.state
        if change.left and before.waiting and opened.pop(before.waiting.record_id, None) is None:
            left[before.waiting.record_id] = change.left
        if change.opened and change.state.waiting:
            opened[score.record_id] = Opened(change.state.waiting, score)
    changed = (one.standing for encounter, one in now.items() if one is not states.get(encounter))
    return Decided(tuple(one for one in changed if one), tuple(opened.values()), left, repeats)


def _told(band: Band | None, least: Band) -> Band | None:
    """Return a band where alerts are told of it."""
    return band if rank(band) >= rank(least) else None
