from __future__ import annotations

import json
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from connectors.feature_topics import decoded, newest_values
from connectors.ranges import offset_ranges
from connectors.registry import Registry, to_wire
from schemas.avro import schema_text
from schemas.errors import IncompatibleSchemaError, UnavailableError
from tests.unit.model_training.stays import features, stay

TOPIC = "features.dkfz"
Record = tuple[int, bytes, bytes | None]


class FakeLog:
    """Partitions with their surviving records, read as a Consumer with `enable.partition.eof` reads them."""

    def __init__(self, logs: dict[int, list[Record]], batch: int = 2) -> None:
        self._logs = logs
        self._batch = batch
        self._queues: dict[int, deque[Message]] = defaultdict(deque)

    def assign(self, partitions: list[TopicPartition]) -> None:
        for partition in partitions:
            number = partition.partition
            for offset, key, value in self._logs[number]:
                assert offset >= partition.offset
                self._queues[number].append(Message(TOPIC, number, offset, key=key, value=value))
            end = KafkaError(KafkaError._PARTITION_EOF)
            self._queues[number].append(Message(TOPIC, number, error=end))

    def consume(self, num_messages: int, timeout: float) -> list[Message]:
        for queue in self._queues.values():
            if queue:
                return [queue.popleft() for _ in range(min(self._batch, num_messages, len(queue)))]
        return []

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float) -> tuple[int, int] | None:
        log = self._logs[partition.partition]
        return (log[0][0], log[-1][0] + 1) if log else (0, 0)


def read(logs: dict[int, list[Record]], ends: dict[int, tuple[int, int]]) -> dict[bytes, bytes]:
    ranges = {(TOPIC, number): span for number, span in ends.items()}
    return {key: value for (_, key), value in newest_values(FakeLog(logs), ranges).items()}


def test_the_last_value_of_a_key_wins_and_a_tombstone_removes_it() -> None:
    log: list[Record] = [(0, b"a", b"1"), (1, b"b", b"1"), (2, b"a", b"2"), (3, b"b", None), (4, b"c", None)]
    assert read({0: log}, {0: (0, 5)}) == {b"a": b"2"}


def test_a_key_comes_back_after_its_tombstone() -> None:
    assert read({0: [(0, b"a", None), (1, b"a", b"2")]}, {0: (0, 2)}) == {b"a": b"2"}


def test_reading_ends_where_compaction_removed_the_last_offsets() -> None:
    assert read({0: [(3, b"a", b"1")]}, {0: (0, 9)}) == {b"a": b"1"}


def test_reading_ends_where_compaction_removed_everything() -> None:
    assert read({0: []}, {0: (0, 9)}) == {}


def test_empty_topics_are_read_at_once() -> None:
    assert read({0: [], 1: []}, {0: (0, 0), 1: (7, 7)}) == {}


def test_what_arrives_after_the_end_does_not_count() -> None:
    log: list[Record] = [(0, b"a", b"old"), (1, b"b", b"1"), (2, b"a", b"new"), (3, b"b", None)]
    assert read({0: log}, {0: (0, 2)}) == {b"a": b"old", b"b": b"1"}


def test_what_arrives_after_a_compacted_end_does_not_count() -> None:
    assert read({0: [(0, b"a", b"old"), (5, b"a", b"new")]}, {0: (0, 4)}) == {b"a": b"old"}


@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from([b"a", b"b", b"c"]), st.none() | st.binary(max_size=3))),
    st.integers(1, 5),
)
def test_compaction_never_changes_what_is_read(writes: list[tuple[int, bytes, bytes | None]], batch: int) -> None:
    logs: dict[int, list[Record]] = {0: [], 1: [], 2: []}
    for partition, key, value in writes:
        logs[partition].append((len(logs[partition]), key + bytes([partition]), value))
    compacted = {number: sorted({record[1]: record for record in log}.values()) for number, log in logs.items()}
    ranges = {(TOPIC, number): (0, len(log)) for number, log in logs.items()}
    whole = newest_values(FakeLog(logs, batch), ranges)
    assert whole == newest_values(FakeLog(compacted, batch), ranges)
    expected = {key: value for log in logs.values() for _, key, value in log}
    assert {key: value for (_, key), value in whole.items()} == {k: v for k, v in expected.items() if v is not None}


def test_progress_rises_to_one() -> None:
    shares: list[float] = []
    log: list[Record] = [(number, b"%d" % number, b"v") for number in range(10)]
    newest_values(FakeLog({0: log}), {(TOPIC, 0): (0, 12)}, shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_ends_are_looked_up_for_every_partition() -> None:
    log = FakeLog({0: [], 1: [(4, b"a", b"1")]})
    assert offset_ranges(log, [(TOPIC, 1), (TOPIC, 0)]) == {(TOPIC, 0): (0, 0), (TOPIC, 1): (4, 5)}


class Settling(FakeLog):
    tries = 0

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float) -> tuple[int, int] | None:
        self.tries += 1
        if self.tries == 1:
            raise KafkaException(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION))
        return super().get_watermark_offsets(partition, timeout)


def test_a_partition_that_has_no_leader_yet_is_asked_again() -> None:
    assert offset_ranges(Settling({0: [(4, b"a", b"1")]}), [(TOPIC, 0)]) == {(TOPIC, 0): (4, 5)}


class Refusing(FakeLog):
    def consume(self, num_messages: int, timeout: float) -> list[Message]:
        return [Message(TOPIC, 0, error=KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))]


class Silent(FakeLog):
    def consume(self, num_messages: int, timeout: float) -> list[Message]:
        return []

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float) -> tuple[int, int] | None:
        return None


def test_a_broker_that_refuses_is_named_as_the_trouble() -> None:
    with pytest.raises(UnavailableError, match="could not be read"):
        newest_values(Refusing({0: []}), {(TOPIC, 0): (0, 5)})


def test_a_broker_that_went_silent_does_not_hang_the_job() -> None:
    with pytest.raises(UnavailableError, match="sent nothing"):
        newest_values(Silent({0: []}), {(TOPIC, 0): (0, 5)})
    with pytest.raises(UnavailableError, match="where partition 0"):
        offset_ranges(Silent({}), [(TOPIC, 0)])


# --- decoding


@pytest.fixture
def registry() -> Iterator[Registry]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path.startswith("/schemas/ids/7?") or self.path == "/schemas/ids/7"
            body = {"schema": schema_text("EncounterFeatures")} if known else {"error_code": 40403, "message": "none"}
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    yield Registry(f"http://127.0.0.1:{httpd.server_port}")
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_records_come_back_as_they_were_written_whatever_order_they_were_read_in(registry: Registry) -> None:
    records = [
        stay("a", 0, 5),
        stay("b", 20, None, facts=features(age_years=None)),
        stay("c", 1, 2, institution="embl"),
    ]
    values = {(TOPIC, record.encounter_pseudonym.encode()): to_wire(7, record) for record in reversed(records)}
    assert decoded(values, registry) == tuple(records)


@pytest.mark.parametrize("value", [b"", b"\x00\x00", b"\x00\x00\x00\x00\x07", b"\x00\x00\x00\x00\x07garbage"])
def test_what_is_no_record_is_refused(registry: Registry, value: bytes) -> None:
    with pytest.raises(IncompatibleSchemaError, match="cannot read"):
        decoded({(TOPIC, b"a"): value}, registry)


def test_a_schema_that_the_registry_does_not_have_is_its_trouble(registry: Registry) -> None:
    with pytest.raises(UnavailableError, match="schema registry"):
        decoded({(TOPIC, b"a"): to_wire(8, stay("a", 0, 5))}, registry)
