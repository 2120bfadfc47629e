"""What a batch of events means: pure, so that a stream, a replay and a file give the same scores.

`decide` folds each event into its patients' histories, finds the encounters whose scores that touches, scores
them all in one run of the model, and says what is to be written and published. It does neither.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import blake2b

import msgspec

from schemas.features import FEATURE_SET, as_of, featurize
from schemas.history import (
    DELETED,
    ConditionFacts,
    Effect,
    EncounterFacts,
    Entry,
    Facts,
    Held,
    Kind,
    MedicationFacts,
    PatientFacts,
    PatientHistory,
    ScoreState,
    fold,
    held_entry,
)
from schemas.institutions import Institution
from schemas.intake.dispositions import shared_disposition
from schemas.intake.event import ParsedEvent, RawEvent
from schemas.messages import Cause, EncounterFeatures, record_id
from schemas.pseudonyms import InstitutionKeys
from schemas.readmission import OutcomeChange
from schemas.rejection import MOST_ISSUES, Issue, Reason
from schemas.stays import is_inpatient, is_part, shared_class, took_place
from streams.outcomes import outcome_changes


class Outcome(StrEnum):
    """How an event ended; each event has exactly one."""

    SCORED = "scored"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    RETRACTED = "retracted"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Sender:
    """An institution and the keys its identities are hidden with.

    previous: keys that deletions of what nobody has heard of yet may lie under, from before a rotation.
    """

    institution: Institution
    keys: InstitutionKeys
    previous: InstitutionKeys | None = None


class Event(msgspec.Struct, frozen=True, gc=False):
    """A message with what it says, who sent it, and the id of the topic it came from."""

    raw: RawEvent
    parsed: ParsedEvent
    sender: Sender
    topic_id: str


PatientKey = tuple[str, str]  # institution id, patient pseudonym
EncounterKey = tuple[str, str]  # institution id, encounter pseudonym


@dataclass(frozen=True, slots=True)
class Known:
    """What the store holds of a batch's patients and encounters.

    `patient_of` maps an encounter to its patient's pseudonym; None: deleted before anything else was heard of it.
    """

    histories: Mapping[PatientKey, PatientHistory]
    patient_of: Mapping[EncounterKey, str | None]


class ToScore(msgspec.Struct, frozen=True, gc=False):
    """An encounter to be scored, or (no features) whose score is to be retracted."""

    event: Event
    record_id: str
    patient_id: str
    patient_pseudonym: str
    encounter_id: str
    encounter_pseudonym: str
    encounter_version: str
    message: EncounterFeatures | None
    supersedes: ScoreState | None
    cause: Cause | None


class FeaturesChange(msgspec.Struct, frozen=True, gc=False):
    """What is to be published of an encounter's features; no message: a tombstone."""

    institution: str
    encounter_pseudonym: str
    message: EncounterFeatures | None


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """An event that was rejected, as a whole or in part."""

    event: Event
    issues: tuple[Issue, ...]


@dataclass(slots=True)
class Decision:
    """All that a batch comes to. Filled event by event by `decide`.

    known_until: how far a partition's events reach: the latest `as_of`, but no later than its event's arrival, so that
    one mistyped year does not end everybody's 30 days.
    """

    outcomes: list[tuple[Event, Outcome]] = field(default_factory=list)
    to_score: list[ToScore] = field(default_factory=list)
    features: list[FeaturesChange] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    histories: dict[PatientKey, PatientHistory] = field(default_factory=dict)
    patient_of: dict[EncounterKey, str | None] = field(default_factory=dict)
    erased: list[tuple[Event, PatientKey, str]] = field(default_factory=list)
    stay_outcomes: dict[EncounterKey, OutcomeChange] = field(default_factory=dict)
    known_until: dict[tuple[str, int], datetime] = field(default_factory=dict)  # by topic id and partition


def patients_of(events: Iterable[Event]) -> set[PatientKey]:
    """List the patients whose histories a batch needs, as far as its events name them."""
    return {
        (event.sender.institution.id, event.sender.keys.patient_pseudonym(patient_id))
        for event in events
        for patient_id in (*event.parsed.erase, *(entry.patient_id for entry in event.parsed.entries))
        if patient_id is not None
    }


def patients_found(events: Iterable[Event], known: Known) -> set[PatientKey]:
    """List the patients of those encounters that events delete by their id alone, as far as they are known."""
    deleted = {
        (event.sender.institution.id, event.sender.keys.encounter_pseudonym(entry.id))
        for event in events
        for entry in event.parsed.entries
        if entry.patient_id is None and entry.kind is Kind.ENCOUNTER
    }
    return {(key[0], patient) for key in deleted if (patient := known.patient_of.get(key)) is not None}


