"""Look for traces of erased patients: in every table, on the topics, in files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from connectors.kafka import end_offsets
from connectors.registry import Registry
from connectors.settings import Settings
from healthalliance.progress import fetch
from schemas.pseudonyms import InstitutionKeys
from schemas.topics import TopicFamily
from tests.faults.fault_free import read

_WORD = re.compile(r"[A-Za-z0-9.-]+")


@dataclass(frozen=True, slots=True)
class Erased:
    """The words that tell of erased patients: ids and pseudonyms, theirs and their encounters'."""

    words: frozenset[str]

    @classmethod
    def of(cls, keys: InstitutionKeys, patients: Iterable[str], encounters: Iterable[str]) -> Erased:
        """Name patients and encounters of an institution by its ids."""
        patients, encounters = list(patients), list(encounters)
        pseudonyms = [*map(keys.patient_pseudonym, patients), *map(keys.encounter_pseudonym, encounters)]
        return cls(frozenset((*patients, *encounters, *pseudonyms)))

    def hits(self, text: str) -> int:
        """Count their words in a text."""
        return sum(word in self.words for word in _WORD.findall(text))


@dataclass(frozen=True, slots=True)
class OnTopic:
    """Records with a hit: those that stand as the newest of their key, all with a value, tombstones' keys."""

    standing: int
    with_value: int
    tombstones: int


def hits_in_tables(settings: Settings, erased: Erased) -> dict[str, int]:
    """Count hits in every table of the database by name, without those that have none.

    The audit log keeps who was looked at, and by whom: it is to answer for that after an erasure too.
    """
    tables = fetch(settings, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
                             "AND relkind IN ('r', 'm') AND NOT relispartition AND relname <> 'audit_events' "
                             "UNION SELECT 'risk_scores'")  # fmt: skip
    found: Counter[str] = Counter()
    for table in (row["relname"] for row in tables):
        for row in fetch(settings, f'SELECT one::text AS text FROM "{table}" AS one'):
            found[table] += erased.hits(row["text"])
    return {table: number for table, number in found.items() if number}


def hits_on_topic(settings: Settings, topic: str, erased: Erased) -> OnTopic:
    """Count the records of a topic that tell of them, by key or by any of the value's fields."""
    registry, newest = Registry(settings.schema_registry_url), dict[bytes, bool]()
    record = "RiskScore" if topic.startswith(TopicFamily.RISK) else "EncounterFeatures"
    with_value = tombstones = 0
    for message in read(settings, end_offsets(settings, [topic])):
        key, value = message.key() or b"", message.value()
        text = key.decode() if value is None else f"{key.decode()} {registry.decode(record, value)}"
        if not erased.hits(text.replace("/", " ")):
            continue
        newest[key] = value is not None
        with_value, tombstones = with_value + (value is not None), tombstones + (value is None)
    return OnTopic(sum(newest.values()), with_value, tombstones)


def hits_in_files(roots: Iterable[Path], erased: Erased) -> dict[str, int]:
    """Count hits in files as text, whatever they are, without files that have none."""
    found = {str(path): erased.hits(path.read_bytes().decode("latin-1")) for path in _files(roots)}
    return {path: number for path, number in found.items() if number}


def _files(roots: Iterable[Path]) -> Iterator[Path]:
    for root in roots:
        yield from (path for path in root.rglob("*") if path.is_file())
