"""Keep an eye on workers and progress while faults strike."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from connectors.kafka import encounter_topics, end_offsets
from connectors.ranges import committed_offsets
from connectors.settings import Settings
from healthalliance.progress import ProgressReader
from schemas.errors import UnavailableError

_LOOK_EVERY_S = 0.25


class Workers(Protocol):
    """Worker processes that are started again when they end."""

    def watch(self) -> None: ...
    def pids(self) -> list[int]: ...


class Watch(threading.Thread):
    """Starts again what ended, and measures how long nothing moved while something waited."""

    def __init__(self, settings: Settings, workers: Workers) -> None:
        super().__init__(name="watch", daemon=True)
        self._reader, self._workers, self._ended = ProgressReader(settings), workers, threading.Event()
        self._looking = threading.Lock()
        self.applied, self.waiting = 0, 0
        self.moved_at = time.monotonic()
        self.longest_standstill_s = 0.0
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Look around until stopped; called by `start`."""
        try:
            while not self._ended.wait(_LOOK_EVERY_S):
                self._workers.watch()
                self.look()
        except BaseException as error:
            self.failure = error

    def stop(self) -> None:
        """Stop looking, if it ever began."""
        self._ended.set()
        if self.is_alive():
            self.join()
        self._reader.close()

    @property
    def standstill_s(self) -> float:
        """For how long nothing has moved."""
        return time.monotonic() - self.moved_at

    def look(self) -> None:
        """Read the progress; what does not answer has not moved."""
        try:
            with self._looking:  # the attack looks too
                progress = self._reader.read().values()
        except UnavailableError:
            progress = None
        if progress is not None:
            applied, self.waiting = sum(one.applied for one in progress), sum(one.waiting for one in progress)
            if applied != self.applied or not self.waiting:
                self.longest_standstill_s = max(self.longest_standstill_s, self.standstill_s)
                self.applied, self.moved_at = applied, time.monotonic()
        self.longest_standstill_s = max(self.longest_standstill_s, self.standstill_s)


def is_acknowledged(settings: Settings) -> bool:
    """Tell whether the group has committed every partition's end."""
    topics = encounter_topics()
    committed = committed_offsets(settings, settings.consumer_group, topics)
    ends = end_offsets(settings, topics)
    return all(committed.get(place) == end for place, end in ends.items() if end)
