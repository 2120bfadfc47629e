"""A replay of what is live differs nowhere and publishes nothing; after a change it says exactly what changes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from pydantic import SecretStr

from connectors.kafka import topic_ids
from connectors.kafka_access import client_properties
from connectors.settings import Settings
from connectors.side_schema import Window
from healthalliance.progress import fetch, wait_until_applied
from healthalliance.publishing import publish_events
from healthalliance.replay import Replay, Replayed, replay
from model_training.job import train
from schemas.audit import Action
from schemas.errors import ConfigurationError
from schemas.topics import TopicFamily, topic_name
from tests.drills.test_rebuild import TABLES
from tests.integration.command_line import of_local_stack, run
from tests.integration.eventful import DELETED, LARGE, one_after_the_other, one_event, send
from tests.integration.noting import noting
from tests.integration.reading import ends_of, keys_of, rows_of_encounters, texts_of
from tests.integration.running import Trained, ready_worker
from tests.integration.simulated import events_of
from tests.unit.schemas.fhir_events import encounter

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("no_worker")]

_INSTITUTION = "embl"
_EVER = Window(datetime(2020, 1, 1, tzinfo=UTC), None)
_TABLES = (*TABLES, "challenger_scores")
_CHALLENGER = "challenger"
_OF_THE_RUN = ("scored_at", "superseded_at", "rejected_at", "updated_at", "revision")


@dataclass(frozen=True, slots=True)
class Scored:
    """A stack on which a worker scored events of every kind, since when they came, and where some were first scored."""

    settings: Settings = field(repr=False)
    window: Window
    known: Mapping[int, int]

    def replay(self, into: str, window: Window | None = None, **changed: Any) -> Replayed:
        return replay(self.settings.model_copy(update=changed), Replay(_INSTITUTION, into, window or self.window))


@pytest.fixture(scope="module")
def scored(trained: Trained) -> Scored:
    """Score what came after the history: simulated with faults, corrected, taken back, deleted, erased, rejected."""
    settings = trained.settings
    with ready_worker(settings):
        wait_until_applied(settings, 120)
        [now] = fetch(settings, "SELECT clock_timestamp() AS at")
        publish_events(settings, _INSTITUTION, events_of("replay", _INSTITUTION, 60, datetime(2024, 1, 1, tzinfo=UTC)))
        for number, events in enumerate(one_after_the_other(_INSTITUTION)):
            if number == 2:
                known = ends_of(settings, topic_name(TopicFamily.ENCOUNTERS, _INSTITUTION))
            send(settings, *events)
            wait_until_applied(settings, 120)
    return Scored(settings, Window(now["at"], None), known)


def everything_public(settings: Settings) -> dict[str, list[str]]:
    return {
        table: [row["text"] for row in fetch(settings, f"SELECT one::text AS text FROM {table} AS one ORDER BY 1")]
        for table in _TABLES
    }


def all_ends(settings: Settings) -> dict[TopicFamily, dict[int, int]]:
    return {family: ends_of(settings, topic_name(family, _INSTITUTION)) for family in TopicFamily}


def rows_in(settings: Settings, schema: str, table: str) -> list[str]:
    """Read a schema's rows of a table without the time of the run, and without how batches were cut."""
    return texts_of(settings, table, _OF_THE_RUN, schema=schema)


# --- of what is live


@pytest.fixture(scope="module")
def same(scored: Scored) -> Replayed:
    return scored.replay("same")


def test_a_replay_of_what_is_live_differs_nowhere(same: Replayed) -> None:
    found = same.comparison
    assert not found.differs
    assert found.encounters > 50
    assert found.scores == found.same_scores > found.encounters
    assert found.rejected > 2
    assert (found.crossings, found.order_dependent, found.left_out_patients) == ((), 0, 0)
    assert not same.begins_later
    assert same.events > same.compared_events > 250


