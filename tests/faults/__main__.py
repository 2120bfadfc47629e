"""Run fault scenarios on a stack of their own; print a table and write `.local/faults.json`.

python -m tests.faults [--scenario NAME]… [--seed N] [--scale X]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from connectors.feature_topics import Snapshot
from connectors.settings import load_settings
from connectors.simulator import simulate
from connectors.source_event import SourceEvent
from healthalliance import local_stack
from healthalliance.demo import fresh_stack
from healthalliance.publishing import Ledger, publish_events
from model_training.job import train
from schemas.institutions import institution, institutions
from schemas.intake.event import RawEvent, parse_events
from schemas.intake.event_bytes import Limits
from schemas.intake.structure import structure_validator
from schemas.messages import EncounterFeatures
from schemas.pseudonyms import institution_keys
from streams.decision import Event, Known, Sender, decide
from tests.faults.oracle import Verdict, judge
from tests.faults.scenarios import EXIT_S, SCENARIOS, Landed, Scenario, run_faults

_EPOCH = datetime(2022, 1, 1, tzinfo=UTC)
_PARTITIONS = 8
_EVENTS_A_PATIENT = 10
_TRAINING_PATIENTS, _TRAINING = 300, timedelta(days=1000)

out = Console()


def run(scenario: Scenario, seed: int, scale: float) -> dict[str, Any]:
    """Publish, strike, judge; return the report of one scenario."""
    started = time.monotonic()
    settings = local_stack.apart(load_settings(), Path(".local/faults")).model_copy(
        update={"topic_partitions": _PARTITIONS, "rejected_share_limit": 1.0}
    )
    with fresh_stack(settings, lambda _: None) as running:
        train(running, seed, read=lambda _, on_progress: Snapshot(_training_set(seed), ()))
        ledger = Ledger()
        for id_ in institutions():
            publish_events(running, id_, _events(id_, seed, int(scenario.events * scale) // 3), ledger=ledger)
        out.print(f"{scenario.name}: {len(ledger.published_at):,} events confirmed, seed {seed}")
        landed = run_faults(scenario, running, seed, max(1, round(scenario.strikes * scale)))
        verdict = judge(running, ledger)
    return _report(scenario, seed, scale, verdict, landed, time.monotonic() - started)


def _events(id_: str, seed: int, number: int) -> Iterator[SourceEvent]:
    patients = max(10, number // _EVENTS_A_PATIENT)
    events = simulate(id_, seed, patients, _EPOCH, _EPOCH + timedelta(days=3650), epoch=_EPOCH)
    # A tombstone of an encounter lies in another partition than the encounter; which comes first is left open there.
    keyed = (event for event in events if event.value is not None)
    return (event for event, _ in zip(keyed, range(number), strict=False))


def _training_set(seed: int) -> tuple[EncounterFeatures, ...]:
    """Fold a simulated history without Kafka, to have a first model."""
    newest: dict[str, EncounterFeatures] = {}
    for id_ in institutions():
        sender = Sender(institution(id_), institution_keys("only for the training set of the faults", id_))
        events = simulate(id_, seed + 1, _TRAINING_PATIENTS, _EPOCH, _EPOCH + _TRAINING, epoch=_EPOCH, fault_share=0.0)
        raws = [RawEvent("", 0, n, one.key, one.value, one.at) for n, one in enumerate(events)]
        parsed = parse_events(raws, sender.institution, Limits(), structure_validator("fhirkit"))
        both = zip(raws, parsed, strict=True)
        decision = decide([Event(raw, one, sender, "") for raw, one in both], Known({}, {}), None)
        newest |= {one.encounter_pseudonym: one.message for one in decision.features if one.message}
    return tuple(newest.values())


def _report(
    scenario: Scenario, seed: int, scale: float, verdict: Verdict, landed: Landed, seconds: float
) -> dict[str, Any]:
    faults = dict(verdict.violations())
    if not landed.all_in_flight():
        faults["struck while nothing was in flight"] = 1
    if scenario.most_repeats is not None and verdict.repeat_share > scenario.most_repeats:
        faults["too many repeats"] = verdict.repeats
    if landed.longest_exit_s > EXIT_S:
        faults["too slow to end"] = round(landed.longest_exit_s)
    return {
        "scenario": scenario.name,
        "seed": seed,
        "scale": scale,
        "machine": f"{os.cpu_count()} cores, {psutil.virtual_memory().total >> 30} GiB",
        "passed": not faults,
        "violations": faults,
        "verdict": asdict(verdict),
        "repeat_share": round(verdict.repeat_share, 4),
        "strikes": len(landed.waiting),
        "longest_exit_s": round(landed.longest_exit_s, 1),
        "longest_standstill_s": round(landed.longest_standstill_s, 1),
        "seconds": round(seconds),
    }


def show(reports: list[dict[str, Any]]) -> None:
    """Print one line a scenario."""
    table = Table("scenario", "events", "strikes", "scores", "repeats", "violations", "s", title="Faults")
    for one in reports:
        verdict = one["verdict"]
        bad = ", ".join(f"{name}: {number}" for name, number in one["violations"].items()) or "none"
        share = f"{verdict['repeats']} ({one['repeat_share']:.2%})"
        table.add_row(
            one["scenario"],
            f"{verdict['published']:,}",
            str(one["strikes"]),
            f"{verdict['scores']:,}",
            share,
            bad,
            str(one["seconds"]),
        )
    out.print(table)


def main() -> int:
    """Run what was asked for; 0 if nothing was violated."""
    parser = argparse.ArgumentParser(prog="make faults")
    parser.add_argument("--scenario", action="append", choices=list(SCENARIOS), default=None)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 10_000)
    parser.add_argument("--scale", type=float, default=1.0)
    given = parser.parse_args()
    reports = [run(SCENARIOS[name], given.seed, given.scale) for name in given.scenario or SCENARIOS]
    show(reports)
    Path(".local").mkdir(exist_ok=True)
    Path(".local/faults.json").write_text(json.dumps(reports, indent=2))
    return 0 if all(one["passed"] for one in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
