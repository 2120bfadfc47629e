"""The stream processor: the whole way of a batch, on one page."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import faust
from faust import Stream
from faust.types import TP, EventT, StreamT
from faust.types.auth import CredentialsT
from opentelemetry.trace import Span

from connectors.kafka_access import sasl_user, tls_context, uses_sasl, uses_tls
from connectors.settings import Settings
from schemas.errors import FencedError
from streams.batch_trace import about_batch
from streams.decision import Event
from streams.processor import Positions, Processor, Results
from streams.transport import RunConsumer, RunTransport, batches_of, positions_of, records_of

_T = TypeVar("_T")


class ScoringApp(faust.App):
    """A Faust app whose consumer hands over runs of records."""

    def _new_transport(self) -> RunTransport:
        return RunTransport(self.conf.broker_consumer, self)


def create_app(
    settings: Settings,
    processor: Processor,
    topics: Sequence[str],
    *,
    on_assigned: Callable[[], Awaitable[None]],
    fail: Callable[[BaseException], None],
) -> faust.App:
    """Declare the app; nothing runs until a worker starts it.

    `on_assigned` is awaited when partitions were handed out, `fail` ends the process: an exception that left the
    agent would acknowledge the batch it died on.
    """
    app = ScoringApp(
        settings.consumer_group,
        broker=[f"kafka://{server}" for server in settings.kafka_bootstrap_servers.split(",")],
        broker_credentials=credentials(settings),
        datadir=str(settings.data_dir / "faust"),
        store="memory://",
        processing_guarantee="at_least_once",
        consumer_auto_offset_reset="earliest",
        broker_max_poll_records=settings.batch_max_events,
        # A worker that died gives its partitions up after this long; Faust's 60 s would be an hour's queue by day.
        broker_session_timeout=_SESSION_S,
        broker_commit_every=1,
        broker_commit_interval=0.5,
        stream_buffer_maxsize=65536,
        stream_wait_empty=True,  # a stop or a rebalance waits until what is on its way is published and acknowledged
        cython_optimizations=True,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )
    encounters = app.topic(*topics, key_serializer="raw", value_serializer="raw")

    @app.on_partitions_assigned.connect
    async def assigned(*_: Any, assigned: set[TP] | None = None, **__: Any) -> None:
        await on_assigned()

    @app.agent(encounters, concurrency=1)
    async def score_encounters(stream: StreamT[Any]) -> None:
        ahead = asyncio.Semaphore(_BATCHES_AHEAD)
        applied, published = completed(Results()), completed(None)
        async for taken in cast(Stream[Any], stream).noack_take(_ALL_THERE_ARE, within=settings.batch_max_wait_s):
            for runs in batches_of(taken, settings.batch_max_events):
                await ahead.acquire()
                records = [record for run in runs for record in records_of(run.message)]
                with about_batch(records) as span:
                    events = asyncio.create_task(failing(processor.read(records)))  # parse, validate
                    applied = asyncio.create_task(failing(apply(events, positions_of(runs), applied, published)))
                    published = asyncio.create_task(failing(publish(events, applied, published, runs)))
                published.add_done_callback(partial(done, ahead, span))

    def done(ahead: asyncio.Semaphore, span: Span, _: object) -> None:
        span.end()
        ahead.release()

    async def apply(
        events: Awaitable[list[Event]],
        positions: Positions,
        before: Awaitable[Results],
        published_before: Awaitable[None],
    ) -> Results:
        read = await events
        await before
        try:
            return await processor.apply(read, positions)  # decide, score, commit
        except FencedError:
            await published_before  # late results are followed by the newest before this process ends
            raise

    async def publish(
        events: Awaitable[list[Event]],
        applied: Awaitable[Results],
        before: Awaitable[None],
        runs: Sequence[EventT[Any]],
    ) -> None:
        results = await applied
        await before
        await processor.publish(results)  # after the commit, every delivery confirmed
        if results.are_repeated:
            await processor.publish_newest(await events, results)
        # At once, not at the next interval: what is published but not committed is published again after a crash.
        if not await cast(RunConsumer, app.consumer).commit_runs(runs):
            # The partitions are others' now, who may have published newer results before these.
            await processor.publish_newest(await events, results)
        await processor.stop_bad_intakes(results)

    async def failing(step: Awaitable[_T]) -> _T:
        try:
            return await step
        except asyncio.CancelledError:
            raise  # stopped: what is not acknowledged comes again
        except BaseException as error:
            fail(error)
            raise

    return app


def credentials(settings: Settings) -> CredentialsT | None:
    """Say how Faust's clients come to Kafka, None for in plain text; raise ConfigurationError."""
    context = tls_context(settings) if uses_tls(settings) else None
    if not uses_sasl(settings):
        return faust.SSLCredentials(context) if context else None
    username, password = sasl_user(settings)
    return faust.SASLCredentials(
        username=username, password=password, ssl_context=context, mechanism=settings.kafka_sasl_mechanism
    )


def completed(value: _T) -> Awaitable[_T]:
    """Return what is there already, to be awaited."""
    future = asyncio.get_running_loop().create_future()
    future.set_result(value)
    return future


# The transport bounds what is there by batch_max_events a poll; a take of every run there is makes one batch.
_ALL_THERE_ARE = 64
# One is read, one applied, one published; more would wait for no gain.
_BATCHES_AHEAD = 3
_SESSION_S = 10.0