def test_a_replay_of_what_is_live_leaves_the_very_rows(scored: Scored, same: Replayed) -> None:
    settings, window = scored.settings, scored.window
    read = "SELECT record_id, probability, status, supersedes, superseded_by FROM {} WHERE received_at >= $1 " \
           "AND institution = $2 ORDER BY record_id"  # fmt: skip
    live, replayed = (
        [tuple(row) for row in fetch(settings, read.format(table), window.since, _INSTITUTION)]
        for table in ("risk_scores", "same.risk_scores")
    )
    assert live
    assert replayed == live


def test_a_replay_of_what_is_live_fills_in_the_same_outcomes(scored: Scored, same: Replayed) -> None:
    read = "SELECT encounter_pseudonym, patient_pseudonym, discharged_at, outcome, because, readmitted_at FROM {} " \
           "WHERE institution = $1 ORDER BY 1"  # fmt: skip
    live, replayed = (
        [tuple(row) for row in fetch(scored.settings, read.format(table), _INSTITUTION)]
        for table in ("score_outcomes", "same.score_outcomes")
    )
    assert len(live) > 100
    assert replayed == live


def test_an_encounter_may_be_deleted_from_another_partition(scored: Scored, same: Replayed) -> None:
    assert any(len({row["source_partition"] for row in rows}) == 2 for rows in versions_of_deleted(scored).values())


def versions_of_deleted(scored: Scored) -> dict[str, list[dict[str, Any]]]:
    ids = [f"{name}-e" for name in DELETED]
    return rows_of_encounters(scored.settings, "risk_scores", _INSTITUTION, ids)


def test_an_order_between_partitions_that_was_another_is_told_apart(scored: Scored) -> None:
    """Take a score and its retraction away, as if the tombstone had been worked off before its encounter."""
    settings, by_encounter = scored.settings, versions_of_deleted(scored)
    pair = next(rows for rows in by_encounter.values() if len({row["source_partition"] for row in rows}) == 2)
    fetch(settings, "CREATE SCHEMA kept")
    fetch(settings, "CREATE TABLE kept.scores (LIKE risk_scores)")
    fetch(settings, "WITH gone AS (DELETE FROM risk_scores WHERE record_id = ANY($1) RETURNING *) "
                    "INSERT INTO kept.scores SELECT * FROM gone", [row["record_id"] for row in pair])  # fmt: skip
    try:
        found = scored.replay("order").comparison
    finally:
        fetch(settings, "INSERT INTO risk_scores SELECT * FROM kept.scores")
    assert len(pair) == found.order_dependent == 2
    assert found.scores - found.same_scores == 2
    assert not found.differs


def test_a_replay_leaves_the_very_histories_of_whom_only_a_model_scored(scored: Scored, same: Replayed) -> None:
    histories = fetch(
        scored.settings,
        "SELECT live.history = replayed.history AS alike FROM patient_history AS live "
        "JOIN same.patient_history AS replayed USING (institution, patient_pseudonym) WHERE live.updated_at >= $1",
        scored.window.since,
    )
    assert len(histories) > 50
    assert all(row["alike"] for row in histories)


def test_a_second_replay_leaves_equal_rows(scored: Scored, same: Replayed) -> None:
    again = scored.replay("again", batch_max_events=37)
    assert again.comparison == same.comparison
    for table in set(_TABLES) - {"challenger_scores"}:  # a replay has no challenger
        assert rows_in(scored.settings, "again", table) == rows_in(scored.settings, "same", table) != []


def test_a_replay_publishes_nothing_and_leaves_the_live_tables_alone(scored: Scored) -> None:
    settings = scored.settings
    ends, rows = all_ends(settings), everything_public(settings)
    assert scored.replay("quiet").events > 0
    assert all_ends(settings) == ends
    assert everything_public(settings) == rows


def test_encounters_of_the_time_before_there_was_a_model_would_be_newly_scored(scored: Scored) -> None:
    found = scored.replay("first_model", _EVER).comparison
    assert found.newly_scored > 100
    assert {(one.from_band, one.to_band) for one in found.crossings} <= {(None, band) for band in _BANDS}


