"""How far the stream is, as its own tables and the topics' ends tell."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import asyncpg

from connectors.kafka import encounter_topics, end_offsets, topic_ids
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


def read_progress(settings: Settings) -> dict[str, Progress]:
    """Read each institution's progress; raise UnavailableError where Kafka or PostgreSQL does not answer."""
    topics = encounter_topics()
    ids = topic_ids(settings, topics)
    ends = end_offsets(settings, topics)
    rows = fetch(settings, _PROGRESS)
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


def wait_until_applied(
    settings: Settings, timeout_s: float, on_progress: Callable[[Mapping[str, Progress]], None] = lambda _: None
) -> dict[str, Progress]:
    """Wait until no event waits any more; raise UnavailableError when `timeout_s` pass without any progress."""
    applied, moved_at = -1, time.monotonic()
    while True:
        progress = read_progress(settings)
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
        connection = await asyncpg.connect(settings.database_url, timeout=10)
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    try:
        return asyncio.run(run())
    except (*AWAY, asyncpg.InvalidAuthorizationSpecificationError) as e:
        raise unanswered(e) from e
    except (asyncpg.UndefinedTableError, asyncpg.InvalidCatalogNameError) as e:
        raise UnavailableError("The database lacks its tables; `healthalliance up` or a worker makes them.") from e


_PROGRESS = """
SELECT topic_id, source_partition, next_offset, scored, updated, unchanged, retracted, rejected
FROM stream_progress
"""
