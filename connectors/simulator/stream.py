"""All patients' events of a hospital as one stream in time order."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from random import Random

import orjson

from connectors.simulator.course import Course
from connectors.simulator.faults import MOST_FAULTS, Delivery, break_encounter, deliveries
from connectors.simulator.fhir import clinical, message
from connectors.simulator.profiles import Fault, profile_of
from connectors.simulator.records import Step
from connectors.source_event import SourceEvent
from schemas.errors import ConfigurationError

EPOCH = datetime(2022, 1, 1, tzinfo=UTC)

# When, which patient, in which place of that patient's: unique, so deliveries themselves are never compared.
# Without a delivery it only keeps a patient's turn.
_Queued = tuple[datetime, int, int, Delivery | None]


def simulate(
    institution: str,
    seed: int,
    patients: int,
    start: datetime,
    until: datetime,
    *,
    epoch: datetime = EPOCH,
    fault_share: float = 0.01,
) -> Iterator[SourceEvent]:
    """Simulate a hospital's events with `at` in [start, until), in time order.

    Courses begin at `epoch` and depend on nothing but seed, institution and patient, so the windows of one
    simulation join without a seam, and more patients leave the courses of the others as they are.
    fault_share: which share of the events has one of the faults of `Fault`, 0 to 0.5.
    Memory grows with `patients`, by some 6 kB each, not with the window.
    """
    if not 0 <= fault_share <= MOST_FAULTS:
        raise ConfigurationError(f"The share of faults is {fault_share}; it must lie between 0 and {MOST_FAULTS}.")
    profile = profile_of(institution)
    courses = (Course(institution, profile, seed, number, epoch) for number in range(patients))
    for at, _, _, delivery in heapq.merge(*(_patient_stream(one, seed, fault_share) for one in courses)):
        if at >= until:
            return
        if delivery is not None and at >= start:
            yield _written(delivery)


def _patient_stream(course: Course, seed: int, fault_share: float) -> Iterator[_Queued]:
    number, places = course.person.number, count()
    waiting: list[_Queued] = []
    while (planned := course.planned()) is not None:
        while waiting and waiting[0][0] < planned:
            yield heapq.heappop(waiting)
        # Only when everybody's time has come that far is the visit made, so most patients hold none.
        yield planned, number, next(places), None
        visit = course.next_visit()
        # Faults have their own randomness, so that the courses stay the same without them.
        rng = Random(f"{seed}/{visit.id}/faults")
        for delivery in deliveries(visit, course.profile.fault_weights, fault_share, rng):
            heapq.heappush(waiting, (delivery.at, number, next(places), delivery))
    while waiting:
        yield heapq.heappop(waiting)


def _written(delivery: Delivery) -> SourceEvent:
    visit, moment, fault = delivery.visit, delivery.moment, delivery.fault
    name = str(fault) if fault else None
    if fault is Fault.TOMBSTONE and moment.step is Step.CANCEL:
        return SourceEvent(f"Encounter/{visit.id}".encode(), None, delivery.at, name)
    value = _value(delivery)
    if fault is Fault.TRUNCATED:
        value = value[: len(value) * 2 // 3]
    return SourceEvent(f"Patient/{visit.person.id}".encode(), value, delivery.at, name)


def _value(delivery: Delivery) -> bytes:
    if delivery.moment.step is Step.CLINICAL:
        return orjson.dumps(clinical(delivery.visit, delivery.moment)[0])
    document = message(delivery.visit, delivery.moment)
    _, _, encounter, *_ = document["entry"]
    break_encounter(encounter["resource"], delivery.fault)
    return orjson.dumps(document)