_BANDS = ("low", "medium", "high")


def test_only_events_within_the_window_are_compared(scored: Scored) -> None:
    [first] = fetch(scored.settings, "SELECT min(received_at) AS at FROM risk_scores WHERE institution = $1 AND "
                    "received_at >= $2", _INSTITUTION, scored.window.since)  # fmt: skip
    none = scored.replay("none", Window(scored.window.since, first["at"])).comparison
    one = scored.replay("one", Window(first["at"], first["at"] + timedelta(milliseconds=1))).comparison
    assert (none.encounters, none.scores, none.rejected) == (0, 0, 0)
    assert one.scores >= 1
    assert not one.differs


def test_what_is_not_applied_yet_is_not_compared(scored: Scored) -> None:
    send(scored.settings, one_event(_INSTITUTION, "later", encounter("later-e", patient="later")))
    replayed = scored.replay("later")
    assert not replayed.comparison.differs
    [row] = fetch(scored.settings, "SELECT count(*) FROM later.patient_encounters WHERE encounter_pseudonym::text = $1",
                  keys_of(scored.settings, _INSTITUTION).encounter_pseudonym("later-e"))  # fmt: skip
    assert row["count"] == 0


# --- after a change


def test_a_narrower_limit_says_which_events_it_would_reject(scored: Scored) -> None:
    [large] = [scored.replay("narrow", event_max_bytes=LARGE).comparison]
    encounter_of_large = keys_of(scored.settings, _INSTITUTION).encounter_pseudonym("large-e")
    assert set(large.newly_rejected) == {"too-large"}
    assert large.no_longer_scored >= 1
    rows = fetch(scored.settings, "SELECT count(*) FROM narrow.risk_scores WHERE encounter_pseudonym::text = $1",
                 encounter_of_large)  # fmt: skip
    assert rows[0]["count"] == 0
    assert large.no_longer_rejected == {}


def test_a_wider_limit_says_which_events_would_pass(scored: Scored) -> None:
    """What a rule that was narrower then rejected, and that passes now: here by putting a rejection into the tables."""
    settings = scored.settings
    topic = topic_name(TopicFamily.ENCOUNTERS, _INSTITUTION)
    [row] = fetch(
        settings,
        "INSERT INTO rejected_events SELECT topic_id, source_partition, source_offset, institution, received_at, "
        'now(), \'too-large\', \'[{"reason": "too-large", "path": ""}]\' FROM risk_scores '
        "WHERE topic_id = $1 AND received_at >= $2 AND status = 'final' LIMIT 1 RETURNING source_offset, topic_id",
        topic_ids(settings, [topic])[topic],
        scored.window.since,
    )
    try:
        found = scored.replay("wider").comparison
    finally:
        fetch(settings, "DELETE FROM rejected_events WHERE topic_id = $1 AND source_offset = $2 AND reason = "
              "'too-large'", row["topic_id"], row["source_offset"])  # fmt: skip
    assert found.no_longer_rejected == {"too-large": 1}
    assert (found.newly_rejected, found.differing_encounters) == ({}, 0)


def test_a_new_model_shows_which_bands_change_and_what_scored_before(scored: Scored) -> None:
    settings = scored.settings
    [scored_by] = fetch(settings, "SELECT DISTINCT model_version AS version FROM risk_scores WHERE institution = $1 "
                        "AND received_at >= $2", _INSTITUTION, scored.window.since)  # fmt: skip
    challenger = train(settings.model_copy(update={"model_alias": _CHALLENGER}), 2).version
    found = scored.replay("new_model", model_alias=_CHALLENGER).comparison
    assert [(one.scored_by, one.replayed_by) for one in found.models] == [(scored_by["version"], challenger)]
    assert found.with_other_numbers > 50
    assert (found.with_other_facts, found.new_scores, found.gone_scores) == (0, 0, 0)
    assert (found.newly_scored, found.no_longer_scored) == (0, 0)
    assert Counter({(one.from_band, one.to_band): one.encounters for one in found.crossings}) == crossed(scored)
    for crossing in found.crossings:
        assert 1 <= len(crossing.examples) <= 3
        assert all(re.fullmatch(r"[0-9a-f-]{36}", one.encounter_pseudonym) for one in crossing.examples)


