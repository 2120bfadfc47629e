from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_training.dataset import Dataset
from model_training.splitting import Split, require_enough, split_by_patient_and_time
from schemas.errors import NotEnoughStaysError
from schemas.features import FEATURE_NAMES
from tests.unit.model_training.stays import dataset_of, simulated

Stays = list[tuple[int, int]]  # person, day of discharge


def stays_of(stays: Stays) -> Dataset:
    """Make a dataset of persons and days; its first feature counts the stays."""
    n = len(stays)
    rows = np.arange(n, dtype=np.float32)[:, None].repeat(len(FEATURE_NAMES), axis=1)
    persons = np.array([bytes([person + 1]) * 16 for person, _ in stays], dtype="S16")
    days = np.array([day for _, day in stays], dtype=np.int64) * np.timedelta64(1, "D")
    return Dataset(
        rows=rows,
        readmitted=np.zeros(n, dtype=np.bool_),
        persons=persons,
        institutions=np.full(n, "dkfz"),
        discharged_at=np.datetime64("2024-01-01", "us") + days,
    )


def parts(split: Split) -> tuple[Dataset, Dataset, Dataset]:
    return split.fit, split.calibrate, split.test


STAYS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 40)), max_size=60)


@settings(deadline=None)
@given(STAYS, st.integers(0, 2**32 - 1))
def test_nobody_is_on_two_sides_nothing_is_fitted_on_late_and_every_stay_is_accounted_for(
    stays: Stays, seed: int
) -> None:
    split = split_by_patient_and_time(stays_of(stays), seed)
    persons = [set(part.persons.tolist()) for part in parts(split)]
    assert persons[0].isdisjoint(persons[1] | persons[2])
    assert persons[1].isdisjoint(persons[2])
    assert split.at is not None
    assert (split.fit.discharged_at < split.at).all()
    assert all((part.discharged_at >= split.at).all() for part in (split.calibrate, split.test))
    assert sum(len(part) for part in parts(split)) + split.dropped == len(stays)


@settings(deadline=None)
@given(STAYS.flatmap(lambda stays: st.tuples(st.just(stays), st.permutations(stays))), st.integers(0, 1000))
def test_who_goes_where_does_not_depend_on_the_order_of_stays(both: tuple[Stays, Stays], seed: int) -> None:
    one, other = (split_by_patient_and_time(stays_of(stays), seed) for stays in both)
    for part, shuffled in zip(parts(one), parts(other), strict=True):
        assert set(part.persons.tolist()) == set(shuffled.persons.tolist())
        assert len(part) == len(shuffled)


def test_a_stay_is_dropped_only_if_its_person_is_on_the_other_side() -> None:
    stays = [(person, day) for person in range(100) for day in (0, 100)] + [(200, 0), (201, 100)]
    split = split_by_patient_and_time(stays_of(stays), 1)
    fitted, held_out = len(split.fit), len(split.calibrate) + len(split.test)
    assert (fitted + held_out, split.dropped) == (102, 100)
    assert {bytes([201]) * 16} <= set(split.fit.persons.tolist())
    assert fitted == pytest.approx(50, abs=15)


def test_another_seed_deals_persons_out_in_another_way() -> None:
    dataset = stays_of([(person, day) for person in range(200) for day in (0, 100)])
    tests = [set(split_by_patient_and_time(dataset, seed).test.persons.tolist()) for seed in range(5)]
    assert len({frozenset(one) for one in tests}) == 5
    shared = [len(one & other) / len(one) for one in tests for other in tests if one is not other]
    assert np.mean(shared) == pytest.approx(0.2, abs=0.06)  # as by chance


def test_a_person_stays_on_their_side_when_others_come() -> None:
    alone = stays_of([(person, 100) for person in range(40)] + [(200, 0)] * 60)
    more = stays_of([(person, 100) for person in range(80)] + [(200, 0)] * 120)
    before = set(split_by_patient_and_time(alone, 3).test.persons.tolist())
    assert before
    assert before <= set(split_by_patient_and_time(more, 3).test.persons.tolist())


def test_the_split_is_about_as_large_as_meant() -> None:
    dataset = dataset_of(simulated(1, 5000))
    shares = [len(part) / len(dataset) for part in parts(split_by_patient_and_time(dataset, 1))]
    assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.03)


@pytest.mark.parametrize("readmitted", [True, False])
def test_one_class_alone_is_refused(readmitted: bool) -> None:
    dataset = dataset_of(simulated(1, 1000))
    with pytest.raises(NotEnoughStaysError, match="not enough stays"):
        require_enough(split_by_patient_and_time(dataset.where(dataset.readmitted == readmitted), 1))


@pytest.mark.parametrize("patients", [0, 60])
def test_too_few_stays_are_refused(patients: int) -> None:
    with pytest.raises(NotEnoughStaysError, match="each of three parts needs 10 of both"):
        require_enough(split_by_patient_and_time(dataset_of(simulated(1, patients)), 1))
