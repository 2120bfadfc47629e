"""The faults: each scenario does something bad to the workers, or to what they need, while events are in flight."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import psutil

from connectors.settings import Settings
from healthalliance.progress import read_progress
from healthalliance.workers import WorkerOptions, WorkerProcesses

EXIT_S = 20.0  # a worker that is told to stop ends within it
_SESSION_S = 10.0


@dataclass
class Landed:
    """What was done: how many events waited when each fault struck, and what was measured beside it."""

    waiting: list[int] = field(default_factory=list)
    longest_exit_s: float = 0.0
    longest_standstill_s: float = 0.0

    def all_in_flight(self) -> bool:
        """Tell whether every fault struck while events waited."""
        return bool(self.waiting) and min(self.waiting) > 0


@dataclass(frozen=True)
class Scenario:
    """A named fault: how many events at full size, how often it strikes, what repeats are allowed."""

    name: str
    events: int
    strikes: int
    workers: int
    strike: Callable[[Settings, WorkerProcesses, Random, Landed], None]
    pause_s: tuple[float, float]
    most_repeats: float | None


def run_faults(scenario: Scenario, settings: Settings, seed: int, strikes: int) -> Landed:
    """Let the workers work off what waits while faults strike at random moments; return once nothing waits."""
    rng, landed = Random(f"{seed}/{scenario.name}"), Landed()
    log = settings.data_dir / "logs" / "workers.log"
    with WorkerProcesses(settings, WorkerOptions(scenario.workers, log_file=log)) as workers:
        _wait_for_first(settings, workers)
        for _ in range(strikes):
            _watch_for(workers, rng.uniform(*scenario.pause_s))
            left = _waiting(settings)
            if not left:
                break
            landed.waiting.append(left)
            scenario.strike(settings, workers, rng, landed)
        _work_off(settings, workers, landed)
    return landed


def _wait_for_first(settings: Settings, workers: WorkerProcesses) -> None:
    before = _waiting(settings)
    while _waiting(settings) == before:
        workers.watch()
        time.sleep(0.2)


def _watch_for(workers: WorkerProcesses, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        workers.watch()
        time.sleep(min(0.2, max(0.0, end - time.monotonic())))


def _work_off(settings: Settings, workers: WorkerProcesses, landed: Landed) -> None:
    left, moved_at = _waiting(settings), time.monotonic()
    while left:
        workers.watch()
        time.sleep(0.5)
        if (now := _waiting(settings)) != left:
            left, moved_at = now, time.monotonic()
        landed.longest_standstill_s = max(landed.longest_standstill_s, time.monotonic() - moved_at)
        if time.monotonic() - moved_at > 120:
            raise TimeoutError(f"{left} events wait and none was applied for 120 s")
    time.sleep(3)  # what is committed is published and acknowledged


def _waiting(settings: Settings) -> int:
    return sum(one.waiting for one in read_progress(settings).values())


def kill(settings: Settings, workers: WorkerProcesses, rng: Random, landed: Landed) -> None:
    """SIGKILL a worker, as a power cut would."""
    os.kill(rng.choice(workers.pids()), signal.SIGKILL)


def stop_in_order(settings: Settings, workers: WorkerProcesses, rng: Random, landed: Landed) -> None:
    """SIGTERM a worker, as a deployment does, and measure how long it takes to end."""
    process, started = psutil.Process(rng.choice(workers.pids())), time.monotonic()
    process.send_signal(signal.SIGTERM)
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() - started > 3 * EXIT_S:
            raise TimeoutError("a worker does not end on SIGTERM")
        time.sleep(0.05)
    landed.longest_exit_s = max(landed.longest_exit_s, time.monotonic() - started)


def freeze(settings: Settings, workers: WorkerProcesses, rng: Random, landed: Landed) -> None:
    """SIGSTOP a worker until its session is over and others have its partitions, then let it go on."""
    process = psutil.Process(rng.choice(workers.pids()))
    process.suspend()
    time.sleep(_SESSION_S + rng.uniform(2, 6))
    process.resume()


SCENARIOS = {
    one.name: one
    for one in (
        Scenario("worker-kill", 200_000, 50, 3, kill, (1.0, 6.0), 0.05),
        Scenario("rolling", 100_000, 20, 3, stop_in_order, (1.0, 4.0), 0.0),
        Scenario("zombie", 100_000, 20, 3, freeze, (1.0, 4.0), None),
    )
}
