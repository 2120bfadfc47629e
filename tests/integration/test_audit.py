"""The audit log on a real database: one entry for each access, and whatever is done to a row is found."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import uuid4

import asyncpg
import httpx2
import pytest
from fhir.resources.R4B.auditevent import AuditEvent
from fhir.resources.R4B.bundle import Bundle

from connectors.audit_log import verify
from connectors.migrate import migrate
from connectors.settings import Settings, settings_environment
from connectors.tables import audit_events
from healthalliance.api.sessions import COOKIE
from healthalliance.auditing import note_access
from healthalliance.progress import fetch, wait_until_applied
from schemas.audit import Action
from schemas.errors import UnavailableError
from tests.integration import eventful
from tests.integration.command_line import run
from tests.integration.eventful import one_event
from tests.integration.reading import latest_risk
from tests.integration.running import Trained, database
from tests.integration.running_api import Api
from tests.unit.schemas.fhir_events import bundle, encounter, patient, to_bytes

pytestmark = pytest.mark.stack

OWN = "embl"
PERSON, STAY = "audit-person-7", "audit-stay-7"  # the hospital's ids, which the log must not have
FHIR = {"Content-Type": "application/fhir+json"}


# --- whatever is done to a row is found


@pytest.fixture(scope="module")
def log(stack: Settings) -> Iterator[Settings]:
    """Have a log of two chains of a few rows in a database of its own."""
    with database(stack, "audit") as own:
        migrate(own.database_url)
        for number in range(4):
            note_access(own, Action.READ_SCORE, "dkfz", [f"record:{number}"])
            note_access(own, Action.READ_EXPLANATION, "ukhd", [f"record:{number}"])
        yield own


def verdict(settings: Settings, *expect: str) -> tuple[int, dict[str, Any]]:
    """Ask as the command does, which is run once for itself: its start takes a second."""
    found = asyncio.run(verify(settings.database_url, expect))
    return 0 if found.is_whole else 1, {**asdict(found), "whole": found.is_whole}


@contextmanager
def tampered(settings: Settings, *statements: str) -> Iterator[None]:
    """Change rows as only the database's superuser can, and put them back."""
    before = fetch(settings, "SELECT * FROM audit_events")
    try:
        for statement in statements:
            as_superuser(settings, statement)
        yield
    finally:
        as_superuser(settings, "DELETE FROM audit_events")
        names = ", ".join(before[0].keys())
        values = ", ".join(f"${place}" for place, _ in enumerate(before[0], 1))
        for row in before:
            fetch(settings, f"INSERT INTO audit_events ({names}) VALUES ({values})", *row.values())


def as_superuser(settings: Settings, statement: str) -> None:
    fetch(settings, "ALTER TABLE audit_events DISABLE TRIGGER audit_events_only_grow")
    try:
        fetch(settings, statement)
    finally:
        fetch(settings, "ALTER TABLE audit_events ENABLE TRIGGER audit_events_only_grow")


def test_a_log_as_it_was_written_is_whole(log: Settings) -> None:
    code, found = verdict(log)
    assert (code, found["whole"], found["missing"]) == (0, True, ())
    assert [(one["institution"], one["rows"], one["broken"]) for one in found["chains"]] == [
        ("dkfz", 4, None), ("ukhd", 4, None),
    ]  # fmt: skip


def test_the_command_names_the_first_broken_row_and_exits_with_1(log: Settings) -> None:
    ended = run(log, "audit", "verify")
    assert ended.code == 0, ended.stderr
    heads = [one["head"] for one in verdict(log)[1]["chains"]]
    assert all(head in ended.stdout for head in heads)
    with tampered(log, "UPDATE audit_events SET agent = '' WHERE institution = 'ukhd' AND sequence = 2"):
        ended = run(log, "audit", "verify", "--json", f"--expect={heads[0]}", "--expect=00")
    assert (ended.code, ended.document["whole"], ended.document["missing"]) == (1, False, ["00"])
    assert [one["broken"] for one in ended.document["chains"]] == [
        None, {"sequence": 2, "why": "is not what was written"},
    ]  # fmt: skip


