"""What a simulated patient goes through, before anybody writes it down as FHIR."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

from connectors.simulator.profiles import Code


@dataclass(frozen=True, slots=True)
class Person:
    """A simulated patient; `frailty` (mean 0, spread 1) shifts how ill they are and is never written down."""

    institution: str
    number: int
    id: str
    gender: str
    city: str
    birth_date: date
    registered: datetime
    frailty: float


class VisitClass(StrEnum):
    """Encounter.class codes that the simulated hospitals use (v3-ActCode)."""

    INPATIENT = "IMP"
    SHORT_STAY = "SS"
    EMERGENCY = "EMER"
    AMBULATORY = "AMB"


STAYS = frozenset({VisitClass.INPATIENT, VisitClass.SHORT_STAY})


class Disposition(StrEnum):
    """First and second digit of the German discharge reason (§ 301 SGB V, key 5)."""

    REGULAR = "01"
    AGAINST_ADVICE = "04"
    TRANSFERRED = "06"
    DIED = "07"
    REHABILITATION = "09"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A diagnosis; `resolved` is set for acute illnesses that were over when they were recorded."""

    number: int
    code: Code
    onset: datetime
    recorded: datetime
    resolved: datetime | None = None


@dataclass(frozen=True, slots=True)
class Prescription:
    """A prescription; `until` is None for a lasting one."""

    number: int
    code: Code
    authored: datetime
    until: datetime | None = None


class Step(StrEnum):
    """Why a hospital sends an event: the HL7 v2 trigger that stands for it, or a bare clinical resource."""

    ADMISSION = "A01"
    UPDATE = "A08"
    DISCHARGE = "A03"
    VISIT = "A04"
    CLINICAL = "clinical"
    CANCEL = "A11"


@dataclass(frozen=True, slots=True)
class Moment:
    """One event of a visit, with the clinical resources that come up in it.

    `version` is the Encounter's meta.versionId, rising by one with each event that holds the Encounter.
    """

    at: datetime
    step: Step
    version: int
    diagnoses: tuple[Diagnosis, ...] = ()
    prescriptions: tuple[Prescription, ...] = ()


@dataclass(frozen=True, slots=True)
class Visit:
    """One contact with the hospital, from arrival to leaving, and the events it makes."""

    person: Person
    id: str
    class_: VisitClass
    admitted: datetime
    discharged: datetime
    is_emergency: bool
    has_department: bool
    disposition: Disposition
    moments: tuple[Moment, ...]
