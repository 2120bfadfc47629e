"""Every event counts once, whatever is delivered twice, in whatever order, and whoever dies meanwhile."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from connectors.models import load_champion
from connectors.settings import Settings
from connectors.source_event import SourceEvent
from healthalliance.files import score_files
from healthalliance.progress import OUTCOMES, fetch, read_progress, wait_until_applied
from healthalliance.publishing import Ledger, publish_events, write_ndjson
from schemas.institutions import institution as find_institution
from schemas.messages import RiskScore
from schemas.topics import TopicFamily, topic_name
from tests.integration.crashing import applied_events, kill, remove_dead_members
from tests.integration.reading import Received, decoded, ends_of, keys_of, latest_risk, read_since
from tests.integration.running import Trained, new_workers, ready_worker, wait_until
from tests.integration.simulated import events_of, shuffled

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("no_worker")]

_INSTITUTION = "dkfz"
_UNTIL = datetime(2025, 1, 1, tzinfo=UTC)
_KILLS = 3


@dataclass(frozen=True, slots=True)
class Crashed:
    """What was published under a worker that was killed several times, and what came of it."""

    settings: Settings = field(repr=False)
    events: list[SourceEvent] = field(repr=False)
    ledger: Ledger = field(repr=False)
    outcomes: dict[str, int]
    expected: dict[str, RiskScore] = field(repr=False)
    risk: list[Received] = field(repr=False)
    features: list[Received] = field(repr=False)


@pytest.fixture(scope="module")
def crashed(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Crashed:
    # Small batches, so that there are many moments to be killed at.
    settings = trained.settings.model_copy(update={"batch_max_events": 20})
    events, ledger = events_of("crash", _INSTITUTION, 120, _UNTIL), Ledger()
    before = read_progress(settings)[_INSTITUTION].outcomes
    starts = {family: ends_of(settings, topic_name(family, _INSTITUTION)) for family in TopicFamily}
    publish_events(settings, _INSTITUTION, events, ledger=ledger)
    for number in range(_KILLS):
        kill_in_mid_stream(settings, sum(before.values()), len(events), share=(number + 1) / (_KILLS + 2))
    with new_workers(settings):
        after = wait_until_applied(settings, 120)[_INSTITUTION].outcomes
    read = {
        family: read_since(settings, topic_name(family, _INSTITUTION), starts[family])
        for family in (TopicFamily.RISK, TopicFamily.FEATURES)
    }
    return Crashed(
        settings,
        events,
        ledger,
        {name: after[name] - before[name] for name in OUTCOMES},
        scores_of_file(settings, events, tmp_path_factory.mktemp("crash") / "events.ndjson"),
        read[TopicFamily.RISK],
        read[TopicFamily.FEATURES],
    )


def kill_in_mid_stream(settings: Settings, applied_before: int, events: int, *, share: float) -> None:
    """Run a worker until it has applied a share of the events, kill it, and prove that it was in the midst of them."""
    with new_workers(settings) as workers:
        wait_until(
            "enough is applied", lambda: applied_events(settings, _INSTITUTION) - applied_before > share * events
        )
        kill(workers)
    applied = applied_events(settings, _INSTITUTION) - applied_before
    assert 0 < applied < events, "the kill did not land in mid-stream"
    remove_dead_members(settings)


def scores_of_file(settings: Settings, events: list[SourceEvent], path: Path) -> dict[str, RiskScore]:
    write_ndjson(path, events)
    scores, _ = score_files([path], find_institution(_INSTITUTION), settings, load_champion(settings))
    return {one.encounter_reference.partition("/")[2]: one for one in scores}


def same_score(row: dict[str, Any], score: RiskScore) -> bool:
    return bool(
        row["probability"] == score.probability
        and row["as_of"] == score.as_of
        and row["encounter_version"] == score.encounter_version
        and json.loads(row["contributions"]) == score.contributions
        and score.features is not None
        and all(row[name] == value for name, value in vars(score.features).items())
    )


def test_no_event_is_lost_or_counted_twice_by_a_worker_that_is_killed(crashed: Crashed) -> None:
    assert len(crashed.ledger.published_at) == len(crashed.events)
    assert sum(crashed.outcomes.values()) == len(crashed.events)
    assert min(crashed.outcomes["scored"], crashed.outcomes["rejected"], crashed.outcomes["retracted"]) > 0


def test_the_scores_after_kills_are_those_of_the_same_events_in_a_file(crashed: Crashed) -> None:
    rows = latest_risk(crashed.settings, _INSTITUTION, crashed.expected)
    assert len(crashed.expected) > 100
    assert rows.keys() == crashed.expected.keys()
    assert [id_ for id_, row in rows.items() if not same_score(row, crashed.expected[id_])] == []


def rows_caused_by(crashed: Crashed) -> list[str]:
    """List the record ids of all score versions whose source is one of the published events, repeats included."""
    rows = fetch(crashed.settings, _SOURCES, topic_name(TopicFamily.ENCOUNTERS, _INSTITUTION))
    published = {(partition, offset) for _, partition, offset in crashed.ledger.published_at}
    return [str(row["record_id"]) for row in rows if (row["source_partition"], row["source_offset"]) in published]


def test_the_risk_topic_holds_each_committed_score_and_nothing_else(crashed: Crashed) -> None:
    sent = [one["record_id"] for one in decoded(crashed.settings, crashed.risk)]
    committed = rows_caused_by(crashed)
    assert len(committed) == len(set(committed)) > crashed.outcomes["scored"] / 2
    assert set(sent) == set(committed)


def test_the_features_topic_ends_with_every_scored_encounters_features(crashed: Crashed) -> None:
    keys, newest = keys_of(crashed.settings, _INSTITUTION), {one.key: one for one in crashed.features}
    scored = [newest[keys.encounter_pseudonym(id_).encode()] for id_ in crashed.expected]
    messages = decoded(crashed.settings, scored)  # one less for each tombstone
    expected = [vars(one.features) for one in crashed.expected.values() if one.features]
    assert [one["features"] for one in messages] == expected


def test_a_file_that_comes_twice_in_other_orders_changes_no_row(trained: Trained) -> None:
    settings, events = trained.settings, events_of("twice", _INSTITUTION, 60, datetime(2024, 1, 1, tzinfo=UTC))
    ids = encounter_ids(events)
    with ready_worker(settings):
        first = publish_and_count(settings, shuffled(events, 1))
        rows = latest_risk(settings, _INSTITUTION, ids)
        again = publish_and_count(settings, shuffled(events, 2))
    assert len(rows) > 50
    assert first["scored"] > 50
    assert again.total() == first.total() == len(events)
    assert again.keys() == {"unchanged", "rejected"}  # rejected: the broken ones, and the ids deleted by then
    assert latest_risk(settings, _INSTITUTION, ids) == rows


def test_events_in_any_order_give_the_scores_of_their_own_order(trained: Trained, tmp_path: Path) -> None:
    settings, events = trained.settings, events_of("twice", _INSTITUTION, 60, datetime(2024, 1, 1, tzinfo=UTC))
    expected = scores_of_file(settings, events, tmp_path / "events.ndjson")
    rows = latest_risk(settings, _INSTITUTION, encounter_ids(events))
    assert rows.keys() == expected.keys()
    assert [id_ for id_, row in rows.items() if not same_score(row, expected[id_])] == []


def test_a_killed_workers_partitions_are_taken_over_within_20_seconds(trained: Trained, group_left_clean: None) -> None:
    """Unlike in the other tests nobody takes the dead worker out of its group, as nobody would at night."""
    settings = trained.settings
    with ready_worker(settings) as workers:
        kill(workers)
    before = applied_events(settings, _INSTITUTION)
    publish_events(settings, _INSTITUTION, events_of("takeover", _INSTITUTION, 5, datetime(2023, 6, 1, tzinfo=UTC)))
    with new_workers(settings):
        wait_until("the next worker goes on", lambda: applied_events(settings, _INSTITUTION) > before, timeout_s=20)
        wait_until_applied(settings, 120)


@pytest.fixture
def group_left_clean(trained: Trained) -> Iterator[None]:
    """Whatever becomes of the test, let the next one not wait for its dead worker, nor find its events."""
    yield
    if any(one.waiting for one in read_progress(trained.settings).values()):
        remove_dead_members(trained.settings)
        with new_workers(trained.settings):
            wait_until_applied(trained.settings, 120)


def publish_and_count(settings: Settings, events: list[SourceEvent]) -> Counter[str]:
    """Publish events, wait until they are applied and count how they ended."""
    before = read_progress(settings)[_INSTITUTION].outcomes
    publish_events(settings, _INSTITUTION, events)
    after = wait_until_applied(settings, 120)[_INSTITUTION].outcomes
    return +Counter({name: after[name] - before[name] for name in OUTCOMES})


def encounter_ids(events: list[SourceEvent]) -> set[str]:
    """List the Encounters that the readable events hold."""
    found: set[str] = set()
    for event in events:
        try:
            document = json.loads(event.value or b"{}")
        except ValueError:
            continue
        resources = (entry.get("resource", {}) for entry in document.get("entry", []))
        found |= {one["id"] for one in resources if one.get("resourceType") == "Encounter"}
    return found


_SOURCES = """
SELECT record_id, source_partition, source_offset FROM risk_scores
JOIN stream_progress USING (topic_id, source_partition) WHERE topic = $1
"""
