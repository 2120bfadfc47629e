"""What training costs by the number of encounters on the feature topics; plainly made-up patients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from connectors.kafka import OutMessage, Publisher
from connectors.registry import Registry, to_wire
from connectors.settings import Settings, load_settings, settings_environment
from healthalliance import local_stack
from healthalliance.demo import fresh_stack
from schemas.features import FEATURE_SET, Features
from schemas.institutions import institutions
from schemas.messages import EncounterFeatures
from schemas.topics import TopicFamily, topic_name

_START = datetime(2018, 1, 1, tzinfo=UTC)
_ADMISSIONS = timedelta(days=5 * 365)
_DAY = timedelta(days=1)
_INPATIENT_SHARE = 0.6
_FLUSH_EVERY = 50_000
_SIZES = (100_000, 300_000, 1_000_000)

out = Console()


def costs(data_dir: Path) -> list[dict[str, Any]]:
    """Train on more and more encounters, on a stack of its own; one entry for each of the sizes."""
    settings = local_stack.apart(load_settings(), data_dir)
    found, before = [], 0
    with fresh_stack(settings, lambda text: out.print(text, highlight=False)) as running:
        for number, size in enumerate(_SIZES):
            published_s = _publish_made_up(running, number, size - before)
            before = size
            found.append({**_measured(running), "published_s": published_s})
            out.print(f"{size:,} encounters: trained in {found[-1]['seconds']:.0f} s", highlight=False)
    return found


def show(found: list[dict[str, Any]]) -> None:
    """Print the costs, and what each encounter adds to them."""
    table = Table("encounters", "stays fitted on", "seconds", "µs each", "peak MB", "AUROC", title="Training")
    for one in found:
        each = 1e6 * one["seconds"] / one["encounters"]
        table.add_row(
            f"{one['encounters']:,}",
            f"{one['fit_stays']:,}",
            f"{one['seconds']:.0f}",
            f"{each:.0f}",
            f"{one['peak_memory_mb']:.0f}",
            f"{one['auroc']:.3f}",
        )
    out.print(table)


def _publish_made_up(settings: Settings, seed: int, encounters: int) -> float:
    """Put so many encounters on the feature topics, evenly over the institutions; return the seconds it took."""
    started = time.monotonic()
    schema_ids = Registry(settings.schema_registry_url).register_all()
    publisher = Publisher(settings, linger_ms=50)
    for number, one in enumerate(_made_up(seed, encounters), start=1):
        topic = topic_name(TopicFamily.FEATURES, one.institution)
        publisher.send(OutMessage(topic, one.encounter_pseudonym.encode(), to_wire(schema_ids[topic], one)))
        if number % _FLUSH_EVERY == 0:
            publisher.flush()
    publisher.flush()
    return time.monotonic() - started


def _measured(settings: Settings) -> dict[str, Any]:
    """Train as the command line does, in a process of its own; its seconds from start to end, its peak of memory."""
    command = [sys.executable, "-m", "healthalliance", "train", "--json"]
    started, peak = time.monotonic(), 0
    with subprocess.Popen(
        command, env={**os.environ, **settings_environment(settings)}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as training:
        process = psutil.Process(training.pid)
        while training.poll() is None:
            with suppress(psutil.NoSuchProcess):
                peak = max(peak, process.memory_info().rss)
            time.sleep(0.1)
        assert training.stdout is not None
        result = json.load(training.stdout)
    return {
        "encounters": result["encounters"],
        "fit_stays": result["fit_stays"],
        "auroc": result["evaluation"]["auroc"],
        "seconds": time.monotonic() - started,
        "peak_memory_mb": peak / 2**20,
    }


def _made_up(seed: int, encounters: int) -> Iterator[EncounterFeatures]:
    """Make encounters of patients whose risk of coming back rises with conditions, prior stays and emergencies."""
    rng, left, ids = np.random.default_rng(seed), encounters, list(institutions())
    number = 0
    while left > 0:
        number += 1
        institution, patient = ids[number % len(ids)], _uuid(rng)
        conditions, age, gender = rng.poisson(4), rng.integers(20, 95), rng.integers(0, 2)
        at, prior = _START + rng.random() * _ADMISSIONS, 0
        while left > 0:
            left -= 1
            emergency, days = float(rng.random() < 0.4), float(rng.gamma(2.0, 2.5)) + 0.2
            inpatient = bool(rng.random() < _INPATIENT_SHARE)
            until = at + (days if inpatient else 0.1) * _DAY
            yield EncounterFeatures(
                institution=institution,
                patient_pseudonym=patient,
                encounter_pseudonym=_uuid(rng),
                encounter_version="version_id:1",
                status="finished",
                class_code="IMP" if inpatient else "AMB",
                inpatient=inpatient,
                admitted_at=at,
                discharged_at=until,
                as_of=until,
                disposition="home",
                deceased_at=None,
                features=Features(
                    age_years=float(age),
                    gender_encoded=float(gender),
                    num_conditions=float(conditions),
                    num_medications=float(rng.poisson(conditions + 1)),
                    recent_encounters=float(prior + rng.poisson(1)),
                    prior_inpatient_stays_365d=float(prior),
                    prior_emergency_visits_180d=float(rng.poisson(0.3 + emergency)),
                    length_of_stay_days=(until - at) / _DAY,
                    emergency_admission=emergency,
                ),
                feature_set=FEATURE_SET,
            )
            prior += inpatient
            logit = -3.0 + 0.15 * conditions + 0.4 * min(prior, 5) + 0.6 * emergency
            soon = rng.random() < 1 / (1 + np.exp(-logit))
            if not soon and rng.random() < 0.35:
                break
            at = until + (rng.uniform(1, 29) if soon else rng.uniform(31, 300)) * _DAY


def _uuid(rng: np.random.Generator) -> str:
    return str(UUID(bytes=rng.bytes(16)))


if __name__ == "__main__":
    show(costs(Path(".local/bench-training")))
