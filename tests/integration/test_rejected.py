"""Rejected events are listed, shown without naming anybody, sent in again without doubling anything, or put aside."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from connectors.kafka import OutMessage, Publisher
from connectors.settings import Settings
from healthalliance.progress import fetch, wait_until_applied
from healthalliance.rejected import (
    EventId,
    Judged,
    Selection,
    _read_records,
    discard,
    grouped,
    judged,
    redrive,
    shown,
)
from schemas.audit import Action
from schemas.errors import ConfigurationError
from schemas.rejection import Reason
from schemas.topics import TopicFamily, topic_name
from tests.integration.command_line import run
from tests.integration.noting import noting
from tests.integration.reading import keys_of, latest_risk
from tests.integration.running import Trained, ready_worker
from tests.unit.schemas.fhir_events import encounter, to_bytes

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("no_worker")]

_INSTITUTION = "embl"
_NARROW = 1_000  # bytes that the first worker accepts
_STAY: dict[str, Any] = {"start": "2024-03-01T10:00:00Z", "end": "2024-03-05T10:00:00Z"}
_SHORTER: dict[str, Any] = {"start": "2024-03-01T10:00:00Z", "end": "2024-03-02T10:00:00Z"}


def large(value: dict[str, Any]) -> bytes:
    return to_bytes(value).ljust(_NARROW + 1)


@dataclass(frozen=True, slots=True)
class Redriven:
    """Events that were too large for one worker and were sent in again for another, twice."""

    settings: Settings = field(repr=False)
    ids: dict[str, EventId]
    before: list[Judged] = field(repr=False)
    first_groups: list[dict[str, Any]]
    shown_masked: dict[str, Any]
    discarded: int


def publish(settings: Settings, values: dict[str, bytes]) -> dict[str, EventId]:
    placed: dict[str, EventId] = {}
    publisher = Publisher(settings)
    for name, value in values.items():
        patient = name.partition(" ")[0]
        message = OutMessage(topic_name(TopicFamily.ENCOUNTERS, _INSTITUTION), f"Patient/{patient}".encode(), value)
        publisher.send(
            message,
            lambda partition, offset, name=name: placed.update(  # type: ignore[misc]
                {name: EventId(_INSTITUTION, partition, offset)}
            ),
        )
    publisher.flush()
    return placed


@pytest.fixture(scope="module")
def redriven(trained: Trained) -> Redriven:
    settings = trained.settings
    without_version = {"version": None, "meta": None}
    events = {
        "r1": large(encounter("r1-e", patient="r1", **_STAY)),
        "r2 as first sent": large(encounter("r2-e", patient="r2", **_STAY, **without_version)),
        "r2 corrected": to_bytes(encounter("r2-e", patient="r2", **_SHORTER, **without_version)),
        "r3": to_bytes(encounter("r3-e", patient="r3", status="gone", **_STAY)),
        "r4": to_bytes(encounter("r4-e", patient="r4", status="gone", **_STAY)),
    }
    with ready_worker(settings.model_copy(update={"event_max_bytes": _NARROW})):
        ids = publish(settings, events)
        wait_until_applied(settings, 120)
    groups = grouped(settings, _INSTITUTION, None, resolved=False)
    masked = shown(settings, ids["r1"], reveal=False)
    mine = Selection(events=tuple(ids.values()))
    before = judged(settings, mine)
    discarded = discard(settings, Selection(events=(ids["r4"],)), "a test of the sender's")
    with ready_worker(settings):
        passing = [one for one in before if one.passes]
        with noting(settings, (Action.REDRIVE, _INSTITUTION)):
            ended = run(settings, "rejected", "redrive", "--go", *(one.id for one in passing))
        assert ended.code == 0, ended.stderr
        redrive(settings, passing)  # as after a crash between publishing and noting it
        wait_until_applied(settings, 120)
    return Redriven(settings, ids, before, groups, masked, discarded)


def test_open_events_are_grouped_by_reason_and_path_with_a_hint(redriven: Redriven) -> None:
    groups = {(one["reason"], one["path"]): one for one in redriven.first_groups}
    assert groups[Reason.TOO_LARGE, ""]["events"] >= 2
    assert groups[Reason.INVALID_CODE, "Encounter.status"]["hint"]


def test_an_event_is_shown_without_what_it_says_of_anybody(redriven: Redriven) -> None:
    text = str({name: value for name, value in redriven.shown_masked.items() if name != "event"})
    assert "Encounter" in text
    assert not [word for word in ("r1-e", "Patient/r1", "2024-03-01", "finished") if word in text]


def test_an_event_is_shown_whole_where_that_is_asked_for(redriven: Redriven) -> None:
    found = shown(redriven.settings, redriven.ids["r1"], reveal=True)
    assert found["content"]["id"] == "r1-e"
    assert found["key"] == "Patient/r1"


def test_what_was_never_rejected_is_not_shown(redriven: Redriven) -> None:
    with pytest.raises(ConfigurationError):
        shown(redriven.settings, redriven.ids["r2 corrected"], reveal=True)


def test_the_rules_of_now_decide_what_passes(redriven: Redriven) -> None:
    verdicts = {one.id: (one.passes, [issue.reason for issue in one.issues]) for one in redriven.before}
    assert verdicts == {
        redriven.ids["r1"]: (True, []),
        redriven.ids["r2 as first sent"]: (True, []),
        redriven.ids["r3"]: (False, [Reason.INVALID_CODE]),
        redriven.ids["r4"]: (False, [Reason.INVALID_CODE]),
    }


def test_a_redriven_event_is_scored_once_though_it_was_published_twice(redriven: Redriven) -> None:
    pseudonym = keys_of(redriven.settings, _INSTITUTION).encounter_pseudonym("r1-e")
    rows = fetch(redriven.settings, "SELECT * FROM risk_scores WHERE encounter_pseudonym = $1", pseudonym)
    assert [row["superseded_by"] for row in rows] == [None]


def test_a_redriven_event_does_not_beat_its_later_correction(redriven: Redriven) -> None:
    found = latest_risk(redriven.settings, _INSTITUTION, ["r2-e"])
    assert found["r2-e"]["length_of_stay_days"] == 1.0


def test_redriven_and_discarded_events_are_no_longer_open(redriven: Redriven) -> None:
    left = judged(redriven.settings, Selection(events=tuple(redriven.ids.values())))
    assert [one.id for one in left] == [redriven.ids["r3"]]


def test_why_an_event_was_discarded_is_kept(redriven: Redriven) -> None:
    found = shown(redriven.settings, redriven.ids["r4"], reveal=False)
    assert redriven.discarded == 1
    assert (found["resolution"], found["because"]) == ("discarded", "a test of the sender's")


def test_events_are_read_one_by_one_without_a_wait_for_more(trained: Trained) -> None:
    """A broker holds an answer back for half a second where it hopes for more."""
    ids = [EventId(_INSTITUTION, 0, offset) for offset in range(60)]
    started = time.monotonic()
    assert _read_records(trained.settings, ids).keys() == {*ids}
    assert time.monotonic() - started < 15
