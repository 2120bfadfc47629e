"""What the short forms of the fault scenarios share: a stack as their ground, and what says nothing in a short run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from connectors.settings import Settings
from healthalliance.local_stack.ports import free_port
from tests.faults import on_disks
from tests.faults.load import Ledger, Patients, train_champion
from tests.faults.oracle import judge
from tests.faults.report import Report, report
from tests.faults.scenarios import SCENARIOS
from tests.faults.trial import Scenario, carry_out, quiet_stack
from tests.integration.running import data_folder

_SEED = 1
_PARTITIONS = 8
_PATIENTS_FOR = 20_000  # events
EVENTS_PER_S = 50.0  # while faults strike; more costs the simulated hospitals and the oracle most
SMALL_DISKS = on_disks.why_not() is None

# Latencies and growth say nothing of a run of seconds, nor shares of repeats of a few strikes.
_ONLY_AT_FULL_SIZE = ("repeat_share", "p99_ratio", "memory_growth", "standstill_s")
# The promised times are for a machine that does nothing else; other tests run beside these.
_SLOWER = 3.0


@dataclass
class Ground:
    """A running stack that trial after trial is carried out on, and all that was ever published to it."""

    settings: Settings = field(repr=False)
    patients: Patients
    ledger: Ledger = field(default_factory=Ledger)

    def try_out(self, scenario: Scenario, scale: float) -> Report:
        """Carry a trial out and judge all that there is."""
        trial = carry_out(scenario, self.settings, self.patients, self.ledger, _SEED, scale)
        return report(trial, judge(self.settings, self.ledger), _SEED, scale, 0)


def ground(stack: Callable[[Settings], AbstractContextManager[Settings]]) -> Iterator[Ground]:
    with data_folder() as settings:
        settings = settings.model_copy(update={"topic_partitions": _PARTITIONS, "metrics_port": free_port(())})
        with stack(settings) as running:
            train_champion(running, _SEED)
            yield Ground(running, Patients(_SEED, _PATIENTS_FOR))


def shared_ground() -> Iterator[Ground]:
    """Stand on a stack whose disks may fill, where that can be had."""
    yield from ground(on_disks.stack_on_small_disks if SMALL_DISKS else quiet_stack)


def short(name: str) -> Scenario:
    scenario = SCENARIOS[name]
    rate = EVENTS_PER_S if scenario.events_per_s and scenario.strikes else scenario.events_per_s
    most = {figure: _SLOWER * most for figure, most in scenario.most.items() if figure not in _ONLY_AT_FULL_SIZE}
    return replace(scenario, most=most, events_per_s=rate)
