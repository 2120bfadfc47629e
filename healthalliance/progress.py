"""How far the stream is, as its own tables and the topics' ends tell."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Self

import asyncpg

from connectors.kafka import Admin, encounter_topics
from connectors.settings import Settings
from connectors.store import AWAY, unanswered
from schemas.errors import UnavailableError

OUTCOMES = ("scored", "updated", "unchanged", "retracted", "rejected")


@dataclass(frozen=True, slots=True)
class Progress:
    """How an institution's events ended so far, and how many wait."""

    outcomes: Mapping[str, int]
    waiting: int

    @property
    def applied(self) -> int:
        """The number of events that have ended in some way."""
        return sum(self.outcomes.values())


class ProgressReader:
    """Reads the progress again and again through the same connections, which are made anew after a failure."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._runner = asyncio.Runner()
        self._admin: Admin | None = None
        self._connection: asyncpg.Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the connections go."""
        if self._connection is not None:
            with suppress(*AWAY):
                self._runner.run(self._connection.close(timeout=_ANSWER_S))
        self._disconnect()
        self._runner.close()

    def read(self) -> dict[str, Progress]:
        """Read each institution's progress; raise UnavailableError where Kafka or PostgreSQL does not answer."""
        topics = encounter_topics()
        try:
            self._admin = self._admin or Admin(self._settings)
            ids, ends = self._admin.topic_ids(topics), self._admin.end_offsets(topics)
            with _answering():
                rows = self._runner.run(self._rows())
        except BaseException:
            self._disconnect()
            raise
        known = {(str(row["topic_id"]), row["source_partition"]): row for row in rows}
        found = {}
        for topic in topics:
            outcomes, waiting = dict.fromkeys(OUTCOMES, 0), 0
            for (name, partition), end in ends.items():
                if name == topic:
                    row = known.get((ids[topic], partition))
                    waiting += end - (row["next_offset"] if row else 0)
                    for outcome in OUTCOMES:
                        outcomes[outcome] += row[outcome] if row else 0
            found[topic.partition(".")[2]] = Progress(outcomes, waiting)
        return found

    async def _rows(self) -> list[asyncpg.Record]:
        if self._connection is None:
            self._connection = await asyncpg.connect(self._settings.database_url, timeout=_ANSWER_S)
        return list(await self._connection.fetch(_PROGRESS, timeout=_ANSWER_S))

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
        self._admin = self._connection = None


def read_progress(settings: Settings) -> dict[str, Progress]:
    """Read each institution's progress; raise UnavailableError where Kafka or PostgreSQL does not answer."""
    with ProgressReader(settings) as reader:
        return reader.read()


def wait_until_applied(
    settings: Settings, timeout_s: float, on_progress: Callable[[Mapping[str, Progress]], None] = lambda _: None
) -> dict[str, Progress]:
    """Wait until no event waits any more; raise UnavailableError when `timeout_s` pass without any progress."""
    applied, moved_at = -1, time.monotonic()
    with ProgressReader(settings) as reader:
        while True:
            progress = reader.read()
            on_progress(progress)
            if not any(one.waiting for one in progress.values()):
                return progress
            now = sum(one.applied for one in progress.values())
            if now != applied:
                applied, moved_at = now, time.monotonic()
            elif time.monotonic() - moved_at > timeout_s:
                raise UnavailableError(f"No event was applied for {timeout_s:.0f} s; look at the workers' log.")
            time.sleep(0.25)


def fetch(settings: Settings, query: str, *arguments: object) -> list[asyncpg.Record]:
    """Run one query; raise UnavailableError where PostgreSQL does not answer or lacks the tables."""

    async def run() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(settings.database_url, timeout=_ANSWER_S)
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    with _answering():
        return asyncio.run(run())


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except (*AWAY, asyncpg.InvalidAuthorizationSpecificationError) as e:
        raise unanswered(e) from e
    except (asyncpg.UndefinedTableError, asyncpg.InvalidCatalogNameError) as e:
        raise UnavailableError("The database lacks its tables; `healthalliance up` or a worker makes them.") from e


_ANSWER_S = 10.0
_PROGRESS = """
SELECT topic_id, source_partition, next_offset, scored, updated, unchanged, retracted, rejected
FROM stream_progress
"""
