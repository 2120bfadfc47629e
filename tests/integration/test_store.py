"""The store on a real server: the rows that a worker has locked are free again though it never comes back."""

from __future__ import annotations

import asyncio
import time
import uuid
from datetime import UTC, datetime

import pytest

from connectors.settings import Settings
from connectors.store import TRANSIENT, Partition, Store, connect
from healthalliance.progress import fetch

pytestmark = pytest.mark.stack

_NOW = datetime(2025, 1, 1, tzinfo=UTC)


async def test_a_worker_that_stays_away_holds_no_rows_for_ever_and_may_try_again(stack: Settings) -> None:
    partition = Partition(str(uuid.uuid4()), "a topic of this test's own", "dkfz", 0)
    away, other = await connect(stack.database_url), await connect(stack.database_url)
    try:
        async with away.batch() as batch:
            await batch.lock_progress({partition: 7}, _NOW)
        with pytest.raises(TRANSIENT):
            await stay_away(away, other, partition)
        async with away.batch() as batch:
            assert await batch.lock_progress({partition: 7}, _NOW) == {partition: 7}
    finally:
        await away.close()
        await other.close()
        await asyncio.to_thread(fetch, stack, "DELETE FROM stream_progress WHERE topic = $1", partition.topic)


async def stay_away(away: Store, other: Store, partition: Partition) -> None:
    """Lock a row, come back once another worker has got it, and go on."""
    async with away.batch() as batch:
        await batch._connection.execute("SET LOCAL idle_in_transaction_session_timeout = '300ms'")
        await batch.lock_progress({partition: 7}, _NOW)
        started = time.monotonic()
        async with other.batch() as one:
            assert await one.lock_progress({partition: 7}, _NOW) == {partition: 7}
        assert time.monotonic() - started > 0.2, "the row was not locked"
        await batch.lock_progress({partition: 7}, _NOW)


async def test_every_session_has_a_limit(stack: Settings) -> None:
    store = await connect(stack.database_url)
    try:
        async with store.batch() as batch:
            assert await batch._connection.fetchval("SHOW idle_in_transaction_session_timeout") == "20s"
    finally:
        await store.close()
