"""The faults that real senders make, on top of a true course that none of them destroys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import Random
from typing import Any

from connectors.simulator.profiles import Fault
from connectors.simulator.records import Moment, Step, Visit, VisitClass

# Faults that make an event unreadable; the sender repeats it, mended.
_BROKEN = frozenset(
    {
        Fault.MISSING_SUBJECT,
        Fault.INVALID_DATE,
        Fault.END_BEFORE_START,
        Fault.TRUNCATED,
        Fault.UNKNOWN_STATUS,
    }
)
_MISTAKEN = frozenset({Fault.RETRACTED, Fault.TOMBSTONE})
# How many events a fault adds to the true ones; one for all others.
_MORE_EVENTS = {Fault.OUT_OF_ORDER: 0, Fault.RETRACTED: 2, Fault.TOMBSTONE: 2}
# With more than half of the events at fault there would not be enough true ones to make them of.
MOST_FAULTS = 0.5


@dataclass(frozen=True, slots=True)
class Delivery:
    """A moment of a visit on its way: when it is sent, and with which fault."""

    at: datetime
    visit: Visit
    moment: Moment
    fault: Fault | None = None


def deliveries(visit: Visit, weights: Mapping[Fault, float], fault_share: float, rng: Random) -> Iterator[Delivery]:
    """Send all of a visit's events, some of them with a fault, so that the true course always arrives."""
    chance = _chance(weights, fault_share)
    for moment in visit.moments:
        if rng.random() < chance:
            yield from _faulty(visit, moment, _choose(visit, moment, weights, rng), rng)
        else:
            yield Delivery(moment.at, visit, moment)


def _chance(weights: Mapping[Fault, float], fault_share: float) -> float:
    """Return how often a true event gets a fault, so that of all events sent the given share has one."""
    more = sum(weight * _MORE_EVENTS.get(fault, 1) for fault, weight in weights.items()) / sum(weights.values())
    return fault_share / (1 - fault_share * more) if fault_share * (1 + more) < 1 else 1.0


def _choose(visit: Visit, moment: Moment, weights: Mapping[Fault, float], rng: Random) -> Fault:
    fault = rng.choices(list(weights), list(weights.values()))[0]
    is_last = moment is visit.moments[-1]
    is_possible = moment.step is not Step.CLINICAL and not (fault is Fault.OUT_OF_ORDER and is_last)
    return fault if is_possible else Fault.DUPLICATE


def _faulty(visit: Visit, moment: Moment, fault: Fault, rng: Random) -> Iterator[Delivery]:
    delay = timedelta(seconds=rng.randint(30, 3600))
    if fault is Fault.OUT_OF_ORDER:
        yield Delivery(visit.discharged + delay, visit, moment, fault)
    elif fault in _BROKEN:
        yield Delivery(moment.at, visit, moment, fault)
        yield Delivery(moment.at + delay, visit, moment)
    elif fault in _MISTAKEN:
        yield Delivery(moment.at, visit, moment)
        yield from _mistaken(visit, moment, delay, fault)
    else:
        yield Delivery(moment.at, visit, moment)
        yield Delivery(moment.at + delay, visit, moment, fault)


def _mistaken(visit: Visit, moment: Moment, delay: timedelta, fault: Fault) -> Iterator[Delivery]:
    """Register a visit that never was, and take it back."""
    at = moment.at + timedelta(seconds=20)
    registered, cancelled = Moment(at, Step.ADMISSION, 1), Moment(at + delay, Step.CANCEL, 2)
    never = replace(
        visit,
        id=f"{visit.id}-x{moment.version}",
        class_=VisitClass.AMBULATORY,
        admitted=at,
        is_emergency=False,
        has_department=False,
        moments=(registered, cancelled),
    )
    yield Delivery(registered.at, never, registered)
    yield Delivery(cancelled.at, never, cancelled, fault)


def break_encounter(encounter: dict[str, Any], fault: Fault | None) -> None:
    """Put a fault into an Encounter that was right; faults of the bytes or the delivery leave it alone."""
    if fault in _BREAKS:
        _BREAKS[fault](encounter)


def _lose_subject(encounter: dict[str, Any]) -> None:
    del encounter["subject"]


def _start_on_no_day(encounter: dict[str, Any]) -> None:
    start = encounter["period"]["start"]
    encounter["period"]["start"] = f"{start[:4]}-02-30{start[10:]}"


def _end_before_start(encounter: dict[str, Any]) -> None:
    start = datetime.fromisoformat(encounter["period"]["start"])
    encounter["period"]["end"] = (start - timedelta(days=3)).isoformat(timespec="seconds")


def _make_up_a_status(encounter: dict[str, Any]) -> None:
    encounter["status"] = "gibberish"


_BREAKS: dict[Fault, Callable[[dict[str, Any]], None]] = {
    Fault.MISSING_SUBJECT: _lose_subject,
    Fault.INVALID_DATE: _start_on_no_day,
    Fault.END_BEFORE_START: _end_before_start,
    Fault.UNKNOWN_STATUS: _make_up_a_status,
}
