"""Run the benchmark on a local stack of its own; print a table and write `.local/bench.json`."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

import asyncpg
import joblib
import numpy as np
import psutil
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from rich.console import Console
from rich.table import Table
from sklearn.ensemble import RandomForestClassifier

from connectors.kafka_access import client_properties
from connectors.models import set_alias
from connectors.settings import Settings, load_settings, settings_environment
from connectors.source_event import SourceEvent
from healthalliance import local_stack
from healthalliance.demo import fresh_stack, latencies_ms
from healthalliance.progress import fetch, wait_until_applied
from healthalliance.publishing import Ledger, publish_events
from model_training.job import train
from schemas.features import FEATURE_NAMES
from tests.bench import analysts, predictions, security, training
from tests.bench.naive import TABLES
from tests.bench.rates import (
    INSTITUTIONS,
    SETTLE_S,
    average,
    fold_history_and_train,
    running_worker,
    simulated,
    windows,
    worker_rate,
)
from tests.bench.swaps import compare, timed

_NAIVE_S = 12.0
_LATENCY_S = 30
_LATENCY_EVENTS_PER_S = 200.0
_SWAPS = 8
_MANY_PATIENTS = 100_000

out = Console()


def run() -> dict[str, Any]:
    """Measure everything in one run, on one stack."""
    settings = load_settings()
    settings = local_stack.apart(settings, Path(".local/bench"))
    # The naive worker knows no users.
    with fresh_stack(settings, lambda text: out.print(text, highlight=False), secured=False) as running:
        report: dict[str, Any] = {"machine": f"{os.cpu_count()} cores, {psutil.virtual_memory().total >> 30} GiB"}
        history = fold_history_and_train(running)
        # Machines drift and histories grow: what is compared alternates, there and back.
        to_come = windows()
        naive = [_naive_rate(running, 1)]
        few = [worker_rate(running, next(to_come))]
        filled = _fill(running)
        many = [worker_rate(running, next(to_come)), worker_rate(running, next(to_come))]
        _empty(running)
        few.append(worker_rate(running, next(to_come)))
        naive.append(_naive_rate(running, 2))
        report |= {"history_events": history, "naive_events_per_s": mean(naive), "worker": average(few)}
        report["ratio_to_naive"] = report["worker"]["events_per_s"] / report["naive_events_per_s"]
        report |= {"filled_patients": filled, "worker_with_many_patients": average(many)}
        report["throughput_kept_with_many_patients"] = (
            report["worker_with_many_patients"]["events_per_s"] / report["worker"]["events_per_s"]
        )
        report["latency_at_200_per_s_ms"] = _latency(running, next(to_come))
        report["swaps_at_200_per_s_ms"] = _swaps(running, next(to_come))
        report["predictions"] = None if predictions.why_not() else predictions.measure(running)
    report["security"] = security.costs(Path(".local/bench-security"), lambda text: out.print(text, highlight=False))
    report["analysts"] = analysts.costs(Path(".local/bench-analysts"))
    return report | {"training": training.costs(Path(".local/bench-training"))}


def _naive_rate(settings: Settings, number: int) -> float:
    """Let a naive worker read the same topics for a while; its rate from the first event it finished on."""
    folder = settings.data_dir / f"naive-{number}"
    folder.mkdir()
    rows = np.random.default_rng(1).random((3000, len(FEATURE_NAMES)), dtype=np.float32)
    forest = RandomForestClassifier(100, class_weight="balanced", random_state=1).fit(rows, rows[:, 0] > 0.8)
    joblib.dump(forest, folder / "forest.joblib")
    admin = AdminClient(client_properties(settings))
    for future in admin.create_topics([NewTopic(folder.name, 1, 1)]).values():
        future.result(10)
    asyncio.run(_execute(settings, TABLES))
    command = [sys.executable, "-m", "tests.bench.naive", str(folder / "forest.joblib"), folder.name]
    environment = {**os.environ, **settings_environment(settings)}
    with (folder / "log").open("wb") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as one:
        try:
            while not (begun := _naively_applied(settings)):
                time.sleep(0.1)
            started = time.monotonic()
            time.sleep(_NAIVE_S)
            return (_naively_applied(settings) - begun) / (time.monotonic() - started)
        finally:
            one.terminate()


def _naively_applied(settings: Settings) -> int:
    query = "SELECT count(DISTINCT (topic, partition, source_offset)) AS applied FROM naive_scores"
    return int(fetch(settings, query)[0]["applied"])


async def _execute(settings: Settings, *statements: str) -> None:
    connection = await asyncpg.connect(settings.database_url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


def _latency(settings: Settings, start: datetime) -> dict[str, float]:
    ledger = _published_at_rate(settings, start)
    return {**latencies_ms(settings, ledger), "events": len(ledger.published_at)}


def _swaps(settings: Settings, start: datetime) -> dict[str, float]:
    """Let the champion's alias point to one version and the other in turn, with a challenger beside it."""
    settings = settings.model_copy(update={"model_poll_s": 0.5})
    first, second = (train(settings, seed).version for seed in (2, 3))
    set_alias(settings.model_copy(update={"model_alias": settings.model_challenger_alias}), first)

    def swap() -> None:
        for number in range(_SWAPS):
            time.sleep(_LATENCY_S / (_SWAPS + 1))
            set_alias(settings, (first, second)[number % 2])

    return compare(timed(settings, _published_at_rate(settings, start, swap)))


