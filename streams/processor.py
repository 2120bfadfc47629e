"""The steps of a batch: read, apply in one transaction, publish. Each is called from the page in `streams.app`."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter
from types import MappingProxyType
from typing import Any, Protocol

import stamina

from connectors.kafka import OutMessage, Publisher
from connectors.store import TRANSIENT, Advance, Batch, Partition, RejectedRow, Store, StoredHistory, Writes
from connectors.tracing import own_traceparent, span
from schemas.challenger import ChallengerScore
from schemas.errors import FencedError, IntakeStoppedError, UnavailableError
from schemas.history import Kind, decode_history, encode_history
from schemas.intake.event import RawEvent, documents_of, open_events, read_events
from schemas.intake.event_bytes import Limits
from schemas.intake.structure import StructureValidator
from schemas.messages import RiskScore
from schemas.model import Model
from streams import metrics
from streams.batch_trace import Coordinates, coordinates_of, traceparents_of
from streams.decision import (
    Decision,
    EncounterKey,
    Event,
    FeaturesChange,
    Known,
    Outcome,
    PatientKey,
    Rejected,
    Sender,
    decide,
    encounters_of,
    patients_found,
    patients_of,
)
from streams.outgoing import erasure_message, features_out, rejected_message, risk_message
from streams.republishing import current_features, stored_rejections, stored_scores
from streams.scoring import score
from streams.shadow import Shadow

Positions = Mapping[tuple[str, int], int]  # by topic and partition

_NOWHERE: Positions = MappingProxyType({})


class Record(Protocol):
    """A Kafka record, as aiokafka hands it over."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Results:
    """What a committed batch has to publish."""

    outcomes: list[tuple[Event, Outcome]] = field(default_factory=list)
    scores: list[RiskScore] = field(default_factory=list)
    features: list[FeaturesChange] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    erased: list[tuple[str, str]] = field(default_factory=list)  # institution, patient id
    revisions: Mapping[PatientKey, int] = field(default_factory=dict)  # of the patients' histories, once committed
    are_repeated: bool = False  # at least some of them: newer ones may have been published since
    traceparents: Mapping[Coordinates, bytes] = field(default_factory=dict)  # of the events that came with one


