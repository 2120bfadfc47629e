"""Faults of PostgreSQL: restarted, killed, away, without a free connection, in a deadlock."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable

import asyncpg

from connectors.kafka import encounter_topics
from connectors.ranges import committed_offsets
from healthalliance.local_stack import Part
from healthalliance.progress import fetch
from tests.faults.trial import Trial, has_ended

_AWAY_S = 120.0
_HELD_S = 10.0
_MANY = 200  # more than any server here lets in


def strike_database(trial: Trial) -> None:
    """Do each harm in turn; after each, no acknowledgement may be ahead of what is committed."""
    strikes: list[Callable[[Trial], None]] = [_restart, _kill, _exhaust, _deadlock, _be_away]
    for number in trial.moments():
        strikes[number % len(strikes)](trial)
        trial.measure("recovery_s", trial.recovery_s())
        trial.notes["acked_uncommitted"] = trial.notes.get("acked_uncommitted", 0) + _acked_uncommitted(trial)


def nothing_acked_early(trial: Trial) -> dict[str, int]:
    """Return how many partitions were ever acknowledged beyond what was committed."""
    ahead = trial.notes.get("acked_uncommitted", 0)
    return {"partitions acknowledged before they were committed": ahead} if ahead else {}


def restart_database(trial: Trial, how: signal.Signals, away_s: float = 0.0) -> None:
    """End the server with a signal and start it again."""
    pid = trial.pid_of(Part.POSTGRES)
    os.kill(pid, how)
    trial.wait_until(lambda: has_ended(pid), 30)
    time.sleep(away_s)
    trial.start_parts()


def end_connections(trial: Trial) -> None:
    """End every connection that the workers hold."""
    fetch(trial.settings, _END_CONNECTIONS, [])


def _restart(trial: Trial) -> None:
    restart_database(trial, signal.SIGINT)


def _kill(trial: Trial) -> None:
    restart_database(trial, signal.SIGKILL)


def _be_away(trial: Trial) -> None:
    restart_database(trial, signal.SIGINT, _AWAY_S * trial.scale)


def _exhaust(trial: Trial) -> None:
    """Take every connection there is, after ending those of the workers."""

    async def run() -> None:
        held = [await asyncpg.connect(trial.settings.database_url)]
        try:
            for _ in range(_MANY):
                await held[0].execute(_END_CONNECTIONS, [one.get_server_pid() for one in held])
                try:
                    held.append(await asyncpg.connect(trial.settings.database_url))
                except asyncpg.TooManyConnectionsError:
                    break
            await asyncio.sleep(_HELD_S)
        finally:
            for one in held:
                await one.close()

    asyncio.run(run())


def _deadlock(trial: Trial) -> None:
    """Lock progress rows against the workers' order until PostgreSQL had to end one transaction."""

    async def run() -> int:
        connection = await asyncpg.connect(trial.settings.database_url)
        # The server looks for deadlocks on behalf of whoever has waited so long: let that be the worker.
        await connection.execute("SET deadlock_timeout = '20s'")
        before = await connection.fetchval(_DEADLOCKS)
        end = time.monotonic() + _HELD_S
        try:
            while time.monotonic() < end:
                try:
                    async with connection.transaction():
                        for row in await connection.fetch(_ROWS_BACKWARDS):
                            await connection.execute(_LOCK, *row)
                except asyncpg.DeadlockDetectedError:
                    pass
                if await connection.fetchval(_DEADLOCKS) > before:
                    break
            return int(await connection.fetchval(_DEADLOCKS)) - int(before)
        finally:
            await connection.close()

    trial.figures["deadlocks"] = trial.figures.get("deadlocks", 0) + asyncio.run(run())


def _acked_uncommitted(trial: Trial) -> int:
    """Count partitions whose committed offset is beyond the progress row, which is read later and only grows."""
    settings = trial.settings
    acked = committed_offsets(settings, settings.consumer_group, encounter_topics())
    rows = fetch(trial.settings, "SELECT topic, source_partition, next_offset FROM stream_progress")
    reached = {(row["topic"], row["source_partition"]): row["next_offset"] for row in rows}
    return sum(offset > reached.get(place, 0) for place, offset in acked.items())


_END_CONNECTIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND pid <> ALL($1::int[])
"""
_DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
_ROWS_BACKWARDS = """
SELECT topic_id, source_partition FROM stream_progress ORDER BY topic_id DESC, source_partition DESC
"""
_LOCK = "SELECT FROM stream_progress WHERE topic_id = $1 AND source_partition = $2 FOR UPDATE"
