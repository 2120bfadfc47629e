"""Runs of records: handed over whole, acknowledged whole, and never more ahead than the streams work off."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import faust
import pytest
from faust.types import TP
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.topics import TopicFamily, topic_name
from streams.transport import Run, RunConsumer, RunTransport, batches_of, records_of

TOPIC = topic_name(TopicFamily.ENCOUNTERS, "dkfz")
PARTITION = TP(TOPIC, 0)


@dataclass(frozen=True)
class Record:
    """What aiokafka hands over, as far as it is looked at."""

    offset: int
    timestamp: int = 1_700_000_000_000
    timestamp_type: int = 1


class Consumer(RunConsumer):
    """A consumer whose polls are given, and that keeps what it hands over."""

    def __init__(self, *polls: Sequence[int], most: int = 500) -> None:
        self.polls, self.runs, self.waits = list(polls), list[Run](), 0
        self.sought: list[int] = []
        self.beginning = self.fetches_from = self.asked_for_beginning = 0
        app = faust.App(
            "test",
            broker="kafka://nowhere",
            store="memory://",
            broker_max_poll_records=most,
            loop=asyncio.get_running_loop(),
        )
        cast(Any, app.topics)._acking_topics.add(TOPIC)
        super().__init__(RunTransport(["kafka://nowhere"], app), self._keep, _nothing, _nothing)
        self._thread.thread_loop.close()  # of the thread that would fetch; it is never started
        self.polled: Sequence[int] = ()

    async def _keep(self, run: Any) -> None:
        self.track_message(run)
        self.runs.append(run)

    async def _wait_next_records(self, timeout: float) -> tuple[Any, Any]:
        if not self.polls:
            self._stopped.set()
            return {}, {PARTITION}
        self.polled = self.polls.pop(0)
        self.fetches_from = self.polled[-1] + 1
        return {PARTITION: records(*self.polled)}, {PARTITION}

    async def _seek(self, partition: TP, offset: int) -> None:
        self.sought.append(offset)
        self.fetches_from = offset
        self.polls.insert(0, self.log_from(offset))

    def log_from(self, offset: int) -> Sequence[int]:
        """Return what a fetch from there on gives; here what was fetched just now."""
        return self.polled

    async def earliest_offsets(self, *partitions: TP) -> Any:
        self.asked_for_beginning += 1
        return dict.fromkeys(partitions, self.beginning)

    async def position(self, tp: TP) -> int:
        return self.fetches_from

    async def _wait_for_ack(self, timeout: float) -> None:
        self.waits += 1
        self.ack(next(run for run in self.runs if not run.acked))

    async def hand_over_all(self) -> list[Run]:
        await self._drain_messages(cast(Any, self))  # as its own fetcher: both stop when the polls are over
        return self.runs

    def committable(self) -> int | None:
        """Return the offset that would be committed now."""
        offset: int | None = self._new_offset(PARTITION)
        if offset is not None:
            self._committed_offset[PARTITION] = offset
        return offset


async def _nothing(*_: Any) -> None:
    pass


def records(*offsets: int) -> Any:
    return [Record(offset) for offset in offsets]


def offsets_of(run: Run) -> list[int]:
    return [record.offset for record in records_of(run)]


async def test_a_poll_becomes_one_message_that_stands_for_all_its_records() -> None:
    consumer = Consumer([0, 1, 2], [3, 4])
    runs = await consumer.hand_over_all()
    assert [offsets_of(run) for run in runs] == [[0, 1, 2], [3, 4]]
    assert [(run.topic, run.partition, run.offset) for run in runs] == [(TOPIC, 0, 2), (TOPIC, 0, 4)]


async def test_nothing_is_committed_before_a_run_is_acknowledged_and_then_all_of_it() -> None:
    consumer = Consumer([0, 1, 2], [3, 4])
    first, second = await consumer.hand_over_all()
    assert consumer.committable() is None
    assert consumer.ack(first)
    assert consumer.committable() == 3
    assert consumer.committable() is None
    assert consumer.ack(second)
    assert consumer.committable() == 5


async def test_acknowledging_twice_counts_once() -> None:
    consumer = Consumer([0, 1])
    [run] = await consumer.hand_over_all()
    assert (consumer.ack(run), consumer.ack(run)) == (True, False)
    assert consumer.committable() == 2


async def test_offsets_without_a_record_are_acknowledged_with_the_run_after_them() -> None:
    consumer = Consumer([0, 1], [5, 9], [12])
    for run, end in zip(await consumer.hand_over_all(), (2, 10, 13), strict=True):
        consumer.ack(run)
        assert consumer.committable() == end


async def test_after_a_restart_a_gap_behind_the_committed_offset_holds_nothing_up() -> None:
    consumer = Consumer([7, 8], [9])
    consumer._committed_offset[PARTITION] = consumer._read_offset[PARTITION] = 5
    for run, end in zip(await consumer.hand_over_all(), (9, 10), strict=True):
        consumer.ack(run)
        assert consumer.committable() == end


async def test_a_topic_whose_beginning_is_gone_starts_where_its_records_start() -> None:
    consumer = Consumer([100, 101])
    [run] = await consumer.hand_over_all()
    consumer.ack(run)
    assert consumer.committable() == 102


async def test_what_was_handed_over_before_is_not_handed_over_again() -> None:
    consumer = Consumer([0, 1, 2], [1, 2, 3], [2, 3])
    assert [offsets_of(run) for run in await consumer.hand_over_all()] == [[0, 1, 2], [3]]


async def test_a_gap_is_looked_at_twice_before_it_counts_as_empty() -> None:
    consumer = Consumer([0, 1], [5, 9])
    runs = await consumer.hand_over_all()
    assert [offsets_of(run) for run in runs] == [[0, 1], [5, 9]]
    assert consumer.sought == [2]


class Rebalanced(Consumer):
    """A consumer whose position is put back while a later fetch is on its way."""

    def log_from(self, offset: int) -> Sequence[int]:
        return range(offset, 12)


async def test_what_was_fetched_before_the_position_was_put_back_is_not_taken_for_what_follows() -> None:
    consumer = Rebalanced([10, 11])
    consumer._read_offset[PARTITION] = 5
    runs = await consumer.hand_over_all()
    assert [offsets_of(run) for run in runs] == [list(range(5, 12))]
    assert consumer.sought == [5]


async def test_a_run_tells_up_to_where_everything_must_be_applied() -> None:
    first, second = await Consumer([0, 1], [2]).hand_over_all()
    assert (first.position, second.position) == (0, 2)
    gap = Consumer([0, 1], [5])
    assert [run.position for run in await gap.hand_over_all()] == [0, 2]
    begins_there = Consumer([7])
    begins_there.beginning = 7
    assert [run.position for run in await begins_there.hand_over_all()] == [0]


async def test_nothing_is_handed_over_while_the_flow_is_stopped() -> None:
    consumer = Consumer([0, 1])
    consumer.stop_flow()
    assert await consumer.hand_over_all() == []
    assert consumer._read_offset[PARTITION] is None


async def test_what_was_fetched_but_not_handed_over_is_fetched_again_though_nothing_follows() -> None:
    consumer = Consumer([0, 1])
    consumer.stop_flow()
    await consumer.hand_over_all()
    consumer.resume_flow()
    await consumer._put_back({PARTITION})
    assert (consumer.sought, consumer.polls) == ([0], [[0, 1]])


async def test_a_position_is_put_back_once_for_offsets_that_hold_no_record() -> None:
    consumer = Consumer()
    consumer._read_offset[PARTITION], consumer.fetches_from = 5, 7
    for _ in range(2):
        await consumer._put_back({PARTITION})
        consumer.fetches_from = 7
    assert consumer.sought == [5]


async def test_a_beginning_that_was_dropped_is_fetched_again() -> None:
    consumer = Rebalanced([10, 11])
    assert [offsets_of(run) for run in await consumer.hand_over_all()] == [list(range(12))]


class Rebalancing(Consumer):
    """A consumer whose partitions are handed out anew while it asks where they begin: it is to go on at 5."""

    async def earliest_offsets(self, *partitions: TP) -> Any:
        self._read_offset[PARTITION] = 5
        return await super().earliest_offsets(*partitions)


async def test_a_beginning_that_is_told_behind_a_rebalance_is_not_gone_back_to() -> None:
    consumer = Rebalancing([5, 6])
    assert [offsets_of(run) for run in await consumer.hand_over_all()] == [[5, 6]]
    assert consumer.sought == []


async def test_an_empty_partition_is_asked_for_its_beginning_once_for_each_assignment() -> None:
    consumer = Draining()
    for _ in range(3):
        await consumer._put_back({PARTITION})
    assert consumer.asked_for_beginning == 1
    await consumer.on_partitions_revoked({PARTITION})
    await consumer._put_back({PARTITION})
    assert consumer.asked_for_beginning == 2


async def test_what_a_rebalance_kept_from_being_handed_over_counts_as_not_read() -> None:
    consumer = Consumer([0, 1])

    async def never(run: Any) -> None:
        consumer.stop_flow()
        await asyncio.sleep(60)

    consumer.callback = never
    await consumer.hand_over_all()
    assert consumer._read_offset[PARTITION] is None


async def test_records_of_a_partition_that_was_taken_away_are_left() -> None:
    consumer = Consumer([0])
    consumer._wait_next_records = _of_no_partition_of_ours(consumer)  # type: ignore[method-assign]
    assert await consumer.hand_over_all() == []


def _of_no_partition_of_ours(consumer: Consumer) -> Any:
    async def wait(timeout: float) -> tuple[Any, Any]:
        consumer._stopped.set()
        return {PARTITION: records(0)}, set()

    return wait


async def test_a_consumer_four_polls_ahead_waits_for_an_acknowledgement() -> None:
    consumer = Consumer(*([n, n + 1] for n in range(0, 12, 2)), most=2)
    runs = await consumer.hand_over_all()
    assert (len(runs), consumer.waits) == (6, 3)
    assert [run.acked for run in runs] == [True] * 3 + [False] * 3


class Draining(Consumer):
    """A consumer that notes what it still knows as acknowledged when it is told to finish."""

    acknowledged_then: tuple[int, ...] = ()

    async def wait_empty(self) -> None:
        self.acknowledged_then = tuple(self._acked[PARTITION])


async def test_what_is_acknowledged_is_committed_before_partitions_are_given_up() -> None:
    consumer = Draining([0, 1])
    [run] = await consumer.hand_over_all()
    consumer.ack(run)
    await consumer.on_partitions_revoked({PARTITION})
    assert sorted(consumer.acknowledged_then) == [0, 1]
    assert not consumer._acked[PARTITION]


async def test_asking_for_records_is_noted_for_the_readiness_check() -> None:
    consumer = Consumer([0])
    await consumer.hand_over_all()
    assert 0 < consumer.last_poll_at <= asyncio.get_running_loop().time()


@st.composite
def runs_with_gaps(draw: st.DrawFn) -> list[list[int]]:
    offsets = sorted(draw(st.sets(st.integers(0, 60), min_size=1, max_size=25)))
    cuts = sorted(draw(st.sets(st.integers(1, len(offsets)), max_size=4)) | {len(offsets)})
    return [offsets[a:b] for a, b in zip([0, *cuts], cuts, strict=False)]


@settings(max_examples=40, deadline=None)
@given(runs_with_gaps(), st.data())
def test_what_is_committed_is_always_the_end_of_what_was_acknowledged(polls: list[list[int]], data: Any) -> None:
    async def check() -> None:
        consumer = Consumer(*polls)
        for run, offsets in zip(await consumer.hand_over_all(), polls, strict=True):
            consumer.ack(run)
            if data.draw(st.booleans()) or offsets is polls[-1]:
                assert consumer.committable() == offsets[-1] + 1

    asyncio.run(check())


# --- batches


@dataclass(frozen=True)
class Message:
    value: Any


@dataclass(frozen=True)
class Event:
    message: Message = field(default_factory=lambda: Message([]))


def sizes(batches: Any) -> list[list[int]]:
    return [[len(event.message.value) for event in batch] for batch in batches]


@pytest.mark.parametrize(
    ("runs", "batches"),
    [
        ([], []),
        ([3, 3, 4], [[3, 3, 4]]),
        ([3, 3, 5], [[3, 3], [5]]),
        ([30, 1], [[30], [1]]),
        ([1, 30, 1], [[1], [30], [1]]),
    ],
)
def test_runs_are_grouped_up_to_the_most_and_never_cut(runs: list[int], batches: list[list[int]]) -> None:
    events: Any = [Event(Message([None] * size)) for size in runs]
    assert sizes(batches_of(events, 10)) == batches


@given(st.lists(st.integers(1, 20), max_size=12), st.integers(1, 30))
def test_batches_keep_every_run_in_order(runs: list[int], most: int) -> None:
    events: Any = [Event(Message([None] * size)) for size in runs]
    batches = list(batches_of(events, most))
    assert [event for batch in batches for event in batch] == events
    assert all(sum(batch) <= most or len(batch) == 1 for batch in sizes(batches))


class Asked:
    """Stands for the consumer's thread and what lives in it: tells whether it is asked there, and whether still."""

    def __init__(self) -> None:
        self.is_in_thread, self.is_asked, self.sought = False, False, list[tuple[TP, int]]()

    async def call_thread(self, call: Any, *given: Any) -> Any:
        self.is_in_thread = True
        try:
            return await call(*given)
        finally:
            self.is_in_thread = False

    def _ensure_consumer(self) -> Asked:
        return self

    def seek(self, partition: TP, offset: int) -> None:
        assert self.is_in_thread, "aiokafka is not safe from other threads"
        self.sought.append((partition, offset))

    async def position(self, partition: TP) -> int:
        self.is_asked = True
        try:
            return int(await asyncio.get_running_loop().create_future())
        finally:
            self.is_asked = False


