"""How fast one worker works off a window of simulated events."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from statistics import mean

import psutil

from connectors.settings import Settings
from connectors.simulator import simulate
from connectors.source_event import SourceEvent
from healthalliance import local_stack
from healthalliance.demo import wait_until_ready
from healthalliance.progress import fetch, wait_until_applied
from healthalliance.publishing import publish_events
from healthalliance.workers import WorkerOptions, WorkerProcesses
from model_training.job import train
from schemas.access import WORKER
from schemas.institutions import institutions

_EPOCH = datetime(2022, 1, 1, tzinfo=UTC)
_HISTORY = timedelta(days=900)
INSTITUTIONS = tuple(institutions())
_PATIENTS = 900
_WINDOW = timedelta(days=300)
SETTLE_S = 2.0  # after it, all that was applied is published and acknowledged too


def windows() -> Iterator[datetime]:
    """Count the windows that follow the history."""
    return (_EPOCH + _HISTORY + number * _WINDOW for number in count())


def fold_history_and_train(settings: Settings) -> int:
    """Begin as a first start would; return how many events the history has."""
    with running_worker(settings, history_only=True):
        events = _publish(settings, _EPOCH, _HISTORY)
        wait_until_applied(settings, 60)
        time.sleep(SETTLE_S)
    train(settings, 1)
    return events


def average(measured: list[dict[str, float]]) -> dict[str, float]:
    """Average each figure."""
    return {name: mean(one[name] for one in measured) for name in measured[0]}


@contextmanager
def running_worker(settings: Settings, *, history_only: bool = False) -> Iterator[WorkerProcesses]:
    log = settings.data_dir / "logs" / "worker.log"
    with WorkerProcesses(local_stack.as_user(settings, WORKER), WorkerOptions(1, history_only, log)) as workers:
        wait_until_ready(workers)
        yield workers


def _publish(settings: Settings, start: datetime, days: timedelta) -> int:
    return sum(publish_events(settings, one, simulated(one, start, days)) for one in INSTITUTIONS)


def worker_rate(settings: Settings, start: datetime) -> dict[str, float]:
    """Publish a window first, then let one worker work it off; count from its first commit to its last."""
    before = _applied(settings)
    events = _publish(settings, start, _WINDOW)
    log = settings.data_dir / "logs" / "worker.log"
    with WorkerProcesses(local_stack.as_user(settings, WORKER), WorkerOptions(1, False, log)) as workers:
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
        time.sleep(SETTLE_S)
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


def simulated(institution: str, start: datetime, days: timedelta = _WINDOW) -> Iterator[SourceEvent]:
    return simulate(institution, 1, _PATIENTS, start, start + days, epoch=_EPOCH, fault_share=0.0)
