"""What a budget would have meant: the live consumer's decisions, over scores that are stored: pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta

from healthalliance.alerting.budget import DAYS_OF, day_begin, right_at, rights, turn
from healthalliance.alerting.decision import State, decide
from schemas.alert import Scored, Waiting
from schemas.messages import Band

Rights = Callable[[int, datetime], int]

_MOMENT = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Moment:
    """A score and when it came."""

    at: datetime
    score: Scored


@dataclass(frozen=True, slots=True)
class Day:
    """A day in Berlin: encounters that crossed, alerts that were sent, and what waited at its end.

    lowest_sent, highest_left: probabilities; None where nothing was sent, or nothing waited.
    """

    day: date
    crossings: int
    sent: int
    left: int
    lowest_sent: float | None
    highest_left: float | None


@dataclass(frozen=True, slots=True)
class Catch:
    """Of encounters whose outcome is known: how many were readmitted, and how many of all and of these were alerted."""

    known: int
    readmitted: int
    alerted: int
    caught: int

    @property
    def share_caught(self) -> float | None:
        """Return the share of the readmissions that were alerted."""
        return self.caught / self.readmitted if self.readmitted else None

    @property
    def share_right(self) -> float | None:
        """Return the share of the alerted encounters that were readmitted."""
        return self.caught / self.alerted if self.alerted else None


@dataclass(frozen=True, slots=True)
class Simulation:
    """What a budget would have meant. day_end: had each day's alerts been chosen at its end, which is too late."""

    days: tuple[Day, ...]
    sent: int
    catch: Catch
    unlimited: Catch
    day_end: Catch | None


def simulate(
    moments: Sequence[Moment], least: Band, budget: int | None, since: datetime, readmitted: Mapping[str, bool]
) -> Simulation:
    """Run the alerts over scores in the order they came.

    since: alerts begin then; what came before only stands. readmitted: by encounter pseudonym, of known outcomes.
    """
    unlimited = _Run(least, None, since, rights)
    unlimited.through(moments)
    chosen, late = unlimited, None
    if budget is not None:
        chosen, late = _Run(least, budget, since, rights), _Run(least, budget, since, _at_the_days_end)
        chosen.through(moments)
        late.through(moments)
    in_time = {one.score.encounter_pseudonym for one in moments if one.at >= since}
    known = {encounter: yes for encounter, yes in readmitted.items() if encounter in in_time}
    return Simulation(
        days=tuple(chosen.days),
        sent=sum(one.sent for one in chosen.days),
        catch=_catch(chosen.alerted, known),
        unlimited=_catch(unlimited.alerted, known),
        day_end=_catch(late.alerted, known) if late else None,
    )


def _catch(alerted: set[str], readmitted: Mapping[str, bool]) -> Catch:
    known = alerted & readmitted.keys()
    return Catch(
        known=len(readmitted),
        readmitted=sum(readmitted.values()),
        alerted=len(known),
        caught=sum(readmitted[encounter] for encounter in known),
    )


def _at_the_days_end(budget: int, now: datetime) -> int:
    return budget if day_begin(now + _MOMENT) != day_begin(now) else 0


@dataclass(slots=True)
class _Today:
    begin: datetime
    crossings: int = 0
    sent: list[float] = field(default_factory=list)


class _Run:
    """One pass over the scores."""

    def __init__(self, least: Band, budget: int | None, since: datetime, rule: Rights) -> None:
        self._least, self._budget, self._since, self._rule = least, budget, since, rule
        self._states: dict[str, State] = {}
        self._queue: dict[str, datetime] = {}  # encounter → when it crossed
        self._today: _Today | None = None
        self._passed = since
        self.days: list[Day] = []
        self.alerted: set[str] = set()

    def through(self, moments: Iterable[Moment]) -> None:
        for one in moments:
            self._pass_time(one.at)
            self._take(one)
            self._send(one.at)
        if self._today is not None:
            self._send_until(_next_day(self._today.begin))
            self._end_day()

    def _take(self, one: Moment) -> None:
        encounter = one.score.encounter_pseudonym
        change = decide(self._states.get(encounter, State()), one.score, self._least, alerting=one.at >= self._since)
        if change is None:
            return
        self._states[encounter] = change.state
        if change.state.waiting is None:
            self._queue.pop(encounter, None)
        elif change.opened:
            self._queue[encounter] = one.at
            if self._today:
                self._today.crossings += 1

    def _pass_time(self, until: datetime) -> None:
        """Send at each moment up to `until` at which a right arises, and end the days that are over."""
        if until < self._since:
            return
        if self._today is None:
            self._today = _Today(day_begin(until))
        while self._today.begin < day_begin(until):
            self._send_until(_next_day(self._today.begin))
            self._end_day()
            self._today = _Today(_next_day(self._today.begin))
        self._send_until(until)

    def _send_until(self, until: datetime) -> None:
        if self._budget is not None and self._today is not None:
            for at in self._chances(self._today):
                if self._passed < at <= until:
                    self._send(at)
        self._passed = until

    def _chances(self, today: _Today) -> Iterator[datetime]:
        assert self._budget is not None
        yield from (right_at(self._budget, number, today.begin) + _MOMENT for number in range(self._budget))
        yield _next_day(today.begin) - _MOMENT

    def _send(self, at: datetime) -> None:
        if self._today is None or not self._queue:
            return
        free = None if self._budget is None else self._rule(self._budget, at) - len(self._today.sent)
        if free is not None and free <= 0:
            return
        chosen = turn((self._waiting(encounter) for encounter in self._queue), at, free)
        for one in chosen.give:
            self._close(one.alert_id)
            self._today.sent.append(one.probability)
            self.alerted.add(one.alert_id)
        for one in chosen.expired:
            self._close(one.alert_id)

    def _close(self, encounter: str) -> None:
        del self._queue[encounter]
        self._states[encounter] = State(self._states[encounter].standing)

    def _waiting(self, encounter: str) -> Waiting:
        standing, at = self._states[encounter].standing, self._queue[encounter]
        assert standing is not None
        assert standing.band is not None
        assert standing.probability is not None
        return Waiting(
            alert_id=encounter, probability=standing.probability, band=standing.band, decided_at=at, due_at=at
        )

    def _end_day(self) -> None:
        assert self._today is not None
        left = [self._waiting(encounter).probability for encounter in self._queue]
        sent = self._today.sent
        self.days.append(
            Day(
                self._today.begin.date(), self._today.crossings, len(sent), len(left),
                min(sent, default=None), max(left, default=None),
            )
        )  # fmt: skip


def _next_day(begin: datetime) -> datetime:
    return datetime.combine(begin.date() + timedelta(days=1), time(), DAYS_OF)
