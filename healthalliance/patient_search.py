"""Find what every store holds of patients: tables, topics, files."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
from cryptography.exceptions import InvalidTag

from connectors.patient_records import Keyed, Rejections, keyed_records, rejections_of
from connectors.patient_rows import Person, count_rows, encounters_of, first_known, read_history, read_rejections
from connectors.ranges import Partition
from connectors.settings import Settings
from connectors.store import AWAY, unanswered
from healthalliance.erased_files import FilesOf, files_of
from schemas.errors import ConfigurationError
from schemas.history import PatientHistory
from schemas.institutions import institution as find_institution
from schemas.pseudonyms import institution_keys
from schemas.topics import TopicFamily, topic_name

_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")


@dataclass
class Found:
    """What there is of one patient."""

    person: Person
    history: PatientHistory | None
    encounters: set[str]
    rows: Mapping[str, int]
    first_known: datetime | None
    features: dict[str, Keyed] = field(default_factory=dict)  # by encounter pseudonym, with a record of any age
    risk: Keyed = field(default_factory=Keyed)
    rejections: Rejections = field(default_factory=Rejections)
    rejected_rows: int = 0
    files: FilesOf = field(default_factory=FilesOf)

    @property
    def stores(self) -> dict[tuple[str, str], int]:
        """How much each place holds; records on topics that a tombstone hides already do not count."""
        institution = self.person.institution
        live = sum(one.live > 0 for one in self.features.values())
        return {
            **{("postgresql", table): number for table, number in self.rows.items()},
            ("postgresql", "rejected_events"): self.rejected_rows,
            ("kafka", topic_name(TopicFamily.FEATURES, institution)): live,
            ("kafka", topic_name(TopicFamily.RISK, institution)): self.risk.live,
            ("files", "snapshots"): self.files.rows,
            ("files", "dvc_cache"): len(self.files.versions),
            ("files", "federation"): len(self.files.kept),
        }

    @property
    def refused(self) -> bool:
        """Whether events of the patient are refused."""
        return self.history is not None and self.history.refused


def people_of(settings: Settings, institution_id: str, patient_ids: Iterable[str]) -> list[Person]:
    """Return patients with their pseudonyms, each once.

    Raises ConfigurationError without PSEUDONYM_KEY, or for what is no id of FHIR's.
    """
    keys = institution_keys(settings.pseudonym_key.get_secret_value(), find_institution(institution_id).id)
    ids = dict.fromkeys(id_.removeprefix("Patient/") for id_ in patient_ids)
    if wrong := sum(not _ID.fullmatch(id_) for id_ in ids):
        raise ConfigurationError(f"{wrong} of {len(ids)} ids are none: 1 to 64 letters, digits, - and . are.")
    return [Person(institution_id, keys, id_) for id_ in ids]


def look(
    settings: Settings, people: Sequence[Person], snapshots: Sequence[Path] = ()
) -> tuple[list[Found], dict[Partition, int]]:
    """Find what every store holds of patients, and where the partitions of features and risk ended.

    Raises ConfigurationError for another PSEUDONYM_KEY than the histories', UnavailableError where a store is away.
    """
    institution = people[0].institution
    found = with_database(settings, lambda connection: _in_tables(connection, people))
    wanted = {pseudonym.encode() for one in found for pseudonym in one.encounters}
    features, ends = keyed_records(settings, topic_name(TopicFamily.FEATURES, institution), wanted)
    risk, risk_ends = keyed_records(
        settings, topic_name(TopicFamily.RISK, institution), {f"Patient/{one.id}".encode() for one in people}
    )
    rejected = rejections_of(settings, topic_name(TopicFamily.REJECTED, institution), [one.person.id for one in found])
    files = files_of(settings, institution, [one.person.pseudonym for one in found], snapshots)
    for one in found:
        one.features = {
            pseudonym: features[key] for pseudonym in one.encounters if (key := pseudonym.encode()) in features
        }
        one.risk = risk.get(f"Patient/{one.person.id}".encode(), Keyed())
        one.rejections = rejected.get(one.person.id, Rejections())
        one.files = files[one.person.pseudonym]
    with_database(settings, lambda connection: _count_rejections(connection, found))
    return found, {**ends, **risk_ends}


async def _history(connection: asyncpg.Connection[Any], person: Person) -> PatientHistory | None:
    try:
        return await read_history(connection, person)
    except InvalidTag:
        raise ConfigurationError("PSEUDONYM_KEY is not the one that the histories are sealed with.") from None


async def _in_tables(connection: asyncpg.Connection[Any], people: Sequence[Person]) -> list[Found]:
    found = []
    for person in people:
        history = await _history(connection, person)
        encounters = encounters_of(history, person.keys)
        rows = await count_rows(connection, person, encounters)
        found.append(
            Found(person, history, encounters, rows, await first_known(connection, person, history, encounters))
        )
    return found


async def _count_rejections(connection: asyncpg.Connection[Any], found: Iterable[Found]) -> None:
    for one in found:
        one.rejected_rows = len(await read_rejections(connection, one.rejections.own)) if one.rejections.own else 0


def with_database(settings: Settings, act: Callable[[asyncpg.Connection[Any]], Any]) -> Any:
    """Run a coroutine function with a connection; raise UnavailableError where PostgreSQL does not answer."""

    async def run() -> Any:
        connection = await asyncpg.connect(settings.database_url, timeout=10)
        try:
            return await act(connection)
        finally:
            await connection.close()

    try:
        return asyncio.run(run())
    except AWAY as error:
        raise unanswered(error) from error


def look_again(settings: Settings, erased: Sequence[Found], snapshots: Sequence[Path]) -> list[Found]:
    """Look again for what was found; of a patient who came back since, the new encounters do not count."""

    async def count(connection: asyncpg.Connection[Any]) -> list[Found]:
        left = []
        for one in erased:
            history = await _history(connection, one.person)
            now = set(map(one.person.keys.encounter_pseudonym, history.encounters)) if history else set()
            rows = await count_rows(connection, one.person, one.encounters, spared=now)
            rows["patient_history"] = int(bool(history and history.erased))
            rejected = len(await read_rejections(connection, one.rejections.own))
            left.append(Found(one.person, history, one.encounters, rows, None, rejected_rows=rejected))
        return left

    found = with_database(settings, count)
    files = files_of(settings, erased[0].person.institution, [one.person.pseudonym for one in erased], snapshots)
    for one in found:
        one.files = files[one.person.pseudonym]
    return list(found)