def encounters_of(events: Iterable[Event]) -> set[EncounterKey]:
    """List the encounters that a batch names."""
    return {
        (event.sender.institution.id, event.sender.keys.encounter_pseudonym(entry.id))
        for event in events
        for entry in event.parsed.entries
        if entry.kind is Kind.ENCOUNTER
    }


def decide(events: Iterable[Event], known: Known, model_version: str | None) -> Decision:
    """Decide a batch, its events in offset order; without a model's version it folds and featurizes only."""
    decision = Decision()
    for event in events:
        _EventDecider(event, known, decision, model_version).decide()
    return decision


def features_message(
    history: PatientHistory, patient_pseudonym: str, encounter_id: str, sender: Sender
) -> EncounterFeatures | None:
    """Featurize an encounter as of its own time; None where it is none that is scored.

    Not scored are retracted and planned encounters, parts of others, and those without a beginning.
    """
    rules = sender.institution.rules
    held = history.encounters[encounter_id]
    facts = held.facts
    if facts is None or not took_place(facts) or is_part(encounter_id, facts, rules):
        return None
    at = as_of(history, encounter_id, facts)
    if at is None or facts.started is None:
        return None
    patient = history.patient.facts if history.patient else None
    return EncounterFeatures(
        institution=sender.institution.id,
        patient_pseudonym=patient_pseudonym,
        encounter_pseudonym=sender.keys.encounter_pseudonym(encounter_id),
        encounter_version=str(held.version),
        status=facts.status,
        class_code=shared_class(facts.class_code, rules),
        inpatient=is_inpatient(encounter_id, facts, rules),
        admitted_at=facts.started,
        discharged_at=facts.ended,
        as_of=at,
        disposition=shared_disposition(facts.disposition),
        deceased_at=patient.deceased_at if patient else None,
        features=featurize(history, encounter_id, facts, at, rules),
        feature_set=FEATURE_SET,
        planned=facts.planned,
        summary_only=facts.summary_only,
        person_pseudonym=sender.keys.patient_pseudonym(patient.person) if patient and patient.person else None,
    )


def message_digest(message: EncounterFeatures) -> bytes:
    """Digest a message in two halves: what the score depends on, and what only the training does."""
    scored = (message.features.vector(), message.as_of, message.inpatient)
    rest = (message.status, message.class_code, message.admitted_at, message.discharged_at, message.disposition)
    known = (message.deceased_at, message.planned, message.person_pseudonym, message.summary_only)
    both = (scored, (*rest, *known))
    return b"".join(blake2b(msgspec.msgpack.encode(half), digest_size=8).digest() for half in both)


def _patient_key(one: ToScore) -> PatientKey:
    return one.event.sender.institution.id, one.patient_pseudonym


_NEVER = datetime.max.replace(tzinfo=UTC)


def _effective_from(held: Held[Facts] | None, new: Facts | None) -> datetime | None:
    """Return from when on a change can matter to features, None where it always can."""
    moments = [_begins(facts) for facts in (held.facts if held else None, new) if facts is not None]
    return None if None in moments else min((moment for moment in moments if moment), default=_NEVER)


def _begins(facts: Facts) -> datetime | None:
    match facts:
        case EncounterFacts():
            return facts.started or _NEVER
        case ConditionFacts() | MedicationFacts():
            return facts.known_from
        case PatientFacts():
            return None


def _earliest(moments: list[datetime | None]) -> datetime | None:
    return None if None in moments else min(moment for moment in moments if moment)


def _touched(facts: EncounterFacts | None, since: datetime | None) -> bool:
    return since is None or facts is None or facts.ended is None or facts.ended >= since


