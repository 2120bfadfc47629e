"""One run of a scenario: load, workers, strikes, and what was measured."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import psutil
from confluent_kafka import KafkaException

from connectors.settings import Settings
from healthalliance import local_stack
from healthalliance.demo import fresh_stack, wait_until_ready
from healthalliance.local_stack import Part, Ports
from healthalliance.workers import WorkerOptions, WorkerProcesses
from schemas.errors import UnavailableError
from tests.faults.lasting_ports import lasting_ports
from tests.faults.load import Feed, Keyed, Ledger, Patients
from tests.faults.watch import Watch, is_acknowledged

_STANDSTILL_S = 180.0  # longer than the longest outage that a scenario makes


def quiet_stack(settings: Settings) -> AbstractContextManager[Settings]:
    """Run a fresh local stack."""
    return fresh_stack(settings, lambda _: None, Ports(*lasting_ports(4)), secured=False)


def what_root_lacks(programs: Sequence[str], packages: str) -> str | None:
    """Say what is missing for faults that only root can make, with programs that need not be installed."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [program for program in programs if shutil.which(program) is None]
    return f"needs {' and '.join(missing)} (on Debian: apt-get install {packages})" if missing else None


@dataclass(frozen=True)
class Scenario:
    """A named fault: what it does to a running trial, at which size, and what must hold beside the oracle's verdict.

    attack: does the harm; `Trial.moments` says when.
    kinds: how many strikes there are at least, whatever the scale.
    attacks_first: the attack has workers of its own; others work off what it leaves.
    events_per_s: the load's rate, kept up until the attack is over; None publishes everything first, so that workers
        find a backlog.
    most: the most that each measured figure may be.
    load: turns the patients' events into what is published.
    check: further violations, by name.
    stack: has the parts run that the trial needs.
    is_ready: waits until the workers consume, before the load begins.
    why_not: says what keeps this machine from running it.
    """

    name: str
    promise: str
    events: int
    strikes: int
    attack: Callable[[Trial], None]
    kinds: int = 1
    workers: int = 3
    attacks_first: bool = False
    events_per_s: float | None = None
    most: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    load: Callable[[Iterator[Keyed], Trial], Iterator[Keyed]] = lambda events, _: events
    check: Callable[[Trial], dict[str, int]] = lambda _: {}
    stack: Callable[[Settings], AbstractContextManager[Settings]] = quiet_stack
    command: tuple[str, ...] = WorkerOptions().command
    is_ready: Callable[[WorkerProcesses], None] = wait_until_ready
    why_not: Callable[[], str | None] = lambda: None


@dataclass
class Trial:
    """What an attack may touch, and where it notes what it measured."""

    scenario: Scenario
    settings: Settings
    rng: Random
    scale: float
    strikes: int
    events: int
    ledger: Ledger
    workers: WorkerProcesses
    watch: Watch
    feed: Feed | None = None
    landed: int = 0
    is_attacked: bool = False
    gave_up: str | None = None
    figures: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    applied_before: int = 0

    def moments(self) -> Iterator[int]:
        """Yield when a strike is due: at random moments spread over the load; each must find events in flight."""
        for number in range(self.strikes):
            self.wait_for_share((number + self.rng.random()) / (self.strikes + 0.5))
            self.landed += self.in_flight
            yield number

    @property
    def is_fed(self) -> bool:
        """Tell whether events are published now."""
        return self.feed is not None and self.feed.is_alive()

    @property
    def in_flight(self) -> bool:
        """Tell whether events are published now or wait."""
        return self.watch.waiting > 0 or self.is_fed

    def wait_for_share(self, share: float) -> None:
        """Wait until that share of the load is applied."""
        enough = self.applied_before + share * self.events
        self.wait_until(lambda: self.watch.applied >= enough or not self.in_flight)

    def wait_until(self, is_so: Callable[[], bool], at_most_s: float | None = None, every_s: float = 0.05) -> float:
        """Wait until something is so, return the seconds it took.

        Raises TimeoutError after `at_most_s`, or where none is given when no event was applied for too long.
        """
        started = time.monotonic()
        while not is_so():
            self.require_alive()
            taken = time.monotonic() - started
            if at_most_s is None and min(self.watch.standstill_s, taken) > _STANDSTILL_S:
                raise TimeoutError(f"{self.watch.waiting} events wait and none was applied for {_STANDSTILL_S:.0f} s")
            if at_most_s is not None and taken > at_most_s:
                raise TimeoutError(f"not within {at_most_s:.0f} s")
            time.sleep(every_s)
        return time.monotonic() - started

    def living(self) -> list[int]:
        """List the workers that run."""
        return [pid for pid in self.workers.pids() if not has_ended(pid)]

    def recovery_s(self) -> float:
        """Wait until another event is applied, or none waits any more; return the seconds it took."""
        applied = self.watch.applied
        return self.wait_until(lambda: self.watch.applied > applied or not self.in_flight)

    def pid_of(self, part: Part) -> int:
        """Return the process id of a part of the local stack."""
        return next(one.pid for one in local_stack.status(self._own()) if one.part is part and one.pid)

    def start_parts(self) -> None:
        """Start the parts of the local stack that do not run."""
        local_stack.up(self._own(), lambda _: None)

    def _own(self) -> Settings:
        return local_stack.apart(self.settings, self.settings.data_dir)

    def measure(self, name: str, value: float) -> None:
        """Note a figure; the largest of a name counts."""
        self.figures[name] = max(value, self.figures.get(name, value))

    def require_alive(self) -> None:
        """Raise what ended a thread."""
        for thread in (self.watch, self.feed):
            if thread is not None and thread.failure is not None:
                raise thread.failure


