"""Why a score is what it is, in sentences that a clinician reads, in English and German: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

from schemas.feature_words import Language, Phrase, decimal, percent, phrase

OTHER_FACTS = "other_facts"

_LEAST = 0.005  # what moves the risk by less than half a percentage point is told together
_ROUNDING = 1e-6  # contributions add up to the probability, to rounding

_REST: dict[Language, Phrase] = {"en": Phrase("other facts", plural=True), "de": Phrase("weitere Angaben", plural=True)}
_SENTENCES: dict[Language, dict[str, tuple[str, str]]] = {  # singular, plural
    "en": {
        "up": ("{} raises {} from {} to {}.", "{} raise {} from {} to {}."),
        "down": ("{} lowers {} from {} to {}.", "{} lower {} from {} to {}."),
        "same": ("{} leaves {} at {}.", "{} leave {} at {}."),
    },
    "de": {
        "up": ("{} erhöht {} von {} auf {}.", "{} erhöhen {} von {} auf {}."),
        "down": ("{} senkt {} von {} auf {}.", "{} senken {} von {} auf {}."),
        "same": ("{} belässt {} bei {}.", "{} belassen {} bei {}."),
    },
}
_THE_RISK: dict[Language, tuple[str, str]] = {"en": ("the risk", "it"), "de": ("das Risiko", "es")}
_BANDS: dict[Language, dict[str, str]] = {
    "en": {"low": "low", "medium": "medium", "high": "high"},
    "de": {"low": "niedrig", "medium": "mittel", "high": "hoch"},
}
_CAUSES: dict[Language, dict[str, str]] = {
    "en": {
        "encounter-updated": "the encounter was updated",
        "history-changed": "something else in the patient's history changed",
        "retracted": "the encounter was taken back",
    },
    "de": {
        "encounter-updated": "der Fall wurde aktualisiert",
        "history-changed": "anderes in der Vorgeschichte hat sich geändert",
        "retracted": "der Fall wurde zurückgenommen",
    },
}


@dataclass(frozen=True, slots=True)
class Step:
    """One fact's part of the way from the baseline to the probability.

    feature: its name, or `OTHER_FACTS` for all that move the risk little. value: the feature's, None where it is
    unknown and for other facts. contribution: what it adds to the probability. before, after: the risk without and
    with it, 0 to 1; the next step begins where this one ends. They differ by the contribution, unless that leads
    below 0 or above 1 on the way.
    """

    feature: str
    value: float | None
    contribution: float
    before: float
    after: float
    sentence: str


@dataclass(frozen=True, slots=True)
class _Move:
    feature: str
    contribution: float
    before: float
    after: float


def steps(
    features: Mapping[str, float | None],
    contributions: Mapping[str, float],
    baseline: float | None,
    probability: float | None,
    language: Language = "en",
) -> tuple[Step, ...]:
    """Walk from the baseline to the probability, the largest effect first; the last step ends at the probability.

    Nothing for a score without a probability, and where no fact moves it. Never raises.

    >>> for step in steps(
    ...     {"prior_inpatient_stays_365d": 3.0, "length_of_stay_days": 2.0},
    ...     {"length_of_stay_days": -0.03, "prior_inpatient_stays_365d": 0.13}, 0.11, 0.21,
    ... ):
    ...     print(step.sentence)
    3 inpatient stays in the last year raise the risk from 11 % to 24 %.
    The stay of 2 days lowers it from 24 % to 21 %.
    """
    if baseline is None or probability is None or not (isfinite(baseline) and isfinite(probability)):
        return ()
    moves = _moves(contributions, baseline, probability)
    digits = _digits(moves, language)
    return tuple(
        Step(
            feature=move.feature,
            value=features.get(move.feature),
            contribution=move.contribution,
            before=move.before,
            after=move.after,
            sentence=_sentence(move, features.get(move.feature), language, digits, first=number_ == 0),
        )
        for number_, move in enumerate(moves)
    )


def _moves(contributions: Mapping[str, float], baseline: float, probability: float) -> list[_Move]:
    moves, at = [], baseline
    for feature, points in _told(contributions):
        moves.append(_Move(feature, points, _within(at), _within(at + points)))
        at += points
    rest = probability - at
    if abs(rest) > _ROUNDING:
        moves.append(_Move(OTHER_FACTS, rest, _within(at), _within(probability)))
    elif moves:
        last = moves[-1]
        moves[-1] = _Move(last.feature, last.contribution, last.before, _within(probability))
    return moves


def _told(contributions: Mapping[str, float]) -> list[tuple[str, float]]:
    """Choose the features that have a sentence of their own, the largest effect first."""
    moving = [(feature, points) for feature, points in contributions.items() if points and isfinite(points)]
    ordered = sorted(moving, key=lambda item: (-abs(item[1]), item[0]))
    told = [item for number_, item in enumerate(ordered) if number_ == 0 or abs(item[1]) >= _LEAST]
    return ordered if len(told) == len(ordered) - 1 else told  # one alone is no "other facts"


def _within(risk: float) -> float:
    return min(max(risk, 0.0), 1.0)


def _digits(moves: list[_Move], language: Language) -> int:
    """Choose as many decimals as it takes for a sentence's two numbers to differ, one at most."""
    own = [move for move in moves if move.feature != OTHER_FACTS and abs(move.after - move.before) >= _LEAST]
    return int(any(percent(move.before, language) == percent(move.after, language) for move in own))


