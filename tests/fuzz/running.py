"""Run a target on many drawn inputs, within bounded time and memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.targets import Draw

MOST_SECONDS = 10.0  # of one input; they take milliseconds, on a busy machine tens of them
MOST_GROWTH = 300 * 2**20  # bytes that a target's process may hold more at its end


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """How many inputs a target read, the longest time of one, and by how much the process grew, bytes."""

    inputs: int
    longest_s: float
    growth: int


def fuzz(target: Callable[[Draw], None], *, examples: int, seed_: int, seconds: float = 0.0) -> Fuzzed:
    """Run a target on so many inputs, and on as many again until time is up; raise the first failure, shrunk."""
    process = psutil.Process()
    inputs, longest, until = 0, 0.0, time.monotonic() + seconds
    before = process.memory_info().rss

    def read(data: st.DataObject) -> None:
        nonlocal inputs, longest
        started = time.monotonic()
        target(data.draw)
        inputs, longest = inputs + 1, max(longest, time.monotonic() - started)

    while True:
        _test(read, examples, seed_)
        seed_ += 1
        if time.monotonic() >= until:
            break
    growth = process.memory_info().rss - before
    assert longest < MOST_SECONDS, f"an input took {longest:.1f} s"
    assert growth < MOST_GROWTH, f"the process grew by {growth / 2**20:.0f} MiB"
    return Fuzzed(inputs, longest, growth)


def limit_memory(most: int) -> None:
    """Have what asks for more than so many bytes of addresses fail with a MemoryError, which no target may raise."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def _test(read: Callable[[st.DataObject], None], examples: int, seed_: int) -> None:
    bounds = settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink], print_blob=True,
    )  # fmt: skip
    seed(seed_)(bounds(given(st.data())(read)))()
