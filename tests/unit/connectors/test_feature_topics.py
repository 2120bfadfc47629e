from __future__ import annotations

import io
import json
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.feature_rows import NewestRows, ReadValue, value_reader
from connectors.feature_topics import Snapshot, ranges_to, read_table
from connectors.partition_ends import PartitionEnd
from connectors.ranges import offset_ranges
from connectors.registry import Registry, to_wire
from connectors.snapshot_files import read_identity, write_parquet, write_snapshot
from schemas.avro import released
from schemas.errors import (
    AccessRefusedError,
    ConfigurationError,
    IncompatibleSchemaError,
    SnapshotGoneError,
    UnavailableError,
)
from schemas.messages import EncounterFeatures
from schemas.snapshot import SNAPSHOT_SCHEMA, content_digest, snapshot_table, sorted_by_encounter
from tests.unit.model_training.stays import features, simulated, stay

TOPIC = "features.dkfz"
SCHEMAS = {number + 1: path for number, path in enumerate(released("EncounterFeatures"))}  # by their ids
NEWEST = max(SCHEMAS)
Record = tuple[int, bytes, bytes | None]


class FakeLog:
    """Partitions with their surviving records, read as a Consumer with `enable.partition.eof` reads them."""

    def __init__(self, logs: dict[int, list[Record]], batch: int = 2) -> None:
        self._logs = logs
        self._batch = batch
        self._queues: dict[int, deque[Message]] = defaultdict(deque)

    def assign(self, partitions: list[TopicPartition]) -> None:
        self._queues.clear()
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


