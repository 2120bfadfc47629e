"""The commands of the documentation's pages, run as they stand there, in the order in which a newcomer reads them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from connectors.kafka import OutMessage, Publisher
from connectors.settings import settings_environment
from healthalliance.progress import fetch, wait_until_applied
from schemas.topics import TopicFamily, topic_name
from tests.documents import ELSEWHERE, Command, all_commands, as_they_stand, blocks, needs_engine, read, section
from tests.integration.reading import latest_risk
from tests.integration.running import Trained
from tests.integration.running_api import Api
from tests.unit.schemas.fhir_events import encounter, to_bytes

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("worker")]

_INSTITUTION = "ukhd"  # of which no other test has many events rejected
_PROGRAMS = Path(sys.executable).parent
# A model of its own, with which no worker scores. The gate need not judge what chance does to small data.
_OWN_MODEL = {"MODEL_NAME": "docs", "GATE_CALIBRATION_RATIO": "1000", "GATE_GROUP_AUROC_FLOOR": "0"}


@dataclass(frozen=True, slots=True)
class Expected:
    """What a command prints, as a pattern in it, and what it leaves; `variables` are set for it beside the stack's."""

    prints: str = ""
    leaves: str | None = None
    variables: dict[str, str] = field(default_factory=dict)


RUN = {
    "healthalliance validate --institution ukhd events.ndjson": Expected("All are valid"),
    "healthalliance publish ukhd export/": Expected("1 "),
    "healthalliance api-key ukhd": Expected(r"INSTITUTION_API_KEY_UKHD.*sha256:[0-9a-f]{64}"),
    'curl -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" http://127.0.0.1:8000/api/v1/predict '
    """-d '{"age": 81, "gender_encoded": 0, "num_conditions": 6, "num_medications": 9, "recent_encounters": 4}'""":
        Expected(r'"probability":0\.\d+.*"assumed":\["emergency_admission"'),
    'curl -H "Authorization: Bearer $KEY" -H "Content-Type: application/fhir+json" -H "Idempotency-Key: 5f0c1c9e" '
    "http://127.0.0.1:8000/api/v1/institutions/ukhd/encounters -d @event.json":
        Expected(r'"resourceType":"OperationOutcome".*"information".*partition \d+, offset \d+'),
    "healthalliance report --since 30d --out report.html": Expected("report.html", leaves="report.html"),
    "healthalliance report --since 2025-03-01 --institution ukhd": Expected(r"\.html"),
    "healthalliance export scores scores/ --since 2025-03": Expected(leaves="scores/scores-*.parquet"),
    "healthalliance export scores scores/ --since 90d --institution ukhd": Expected(
        leaves="scores/scores-ukhd-*.parquet"
    ),
    "healthalliance rejected list": Expected(rf"{_INSTITUTION} .*invalid-code"),
    "healthalliance rejected show dkfz/3/1405": Expected(r"invalid-code.*Encounter\.status"),
    "healthalliance rejected redrive --institution dkfz": Expected("--go"),
    'healthalliance rejected discard dkfz/3/1405 --because "a test of the sender\'s"': Expected("1"),
    "healthalliance audit verify": Expected("All rows are as they were written"),
    "healthalliance audit list --institution ukhd --since 7d": Expected("operator:"),
    "healthalliance audit list --institution ukhd --format fhir": Expected('"resourceType": "AuditEvent"'),
    "MODEL_ALIAS=challenger healthalliance train": Expected("docs version 2 is challenger", variables=_OWN_MODEL),
    "healthalliance train": Expected("docs version 1 is champion.*Report: ", variables=_OWN_MODEL),
    "healthalliance model list": Expected("2 │ challenger │.*1 │ champion │", variables=_OWN_MODEL),
    "healthalliance model compare champion 7": Expected("AUROC", variables=_OWN_MODEL),
    "healthalliance model promote 7": Expected("Version 2 scores now; version 1 did before", variables=_OWN_MODEL),
    "healthalliance model key": Expected("MODEL_SIGNING_KEY=.{44} MODEL_PUBLIC_KEYS=.{44} "),
    "healthalliance model sign 7": Expected("Version 2 is signed", variables=_OWN_MODEL),
    "healthalliance model rollback": Expected("Back from version 2 to version 1", variables=_OWN_MODEL),
}  # fmt: skip


