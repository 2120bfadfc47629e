"""Faust's Kafka transport, with a consumer that hands a partition's records over as one run.

Faust's own consumer passes each record through the event loop several times, at some 200 µs each; that is more
than everything done with it afterwards. Here a fetch becomes one Faust message per partition, whose value is
the list of its records. Acknowledging that message acknowledges the run, whole or not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, TypeVar, cast

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord
from faust.transport.drivers.aiokafka import Consumer, Transport
from faust.types import TP, EventT
from faust.types.tuples import ConsumerMessage, Message
from mode.types import ServiceT

_T = TypeVar("_T")

# A poll is one batch at the most; while it is worked on, the next ones wait here.
_POLLS_AHEAD = 4
_LOOK_EVERY_S = 2.0
_ANSWER_S = 3.0
# Not assigned any more, or Kafka is away: what is not handed over now is fetched again (`RunConsumer._put_back`).
_LATER = (KafkaError, TimeoutError)


class Run(ConsumerMessage):
    """A message that stands for consecutive records of one partition.

    `first_offset` is the one after the last record handed over before, so that offsets that hold no record
    (compacted or transactional ones) are acknowledged with the run that follows them. `position` is the same, or 0
    where nothing before the run exists any more: whoever applies it must have applied all below.
    """

    first_offset: int
    position: int


def records_of(message: Message) -> list[ConsumerRecord[bytes, bytes]]:
    """Return a run's records."""
    return cast("list[ConsumerRecord[bytes, bytes]]", message.value)


def positions_of(runs: Iterable[EventT[Any]]) -> dict[tuple[str, int], int]:
    """Return each partition's position before the runs, by topic and number."""
    positions: dict[tuple[str, int], int] = {}
    for event in runs:
        run = cast(Run, event.message)
        positions.setdefault((run.topic, run.partition), run.position)
    return positions


def batches_of(runs: Iterable[EventT[Any]], most: int) -> Iterator[list[EventT[Any]]]:
    """Group runs into batches of at most `most` records; a longer run is a batch of its own."""
    batch: list[EventT[Any]] = []
    size = 0
    for run in runs:
        records = len(records_of(run.message))
        if batch and size + records > most:
            yield batch
            batch, size = [], 0
        batch.append(run)
        size += records
    if batch:
        yield batch


