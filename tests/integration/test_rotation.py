"""Another key for pseudonyms: with crashes in the midst of it, all is as if the new key had always been there."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from os import environ
from typing import Any

import pytest
from pydantic import SecretStr

from connectors.kafka import OutMessage
from connectors.models import load_champion
from connectors.registry import Registry
from connectors.settings import Settings, settings_environment
from healthalliance.progress import fetch, wait_until_applied
from healthalliance.publishing import publish_events
from schemas.errors import ConfigurationError, FencedError
from schemas.history import decode_history
from schemas.pseudonyms import InstitutionKeys, institution_keys
from schemas.topics import TopicFamily, topic_name
from tests.faults.fault_free import FaultFree, fault_free
from tests.faults.load import train_champion
from tests.integration.command_line import Ended, run
from tests.integration.crashing import kill, remove_dead_members
from tests.integration.eventful import one_after_the_other, one_event, send
from tests.integration.reading import ends_of, read_since
from tests.integration.running import new_workers, ready_worker, wait_until
from tests.integration.running_api import running_api
from tests.integration.simulated import events_of
from tests.unit.schemas.fhir_events import encounter, patient

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

OWN = "dkfz"
NEW = "the key that comes after it, for tests"
_UNTIL = datetime(2024, 6, 1, tzinfo=UTC)
_ROTATE = ("pseudonym", "rotate", "-i", OWN)
_TABLES = ("risk_scores", "challenger_scores", "score_outcomes", "worklist_marks", "cds_cards", "alert_standings",
           "alerts", "patient_encounters")  # fmt: skip


@dataclass(slots=True)
class Rotated:
    """A stack whose key was changed amid its events, and what was said and seen on the way."""

    old: Settings = field(repr=False)
    new: Settings = field(repr=False)
    ended: dict[str, Ended] = field(default_factory=dict)
    seen_by_api: list[str] = field(default_factory=list)
    counts: list[dict[str, int]] = field(default_factory=list)


@pytest.fixture(scope="module")
def rotated(own_stack: Settings) -> Rotated:
    old = own_stack
    both = old.model_copy(update={"pseudonym_key": SecretStr(NEW), "pseudonym_key_previous": old.pseudonym_key})
    found = Rotated(old, both)
    train_champion(old, 1)
    events = [one for one in events_of("rotated", OWN, 40, _UNTIL) if one.value is not None]
    half = len(events) // 2
    with ready_worker(old):
        publish_events(old, OWN, events[:half])
        for one in one_after_the_other(OWN):
            send(old, *filter(_in_order, one))
            wait_until_applied(old, 120)
        _link(old, "linked", "corrected")
        send(old, OutMessage(topic_name(TopicFamily.ENCOUNTERS, OWN), b"Encounter/early-e", None))
        wait_until_applied(old, 120)
    _stand_beside(old)
    found.ended["another key"] = run(old, "worker", PSEUDONYM_KEY=NEW, timeout_s=60)
    found.ended["another key, API"] = run(old, "api", PSEUDONYM_KEY=NEW, API_PORT="0", timeout_s=60)
    found.ended["one key"] = run(old, "pseudonym", "rotate", timeout_s=60)
    with running_api(both) as api, api.client(OWN) as client:

        def look() -> None:
            entries = client.get("/api/v1/risk", params={"limit": 1}).json()
            found.seen_by_api.append(json.dumps(entries))
            assert client.get("/api/v1/worklist", params={"order": "newest"}).json()["entries"]

        # All know both keys, the old one in force; events flow, and the worker is killed in the midst of them.
        with ready_worker(both) as workers:
            found.ended["workers run"] = run(both, "pseudonym", "rotate", timeout_s=60)
            publish_events(both, OWN, events[half : half + half // 2])
            look()
            kill(workers)
        remove_dead_members(both)
        publish_events(both, OWN, events[half + half // 2 :])
        found.counts.append(_counts(both))
        _die_amid_the_transaction(both)
        assert _key_ids(both) == [institution_keys(_secret(old), OWN).id]
        found.counts.append(_counts(both))
        found.ended["no registry"] = run(
            both, "pseudonym", "rotate", "-i", OWN, SCHEMA_REGISTRY_URL="http://127.0.0.1:9"
        )
        found.ended["not finished"] = run(both, "worker", timeout_s=60)
        found.ended["finished"] = run(both, "pseudonym", "rotate", "--json")
        found.counts.append(_counts(both))
        found.ended["again"] = run(both, "pseudonym", "rotate", "--json")
        wait_until("the API knows", lambda: client.get("/api/v1/worklist", params={"order": "newest"}).is_success, 60)
        time.sleep(3)
        look()
        with ready_worker(both):
            _link(both, "linked", "corrected", version=2)
            send(both, one_event(OWN, "early", encounter("early-e", patient="early")))
            wait_until_applied(both, 180)
        look()
    return found


def _in_order(message: OutMessage) -> bool:
    """Tell whether it surely lies in its patient's partition, since the order decides on scores."""
    return not (message.key or b"").startswith(b"Encounter/")


