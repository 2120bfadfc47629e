"""The steps of a batch: applied once however often it comes, fenced, published in full, stopped if too much is bad."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import stamina
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from connectors.store import Batch
from schemas import avro
from schemas.errors import FencedError, IntakeStoppedError, UnavailableError
from schemas.intake.structure import fhirkit_issues
from schemas.messages import record_id
from schemas.model import Floats, explain
from schemas.topics import TopicFamily, topic_name
from streams import metrics
from streams.decision import Outcome
from streams.processor import Processor, Results
from tests.unit.schemas.fhir_events import ARRIVAL, LIMITS, TOPIC, condition, encounter, patient, to_bytes
from tests.unit.streams.batches import TOPIC_ID, LinearModel, event, sender
from tests.unit.streams.memory import MemoryPublisher, MemoryStore

RISK, FEATURES, REJECTED = (
    topic_name(family, "dkfz") for family in (TopicFamily.RISK, TopicFamily.FEATURES, TopicFamily.REJECTED)
)


@pytest.fixture(autouse=True)
def _no_waiting_between_retries() -> Iterator[None]:
    with stamina.set_testing(True, attempts=3):
        yield


@dataclass
class Record:
    """A Kafka record, as aiokafka hands it over."""

    offset: int
    key: bytes | None
    value: bytes | None
    topic: str = TOPIC
    partition: int = 0
    timestamp: int = int(ARRIVAL.timestamp() * 1000)
    headers: Sequence[tuple[str, bytes]] = ()


def records(*values: Any, first: int = 0) -> list[Record]:
    """Make consecutive records; a value of bytes is the key of a tombstone."""
    return [
        Record(n, one, None) if isinstance(one, bytes) else Record(n, b"Patient/p1", to_bytes(one))
        for n, one in enumerate(values, start=first)
    ]


class World:
    """What outlives a worker, and one worker in it."""

    def __init__(self, share_limit: float = 1.0, window: int = 4, *, is_challenged: bool = False) -> None:
        self.store, self.publisher, self.is_challenged = MemoryStore(), MemoryPublisher(), is_challenged
        self._limits = {"rejected_share_limit": share_limit, "rejected_share_window": window}
        self.restart()

    def restart(self) -> None:
        """Put a new worker in place of the one before."""
        self.worker = Processor(
            senders={TOPIC: sender()},
            limits=LIMITS,
            validate=fhirkit_issues,
            store=self.store,
            publisher=self.publisher,
            schema_ids={RISK: 1, FEATURES: 2},
            retry_timeout_s=5.0,
            **self._limits,  # type: ignore[arg-type]  # float and int, as named
        )
        self.worker.topic_ids = {TOPIC: TOPIC_ID}
        self.worker.model = LinearModel()
        self.worker.shadow.model = CHALLENGER if self.is_challenged else None

    async def apply(self, batch: Sequence[Record]) -> Results:
        return await self.worker.apply(await self.worker.read(batch))

    async def take(self, batch: Sequence[Record]) -> Results:
        results = await self.apply(batch)
        await self.worker.publish(results)
        return results

    @property
    def next_offset(self) -> int:
        return self.store.tables.progress[TOPIC_ID, 0]

    def record_ids(self) -> list[str]:
        return [avro.decode("RiskScore", one.value[5:])["record_id"] for one in self.publisher.of(RISK) if one.value]


BATCH = records(patient(), encounter(), encounter(status="gone", version=2), condition())


async def test_a_batch_is_committed_with_its_progress_and_published() -> None:
    world = World()
    results = await world.take(BATCH)
    ends = [outcome for _, outcome in results.outcomes]
    assert ends == [Outcome.UPDATED, Outcome.SCORED, Outcome.REJECTED, Outcome.SCORED]
    assert world.store.tables.outcomes == {"updated": 1, "scored": 2, "rejected": 1}
    assert world.next_offset == 4
    assert world.record_ids() == list(world.store.tables.scores)
    assert [one.value for one in world.publisher.of(REJECTED)] == [BATCH[2].value]
    assert len(world.publisher.compacted(FEATURES)) == 1


async def test_a_history_is_stored_under_seal_only() -> None:
    world = World()
    await world.take(records(encounter("enc-17", patient="pat-4")))
    [stored] = world.store.tables.histories.values()
    assert not [own for own in (b"enc-17", b"pat-4", b"IMP") if own in stored.sealed]


async def test_a_new_partition_begins_at_its_first_record() -> None:
    world = World()
    await world.take(records(encounter(), first=70))
    assert world.next_offset == 71


async def test_without_a_model_features_go_out_and_no_score() -> None:
    world = World()
    world.worker.model = None
    results = await world.take(BATCH)
    assert (results.scores, world.publisher.of(RISK)) == ([], [])
    assert len(world.publisher.compacted(FEATURES)) == 1


async def test_what_came_to_nothing_is_committed_and_publishes_nothing() -> None:
    world = World()
    await world.take(BATCH)
    before = list(world.publisher.confirmed)
    await world.take(records(patient(), first=4))
    assert (world.next_offset, world.publisher.confirmed) == (5, before)


# --- a model that changes, and one beside it


async def test_a_batch_is_scored_by_the_model_it_was_decided_with_though_another_one_comes_meanwhile() -> None:
    world, swapped = World(), LinearModel(version="2", weights=(0.01,) * 9)

    class Swapping(MemoryStore):
        @asynccontextmanager
        async def batch(self) -> AsyncIterator[Batch]:
            async with super().batch() as batch:
                world.worker.model = swapped
                yield batch

    swapping = Swapping()
    world.store = world.worker._store = swapping
    first, second = await world.take(BATCH), await world.take(records(encounter("e2"), first=4))
    for results, model in ((first, LinearModel()), (second, swapped)):
        assert {one.model_version for one in results.scores} == {model.version}
        for one in results.scores:
            assert one.features is not None
            rows = np.array([one.features.vector()], dtype=np.float32)
            assert one.probability == pytest.approx(float(explain(model, rows).probability[0]))
            assert one.record_id == record_id(TOPIC_ID, 0, one.source_offset, one.encounter_pseudonym, model.version)


def sent(world: World) -> list[Any]:
    """List what was published, but for when scores were made."""
    scores = [{**avro.decode("RiskScore", one.value[5:]), "scored_at": None} for one in world.publisher.of(RISK)
              if one.value]  # fmt: skip
    return [scores, *(one for one in world.publisher.confirmed if one.topic != RISK)]


CHALLENGER = LinearModel(version="7", digest="7" * 64, weights=(0.02,) * 9)


def challenged(world: World) -> dict[str, float]:
    return {id_: one.probability for id_, one in world.store.tables.challenger_scores.items()}


async def test_a_challenger_scores_what_the_champion_scores_and_nothing_of_it_is_published() -> None:
    alone, world = World(), World()
    world.worker.shadow.model = CHALLENGER
    stream = [*BATCH, *records(encounter(version=3, status="entered-in-error"), first=4)]
    await alone.take(stream)
    await world.take(stream)
    assert sent(world) == sent(alone)
    scores = [one for one in world.store.tables.scores.values() if one["features"]]
    assert challenged(world).keys() == {one["record_id"] for one in scores}
    for one in scores:
        row = world.store.tables.challenger_scores[one["record_id"]]
        rows = np.array([list(one["features"].values())], dtype=np.float32)
        assert row.probability == pytest.approx(float(explain(CHALLENGER, rows).probability[0]))
        assert (row.model_version, row.received_at, row.band) == ("7", one["received_at"], "high")


async def test_a_challenger_that_is_the_champion_is_not_scored_twice() -> None:
    world = World()
    world.worker.shadow.model = world.worker.model
    await world.take(BATCH)
    assert challenged(world) == {}


@dataclass(frozen=True)
class BrokenModel(LinearModel):
    gives: float | None = None

    def contributions(self, rows: NDArray[np.float32]) -> Floats:
        if self.gives is None:
            raise RuntimeError("a node is missing")
        return np.full(rows.shape, self.gives)


@pytest.mark.parametrize("gives", [None, np.nan])
async def test_a_challenger_that_fails_is_left_alone_and_the_champion_goes_on(
    gives: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    alone, world = World(), World()
    world.worker.shadow.model = BrokenModel(version="8", digest="8" * 64, gives=gives)
    before = refusals("challenger-failed")
    for start in range(len(BATCH)):
        await world.take(BATCH[start : start + 1])
        await alone.take(BATCH[start : start + 1])
    assert sent(world) == sent(alone)
    assert challenged(world) == {}
    assert world.worker.shadow.model is None
    assert refusals("challenger-failed") == before + 1
    assert len(caplog.messages) == 1


def refusals(reason: str) -> float:
    return metrics.REGISTRY.get_sample_value("healthalliance_model_refusals_total", {"reason": reason}) or 0.0


async def test_an_erasure_takes_the_challengers_scores_and_outcomes_too() -> None:
    world = World()
    world.worker.shadow.model = CHALLENGER
    await world.take(BATCH)
    assert world.store.tables.stay_outcomes
    await world.take(records(b"Patient/p1", first=4))
    assert (challenged(world), world.store.tables.stay_outcomes) == ({}, {})


# --- a batch that comes again


async def test_a_batch_that_comes_again_writes_nothing_and_sends_the_same_results() -> None:
    world = World()
    await world.take(BATCH)
    before, first = list(world.store.writes), world.record_ids()
    world.restart()
    results = await world.take(BATCH)
    assert results.outcomes == []
    assert world.store.writes == before
    assert world.record_ids() == first * 2
    assert len(world.publisher.of(REJECTED)) == 2


async def test_of_a_batch_that_was_applied_in_part_only_the_rest_is_applied() -> None:
    world = World()
    await world.take(BATCH[:2])
    world.restart()
    await world.take(BATCH)
    assert world.store.tables.outcomes == {"updated": 1, "scored": 2, "rejected": 1}
    assert [advance.next_offset for writes in world.store.writes for advance in writes.advances] == [2, 4]


async def test_an_erasure_that_comes_again_is_sent_again() -> None:
    world = World()
    await world.take(records(encounter(), b"Patient/p1"))
    world.restart()
    await world.take(records(encounter(), b"Patient/p1"))
    assert [one.value for one in world.publisher.of(RISK) if one.key == b"Patient/p1"].count(None) == 2
    assert (world.publisher.compacted(FEATURES), world.publisher.compacted(RISK)) == ({}, {})


async def test_a_topic_made_anew_under_its_old_name_starts_anew() -> None:
    world = World()
    await world.take(BATCH)
    world.worker.topic_ids = {TOPIC: TOPIC_ID.replace("0", "1")}
    await world.take(records(encounter("e9")))
    assert sorted(world.store.tables.progress.values()) == [1, 4]


VALUES = st.lists(
    st.sampled_from(
        [patient(), encounter(), encounter(version=2, end="2024-03-07"), condition(), b"Encounter/e1",
         encounter("e0", "2023-11-01", "2023-11-05"), encounter(status="gone"), b"Patient/p1", b"nobody"]
    ),
    min_size=1, max_size=8,
)  # fmt: skip


DEATHS = st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["committed", "published"])), max_size=5)


@settings(max_examples=60, deadline=None)
@given(VALUES, DEATHS, st.integers(1, 4))
def test_however_often_workers_die_and_repeat_the_tables_and_topics_end_the_same(
    values: list[Any], deaths: list[tuple[int, str]], size: int
) -> None:
    stream = records(*values)

    async def undisturbed() -> World:
        world = World(is_challenged=True)
        await world.take(stream)
        return world

    async def disturbed() -> World:
        world = World(is_challenged=True)
        for end, how_far in deaths:  # each dies before it acknowledges, so that all comes again
            results = await world.apply(stream[:end])
            if how_far == "published":
                await world.worker.publish(results)
            world.restart()
        for start in range(0, len(stream), size):
            await world.take(stream[start : start + size])
        return world

    whole, pieces = asyncio.run(undisturbed()), asyncio.run(disturbed())
    assert pieces.store.tables.outcomes == whole.store.tables.outcomes
    assert pieces.store.tables.progress == whole.store.tables.progress
    assert pieces.store.tables.rejected.keys() == whole.store.tables.rejected.keys()
    assert pieces.store.tables.standing() == whole.store.tables.standing()
    assert pieces.store.tables.stay_outcomes == whole.store.tables.stay_outcomes
    assert pieces.store.tables.known_until == whole.store.tables.known_until
    assert challenged(pieces) == challenged(whole)
    assert pieces.publisher.compacted(FEATURES) == whole.publisher.compacted(FEATURES)
    assert set(pieces.record_ids()) >= set(whole.store.tables.scores)
    sent_back = {one.value for one in pieces.publisher.of(REJECTED)}
    assert sent_back == {one.value for one in whole.publisher.of(REJECTED)}


# --- an erased patient whose events go on


async def test_a_patient_erased_before_any_encounter_goes_on_under_its_own_id() -> None:
    world = World()
    results = await world.take(records(patient(), b"Patient/p1", encounter()))
    [one] = results.scores
    assert (one.patient_reference, one.patient_pseudonym) == ("Patient/p1", sender().keys.patient_pseudonym("p1"))


async def test_scores_after_an_erasure_in_the_same_batch_stay() -> None:
    world = World()
    results = await world.take(records(encounter(), b"Patient/p1", encounter("e2")))
    assert [one.encounter_reference for one in results.scores] == ["Encounter/e2"]
    assert list(world.store.tables.scores) == [one.record_id for one in results.scores]


async def test_an_erasure_that_was_committed_and_not_published_is_sent_though_the_patients_events_went_on() -> None:
    world, stream = World(), records(encounter(), b"Patient/p1", patient())
    await world.take(stream[:1])
    await world.apply(stream[1:])
    world.restart()
    await world.take(stream[1:])
    assert (world.publisher.compacted(FEATURES), world.publisher.compacted(RISK)) == ({}, {})


async def test_a_deletion_by_id_that_was_committed_and_not_published_is_sent_with_what_it_changes() -> None:
    earlier = encounter("e0", period={"start": "2024-02-01T10:00:00Z", "end": "2024-02-02T10:00:00Z"})
    stream = records(earlier, encounter("e1"), b"Encounter/e0")
    world, whole = World(), World()
    await world.take(stream[:2])
    await world.apply(stream[2:])
    world.restart()
    await world.take(stream[2:])
    await whole.take(stream)
    assert len(whole.publisher.compacted(FEATURES)) == 1
    assert world.publisher.compacted(FEATURES) == whole.publisher.compacted(FEATURES)


@pytest.mark.parametrize("cut", range(1, 4))
async def test_an_early_deletion_is_made_up_for_once_wherever_a_batch_is_cut(cut: int) -> None:
    stream = records(b"Encounter/e1", encounter(), b"Patient/p1", encounter())
    whole, pieces = World(), World()
    await whole.take(stream)
    await pieces.take(stream[:cut])
    await pieces.take(stream[cut:])
    assert pieces.store.tables.outcomes == whole.store.tables.outcomes


# --- the fence


async def test_a_worker_whose_partition_was_moved_by_another_stops() -> None:
    world = World()
    await world.take(BATCH[:2])
    world.store.tables.progress[TOPIC_ID, 0] = 3
    with pytest.raises(FencedError, match=f"{TOPIC}/0"):
        await world.apply(BATCH[2:])
    assert len(world.store.writes) == 1


async def test_a_worker_whose_partition_was_moved_back_stops() -> None:
    world = World()
    await world.take(BATCH[:2])
    world.store.tables.progress[TOPIC_ID, 0] = 1
    with pytest.raises(FencedError):
        await world.apply(BATCH[2:])


async def test_a_worker_whose_key_is_not_the_databases_any_more_stops_before_it_writes() -> None:
    world = World()
    await world.take(BATCH[:2])
    world.store.tables.key_ids["dkfz"] = "the key that came after"
    with pytest.raises(FencedError):
        await world.apply(BATCH[2:])
    assert len(world.store.writes) == 1


async def test_a_batch_that_leaves_out_what_nobody_has_applied_stops_the_worker() -> None:
    world = World()
    await world.take(BATCH[:2])
    world.worker.forget_progress()
    with pytest.raises(FencedError, match="goes on at 3, but is applied up to 2 only"):
        await world.worker.apply(await world.worker.read(BATCH[3:]), {(TOPIC, 0): 3})
    assert len(world.store.writes) == 1


async def test_offsets_that_hold_no_event_may_be_left_out() -> None:
    world = World()
    await world.take(BATCH[:2])
    await world.worker.apply(await world.worker.read(BATCH[3:]), {(TOPIC, 0): 2})
    assert world.next_offset == 4


async def test_after_partitions_were_handed_out_anew_another_position_is_no_reason_to_stop() -> None:
    world = World()
    await world.take(BATCH[:2])
    world.store.tables.progress[TOPIC_ID, 0] = 3
    world.worker.forget_progress()
    await world.apply(BATCH[3:])
    assert world.next_offset == 4


async def test_a_commit_whose_answer_was_lost_is_found_done_and_counted_once() -> None:
    world = World()
    await world.take(BATCH[:2])
    world.store.lost_answers = [ConnectionResetError()]
    await world.take(BATCH[2:])
    assert world.store.tables.outcomes == {"updated": 1, "scored": 2, "rejected": 1}
    assert (world.next_offset, len(world.store.writes)) == (4, 2)
    assert set(world.record_ids()) == set(world.store.tables.scores)
    assert [one.value for one in world.publisher.of(REJECTED)] == [BATCH[2].value]
    await world.take(records(patient(), first=4))
    assert world.next_offset == 5


# --- trouble outside


async def test_an_outage_of_the_database_is_waited_out() -> None:
    world = World()
    world.store.failures = [ConnectionRefusedError(), OSError()]
    await world.take(BATCH)
    assert (world.next_offset, world.worker.in_trouble) == (4, False)


async def test_an_outage_that_outlasts_the_retries_is_raised_and_the_worker_is_not_ready() -> None:
    world = World()
    world.store.failures = [ConnectionRefusedError()] * 9
    with pytest.raises(ConnectionRefusedError):
        await world.apply(BATCH)
    assert world.worker.in_trouble
    assert world.store.writes == []


async def test_a_fault_of_our_own_is_not_retried() -> None:
    world = World()
    world.store.failures = [KeyError("a fault"), KeyError("another")]
    with pytest.raises(KeyError, match="a fault"):
        await world.apply(BATCH)


async def test_every_message_is_sent_again_until_all_are_confirmed() -> None:
    world = World()
    world.publisher.failures = 2
    await world.take(BATCH)
    assert world.record_ids()[-2:] == list(world.store.tables.scores)
    assert not world.worker.in_trouble


async def test_publishing_gives_up_with_the_retries() -> None:
    world = World()
    world.publisher.failures = 9
    with pytest.raises(UnavailableError):
        await world.take(BATCH)
    assert world.worker.in_trouble


# --- a worker that was frozen between commit and publishing, while another one went on


async def frozen(world: World, batch: Sequence[Record], meanwhile: Sequence[Record]) -> None:
    """Let a worker commit a batch, another one take it and what follows, and the first one wake up."""
    events = await world.worker.read(batch)
    results, sleeper = await world.worker.apply(events), world.worker
    world.restart()
    await world.take([*batch, *meanwhile])
    await sleeper.publish(results)
    await sleeper.publish_newest(events, results)


async def test_late_results_are_the_newest_where_nobody_went_on() -> None:
    world = World()
    events = await world.worker.read(BATCH)
    results = await world.worker.apply(events)
    await world.worker.publish(results)
    before = list(world.publisher.confirmed)
    await world.worker.publish_newest(events, results)
    assert world.publisher.confirmed == before


async def test_newer_features_and_scores_are_published_after_late_ones() -> None:
    world = World()
    await frozen(world, BATCH, records(encounter(version=3, end="2024-03-09"), condition("c2"), first=4))
    newest = {}
    for message in world.publisher.of(FEATURES):
        newest[message.key] = message.value
    awake = World()
    await awake.take([*BATCH, *records(encounter(version=3, end="2024-03-09"), condition("c2"), first=4)])
    assert newest == awake.publisher.compacted(FEATURES)
    assert world.record_ids()[-1] == awake.record_ids()[-1]


async def test_late_scores_of_an_erased_patient_are_erased_again() -> None:
    world = World()
    await frozen(world, BATCH, records(b"Patient/p1", first=4))
    assert (world.publisher.compacted(FEATURES), world.publisher.compacted(RISK)) == ({}, {})


async def test_late_results_of_a_patient_who_was_cleared_away_are_erased_again() -> None:
    world = World()
    events = await world.worker.read(BATCH)
    results, sleeper = await world.worker.apply(events), world.worker
    world.restart()
    await world.take([*BATCH, *records(b"Patient/p1", first=4)])
    world.store.tables.histories.clear()  # `healthalliance erase`
    await sleeper.publish(results)
    assert world.publisher.compacted(FEATURES)
    await sleeper.publish_newest(events, results)
    assert (world.publisher.compacted(FEATURES), world.publisher.compacted(RISK)) == ({}, {})


async def test_a_late_erasure_does_not_take_away_who_came_back() -> None:
    world = World()
    erased = records(patient(), encounter(), b"Patient/p1")
    await frozen(world, erased, records(encounter("e9"), first=3))
    assert list(world.publisher.compacted(RISK)) == [b"Patient/p1"]
    assert len(world.publisher.compacted(FEATURES)) == 1


async def test_who_goes_on_meanwhile_is_published_until_it_is_the_newest() -> None:
    world = World()
    events = await world.worker.read(BATCH)
    results, sleeper = await world.worker.apply(events), world.worker
    await sleeper.publish(results)
    world.restart()
    publish, more = sleeper.publish, [records(encounter(version=3 + n, end=f"2024-03-{9 + n:02}"), first=4 + n)
                                      for n in range(3)]  # fmt: skip

    async def publish_while_others_go_on(results: Results) -> None:
        if more:
            await world.take(more.pop(0))
        await publish(results)

    await world.take(more.pop(0))
    sleeper.publish = publish_while_others_go_on  # type: ignore[method-assign]
    await sleeper.publish_newest(events, results)
    [features] = world.publisher.compacted(FEATURES).values()
    assert avro.decode("EncounterFeatures", features[5:])["encounter_version"] == "version_id:5"


# --- too much is rejected


def ended(*outcomes: Outcome) -> Results:
    return Results(outcomes=[(event(encounter(), n), outcome) for n, outcome in enumerate(outcomes)])


GOOD, BAD = Outcome.SCORED, Outcome.REJECTED


@pytest.mark.parametrize(
    "outcomes", [(BAD,) * 3, (BAD, BAD, GOOD, GOOD), (BAD, BAD, BAD, GOOD, GOOD, GOOD)], ids=["few", "at it", "past it"]
)
async def test_intake_goes_on_while_the_window_fills_and_up_to_the_limit(outcomes: tuple[Outcome, ...]) -> None:
    world = World(share_limit=0.5, window=4 if len(outcomes) < 6 else 6)
    await world.worker.stop_bad_intakes(ended(*outcomes))
    assert world.store.stops == {}


async def test_intake_stops_once_more_than_the_share_of_a_full_window_is_rejected() -> None:
    world = World(share_limit=0.5, window=4)
    await world.worker.stop_bad_intakes(ended(GOOD, BAD, BAD))
    with pytest.raises(IntakeStoppedError, match=r"^75% of the last 4 events of dkfz .* intake resume dkfz"):
        await world.worker.stop_bad_intakes(ended(BAD))
    assert world.store.stops == {"dkfz": 0.75}


async def test_only_the_last_events_count() -> None:
    world = World(share_limit=0.5, window=4)
    for outcome in (BAD, BAD, GOOD, GOOD, GOOD, BAD, GOOD, BAD):
        await world.worker.stop_bad_intakes(ended(outcome))
    assert world.store.stops == {}


@given(st.lists(st.sampled_from([GOOD, BAD]), max_size=12), st.sampled_from([0.2, 0.5, 0.75]), st.integers(1, 5))
def test_intake_stops_exactly_when_a_full_window_is_above_the_limit(
    outcomes: list[Outcome], limit: float, window: int
) -> None:
    async def stopped_at() -> int | None:
        world = World(share_limit=limit, window=window)
        for n, outcome in enumerate(outcomes):
            try:
                await world.worker.stop_bad_intakes(ended(outcome))
            except IntakeStoppedError:
                return n
        return None

    above = (
        n for n in range(window - 1, len(outcomes)) if outcomes[n - window + 1 : n + 1].count(BAD) / window > limit
    )
    assert asyncio.run(stopped_at()) == next(above, None)