class RunConsumer(Consumer):
    """Fetch whole runs, never more ahead than the streams work off."""

    last_poll_at: float = 0.0

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._looked_at = 0.0
        self._beginnings: dict[TP, int] = {}  # of partitions nothing was ever committed of
        self._taken: dict[TP, int] = {}  # what was committed while the partition was held
        self._gaps: dict[TP, tuple[int, int]] = {}  # where the last one begins and ends that was looked at twice

    async def _drain_messages(self, fetcher: ServiceT) -> None:
        """Fetch until stopped; called by Faust's fetcher service."""
        limit = _POLLS_AHEAD * self.app.conf.broker_max_poll_records
        while not (self.should_stop or fetcher.should_stop):
            self.last_poll_at = self.app.loop.time()
            if self._records_ahead() >= limit:
                await self._wait_for_ack(timeout=0.5)
                continue
            records, active = await self._wait_next_records(timeout=1.0)
            for tp, run in (records or {}).items():
                if active is None or tp in active:
                    with suppress(*_LATER):
                        await self._hand_over(tp, run)
            if self.app.loop.time() - self._looked_at > _LOOK_EVERY_S:
                self._looked_at = self.app.loop.time()
                await self._put_back(active or set())

    def _records_ahead(self) -> int:
        return sum(len(records_of(message)) for message in list(self._unacked_messages))

    async def _hand_over(self, tp: TP, records: list[ConsumerRecord[bytes, bytes]]) -> None:
        read = await self._next_offset(tp)
        fresh = [record for record in records if record.offset >= read]
        # A rebalance suspends the flow: what is not handed over then is fetched again (`_put_back`).
        if not fresh or not self.flow_active or await self._looks_again(tp, read, fresh[0].offset):
            return
        position = read if self._read_offset[tp] is not None else 0
        handing_over = self.callback(self._to_run(tp, fresh, read, position))
        ended = await self.wait_first(handing_over, self.suspend_flow.wait())
        if handing_over in ended.done:
            self._read_offset[tp] = fresh[-1].offset + 1

    async def _next_offset(self, tp: TP) -> int:
        """Return what is to be handed over next; where nothing was ever committed, the first there was."""
        await self._ask_for_beginnings([tp])
        read = self._read_offset[tp]  # now: the answer may have come behind a rebalance that put it elsewhere
        return self._beginnings[tp] if read is None else read

    async def _ask_for_beginnings(self, tps: Iterable[TP]) -> None:
        """Ask once, and for all at once: each answer comes behind a fetch that waits, 1.5 s while topics are empty."""
        unknown = [tp for tp in tps if self._read_offset[tp] is None and tp not in self._beginnings]
        if unknown:
            self._beginnings |= await self.earliest_offsets(*unknown)

    async def _looks_again(self, tp: TP, read: int, found: int) -> bool:
        """Go back if offsets were passed over and this is the first look at them.

        They may hold no record; or what was fetched was dropped, or fetched before a rebalance put the position back.
        """
        if found <= read or self._gaps.get(tp) == (read, found):
            return False
        await self.seek(tp, read)
        self._gaps[tp] = read, found
        return True

    async def _put_back(self, tps: Iterable[TP]) -> None:
        """Go back where records were fetched but not handed over; else only the partition's next record tells it."""
        with suppress(*_LATER):
            await self._ask_for_beginnings(tps)
        for tp in list(tps):
            with suppress(*_LATER):
                read = await self._next_offset(tp)
                position = await self.position(tp)
                if self.flow_active and position is not None and read == await self._next_offset(tp):
                    await self._looks_again(tp, read, position)

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        """Return the first offset that each partition still holds."""
        return await self._ask(lambda consumer: consumer.beginning_offsets(partitions))

    async def position(self, tp: TP) -> int | None:
        """Return the offset that is fetched next."""
        return await self._ask(lambda consumer: consumer.position(tp))

    async def _seek(self, partition: TP, offset: int) -> None:
        async def seek(consumer: AIOKafkaConsumer) -> None:
            consumer.seek(partition, offset)

        await self._ask(seek)

    async def _ask(self, question: Callable[[AIOKafkaConsumer], Awaitable[_T]]) -> _T:
        """Ask aiokafka's consumer in its own thread; raise TimeoutError after `_ANSWER_S`.

        From any other thread a seek takes records from under a fetch, which can end all fetching. And since no more
        than two calls are carried out there at a time, two that wait for ever end it too: the call itself must end,
        not only the wait for it.
        """
        thread = self._thread

        async def in_its_thread() -> _T:
            return await asyncio.wait_for(question(thread._ensure_consumer()), _ANSWER_S)

        return cast(_T, await thread.call_thread(in_its_thread))

    def _to_run(self, tp: TP, records: list[ConsumerRecord[bytes, bytes]], first_offset: int, position: int) -> Run:
        last = records[-1]
        run = Run(
            tp.topic,
            tp.partition,
            last.offset,
            last.timestamp / 1000.0,
            last.timestamp_type,
            [],
            None,
            cast(bytes, records),
            None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )
        run.first_offset, run.position = first_offset, position
        return run

    def done_offsets(self) -> dict[tuple[str, int], int]:
        """Return the offset below which each assigned partition is worked off, as far as that is known."""
        done = {tp: self._committed_offset[tp] for tp in self.assignment()}
        known = {tp: self._beginnings.get(tp) if at is None else at for tp, at in done.items()}
        return {(tp.topic, tp.partition): at for tp, at in known.items() if at is not None}

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finish and commit before partitions are given up: Faust forgets first what was not committed by then."""
        self.stop_flow()
        await self.wait_empty()
        self._beginnings.clear()
        for tp in revoked:
            self._taken.pop(tp, None)
        await super().on_partitions_revoked(revoked)

    async def wait_empty(self) -> None:
        """Wait until all that was handed over is acknowledged, and commit it."""
        await super().wait_empty()
        # A commit is left out while another is under way, which may have begun before the last acknowledgement.
        await self.maybe_wait_for_commit_to_finish()
        await self.commit()

    async def commit_runs(self, runs: Sequence[EventT[Any]]) -> bool:
        """Acknowledge runs and commit them; tell whether the broker took it, so whether they still were this worker's.

        The broker takes a commit only from a member of the group, as it is now, that holds the partition.
        """
        messages = [run.message for run in runs]
        for run in runs:
            run.ack()
        await self.maybe_wait_for_commit_to_finish()  # which may have begun before
        await self.commit()
        return all(self._taken.get(message.tp, 0) > message.offset for message in messages)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        took = bool(await super()._commit(offsets))
        if took:
            assigned = self.assignment()  # what is not is left out silently
            self._taken.update({tp: offset for tp, offset in offsets.items() if tp in assigned})
        return took

    def ack(self, message: Message) -> bool:
        """Acknowledge a run: all its offsets, so that Faust's search for the first gap finds none in it."""
        acked = bool(super().ack(message))
        if acked and isinstance(message, Run):
            rest = range(message.first_offset, message.offset)
            self._acked[message.tp].extend(rest)
            self._acked_index[message.tp].update(rest)
        return acked


class RunTransport(Transport):
    """Faust's aiokafka transport with `RunConsumer`."""

    Consumer: ClassVar[type[RunConsumer]] = RunConsumer