def _secret(settings: Settings) -> str:
    return settings.pseudonym_key.get_secret_value()


def _key_ids(settings: Settings) -> list[str]:
    return [row["key_id"] for row in fetch(settings, "SELECT key_id FROM pseudonym_keys WHERE institution = $1", OWN)]


def _link(settings: Settings, name: str, other: str, version: int = 1) -> None:
    link = [{"other": {"reference": f"Patient/{other}"}, "type": "refer"}]
    send(settings, one_event(OWN, name, encounter(f"{name}-e", patient=name, version=1)))
    send(settings, one_event(OWN, name, patient(name, version=version, link=link)))


def _stand_beside(settings: Settings) -> None:
    """Have a row of each kind that others leave."""
    keys = institution_keys(_secret(settings), OWN)
    for statement in _BESIDE:
        fetch(settings, statement, keys.encounter_pseudonym("corrected-e"))


_SCORE = "FROM risk_scores WHERE encounter_pseudonym = $1 AND superseded_by IS NULL"
_NAMES = "institution, encounter_pseudonym, patient_pseudonym"
_BESIDE = (
    f"INSERT INTO worklist_marks ({_NAMES}, updated_at) SELECT {_NAMES}, now() {_SCORE}",
    f"""INSERT INTO cds_cards ({_NAMES}, card_id, band, model_version, served_at)
        SELECT {_NAMES}, gen_random_uuid(), band, model_version, now() {_SCORE}""",
    f"""INSERT INTO challenger_scores ({_NAMES}, record_id, received_at, scored_at, probability, band, model_name,
                                       model_version, model_digest)
        SELECT {_NAMES}, record_id, received_at, scored_at, probability, band, model_name, model_version,
               model_digest {_SCORE}""",
    f"""INSERT INTO alert_standings ({_NAMES}, channel, record_id, topic_id, source_partition, source_offset, scored_at)
        SELECT {_NAMES}, 'test', record_id, topic_id, source_partition, source_offset, scored_at {_SCORE}""",
    f"""INSERT INTO alerts ({_NAMES}, alert_id, channel, record_id, band, probability, state, decided_at, due_at)
        SELECT {_NAMES}, gen_random_uuid(), 'test', record_id, band, probability, 'waiting', now(), now() {_SCORE}""",
)


def _die_amid_the_transaction(settings: Settings) -> None:
    """Kill the command while it waits for a table that somebody else changes, its other rows changed already."""
    locked = "BEGIN; LOCK TABLE alerts IN SHARE ROW EXCLUSIVE MODE; SELECT pg_sleep(600)"
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDS, locked], env={**environ, **settings_environment(settings)}
    )  # fmt: skip
    wait_until("the table is locked", lambda: bool(fetch(settings, _LOCKS, True)))
    rotation = subprocess.Popen(
        [sys.executable, "-m", "healthalliance", "pseudonym", "rotate", "-i", OWN],
        env={**environ, **settings_environment(settings)},
    )
    wait_until("the rotation waits", lambda: bool(fetch(settings, _LOCKS, False)))
    rotation.kill()
    rotation.wait(30)
    holder.kill()
    holder.wait(30)
    fetch(settings, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' "
                    "AND pid <> pg_backend_pid()")  # fmt: skip
    wait_until("its transaction is gone", lambda: not fetch(settings, _LOCKS, True) + fetch(settings, _LOCKS, False))


_HOLDS = """
import asyncio, sys
import asyncpg
from connectors.settings import load_settings

async def hold():
    await (await asyncpg.connect(load_settings().database_url)).execute(sys.argv[1])

asyncio.run(hold())
"""
_LOCKS = """
SELECT FROM pg_locks JOIN pg_class ON pg_class.oid = relation
WHERE relname = 'alerts' AND mode <> 'AccessShareLock' AND granted = $1
"""


def _counts(settings: Settings) -> dict[str, int]:
    return {one: fetch(settings, f"SELECT count(*) AS n FROM {one}")[0]["n"] for one in (*_TABLES, "patient_history")}


# --- what there is, by the hospital's ids in place of pseudonyms


Names = Mapping[str, str]


@pytest.fixture(scope="module")
def undisturbed(rotated: Rotated) -> FaultFree:
    """Fold the same events with the old key alone, without a stop."""
    model = load_champion(rotated.old)
    return fault_free(rotated.old, lambda _: model)