def load_alone(_: Trial) -> None:
    """Do no harm: the load is the attack, and the scenario's check tells whether it was one."""


def has_ended(pid: int) -> bool:
    """Tell whether a process is gone, or waits only to be asked for its exit code."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def carry_out(
    scenario: Scenario, settings: Settings, patients: Patients, ledger: Ledger, seed: int, scale: float
) -> Trial:
    """Put the load and the faults on a running stack; return once everything is applied and acknowledged."""
    settings = settings.model_copy(update=scenario.settings)
    with _trial(scenario, settings, ledger, seed, scale) as trial:
        all_at_once = scenario.events_per_s is None
        events = patients.next(trial.events, lambda: all_at_once or trial.is_attacked)
        events = scenario.load(events, trial)
        trial.feed = Feed(settings, events, ledger, scenario.events_per_s)
        if all_at_once:
            trial.feed.run()
            trial.require_alive()
        trial.watch.look()
        if not scenario.attacks_first:
            trial.workers.__enter__()
        if not all_at_once:
            scenario.is_ready(trial.workers)
            trial.feed.start()
        trial.watch.start()
        try:
            scenario.attack(trial)
            trial.is_attacked = True
            if scenario.attacks_first:
                trial.workers.__enter__()
            trial.require_alive()
            # What was acknowledged though it was not applied waits for ever: the oracle finds it lost.
            trial.wait_until(lambda: not trial.is_fed, every_s=1.0)
            trial.wait_until(lambda: not trial.in_flight or _is_acknowledged(settings), every_s=1.0)
            trial.wait_until(lambda: _is_acknowledged(settings), 60, every_s=0.5)
        except TimeoutError as error:
            trial.is_attacked = True
            trial.gave_up = str(error)
    return trial


@contextmanager
def _trial(scenario: Scenario, settings: Settings, ledger: Ledger, seed: int, scale: float) -> Iterator[Trial]:
    log = settings.data_dir / "logs" / f"workers.{scenario.name}.log"
    options = WorkerOptions(scenario.workers, log_file=log, command=scenario.command)
    workers = WorkerProcesses(settings, options)
    trial = Trial(
        scenario,
        settings,
        Random(f"{seed}/{scenario.name}"),
        scale,
        max(scenario.kinds, round(scenario.strikes * scale)),
        int(scenario.events * scale) // 3 * 3,
        ledger,
        workers,
        Watch(settings, workers),
    )
    trial.watch.look()
    trial.applied_before = trial.watch.applied
    try:
        yield trial
    finally:
        trial.watch.stop()
        workers.stop()
        trial.measure("standstill_s", trial.watch.longest_standstill_s)


def _is_acknowledged(settings: Settings) -> bool:
    try:
        return is_acknowledged(settings)
    except (UnavailableError, KafkaException):
        return False