CHANGES = [
    ("institution", "'embl'"),
    ("sequence", "9"),
    ("recorded_at", "recorded_at + interval '1 microsecond'"),
    ("recorded_at", "'infinity'"),
    ("login", "'somebody'"),
    ("agent", "'operator:somebody'"),
    ("action", "'reveal'"),
    ("action", "'unheard of'"),
    ("subjects", "'[\"record:9\"]'"),
    ("subjects", "'9'"),
    ("outcome", "'failed'"),
    ("hash", "set_byte(hash, 0, get_byte(hash, 0) # 1)"),
]


def test_each_column_is_changed() -> None:
    assert {column for column, _ in CHANGES} == set(audit_events.columns.keys())


@pytest.mark.parametrize(("column", "value"), CHANGES)
@pytest.mark.parametrize("sequence", [1, 3, 4])
def test_any_change_of_any_row_is_found(log: Settings, column: str, value: str, sequence: int) -> None:
    heads = [one["head"] for one in verdict(log)[1]["chains"]] if sequence == 4 else []
    change = f"UPDATE audit_events SET {column} = {value} WHERE institution = 'dkfz' AND sequence = {sequence}"
    with tampered(log, change):
        code, found = verdict(log, *heads)
    assert (code, found["whole"]) == (1, False)
    broken = [(one["institution"], one["broken"]["sequence"]) for one in found["chains"] if one["broken"]]
    assert ("dkfz", sequence) in broken or (column in ("institution", "sequence") and (broken or found["missing"]))


@pytest.mark.parametrize(
    ("statement", "at"),
    [
        ("DELETE FROM audit_events WHERE institution = 'dkfz' AND sequence = 1", 1),
        ("DELETE FROM audit_events WHERE institution = 'dkfz' AND sequence = 2", 2),
        (
            """UPDATE audit_events AS one SET subjects = other.subjects, recorded_at = other.recorded_at,
                      hash = other.hash
               FROM audit_events AS other
               WHERE one.institution = 'dkfz' AND other.institution = 'dkfz' AND one.sequence IN (2, 3)
                 AND other.sequence = 5 - one.sequence""",
            2,
        ),
    ],
    ids=["first deleted", "deleted", "swapped"],
)
def test_a_row_that_is_gone_or_elsewhere_is_found(log: Settings, statement: str, at: int) -> None:
    with tampered(log, statement):
        code, found = verdict(log)
    assert (code, found["chains"][0]["broken"]["sequence"]) == (1, at)


@pytest.mark.parametrize("left", [0, 3])
def test_an_end_that_was_cut_off_is_found_by_an_earlier_hash(log: Settings, left: int) -> None:
    heads = [one["head"] for one in verdict(log)[1]["chains"]]
    with tampered(log, f"DELETE FROM audit_events WHERE institution = 'dkfz' AND sequence > {left}"):
        assert verdict(log)[0] == 0
        code, found = verdict(log, *heads)
    assert (code, found["missing"]) == (1, tuple(heads[:1]))
    assert verdict(log, *heads)[0] == 0


def test_rows_cannot_be_changed_by_whoever_can_add_them(log: Settings) -> None:
    for statement in ("UPDATE audit_events SET agent = ''", "DELETE FROM audit_events", "TRUNCATE audit_events"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="only be added to"):
            fetch(log, statement)
    rights = fetch(
        log,
        """SELECT privilege_type FROM pg_class, aclexplode(relacl) AS one
           WHERE relname = 'audit_events' AND privilege_type IN ('UPDATE', 'DELETE', 'TRUNCATE')""",
    )
    assert rights == []


_ADDS = """
import sys
from healthalliance.auditing import note_access
from connectors.settings import load_settings
from schemas.audit import Action
for number in range(40):
    note_access(load_settings(), Action.READ_SCORE, "embl", [f"record:{sys.argv[1]}-{number}"])
"""