def _sentence(move: _Move, value: float | None, language: Language, digits: int, *, first: bool) -> str:
    said = _REST[language] if move.feature == OTHER_FACTS else phrase(move.feature, value, language)
    risk = _THE_RISK[language][0 if first else 1]
    before, after = percent(move.before, language, digits), percent(move.after, language, digits)
    way = "same" if before == after else "up" if move.after > move.before else "down"
    template = _SENTENCES[language][way][said.plural]
    return template.format(said.subject, risk, *((after,) if way == "same" else (before, after)))


def headline(probability: float | None, band: str | None, language: Language = "en") -> str:
    """Say a score in one sentence; without a probability, that it was taken back.

    >>> headline(0.24, "high")
    'The risk of another inpatient stay within 30 days of discharge is high: 24 %.'
    """
    if probability is None:
        return "There is no score any more." if language == "en" else "Es gibt keine Bewertung mehr."
    shown, level = percent(probability, language), band_word(band, language)
    if language == "en":
        return f"The risk of another inpatient stay within 30 days of discharge is {level}: {shown}."
    return f"Das Risiko eines weiteren stationären Aufenthalts binnen 30 Tagen nach Entlassung ist {level}: {shown}."


def band_word(band: str | None, language: Language = "en") -> str:
    """Name a band for people."""
    return _BANDS[language].get(band or "", "unknown" if language == "en" else "unbekannt")


def cause(reason: str | None, language: Language = "en") -> str:
    """Say why a score replaced another, after its `reason`; one that this code does not know goes by its own name.

    >>> cause("retracted", "de")
    'der Fall wurde zurückgenommen'
    """
    return _CAUSES[language].get(reason or "", reason or ("not known" if language == "en" else "nicht bekannt"))


def main_reasons(
    features: Mapping[str, float | None],
    contributions: Mapping[str, float],
    most: int = 3,
    language: Language = "en",
) -> list[str]:
    """Name the facts that raise the risk most, with their percentage points.

    >>> main_reasons({"num_conditions": 4.0}, {"num_conditions": 0.051})
    ['4 active conditions (+5.1)']
    """
    raising = sorted((item for item in contributions.items() if item[1] > 0), key=lambda item: -item[1])[:most]
    return [
        f"{phrase(feature, features.get(feature), language).text} (+{decimal(100 * points, language)})"
        for feature, points in raising
    ]
