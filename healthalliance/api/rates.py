"""How many requests are let in: token buckets, in one process."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic


@dataclass(slots=True)
class Rates:
    """A bucket for each name, that holds `burst` requests and fills by `per_s` a second.

    At most `names` are remembered; then the longest-known one is forgotten, which only lets its name in again.
    """

    per_s: float
    burst: float
    now: Callable[[], float] = monotonic
    names: int = 10_000
    _buckets: dict[str, tuple[float, float]] = field(default_factory=dict)  # what is left, and when that was

    def retry_after_s(self, name: str) -> int | None:
        """Let a request in (None), or say after how many whole seconds it may come again."""
        now = self.now()
        left, at = self._buckets.get(name, (self.burst, now))
        left = min(self.burst, left + (now - at) * self.per_s)
        admitted = left >= 1.0
        if name not in self._buckets and len(self._buckets) >= self.names:
            del self._buckets[next(iter(self._buckets))]
        self._buckets[name] = (left - admitted, now)
        return None if admitted else math.ceil((1.0 - left) / self.per_s)