def test_processes_that_add_at_once_keep_the_chain(log: Settings) -> None:
    environment = {**settings_environment(log)}
    both = [
        subprocess.Popen([sys.executable, "-c", _ADDS, name], env={"PATH": "/usr/bin:/bin", **environment})
        for name in ("one", "other")
    ]
    assert [one.wait(120) for one in both] == [0, 0]
    code, found = verdict(log)
    assert (code, {one["institution"]: one["rows"] for one in found["chains"]}["embl"]) == (0, 80)
    names = {one["subjects"] for one in fetch(log, "SELECT subjects FROM audit_events WHERE institution = 'embl'")}
    assert len(names) == 80


def test_a_temporary_table_in_front_of_the_log_takes_no_rows(log: Settings) -> None:
    before = len(fetch(log, "SELECT 1 FROM audit_events WHERE institution = 'dkfz'"))
    fetch(
        log,
        """DO $$ BEGIN
             CREATE TEMPORARY TABLE audit_events (LIKE public.audit_events);
             PERFORM append_audit_event('dkfz', now(), 'operator:x', 'reveal', '[]', 'granted', '');
             ASSERT (SELECT count(*) FROM pg_temp.audit_events) = 0;
             RAISE EXCEPTION USING ERRCODE = 'P0099';
           EXCEPTION WHEN SQLSTATE 'P0099' THEN NULL;
           END $$""",
    )
    assert len(fetch(log, "SELECT 1 FROM audit_events WHERE institution = 'dkfz'")) == before


# --- one entry for each access over HTTP


@dataclass(frozen=True)
class Asked:
    """A caller, and a score of its institution that it can ask for."""

    client: httpx2.Client = field(repr=False)
    settings: Settings = field(repr=False)
    record: str
    encounter: str

    def entries(self) -> list[dict[str, Any]]:
        found = fetch(self.settings, "SELECT * FROM audit_events WHERE institution = $1 ORDER BY sequence", OWN)
        return [{**row, "subjects": json.loads(row["subjects"])} for row in found]


@pytest.fixture(scope="module")
def asked(api: Api, trained: Trained, worker: object) -> Iterator[Asked]:
    value = bundle(encounter(STAY, patient=PERSON), patient(PERSON))
    eventful.send(trained.settings, one_event(OWN, PERSON, value))
    wait_until_applied(trained.settings, 120)
    row = latest_risk(trained.settings, OWN, [STAY])[STAY]
    with api.client(OWN) as client:
        yield Asked(client, trained.settings, str(row["record_id"]), str(row["encounter_pseudonym"]))


def _hook(asked: Asked) -> httpx2.Response:
    body = {
        "hook": "encounter-discharge",
        "hookInstance": str(uuid4()),
        "context": {"userId": "Practitioner/1", "patientId": PERSON, "encounterId": STAY},
    }
    return asked.client.post("/cds-services/readmission-risk", json=body)


def _predict(asked: Asked) -> httpx2.Response:
    value = to_bytes(encounter("audit-next", patient=PERSON, version=2))
    return asked.client.post("/api/v1/predict", params={"history": True}, content=value, headers=FHIR)


def _stream(asked: Asked) -> httpx2.Response:
    with asked.client.stream("GET", "/api/v1/worklist/events") as response:
        next(response.iter_lines())
        return response


_ENTRY = "/api/v1/worklist/{encounter_pseudonym}"

AUDITED: dict[str, tuple[Action, Callable[[Asked], httpx2.Response]]] = {
    "GET /api/v1/scores/{record_id}": (
        Action.READ_SCORE, lambda one: one.client.get(f"/api/v1/scores/{one.record}")
    ),
    "GET /api/v1/scores/{record_id}/explanation": (
        Action.READ_EXPLANATION, lambda one: one.client.get(f"/api/v1/scores/{one.record}/explanation"),
    ),
    "GET /api/v1/risk": (Action.LIST_RISK, lambda one: one.client.get("/api/v1/risk", params={"limit": 500})),
    "GET /api/v1/worklist": (
        Action.LIST_WORKLIST, lambda one: one.client.get("/api/v1/worklist", params={"order": "newest"}),
    ),
    "GET /api/v1/worklist/events": (Action.WATCH_WORKLIST, _stream),
    f"GET {_ENTRY}": (
        Action.READ_WORKLIST_ENTRY, lambda one: one.client.get(f"/api/v1/worklist/{one.encounter}")
    ),
    f"PUT {_ENTRY}/acknowledgement": (
        Action.ACKNOWLEDGE,
        lambda one: one.client.put(
            f"/api/v1/worklist/{one.encounter}/acknowledgement", json={"record_id": one.record}
        ),
    ),
    f"PUT {_ENTRY}/snooze": (Action.SNOOZE, lambda one: _snooze(one)),
    f"DELETE {_ENTRY}/{{what}}": (
        Action.TAKE_BACK, lambda one: one.client.delete(f"/api/v1/worklist/{one.encounter}/acknowledgement")
    ),
    "POST /api/v1/predict": (Action.PREDICT, _predict),
    "POST /cds-services/readmission-risk": (Action.SHOW_CARD, _hook),
}  # fmt: skip