def crossed(scored: Scored) -> Counter[tuple[str, str]]:
    rows = fetch(scored.settings, "SELECT one.band AS was, two.band AS now FROM public.latest_risk AS one "
                           "JOIN new_model.latest_risk AS two USING (institution, encounter_pseudonym) "
                           "JOIN new_model.live_scores AS scored ON scored.record_id = one.record_id "
                           "WHERE one.band <> two.band AND one.received_at >= $1",
                 scored.window.since)  # fmt: skip
    return Counter((row["was"], row["now"]) for row in rows)


# --- the schema


@pytest.mark.parametrize(
    "name", ["public", "pg_mine", "information_schema", "a b", 'a"; DROP', "Big", "", "healthalliance"]
)
def test_a_schema_that_is_none_of_a_replays_is_refused(scored: Scored, name: str) -> None:
    with pytest.raises(ConfigurationError):
        scored.replay(name)


def test_a_schema_that_somebody_else_made_is_never_replaced(scored: Scored) -> None:
    fetch(scored.settings, "CREATE SCHEMA theirs")
    with pytest.raises(ConfigurationError, match="by no replay"):
        replay(scored.settings, Replay(_INSTITUTION, "theirs", scored.window, replace=True))


def test_the_command_prints_one_document_and_replaces_only_if_told_to(scored: Scored, same: Replayed) -> None:
    settings = of_local_stack(scored.settings)
    arguments = ("replay", "-i", _INSTITUTION, "--from", f"{scored.window.since:%Y-%m-%d}", "--into", "same")
    refused = run(settings, *arguments, "--json")
    assert (refused.code, refused.stdout) == (ConfigurationError.exit_code, "")
    assert "--replace" in refused.stderr
    with noting(scored.settings, (Action.REPLAY, _INSTITUTION)):
        ended = run(settings, *arguments, "--replace", "--json")
    assert ended.code == 0, ended.stderr
    assert ended.document["events"] == same.events
    shown = run(settings, *arguments, "--replace")
    assert f"of {_INSTITUTION} with model version" in shown.stdout


def test_a_window_that_ends_before_it_begins_is_refused(scored: Scored) -> None:
    with pytest.raises(ConfigurationError, match="--to"):
        scored.replay("empty", Window(scored.window.since, scored.window.since))


def test_another_pseudonym_key_is_refused_before_anything_is_made(scored: Scored) -> None:
    with pytest.raises(ConfigurationError, match="PSEUDONYM_KEY"):
        scored.replay("other_key", pseudonym_key=SecretStr("x" * 32))
    assert fetch(scored.settings, "SELECT FROM pg_namespace WHERE nspname = 'other_key'") == []


# --- last: it removes what the others need


def test_patients_known_before_the_logs_beginning_are_left_out(scored: Scored) -> None:
    remove_beginning(scored.settings, scored.known)
    replayed = scored.replay("shortened")
    found = replayed.comparison
    assert replayed.begins_later
    assert {number: first for number, (first, _) in replayed.ranges.items()} == scored.known
    assert found.left_out_patients == 2 + len(DELETED)  # corrected, cancelled
    assert found.scores == found.same_scores == 2  # who came back, and the large event's
    assert found.rejected == 1  # not what was deleted before: the replay cannot know
    assert not found.differs


def remove_beginning(settings: Settings, firsts: Mapping[int, int]) -> None:
    """Remove what lies below these offsets, as retention does."""
    topic = topic_name(TopicFamily.ENCOUNTERS, _INSTITUTION)
    admin = AdminClient(client_properties(settings))
    for future in admin.delete_records([TopicPartition(topic, *one) for one in firsts.items()]).values():
        future.result(15)
