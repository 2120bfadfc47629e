"""One worker process: gather what the app needs, run it, keep it on the newest champion."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import faust
import uvloop

from connectors.kafka import Publisher, encounter_topics, end_offsets, topic_ids
from connectors.logs import log_to_stderr, without_values
from connectors.models.signing import warn_of_unsigned
from connectors.pseudonym_keys import KeyPair, keys_of_settings
from connectors.registry import Registry
from connectors.settings import Settings
from connectors.store import Store, connect
from connectors.tracing import start_tracing
from schemas.errors import ConfigurationError, HealthAllianceError, IntakeStoppedError, NoModelError, UnavailableError
from schemas.institutions import institutions
from schemas.intake.structure import structure_validator
from schemas.topics import TopicFamily, institution_of, topic_name
from streams import metrics
from streams.app import create_app
from streams.decision import Outcome, Sender
from streams.health import serve_health
from streams.models import ModelWatch
from streams.performance import show_performance
from streams.processor import Processor
from streams.standstill import Standstill
from streams.transport import RunConsumer

log = logging.getLogger("healthalliance.worker")

_STANDSTILL_EVERY_S = 10.0
_POLL_SILENCE_S = 15.0  # a consumer that has not asked for records for this long is not consuming
_PARTITIONS_EVERY_S = 3600.0
_TRIM_EVERY_S = 20.0
_M_ARENA_MAX = -8  # mallopt(3)


class Worker:
    """A worker process; `history_only` folds and featurizes without a model, to train the first one."""

    def __init__(self, settings: Settings, *, metrics_port: int, history_only: bool) -> None:
        self._settings, self._metrics_port, self._history_only = settings, metrics_port, history_only
        self._champion = ModelWatch(settings, settings.model_alias)
        challenger = settings.model_challenger_alias
        self._challenger = ModelWatch(settings, challenger, may_be_absent=True) if challenger else None
        self._assigned = False
        self._stopped: set[str] = set()
        # Trouble that is known of ends the process by itself after RETRY_TIMEOUT_S.
        self._standstill = Standstill[tuple[str, int]](2 * settings.retry_timeout_s)
        self._tasks: list[asyncio.Task[None]] = []

    def run(self) -> None:
        """Run until a signal ends it; exits with a HealthAllianceError's code where it cannot go on."""
        log_to_stderr(self._settings)
        start_tracing(self._settings, "worker")
        warn_of_unsigned(self._settings)
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        loop.run_until_complete(self._prepare())
        # What start-up made stays, and a batch makes some 50,000 objects that end with it: looking through all of
        # them again and again costs a tenth of the throughput.
        gc.freeze()
        gc.set_threshold(50_000)
        worker = faust.Worker(
            self._app,
            loop=loop,
            loglevel=self._settings.log_level,
            override_logging=False,
            redirect_stdouts=False,
            quiet=True,
        )
        worker.spinner = None  # it would write to the log
        worker.execute_from_commandline()

    # --- start

    async def _prepare(self) -> None:
        settings, trim = self._settings, _lean_malloc()
        await serve_health(settings.metrics_host, self._metrics_port, self._why_not_ready)
        self._store = await connect(settings.database_url)
        await self._store.ensure_partitions()
        if self._history_only and await self._store.has_scores():
            raise ConfigurationError("There are scores already, which a worker with --history-only would let go stale.")
        self._stopped = await self._store.stopped_intakes()
        for institution in institutions():
            metrics.INTAKE_STOPPED.labels(institution).set(institution in self._stopped)
            for outcome in Outcome:
                metrics.EVENTS.labels(institution, outcome)  # at 0: a rate misses what a counter begins with
        for part in ("postgres", "kafka"):
            metrics.RETRIES.labels(part)
        self._processor = self._new_processor(self._store, await self._senders(self._store))
        await self._look_topic_ids_up()  # records may come before partitions are told of
        if not self._history_only:
            await self._wait_for_champion()
            await self._look_for_challenger()
        topics = [topic for topic in encounter_topics() if institution_of(topic) not in self._stopped]
        self._app = create_app(settings, self._processor, topics, on_assigned=self._on_assigned, fail=fail)
        self._tasks = [
            asyncio.ensure_future(_every(settings.model_poll_s, self._look_around)),
            asyncio.ensure_future(_every(_STANDSTILL_EVERY_S, self._look_at_what_waits)),
            asyncio.ensure_future(_every(_PARTITIONS_EVERY_S, self._store.ensure_partitions)),
            *([asyncio.ensure_future(_every(_TRIM_EVERY_S, partial(asyncio.to_thread, trim)))] if trim else []),
            asyncio.ensure_future(_every(settings.performance_every_s, self._show_performance)),
        ]

    async def _senders(self, store: Store) -> dict[str, Sender]:
        found = await store.keys_in_force(self._settings, institutions())
        if late := [id_ for id_, one in found.items() if one.other and not self._is_current(id_, one)]:
            log.warning("PSEUDONYM_KEY_PREVIOUS is still in force for %s: `healthalliance pseudonym rotate`.", late)
        return {
            topic_name(TopicFamily.ENCOUNTERS, id_): Sender(institutions()[id_], one.keys, one.other)
            for id_, one in found.items()
        }

    def _is_current(self, institution_id: str, found: KeyPair) -> bool:
        return found.keys.id == keys_of_settings(self._settings, institution_id)[0].id

    def _new_processor(self, store: Store, senders: dict[str, Sender]) -> Processor:
        settings = self._settings
        return Processor(
            senders=senders,
            limits=settings.event_limits,
            validate=structure_validator(settings.structure_validator),
            store=store,
            publisher=Publisher(settings),
            schema_ids=Registry(settings.schema_registry_url).register_all(),
            retry_timeout_s=settings.retry_timeout_s,
            rejected_share_limit=settings.rejected_share_limit,
            rejected_share_window=settings.rejected_share_window,
        )

    async def _wait_for_champion(self) -> None:
        while True:
            try:
                await self._champion.first()
            except NoModelError as error:
                log.warning("%s Waiting for one: `healthalliance train` makes it.", error)
                await asyncio.sleep(self._settings.model_poll_s)
            else:
                self._use_champion()
                return

    def _use_champion(self) -> None:
        model = self._processor.model = self._champion.model
        metrics.MODEL.clear()
        metrics.MODEL_REGISTERED.clear()
        if model is not None:
            metrics.MODEL.labels(model.name, model.version).set(1)
            if model.registered_at is not None:
                metrics.MODEL_REGISTERED.labels(model.name, model.version).set(model.registered_at)
            log.info("Scoring with %s version %s.", model.name, model.version)

    async def _look_for_challenger(self) -> None:
        if self._challenger is None or not await self._challenger.look():
            return
        model = self._processor.shadow.model = self._challenger.model
        metrics.CHALLENGER.clear()
        if model is None:
            log.info("There is no challenger any more.")
        else:
            metrics.CHALLENGER.labels(model.name, model.version).set(1)
            log.info("Scoring with the challenger %s version %s beside it.", model.name, model.version)

    # --- while it runs

    async def _on_assigned(self) -> None:
        """Partitions were handed out: forget what was known of them, look the topics' ids up anew."""
        self._processor.forget_progress()
        await self._look_topic_ids_up()
        self._assigned = True

    async def _look_topic_ids_up(self) -> None:
        self._processor.topic_ids = await asyncio.to_thread(topic_ids, self._settings, encounter_topics())

    async def _look_around(self) -> None:
        """Look for a new champion and for intakes that were stopped or resumed."""
        if await self._store.stopped_intakes() != self._stopped:
            raise IntakeStoppedError("An intake was stopped or resumed; starting again with the right topics.")
        if self._history_only:
            return
        if await self._champion.look():
            self._use_champion()
        if not self._champion.is_unreachable:
            await self._look_for_challenger()

    async def _look_at_what_waits(self) -> None:
        """Show how many events wait; end the process where they do and nothing says why it takes none."""
        consumer = self._app.consumer
        if not isinstance(consumer, RunConsumer) or not self._assigned:
            self._standstill.forget()
            return
        done = consumer.done_offsets()
        try:
            ends = await asyncio.to_thread(end_offsets, self._settings, {topic for topic, _ in done})
        except UnavailableError:
            self._standstill.forget()
            return
        _show_waiting(ends, done)
        if self._processor.in_trouble:
            self._standstill.forget()
        elif stuck := self._standstill.look(ends, done, self._app.loop.time()):
            fail(UnavailableError(f"Events wait in {len(stuck)} partitions, but none is taken; starting again."))

    async def _show_performance(self) -> None:
        await show_performance(self._store, self._processor.model)

    def _why_not_ready(self) -> str | None:
        if not hasattr(self, "_processor"):
            return "starting"
        if self._processor.model is None and not self._history_only:
            return "waiting for a champion model"
        if not self._assigned:
            return "waiting for partitions"
        if self._processor.in_trouble:
            return "waiting for PostgreSQL or Kafka"
        consumer = self._app.consumer
        if isinstance(consumer, RunConsumer) and self._app.loop.time() - consumer.last_poll_at > _POLL_SILENCE_S:
            return "not asking for records"
        return None


