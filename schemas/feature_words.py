"""What features and their values are called, for people, in English and German. This is the words' one home."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal

Language = Literal["en", "de"]

FEATURE_LABELS: dict[Language, dict[str, str]] = {
    "en": {
        "age_years": "age",
        "gender_encoded": "gender",
        "num_conditions": "active conditions",
        "num_medications": "active medications",
        "recent_encounters": "encounters in the last year",
        "prior_inpatient_stays_365d": "inpatient stays in the last year",
        "prior_emergency_visits_180d": "emergency visits in the last 180 days",
        "length_of_stay_days": "length of stay",
        "emergency_admission": "emergency admission",
    },
    "de": {
        "age_years": "Alter",
        "gender_encoded": "Geschlecht",
        "num_conditions": "aktive Diagnosen",
        "num_medications": "aktuelle Medikamente",
        "recent_encounters": "Fälle im letzten Jahr",
        "prior_inpatient_stays_365d": "stationäre Aufenthalte im letzten Jahr",
        "prior_emergency_visits_180d": "Notfallbesuche in den letzten 180 Tagen",
        "length_of_stay_days": "Aufenthaltsdauer",
        "emergency_admission": "Aufnahme als Notfall",
    },
}


@dataclass(frozen=True, slots=True)
class Phrase:
    """A fact as a noun phrase, such as `3 inpatient stays in the last year`.

    article: what stands before it at the beginning of a sentence, empty for nothing. plural: what its verb is.
    """

    text: str
    article: str = ""
    plural: bool = False

    @property
    def subject(self) -> str:
        """Return it as the beginning of a sentence.

        >>> Phrase("stay of 2 days", "The").subject
        'The stay of 2 days'
        """
        return f"{self.article} {self.text}" if self.article else self.text[:1].upper() + self.text[1:]


@dataclass(frozen=True, slots=True)
class _Counted:
    """A feature that counts: how none, one and many of it read."""

    none: Phrase
    one: str
    many: str


_COUNTED: dict[Language, dict[str, _Counted]] = {
    "en": {
        "num_conditions": _Counted(
            Phrase("no active conditions", plural=True), "active condition", "active conditions"
        ),
        "num_medications": _Counted(
            Phrase("no active medications", plural=True), "active medication", "active medications"
        ),
        "recent_encounters": _Counted(
            Phrase("no encounters in the last year", plural=True),
            "encounter in the last year",
            "encounters in the last year",
        ),
        "prior_inpatient_stays_365d": _Counted(
            Phrase("no inpatient stays in the last year", plural=True),
            "inpatient stay in the last year",
            "inpatient stays in the last year",
        ),
        "prior_emergency_visits_180d": _Counted(
            Phrase("no emergency visits in the last 180 days", plural=True),
            "emergency visit in the last 180 days",
            "emergency visits in the last 180 days",
        ),
    },
    "de": {
        "num_conditions": _Counted(Phrase("keine aktive Diagnose"), "aktive Diagnose", "aktive Diagnosen"),
        "num_medications": _Counted(
            Phrase("kein aktuelles Medikament"), "aktuelles Medikament", "aktuelle Medikamente"
        ),
        "recent_encounters": _Counted(
            Phrase("kein Fall im letzten Jahr"), "Fall im letzten Jahr", "Fälle im letzten Jahr"
        ),
        "prior_inpatient_stays_365d": _Counted(
            Phrase("kein stationärer Aufenthalt im letzten Jahr"),
            "stationärer Aufenthalt im letzten Jahr",
            "stationäre Aufenthalte im letzten Jahr",
        ),
        "prior_emergency_visits_180d": _Counted(
            Phrase("kein Notfallbesuch in den letzten 180 Tagen"),
            "Notfallbesuch in den letzten 180 Tagen",
            "Notfallbesuche in den letzten 180 Tagen",
        ),
    },
}

_GENDER: dict[Language, dict[float, Phrase]] = {
    "en": {0.0: Phrase("female gender", "The"), 1.0: Phrase("male gender", "The")},
    "de": {0.0: Phrase("weibliches Geschlecht"), 1.0: Phrase("männliches Geschlecht")},
}
_OTHER_GENDER: dict[Language, Phrase] = {
    "en": Phrase("other or unknown gender", "The"),
    "de": Phrase("anderes oder unbekanntes Geschlecht"),
}
_UNKNOWN_AGE: dict[Language, Phrase] = {
    "en": Phrase("unknown age", "The"),
    "de": Phrase("unbekanntes Alter", "Ein"),
}
_ADMISSION: dict[Language, dict[bool, Phrase]] = {
    "en": {True: Phrase("emergency admission", "The"), False: Phrase("non-emergency admission", "The")},
    "de": {True: Phrase("Aufnahme als Notfall", "Die"), False: Phrase("Aufnahme ohne Notfall", "Die")},
}


def feature_label(feature: str, language: Language = "en") -> str:
    """Name a feature for people; one that this code does not know goes by its own name.

    >>> feature_label("length_of_stay_days", "de")
    'Aufenthaltsdauer'
    """
    return FEATURE_LABELS[language].get(feature) or feature.replace("_", " ")


def phrase(feature: str, value: float | None, language: Language = "en") -> Phrase:
    """Say a feature's value; None, or what is no number, is unknown. Never raises.

    >>> phrase("num_conditions", 4.0).text
    '4 active conditions'
    """
    known = value if value is not None and isfinite(value) else None
    match feature:
        case "age_years":
            return _age(known, language)
        case "gender_encoded":
            return _GENDER[language].get(-1.0 if known is None else known, _OTHER_GENDER[language])
        case _ if known is None:
            return _unknown(feature, language)
        case "length_of_stay_days":
            return _stay(known, language)
        case "emergency_admission":
            return _ADMISSION[language][bool(known)]
        case _ if feature in _COUNTED[language]:
            return _count(_COUNTED[language][feature], known, language)
        case _:
            return Phrase(f"{feature_label(feature, language)}: {number(known, language)}")


def _unknown(feature: str, language: Language) -> Phrase:
    label = feature_label(feature, language)
    return (
        Phrase(f"unknown value of: {label}", "An") if language == "en" else Phrase(f"unbekannter Wert: {label}", "Ein")
    )


def _age(years: float | None, language: Language) -> Phrase:
    if years is None or years < 0:
        return _UNKNOWN_AGE[language]
    shown = number(years, language)
    if language == "en":
        return Phrase("age under 1 year" if years < 1 else f"age of {shown} year{'' if shown == '1' else 's'}", "The")
    return Phrase("Alter unter 1 Jahr" if years < 1 else f"Alter von {shown} Jahr{'' if shown == '1' else 'en'}", "Das")


def _stay(days: float, language: Language) -> Phrase:
    shown = number(days, language)
    if language == "en":
        long = "less than a day" if days < 1 else f"{shown} day{'' if shown == '1' else 's'}"
        return Phrase(f"stay of {long}", "The")
    long = "weniger als einem Tag" if days < 1 else f"{shown} Tag{'' if shown == '1' else 'en'}"
    return Phrase(f"Aufenthalt von {long}", "Der")


def _count(counted: _Counted, value: float, language: Language) -> Phrase:
    shown = number(value, language)
    if shown == "0":
        return counted.none
    return Phrase(f"{shown} {counted.one}") if shown == "1" else Phrase(f"{shown} {counted.many}", plural=True)


def number(value: float, language: Language = "en") -> str:
    """Write a number with one decimal at most.

    >>> number(3.25, "de"), number(2.0)
    ('3,2', '2')
    """
    text = f"{value:.1f}".removesuffix(".0")
    if "." in text:
        return decimal(value, language)
    return "0" if text == "-0" else text


def decimal(value: float, language: Language = "en", digits: int = 1) -> str:
    """Write a number with so many decimals, after a comma in German."""
    text = f"{value:.{digits}f}"
    return text.replace(".", ",") if language == "de" else text


def percent(probability: float, language: Language = "en", digits: int = 0) -> str:
    """Write a probability as a percentage; one that is neither 0 nor 1 never reads as if it were.

    >>> percent(0.2405), percent(0.2405, "de", 1), percent(0.001)
    ('24 %', '24,1 %', '<1 %')
    """
    shown = round(100 * probability, digits)
    if probability > 0 and shown == 0:
        return f"<{decimal(10**-digits, language, digits)} %"
    if probability < 1 and shown == 100:
        return f">{decimal(100 - 10**-digits, language, digits)} %"
    return f"{decimal(100 * probability, language, digits)} %"


def age_band(age_years: float | None, language: Language = "en") -> str:
    """Return the decade of an age; from 90 on one band, since the very old are few and so easily known.

    >>> age_band(84.0), age_band(7.0), age_band(103.0), age_band(None, "de")
    ('80–89', '0–9', '90+', 'unbekannt')
    """
    if age_years is None or not isfinite(age_years) or age_years < 0:
        return "unknown" if language == "en" else "unbekannt"
    decade = int(age_years) // 10 * 10
    return "90+" if decade >= 90 else f"{decade}–{decade + 9}"
