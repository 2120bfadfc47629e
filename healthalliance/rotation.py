"""Make an institution's pseudonyms and sealed histories anew with another key, whole or not at all.

The rows change in one transaction, which workers' batches wait for and are then turned away by
(`connectors.store.Batch.require_keys`). Until the features lie under their new keys too, nobody may start; whoever runs
it again after a crash finishes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import asyncpg
import msgspec

from connectors.kafka import OutMessage, Publisher, group_members
from connectors.pseudonym_keys import keys_of_settings, opens
from connectors.registry import Registry
from connectors.settings import Settings
from connectors.store import AWAY, unanswered
from schemas.errors import ConfigurationError
from schemas.history import PatientHistory, ScoreState, decode_history, encode_history
from schemas.institutions import institution as find_institution
from schemas.pseudonyms import InstitutionKeys
from schemas.topics import TopicFamily, topic_name
from streams.decision import FeaturesChange, Sender, features_message, message_digest
from streams.outgoing import features_out

OnProgress = Callable[[int], None]

_AT_ONCE = 2_000
_WITH_BOTH = (
    "risk_scores", "challenger_scores", "score_outcomes", "worklist_marks", "cds_cards", "alert_standings", "alerts",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a rotation has changed; patients is 0 where the rows were changed by an earlier run."""

    institution: str
    key_id: str
    patients: int
    features: int


class _Keys(NamedTuple):
    old: InstitutionKeys
    new: InstitutionKeys


def rotate(settings: Settings, institution_id: str, on_progress: OnProgress = lambda _: None) -> Rotated:
    """Go over from `PSEUDONYM_KEY_PREVIOUS` to `PSEUDONYM_KEY`; finish what an earlier run began; else do nothing.

    Raises ConfigurationError without both keys, where the database's is neither, and while workers run;
    UnavailableError where Kafka, the schema registry or PostgreSQL does not answer.
    """
    candidates = keys_of_settings(settings, institution_id)
    if len(candidates) < 2 or candidates[0].id == candidates[1].id:
        raise ConfigurationError("PSEUDONYM_KEY is to be the new key, and PSEUDONYM_KEY_PREVIOUS the one before it.")
    if members := group_members(settings, settings.consumer_group):
        raise ConfigurationError(f"{members} workers are in the group {settings.consumer_group}; stop them first.")
    keys = _Keys(candidates[1], candidates[0])
    try:
        return asyncio.run(_rotate(settings, institution_id, keys, on_progress))
    except AWAY as error:
        raise unanswered(error) from error


async def _rotate(settings: Settings, institution_id: str, keys: _Keys, on_progress: OnProgress) -> Rotated:
    connection = await asyncpg.connect(settings.database_url, timeout=10)
    try:
        patients = await _change_rows(connection, institution_id, keys, on_progress)
        if patients is None:
            return Rotated(institution_id, keys.new.id, 0, 0)
        features = await _publish_features(settings, connection, institution_id, keys)
        await connection.execute(
            "UPDATE pseudonym_keys SET replaces = NULL WHERE institution = $1 AND key_id = $2",
            institution_id, keys.new.id,
        )  # fmt: skip
    finally:
        await connection.close()
    return Rotated(institution_id, keys.new.id, patients, features)


# --- rows


async def _change_rows(
    connection: asyncpg.Connection[Any], institution_id: str, keys: _Keys, on_progress: OnProgress
) -> int | None:
    """Change all rows in one transaction; return of how many patients, None where all is done already."""
    async with connection.transaction():
        await connection.execute("LOCK TABLE pseudonym_keys IN ACCESS EXCLUSIVE MODE")
        row = await connection.fetchrow("SELECT * FROM pseudonym_keys WHERE institution = $1", institution_id)
        if row is not None and row["key_id"] == keys.new.id:
            return None if row["replaces"] is None else 0
        if row is not None and row["key_id"] != keys.old.id:
            raise ConfigurationError(
                f"PSEUDONYM_KEY_PREVIOUS is not the key that {institution_id}'s pseudonyms are made with."
            )
        await connection.execute(_MAPS)
        done = 0
        async for patients in _histories(connection, institution_id):
            await _note(connection, _anew(institution_id, patients, keys))
            done += len(patients)
            on_progress(done)
        await connection.execute("ANALYZE anew_patients; ANALYZE anew_encounters")
        for statement in _changes():
            await connection.execute(statement, institution_id)
        await connection.execute(_NOTE_KEY, institution_id, keys.new.id, keys.old.id, datetime.now(UTC))
        return done


async def _histories(
    connection: asyncpg.Connection[Any], institution_id: str
) -> AsyncIterator[list[tuple[str, bytes]]]:
    cursor = await connection.cursor(
        "SELECT patient_pseudonym::text, history FROM patient_history WHERE institution = $1", institution_id
    )
    while rows := await cursor.fetch(_AT_ONCE):
        yield [(row["patient_pseudonym"], row["history"]) for row in rows]