@pytest.fixture(scope="module")
def ids(undisturbed: FaultFree) -> list[str]:
    return sorted({id_ for one in undisturbed.histories.values() for id_ in one.encounters})


def names(keys: InstitutionKeys, ids: list[str]) -> dict[str, str]:
    return {keys.encounter_pseudonym(id_): id_ for id_ in ids}


def keys_before_and_after(rotated: Rotated) -> tuple[InstitutionKeys, InstitutionKeys]:
    return institution_keys(_secret(rotated.old), OWN), institution_keys(NEW, OWN)


def test_scores_are_those_of_an_undisturbed_run(rotated: Rotated, undisturbed: FaultFree, ids: list[str]) -> None:
    before, after = keys_before_and_after(rotated)
    by_old, by_new = names(before, ids), names(after, ids)

    def where(score: Any, of: Names) -> tuple[int, int, str]:
        return score["source_partition"], score["source_offset"], of[str(score["encounter_pseudonym"])]

    rows = {str(row["record_id"]): row for row in fetch(rotated.new, "SELECT * FROM risk_scores")}
    expected = {id_: vars(one) for id_, one in undisturbed.scores.items()}
    for one in expected.values():
        one["superseded_by"] = undisturbed.superseded.get(one["record_id"])

    def told(all_: Mapping[str, Any], of: Names) -> dict[tuple[int, int, str], Any]:
        return {
            where(one, of): [
                one["probability"], one["status"], one["reason"], one["encounter_version"],
                *(where(all_[str(one[link])], of) if one[link] else None for link in ("supersedes", "superseded_by")),
            ]
            for one in all_.values() if of[str(one["encounter_pseudonym"])] != "early-e"
        }  # fmt: skip

    assert told(rows, by_new) == told(expected, by_old)
    assert len(rows) > 100
    assert {str(row["patient_pseudonym"]) for row in rows.values()} <= {
        after.patient_pseudonym(one.patient_id) for one in undisturbed.histories.values()
    }


def test_no_history_is_lost_or_there_twice(rotated: Rotated, undisturbed: FaultFree, ids: list[str]) -> None:
    _, after = keys_before_and_after(rotated)
    held = {}
    for row in fetch(rotated.new, "SELECT patient_pseudonym::text AS patient, history FROM patient_history"):
        history = decode_history(after.unseal(row["history"], row["patient"]))
        if history.patient_id:
            assert row["patient"] == after.patient_pseudonym(history.patient_id)
            assert history.patient_id not in held
            held[history.patient_id] = history
    expected = {one.patient_id: one for one in undisturbed.histories.values() if one.patient_id}
    assert held.keys() == expected.keys()
    for id_, one in expected.items():
        for part in ("patient", "encounters", "conditions", "medications"):
            assert getattr(held[id_], part) == getattr(one, part), id_
        assert held[id_].scores.keys() == one.scores.keys()


def test_features_lie_under_the_new_pseudonyms_alone(rotated: Rotated, undisturbed: FaultFree, ids: list[str]) -> None:
    before, after = keys_before_and_after(rotated)
    topic = topic_name(TopicFamily.FEATURES, OWN)
    registry, newest = Registry(rotated.new.schema_registry_url), dict[str, bytes | None]()
    for one in read_since(rotated.new, topic, dict.fromkeys(ends_of(rotated.new, topic), 0)):
        newest[(one.key or b"").decode()] = one.value
    by_old, by_new = names(before, ids), names(after, ids)
    patients = {id_: one.patient_id for one in undisturbed.histories.values() for id_ in one.encounters}
    found = {}
    for key, value in newest.items():
        if value is not None:
            message = registry.decode("EncounterFeatures", value)
            id_ = by_new[key]
            assert message["patient_pseudonym"] == after.patient_pseudonym(patients[id_])
            found[id_] = without_pseudonyms(message)
    expected = {
        by_old[key]: without_pseudonyms({**vars(one), "features": vars(one.features)})
        for (_, key), one in undisturbed.features.items()
        if one is not None
    }
    assert found == expected


def without_pseudonyms(message: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if not name.endswith("_pseudonym")}


def test_whose_a_patient_is_linked_to_is_told_by_the_new_key(rotated: Rotated) -> None:
    _, after = keys_before_and_after(rotated)
    topic = topic_name(TopicFamily.FEATURES, OWN)
    received = read_since(rotated.new, topic, dict.fromkeys(ends_of(rotated.new, topic), 0))
    key = after.encounter_pseudonym("linked-e").encode()
    value = [one.value for one in received if one.key == key][-1]
    assert value is not None
    message = Registry(rotated.new.schema_registry_url).decode("EncounterFeatures", value)
    assert message["person_pseudonym"] == after.patient_pseudonym("corrected")


