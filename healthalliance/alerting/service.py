"""The alerting consumer: one task reads scores and decides, another gives out what is due."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import TypeVar

import stamina

from connectors.alert_store import AlertStore, AlertWrites
from connectors.store import TRANSIENT
from healthalliance.alerting import metrics
from healthalliance.alerting.budget import Held, Turn, day_begin, rights, turn
from healthalliance.alerting.consumer import ScoreConsumer
from healthalliance.alerting.decision import Left, State, decide_all
from healthalliance.alerting.sinks import Answer, Outcome, Sink
from schemas.alert import Scored, Told, in_words
from schemas.errors import UnavailableError
from schemas.feature_words import Language
from schemas.messages import Band

_T = TypeVar("_T")

log = logging.getLogger("healthalliance.alerts")

_LOOK_EVERY_S = 1.0
_ROUND_S = 5.0  # marks are looked at anew after so long
_LONGEST_PAUSE_S = 300.0
_LONGEST_ASKED_S = 3600.0
_LONGEST_WAIT_S = 15.0
_GRACE_S = 2.0
_LEASE = 6  # times a receiver's time-out: a mail takes several answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a channel alerts. budget: alerts a day, None for any number. page: what alerts link to, empty for nothing."""

    institution: str
    least: Band
    budget: int | None
    language: Language
    page: str
    timeout_s: float


@dataclass(slots=True)
class Tally:
    """What a run has done: scores by what they were, alerts by what became of them."""

    scores: Counter[str] = field(default_factory=Counter)
    alerts: Counter[str] = field(default_factory=Counter)


