"""Run fault scenarios on a stack of their own; print a table and write `.local/faults.json`.

python -m tests.faults [--scenario NAME]… [--seed N] [--scale X] [--mutant NAME]
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from connectors.settings import load_settings
from healthalliance import local_stack
from healthalliance.local_stack.ports import free_port
from tests.faults.load import Ledger, Patients, train_champion
from tests.faults.mutants import MUTANTS, command
from tests.faults.oracle import judge
from tests.faults.report import Report, report, show
from tests.faults.scenarios import SCENARIOS
from tests.faults.trial import Scenario, carry_out

_PARTITIONS = 8

out = Console()


def run(scenario: Scenario, seed: int, scale: float) -> Report:
    """Run one scenario on a fresh stack and judge it."""
    started = time.monotonic()
    settings = local_stack.apart(load_settings(), Path(".local/faults") / scenario.name).model_copy(
        update={"topic_partitions": _PARTITIONS, "rejected_share_limit": 1.0, "metrics_port": free_port(())}
    )
    out.print(f"{scenario.name}, seed {seed}: {scenario.promise}")
    ledger = Ledger()
    with scenario.stack(settings) as running:
        train_champion(running, seed)
        trial = carry_out(scenario, running, Patients(seed, int(scenario.events * scale)), ledger, seed, scale)
        verdict = judge(running, ledger)
        return report(trial, verdict, seed, scale, time.monotonic() - started)


def main() -> int:
    """Run what was asked for; 0 if nothing was violated."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is stopped in order, as for Ctrl-C
    parser = argparse.ArgumentParser(prog="make faults")
    parser.add_argument("--scenario", action="append", choices=list(SCENARIOS), default=None)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 10_000)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--mutant", choices=list(MUTANTS), default=None)
    given = parser.parse_args()
    names = given.scenario or (["worker-kill"] if given.mutant else list(SCENARIOS))
    chosen = [
        replace(SCENARIOS[name], command=command(given.mutant)) if given.mutant else SCENARIOS[name] for name in names
    ]
    for one in chosen:
        if (reason := one.why_not()) is not None:
            out.print(f"{one.name} cannot run here: {reason}")
    reports = [run(one, given.seed, given.scale) for one in chosen if one.why_not() is None]
    show(reports, out)
    Path(".local").mkdir(exist_ok=True)
    Path(".local/faults.json").write_text(json.dumps(reports, indent=2))
    return 0 if len(reports) == len(chosen) and all(one["passed"] for one in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
