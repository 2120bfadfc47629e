"""Tables that are built anew from the topics are those that were lost, and nothing is published for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from connectors.migrate import migrate
from connectors.settings import Settings
from healthalliance.progress import fetch, wait_until_applied
from healthalliance.publishing import publish_events
from healthalliance.rebuild import Rebuilt, rebuild
from schemas.audit import Action
from schemas.errors import ConfigurationError
from schemas.history import decode_history
from schemas.institutions import institutions
from schemas.pseudonyms import institution_keys
from schemas.topics import TopicFamily, topic_name
from tests.faults.load import train_champion
from tests.integration.command_line import of_local_stack, run
from tests.integration.eventful import one_after_the_other, send
from tests.integration.noting import noting
from tests.integration.reading import ends_of, texts_of
from tests.integration.running import database, ready_worker
from tests.integration.simulated import events_of

pytestmark = pytest.mark.stack

_INSTITUTION = "dkfz"
# Not comparable: when something was written, and how batches were cut.
_NOT_COMPARED = ("superseded_at", "rejected_at", "updated_at", "revision", "history")
TABLES = (
    "risk_scores",
    "rejected_events",
    "patient_history",
    "patient_encounters",
    "stream_progress",
    "score_outcomes",
)


@dataclass(frozen=True, slots=True)
class Scored:
    """A stack whose worker has applied events of every kind, and a copy of the database from amidst them."""

    settings: Settings = field(repr=False)
    earlier: Settings = field(repr=False)


@pytest.fixture(scope="module")
def scored(own_stack: Settings) -> Iterator[Scored]:
    """Fold a history without a model and score what follows, on a stack whose log holds nothing but that."""
    settings = own_stack
    with ready_worker(settings, history_only=True):
        publish_events(settings, _INSTITUTION, events_of("before", _INSTITUTION, 10, datetime(2024, 1, 1, tzinfo=UTC)))
        wait_until_applied(settings, 120)
    train_champion(settings, 1)
    with ready_worker(settings):
        publish_events(settings, _INSTITUTION, events_of("rebuild", _INSTITUTION, 40, datetime(2024, 2, 1, tzinfo=UTC)))
        wait_until_applied(settings, 120)
    with database(settings, "earlier", copied=True) as earlier:
        with ready_worker(settings):
            for events in one_after_the_other(_INSTITUTION):
                send(settings, *events)
                wait_until_applied(settings, 120)
        yield Scored(settings, earlier)


@pytest.fixture(scope="module")
def lost(scored: Scored) -> Iterator[tuple[Settings, list[Rebuilt]]]:
    """Lose the database, and build it anew from nothing."""
    with database(scored.settings, "lost") as empty:
        migrate(empty.database_url)
        yield empty, [rebuild(empty, one) for one in institutions()]


def rows(settings: Settings, table: str) -> list[str]:
    return texts_of(settings, table, _NOT_COMPARED, institution=_INSTITUTION)


def histories(settings: Settings) -> dict[str, Any]:
    keys = institution_keys(settings.pseudonym_key.get_secret_value(), _INSTITUTION)
    query = "SELECT patient_pseudonym::text AS patient, history FROM patient_history WHERE institution = $1"
    return {
        row["patient"]: decode_history(keys.unseal(row["history"], row["patient"]))
        for row in fetch(settings, query, _INSTITUTION)
    }


@pytest.mark.parametrize("table", TABLES)
def test_a_lost_table_is_the_same_again(scored: Scored, lost: tuple[Settings, list[Rebuilt]], table: str) -> None:
    found, wanted = rows(lost[0], table), rows(scored.settings, table)
    assert wanted
    assert found == wanted


def test_histories_are_the_same_again(scored: Scored, lost: tuple[Settings, list[Rebuilt]]) -> None:
    assert histories(lost[0]) == histories(scored.settings)


def test_every_score_on_the_topic_is_found_in_the_table(lost: tuple[Settings, list[Rebuilt]]) -> None:
    [own] = [one for one in lost[1] if one.institution == _INSTITUTION]
    assert (own.equal, own.begins_later) == (own.published, False)
    assert own.published > 50


def test_a_restored_database_goes_on_from_where_it_was(scored: Scored) -> None:
    before = rows(scored.earlier, "stream_progress")
    again = rebuild(scored.earlier, _INSTITUTION)
    assert before != rows(scored.earlier, "stream_progress")
    assert 0 < again.events < sum(ends_of(scored.settings, topic_name(TopicFamily.ENCOUNTERS, _INSTITUTION)).values())
    for table in TABLES:
        assert rows(scored.earlier, table) == rows(scored.settings, table), table


def test_what_is_whole_stays_as_it_is_and_nothing_is_published(scored: Scored) -> None:
    ends = {family: ends_of(scored.settings, topic_name(family, _INSTITUTION)) for family in TopicFamily}
    before = rows(scored.settings, "risk_scores")
    assert rebuild(scored.settings, _INSTITUTION).events == 0
    assert rows(scored.settings, "risk_scores") == before
    assert {family: ends_of(scored.settings, topic_name(family, _INSTITUTION)) for family in TopicFamily} == ends


def test_workers_go_on_behind_what_was_rebuilt(scored: Scored, lost: tuple[Settings, list[Rebuilt]]) -> None:
    settings, _ = lost
    before = rows(settings, "risk_scores")
    with ready_worker(settings):
        publish_events(settings, "ukhd", events_of("rebuilt", "ukhd", 5, datetime(2024, 3, 1, tzinfo=UTC)))
        wait_until_applied(settings, 120)
    assert rows(settings, "risk_scores") == before  # nothing of this institution's was applied twice
    assert rebuild(scored.settings, "ukhd").events > 0  # now the other one lags behind the consumer group


def test_it_is_refused_while_workers_run(scored: Scored) -> None:
    with ready_worker(scored.settings), pytest.raises(ConfigurationError, match="stop them first"):
        rebuild(scored.settings, _INSTITUTION)


def test_the_command_says_what_it_did(scored: Scored) -> None:
    settings = of_local_stack(scored.settings)
    with noting(scored.settings, (Action.REBUILD, _INSTITUTION)):
        told = run(settings, "rebuild", "--institution", _INSTITUTION, "--json")
    assert told.code == 0, told.stderr
    [one] = told.document
    assert (one["institution"], one["events"], one["equal"]) == (_INSTITUTION, 0, one["published"])
    shown = run(settings, "rebuild", "--institution", _INSTITUTION)
    assert f"{_INSTITUTION}: 0 events" in shown.stdout