def _published_at_rate(settings: Settings, start: datetime, meanwhile: Callable[[], None] = lambda: None) -> Ledger:
    ledger, rate = Ledger(), _LATENCY_EVENTS_PER_S / len(INSTITUTIONS)

    def publish(institution: str, events: list[SourceEvent]) -> None:
        publish_events(settings, institution, events, ledger=ledger, events_per_s=rate)

    # All simulated before, or they would come late and then all at once.
    events = {one: list(islice(simulated(one, start), int(rate * _LATENCY_S))) for one in INSTITUTIONS}
    with running_worker(settings):
        threads = [threading.Thread(target=publish, args=one) for one in events.items()]
        for thread in threads:
            thread.start()
        meanwhile()
        for thread in threads:
            thread.join()
        wait_until_applied(settings, 60)
        time.sleep(SETTLE_S)
    return ledger


def _fill(settings: Settings) -> int:
    """Put many other patients into the history, each with the history of one of those who are there."""
    asyncio.run(
        _execute(
            settings,
            f"""INSERT INTO patient_history (institution, patient_pseudonym, revision, history, updated_at)
                SELECT institution, gen_random_uuid(), -1, history, updated_at
                FROM patient_history, generate_series(1, {_MANY_PATIENTS} / (SELECT count(*) FROM patient_history) + 1)
                LIMIT {_MANY_PATIENTS}""",
            "VACUUM ANALYZE patient_history",
        )
    )
    return _MANY_PATIENTS


def _empty(settings: Settings) -> None:
    asyncio.run(
        _execute(settings, "DELETE FROM patient_history WHERE revision = -1", "VACUUM FULL ANALYZE patient_history")
    )


def show(report: dict[str, Any]) -> None:
    """Print the figures beside their targets."""
    table = Table("figure", "measured", "target", title=f"Benchmark, {report['machine']}")
    worker, latency = report["worker"], report["latency_at_200_per_s_ms"]
    table.add_row("naive worker, events/s", f"{report['naive_events_per_s']:.0f}", "")
    table.add_row("one worker, events/s", f"{worker['events_per_s']:.0f}", "≥ 2000")
    table.add_row("ratio to naive", f"{report['ratio_to_naive']:.0f}", "≥ 30")
    table.add_row("memory, MB", f"{worker['memory_mb']:.0f}", "≤ 400")
    table.add_row("publish to committed row at 200/s, p50 ms", f"{latency.get('p50', float('nan')):.0f}", "")
    table.add_row("p99 ms", f"{latency.get('p99', float('nan')):.0f}", "≤ 250")
    swaps = report["swaps_at_200_per_s_ms"]
    table.add_row(f"longest around {swaps['swaps']} swaps of the champion, ms", f"{swaps['longest_around']:.0f}",
                  f"≤ {swaps['longest_elsewhere'] + 200:.0f}, 200 above the rest")  # fmt: skip
    kept = report["throughput_kept_with_many_patients"]
    table.add_row("throughput kept with 100,000 more patients", f"{kept:.2f}", "≥ 0.80")
    security.add_row(table, report["security"])
    predictions.add_rows(table, report["predictions"])
    out.print(table)
    analysts.show(report["analysts"])
    training.show(report["training"])


if __name__ == "__main__":
    result = run()
    show(result)
    Path(".local/bench.json").write_text(json.dumps(result, indent=2))
    out.print("Written to .local/bench.json.")