class _Anew(NamedTuple):
    patient: tuple[str, str, bytes]  # the old pseudonym, the new one, the history sealed anew
    encounters: list[tuple[str, str]]  # old and new pseudonyms


def _anew(institution_id: str, patients: list[tuple[str, bytes]], keys: _Keys) -> Iterator[_Anew]:
    for old_pseudonym, sealed in patients:
        if opens(old_pseudonym, sealed, [keys.old]) is None:
            raise ConfigurationError(
                f"PSEUDONYM_KEY_PREVIOUS is not the key that {institution_id}'s histories are sealed with."
            )
        history = decode_history(keys.old.unseal(sealed, old_pseudonym))
        # Of an erased patient nobody knows the id; the row keeps its name.
        pseudonym = keys.new.patient_pseudonym(history.patient_id) if history.patient_id else old_pseudonym
        history = _same_digests(institution_id, history, keys, old_pseudonym, pseudonym)
        encounters = [
            (keys.old.encounter_pseudonym(id_), keys.new.encounter_pseudonym(id_)) for id_ in history.encounters
        ]
        yield _Anew((old_pseudonym, pseudonym, keys.new.seal(encode_history(history), pseudonym)), encounters)


def _same_digests(
    institution_id: str, history: PatientHistory, keys: _Keys, old_pseudonym: str, pseudonym: str
) -> PatientHistory:
    """Renew the digests of what was published where they hold a pseudonym, that of a person a patient is linked to."""
    if history.patient is None or history.patient.facts is None or history.patient.facts.person is None:
        return history
    institution, scores = find_institution(institution_id), dict[str, ScoreState]()
    for id_, state in history.scores.items():
        before = features_message(history, old_pseudonym, id_, Sender(institution, keys.old))
        after = features_message(history, pseudonym, id_, Sender(institution, keys.new))
        same = before is not None and after is not None and message_digest(before) == state.digest
        scores[id_] = msgspec.structs.replace(state, digest=message_digest(after)) if same and after else state
    return msgspec.structs.replace(history, scores=scores)


async def _note(connection: asyncpg.Connection[Any], anew: Iterator[_Anew]) -> None:
    found = list(anew)
    await connection.copy_records_to_table("anew_patients", records=[one.patient for one in found])
    await connection.copy_records_to_table(
        "anew_encounters", records=[pair for one in found for pair in one.encounters]
    )


_MAPS = """
CREATE TEMPORARY TABLE anew_patients (old uuid, new uuid, history bytea) ON COMMIT DROP;
CREATE TEMPORARY TABLE anew_encounters (old uuid, new uuid) ON COMMIT DROP
"""
_NOTE_KEY = """
INSERT INTO pseudonym_keys (institution, key_id, replaces, since) VALUES ($1, $2, $3, $4)
ON CONFLICT (institution) DO UPDATE SET
    key_id = excluded.key_id, replaces = excluded.replaces, since = excluded.since
"""


def _changes() -> Iterator[str]:
    yield """UPDATE patient_history AS held SET patient_pseudonym = anew.new, history = anew.history
             FROM anew_patients AS anew WHERE held.institution = $1 AND held.patient_pseudonym = anew.old"""
    for table in ("patient_encounters", *_WITH_BOTH):
        for column, names in (("patient_pseudonym", "anew_patients"), ("encounter_pseudonym", "anew_encounters")):
            yield f"""UPDATE {table} AS held SET {column} = anew.new FROM {names} AS anew
                      WHERE held.institution = $1 AND held.{column} = anew.old AND anew.old <> anew.new"""


# --- features


async def _publish_features(
    settings: Settings, connection: asyncpg.Connection[Any], institution_id: str, keys: _Keys
) -> int:
    """Publish every encounter's features as they are now under its new key, with a tombstone for the old one."""
    sender, publisher, number = Sender(find_institution(institution_id), keys.new), Publisher(settings), 0
    with closing(Registry(settings.schema_registry_url)) as registry:
        schema_ids = registry.register_all()
    async with connection.transaction(readonly=True):
        async for patients in _histories(connection, institution_id):
            messages = list(_messages(sender, keys, patients, schema_ids))
            await asyncio.to_thread(publisher.publish, messages)
            number += sum(one.value is not None for one in messages)
    return number


def _messages(
    sender: Sender, keys: _Keys, patients: list[tuple[str, bytes]], schema_ids: dict[str, int]
) -> Iterator[OutMessage]:
    topic = topic_name(TopicFamily.FEATURES, sender.institution.id)
    for pseudonym, sealed in patients:
        history = decode_history(keys.new.unseal(sealed, pseudonym))
        for id_ in history.encounters:
            # The new ones first: read in between, an encounter is there twice rather than not at all.
            message = features_message(history, pseudonym, id_, sender)
            change = FeaturesChange(sender.institution.id, keys.new.encounter_pseudonym(id_), message)
            yield features_out(change, schema_ids)
            yield OutMessage(topic, keys.old.encounter_pseudonym(id_).encode(), None)
