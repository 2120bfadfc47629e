"""What aggregates tell of small groups and of one patient: nothing, by sums and differences or by two moments either.

The attacks are made on the exact views too, where they succeed: otherwise they would show nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from connectors import views
from connectors.migrate import migrate
from connectors.roles import AGGREGATE_ANALYST, institution_role
from connectors.settings import Settings
from healthalliance.progress import fetch
from tests.integration.running import database

pytestmark = pytest.mark.stack

_INSTITUTION, _READER = "ukhd", "tests_of_aggregates"
_NOW = datetime(2025, 6, 30, 12, tzinfo=UTC)
_BANDS = ("high", "medium", "low")
_DAYS, _MODELS = 240, 120
_SMALL = range(1, 10)
_REASONS = ("invalid-code", "invalid-json", "missing-class")

Rows = dict[Any, dict[str, Any]]


@dataclass(frozen=True)
class Population:
    """Generated days, models and rejections, and of each the one that comes between two looks."""

    random: random.Random
    late: dict[date, tuple[str, bool, float]] = field(default_factory=dict)  # band, inpatient, probability
    readmitted: dict[str, bool] = field(default_factory=dict)
    reasons: dict[date, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Looks:
    """What a reader of aggregates saw before and after, and what was so; by view and by what names a row."""

    population: Population
    told: tuple[Mapping[str, Rows], Mapping[str, Rows]]
    exact: tuple[Mapping[str, Rows], Mapping[str, Rows]]
    again: Mapping[str, Rows]


@pytest.fixture(scope="module")
def looks(stack: Settings) -> Iterator[Looks]:
    people = Population(random.Random(20250630))
    with database(stack, "small_groups") as own:
        migrate(own.database_url)
        fetch(own, "UPDATE noise_salt SET salt = '00000000-0000-4000-8000-000000000001'")  # the same noise each time
        fetch(own, f"CREATE ROLE {_READER} IN ROLE {AGGREGATE_ANALYST}, {institution_role(_INSTITUTION)}")
        fetch(own, _PROGRESS, _INSTITUTION, _NOW)
        populate(own, people)
        before, exact_before = look(own, _KEYS, _READER), look(own, _EXACT)
        add_one_to_each(own, people)
        after, exact_after = look(own, _KEYS, _READER), look(own, _EXACT)
        yield Looks(people, (before, after), (exact_before, exact_after), look(own, _KEYS, _READER))
    fetch(stack, f"DROP ROLE {_READER}")


def populate(settings: Settings, people: Population) -> None:
    """Fill days and models, some of whose groups are small; on each day one band has about ten."""
    scores: list[tuple[Any, ...]] = []
    stays: list[tuple[Any, ...]] = []
    rejected: list[tuple[Any, ...]] = []
    for number in range(_DAYS):
        day, near = datetime(2023, 1, 1, 12, tzinfo=UTC) + timedelta(days=number), people.random.choice(_BANDS)
        for band in _BANDS:
            most = people.random.randint(5, 16) if band == near and number % 2 else people.random.randint(30, 90)
            scores += [(day, "0", band, people.random.random() < 0.6, people.random.random()) for _ in range(most)]
        band = near if number % 2 else people.random.choice(_BANDS)
        people.late[day.date()] = band, people.random.random() < 0.6, people.random.random()
        for reason in _REASONS:
            rejected += [(day, reason)] * people.random.randint(20, 60)
        people.reasons[day.date()] = people.random.choice(_REASONS)
    for number in range(1, _MODELS + 1):
        share = people.random.choice([0.05, 0.3, 0.5])
        stays += [a_stay(f"{number}", people.random.random() < share, people) for _ in range(150)]
        people.readmitted[f"{number}"] = people.random.random() < 0.5
    insert(settings, _SCORES, scores)
    insert_stays(settings, stays)
    insert(settings, _REJECTED, rejected)


def a_stay(version: str, is_back: bool, people: Population) -> tuple[Any, ...]:
    return uuid4(), version, is_back, people.random.random()


def add_one_to_each(settings: Settings, people: Population) -> None:
    noon = {day: datetime(day.year, day.month, day.day, 12, tzinfo=UTC) for day in people.late}
    insert(settings, _SCORES, [(noon[day], "0", *late) for day, late in people.late.items()])
    insert_stays(settings, [a_stay(version, is_back, people) for version, is_back in people.readmitted.items()])
    insert(settings, _REJECTED, [(noon[day], reason) for day, reason in people.reasons.items()])


def insert_stays(settings: Settings, rows: list[tuple[Any, ...]]) -> None:
    """Insert the scores at discharge, then their outcomes, which take over what those said."""
    insert(settings, _DISCHARGES, rows)
    insert(settings, _OUTCOMES, rows)


def insert(settings: Settings, statement: str, rows: list[tuple[Any, ...]]) -> None:
    fetch(settings, statement, _INSTITUTION, _NOW, *map(list, zip(*rows, strict=True)))


# view → what names its rows
_KEYS = {
    "institution_daily_risk": ("day",),
    "model_performance": ("model_version",),
    "model_calibration": ("model_version", "risk_group"),
    "institution_daily_rejections": ("day", "reason"),
    "institution_events": ("institution",),
}
_EXACT = {
    "institution_daily_risk_exact": ("day",),
    "model_performance_exact": ("model_version",),
    "model_calibration_exact": ("model_version", "risk_group"),
    "(SELECT received_at::date AS day, reason, count(*) AS rejected FROM rejected_events GROUP BY 1, 2)": (
        "day",
        "reason",
    ),
}


def look(settings: Settings, keys: Mapping[str, tuple[str, ...]], role: str | None = None) -> dict[str, Rows]:
    """Read views in one session, of a role if one is named; the exact ones under the names of those that are told."""

    async def run() -> dict[str, Rows]:
        session = {"role": role} if role else {}
        connection = await asyncpg.connect(settings.database_url, server_settings=session)
        try:
            found = {}
            for view, names in keys.items():
                rows = [dict(row) for row in await connection.fetch(f"SELECT * FROM {view} AS one")]
                told = "institution_daily_rejections" if view.startswith("(") else view.removesuffix("_exact")
                found[told] = {tuple(row[name] for name in names): row for row in rows}
            return found
        finally:
            await connection.close()

    return asyncio.run(run())


_PROGRESS = """
INSERT INTO stream_progress (topic_id, source_partition, topic, institution, next_offset, updated_at, known_until,
                             scored, rejected)
