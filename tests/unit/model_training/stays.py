"""Synthetic encounters for the tests of training: plausible numbers, and a risk that depends on them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

import numpy as np

from connectors.feature_topics import Snapshot
from connectors.partition_ends import PartitionEnd
from model_training.dataset import Dataset, assemble
from model_training.labels import label
from schemas.features import FEATURE_SET, Features
from schemas.messages import EncounterFeatures
from schemas.snapshot import snapshot_table

START = datetime(2024, 1, 1, tzinfo=UTC)
_NAMES = UUID("6f0c0b5e-0000-4000-8000-00000000000a")


def pseudonym(name: str) -> str:
    """Return the pseudonym that stands for a name."""
    return str(uuid5(_NAMES, name))


def features(**known: float | None) -> Features:
    """Make the features of a middle-aged patient, but for what is given."""
    values: dict[str, float | None] = {
        "age_years": 60.0,
        "gender_encoded": 0.0,
        "num_conditions": 3.0,
        "num_medications": 4.0,
        "recent_encounters": 1.0,
        "prior_inpatient_stays_365d": 0.0,
        "prior_emergency_visits_180d": 0.0,
        "length_of_stay_days": 5.0,
        "emergency_admission": 0.0,
    }
    return Features(**{**values, **known})  # type: ignore[arg-type]  # only the age may be None


def stay(
    encounter: str,
    admitted: float,
    discharged: float | None,
    *,
    patient: str = "p",
    institution: str = "dkfz",
    inpatient: bool = True,
    disposition: str | None = "home",
    deceased: float | None = None,
    facts: Features | None = None,
    feature_set: int = FEATURE_SET,
    planned: bool = False,
    summary_only: bool = False,
    person: str | None = None,
) -> EncounterFeatures:
    """Make an encounter of named patients; times are days after START."""
    ended = None if discharged is None else START + timedelta(days=discharged)
    return EncounterFeatures(
        institution=institution,
        patient_pseudonym=pseudonym(patient),
        encounter_pseudonym=pseudonym(encounter),
        encounter_version="version_id:1",
        status="in-progress" if ended is None else "finished",
        class_code="IMP" if inpatient else "AMB",
        inpatient=inpatient,
        admitted_at=START + timedelta(days=admitted),
        discharged_at=ended,
        as_of=ended or START + timedelta(days=admitted),
        disposition=disposition if ended else None,
        deceased_at=None if deceased is None else START + timedelta(days=deceased),
        features=facts or features(),
        feature_set=feature_set,
        planned=planned,
        summary_only=summary_only,
        person_pseudonym=None if person is None else pseudonym(person),
    )


def visit_at(day: float, institution: str = "dkfz") -> EncounterFeatures:
    """Make somebody's outpatient visit: it shows how far an institution's knowledge reaches."""
    return stay(f"visit-{institution}-{day}", day, day, patient="somebody", institution=institution, inpatient=False)


def simulated(seed: int, patients: int, institution: str = "dkfz") -> list[EncounterFeatures]:
    """Simulate patients over two years; conditions, prior stays and emergencies raise the chance to come back."""
    rng = np.random.default_rng(seed)
    records = [visit_at(730.0, institution)]
    for number in range(patients):
        day, conditions, age = rng.uniform(0, 500), float(rng.poisson(4)), float(rng.integers(18, 95))
        for prior in range(6):
            length, emergency = float(rng.gamma(2, 2.5)), float(rng.random() < 0.4)
            facts = features(
                age_years=None if rng.random() < 0.02 else age,
                gender_encoded=float(rng.integers(0, 2)),
                num_conditions=conditions,
                num_medications=float(rng.poisson(conditions + 1)),
                recent_encounters=float(prior + rng.poisson(1)),
                prior_inpatient_stays_365d=float(prior),
                prior_emergency_visits_180d=float(rng.poisson(0.5 + emergency)),
                length_of_stay_days=length,
                emergency_admission=emergency,
            )
            name = f"{institution}-{number}"
            records.append(
                stay(f"{name}-{prior}", day, day + length, patient=name, institution=institution, facts=facts)
            )
            logit = -4.2 + 0.3 * conditions + 0.8 * prior + 0.9 * emergency + 0.01 * (age - 60)
            if rng.random() > 1 / (1 + np.exp(-logit)):
                break
            day += length + rng.uniform(1, 29)
    return records


def dataset_of(records: list[EncounterFeatures]) -> Dataset:
    """Label records and lay their index stays out."""
    table = snapshot_table(records)
    return assemble(table, label(table))


def snapshot(records: list[EncounterFeatures]) -> Snapshot:
    """Make a snapshot of records, as the only ones of their topic."""
    end = PartitionEnd("features.dkfz", "6f0c0b5e-0000-4000-8000-000000000001", 0, len(records))
    return Snapshot(snapshot_table(records), (end,))
