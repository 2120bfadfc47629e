"""Faults of the workers: killed, stopped, frozen, too many coming and going."""

from __future__ import annotations

import os
import signal
import time
from functools import partial

import psutil

from healthalliance.workers import WorkerOptions, WorkerProcesses
from tests.faults.trial import Trial, has_ended

_SESSION_S = 10.0  # after which a silent worker's partitions go to others
_STORM_EVERY_S = 10.0


def kill(trial: Trial) -> None:
    """SIGKILL a worker, as a power cut would."""
    for _ in trial.moments():
        os.kill(_any(trial), signal.SIGKILL)


def stop_in_order(trial: Trial) -> None:
    """SIGTERM a worker, as a deployment does, and measure how long it takes to end."""
    for _ in trial.moments():
        pid = _any(trial)
        os.kill(pid, signal.SIGTERM)
        trial.measure("exit_s", trial.wait_until(partial(has_ended, pid), 60))


def freeze(trial: Trial) -> None:
    """SIGSTOP a worker until its session is over and others have its partitions, then let it go on."""
    for _ in trial.moments():
        process = psutil.Process(_any(trial))
        process.suspend()
        try:
            time.sleep(_SESSION_S + trial.rng.uniform(2, 6))
        finally:
            process.resume()


def come_and_go(trial: Trial) -> None:
    """Let a worker join, then leave, every ten seconds, so that partitions are handed out again all the time."""
    for _ in range(trial.strikes):
        trial.landed += trial.in_flight
        pass_by(trial)
        time.sleep(_STORM_EVERY_S)


def pass_by(trial: Trial) -> None:
    """Let a worker join for ten seconds."""
    settings = trial.settings.model_copy(update={"metrics_port": trial.settings.metrics_port + 50})
    options = WorkerOptions(1, log_file=trial.settings.data_dir / "logs" / "passing-worker.log")
    with WorkerProcesses(settings, options):
        time.sleep(_STORM_EVERY_S)
    trial.require_alive()


def _any(trial: Trial) -> int:
    """Choose a worker that lives; one that was struck is started again within a second."""
    trial.wait_until(lambda: bool(trial.living()), 60)
    return trial.rng.choice(trial.living())
