"""A store and a publisher in memory, for the tests of the processor; both can be told to fail."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from connectors.kafka import OutMessage, Publisher
from connectors.store import Batch, Partition, Store, StoredHistory, Writes
from schemas.challenger import ChallengerScore
from schemas.errors import FencedError, UnavailableError
from schemas.readmission import StayOutcome
from tests.unit.streams.batches import keep_outcomes

Key = tuple[str, str]


@dataclass
class Tables:
    """What is committed."""

    key_ids: dict[str, str] = field(default_factory=dict)  # by institution, where a test says so
    progress: dict[tuple[str, int], int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    histories: dict[Key, StoredHistory] = field(default_factory=dict)
    patient_of: dict[Key, str | None] = field(default_factory=dict)
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    superseded: dict[str, str] = field(default_factory=dict)
    rejected: dict[tuple[str, int, int], list[dict[str, str]]] = field(default_factory=dict)
    stay_outcomes: dict[Key, StayOutcome] = field(default_factory=dict)
    challenger_scores: dict[str, ChallengerScore] = field(default_factory=dict)
    known_until: dict[tuple[str, int], Any] = field(default_factory=dict)

    def standing(self) -> dict[str, Any]:
        """Return the scores no other supersedes, without when they were made."""
        return {
            id_: {name: value for name, value in row.items() if name != "scored_at"}
            for id_, row in self.scores.items()
            if id_ not in self.superseded
        }


class MemoryBatch(Batch):
    """An open transaction: it works on a copy of the tables, which a commit puts in their place."""

    def __init__(self, tables: Tables) -> None:
        self.tables, self.written = deepcopy(tables), list[Writes]()

    async def lock_progress(self, first_offsets: Mapping[Partition, int], now: Any) -> dict[Partition, int]:
        return {
            one: self.tables.progress.setdefault((one.topic_id, one.number), first)
            for one, first in first_offsets.items()
        }

    async def require_keys(self, used: Mapping[str, str]) -> None:
        if any(self.tables.key_ids.get(institution, key_id) != key_id for institution, key_id in used.items()):
            raise FencedError("another key")

    async def load_histories(self, keys: Iterable[Key]) -> dict[Key, StoredHistory]:
        return {key: self.tables.histories[key] for key in keys if key in self.tables.histories}

    async def load_patients_of(self, keys: Iterable[Key]) -> dict[Key, str | None]:
        return {key: self.tables.patient_of[key] for key in keys if key in self.tables.patient_of}

    async def load_results(
        self, partition: Partition, first: int, last: int | None = None, patients: Collection[str] | None = None
    ) -> list[dict[str, Any]]:
        rows = [
            row
            for row in self.tables.scores.values()
            if (row["topic_id"], row["source_partition"]) == (partition.topic_id, partition.number)
            and first <= row["source_offset"]
            and (last is None or row["source_offset"] <= last)
            and (patients is None or row["patient_pseudonym"] in patients)
        ]
        return sorted(rows, key=lambda row: row["source_offset"])

    async def load_rejected(self, partition: Partition, first: int, last: int) -> dict[int, list[dict[str, str]]]:
        return {
            offset: issues
            for (topic_id, number, offset), issues in self.tables.rejected.items()
            if (topic_id, number) == (partition.topic_id, partition.number) and first <= offset <= last
        }

    async def write(self, writes: Writes) -> None:
        self.written.append(writes)
        tables = self.tables
        for one in writes.advances:
            tables.progress[one.partition.topic_id, one.partition.number] = one.next_offset
            if one.known_until is not None:
                place = one.partition.topic_id, one.partition.number
                tables.known_until[place] = max(one.known_until, tables.known_until.get(place, one.known_until))
            for outcome, number in one.outcomes.items():
                tables.outcomes[outcome] = tables.outcomes.get(outcome, 0) + number
        for key, (revision, sealed) in writes.histories.items():
            assert revision == (tables.histories[key].revision if key in tables.histories else 0)
            tables.histories[key] = StoredHistory(revision + 1, sealed)
        tables.patient_of |= writes.patient_of
        for institution, pseudonym in writes.erased:
            tables.scores = {
                id_: row
                for id_, row in tables.scores.items()
                if (row["institution"], row["patient_pseudonym"]) != (institution, pseudonym)
            }
            tables.challenger_scores = {
                id_: row
                for id_, row in tables.challenger_scores.items()
                if (row.institution, row.patient_pseudonym) != (institution, pseudonym)
            }
        tables.challenger_scores |= {one.record_id: one for one in writes.challenger_scores}
        keep_outcomes(tables.stay_outcomes, writes.stay_outcomes)
        for score in writes.scores:
            row = {name: value for name, value in vars(score).items() if not name.endswith("_reference")}
            tables.scores[score.record_id] = row | {"features": score.features and vars(score.features)}
        tables.superseded |= {old: new for old, _, new in writes.superseded}
        for rejected in writes.rejected:
            issues = [{"reason": str(issue.reason), "path": issue.path} for issue in rejected.issues]
            tables.rejected[rejected.topic_id, rejected.partition, rejected.offset] = issues


class MemoryStore(Store):
    """A store in memory; `failures` are raised one a batch, before its commit or, where so named, after it."""

    def __init__(self) -> None:
        self.tables = Tables()
        self.failures: list[Exception] = []
        self.lost_answers: list[Exception] = []
        self.writes: list[Writes] = []
        self.stops: dict[str, float] = {}

    @asynccontextmanager
    async def batch(self) -> AsyncIterator[Batch]:
        batch = MemoryBatch(self.tables)
        if self.failures:
            raise self.failures.pop(0)
        yield batch
        self.tables = batch.tables
        self.writes += batch.written
        if self.lost_answers:
            raise self.lost_answers.pop(0)

    async def stop_intake(self, institution: str, share: float) -> None:
        self.stops[institution] = share


class MemoryPublisher(Publisher):
    """A publisher that keeps what was confirmed; the first `failures` attempts fail half-way."""

    def __init__(self) -> None:
        self.confirmed: list[OutMessage] = []
        self.failures = 0

    def publish(self, messages: Iterable[OutMessage]) -> None:
        sent = list(messages)
        if self.failures:
            self.failures -= 1
            self.confirmed += sent[: len(sent) // 2]
            raise UnavailableError("Kafka did not confirm every message.")
        self.confirmed += sent

    def of(self, topic: str) -> list[OutMessage]:
        return [one for one in self.confirmed if one.topic == topic]

    def compacted(self, topic: str) -> dict[bytes | None, bytes]:
        """Return what a compacted topic holds in the end."""
        newest = {one.key: one.value for one in self.of(topic)}
        return {key: value for key, value in newest.items() if value is not None}
