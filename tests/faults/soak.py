"""Faults of all kinds, one after the other, for as long as wanted; one worker is left alone and must not grow."""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import chain
from statistics import median

import psutil

from healthalliance.local_stack import Part
from tests.faults.on_database import end_connections, restart_database
from tests.faults.on_workers import pass_by
from tests.faults.trial import Trial, has_ended

_FROZEN_S = 13.0
_WARM_SHARE = 0.25  # of the strikes; until then caches fill
_WARM_S = 180.0


def strike_everything(trial: Trial) -> None:
    """Do every harm in random order, again and again."""
    harms: list[Callable[[Trial], None]] = []
    warm_from = int(trial.strikes * _WARM_SHARE)
    measured: dict[int, list[int]] = defaultdict(list)  # by process: a witness that ends is followed by another
    for number in trial.moments():
        witness = trial.workers.pids()[0]
        if number >= warm_from and (memory := _memory(witness)):  # before the harm: backlogs are worked off
            measured[witness].append(memory)
        if not harms:
            harms = list(_HARMS)
            trial.rng.shuffle(harms)
        harms.pop()(trial)
        trial.measure("recovery_s", trial.recovery_s())
    trial.figures["memory_growth"] = max(map(_growth, measured.values()), default=0.0)
    trial.figures["memory_mb"] = max(chain.from_iterable(measured.values()), default=0) / 2**20


def _growth(measured: list[int]) -> float:
    """Compare the medians of the first and the last third; 0 for too few."""
    third = len(measured) // 3
    return median(measured[-third:]) / median(measured[:third]) - 1 if third else 0.0


def _memory(pid: int) -> int | None:
    """Measure a process that has run for a while; None for a young one."""
    if has_ended(pid) or time.time() - psutil.Process(pid).create_time() < _WARM_S:
        return None
    return int(psutil.Process(pid).memory_info().rss)


def _other_worker(trial: Trial) -> int:
    others = trial.workers.pids()[1:]
    trial.wait_until(lambda: not all(has_ended(pid) for pid in others), 60)
    return trial.rng.choice([pid for pid in others if not has_ended(pid)])


def _kill_worker(trial: Trial) -> None:
    os.kill(_other_worker(trial), signal.SIGKILL)


def _stop_worker(trial: Trial) -> None:
    os.kill(_other_worker(trial), signal.SIGTERM)


def _freeze_worker(trial: Trial) -> None:
    pid = _other_worker(trial)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(_FROZEN_S)
    os.kill(pid, signal.SIGCONT)


def _kill_database(trial: Trial) -> None:
    restart_database(trial, signal.SIGKILL)


def _restart_database(trial: Trial) -> None:
    restart_database(trial, signal.SIGINT)


def _kill_broker(trial: Trial) -> None:
    _kill_part(trial, Part.KAFKA)


def _kill_registry(trial: Trial) -> None:
    _kill_part(trial, Part.REGISTRY)


def _kill_part(trial: Trial, part: Part) -> None:
    pid = trial.pid_of(part)
    os.kill(pid, signal.SIGKILL)
    trial.wait_until(lambda: has_ended(pid), 30)
    trial.start_parts()


_HARMS: tuple[Callable[[Trial], None], ...] = (
    _kill_worker,
    _stop_worker,
    _freeze_worker,
    pass_by,
    _kill_database,
    _restart_database,
    end_connections,
    _kill_broker,
    _kill_registry,
)