@dataclass(slots=True)
class _EventDecider:
    event: Event
    known: Known
    decision: Decision
    model_version: str | None
    issues: list[Issue] = field(default_factory=list)
    applied: bool = False
    scored: bool = False
    retracted: bool = False

    def decide(self) -> None:
        parsed = self.event.parsed
        self.issues.extend((*parsed.issues, *parsed.unsupported))
        for patient_id in parsed.erase:
            self._erase(patient_id)
        for patient_id, entries in self._by_patient(parsed.entries).items():
            self._apply(patient_id, entries)
        if self.issues:
            self.decision.rejected.append(Rejected(self.event, tuple(self.issues[:MOST_ISSUES])))
        self.decision.outcomes.append((self.event, self._outcome()))

    def _outcome(self) -> Outcome:
        if self.issues:
            return Outcome.REJECTED
        if self.retracted:
            return Outcome.RETRACTED
        if self.scored:
            return Outcome.SCORED
        return Outcome.UPDATED if self.applied else Outcome.UNCHANGED

    # --- patients

    def _by_patient(self, entries: Iterable[Entry]) -> dict[str, list[Entry]]:
        """Group entries by patient pseudonym; a deletion that names no patient goes where its encounter is known."""
        grouped: dict[str, list[Entry]] = {}
        for entry in entries:
            if entry.patient_id is not None:
                pseudonym = self.event.sender.keys.patient_pseudonym(entry.patient_id)
            else:
                found = self._patient_of(entry.id)
                if found is None:
                    self._note_encounter(entry.id, None)
                    self.applied = self.retracted = True
                    continue
                pseudonym = found
            grouped.setdefault(pseudonym, []).append(entry)
        return grouped

    def _patient_of(self, encounter_id: str) -> str | None:
        key = self._encounter_key(encounter_id)
        return self.decision.patient_of.get(key) or self.known.patient_of.get(key)

    def _encounter_key(self, encounter_id: str) -> EncounterKey:
        return self.event.sender.institution.id, self.event.sender.keys.encounter_pseudonym(encounter_id)

    def _note_encounter(self, encounter_id: str, patient_pseudonym: str | None) -> None:
        self.decision.patient_of[self._encounter_key(encounter_id)] = patient_pseudonym

    def _history(self, key: PatientKey, patient_id: str | None) -> PatientHistory:
        history = self.decision.histories.get(key) or self.known.histories.get(key) or PatientHistory()
        if history.patient_id or not patient_id:
            return history
        # New, or erased and going on; what was erased stays known, so that its tombstones can be sent again.
        return msgspec.structs.replace(history, patient_id=patient_id)

    def _erase(self, patient_id: str) -> None:
        keys = self.event.sender.keys
        key = (self.event.sender.institution.id, keys.patient_pseudonym(patient_id))
        history = self.decision.histories.get(key) or self.known.histories.get(key) or PatientHistory()
        said = self.event.parsed.refuse
        refused = history.refused if said is None else said
        self.retracted = True
        if not history.patient_id:
            if refused != history.refused:
                self.decision.histories[key] = msgspec.structs.replace(history, refused=refused)
            return
        now = [keys.encounter_pseudonym(id_) for id_ in sorted(history.encounters)]
        gone = tuple(dict.fromkeys([*history.erased, *now]))
        self.decision.histories[key] = PatientHistory(erased=gone, refused=refused)
        self.decision.to_score = [one for one in self.decision.to_score if _patient_key(one) != key]
        self.decision.features = [one for one in self.decision.features if one.encounter_pseudonym not in gone]
        self.decision.features += [FeaturesChange(key[0], pseudonym, None) for pseudonym in gone]
        self._follow_up(history, PatientHistory(), key[1], history.encounters)
        self.decision.erased.append((self.event, key, patient_id))

    # --- entries

    def _apply(self, pseudonym: str, entries: list[Entry]) -> None:
        key = (self.event.sender.institution.id, pseudonym)
        before = history = self._history(key, entries[0].patient_id)
        if history.refused:
            self._refuse_erased(entries)
            return
        named: set[str] = set()
        since: list[datetime | None] = []  # from when on each change can matter; None: always
        for entry in self._with_early_deletions(entries, history, pseudonym):
            held = held_entry(history, entry.kind, entry.id)
            history, effect = fold(history, entry)
            if effect in (Effect.CONFLICT, Effect.DELETED_BEFORE):
                self._refuse(entry, effect)
            elif effect is Effect.APPLIED:
                self.applied = True
                since.append(_effective_from(held, entry.facts))
                if entry.kind is Kind.ENCOUNTER:
                    named.add(entry.id)
                    self.retracted |= entry.facts is None
        if since:
            history = self._rescore(history, pseudonym, named, _earliest(since))
            self._follow_up(before, history, pseudonym, named)
        if history is not before:
            self.decision.histories[key] = history

    def _with_early_deletions(self, entries: list[Entry], history: PatientHistory, pseudonym: str) -> Iterable[Entry]:
        """Yield the entries; where an encounter is new, note whose it is and catch up on an earlier deletion."""
        for entry in entries:
            yield entry
            if entry.kind is Kind.ENCOUNTER and entry.id not in history.encounters:
                key = self._encounter_key(entry.id)
                noted = self.decision.patient_of if key in self.decision.patient_of else self.known.patient_of
                early = key in noted and noted[key] is None
                self._note_encounter(entry.id, pseudonym)
                if early:
                    yield Entry(entry.kind, entry.id, entry.patient_id, entry.path, DELETED, b"", None)

    def _refuse(self, entry: Entry, effect: Effect) -> None:
        if effect is Effect.CONFLICT:
            reason, text = Reason.VERSION_CONFLICT, "this version was received before with other content."
        else:
            reason, text = Reason.DELETED_BEFORE, "it was deleted before, and a deleted id stays deleted."
        self.issues.append(Issue(reason, entry.path, f"{entry.path}: {text}"))

    def _refuse_erased(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.version != DELETED:  # there is nothing left to delete
                text = f"{entry.path}: the patient was erased, and events of theirs are refused."
                self.issues.append(Issue(Reason.PATIENT_ERASED, entry.path, text))

    def _follow_up(self, before: PatientHistory, after: PatientHistory, pseudonym: str, named: Collection[str]) -> None:
        institution, keys, changes = self.event.sender.institution, self.event.sender.keys, self.decision.stay_outcomes
        for encounter, change in outcome_changes(before, after, named, pseudonym, institution, keys):
            key = (institution.id, encounter)
            changes[key] = change.after(changes.get(key))

    def _note_reach(self, at: datetime) -> None:
        raw, reached = self.event.raw, self.decision.known_until
        place, at = (self.event.topic_id, raw.partition), min(at, raw.received_at)
        reached[place] = max(at, reached.get(place, at))

    # --- scores

    def _rescore(
        self, history: PatientHistory, pseudonym: str, named: set[str], since: datetime | None
    ) -> PatientHistory:
        scores = dict(history.scores)
        encounters = history.encounters
        touched = {id_ for id_ in scores if _touched(encounters[id_].facts, since)}
        for encounter_id in sorted(named | touched):
            held = encounters[encounter_id]
            state = self._rescore_one(history, pseudonym, encounter_id, held, encounter_id in named)
            if state is None:
                scores.pop(encounter_id, None)
            else:
                scores[encounter_id] = state
        return msgspec.structs.replace(history, scores=scores)

    def _rescore_one(
        self, history: PatientHistory, pseudonym: str, encounter_id: str, held: Held[EncounterFacts], named: bool
    ) -> ScoreState | None:
        """Decide on one encounter's score; return its new state, None where it has no score any more."""
        state = history.scores.get(encounter_id)
        message = features_message(history, pseudonym, encounter_id, self.event.sender)
        if message is None:
            if state is not None:
                self._retract(history, encounter_id, held, state)
            return None
        digest = message_digest(message)
        if not named and state is not None and state.digest == digest:
            return state
        self.decision.features.append(
            FeaturesChange(self.event.sender.institution.id, message.encounter_pseudonym, message)
        )
        self._note_reach(message.as_of)
        same_score = state is not None and state.digest[:8] == digest[:8]
        unscored = state is not None and not state.record_id  # folded before there was a model
        # A summary counts for the patient's other encounters, but says too little to be scored itself.
        is_scoreless = self.model_version is None or message.summary_only
        if is_scoreless or (not named and (same_score or unscored)):
            return ScoreState(
                state.record_id if state else "", state.received_at if state else self.event.raw.received_at, digest
            )
        self.scored = True
        cause = Cause.ENCOUNTER_UPDATED if named else Cause.HISTORY_CHANGED
        record = self._to_score(history, encounter_id, held, message, state, cause)
        return ScoreState(record, self.event.raw.received_at, digest)

    def _retract(
        self, history: PatientHistory, encounter_id: str, held: Held[EncounterFacts], state: ScoreState
    ) -> None:
        self.retracted = True
        pseudonym = self.event.sender.keys.encounter_pseudonym(encounter_id)
        self.decision.features.append(FeaturesChange(self.event.sender.institution.id, pseudonym, None))
        if state.record_id:
            self._to_score(history, encounter_id, held, None, state, Cause.RETRACTED)

    def _to_score(
        self,
        history: PatientHistory,
        encounter_id: str,
        held: Held[EncounterFacts],
        message: EncounterFeatures | None,
        state: ScoreState | None,
        cause: Cause,
    ) -> str:
        raw, keys = self.event.raw, self.event.sender.keys
        encounter_pseudonym = keys.encounter_pseudonym(encounter_id)
        supersedes = state if state and state.record_id else None
        version = self.model_version or ""
        record = record_id(self.event.topic_id, raw.partition, raw.offset, encounter_pseudonym, version)
        self.decision.to_score.append(
            ToScore(
                event=self.event,
                record_id=record,
                patient_id=history.patient_id,
                patient_pseudonym=keys.patient_pseudonym(history.patient_id),
                encounter_id=encounter_id,
                encounter_pseudonym=encounter_pseudonym,
                encounter_version=str(held.version),
                message=message,
                supersedes=supersedes,
                cause=cause if supersedes else None,
            )
        )
        return record
