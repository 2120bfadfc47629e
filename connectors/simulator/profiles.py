"""What sets the simulated hospitals apart: who comes, how often, with what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Fault(StrEnum):
    """What a sender does wrong; the value is what `SourceEvent.fault` says."""

    DUPLICATE = "duplicate"
    OUT_OF_ORDER = "out-of-order"
    MISSING_SUBJECT = "missing-subject"
    INVALID_DATE = "invalid-date"
    END_BEFORE_START = "end-before-start"
    TRUNCATED = "truncated"
    UNKNOWN_STATUS = "unknown-status"
    RETRACTED = "entered-in-error"
    TOMBSTONE = "tombstone"


@dataclass(frozen=True, slots=True)
class Code:
    """A code with the text a person reads."""

    code: str
    display: str


@dataclass(frozen=True, slots=True)
class Illness:
    """An ICD-10-GM diagnosis, how common it is, and the ATC medications it is treated with."""

    diagnosis: Code
    weight: float
    medications: tuple[Code, ...] = ()


@dataclass(frozen=True, slots=True)
class Profile:
    """A hospital's patients and how they come, before frailty shifts it.

    Rates are visits a year; shares lie between 0 and 1; stays last `stay_days` in the median.
    `fault_weights` says which faults its systems are prone to.
    """

    cities: tuple[str, ...]

    age_mean: float
    age_spread: float
    female_share: float
    inpatient_rate: float
    emergency_rate: float
    ambulatory_rate: float
    emergency_share: float
    short_stay_share: float
    stay_days: float
    readmission_offset: float
    illnesses: tuple[Illness, ...]
    acute: tuple[Illness, ...]
    fault_weights: Mapping[Fault, float]


def _weights(**more: float) -> Mapping[Fault, float]:
    """Weigh all faults alike but those named, by their names in `Fault`."""
    return MappingProxyType({fault: more.get(fault.name.lower(), 1.0) for fault in Fault})


def _illness(code: str, display: str, weight: float, *medications: tuple[str, str]) -> Illness:
    return Illness(Code(code, display), weight, tuple(Code(*one) for one in medications))


_METAMIZOLE = ("N02BB02", "Metamizol-Natrium")
_PANTOPRAZOLE = ("A02BC02", "Pantoprazol")
_RAMIPRIL = ("C09AA05", "Ramipril")
_BISOPROLOL = ("C07AB07", "Bisoprolol")
_TORASEMIDE = ("C03CA04", "Torasemid")
_ONDANSETRON = ("A04AA01", "Ondansetron")
_DEXAMETHASONE = ("H02AB02", "Dexamethason")

_GENERAL = (
    _illness("I10.90", "Essentielle Hypertonie", 9, _RAMIPRIL, ("C08CA01", "Amlodipin")),
    _illness("E11.90", "Diabetes mellitus, Typ 2", 6, ("A10BA02", "Metformin"), ("A10AB01", "Insulin (human)")),
    _illness("I50.13", "Linksherzinsuffizienz, NYHA III", 4, _TORASEMIDE, _BISOPROLOL),
    _illness("I48.0", "Vorhofflimmern, paroxysmal", 4, ("B01AF02", "Apixaban"), _BISOPROLOL),
    _illness("J44.19", "COPD mit akuter Exazerbation", 4, ("R03BB04", "Tiotropiumbromid")),
    _illness("N18.3", "Chronische Nierenkrankheit, Stadium 3", 4, _TORASEMIDE),
    _illness("E78.0", "Reine Hypercholesterinämie", 5, ("C10AA01", "Simvastatin")),
    _illness("I25.13", "Atherosklerotische Herzkrankheit", 4, ("B01AC06", "Acetylsalicylsäure")),
    _illness("F32.1", "Mittelgradige depressive Episode", 3, ("N06AB10", "Escitalopram")),
    _illness("M17.1", "Primäre Gonarthrose", 3, _METAMIZOLE),
    _illness("E03.9", "Hypothyreose", 3, ("H03AA01", "Levothyroxin-Natrium")),
    _illness("K21.0", "Gastroösophageale Refluxkrankheit", 3, _PANTOPRAZOLE),
    _illness("M81.90", "Osteoporose", 2, ("M05BA04", "Alendronsäure")),
    _illness("G20.10", "Parkinson-Syndrom", 1, ("N04BA02", "Levodopa und Decarboxylasehemmer")),
)
_CANCER = (
    _illness("C34.1", "Bösartige Neubildung: Oberlappen", 5, ("L01XA01", "Cisplatin"), _DEXAMETHASONE),
    _illness("C50.4", "Bösartige Neubildung: Brustdrüse", 5, ("L02BA01", "Tamoxifen")),
    _illness("C18.7", "Bösartige Neubildung: Colon sigmoideum", 4, ("L01BC02", "Fluorouracil"), _ONDANSETRON),
    _illness("C61", "Bösartige Neubildung der Prostata", 4, ("L02AE02", "Leuprorelin")),
    _illness("C90.00", "Multiples Myelom", 3, ("L04AX04", "Lenalidomid"), _DEXAMETHASONE),
    _illness("C79.5", "Sekundäre bösartige Neubildung des Knochens", 3, ("M05BX04", "Denosumab")),
    _illness("D63.0", "Anämie bei Neubildungen", 3, ("B03XA01", "Erythropoetin")),
    _illness("R52.2", "Sonstiger chronischer Schmerz", 3, ("N02AA01", "Morphin"), _METAMIZOLE),
)
_ACUTE = (
    _illness("J18.9", "Pneumonie", 4, ("J01CR02", "Amoxicillin und Beta-Lactamase-Inhibitoren")),
    _illness("N39.0", "Harnwegsinfektion", 4, ("J01XX01", "Fosfomycin")),
    _illness("E86", "Volumenmangel", 3),
    _illness("R55", "Synkope und Kollaps", 2),
    _illness("S06.0", "Gehirnerschütterung", 1, ("N02BE01", "Paracetamol")),
    _illness("A46", "Erysipel", 2, ("J01CF05", "Flucloxacillin")),
)
_NEUTROPENIA = (
    _illness("D70.10", "Arzneimittelinduzierte Agranulozytose", 3, ("L03AA02", "Filgrastim")),
    _illness("R11", "Übelkeit und Erbrechen", 3, _ONDANSETRON),
)

_UNIVERSITY_HOSPITAL = Profile(
    cities=("Heidelberg", "Mannheim", "Schwetzingen", "Eberbach"),
    age_mean=66,
    age_spread=17,
    female_share=0.50,
    inpatient_rate=0.80,
    emergency_rate=0.60,
    ambulatory_rate=1.2,
    emergency_share=0.48,
    short_stay_share=0.05,
    stay_days=4.5,
    readmission_offset=0.0,
    illnesses=_GENERAL,
    acute=_ACUTE,
    fault_weights=_weights(duplicate=3.0, out_of_order=3.0),
)
_CANCER_CENTRE = Profile(
    cities=("Heidelberg", "Karlsruhe", "Darmstadt", "Stuttgart"),
    age_mean=62,
    age_spread=13,
    female_share=0.53,
    inpatient_rate=0.95,
    emergency_rate=0.35,
    ambulatory_rate=2.2,
    emergency_share=0.28,
    short_stay_share=0.12,
    stay_days=5.5,
    readmission_offset=0.15,
    illnesses=_CANCER + _GENERAL[:8],
    acute=_NEUTROPENIA + _ACUTE[:3],
    fault_weights=_weights(duplicate=4.0, out_of_order=1.0, invalid_date=2.0),
)
_DAY_CLINIC = Profile(
    cities=("Heidelberg", "Leimen", "Neckargemünd"),
    age_mean=55,
    age_spread=18,
    female_share=0.56,
    inpatient_rate=0.70,
    emergency_rate=0.45,
    ambulatory_rate=1.6,
    emergency_share=0.35,
    short_stay_share=0.30,
    stay_days=3.0,
    readmission_offset=0.15,
    illnesses=_GENERAL,
    acute=_ACUTE,
    fault_weights=_weights(duplicate=2.0, out_of_order=5.0, truncated=2.0),
)

_PROFILES: Mapping[str, Profile] = MappingProxyType(
    {"dkfz": _CANCER_CENTRE, "ukhd": _UNIVERSITY_HOSPITAL, "embl": _DAY_CLINIC}
)


def profile_of(institution: str) -> Profile:
    """Return the institution's profile; one without a profile of its own is a general hospital."""
    return _PROFILES.get(institution, _UNIVERSITY_HOSPITAL)