class Processor:
    """Holds what the steps need; `model` may be replaced at any time, None folds and featurizes only.

    Without a publisher it can only read and apply.
    """

    def __init__(
        self,
        *,
        senders: Mapping[str, Sender],
        limits: Limits,
        validate: StructureValidator,
        store: Store,
        publisher: Publisher | None,
        schema_ids: Mapping[str, int],
        retry_timeout_s: float,
        rejected_share_limit: float = 1.0,
        rejected_share_window: int = 1000,
    ) -> None:
        self._senders, self._limits, self._validate = senders, limits, validate
        self._store, self._publisher, self._schema_ids = store, publisher, schema_ids
        self._retry_timeout_s = retry_timeout_s
        self._share_limit = rejected_share_limit
        self._recent: dict[str, deque[bool]] = {
            sender.institution.id: deque(maxlen=rejected_share_window) for sender in senders.values()
        }
        self.topic_ids: Mapping[str, str] = {}
        self.model: Model | None = None
        self.shadow = Shadow()
        self.in_trouble = False
        self._expected: dict[Partition, int] = {}

    def forget_progress(self) -> None:
        """Forget how far this worker has applied: partitions were handed out anew."""
        self._expected.clear()

    # --- read

    async def read(self, records: Iterable[Record]) -> list[Event]:
        """Parse and validate records, in the given order; a thread judges their structure meanwhile."""
        with _timed("read"):
            opened = open_events(map(raw_event, records), self._limits)
            found = await asyncio.to_thread(self._validate, documents_of(opened))
            senders = [self._senders[one.raw.topic] for one in opened]
            parsed = read_events(opened, (sender.institution for sender in senders), found)
            return [
                Event(one.raw, said, sender, self.topic_ids[one.raw.topic])
                for one, said, sender in zip(opened, parsed, senders, strict=True)
            ]

    # --- apply

    async def apply(self, events: Sequence[Event], positions: Positions = _NOWHERE) -> Results:
        """Decide a batch and commit it, once; retry while PostgreSQL is away, for `retry_timeout_s` at most.

        The model that decides names the scores, so it is the one that makes them, whatever comes meanwhile.
        positions: the offsets below which everything must have been applied before.
        Raises FencedError if it was not, or if another worker has moved on with one of the partitions, and asyncpg's
        error once the time for retries is up.
        """
        model = self.model
        async for attempt in self._attempts(*TRANSIENT):
            with attempt:
                self._note_trouble("postgres", attempt.num > 1)
                async with self._store.batch() as batch:
                    results, reached = await self._apply(batch, events, positions, model)
        self._expected.update(reached)
        self._note_trouble("postgres", False)
        _count(events, results)
        return results

    async def stop_bad_intakes(self, results: Results) -> None:
        """Stop an institution's intake, and this worker, where too large a share of its last events was rejected.

        A bad deploy on either side must not dead-letter a hospital. Raises IntakeStoppedError.
        """
        for event, outcome in results.outcomes:
            self._recent[event.sender.institution.id].append(outcome is Outcome.REJECTED)
        for institution, recent in self._recent.items():
            share = sum(recent) / len(recent) if len(recent) == recent.maxlen else 0.0
            if share > self._share_limit:
                await self._store.stop_intake(institution, share)
                raise IntakeStoppedError(
                    f"{share:.0%} of the last {len(recent)} events of {institution} were rejected; its intake is "
                    f"stopped until `healthalliance intake resume {institution}`."
                )

    def _note_trouble(self, part: str, trouble: bool) -> None:
        self.in_trouble = trouble
        if trouble:
            metrics.RETRIES.labels(part).inc()

    async def _apply(
        self, batch: Batch, events: Sequence[Event], positions: Positions, model: Model | None
    ) -> tuple[Results, dict[Partition, int]]:
        now = datetime.now(UTC)
        firsts = _first_offsets(events)
        with _timed("load"):
            reached = await batch.lock_progress(firsts, now)
            _require_whole(reached, positions)
            self._require_own(reached, events)
            stored, known = await load_known(batch, events)
        fresh = [event for event in events if event.raw.offset >= reached[_partition(event)]]
        with _timed("decide"):
            decision = decide(fresh, known, model.version if model else None)
            scores = score(decision.to_score, model, now) if model and decision.to_score else []
            challenged = self.shadow.scores(decision.to_score, model, now) if model and decision.to_score else []
            writes = self._writes(decision, scores, challenged, stored, now)
        with _timed("write"):
            if writes.advances:
                await batch.write(writes)
        results = Results(
            decision.outcomes,
            scores,
            decision.features,
            decision.rejected,
            [(key[0], patient_id) for _, key, patient_id in decision.erased],
            {**_revisions(stored), **{key: revision + 1 for key, (revision, _) in writes.histories.items()}},
            traceparents=traceparents_of(events),
        )
        if len(fresh) < len(events):
            now_known = Known({**known.histories, **decision.histories}, {**known.patient_of, **decision.patient_of})
            again = await self._again(batch, events, reached, now_known)
            results = Results(
                decision.outcomes,
                again.scores + results.scores,
                again.features + results.features,
                again.rejected + results.rejected,
                again.erased + results.erased,
                results.revisions,
                are_repeated=True,
                traceparents=results.traceparents,
            )
        return results, {**reached, **{one.partition: one.next_offset for one in writes.advances}}

    def _require_own(self, reached: Mapping[Partition, int], events: Sequence[Event]) -> None:
        ends = {_partition(event): event.raw.offset + 1 for event in events}
        for partition, next_offset in reached.items():
            expected = self._expected.get(partition)
            # A commit whose answer was lost has moved the row to this very batch's end.
            if expected is not None and next_offset not in (expected, ends[partition]):
                raise FencedError(f"{partition.topic}/{partition.number} was moved by another worker.")

    def _writes(
        self,
        decision: Decision,
        scores: list[RiskScore],
        challenged: list[ChallengerScore],
        stored: Mapping[PatientKey, StoredHistory],
        now: datetime,
    ) -> Writes:
        keys = {sender.institution.id: sender.keys for sender in self._senders.values()}
        return Writes(
            now=now,
            advances=_advances(decision),
            histories={
                key: (
                    stored[key].revision if key in stored else 0,
                    keys[key[0]].seal(encode_history(history), key[1]),
                )
                for key, history in decision.histories.items()
            },
            patient_of=decision.patient_of,
            scores=scores,
            superseded=[
                (one.supersedes.record_id, one.supersedes.received_at, one.record_id)
                for one in decision.to_score
                if one.supersedes is not None
            ],
            rejected=[_rejected_row(one) for one in decision.rejected],
            erased={key: decision.histories[key].erased for _, key, _ in decision.erased},
            stay_outcomes=decision.stay_outcomes,
            challenger_scores=challenged,
        )

    async def _again(
        self,
        batch: Batch,
        events: Sequence[Event],
        reached: Mapping[Partition, int],
        known: Known,
    ) -> Results:
        """Gather the results of the events that were applied before."""
        before = [event for event in events if event.raw.offset < reached[_partition(event)]]
        firsts = _first_offsets(before)
        scores, rejected = [], {}
        for partition, first in firsts.items():
            last = max(event.raw.offset for event in before if _partition(event) == partition)
            scores += stored_scores(before, await batch.load_results(partition, first, last), known.histories)
            for offset, issues in (await batch.load_rejected(partition, first, last)).items():
                rejected[partition.topic_id, partition.number, offset] = issues
        for event in before:
            metrics.REPUBLISHED.labels(event.sender.institution.id).inc()
        return Results(
            [],
            scores,
            current_features(before, known.histories, patients_of(before) | patients_found(before, known)),
            stored_rejections(before, rejected),
            [(event.sender.institution.id, patient_id) for event in before for patient_id in event.parsed.erase],
        )

    # --- publish

    async def publish(self, results: Results) -> None:
        """Publish a committed batch's results and wait for every confirmation; retry as `apply` does."""
        publisher = self._publisher
        if publisher is None:
            raise RuntimeError("this processor has no publisher")
        with _timed("publish"):
            messages = self._messages(results)
            if not messages:
                return
            async for attempt in self._attempts(UnavailableError):
                with attempt:
                    self._note_trouble("kafka", attempt.num > 1)
                    await asyncio.to_thread(publisher.publish, messages)
            self._note_trouble("kafka", False)

    async def publish_newest(self, events: Sequence[Event], published: Results) -> None:
        """Publish what the store holds of the events' patients since these events, until nothing newer is there.

        For results that were published so late that another worker may have published newer ones before them, which
        would then lie below. Retries as `apply` and `publish` do.
        """
        seen = published.revisions
        while True:
            async for attempt in self._attempts(*TRANSIENT):
                with attempt:
                    self._note_trouble("postgres", attempt.num > 1)
                    async with self._store.batch() as batch:
                        stored, known = await load_known(batch, events)
                        revisions = _revisions(stored)
                        # One that is gone altogether was erased and cleared away meanwhile.
                        changed = {key for key in {*seen, *revisions} if seen.get(key) != revisions.get(key)}
                        newest = await self._newest(batch, events, published, known, changed) if changed else None
            self._note_trouble("postgres", False)
            if newest is None:
                return
            await self.publish(newest)
            seen = revisions

    async def _newest(
        self, batch: Batch, events: Sequence[Event], published: Results, known: Known, patients: set[PatientKey]
    ) -> Results:
        pseudonyms = [pseudonym for _, pseudonym in patients]
        scores: list[RiskScore] = []
        for partition, first in _first_offsets(events).items():
            rows = await batch.load_results(partition, first, patients=pseudonyms)
            scores += stored_scores(events, rows, known.histories)
        there = {one.record_id for one in scores}
        gone = {
            (one.institution, one.patient_reference.removeprefix("Patient/"))
            for one in published.scores
            if (one.institution, one.patient_pseudonym) in patients and one.record_id not in there
        }
        gone |= {
            (event.sender.institution.id, patient_id)
            for event in events
            for patient_id in event.parsed.erase
            if (event.sender.institution.id, event.sender.keys.patient_pseudonym(patient_id)) in patients
        }
        cleared = [
            FeaturesChange(one.institution, one.encounter_pseudonym, None)
            for one in published.features
            if one.message and (one.institution, one.message.patient_pseudonym) in patients - known.histories.keys()
        ]
        return Results(
            scores=scores,
            features=[*current_features(events, known.histories, patients), *cleared],
            erased=sorted(gone),
            traceparents=published.traceparents,
        )

    def _attempts(self, *on: type[Exception]) -> AsyncIterator[stamina.Attempt]:
        return stamina.retry_context(on=on, attempts=None, timeout=self._retry_timeout_s, wait_max=5.0)

    def _messages(self, results: Results) -> list[OutMessage]:
        traces, own = results.traceparents, own_traceparent()
        return [
            *(erasure_message(institution, patient_id) for institution, patient_id in results.erased),
            *(
                risk_message(one, self._schema_ids, traces.get(coordinates_of(one), own) if traces else own)
                for one in results.scores
            ),
            *(features_out(one, self._schema_ids) for one in results.features),
            *(rejected_message(one) for one in results.rejected),
        ]