VALUES (gen_random_uuid(), 0, 'made up', $1, 0, $2, $2, 1234, 123)
"""
_SCORES = """
INSERT INTO risk_scores (record_id, institution, patient_pseudonym, encounter_pseudonym, encounter_version, status,
    inpatient, as_of, received_at, scored_at, probability, band, baseline, contributions, features, feature_set,
    model_name, model_version, model_digest, topic_id, source_partition, source_offset)
SELECT gen_random_uuid(), $1, gen_random_uuid(), gen_random_uuid(), 'offset:1', 'final', inpatient, at, at, $2,
    probability, band, 0.1, '{}', '{}', 1, 'made-up', version, 'none', gen_random_uuid(), 0, 1
FROM unnest($3::timestamptz[], $4::text[], $5::text[], $6::boolean[], $7::double precision[])
     AS new(at, version, band, inpatient, probability)
"""
_STAYS = """FROM unnest($3::uuid[], $4::text[], $5::boolean[], $6::double precision[])
     AS new(record_id, version, is_back, probability), (SELECT $2::timestamptz - interval '40 days' AS at) AS moment"""
_DISCHARGES = f"""
{_SCORES.partition("SELECT")[0]}
SELECT record_id, $1, gen_random_uuid(), gen_random_uuid(), 'offset:1', 'final', true, at, at, at, probability, 'low',
    0.1, '{{}}', '{{}}', 1, 'made-up', version, 'none', gen_random_uuid(), 0, 1
{_STAYS}
"""
_OUTCOMES = f"""
INSERT INTO score_outcomes (institution, encounter_pseudonym, patient_pseudonym, discharged_at, outcome, readmitted_at,
    record_id, received_at, updated_at)
