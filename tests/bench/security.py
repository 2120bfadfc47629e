"""What encryption, users and access rules of Kafka cost a worker: two stacks that differ in nothing else."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.table import Table

from connectors.settings import load_settings
from healthalliance import local_stack
from healthalliance.demo import fresh_stack
from healthalliance.local_stack import Say
from tests.bench.rates import average, fold_history_and_train, windows, worker_rate

_KEPT = 0.85


def costs(data_dir: Path, say: Say) -> dict[str, Any]:
    """Measure one worker on each in turn, there and back, with the same events."""
    with ExitStack() as stacks:
        plain, secured = (
            stacks.enter_context(
                fresh_stack(local_stack.apart(load_settings(), data_dir / name), say, secured=name == "secured")
            )
            for name in ("plain", "secured")
        )
        for one in (plain, secured):
            fold_history_and_train(one)
        measured: dict[str, list[dict[str, float]]] = {"plain": [], "secured": []}
        for window, order in zip(windows(), (("plain", "secured"), ("secured", "plain")), strict=False):
            for name in order:
                measured[name].append(worker_rate(plain if name == "plain" else secured, window))
    found = {name: average(some) for name, some in measured.items()}
    return {**found, "throughput_kept": found["secured"]["events_per_s"] / found["plain"]["events_per_s"]}


def add_row(table: Table, found: dict[str, Any]) -> None:
    """Print what is left of the throughput beside its target."""
    table.add_row("throughput kept with TLS, users and access rules", f"{found['throughput_kept']:.2f}", f"≥ {_KEPT}")
