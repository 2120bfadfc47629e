"""Notice that a worker has come to a standstill: events wait, nothing is in trouble, and yet none is taken.

Whatever the reason, a process that ends is started again and goes on; one that only looks alive keeps a hospital's
events waiting for ever.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

P = TypeVar("P", bound=Hashable)


class Standstill(Generic[P]):
    """Watches partitions; `limit_s` is how long one may stand still while events wait in it."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since: dict[P, tuple[int, float]] = {}  # where a partition stands, and since when events wait there

    def look(self, ends: Mapping[P, int], done: Mapping[P, int], now: float) -> list[P]:
        """Return the partitions that stand still for too long; `done` is below what each is worked off, `now` in s.

        >>> watch = Standstill[str](60.0)
        >>> watch.look({"p": 9}, {"p": 7}, 0.0), watch.look({"p": 9}, {"p": 7}, 61.0)
        ([], ['p'])
        """
        waiting = {one: at for one, at in done.items() if ends.get(one, 0) > at}
        before = self._since
        self._since = {
            one: before[one] if before.get(one, (-1, now))[0] == at else (at, now) for one, at in waiting.items()
        }
        return [one for one, (_, since) in self._since.items() if now - since > self._limit_s]

    def forget(self) -> None:
        """Begin anew: whatever stood still did so for a known reason."""
        self._since = {}