SELECT $1, gen_random_uuid(), gen_random_uuid(), at, CASE WHEN is_back THEN 'readmitted' ELSE 'pending' END,
    CASE WHEN is_back THEN at + interval '5 days' END, record_id, at, at
{_STAYS}
"""
_REJECTED = """
INSERT INTO rejected_events (topic_id, source_partition, source_offset, institution, received_at, rejected_at, reason,
    issues)
SELECT gen_random_uuid(), 0, 0, $1, at, $2, reason, '[]' FROM unnest($3::timestamptz[], $4::text[]) AS new(at, reason)
"""


# --- within one look


@pytest.mark.parametrize("when", [0, 1])
def test_no_small_group_of_a_day_is_told_nor_follows_from_what_is_told(looks: Looks, when: int) -> None:
    told, exact = looks.told[when]["institution_daily_risk"], looks.exact[when]["institution_daily_risk"]
    hidden = 0
    for day, row in told.items():
        real = exact[day]
        bands = [row[band] for band in _BANDS]
        assert None not in bands or bands == [None] * 3
        hidden += bands[0] is None
        assert bands[0] is None or min(real[band] for band in _BANDS) >= 10
        others = real["encounters"] - real["inpatient_stays"]
        assert row["inpatient_stays"] is None or min(real["inpatient_stays"], others) >= 10
    assert _DAYS / 10 < hidden < _DAYS * 9 / 10


@pytest.mark.parametrize("when", [0, 1])
def test_no_small_group_of_outcomes_is_told(looks: Looks, when: int) -> None:
    told, exact = looks.told[when], looks.exact[when]
    performance = told["model_performance"]
    assert performance.keys() == exact["model_performance"].keys()  # each has far more than ten outcomes
    for key, row in performance.items():
        real = exact["model_performance"][key]
        if min(real["readmitted"], real["outcomes"] - real["readmitted"]) < 10:
            assert [row[one] for one in ("readmitted", "observed_share", "calibration_ratio", "brier", "auroc")] == [
                None
            ] * 5
    for key in told["model_calibration"]:
        real = exact["model_calibration"][key]
        assert min(real["readmitted"], real["outcomes"] - real["readmitted"]) >= 10
    assert len(told["model_calibration"]) > _MODELS


def test_no_sum_or_difference_of_what_is_told_is_the_number_that_is_so(looks: Looks) -> None:
    """Whatever is reckoned from the numbers of a day, each of them is off by its own noise."""
    told, exact = looks.told[0]["institution_daily_risk"], looks.exact[0]["institution_daily_risk"]
    reckonings: tuple[Callable[[Mapping[str, Any]], int], ...] = (
        lambda row: row["encounters"] - row["high"] - row["medium"],  # is low
        lambda row: row["encounters"] - row["inpatient_stays"],
        lambda row: row["high"] + row["medium"] + row["low"],
    )
    for reckon in reckonings:
        pairs = [(reckon(row), reckon(exact[day])) for day, row in told.items() if None not in row.values()]
        assert len(pairs) > _DAYS / 4
        assert sum(seen == real for seen, real in pairs) < len(pairs) / 3


def test_a_groups_numbers_are_near_the_real_ones(looks: Looks) -> None:
    """Noise of scale 3 is beyond 30 once in 22,000 times."""
    for view, name in (("institution_daily_risk", "encounters"), ("model_performance", "outcomes")):
        pairs = [(row[name], looks.exact[0][view][key][name]) for key, row in looks.told[0][view].items()]
        assert sum(abs(seen - real) for seen, real in pairs) / len(pairs) == pytest.approx(3, abs=1)
    days = looks.told[0]["institution_daily_risk"]
    exact = looks.exact[0]["institution_daily_risk"]
    errors = [abs(row["mean_probability"] - exact[day]["mean_probability"]) for day, row in days.items()]
    assert sum(errors) / len(errors) < 0.01


def test_asking_again_is_answered_alike(looks: Looks) -> None:
    """Otherwise the mean of many answers would be the number itself."""
    assert looks.again == looks.told[1]


# --- two looks, between which one patient came


def changes(before: Rows, after: Rows, key: Any, names: tuple[str, ...]) -> dict[str, float] | None:
    """Return how each number of a row changed, None where one is not told."""
    old, new = before.get(key, {}), after.get(key, {})
    if any(old.get(name) is None or new.get(name) is None for name in names):
        return None
    return {name: new[name] - old[name] for name in names}


def share(guesses: list[bool]) -> float:
    assert len(guesses) > 30, "the attack had hardly anything to go by"
    return sum(guesses) / len(guesses)


Pair = tuple[Mapping[str, Rows], Mapping[str, Rows]]


def guessed_bands(seen: Pair, people: Population) -> float:
    before, after = (one["institution_daily_risk"] for one in seen)
    found = {day: changes(before, after, (day,), _BANDS) for day in people.late}
    return share([max(one, key=lambda name: one[name]) == people.late[day][0] for day, one in found.items() if one])


def guessed_classes(seen: Pair, people: Population) -> float:
    before, after = (one["institution_daily_risk"] for one in seen)
    found = {day: changes(before, after, (day,), ("inpatient_stays",)) for day in people.late}
    return share([(one["inpatient_stays"] > 0.5) is people.late[day][1] for day, one in found.items() if one])


def guessed_probabilities(seen: Pair, people: Population) -> float:
    guesses = []
    for day, (_, _, probability) in people.late.items():
        old, new = (one["institution_daily_risk"].get((day,)) for one in seen)
        if old and new:
            number = old["encounters"]
            guess = (number + 1) * new["mean_probability"] - number * old["mean_probability"]
            guesses.append(abs(guess - probability) < 0.05)
    return share(guesses)


def guessed_outcomes(seen: Pair, people: Population) -> float:
    before, after = (one["model_performance"] for one in seen)
    found = {version: changes(before, after, (version,), ("readmitted",)) for version in people.readmitted}
    return share([(one["readmitted"] > 0.5) is people.readmitted[version] for version, one in found.items() if one])


def guessed_reasons(seen: Pair, people: Population) -> float:
    before, after = (one["institution_daily_rejections"] for one in seen)
    guesses = []
    for day, reason in people.reasons.items():
        found = {one: changes(before, after, (day, one), ("rejected",)) for one in _REASONS}
        moved = {one: change["rejected"] for one, change in found.items() if change}
        if len(moved) == len(_REASONS):
            guesses.append(max(moved, key=lambda one: moved[one]) == reason)
    return share(guesses)


@pytest.mark.parametrize(
    ("guessed", "at_most"),
    [
        (guessed_bands, 0.55),  # by chance a third
        (guessed_classes, 0.70),  # by chance six of ten
        (guessed_probabilities, 0.30),  # by chance one of ten
        (guessed_outcomes, 0.70),  # by chance half
        (guessed_reasons, 0.55),  # by chance a third
    ],
)
def test_of_a_patient_who_came_between_two_looks_hardly_more_than_chance_is_guessed(
    looks: Looks, guessed: Callable[[Pair, Population], float], at_most: float
) -> None:
    assert guessed(looks.exact, looks.population) > 0.95
    assert guessed(looks.told, looks.population) < at_most


def test_a_group_that_begins_to_be_told_was_not_surely_of_nine(looks: Looks) -> None:
    """By exact numbers that are told from ten on, it would always have been."""
    claims = []
    before, after = (one["institution_daily_risk"] for one in looks.told)
    for day, row in after.items():
        old, real = before.get(day), looks.exact[0]["institution_daily_risk"][day]
        if old and old["high"] is None and row["high"] is not None:
            claims.append(9 in (real[band] for band in _BANDS))
    assert len(claims) >= 5
    assert sum(claims) / len(claims) < 0.6


def test_no_view_tells_when_a_single_thing_was(looks: Looks) -> None:
    for row in looks.told[1]["model_performance"].values():
        for name in ("first_discharge", "last_discharge"):
            assert (row[name].weekday(), row[name].hour) == (0, 0)
    for row in looks.told[1]["institution_events"].values():
        assert row["known_until"] == _NOW.replace(hour=0)


def test_every_aggregate_is_attacked_or_has_no_count_of_patients() -> None:
    """Drift is measured once a day over a fixed number of stays, and told to two places."""
    assert {one.name for one in views.VIEWS if one.is_aggregate} == {*_KEYS, "feature_drift", "feature_drift_daily"}
