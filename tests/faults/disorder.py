"""What is sent twice, late and by clocks that are wrong comes to the same as in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from random import Random
from typing import Any

import orjson

from connectors.models import load_champion
from connectors.source_event import SourceEvent
from healthalliance.progress import fetch
from schemas.institutions import institution
from schemas.intake.event import RawEvent, parse_events
from schemas.intake.event_bytes import Limits
from schemas.intake.structure import structure_validator
from schemas.pseudonyms import institution_keys
from streams.decision import Event, Known, Sender, decide
from streams.scoring import score
from tests.faults.load import Keyed
from tests.faults.trial import Trial

_SHARE = 0.1  # of the events, for each kind of disorder
_LATE_BY = 500  # events at most
_SKEW_S = 24 * 3600

_ORDERED = "in order"


def disordered(events: Iterator[Keyed], trial: Trial) -> Iterator[Keyed]:
    """Put a tenth of the events later, send a tenth twice, and set the sender's clock wrong for a tenth."""
    rng = trial.rng
    ordered = trial.notes[_ORDERED] = [(id_, _skewed(event, rng)) for id_, event in events]
    queue: list[tuple[float, int, Keyed]] = []
    for number, one in enumerate(ordered):
        late = rng.uniform(1, _LATE_BY) if rng.random() < _SHARE else 0.0
        queue.append((number + late, number, one))
        if rng.random() < _SHARE:
            queue.append((number + rng.uniform(0, 2 * _LATE_BY), number, one))
    queue.sort(key=lambda item: item[:2])
    trial.figures["events_out_of_order"] = sum(then[1] < now[1] for now, then in pairwise(queue))
    yield from (one for _, _, one in queue)


def _skewed(event: SourceEvent, rng: Random) -> SourceEvent:
    if rng.random() >= _SHARE or event.value is None:
        return event
    try:
        document = orjson.loads(event.value)
    except ValueError:
        return event
    by = timedelta(seconds=rng.uniform(-_SKEW_S, _SKEW_S))
    for resource in [document, *(entry.get("resource", {}) for entry in document.get("entry", ()))]:
        stamped = resource.get("meta", {}).get("lastUpdated")
        if stamped:
            resource["meta"]["lastUpdated"] = (datetime.fromisoformat(stamped) + by).isoformat(timespec="milliseconds")
    return SourceEvent(event.key, orjson.dumps(document), event.at, event.fault)


def as_in_order(trial: Trial) -> dict[str, int]:
    """Compare every encounter's latest score with that of the same events, each once and in order."""
    expected = {key: one for id_ in _ids(trial) for key, one in _latest_in_order(trial, id_).items()}
    found = {(row["institution"], row["encounter"]): row for row in fetch(trial.settings, _LATEST)}
    differing = sum(
        found[key]["probability"] != one.probability or found[key]["as_of"] != one.as_of
        for key, one in expected.items()
        if key in found
    )
    wrong = {
        "loads in order": int(not trial.figures["events_out_of_order"]),
        "encounters without their score": len(expected.keys() - found.keys()),
        "encounters with a score in disorder only": len(found.keys() - expected.keys()),
        "scores that differ from those in order": differing,
    }
    trial.figures["encounters"] = len(expected)
    return {name: number for name, number in wrong.items() if number}


def _ids(trial: Trial) -> Iterable[str]:
    return sorted({id_ for id_, _ in trial.notes[_ORDERED]})


def _latest_in_order(trial: Trial, id_: str) -> dict[tuple[str, str], Any]:
    settings, model = trial.settings, load_champion(trial.settings)
    sender = Sender(institution(id_), institution_keys(settings.pseudonym_key.get_secret_value(), id_))
    events = [event for one, event in trial.notes[_ORDERED] if one == id_]
    raws = [RawEvent("", 0, number, one.key, one.value, one.at) for number, one in enumerate(events)]
    parsed = parse_events(raws, sender.institution, Limits(), structure_validator("fhirkit"))
    both = zip(raws, parsed, strict=True)
    decision = decide([Event(raw, one, sender, "") for raw, one in both], Known({}, {}), model.version)
    latest: dict[tuple[str, str], Any] = {}
    for one in score(decision.to_score, model, datetime.now().astimezone()):
        latest[id_, one.encounter_pseudonym] = one
    return {key: one for key, one in latest.items() if one.status != "entered-in-error"}


_LATEST = """
SELECT institution, encounter_pseudonym::text AS encounter, probability, as_of FROM latest_risk
"""
