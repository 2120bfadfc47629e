"""Explaining stored scores: computed again they are the same, bit by bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from connectors.kafka import OutMessage, Publisher
from connectors.score_tracing import Source, source_of
from healthalliance.explaining import explain_score, recompute
from healthalliance.progress import fetch, wait_until_applied
from schemas.topics import TopicFamily, topic_name
from tests.integration.command_line import run
from tests.integration.reading import rows_of_encounters
from tests.integration.running import Trained
from tests.unit.schemas.fhir_events import encounter, to_bytes

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("worker")]

OWN = "dkfz"


@pytest.fixture(scope="module")
def versions(trained: Trained) -> list[str]:
    """Have an encounter scored twice; return both records, the older first."""
    for version in (1, 2):
        value = to_bytes(encounter("explained", patient="explained", version=version, end=f"2024-03-0{4 + version}"))
        message = OutMessage(topic_name(TopicFamily.ENCOUNTERS, OWN), b"Patient/explained", value)
        Publisher(trained.settings).publish([message])
        wait_until_applied(trained.settings, 120)
    rows = rows_of_encounters(trained.settings, "risk_scores", OWN, ["explained"])["explained"]
    return [str(row["record_id"]) for row in rows]


def test_every_stored_score_is_the_same_when_it_is_computed_again(trained: Trained, versions: list[str]) -> None:
    rows = fetch(trained.settings, "SELECT record_id::text FROM risk_scores WHERE probability IS NOT NULL LIMIT 5")
    found = [explain_score(trained.settings, row["record_id"], "en").recomputed for row in rows]
    assert [one.trouble or one.is_equal for one in found] == [True] * len(rows)


def test_the_command_tells_where_it_came_from_and_what_replaced_it(trained: Trained, versions: list[str]) -> None:
    old, new = (run(trained.settings, "explain", one, "--json").document for one in versions)
    assert (old["score"]["superseded_by"], new["score"]["supersedes"]) == (versions[1], versions[0])
    assert new["because"] == old["superseded_because"] == "the encounter was updated"
    assert (new["superseded_because"], new["challenger"]) == (None, None)
    assert new["steps"][-1]["after"] == pytest.approx(new["score"]["probability"])
    received, committed, published = (new["score"]["received_at"], new["committed_at"], new["published_at"])
    assert received < committed
    assert published is not None
    text = run(trained.settings, "explain", versions[1], "--language", "de").stdout
    assert "Das Risiko" in text
    assert "equal, bit by bit" in text
    topic = topic_name(TopicFamily.ENCOUNTERS, OWN)
    place = f"partition {new['score']['source_partition']}, offset {new['score']['source_offset']}: still there"
    assert f"{topic} (topic id {new['score']['topic_id']}), {place}" in " ".join(text.split())
    german = run(trained.settings, "explain", versions[0], "--language", "de").stdout
    assert f"{versions[1]}: der Fall wurde aktualisiert" in " ".join(german.split())


@pytest.mark.parametrize(
    "change",
    [
        {"source_offset": -1},  # below what is kept, as after 30 days
        {"source_offset": 10**9},
        {"topic_id": "00000000-0000-4000-8000-000000000000"},
        {"institution": "nowhere"},
    ],
    ids=["gone", "never", "topic-made-anew", "topic-deleted"],
)
def test_an_event_that_its_topic_holds_no_more_is_told(
    trained: Trained, versions: list[str], change: dict[str, Any]
) -> None:
    score = explain_score(trained.settings, versions[1], "en").score
    changed = replace(score, **change)
    topic = topic_name(TopicFamily.ENCOUNTERS, changed.institution)
    assert source_of(trained.settings, changed) == Source(topic, is_retained=False)


def test_a_changed_number_or_another_file_is_told(trained: Trained, versions: list[str]) -> None:
    score = explain_score(trained.settings, versions[1], "en").score

    assert score.probability is not None
    assert recompute(trained.settings, replace(score, probability=score.probability + 1e-15)).is_equal is False
    assert recompute(trained.settings, replace(score, model_digest="0" * 64)).trouble is not None
    assert recompute(trained.settings, replace(score, model_version="999")).trouble is not None


@pytest.mark.parametrize("record_id", ["nonsense", "00000000-0000-4000-8000-000000000000"])
def test_an_unknown_record_is_one_sentence_and_an_exit_code_of_its_own(trained: Trained, record_id: str) -> None:
    ended = run(trained.settings, "explain", record_id)
    assert (ended.code, ended.stdout) == (16, "")
    assert record_id in ended.stderr