class AlertService:
    """A channel's process. `retry_timeout_s`: how long an outage is waited out, None for as long as it takes."""

    def __init__(
        self, options: Options, consumer: ScoreConsumer, store: AlertStore, sink: Sink, started_at: datetime,
        retry_timeout_s: float | None,
    ) -> None:  # fmt: skip
        self._options, self._consumer, self._store, self._sink = options, consumer, store, sink
        self._started_at, self._retry_timeout_s = started_at, retry_timeout_s
        self._failures = 0
        self.tally = Tally()

    async def run(self, stopping: asyncio.Event) -> None:
        """Read and send until `stopping` is set; what is being decided or sent then is finished."""
        tasks = [asyncio.create_task(self._keep_reading(stopping)), asyncio.create_task(self._keep_sending(stopping))]
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
        stopping.set()
        await asyncio.wait(tasks, timeout=self._options.timeout_s + _GRACE_S)
        for task in tasks:
            task.cancel()  # it waits for something that is away
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def run_once(self) -> None:
        """Read what is on the topic now, send what is due now; stop at the first alert that cannot be sent."""
        waited_since = monotonic()
        while not await asyncio.to_thread(self._consumer.has_read_all):
            if await self._read():
                waited_since = monotonic()
            elif self._retry_timeout_s is not None and monotonic() - waited_since > self._retry_timeout_s:
                raise UnavailableError("Kafka at KAFKA_BOOTSTRAP_SERVERS does not answer, or others read all of it.")
        while await self._send_round() and not self._failures:
            pass

    # --- reading

    async def _keep_reading(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            await self._read()
            metrics.ALERTS_LAG.labels(self._options.institution).set(await asyncio.to_thread(self._consumer.lag))

    async def _read(self) -> int:
        """Take one poll in; return how many partitions brought something."""
        read = await self._tried("registry", lambda: asyncio.to_thread(self._consumer.poll))
        if read.scores:
            await self._tried("postgres", lambda: self.take(read.scores))
        self._count_scores("unreadable", read.unreadable)
        await asyncio.to_thread(self._consumer.commit, read.positions)
        return len(read.positions)

    async def take(self, scores: Sequence[Scored]) -> None:
        """Decide on scores, in one transaction with what is remembered of them."""
        async with self._store.deciding() as deciding:
            stored = await deciding.stored({one.record_id for one in scores})
            news = [one for one in scores if one.record_id in stored]
            held = await deciding.states({one.encounter_pseudonym for one in news})
            states = {encounter: State(*state) for encounter, state in held.items()}
            decided = decide_all(states, news, self._options.least, self._started_at)
            await deciding.write(AlertWrites(datetime.now(UTC), decided.standings, decided.opened, decided.left))
        self._count_scores("erased", len(scores) - len(news))
        self._count_scores("repeat", decided.repeats)
        self._count_scores("news", len(news) - decided.repeats)
        self._count_alerts("opened", len(decided.opened))
        for why in decided.left.values():
            self._count_alerts(why)

    # --- sending

    async def _keep_sending(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            await self._send_round(stopping)
            pause = retry_after(self._failures, 0).total_seconds() if self._failures else _LOOK_EVERY_S
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), pause)

    async def _send_round(self, stopping: asyncio.Event | None = None) -> int:
        """Send what is due, the highest first, until something fails or time is up; return how many were tried."""
        give = (await self._tried("postgres", self._look)).give
        begin, tried = monotonic(), 0
        for one in give:
            if monotonic() - begin > _ROUND_S or (stopping and stopping.is_set()):
                break
            told = await self._tried("postgres", lambda alert=one.alert_id: self._claim(alert))  # type: ignore[misc]
            if told is None:
                continue
            tried += 1
            await self._send(told)
            if self._failures:
                break
        return tried

    async def _look(self) -> Turn:
        now, budget = datetime.now(UTC), self._options.budget
        free = None
        if budget is not None:
            free = max(rights(budget, now) - await self._store.given_since(day_begin(now)), 0)
        chosen = turn(await self._store.waiting(), now, free)
        if chosen.expired:
            await self._store.expire([one.alert_id for one in chosen.expired], Left.EXPIRED)
            self._count_alerts(Left.EXPIRED, len(chosen.expired))
        for why in Held:
            metrics.ALERTS_HELD.labels(self._options.institution, why).set(chosen.held[why])
        return chosen

    async def _claim(self, alert: str) -> Told | None:
        now, budget = datetime.now(UTC), self._options.budget
        until = now + timedelta(seconds=_LEASE * self._options.timeout_s)
        allowed = None if budget is None else rights(budget, now)
        return await self._store.claim(alert, now, until, day=day_begin(now), rights=allowed)

    async def _send(self, told: Told) -> None:
        alert = in_words(told, self._options.language, self._options.page)
        answer = await self._sink.send(alert)
        await self._tried("postgres", lambda: self._note(told, answer))
        self._count_alerts(answer.outcome)
        if answer.outcome is Outcome.FAILED:
            self._failures += 1
            log.warning("Alert %s could not be sent: %s.", told.alert_id, answer.reason)
            return
        self._failures = 0
        if answer.outcome is Outcome.REFUSED:
            log.error("Alert %s was refused: %s.", told.alert_id, answer.reason)
            return
        delay = datetime.now(UTC) - told.decided_at
        metrics.ALERTS_DELAY_SECONDS.labels(self._options.institution).observe(delay.total_seconds())

    async def _note(self, told: Told, answer: Answer) -> None:
        now = datetime.now(UTC)
        if answer.outcome is Outcome.SENT:
            await self._store.delivered(told, now)
        elif answer.outcome is Outcome.REFUSED:
            await self._store.refused(told, answer.reason)
        else:
            await self._store.failed(told, answer.reason, now + retry_after(told.attempts, answer.after_s))

    # --- both

    async def _tried(self, part: str, act: Callable[[], Awaitable[_T]]) -> _T:
        """Do something again until what it needs answers, with growing pauses."""
        async for attempt in self._attempts():
            with attempt:
                if attempt.num > 1:
                    metrics.ALERTS_RETRIES.labels(part).inc()
                    log.warning("Trying again, attempt %d: %s does not answer.", attempt.num, part)
                try:
                    return await act()
                except TRANSIENT as error:
                    raise UnavailableError(f"{part} does not answer ({type(error).__name__}).") from error
        raise AssertionError("stamina ends with a result or an error")

    def _attempts(self) -> AsyncIterator[stamina.Attempt]:
        return stamina.retry_context(
            on=UnavailableError, attempts=None, timeout=self._retry_timeout_s, wait_max=_LONGEST_WAIT_S
        )

    def _count_scores(self, outcome: str, number: int) -> None:
        if number:
            self.tally.scores[outcome] += number
            metrics.ALERTS_SCORES.labels(self._options.institution, outcome).inc(number)

    def _count_alerts(self, outcome: str, number: int = 1) -> None:
        if number:
            self.tally.alerts[str(outcome)] += number
            metrics.ALERTS.labels(self._options.institution, outcome).inc(number)


def retry_after(attempts: int, asked_s: float) -> timedelta:
    """Say how long to wait after so many attempts: twice as long each time, and no less than the receiver asked for.

    >>> [retry_after(attempts, 0).seconds for attempts in (1, 2, 3, 20)], retry_after(1, 30).seconds
    ([2, 4, 8, 300], 30)
    """
    return timedelta(seconds=max(min(2.0 ** min(attempts, 20), _LONGEST_PAUSE_S), min(asked_s, _LONGEST_ASKED_S)))