RUN_HERE = [
    one for one in all_commands() if one.text not in ELSEWHERE.keys() | as_they_stand() and not needs_engine(one)
]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the commands run: a folder with the files they name, an environment, and what a page calls otherwise."""

    folder: Path
    environment: dict[str, str] = field(repr=False)
    stands_for: dict[str, str]

    def run(self, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        for on_page, here in self.stands_for.items():
            command = command.replace(on_page, here)
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env={**self.environment, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture(scope="module")
def place(trained: Trained, api: Api, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Lay the hospitals' page's own event into the files that pages name, and have an event rejected."""
    folder, settings = tmp_path_factory.mktemp("docs"), trained.settings
    event = example_event()
    (folder / "export").mkdir()
    for name in ("events.ndjson", "event.json", "export/event.json"):
        (folder / name).write_text(event)
    broken = to_bytes(encounter("docs", patient="docs", status="gibberish"))
    at: list[tuple[int, int]] = []
    publisher = Publisher(settings)
    message = OutMessage(topic_name(TopicFamily.ENCOUNTERS, _INSTITUTION), b"Patient/docs", broken)
    publisher.send(message, lambda partition, offset: at.append((partition, offset)))
    publisher.flush()
    wait_until_applied(settings, 120)
    [(partition, offset)] = at
    path = f"{_PROGRAMS}{os.pathsep}{os.environ['PATH']}"
    return Place(
        folder,
        {**os.environ, **settings_environment(settings), "PATH": path, "KEY": api.keys[_INSTITUTION], "COLUMNS": "160"},
        {
            "http://127.0.0.1:8000": api.url,
            "dkfz/3/1405": f"{_INSTITUTION}/{partition}/{offset}",
            "redrive --institution dkfz": f"redrive --institution {_INSTITUTION}",
            "compare champion 7": "compare champion 2",
            "promote 7": "promote 2",
            "sign 7": "sign 2",
        },
    )


def example_event() -> str:
    [block] = [one for one in blocks(read("docs/hospitals.md")) if one.language == "json"]
    return " ".join(block.text.split())


@pytest.mark.parametrize("command", RUN_HERE, ids=[f"{one.page}:{one.line}" for one in RUN_HERE])
def test_a_command_of_a_page_does_what_the_page_says(place: Place, command: Command) -> None:
    expected = RUN[command.text]
    ended = place.run(command.text, **expected.variables)
    said = " ".join(ended.stdout.split())
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert re.search(expected.prints, said), said
    assert expected.leaves is None or list(place.folder.glob(expected.leaves))


def test_the_event_that_the_hospitals_page_shows_is_scored(place: Place, trained: Trained) -> None:
    wait_until_applied(trained.settings, 120)
    row = latest_risk(trained.settings, _INSTITUTION, ["e1"])["e1"]
    assert (row["encounter_version"], row["inpatient"]) == ("version_id:2", True)


def test_the_producer_that_the_hospitals_page_shows_publishes(place: Place) -> None:
    [block] = [one for one in blocks(read("docs/hospitals.md")) if one.language == "python"]
    program = f"encounter = {example_event()}\n{block.text}"
    program = program.replace("broker:9092", place.environment["KAFKA_BOOTSTRAP_SERVERS"])
    (place.folder / "producer.py").write_text(program)
    ended = place.run("python producer.py")
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("page", "heading"), [("docs/operations.md", "How events end"), ("docs/models.md", "What became of the scores")]
)
def test_a_query_of_a_page_is_answered(trained: Trained, page: str, heading: str) -> None:
    asked = [one.text for one in blocks(section(page, heading)) if one.language == "sql"]
    assert asked
    for sql in asked:
        assert fetch(trained.settings, sql)