async def load_known(batch: Batch, events: Sequence[Event]) -> tuple[dict[PatientKey, StoredHistory], Known]:
    """Lock and read what the store holds of the events' patients and encounters, sealed and unsealed."""
    senders = {event.sender.institution.id: event.sender for event in events}
    await batch.require_keys({id_: sender.keys.id for id_, sender in senders.items()})
    stored = await batch.load_histories(patients_of(events))
    patient_of = await batch.load_patients_of(encounters_of(events))
    if any(sender.previous for sender in senders.values()):
        patient_of = await _deleted_before_rotation(batch, events) | patient_of
    missing = {(i, p) for (i, _), p in patient_of.items() if p is not None} - stored.keys()
    stored |= await batch.load_histories(missing) if missing else {}
    histories = {key: decode_history(senders[key[0]].keys.unseal(held.sealed, key[1])) for key, held in stored.items()}
    return stored, Known(histories, patient_of)


async def _deleted_before_rotation(batch: Batch, events: Sequence[Event]) -> dict[EncounterKey, str | None]:
    """Find encounters that were deleted before anything else was heard of them, noted under the previous key.

    A rotation cannot move them: nobody knows their ids until they come.
    """
    now_called = {
        (event.sender.institution.id, event.sender.previous.encounter_pseudonym(entry.id)): (
            event.sender.institution.id, event.sender.keys.encounter_pseudonym(entry.id))
        for event in events if event.sender.previous is not None
        for entry in event.parsed.entries if entry.kind is Kind.ENCOUNTER
    }  # fmt: skip
    noted = await batch.load_patients_of(now_called)
    return {now_called[key]: None for key, patient in noted.items() if patient is None}