def _show_waiting(ends: Mapping[tuple[str, int], int], done: Mapping[tuple[str, int], int]) -> None:
    metrics.WAITING_EVENTS.clear()  # partitions go to other workers
    for (topic, partition), at in done.items():
        waiting = max(0, ends.get((topic, partition), at) - at)
        metrics.WAITING_EVENTS.labels(institution_of(topic), partition).set(waiting)


def fail(error: BaseException) -> None:
    """End the process at once and unclean: whatever else ran on could acknowledge what was not applied."""
    if isinstance(error, HealthAllianceError):
        log.critical("%s", error)
        code = error.exit_code
    else:
        log.critical("The batch could not be applied; ending.", exc_info=without_values(error))
        code = UnavailableError.exit_code
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)


async def _every(seconds: float, act: Callable[[], Awaitable[object]]) -> None:
    """Repeat an action; what is not there now may be there next time, but stopped intakes end the process."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await act()
        except IntakeStoppedError as error:
            fail(error)
        except Exception as error:  # the good model goes on while the registry is away
            log.warning(
                "Could not look around: %s", error if isinstance(error, HealthAllianceError) else type(error).__name__
            )


def _lean_malloc() -> Callable[[], object] | None:
    """Have the C library share two arenas among all threads, and return what gives memory back to the system.

    Else the largest backlog ever worked off decides how much a worker holds for good, and errors of an outage, which
    refer to their batches in circles, wait for one of the rare collections. None where the C library is not GNU's.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        return None
    libc.mallopt(_M_ARENA_MAX, 2)

    def trim() -> None:
        gc.collect()
        libc.malloc_trim(0)

    return trim