@pytest.mark.parametrize("table", _TABLES)
def test_no_row_of_a_known_patient_keeps_its_old_pseudonym(rotated: Rotated, ids: list[str], table: str) -> None:
    before, after = keys_before_and_after(rotated)
    held = {str(row["encounter_pseudonym"]) for row in fetch(rotated.new, f"SELECT encounter_pseudonym FROM {table}")}
    assert after.encounter_pseudonym("corrected-e") in held
    left = {id_ for id_ in ids if before.encounter_pseudonym(id_) in held}
    assert left - ({"early-e"} if table == "patient_encounters" else set()) == set()


def test_no_row_comes_or_goes(rotated: Rotated) -> None:
    before, after_a_crash, afterwards = rotated.counts
    assert before == after_a_crash == afterwards


def test_what_was_deleted_before_it_came_stays_deleted(rotated: Rotated) -> None:
    _, after = keys_before_and_after(rotated)
    query = "SELECT FROM risk_scores WHERE encounter_pseudonym = $1"
    assert fetch(rotated.new, query, after.encounter_pseudonym("early-e")) == []


def test_a_key_that_is_not_the_databases_stops_worker_and_api_in_one_line(rotated: Rotated) -> None:
    for one in ("another key", "another key, API"):
        ended = rotated.ended[one]
        assert ended.code == ConfigurationError.exit_code, ended.stderr
        [line] = [line for line in ended.stderr.splitlines() if "PSEUDONYM_KEY" in line]
        assert "PSEUDONYM_KEY is not the key that dkfz's pseudonyms" in line
        assert NEW not in ended.stderr


def test_a_rotation_that_is_not_finished_lets_no_worker_in_and_is_finished_by_the_next(rotated: Rotated) -> None:
    assert rotated.ended["no registry"].code == 4
    assert rotated.ended["not finished"].code == ConfigurationError.exit_code
    assert "`healthalliance pseudonym rotate` finishes it" in rotated.ended["not finished"].stderr
    own = {one["institution"]: one for one in rotated.ended["finished"].document}[OWN]
    assert own["patients"] == 0
    assert own["features"] > 50
    assert {one["features"] for one in rotated.ended["again"].document} == {0}


@pytest.mark.parametrize(
    ("ended", "words"), [("one key", "PSEUDONYM_KEY_PREVIOUS"), ("workers run", "stop them first")]
)
def test_it_refuses_to_begin(rotated: Rotated, ended: str, words: str) -> None:
    assert rotated.ended[ended].code == ConfigurationError.exit_code
    assert words in rotated.ended[ended].stderr


def test_the_api_goes_over_to_the_new_key_by_itself(rotated: Rotated) -> None:
    assert all(json.loads(one) for one in rotated.seen_by_api)
    assert len(rotated.seen_by_api) == 3


def test_a_worker_with_the_old_key_is_turned_away_before_it_reads(rotated: Rotated) -> None:
    import asyncio

    from connectors.store import connect

    async def try_(keys: InstitutionKeys) -> None:
        store = await connect(rotated.new.database_url)
        try:
            async with store.batch() as batch:
                await batch.require_keys({OWN: keys.id})
        finally:
            await store.close()

    before, after = keys_before_and_after(rotated)
    asyncio.run(try_(after))
    with pytest.raises(FencedError, match="is being rotated"):
        asyncio.run(try_(before))


def test_workers_go_on_with_the_new_key_alone(rotated: Rotated) -> None:
    alone = rotated.new.model_copy(update={"pseudonym_key_previous": SecretStr("")})
    with new_workers(alone) as workers:
        send(alone, one_event(OWN, "corrected", encounter("corrected-e", patient="corrected", version=9)))
        wait_until_applied(alone, 180)
        assert workers.pids()


def test_the_holder_of_the_key_is_told_a_pseudonym(rotated: Rotated) -> None:
    before, after = keys_before_and_after(rotated)
    for arguments, expected in (
        (("--patient", "corrected"), after.patient_pseudonym("corrected")),
        (("--encounter", "corrected-e"), after.encounter_pseudonym("corrected-e")),
        (("--patient", "corrected", "--key", "previous"), before.patient_pseudonym("corrected")),
    ):
        assert run(rotated.new, "pseudonym", "-i", OWN, *arguments).stdout.strip() == expected
    missing = run(rotated.new, "pseudonym", "-i", OWN, "--patient", "corrected", PSEUDONYM_KEY="")
    assert (missing.code, missing.stdout) == (ConfigurationError.exit_code, "")
    assert "PSEUDONYM_KEY must be set" in missing.stderr
    assert run(rotated.new, "pseudonym", "-i", OWN).code == 2