def raw_event(record: Record) -> RawEvent:
    """Take over a Kafka record."""
    return RawEvent(
        record.topic,
        record.partition,
        record.offset,
        record.key,
        record.value,
        datetime.fromtimestamp(record.timestamp / 1000, UTC),
        tuple(record.headers),
    )


def _require_whole(reached: Mapping[Partition, int], positions: Positions) -> None:
    for partition, next_offset in reached.items():
        position = positions.get((partition.topic, partition.number), 0)
        if position > next_offset:
            # Fetched before a rebalance, or acknowledged and then lost with a database that was restored.
            raise FencedError(
                f"{partition.topic}/{partition.number} goes on at {position}, but is applied up to {next_offset} only. "
                "If starting again does not help, stop the workers and run `healthalliance rebuild`."
            )


def _revisions(stored: Mapping[PatientKey, StoredHistory]) -> dict[PatientKey, int]:
    return {key: held.revision for key, held in stored.items()}


def _partition(event: Event) -> Partition:
    return Partition(event.topic_id, event.raw.topic, event.sender.institution.id, event.raw.partition)


def _first_offsets(events: Iterable[Event]) -> dict[Partition, int]:
    firsts: dict[Partition, int] = {}
    for event in events:
        firsts.setdefault(_partition(event), event.raw.offset)
    return firsts


def _advances(decision: Decision) -> list[Advance]:
    ends: dict[Partition, int] = {}
    outcomes: dict[Partition, Counter[str]] = {}
    for event, outcome in decision.outcomes:
        partition = _partition(event)
        ends[partition] = event.raw.offset + 1
        outcomes.setdefault(partition, Counter())[outcome] += 1
    reached = decision.known_until
    return [
        Advance(partition, end, outcomes[partition], reached.get((partition.topic_id, partition.number)))
        for partition, end in ends.items()
    ]


def _rejected_row(one: Rejected) -> RejectedRow:
    raw = one.event.raw
    return RejectedRow(
        one.event.topic_id, raw.partition, raw.offset, one.event.sender.institution.id, raw.received_at, one.issues
    )


def _count(events: Sequence[Event], results: Results) -> None:
    metrics.BATCH_EVENTS.observe(len(events))
    now = datetime.now(UTC)
    for event in events:
        metrics.EVENT_AGE_SECONDS.observe((now - event.raw.received_at).total_seconds())
    ended = Counter((event.sender.institution.id, outcome) for event, outcome in results.outcomes)
    scored = Counter((one.institution, one.band or "retracted") for one in results.scores)
    rejected = Counter(
        (one.event.sender.institution.id, issue.reason) for one in results.rejected for issue in one.issues
    )
    for metric, counts in ((metrics.EVENTS, ended), (metrics.SCORES, scored), (metrics.REJECTIONS, rejected)):
        for labels, number in counts.items():
            metric.labels(*labels).inc(number)
    observed = {id_: metrics.PROBABILITY.labels(id_).observe for id_ in {one.institution for one in results.scores}}
    for one in results.scores:
        if one.probability is not None:
            observed[one.institution](one.probability)


class _timed:  # noqa: N801  # reads as a statement
    def __init__(self, step: str) -> None:
        self._observe, self._span = metrics.BATCH_SECONDS.labels(step).observe, span(step)

    def __enter__(self) -> None:
        self._span.__enter__()
        self._started = perf_counter()

    def __exit__(self, *how: Any) -> None:
        self._observe(perf_counter() - self._started)
        self._span.__exit__(*how)