async def test_the_position_is_put_back_in_the_thread_that_fetches() -> None:
    consumer = Consumer()
    asked = consumer._thread = cast(Any, Asked())
    await RunConsumer._seek(consumer, PARTITION, 7)
    assert asked.sought == [(PARTITION, 7)]


async def test_a_question_without_an_answer_does_not_stay_in_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.transport._ANSWER_S", 0.01)
    consumer = Consumer()
    asked = consumer._thread = cast(Any, Asked())
    with pytest.raises(TimeoutError):
        await RunConsumer.position(consumer, PARTITION)
    assert not asked.is_asked


class Owned(Consumer):
    """A consumer whose commits the broker takes, or not because the partition is another member's by now."""

    def __init__(self, *polls: Sequence[int], is_owner: bool = True) -> None:
        super().__init__(*polls)
        self._thread = cast(Any, Broker(is_owner))

    async def commit_runs_of(self, runs: Sequence[Run]) -> bool:
        return await self.commit_runs([cast(Any, Handed(run, self)) for run in runs])

    async def commit(self, *_: Any, **__: Any) -> bool:
        offset = self.committable()
        return offset is not None and await self._commit({PARTITION: offset})

    def assignment(self) -> set[TP]:
        return {PARTITION}


@dataclass
class Broker:
    """Stands for the thread that commits."""

    is_owner: bool

    async def commit(self, offsets: dict[TP, int]) -> bool:
        return self.is_owner


@dataclass
class Handed:
    """An event as the agent gets it, as far as it is looked at."""

    message: Run
    consumer: Consumer

    def ack(self) -> None:
        self.consumer.ack(self.message)


async def test_a_commit_that_the_broker_takes_tells_that_the_runs_were_still_ours() -> None:
    consumer = Owned([0, 1], [2])
    first, second = await consumer.hand_over_all()
    assert await consumer.commit_runs_of([first])
    assert await consumer.commit_runs_of([second])


async def test_a_commit_that_the_broker_refuses_tells_that_others_may_have_gone_on() -> None:
    consumer = Owned([0, 1], is_owner=False)
    assert not await consumer.commit_runs_of(await consumer.hand_over_all())


async def test_what_was_committed_before_a_partition_was_given_up_says_nothing_afterwards() -> None:
    consumer = Owned([0, 1], [2])
    first, second = await consumer.hand_over_all()
    assert await consumer.commit_runs_of([second, first])
    await consumer.on_partitions_revoked({PARTITION})
    assert not await consumer.commit_runs_of([second])
