"""A short form of every fault scenario; `make faults` runs them at their full sizes.

Most share one stack. What was published before is judged again each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import pytest

from connectors.settings import Settings
from healthalliance.local_stack.ports import free_port
from tests.faults import on_disks
from tests.faults.load import Ledger, Patients, train_champion
from tests.faults.mutants import command
from tests.faults.oracle import judge
from tests.faults.report import Report, report
from tests.faults.scenarios import SCENARIOS
from tests.faults.trial import Scenario, Trial, carry_out, quiet_stack
from tests.integration.running import data_folder

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

_SEED = 1
_PARTITIONS = 8
_PATIENTS_FOR = 20_000  # events
_SMALL_DISKS = on_disks.why_not() is None

# Whose faults strike in turn while the load goes on, and how often each: all that need no stack of their own.
_IN_TURN = {
    "worker-kill": 2,
    "rolling": 1,
    "zombie": 1,
    "rebalance-storm": 1,
    "postgres": 5,
    "registry": 2,
    **({"disk-full": 2} if _SMALL_DISKS else {}),
    "soak": 2,
}
# Latencies and growth say nothing of a run of seconds, nor shares of repeats of a few strikes.
_ONLY_AT_FULL_SIZE = ("repeat_share", "p99_ratio", "memory_growth", "standstill_s")


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


@pytest.fixture(scope="module")
def shared() -> Iterator[Ground]:
    yield from ground(on_disks.stack_on_small_disks if _SMALL_DISKS else quiet_stack)


@pytest.fixture
def own(request: pytest.FixtureRequest) -> Iterator[Ground]:
    scenario = SCENARIOS[request.param]
    if (reason := scenario.why_not()) is not None:
        pytest.skip(reason)
    yield from ground(scenario.stack)


def short(name: str) -> Scenario:
    scenario = SCENARIOS[name]
    most = {figure: most for figure, most in scenario.most.items() if figure not in _ONLY_AT_FULL_SIZE}
    return replace(scenario, most=most)


# In order comes first: it compares with patients of whom nothing is known before.
@pytest.mark.parametrize(("name", "scale"), [("disorder", 0.03), ("poison", 0.01)])
def test_nothing_is_violated(shared: Ground, name: str, scale: float) -> None:
    assert shared.try_out(short(name), scale)["violations"] == {}


def test_a_worker_may_die_at_every_step_and_repeats_are_the_same_record(shared: Ground) -> None:
    found = shared.try_out(replace(short("every-step"), events=40_000), 1 / 20)
    assert found["violations"] == {}
    assert found["verdict"]["repeats"] > 0, "no death came between a delivery and its acknowledgement"


def test_faults_of_all_kinds_in_turn_violate_nothing(shared: Ground) -> None:
    assert shared.try_out(in_turn(), 0.01)["violations"] == {}


def in_turn() -> Scenario:
    """Put the attacks of several scenarios, and what each must hold, into one."""
    parts = [(short(name), strikes) for name, strikes in _IN_TURN.items()]

    def attack(trial: Trial) -> None:
        for one, strikes in parts:
            trial.strikes = strikes
            one.attack(trial)
        trial.strikes = sum(strikes for _, strikes in parts)

    return Scenario(
        "in-turn",
        "faults of all kinds in turn: all exact",
        events=60_000,
        strikes=1,
        attack=attack,
        events_per_s=100.0,
        most={figure: limit for one, _ in parts for figure, limit in one.most.items()},
        settings={"model_poll_s": 2.0},
        check=lambda trial: {what: number for one, _ in parts for what, number in one.check(trial).items()},
    )


def test_a_broken_worker_is_found_out(shared: Ground) -> None:
    """Last on the shared stack: what a broken worker loses stays lost."""
    broken = replace(short("worker-kill"), command=command("naive"), kinds=6, settings={"batch_max_events": 20})
    # Six kills may all meet a worker with nothing on its way; eighteen do not.
    assert any("lost_events" in shared.try_out(broken, 0.02)["violations"] for _ in range(3))


@pytest.mark.parametrize(("own", "kinds"), [("broker", 2), ("network", 2)], indirect=["own"])
def test_nothing_is_violated_on_a_stack_of_its_own(own: Ground, request: pytest.FixtureRequest, kinds: int) -> None:
    name = request.node.callspec.params["own"]
    assert own.try_out(replace(short(name), kinds=kinds), 0.02)["violations"] == {}