@pytest.fixture(scope="module")
def reader() -> Iterator[ReadValue]:
    """Read values by a schema registry that knows every release."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = SCHEMAS.get(int(self.path.partition("?")[0].rpartition("/")[2]))
            body = {"schema": path.read_text()} if path else {"error_code": 40403, "message": "none"}
            self.send_response(200 if path else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    yield value_reader(Registry(f"http://127.0.0.1:{httpd.server_port}"))
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def one(name: str, days: float) -> EncounterFeatures:
    """Make a version of an encounter that its length tells from others."""
    return stay(name, 0, days)


def record(offset: int, name: str, days: float | None) -> Record:
    """Put a version of an encounter into a log, or its tombstone."""
    written = one(name, days or 1)
    return offset, written.encounter_pseudonym.encode(), None if days is None else to_wire(NEWEST, written)


def read(reader: ReadValue, logs: dict[int, list[Record]], ends: dict[int, tuple[int, int]]) -> pa.Table:
    return read_table(FakeLog(logs), {(TOPIC, number): span for number, span in ends.items()}, reader)


def test_the_last_version_of_an_encounter_wins_and_a_tombstone_removes_it(reader: ReadValue) -> None:
    log = [record(0, "a", 1), record(1, "b", 1), record(2, "a", 2), record(3, "b", None), record(4, "c", None)]
    assert read(reader, {0: log}, {0: (0, 5)}) == snapshot_table([one("a", 2)])


def test_an_encounter_comes_back_after_its_tombstone(reader: ReadValue) -> None:
    log = [record(0, "a", None), record(1, "a", 2)]
    assert read(reader, {0: log}, {0: (0, 2)}) == snapshot_table([one("a", 2)])


def test_reading_ends_where_compaction_removed_the_last_offsets(reader: ReadValue) -> None:
    assert read(reader, {0: [record(3, "a", 1)]}, {0: (0, 9)}) == snapshot_table([one("a", 1)])


@pytest.mark.parametrize("ends", [{0: (0, 9)}, {0: (0, 0)}, {0: (0, 0), 1: (7, 7)}, {}])
def test_what_is_empty_or_was_compacted_away_gives_no_rows(reader: ReadValue, ends: dict[int, tuple[int, int]]) -> None:
    table = read(reader, {0: [], 1: []}, ends)
    assert (len(table), table.schema) == (0, SNAPSHOT_SCHEMA)


def test_what_arrives_after_the_end_does_not_count(reader: ReadValue) -> None:
    log = [record(0, "a", 1), record(1, "b", 1), record(2, "a", 2), record(3, "b", None)]
    assert read(reader, {0: log}, {0: (0, 2)}) == snapshot_table([one("a", 1), one("b", 1)])


WRITES = st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abc"), st.none() | st.integers(1, 9)), max_size=25)


@settings(deadline=None)
@given(WRITES, st.integers(1, 5))
def test_compaction_never_changes_what_is_read(
    reader: ReadValue, writes: list[tuple[int, str, int | None]], batch: int
) -> None:
    logs: dict[int, list[Record]] = {0: [], 1: [], 2: []}
    newest: dict[str, int | None] = {}
    for partition, name, days in writes:
        logs[partition].append(record(len(logs[partition]), f"{name}{partition}", days))
        newest[f"{name}{partition}"] = days
    compacted = {number: sorted({line[1]: line for line in log}.values()) for number, log in logs.items()}
    ranges = {(TOPIC, number): (0, len(log)) for number, log in logs.items()}
    whole = read_table(FakeLog(logs, batch), ranges, reader)
    assert whole == read_table(FakeLog(compacted, batch), ranges, reader)
    assert whole == snapshot_table([one(name, days) for name, days in newest.items() if days is not None])


@settings(deadline=None)
@given(WRITES, st.integers(1, 4), st.integers(1, 6))
def test_where_chunks_are_cut_and_merged_does_not_matter(
    reader: ReadValue, writes: list[tuple[int, str, int | None]], chunk: int, merge: int
) -> None:
    rows, newest = NewestRows(TOPIC, reader, chunk=chunk, merge=merge), dict[str, int | None]()
    for _, name, days in writes:
        _, key, value = record(0, name, days)
        rows.add(key, value)
        newest[name] = days
    expected = [one(name, days) for name, days in newest.items() if days is not None]
    assert sorted_by_encounter(rows.table()) == snapshot_table(expected)


def test_what_is_held_stays_small_however_often_encounters_are_superseded(reader: ReadValue) -> None:
    rows, most = NewestRows(TOPIC, reader, chunk=10, merge=50), 0
    versions = [record(0, f"{number % 20}", 1 + number % 7)[1:] for number in range(140)]
    for _ in range(20):
        for key, value in versions:
            rows.add(key, value)
            most = max(most, len(rows))
    assert len(rows.table()) == 20
    assert most <= 50 + 20 + 10


def test_progress_rises_to_one_over_all_partitions(reader: ReadValue) -> None:
    shares: list[float] = []
    logs = {number: [record(offset, f"{number}-{offset}", 1) for offset in range(5)] for number in range(3)}
    read_table(FakeLog(logs), {(TOPIC, number): (0, 7) for number in logs}, reader, shares.append)
    assert shares == sorted(shares)
    assert any(0.3 < share < 0.7 for share in shares)
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


def test_a_broker_that_refuses_is_named_as_the_trouble(reader: ReadValue) -> None:
    with pytest.raises(AccessRefusedError, match="could not be read"):
        read_table(Refusing({0: []}), {(TOPIC, 0): (0, 5)}, reader)


def test_a_broker_that_went_silent_does_not_hang_the_job(reader: ReadValue) -> None:
    with pytest.raises(UnavailableError, match="sent nothing"):
        read_table(Silent({0: []}), {(TOPIC, 0): (0, 5)}, reader)
    with pytest.raises(UnavailableError, match="where partition 0"):
        offset_ranges(Silent({}), [(TOPIC, 0)])


# --- an earlier snapshot's ends


END = PartitionEnd(TOPIC, "00000000-0000-4000-8000-000000000001", 0, 5)
IDS = {TOPIC: END.topic_id}


def test_an_earlier_snapshots_ends_are_read_from_what_compaction_left() -> None:
    assert ranges_to([END], IDS, {(TOPIC, 0): (2, 9), (TOPIC, 1): (0, 4)}) == {(TOPIC, 0): (2, 5)}
    assert ranges_to([END], IDS, {(TOPIC, 0): (7, 9)}) == {(TOPIC, 0): (5, 5)}


@pytest.mark.parametrize(
    ("ids", "present"),
    [
        ({TOPIC: "another"}, {(TOPIC, 0): (0, 9)}),
        (IDS, {(TOPIC, 0): (0, 4)}),
        (IDS, {}),
    ],
    ids=["made anew under its name", "shorter than it was", "without the partition"],
)
def test_a_topic_that_is_not_the_one_that_was_read_is_refused(
    ids: dict[str, str], present: dict[tuple[str, int], tuple[int, int]]
) -> None:
    with pytest.raises(SnapshotGoneError, match="not the topic"):
        ranges_to([END], ids, present)


def test_the_identity_is_topic_id_partition_and_end_whatever_their_order() -> None:
    other, table = replace(END, partition=1), snapshot_table([])
    digest = Snapshot(table, (END, other)).digest
    assert digest == Snapshot(table, (other, replace(END, topic="renamed"))).digest
    for changed in (replace(END, topic_id="another"), replace(END, partition=2), replace(END, end_offset=6)):
        assert Snapshot(table, (changed, other)).digest != digest


# --- decoding


def test_records_come_back_as_they_were_written_whatever_order_they_were_read_in(reader: ReadValue) -> None:
    records = [
        stay("a", 0, 5, deceased=90),
        stay("b", 20, None, facts=features(age_years=None), planned=True, person="someone"),
        stay("c", 1, 2, institution="embl"),
    ]
    log: list[Record] = [
        (offset, written.encounter_pseudonym.encode(), to_wire(NEWEST, written))
        for offset, written in enumerate(reversed(records))
    ]
    assert read(reader, {0: log}, {0: (0, 3)}).sort_by([("institution", "ascending")]) == snapshot_table(records)


def test_records_of_every_release_are_read_with_defaults_for_what_they_lack(reader: ReadValue) -> None:
    written = stay("a", 0, 5, planned=True, person="someone")
    for number, path in SCHEMAS.items():
        out = io.BytesIO()
        fields = {**vars(written), "features": vars(written.features)}
        fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(path.read_text())), fields)
        value = b"\0" + number.to_bytes(4, "big") + out.getvalue()
        expected = written if number > 1 else replace(written, planned=False, person_pseudonym=None)
        log: list[Record] = [(0, written.encounter_pseudonym.encode(), value)]
        assert read(reader, {0: log}, {0: (0, 1)}) == snapshot_table([expected])


@pytest.mark.parametrize("value", [b"", b"\x00\x00", b"\x00\x00\x00\x00\x02", b"\x00\x00\x00\x00\x02garbage"])
def test_what_is_no_record_is_refused(reader: ReadValue, value: bytes) -> None:
    with pytest.raises(IncompatibleSchemaError, match="cannot read"):
        read(reader, {0: [(0, one("a", 1).encounter_pseudonym.encode(), value)]}, {0: (0, 1)})


@pytest.mark.parametrize("key", [b"", b"a", b"\xff" * 36, b"g" * 36, b"0" * 36])
@pytest.mark.parametrize("removed", [False, True])
def test_what_has_no_pseudonym_for_its_key_is_refused(reader: ReadValue, key: bytes, removed: bool) -> None:
    value = None if removed else to_wire(NEWEST, one("a", 1))
    with pytest.raises(IncompatibleSchemaError, match="cannot read"):
        read(reader, {0: [(0, key, value)]}, {0: (0, 1)})


def test_a_record_of_patients_without_pseudonyms_is_refused(reader: ReadValue) -> None:
    log: list[Record] = [
        (0, one("a", 1).encounter_pseudonym.encode(), to_wire(NEWEST, replace(one("a", 1), patient_pseudonym="p")))
    ]
    with pytest.raises(IncompatibleSchemaError, match="cannot read"):
        read(reader, {0: log}, {0: (0, 1)})


def test_a_schema_that_the_registry_does_not_have_is_its_trouble(reader: ReadValue) -> None:
    log: list[Record] = [(0, one("a", 1).encounter_pseudonym.encode(), to_wire(NEWEST + 1, one("a", 1)))]
    with pytest.raises(UnavailableError, match="SCHEMA_REGISTRY_URL"):
        read(reader, {0: log}, {0: (0, 1)})


# --- content and files


@pytest.fixture(scope="module")
def records() -> list[EncounterFeatures]:
    return [stay("p", 3, 4, deceased=9, person="someone"), *simulated(1, 60)]


def pieces(table: pa.Table) -> pa.Table:
    """Cut a table into chunks of seven rows; slices keep what lies around them in memory."""
    return pa.concat_tables([table.slice(start, 7) for start in range(0, len(table), 7)])


def test_content_does_not_depend_on_how_a_table_is_cut_or_came_about(records: list[EncounterFeatures]) -> None:
    table = snapshot_table(records)
    assert content_digest(pieces(table)) == content_digest(table)
    assert content_digest(pieces(table).take(list(range(len(table))))) == content_digest(table)


def test_any_change_of_a_value_changes_the_content(records: list[EncounterFeatures]) -> None:
    first, *rest = records
    hour = timedelta(hours=1)
    changed = [
        replace(first, institution="embl"),
        replace(first, patient_pseudonym=rest[0].patient_pseudonym),
        replace(first, person_pseudonym=None),
        replace(first, status="unknown"),
        replace(first, class_code=None),
        replace(first, inpatient=False),
        replace(first, planned=True),
        replace(first, admitted_at=first.admitted_at + hour),
        replace(first, discharged_at=None),
        replace(first, as_of=first.as_of + hour),
        replace(first, disposition=None),
        replace(first, deceased_at=None),
        replace(first, feature_set=2),
        replace(first, features=replace(first.features, age_years=None)),
        replace(first, features=replace(first.features, num_conditions=9.0)),
    ]
    digests = {content_digest(snapshot_table([one, *rest])) for one in (first, *changed)}
    assert len(digests) == 1 + len(changed)


def test_the_same_rows_are_the_same_parquet_bytes_and_come_back(
    records: list[EncounterFeatures], tmp_path: Path
) -> None:
    table = snapshot_table(records)
    for name, one in (("whole", table), ("cut", pieces(table))):
        write_parquet(one, tmp_path / name)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "cut").read_bytes()
    assert pq.read_table(tmp_path / "whole") == table


def test_a_snapshots_files_say_what_it_is(records: list[EncounterFeatures], tmp_path: Path) -> None:
    both = [*records, stay("there", 0, 1, institution="embl")]
    snapshot = Snapshot(snapshot_table(both), (END,))
    identity = write_snapshot(snapshot, tmp_path / "new")
    assert identity["rows"] == {"dkfz": len(records), "embl": 1}
    assert identity["digest"] == snapshot.digest
    assert read_identity(tmp_path / "new" / "snapshot.json") == ([END], snapshot.content)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"ends": [{}], "content": "x"}'])
def test_a_file_that_identifies_no_snapshot_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"x\.json"):
        read_identity(tmp_path / "x.json")
