"""`healthalliance erase`: nothing of the erased is left anywhere, nothing of anybody else is touched, and it is signed.

The long form, a thousand patients under load with compaction, is the scenario `erasure` of tests/faults.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow.parquet as pq
import pytest
from fhir.resources.R4B.bundle import Bundle

from connectors.kafka import OutMessage, Publisher
from connectors.settings import Settings
from healthalliance.progress import fetch, wait_until_applied
from schemas.audit import Action
from schemas.erasure import key_id, new_key, private_key, public_pem
from schemas.topics import TopicFamily, topic_name
from tests.faults.traces import Erased, hits_in_tables, hits_on_topic
from tests.integration.command_line import Ended, run
from tests.integration.eventful import one_event, send
from tests.integration.noting import noting
from tests.integration.reading import ends_of, keys_of, latest_risk, read_since
from tests.integration.running import Trained
from tests.unit.schemas.fhir_events import bundle, condition, encounter, patient

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("worker")]

_OWN = "dkfz"  # which has so many stays that these make no difference to training
_MANY = 30
_GONE, _STAYING = ([f"{name}-{n:02}" for n in range(_MANY)] for name in ("erase", "stay"))


def stays(name: str) -> list[OutMessage]:
    """Make two stays, the second a readmission, and a condition."""
    again = encounter(f"{name}-e2", "2024-03-20T10:00:00Z", "2024-03-25T10:00:00Z", patient=name)
    first = bundle(patient(name), encounter(f"{name}-e1", patient=name), condition(f"{name}-c", patient=name))
    return [one_event(_OWN, name, value) for value in (first, again)]


def broken(name: str, *, beside: str | None = None) -> OutMessage:
    """Make an event that is rejected; it may tell of another patient too."""
    bad = encounter(f"{name}-bad", patient=name, status="gone")
    return one_event(_OWN, name, bundle(bad, encounter(f"{beside}-e3", patient=beside)) if beside else bad)


def erased(settings: Settings, *names: str) -> Erased:
    encounters = [f"{name}-e{n}" for name in names for n in (1, 2)]
    return Erased.of(keys_of(settings, _OWN), names, encounters)


def rows_of(settings: Settings, table: str, names: list[str]) -> list[str]:
    """Read a table's rows of patients as text."""
    pseudonyms = [keys_of(settings, _OWN).patient_pseudonym(name) for name in names]
    query = f"SELECT one::text AS row FROM {table} AS one WHERE patient_pseudonym = ANY($1::uuid[]) ORDER BY 1"
    return [row["row"] for row in fetch(settings, query, pseudonyms)]


def add_traces(settings: Settings, name: str) -> None:
    """Put what the API and alerting write beside a patient's score."""
    row = latest_risk(settings, _OWN, [f"{name}-e2"])[f"{name}-e2"]
    who = row["patient_pseudonym"], row["encounter_pseudonym"], row["record_id"]
    now = datetime.now(UTC)
    fetch(settings, "INSERT INTO worklist_marks (institution, patient_pseudonym, encounter_pseudonym, "
          "acknowledged_record_id, updated_at) VALUES ($1, $2, $3, $4, $5)", _OWN, *who, now)  # fmt: skip
    fetch(settings, "INSERT INTO cds_cards (card_id, institution, patient_pseudonym, encounter_pseudonym, record_id, "
          "band, model_version, served_at) VALUES ($6, $1, $2, $3, $4, 'high', '1', $5)",
          _OWN, *who, now, uuid4())  # fmt: skip
    fetch(settings, "INSERT INTO alerts (alert_id, institution, channel, patient_pseudonym, encounter_pseudonym, "
          "record_id, band, probability, state, decided_at, due_at) "
          "VALUES ($6, $1, 'erasure', $2, $3, $4, 'high', 0.5, 'delivered', $5, $5)",
          _OWN, *who, now, uuid4())  # fmt: skip
    fetch(settings, "INSERT INTO alert_standings (institution, channel, patient_pseudonym, encounter_pseudonym, "
          "record_id, topic_id, source_partition, source_offset, scored_at) "
          "VALUES ($1, 'erasure', $2, $3, $4, $6, 0, 0, $5)", _OWN, *who, now, uuid4())  # fmt: skip


