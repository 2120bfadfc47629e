"""What is known of one patient at one institution, and how an event's entries fold into it.

Folding commutes and is idempotent: any order, any number of deliveries, the same history. Two exceptions are
the sender's own contradictions, each reported: two contents under one version (the first stays), and an
erased patient whose events go on (they begin a new history).
"""

from __future__ import annotations

from datetime import date, datetime
from enum import IntEnum, StrEnum
from typing import Generic, TypeVar, cast

import msgspec


class Scheme(IntEnum):
    """Where a version comes from, weakest first: a version of a stronger scheme beats any of a weaker one."""

    OFFSET = 0
    LAST_UPDATED = 1
    VERSION_ID = 2
    DELETED = 3


_SCHEME_NAMES = tuple(scheme.name.lower() for scheme in Scheme)


class Version(msgspec.Struct, frozen=True, order=True, array_like=True, gc=False):
    """A resource's version: `meta.versionId`, else `meta.lastUpdated` in µs, else the Kafka offset.

    A deletion carries no version of its own and beats all: a deleted id stays deleted.
    """

    scheme: int
    number: int

    def __str__(self) -> str:
        return f"{_SCHEME_NAMES[self.scheme]}:{self.number}"


DELETED = Version(Scheme.DELETED, 0)


class PatientFacts(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a Patient says that matters here; `deceased_at` is None if only `deceased` is known.

    `person` is the id of the Patient that stands for the same person (Patient.link), None where it is this one.
    """

    birth_date: date | None
    gender: str | None
    deceased: bool
    deceased_at: datetime | None
    person: str | None = None


class EncounterFacts(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What an Encounter says that matters here; times in UTC.

    `level` is the German core data set's contact level; `part_of` the id of the encounter this is a part of;
    `disposition` an HL7 discharge-disposition code; `planned` tells an elective admission; `summary_only` that the
    sender tells no more than that the visit took place.
    """

    status: str
    class_code: str | None
    level: str | None
    part_of: str | None
    started: datetime | None
    ended: datetime | None
    updated: datetime | None
    disposition: str | None
    emergency: bool
    planned: bool = False
    summary_only: bool = False


class ConditionFacts(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A diagnosis: `known_from` and `until` in UTC (None: always, not yet ended), the encounter it names."""

    code: str
    known_from: datetime | None
    until: datetime | None
    encounter: str | None


class MedicationFacts(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A medication: `known_from` and `until` in UTC (None: always, not yet ended), the encounter it names."""

    code: str
    known_from: datetime | None
    until: datetime | None
    encounter: str | None


Facts = PatientFacts | EncounterFacts | ConditionFacts | MedicationFacts
F = TypeVar("F", bound=Facts)


class Held(msgspec.Struct, Generic[F], frozen=True, array_like=True, gc=False):
    """A resource as last known: version, digest of its content, its facts (None: retracted)."""

    version: Version
    digest: bytes
    facts: F | None


class ScoreState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The score that now stands for an encounter: its record, when its event arrived, digest of what was scored."""

    record_id: str
    received_at: datetime
    digest: bytes


class PatientHistory(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Everything held of a patient; encounters, conditions and medications by their FHIR id.

    `erased` lists the encounter pseudonyms of an erased patient, all that is left of it; it stays if events go on.
    `refused`: the patient was erased, and events of theirs are not to be taken any more.
    """

    patient_id: str = ""
    patient: Held[PatientFacts] | None = None
    encounters: dict[str, Held[EncounterFacts]] = {}
    conditions: dict[str, Held[ConditionFacts]] = {}
    medications: dict[str, Held[MedicationFacts]] = {}
    scores: dict[str, ScoreState] = {}
    erased: tuple[str, ...] = ()
    refused: bool = False


class Kind(StrEnum):
    """The kinds of entries a history is made of."""

    PATIENT = "Patient"
    ENCOUNTER = "Encounter"
    CONDITION = "Condition"
    MEDICATION = "Medication"


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One resource of an event, ready to be folded; `facts` None retracts it, `path` tells where it stood.

    `patient_id` is None where only the id of a deleted encounter is known.
    """

    kind: Kind
    id: str
    patient_id: str | None
    path: str
    version: Version
    digest: bytes
    facts: Facts | None


class Effect(StrEnum):
    """What folding an entry did."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    CONFLICT = "conflict"
    DELETED_BEFORE = "deleted-before"


def fold(history: PatientHistory, entry: Entry) -> tuple[PatientHistory, Effect]:
    """Fold one entry in; return the new history and what happened. The given history is not changed."""
    held = held_entry(history, entry.kind, entry.id)
    effect, new = merge(held, Held(entry.version, entry.digest, entry.facts))
    return (history if new is held else _replace(history, entry.kind, entry.id, new)), effect


def held_entry(history: PatientHistory, kind: Kind, id_: str) -> Held[Facts] | None:
    """Return what is held under a kind and id, None where nothing is."""
    match kind:
        case Kind.PATIENT:
            held: object = history.patient
        case Kind.ENCOUNTER:
            held = history.encounters.get(id_)
        case Kind.CONDITION:
            held = history.conditions.get(id_)
        case Kind.MEDICATION:
            held = history.medications.get(id_)
    return cast("Held[Facts] | None", held)


def merge(held: Held[Facts] | None, new: Held[Facts]) -> tuple[Effect, Held[Facts]]:
    """Choose between what is held and what is new by version, never by arrival."""
    if held is None:
        return Effect.APPLIED, new
    same = held.digest == new.digest
    if held.version == new.version:
        return (Effect.UNCHANGED if same else Effect.CONFLICT), held
    if held.version > new.version:
        deleted = held.version == DELETED and not same
        return (Effect.DELETED_BEFORE if deleted else Effect.UNCHANGED), held
    return (Effect.UNCHANGED if same else Effect.APPLIED), new


def _replace(history: PatientHistory, kind: Kind, id_: str, new: Held[Facts]) -> PatientHistory:
    change: dict[str, object]
    match kind:
        case Kind.PATIENT:
            change = {"patient": new}
        case Kind.ENCOUNTER:
            change = {"encounters": history.encounters | {id_: new}}
        case Kind.CONDITION:
            change = {"conditions": history.conditions | {id_: new}}
        case Kind.MEDICATION:
            change = {"medications": history.medications | {id_: new}}
    return msgspec.structs.replace(history, **change)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(PatientHistory)


def encode_history(history: PatientHistory) -> bytes:
    """Write a history as MessagePack; equal histories built in any order give equal bytes."""
    return _encoder.encode(
        msgspec.structs.replace(
            history,
            encounters=dict(sorted(history.encounters.items())),
            conditions=dict(sorted(history.conditions.items())),
            medications=dict(sorted(history.medications.items())),
            scores=dict(sorted(history.scores.items())),
        )
    )


def decode_history(data: bytes) -> PatientHistory:
    """Read what `encode_history` wrote; raise ValueError for any other bytes."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f"The bytes are no history ({type(error).__name__}).") from error
