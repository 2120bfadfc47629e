"""124 patients of Synthea, from the archive to the scores: no Encounter is lost."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from connectors.settings import Settings
from healthalliance.progress import OUTCOMES, fetch, read_progress, wait_until_applied
from healthalliance.workers import WorkerProcesses
from schemas.topics import TopicFamily, topic_name
from tests.integration.command_line import of_local_stack, run
from tests.integration.reading import Received, ends_of, latest_risk, read_since
from tests.integration.running import Trained

pytestmark = pytest.mark.stack

_INSTITUTION = "embl"
_BUNDLES, _ENCOUNTERS = 124, 10_279


@dataclass(frozen=True, slots=True)
class Published:
    """What `healthalliance publish` reported, what it left on the topic, and how it all ended."""

    settings: Settings = field(repr=False)
    report: dict[str, Any]
    events: list[Received] = field(repr=False)
    outcomes: dict[str, int]


@pytest.fixture(scope="module")
def published(trained: Trained, worker: WorkerProcesses, synthea: Path) -> Published:
    settings, topic = trained.settings, topic_name(TopicFamily.ENCOUNTERS, _INSTITUTION)
    starts, before = ends_of(settings, topic), read_progress(settings)[_INSTITUTION].outcomes
    ended = run(of_local_stack(settings), "publish", _INSTITUTION, synthea, "--json")
    assert ended.code == 0, ended.stderr
    after = wait_until_applied(settings, 120)[_INSTITUTION].outcomes
    outcomes = {name: after[name] - before[name] for name in OUTCOMES}
    return Published(settings, ended.document, read_since(settings, topic, starts), outcomes)


def encounter_ids(bundle: dict[str, Any]) -> Iterator[str]:
    for entry in bundle.get("entry", []):
        if entry["resource"]["resourceType"] == "Encounter":
            yield entry["resource"]["id"]


def ids_in_archive(archive: Path) -> list[str]:
    by_bundle: list[list[str]] = []
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.name.endswith(".json") else None
            by_bundle += [list(encounter_ids(json.load(file)))] if file else []
    patients = [ids for ids in by_bundle if ids]  # the other Bundles list hospitals and practitioners
    assert len(patients) == _BUNDLES
    return [id_ for ids in patients for id_ in ids]


def rejected_ids(published: Published) -> set[str]:
    """Find the Encounters of the events that were rejected, by the coordinates of their messages."""
    topic = topic_name(TopicFamily.ENCOUNTERS, _INSTITUTION)
    rows = fetch(
        published.settings,
        """SELECT source_partition, source_offset FROM rejected_events JOIN stream_progress AS progress
           USING (topic_id, source_partition) WHERE progress.topic = $1""",
        topic,
    )
    rejected = {(row["source_partition"], row["source_offset"]) for row in rows}
    return {
        id_
        for one in published.events
        if (one.partition, one.offset) in rejected
        for id_ in encounter_ids(json.loads(one.value or b"{}"))
    }


def test_every_encounter_of_the_archive_ends_as_a_score_or_a_rejection(published: Published, synthea: Path) -> None:
    ids = ids_in_archive(synthea)
    assert len(ids) == len(set(ids)) == _ENCOUNTERS
    scored = set(latest_risk(published.settings, _INSTITUTION, ids))
    rejected = rejected_ids(published)
    assert set(ids) - scored - rejected == set()
    assert len(scored) > 0.9 * _ENCOUNTERS


def test_the_published_messages_carry_every_encounter_once(published: Published, synthea: Path) -> None:
    carried = [id_ for one in published.events for id_ in encounter_ids(json.loads(one.value or b"{}"))]
    assert sorted(carried) == sorted(ids_in_archive(synthea))


def test_every_published_event_is_counted_under_exactly_one_outcome(published: Published) -> None:
    assert published.report["published"] == len(published.events)
    assert sum(published.outcomes.values()) == len(published.events)
