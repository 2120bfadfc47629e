"""Workers that die by their own hand before or after a step of a batch, as a power cut would have it."""

from __future__ import annotations

import functools
import inspect
import itertools
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from connectors.kafka import Publisher
from connectors.settings import Settings
from connectors.store import Batch, Store
from streams.processor import Processor
from streams.transport import RunConsumer
from streams.worker import Worker
from tests.faults.trial import Trial
from tests.integration.crashing import remove_dead_members

_DEATH_S = 180.0
_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(["tests.faults.dying"])

_Die = Callable[[str], None]


def _wrap(owner: Any, name: str, die: _Die) -> None:
    right = getattr(owner, name)

    @functools.wraps(right)
    async def awaited(*given: Any, **named: Any) -> Any:
        die("before")
        result = await right(*given, **named)
        die("after")
        return result

    @functools.wraps(right)
    def called(*given: Any, **named: Any) -> Any:
        die("before")
        result = right(*given, **named)
        die("after")
        return result

    setattr(owner, name, awaited if inspect.iscoroutinefunction(right) else called)


def _wrap_commit(die: _Die) -> None:
    right = Store.batch

    @asynccontextmanager
    async def batch(self: Store) -> AsyncIterator[Batch]:
        async with right(self) as one:
            yield one
            die("before")
        die("after")

    Store.batch = batch  # type: ignore[method-assign]


_STEPS: Mapping[str, Callable[[_Die], None]] = {
    "parse": functools.partial(_wrap, Processor, "read"),
    "lock": functools.partial(_wrap, Batch, "lock_progress"),
    "write": functools.partial(_wrap, Batch, "write"),
    "commit": _wrap_commit,
    "publish": functools.partial(_wrap, Publisher, "send"),
    "delivery": functools.partial(_wrap, Publisher, "flush"),
    "ack": functools.partial(_wrap, RunConsumer, "ack"),
}
MOMENTS = tuple(itertools.product(_STEPS, ("before", "after")))


@dataclass(frozen=True, slots=True)
class Death:
    """Which call of a step a worker does not survive."""

    step: str
    side: str
    call: int


def start(settings: Settings, death: Death | None, log: Path) -> BaseProcess:
    """Fork a worker that dies so, or lives."""
    process = _FORKING.Process(target=_run, args=(settings, death, log), daemon=True)
    process.start()
    return process


def _run(settings: Settings, death: Death | None, log: Path) -> None:
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if death is not None:
        _arrange(death)
    Worker(settings, metrics_port=settings.metrics_port, history_only=False).run()


def _arrange(death: Death) -> None:
    calls = {"before": itertools.count(1), "after": itertools.count(1)}

    def die(side: str) -> None:
        if next(calls[side]) == death.call and side == death.side:
            os.kill(os.getpid(), signal.SIGKILL)

    _STEPS[death.step](die)


def at_every_step(trial: Trial) -> None:
    """Let one worker after the other die before or after each step of a batch."""
    deaths = [Death(step, side, 0) for step, side in MOMENTS for _ in range(trial.strikes // len(MOMENTS) or 1)]
    trial.strikes = len(deaths)
    log = trial.settings.data_dir / "logs" / "dying-worker.log"
    log.parent.mkdir(exist_ok=True)
    for death in deaths:
        # A message or a run each, or a batch each: late enough to be in the midst, early enough to come.
        call = trial.rng.randint(2, 20 if death.step in ("publish", "ack") else 5)
        worker = start(trial.settings, replace(death, call=call), log)
        worker.join(_DEATH_S)
        if worker.exitcode != -signal.SIGKILL:
            worker.kill()
            raise AssertionError(f"the worker that was to die {death.side} {death.step} did not (see {log})")
        trial.watch.look()
        trial.landed += trial.in_flight
        remove_dead_members(trial.settings)