@contextmanager
def load(settings: Settings) -> Iterator[None]:
    """Keep events of others coming, visits of which no model is trained."""
    ended = threading.Event()

    def publish() -> None:
        publisher, number = Publisher(settings), 0
        while not ended.wait(0.05):
            number += 1
            name = f"erasure-load-{number}"
            publisher.publish(
                [one_event(_OWN, name, encounter(f"{name}-{n}", patient=name, class_="AMB")) for n in (1, 2)]
            )

    thread = threading.Thread(target=publish, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


TABLES = ("risk_scores", "patient_history", "patient_encounters", "score_outcomes", "worklist_marks", "cds_cards",
          "alerts", "alert_standings", "challenger_scores")  # fmt: skip


@dataclass
class Done:
    """What there was, and what an erasure under load said."""

    settings: Settings = field(repr=False)
    snapshots: Path
    before: dict[str, list[str]]
    exported: dict[str, Any]
    ended: Ended
    folder: Path
    ids: Path

    def certificate(self, name: str) -> Any:
        pseudonym = keys_of(self.settings, _OWN).patient_pseudonym(name)
        return next(one for one in self.ended.document if one["patient_pseudonym"] == pseudonym)


@pytest.fixture(scope="module")
def done(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Done:
    settings, folder = trained.settings, tmp_path_factory.mktemp("erasure")
    send(settings, *(one for name in (*_GONE, *_STAYING) for one in stays(name)))
    send(settings, *map(broken, (*_GONE[:5], *_STAYING[:5])), broken(_GONE[0], beside=_STAYING[0]))
    wait_until_applied(settings, 120)
    for name in (_GONE[0], _GONE[1], _STAYING[0]):
        add_traces(settings, name)
    snapshots = folder / "snapshots"
    assert run(settings, "snapshot", "export", snapshots, "-i", _OWN, timeout_s=300).code == 0
    before = {table: rows_of(settings, table, _STAYING) for table in TABLES}
    assert all(before[table] for table in TABLES if table != "challenger_scores")
    with noting(settings, (Action.EXPORT_PATIENT, _OWN)):
        exported = run(settings, "export-patient", "-i", _OWN, "--patient", _GONE[0], "--json")
    assert exported.code == 0, exported.stderr
    ids = folder / "ids"
    ids.write_text("\n".join(_GONE) + "\n")
    with load(settings), noting(settings, (Action.ERASE, _OWN)):
        ended = run(settings, "erase", "-i", _OWN, "--patients", ids, "--snapshots", snapshots,
                    "--out", folder / "certificates", "--json", timeout_s=500)  # fmt: skip
    assert ended.code == 0, ended.stderr
    return Done(settings, snapshots, before, exported.document, ended, folder / "certificates", ids)


def test_no_table_holds_anything_of_the_erased(done: Done) -> None:
    assert hits_in_tables(done.settings, erased(done.settings, *_GONE)) == {}


def test_the_scan_finds_who_is_there(done: Done) -> None:
    found = hits_in_tables(done.settings, erased(done.settings, _STAYING[0]))
    assert {*TABLES} - {"challenger_scores"} <= found.keys()
    topic = topic_name(TopicFamily.RISK, _OWN)
    assert hits_on_topic(done.settings, topic, erased(done.settings, _STAYING[0])).standing > 0


@pytest.mark.parametrize("family", [TopicFamily.RISK, TopicFamily.FEATURES])
def test_what_the_topics_hold_of_the_erased_stands_below_tombstones(done: Done, family: TopicFamily) -> None:
    assert hits_on_topic(done.settings, topic_name(family, _OWN), erased(done.settings, *_GONE)).standing == 0


def test_everybody_else_keeps_every_row(done: Done) -> None:
    assert {table: rows_of(done.settings, table, _STAYING) for table in TABLES} == done.before


def test_rejections_of_the_erased_are_gone_and_those_that_tell_of_others_stay(done: Done) -> None:
    topic = topic_name(TopicFamily.REJECTED, _OWN)
    messages = read_since(done.settings, topic, dict.fromkeys(ends_of(done.settings, topic), 0))
    places: dict[bytes, list[tuple[str, int, int]]] = {}
    for one in messages:
        headers = {name: value.decode("utf-8", "replace") for name, value in one.headers}
        at = (
            headers["healthalliance.topic_id"],
            *(int(headers[f"__connect.errors.{n}"]) for n in ("partition", "offset")),
        )
        places.setdefault(one.key or b"", []).append(at)  # type: ignore[arg-type]

    def kept(name: str) -> int:
        query = """SELECT count(*) AS number FROM rejected_events
                   JOIN unnest($1::uuid[], $2::int[], $3::bigint[])
                        AS at(topic_id, source_partition, source_offset)
                        USING (topic_id, source_partition, source_offset)"""
        at = [list(one) for one in zip(*places[f"Patient/{name}".encode()], strict=True)]
        return int(fetch(done.settings, query, *at)[0]["number"])

    assert [kept(name) for name in _GONE[:5]] == [1, 0, 0, 0, 0]
    assert [kept(name) for name in _STAYING[:5]] == [1, 1, 1, 1, 1]


def test_snapshots_are_written_anew_without_the_erased(done: Done) -> None:
    keys, table = keys_of(done.settings, _OWN), pq.read_table(done.snapshots / "features.parquet")
    held = {value.hex() for value in table.column("patient_pseudonym").to_pylist()}
    assert not held & {keys.patient_pseudonym(name).replace("-", "") for name in _GONE}
    assert held >= {keys.patient_pseudonym(name).replace("-", "") for name in _STAYING}
    identity = json.loads((done.snapshots / "snapshot.json").read_text())
    assert (identity["rows_left_out"], identity["rows"]) == (2 * _MANY, {_OWN: len(table)})
    cache = done.snapshots / ".dvc" / "cache" / "files"
    versions = [one for one in cache.rglob("*") if one.is_file() and one.read_bytes()[:4] == b"PAR1"]
    assert [pq.read_table(one).num_rows for one in versions] == [len(table)]


def test_a_certificate_says_what_was_found_removed_and_left(done: Done) -> None:
    one = done.certificate(_GONE[0])
    stores = {place["part"]: (place["found"], place["removed"]) for place in one["stores"]}
    assert all(found == removed for found, removed in stores.values())
    assert {part: found for part, (found, _) in stores.items() if found} == {
        "patient_history": 1, "risk_scores": stores["risk_scores"][0], "patient_encounters": 2, "score_outcomes": 2,
        "worklist_marks": 1, "cds_cards": 1, "alerts": 1, "alert_standings": 1, "rejected_events": 1,
        f"features.{_OWN}": 2, f"risk.{_OWN}": stores["risk_scores"][0], "snapshots": 2, "dvc_cache": 1,
    }  # fmt: skip
    assert stores["risk_scores"][0] >= 2
    assert {rest["where"]: bool(rest["until"]) for rest in one["remains"]}[f"encounters.{_OWN}"]
    assert (one["future"], one["nothing_found"], one["event"]["topic"]) == ("accept", False, f"encounters.{_OWN}")


def test_a_certificate_names_no_patient_but_by_the_pseudonym(done: Done) -> None:
    assert len(list(done.folder.iterdir())) == _MANY
    for path in done.folder.iterdir():
        assert "erase-" not in path.read_text()


def test_a_certificate_verifies_and_a_changed_one_does_not(done: Done, tmp_path: Path) -> None:
    path = min(done.folder.iterdir())
    assert run(done.settings, "verify-erasure", path).code == 0
    public = tmp_path / "key.pub"
    key = private_key(Path(done.settings.erasure_key_location).read_bytes())
    public.write_text(public_pem(key))
    said = run(done.settings, "verify-erasure", path, "--key", public, "--json")
    assert said.document == {"genuine": True, "key": key_id(key.public_key())}
    other = tmp_path / "changed.json"
    other.write_text(path.read_text().replace('"found": 2', '"found": 3', 1))
    assert run(done.settings, "verify-erasure", other).code == 1
    public.write_text(public_pem(private_key(new_key().encode())))
    assert run(done.settings, "verify-erasure", path, "--key", public).code == 1


def test_a_second_run_finds_nothing_and_publishes_nothing(done: Done, tmp_path: Path) -> None:
    topic = topic_name(TopicFamily.ENCOUNTERS, _OWN)
    ends = ends_of(done.settings, topic)
    again = run(done.settings, "erase", "-i", _OWN, "--patients", done.ids, "--out", tmp_path, "--json")
    assert again.code == 0, again.stderr
    assert ends_of(done.settings, topic) == ends
    assert {(one["nothing_found"], sum(at["found"] for at in one["stores"])) for one in again.document} == {(True, 0)}
    said = run(done.settings, "erase", "-i", _OWN, "--patient", _GONE[0], "--out", tmp_path).stdout
    assert said.startswith("Nothing found, nothing to do:")


def test_whoever_comes_back_begins_anew(done: Done) -> None:
    send(done.settings, one_event(_OWN, _GONE[3], encounter(f"{_GONE[3]}-back", patient=_GONE[3])))
    wait_until_applied(done.settings, 120)
    row = latest_risk(done.settings, _OWN, [f"{_GONE[3]}-back"])[f"{_GONE[3]}-back"]
    assert json.loads(row["contributions"])
    assert len(rows_of(done.settings, "risk_scores", [_GONE[3]])) == 1


def test_without_a_key_nothing_is_erased(trained: Trained, tmp_path: Path) -> None:
    broken_key = tmp_path / "no.key"
    broken_key.write_text("nonsense")
    for location in (tmp_path / "missing.key", broken_key):
        ended = run(trained.settings, "erase", "-i", _OWN, "--patient", _STAYING[1], "--out", tmp_path / "out",
                    ERASURE_KEY_LOCATION=str(location))  # fmt: skip
        assert ended.code == 3
        assert "ERASURE_KEY_LOCATION" in ended.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_what_is_no_id_is_refused_and_not_repeated(trained: Trained, tmp_path: Path) -> None:
    for command in ("erase", "export-patient"):
        ended = run(trained.settings, command, "-i", _OWN, "--patient", "no id at all", "--out", tmp_path / "out")
        assert (ended.code, "no id at all" in ended.stderr) == (3, False)


# --- models, later events, access


def test_models_that_learned_from_a_patient_are_named(trained: Trained, tmp_path: Path) -> None:
    """A patient of the history that the champion was trained on."""
    settings = trained.settings
    name = "simulated-of-the-history"
    send(settings, *stays(name))
    wait_until_applied(settings, 120)
    [late] = run(settings, "erase", "-i", _OWN, "--patient", name, "--out", tmp_path, "--json").document
    assert trained.training.version not in {one["version"] for one in late["models"] if one["trained"] != "unknown"}
    key = topic_name(TopicFamily.ENCOUNTERS, _OWN)
    ends = ends_of(settings, key)
    first = read_since(settings, key, dict.fromkeys(ends, 0))[0]
    patient_id = (first.key or b"").decode().removeprefix("Patient/")
    exported = run(settings, "export-patient", "-i", _OWN, "--patient", patient_id, "--json").document
    told = {one["version"]: (one["trained"], one["digest"]) for one in exported["models"]}
    assert told[trained.training.version][0] == "yes"


def test_events_of_a_patient_who_is_refused_are_rejected_with_a_code_of_their_own(
    trained: Trained, tmp_path: Path
) -> None:
    settings, name = trained.settings, "erase-refused"
    send(settings, *stays(name))
    wait_until_applied(settings, 120)
    options = ("erase", "-i", _OWN, "--patient", name, "--out", tmp_path, "--json")
    [refusing] = run(settings, *options, "--future", "refuse").document
    topic = topic_name(TopicFamily.REJECTED, _OWN)
    before = ends_of(settings, topic)
    send(settings, *stays(name))
    wait_until_applied(settings, 120)
    assert rows_of(settings, "risk_scores", [name]) == []
    told = [dict(one.headers)["healthalliance.reason"] for one in read_since(settings, topic, before)]
    assert told == [b"patient-erased"] * 2
    assert (refusing["future"], refusing["nothing_found"]) == ("refuse", False)
    assert "postgresql: patient_history" in {one["where"] for one in refusing["remains"]}
    [again] = run(settings, *options).document  # the rejections; who was refused stays so
    [accepting] = run(settings, *options, "--future", "accept").document
    assert [one["future"] for one in (again, accepting)] == ["refuse", "accept"]
    assert rows_of(settings, "patient_history", [name]) == []
    send(settings, *stays(name))
    wait_until_applied(settings, 120)
    assert rows_of(settings, "risk_scores", [name])


def test_a_patient_gets_all_that_is_stored(done: Done) -> None:
    told, name = done.exported, _GONE[0]
    assert told["patient"] == f"Patient/{name}"
    assert set(told["history"]["encounters"]) == {f"{name}-e1", f"{name}-e2"}
    assert told["history"]["conditions"][f"{name}-c"]["facts"]["code"]
    assessments: Any = Bundle.model_validate(told["risk_assessments"])
    found = done.certificate(name)
    assert len(assessments.entry) == next(one["found"] for one in found["stores"] if one["part"] == "risk_scores")
    assert assessments.entry[0].resource.subject.reference == f"Patient/{name}"
    for table, number in {"score_outcomes": 2, "worklist_marks": 1, "cds_cards": 1, "alerts": 1,
                          "alert_standings": 1, "rejected_events": 1}.items():  # fmt: skip
        assert len(told[table]) == number, table
    assert [one["what"] for one in told["recipients"]][:2] == [f"encounters.{_OWN}", f"risk.{_OWN}"]


def test_an_export_to_a_file_is_readable_by_its_owner_only(trained: Trained, done: Done, tmp_path: Path) -> None:
    ended = run(trained.settings, "export-patient", "-i", _OWN, "--patient", _STAYING[2], "--out", tmp_path / "one")
    assert ended.code == 0, ended.stderr
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o600
    assert json.loads((tmp_path / "one").read_text())["patient"] == f"Patient/{_STAYING[2]}"
