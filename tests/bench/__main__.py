"""Run the benchmark on a local stack of its own; print a table and write `.local/bench.json`."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
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

from connectors.kafka import ensure_topics
from connectors.migrate import migrate
from connectors.settings import Settings, load_settings
from connectors.simulator import simulate
from healthalliance import local_stack
from healthalliance.demo import latencies_ms, wait_until_ready
from healthalliance.progress import fetch, wait_until_applied
from healthalliance.publishing import Ledger, publish_events
from healthalliance.workers import WorkerOptions, WorkerProcesses, settings_environment
from model_training.job import train
from schemas.features import FEATURE_NAMES
from tests.bench.naive import TABLES

_EPOCH = datetime(2022, 1, 1, tzinfo=UTC)
_HISTORY_UNTIL = _EPOCH + timedelta(days=900)
_INSTITUTIONS = ("dkfz", "ukhd", "embl")
_PATIENTS = 900
_WINDOW, _LATENCY_WINDOW = timedelta(days=600), timedelta(days=120)
_SETTLE_S = 2.0  # after it, all that was applied is published and acknowledged too
_NAIVE_S = 20.0
_LATENCY_S = 20
_LATENCY_EVENTS_PER_S = 200.0
_MANY_PATIENTS = 100_000

out = Console()


def run() -> dict[str, Any]:
    """Measure everything in one run, on one stack."""
    settings = load_settings()
    settings = settings.model_copy(update={"data_dir": Path(".local/bench")})
    with _fresh_stack(settings) as running:
        report: dict[str, Any] = {"machine": f"{os.cpu_count()} cores, {psutil.virtual_memory().total >> 30} GiB"}
        with _worker(running, history_only=True):
            history = sum(_publish(running, _PATIENTS, _EPOCH, _HISTORY_UNTIL))
            wait_until_applied(running, 60)
            time.sleep(_SETTLE_S)
        train(running, 1)
        report["history_events"] = history
        report["naive_events_per_s"] = _naive_rate(running)
        report["worker"] = _worker_rate(running, _HISTORY_UNTIL)
        report["ratio_to_naive"] = report["worker"]["events_per_s"] / report["naive_events_per_s"]
        report["latency_at_200_per_s_ms"] = _latency(running)
        report["filled_patients"] = _fill(running)
        report["worker_with_many_patients"] = _worker_rate(running, _HISTORY_UNTIL + _WINDOW + _LATENCY_WINDOW)
        report["throughput_kept_with_many_patients"] = (
            report["worker_with_many_patients"]["events_per_s"] / report["worker"]["events_per_s"]
        )
    return report


@contextmanager
def _fresh_stack(settings: Settings) -> Iterator[Settings]:
    local_stack.down(settings)
    shutil.rmtree(settings.data_dir, ignore_errors=True)
    try:
        running = local_stack.up(settings, lambda text: out.print(text, highlight=False))
        ensure_topics(running)
        migrate(running.database_url)
        yield running
    finally:
        local_stack.down(settings)


@contextmanager
def _worker(settings: Settings, *, history_only: bool = False) -> Iterator[WorkerProcesses]:
    log = settings.data_dir / "logs" / "worker.log"
    with WorkerProcesses(settings, WorkerOptions(1, history_only, log)) as workers:
        wait_until_ready(workers)
        yield workers


def _publish(
    settings: Settings, patients: int, start: datetime, until: datetime, institutions: tuple[str, ...] = _INSTITUTIONS
) -> list[int]:
    return [
        publish_events(settings, one, simulate(one, 1, patients, start, until, epoch=_EPOCH, fault_share=0.0))
        for one in institutions
    ]


def _worker_rate(settings: Settings, start: datetime) -> dict[str, float]:
    """Publish a window first, then let one worker work it off; count from its first commit to its last."""
    before = _applied(settings)
    events = sum(_publish(settings, _PATIENTS, start, start + _WINDOW))
    log = settings.data_dir / "logs" / "worker.log"
    with WorkerProcesses(settings, WorkerOptions(1, False, log)) as workers:
        begun, started = _when_applied(settings, before + 1)
        process = psutil.Process(workers.pids()[0])
        cpu_s = sum(process.cpu_times()[:2])
        done, ended = _when_applied(settings, before + events)
        measured = {
            "events": events,
            "events_per_s": (done - begun) / (ended - started),
            "memory_mb": process.memory_info().rss / 2**20,
            "cpu_us_per_event": 1e6 * (sum(process.cpu_times()[:2]) - cpu_s) / (done - begun),
        }
        time.sleep(_SETTLE_S)
    return measured


def _when_applied(settings: Settings, number: int) -> tuple[int, float]:
    """Wait until so many events are applied in all; return how many are, and when that was seen."""
    while (applied := _applied(settings)) < number:
        time.sleep(0.05)
    return applied, time.monotonic()


def _applied(settings: Settings) -> int:
    # As cheap as can be: who looks takes time from those it looks at.
    query = "SELECT sum(scored + updated + unchanged + retracted + rejected)::bigint AS applied FROM stream_progress"
    return int(fetch(settings, query)[0]["applied"] or 0)


def _naive_rate(settings: Settings) -> float:
    """Let the naive worker read the same topics for a while; its rate from the first event it finished on."""
    folder = settings.data_dir / "naive"
    folder.mkdir()
    rows = np.random.default_rng(1).random((3000, len(FEATURE_NAMES)), dtype=np.float32)
    forest = RandomForestClassifier(100, class_weight="balanced", random_state=1).fit(rows, rows[:, 0] > 0.8)
    joblib.dump(forest, folder / "forest.joblib")
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap_servers})
    for future in admin.create_topics([NewTopic("naive.risk", 1, 1)]).values():
        future.result(10)
    asyncio.run(_execute(settings, TABLES))
    command = [sys.executable, "-m", "tests.bench.naive", str(folder / "forest.joblib")]
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


async def _execute(settings: Settings, statements: str) -> None:
    connection = await asyncpg.connect(settings.database_url)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()


def _latency(settings: Settings) -> dict[str, float]:
    start = _HISTORY_UNTIL + _WINDOW
    ledger = Ledger()
    with _worker(settings):
        threads = [
            threading.Thread(target=_publish_at_rate, args=(settings, one, start, ledger)) for one in _INSTITUTIONS
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until_applied(settings, 60)
        time.sleep(_SETTLE_S)
    return {**latencies_ms(settings, ledger), "events": len(ledger.published_at)}


def _publish_at_rate(settings: Settings, institution: str, start: datetime, ledger: Ledger) -> None:
    rate = _LATENCY_EVENTS_PER_S / len(_INSTITUTIONS)
    events = simulate(institution, 1, _PATIENTS, start, start + _LATENCY_WINDOW, epoch=_EPOCH, fault_share=0.0)
    some = (event for event, _ in zip(events, range(int(rate * _LATENCY_S)), strict=False))
    publish_events(settings, institution, some, ledger=ledger, events_per_s=rate)


def _fill(settings: Settings) -> int:
    """Put many other patients into the history: one bare event each, of a fourth simulated hospital's ids."""
    from connectors.source_event import SourceEvent

    def events() -> Iterator[SourceEvent]:
        for number in range(_MANY_PATIENTS):
            id_ = f"fill-{number:06d}"
            encounter = {
                "resourceType": "Encounter",
                "id": id_,
                "meta": {"versionId": "1"},
                "status": "finished",
                "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
                "subject": {"reference": f"Patient/{id_}"},
                "period": {"start": "2023-05-01T10:00:00Z", "end": "2023-05-01T10:30:00Z"},
            }
            yield SourceEvent(f"Patient/{id_}".encode(), json.dumps(encounter).encode(), _EPOCH)

    with _worker(settings):
        for one in _INSTITUTIONS:
            publish_events(settings, one, (e for n, e in enumerate(events()) if n % 3 == _INSTITUTIONS.index(one)))
        wait_until_applied(settings, 60)
        time.sleep(_SETTLE_S)
    return _MANY_PATIENTS


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
    kept = report["throughput_kept_with_many_patients"]
    table.add_row("throughput kept with 100,000 more patients", f"{kept:.2f}", "≥ 0.80")
    out.print(table)


if __name__ == "__main__":
    result = run()
    show(result)
    Path(".local/bench.json").write_text(json.dumps(result, indent=2))
    out.print("Written to .local/bench.json.")