# Operation → why it leaves no entry.
NOT_AUDITED = {
    "GET /health": "tells nothing of anybody",
    "GET /cds-services": "describes the service",
    "GET /api/v1/model": "describes the model",
    "GET /api/v1/institutions": "counts events, of the caller's own topics",
    "POST /api/v1/institutions/{institution_id}/encounters": "publishes what the caller has, and reads nothing",
    "POST /cds-services/readmission-risk/feedback": "is kept with the card, and answers a number",
}


def _snooze(one: Asked) -> httpx2.Response:
    [row] = fetch(one.settings, "SELECT now() + interval '1 day' AS until")
    return one.client.put(f"/api/v1/worklist/{one.encounter}/snooze", json={"until": row["until"].isoformat()})


def test_it_was_decided_of_each_operation_whether_it_is_an_access(api: Api) -> None:
    with api.client(None) as client:
        paths = client.get("/openapi.json").json()["paths"]
    operations = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert operations == AUDITED.keys() | NOT_AUDITED.keys()
    assert not AUDITED.keys() & NOT_AUDITED.keys()


@pytest.mark.parametrize("operation", AUDITED)
def test_an_access_leaves_one_entry(asked: Asked, operation: str) -> None:
    action, call = AUDITED[operation]
    before = asked.entries()
    response = call(asked)
    assert response.status_code in (200, 204), response.text
    [entry] = asked.entries()[len(before) :]
    assert (entry["action"], entry["outcome"]) == (action, "granted")
    assert entry["agent"].startswith("key:")
    told = " ".join(entry["subjects"])
    # Lists hold what other tests have sent, too.
    lists = {Action.LIST_RISK: "record:", Action.LIST_WORKLIST: "record:", Action.WATCH_WORKLIST: ""}
    if (named := lists.get(action)) is not None:
        assert named in told
    else:
        assert asked.record in told or asked.encounter in told or "patient:" in told
    assert PERSON not in str(entry)
    assert STAY not in str(entry)


def test_what_was_not_answered_leaves_none(asked: Asked) -> None:
    before = asked.entries()
    assert asked.client.get(f"/api/v1/scores/{uuid4()}").status_code == 404
    mark = {"record_id": str(uuid4())}
    assert asked.client.put(f"/api/v1/worklist/{uuid4()}/acknowledgement", json=mark).status_code == 404
    assert asked.client.get("/api/v1/risk", params={"institution": "dkfz"}).status_code == 403
    assert asked.entries() == before


def test_a_signed_in_browser_is_told_from_its_key_and_from_other_keys(asked: Asked, api: Api) -> None:
    with api.client(None) as browser:
        origin = {"Origin": api.url, "Sec-Fetch-Site": "same-origin"}
        assert browser.post("/session", json={"key": api.keys[OWN]}, headers=origin).status_code == 204
        assert browser.cookies.get(COOKIE)
        assert browser.get(f"/api/v1/scores/{asked.record}").status_code == 200
    assert asked.client.get(f"/api/v1/scores/{asked.record}").status_code == 200
    session, key = asked.entries()[-2:]
    assert (session["agent"].partition(":")[0], key["agent"].partition(":")[0]) == ("session", "key")
    assert session["agent"].partition(":")[2] == key["agent"].partition(":")[2]
    assert api.keys[OWN] not in str(key)


