"""The command line as a person or a script meets it: one JSON document, one clear sentence, the right exit code."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from connectors.settings import Settings
from healthalliance.local_stack.ports import free_port
from healthalliance.progress import read_progress
from schemas.errors import (
    ConfigurationError,
    HealthAllianceError,
    ModelRefusedError,
    NoModelError,
    UnavailableError,
)
from schemas.features import FEATURE_NAMES
from schemas.institutions import institutions
from tests.integration.command_line import Ended, of_local_stack, run
from tests.integration.running import Trained
from tests.unit.schemas.fhir_events import bundle, condition, encounter, patient

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("no_worker")]


@pytest.fixture
def valid_file(tmp_path: Path) -> Path:
    path = tmp_path / "valid.ndjson"
    path.write_text("".join(json.dumps(one) + "\n" for one in (patient("cli"), encounter("cli-e", patient="cli"))))
    return path


@pytest.fixture
def mixed_file(tmp_path: Path) -> Path:
    path = tmp_path / "mixed.ndjson"
    wrong = encounter("cli-wrong", status="gibberish", patient="cli")
    path.write_text("".join(json.dumps(one) + "\n" for one in (patient("cli"), wrong, bundle(condition()))) + "{\n")
    return path


def assert_one_document(ended: Ended, code: int = 0) -> None:
    assert ended.code == code, ended.stderr
    assert "Traceback" not in ended.stderr
    ended.document  # noqa: B018  # raises unless stdout is one JSON document


# --- without a stack


def test_validate_finds_a_valid_file_valid(valid_file: Path, tmp_path: Path) -> None:
    ended = run(Settings.model_construct(data_dir=tmp_path), "validate", valid_file, "--json")
    assert_one_document(ended)
    assert [(one["index"], one["resource_type"], one["valid"], one["issues"]) for one in ended.document] == [
        (0, "Patient", True, []),
        (1, "Encounter", True, []),
    ]


def test_validate_exits_with_1_for_an_invalid_file_and_says_what_is_wrong_where(
    mixed_file: Path, tmp_path: Path
) -> None:
    ended = run(Settings.model_construct(data_dir=tmp_path), "validate", mixed_file, "--json")
    assert_one_document(ended, code=1)
    assert {frozenset(one) for one in ended.document} == {
        frozenset({"file", "index", "resource_type", "valid", "issues"})
    }
    assert [one["valid"] for one in ended.document] == [True, False, True, False]
    assert {one["file"] for one in ended.document} == {str(mixed_file)}
    [issue] = ended.document[1]["issues"]
    assert issue.keys() == {"code", "path", "text"}
    assert (issue["code"], issue["path"]) == ("invalid-code", "Encounter.status")


def test_validate_tells_a_person_what_is_invalid(mixed_file: Path, tmp_path: Path) -> None:
    ended = run(Settings.model_construct(data_dir=tmp_path), "validate", mixed_file)
    assert ended.code == 1
    assert "invalid-code: Encounter.status" in ended.stdout
    assert ended.stdout.rstrip().endswith("2 invalid.")


def test_simulate_writes_the_same_file_for_the_same_seed(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one.ndjson", "two.ndjson", "three.ndjson")]
    settings = Settings.model_construct(data_dir=tmp_path)
    for path, seed in zip(paths, (3, 3, 4), strict=True):
        ended = run(settings, "simulate", "embl", "--patients", 5, "--seed", seed, "--to", path, "--json")
        assert_one_document(ended)
        assert ended.document == {
            "institution": "embl",
            "events": len(path.read_text().splitlines()),
            "seed": seed,
            "to": str(path),
        }
    one, two, three = (path.read_bytes() for path in paths)
    assert one == two != three


# --- on the stack


def test_score_prints_each_encounters_risk_and_why(trained: Trained, valid_file: Path) -> None:
    ended = run(of_local_stack(trained.settings), "score", valid_file, "--institution", "dkfz", "--json")
    assert_one_document(ended)
    [score] = ended.document
    assert (score["encounter_id"], score["patient_id"], score["model_version"]) == ("cli-e", "cli", "1")
    assert set(score["features"]) == set(score["contributions"]) == set(FEATURE_NAMES)
    assert score["baseline"] + sum(score["contributions"].values()) == pytest.approx(score["probability"], abs=1e-9)


def test_score_without_json_prints_one_json_line_for_each_encounter(trained: Trained, valid_file: Path) -> None:
    settings = of_local_stack(trained.settings)
    lines = run(settings, "score", valid_file, "-i", "dkfz").stdout.splitlines()
    assert [json.loads(line) for line in lines] == run(settings, "score", valid_file, "-i", "dkfz", "--json").document


def test_publish_reports_what_it_published(trained: Trained, valid_file: Path) -> None:
    before = read_progress(trained.settings)["dkfz"].waiting
    ended = run(of_local_stack(trained.settings), "publish", "dkfz", valid_file, "--json")
    assert_one_document(ended)
    assert {name: ended.document[name] for name in ("institution", "published", "skipped")} == {
        "institution": "dkfz",
        "published": 2,
        "skipped": {},
    }
    assert read_progress(trained.settings)["dkfz"].waiting - before == 2


def test_simulate_publishes_what_it_would_write(trained: Trained, tmp_path: Path) -> None:
    settings, path = of_local_stack(trained.settings), tmp_path / "events.ndjson"
    before = read_progress(trained.settings)["embl"].waiting
    arguments = ("simulate", "embl", "--patients", 3, "--seed", 1, "--until", "2022-06-01", "--json")
    published = run(settings, *arguments)
    assert_one_document(published)
    written = run(settings, *arguments, "--to", path).document["events"]
    assert published.document["events"] == written > 0
    assert read_progress(trained.settings)["embl"].waiting - before == written


def test_status_names_every_part_and_institution(trained: Trained) -> None:
    ended = run(of_local_stack(trained.settings), "status", "--json")
    assert_one_document(ended)
    assert {one["part"]: one["state"] for one in ended.document["parts"]} == dict.fromkeys(
        ("kafka", "registry", "postgres", "mlflow"), "running"
    )
    assert ended.document["institutions"].keys() == institutions().keys()
    assert all(sum(one["outcomes"].values()) > 0 for one in ended.document["institutions"].values())
    assert password_of(trained.settings) not in ended.stdout + ended.stderr


def test_status_shows_no_password_of_a_given_address(trained: Trained) -> None:
    ended = run(trained.settings, "status", "--json")
    assert "postgresql://healthalliance:***@127.0.0.1:" in ended.stdout
    assert password_of(trained.settings) not in ended.stdout + ended.stderr


def password_of(settings: Settings) -> str:
    return settings.database_url.partition("://")[2].partition("@")[0].partition(":")[2]


def test_doctor_finds_everything_well(trained: Trained) -> None:
    ended = run(of_local_stack(trained.settings), "doctor", "--json")
    assert_one_document(ended)
    assert {one["what"]: one["ok"] for one in ended.document} == dict.fromkeys(
        ("addresses", "topics", "schema registry", "migrations", "clock", "pseudonym key", "model", "stream"), True
    )


def test_topics_and_tables_that_are_there_are_left_as_they_are(trained: Trained) -> None:
    topics, tables = (run(trained.settings, *words, "--json") for words in (("topics", "ensure"), ("migrate",)))
    assert (topics.document, tables.document) == ({"created": []}, {"migrated": False})


# --- what goes wrong


@dataclass(frozen=True, slots=True)
class Failing:
    """A command that cannot succeed, and the error that it is to end with."""

    arguments: tuple[object, ...]
    error: type[HealthAllianceError]
    variables: dict[str, str]
    says: str


_STATUS = "Kafka is away, status"  # which tells what it can, and so does not fail


def failing_commands(file: Path) -> dict[str, Failing]:
    closed = f"127.0.0.1:{free_port(())}"
    no_kafka, no_database = {"KAFKA_BOOTSTRAP_SERVERS": closed}, {"DATABASE_URL": f"postgresql://u:secret@{closed}/d"}
    broken_model = file.with_name("model.onnx")
    broken_model.write_bytes(b"no model")
    return {
        "Kafka is away, train": Failing(("train",), UnavailableError, no_kafka, "Kafka"),
        _STATUS: Failing(("status", "--json"), UnavailableError, no_kafka, "Kafka"),
        "Kafka is away, worker": Failing(("worker",), UnavailableError, no_kafka, "KAFKA_BOOTSTRAP_SERVERS"),
        "Kafka is away, topics": Failing(("topics", "ensure"), UnavailableError, no_kafka, "KAFKA_BOOTSTRAP_SERVERS"),
        "PostgreSQL is away, migrate": Failing(("migrate",), UnavailableError, no_database, "DATABASE_URL"),
        "PostgreSQL is away": Failing(("intake", "resume", "dkfz"), UnavailableError, no_database, "DATABASE_URL"),
        "the registry is away": Failing(
            ("worker", "--metrics-port", free_port(())),
            UnavailableError,
            {"SCHEMA_REGISTRY_URL": f"http://{closed}"},
            "SCHEMA_REGISTRY_URL",
        ),
        "no stack runs": Failing(
            ("publish", "dkfz", file, "--json"), UnavailableError, {"DATA_DIR": str(file.parent)}, "healthalliance up"
        ),
        "an unknown institution": Failing(("publish", "charite", file, "--json"), ConfigurationError, {}, "charite"),
        "no such file": Failing(("validate", file.with_name("none.json")), ConfigurationError, {}, "none.json"),
        "a file that is no FHIR": Failing(
            ("publish", "dkfz", broken_model, "--json"), ConfigurationError, {}, "model.onnx"
        ),
        "a broken archive": Failing(
            ("publish", "dkfz", broken_archive(file), "--json"), ConfigurationError, {}, "broken.tar.xz"
        ),
        "a setting out of range": Failing(("status",), ConfigurationError, {"METRICS_PORT": "-1"}, "METRICS_PORT"),
        "no model yet": Failing(
            ("score", file, "-i", "dkfz"), NoModelError, {"MODEL_ALIAS": "nobody"}, "has the alias nobody"
        ),
        "a file that is no model": Failing(
            ("score", file, "-i", "dkfz", "--model", broken_model), ModelRefusedError, {}, "ONNX"
        ),
        "too many faults": Failing(
            ("simulate", "dkfz", "--faults", "0.9", "--to", file.with_name("x")), ConfigurationError, {}, "0.5"
        ),
    }


def broken_archive(file: Path) -> Path:
    path = file.with_name("broken.tar.xz")
    path.write_bytes(b"\xfd7zXZ\x00 broken")
    return path


@pytest.fixture(scope="module")
def failed(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Failing, Ended]]:
    """Run them side by side: most of the time they wait for something that does not answer."""
    file = tmp_path_factory.mktemp("failing") / "valid.ndjson"
    file.write_text(json.dumps(encounter("cli-e", patient="cli")))
    settings, commands = of_local_stack(trained.settings), failing_commands(file)
    with ThreadPoolExecutor(4) as pool:
        ended = pool.map(lambda one: run(settings, *one.arguments, **one.variables), commands.values())
        return {name: (commands[name], one) for name, one in zip(commands, ended, strict=True)}


def test_what_goes_wrong_is_one_sentence_on_stderr_and_its_own_exit_code(
    failed: dict[str, tuple[Failing, Ended]],
) -> None:
    wrong = {name: vars_of(ended) for name, (one, ended) in failed.items() if not ends_as_told(ended, one)}
    assert wrong.keys() - {_STATUS} == set(), wrong


def test_status_shows_the_parts_even_where_kafka_is_away(failed: dict[str, tuple[Failing, Ended]]) -> None:
    _, ended = failed[_STATUS]
    assert_one_document(ended)
    states = {one["part"]: one["state"] for one in ended.document["parts"]}
    assert (states["kafka"], states["postgres"]) == ("external", "running")
    assert ended.document["institutions"] == {}


def vars_of(ended: Ended) -> tuple[int, str, str]:
    return ended.code, ended.stdout[-500:], ended.stderr[-1000:]


def ends_as_told(ended: Ended, expected: Failing) -> bool:
    lines = ended.stderr.splitlines()
    return (
        ended.code == expected.error.exit_code
        and len(lines) == 1
        and lines[0].startswith("healthalliance: ")
        and lines[0].endswith(".")
        and expected.says in lines[0]
        and "secret" not in lines[0]
        and not ended.stdout
    )


def test_doctor_says_what_to_do_where_parts_are_away(trained: Trained) -> None:
    closed = f"postgresql://u:secret@127.0.0.1:{free_port(())}/d"
    ended = run(of_local_stack(trained.settings), "doctor", "--json", DATABASE_URL=closed)
    assert_one_document(ended, code=1)
    bad = {one["what"]: one["text"] for one in ended.document if not one["ok"]}
    assert bad.keys() == {"migrations", "clock", "stream"}
    assert all("DATABASE_URL" in text and "secret" not in text for text in bad.values())


def test_wrong_usage_exits_with_2_and_says_how_to_get_help(tmp_path: Path) -> None:
    settings = Settings.model_construct(data_dir=tmp_path)
    for arguments in (("publish",), ("score", "x.json"), ("no-such-command",), ("simulate", "dkfz", "--patients", "0")):
        ended = run(settings, *arguments)
        assert (ended.code, ended.stdout) == (2, "")
        assert "--help" in ended.stderr
