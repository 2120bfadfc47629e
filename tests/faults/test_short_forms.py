"""A short form of every fault scenario; `make faults` runs them at their full sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from connectors.settings import Settings
from healthalliance.local_stack.ports import free_port
from tests.faults.load import Ledger, Patients, train_champion
from tests.faults.mutants import command
from tests.faults.oracle import judge
from tests.faults.report import Report, report
from tests.faults.scenarios import SCENARIOS
from tests.faults.trial import Scenario, carry_out
from tests.integration.running import data_folder

pytestmark = pytest.mark.stack

_SEED = 1
_PARTITIONS = 8
_PATIENTS_FOR = 20_000  # events

# How much of the full size; strikes are at least as many as there are kinds.
# In order comes first: it compares with patients of whom nothing is known before.
_SHARED = {"disorder": 0.03, "worker-kill": 0.02, "rebalance-storm": 0.02, "postgres": 0.02, "poison": 0.01}
# Latencies and growth say nothing of a run of seconds, nor shares of repeats of a few strikes.
_ONLY_AT_FULL_SIZE = ("repeat_share", "p99_ratio", "memory_growth")


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


def ground(scenario: Scenario, settings: Settings) -> Iterator[Ground]:
    settings = settings.model_copy(update={"topic_partitions": _PARTITIONS, "metrics_port": free_port(())})
    with scenario.stack(settings) as running:
        train_champion(running, _SEED)
        yield Ground(running, Patients(_SEED, _PATIENTS_FOR))


@pytest.fixture(scope="module")
def shared() -> Iterator[Ground]:
    with data_folder() as settings:
        yield from ground(SCENARIOS["worker-kill"], settings)


@pytest.fixture
def own(request: pytest.FixtureRequest) -> Iterator[Ground]:
    with data_folder() as settings:
        yield from ground(SCENARIOS[request.param], settings)


def short(name: str) -> Scenario:
    scenario = SCENARIOS[name]
    most = {figure: most for figure, most in scenario.most.items() if figure not in _ONLY_AT_FULL_SIZE}
    return replace(scenario, most=most)


@pytest.mark.parametrize("name", _SHARED)
def test_nothing_is_violated(shared: Ground, name: str) -> None:
    assert shared.try_out(short(name), _SHARED[name])["violations"] == {}


def test_a_worker_may_die_at_every_step_and_repeats_are_the_same_record(shared: Ground) -> None:
    found = shared.try_out(replace(short("every-step"), events=40_000), 1 / 20)
    assert found["violations"] == {}
    assert found["verdict"]["repeats"] > 0, "no death came between a delivery and its acknowledgement"


@pytest.mark.parametrize("own", ["worker-kill"], indirect=True)
@pytest.mark.parametrize("mutant", ["naive"])
def test_a_broken_worker_is_found_out(own: Ground, mutant: str) -> None:
    broken = replace(short("worker-kill"), command=command(mutant), kinds=3)
    assert own.try_out(broken, 0.02)["violations"] != {}