@pytest.mark.parametrize("operation", AUDITED)
def test_what_cannot_be_noted_is_not_answered(asked: Asked, operation: str) -> None:
    fetch(asked.settings, "ALTER FUNCTION append_audit_event RENAME TO append_audit_event_away")
    try:
        response = AUDITED[operation][1](asked)
    finally:
        fetch(asked.settings, "ALTER FUNCTION append_audit_event_away RENAME TO append_audit_event")
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"


def test_a_mark_that_cannot_be_noted_is_not_made(asked: Asked) -> None:
    """The one before has tried all: what is marked is what was noted."""
    marks = fetch(asked.settings, "SELECT * FROM worklist_marks WHERE encounter_pseudonym::text = $1", asked.encounter)
    assert [row["acknowledged_record_id"] for row in marks] == [None]  # it was taken back, and noted


# --- commands


def commands(asked: Asked) -> dict[str, tuple[Action, str, tuple[object, ...]]]:
    return {
        "explain": (Action.EXPLAIN, OWN, ("explain", asked.record)),
        "export scores": (Action.EXPORT_SCORES, OWN, ("export", "scores", asked.settings.data_dir / "out",
                                                      "--since", "30d", "-i", OWN)),
        "intake resume": (Action.RESUME_INTAKE, OWN, ("intake", "resume", OWN)),
        "rejected discard": (Action.DISCARD, OWN, ("rejected", "discard", "--because", "a test", f"{OWN}/0/999999")),
    }  # fmt: skip


def test_commands_are_noted_with_the_login_of_who_runs_them(asked: Asked) -> None:
    for action, institution, words in commands(asked).values():
        before = asked.entries()
        ended = run(asked.settings, *words, LOGNAME="nobody", USER="nobody")
        assert ended.code == 0, ended.stderr
        [entry] = asked.entries()[len(before) :]
        assert (entry["action"], entry["institution"], entry["outcome"]) == (action, institution, "granted")
        assert entry["agent"].startswith("operator:")
        assert "nobody" not in entry["agent"]


def test_a_revealed_event_is_noted(asked: Asked) -> None:
    broken = to_bytes(encounter("audit-broken", patient=PERSON, status="gibberish"))
    eventful.send(asked.settings, one_event(OWN, PERSON, broken))
    wait_until_applied(asked.settings, 120)
    [row] = fetch(
        asked.settings,
        """SELECT source_partition, source_offset FROM rejected_events WHERE institution = $1
           ORDER BY rejected_at DESC LIMIT 1""",
        OWN,
    )
    event = f"{OWN}/{row['source_partition']}/{row['source_offset']}"
    for words, action in (((), Action.SHOW_REJECTED), (("--reveal",), Action.REVEAL)):
        assert run(asked.settings, "rejected", "show", event, *words).code == 0
        assert (asked.entries()[-1]["action"], asked.entries()[-1]["subjects"]) == (action, [f"event:{event}"])


def test_a_change_that_fails_is_noted_twice(asked: Asked) -> None:
    ended = run(asked.settings, "model", "promote", "999", "--force")
    assert ended.code == 6
    rows = fetch(asked.settings, "SELECT * FROM audit_events WHERE institution = 'all' ORDER BY sequence DESC LIMIT 2")
    assert [(row["action"], row["outcome"]) for row in rows] == [
        ("promote-model", "failed"), ("promote-model", "granted"),
    ]  # fmt: skip


def test_the_list_is_given_as_audit_events_too(asked: Asked) -> None:
    ended = run(asked.settings, "audit", "list", "--institution", OWN, "--format", "fhir")
    found = Bundle.model_validate(ended.document)
    assert found.entry is not None
    assert len(found.entry) == len(asked.entries())
    assert all(isinstance(entry.resource, AuditEvent) for entry in found.entry)
    assert PERSON not in ended.stdout
    assert run(asked.settings, "audit", "list", "--institution", OWN, COLUMNS="200").code == 0


def test_a_database_that_is_away_is_told(asked: Asked) -> None:
    away = asked.settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/none"})
    with pytest.raises(UnavailableError):
        note_access(away, Action.ERASE, OWN)


def test_all_that_was_noted_here_is_whole(asked: Asked) -> None:
    assert verdict(asked.settings)[0] == 0
