"""The command line: help, exit codes, one JSON document on stdout, errors in one sentence without traceback."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from connectors.settings import Settings
from healthalliance import cli
from schemas import errors
from schemas.errors import HealthAllianceError
from schemas.institutions import institutions
from tests.unit.schemas.fhir_events import bundle, encounter, patient, to_bytes

COMMANDS = {
    "validate", "score", "publish", "simulate", "worker", "train", "replay", "demo", "up", "down", "status", "doctor",
    "alerts", "api", "api-key", "explain", "migrate", "rebuild", "report", "erase", "export-patient", "verify-erasure",
    "acl", "audit", "export", "federated", "intake", "model", "pseudonym", "rejected", "snapshot", "topics",
}  # fmt: skip
GROUPS = {
    "acl", "alerts", "audit", "export", "federated", "intake", "model", "pseudonym", "rejected", "snapshot", "topics",
}  # fmt: skip

Main = Callable[..., tuple[int, str, str]]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Main:
    """Run the command line as the installed script does; return exit code, stdout and stderr."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["healthalliance", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            sys.exit(cli.main())  # type: ignore[func-returns-value]  # None, which is 0, where it does not exit itself
        return int(exited.value.code or 0), *capsys.readouterr()

    return run


# --- help and usage


def test_help_lists_every_command_and_the_institutions() -> None:
    result = CliRunner().invoke(cli.app, ["--help"])
    assert result.exit_code == 0
    assert [one for one in (*COMMANDS, *institutions()) if one not in result.output] == []
    assert {
        command.name or command.callback.__name__ for command in cli.app.registered_commands if command.callback
    } == (COMMANDS - GROUPS)


@pytest.mark.parametrize("command", sorted(COMMANDS - GROUPS))
def test_every_command_explains_itself_and_can_print_json(command: str) -> None:
    result = CliRunner().invoke(cli.app, [command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "--json" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["validate"],
        ["score", "x.json"],
        ["simulate", "dkfz", "--patients", "0"],
        ["publish", "dkfz", "--dataset", "another", "x.csv"],
        ["publish", "dkfz", "--part", "1/3", "x.json"],
        ["publish", "dkfz", "--dataset", "diabetes130", "x.csv", "y.csv"],
        ["alerts"],
        ["alerts", "-i", "dkfz", "--json"],
        ["alerts", "-i", "dkfz", "--budget", "0"],
        ["alerts", "-i", "dkfz", "--sink", "pigeon"],
        ["alerts", "-i", "dkfz", "--channel", "Ward 7"],
        ["alerts", "-i", "dkfz", "--sink", "email", "--url", "https://x.example"],
        ["alerts", "simulate"],
        ["alerts", "simulate", "-i", "dkfz", "--clock", "sun"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], main: Main) -> None:
    code, out, err = main(*arguments)
    assert (code, out) == (2, "")
    assert err


# --- errors


@pytest.mark.parametrize("kind", [kind for kind in vars(errors).values() if isinstance(kind, type)])
def test_an_error_is_one_sentence_and_its_exit_code(
    kind: type[HealthAllianceError], main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise kind

    monkeypatch.setattr(cli, "app", fail)
    assert main() == (kind.exit_code, "", f"healthalliance: {kind.__doc__}\n")


def test_an_interrupt_exits_as_shells_expect(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    assert main() == (130, "", "")


@pytest.mark.parametrize("command", ["publish", "simulate"])
def test_an_unknown_institution_is_refused_before_anything_is_done(command: str, main: Main) -> None:
    code, out, err = main(
        command, "charite", *["x.json"] * (command == "publish"), *["--to", "x"] * (command != "publish")
    )
    assert (code, out) == (3, "")
    assert err.startswith("healthalliance: There is no institution 'charite'")
    assert not Path("x").exists()


def test_a_setting_that_makes_no_sense_is_refused_by_name(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("x.json").write_bytes(to_bytes(encounter()))
    monkeypatch.setenv("METRICS_PORT", "no-number")
    code, _, err = main("validate", "x.json")
    assert code == 3
    assert err.startswith("healthalliance: METRICS_PORT: ")
    assert "no-number" not in err


# --- alerts


@pytest.mark.parametrize("command", [["alerts"], ["alerts", "simulate"]])
def test_alerts_and_their_simulation_can_print_json(command: list[str]) -> None:
    result = CliRunner().invoke(cli.app, [*command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "--json" in result.output


@pytest.mark.parametrize(
    ("sink", "variables", "named"),
    [
        ("webhook", {}, "ALERT_WEBHOOK_URL"),
        ("webhook", {"ALERT_WEBHOOK_URL": "hook.example/hush"}, "ALERT_WEBHOOK_URL"),
        ("webhook", {"ALERT_WEBHOOK_URL": "https://x.example", "ALERT_WEBHOOK_SECRET": "hush"}, "ALERT_WEBHOOK_SECRET"),
        ("slack", {"ALERT_SLACK_URL": "file:///hush"}, "ALERT_SLACK_URL"),
        ("email", {}, "ALERT_SMTP_HOST"),
        ("email", {"ALERT_SMTP_HOST": "mail.example", "ALERT_EMAIL_FROM": "a@x.example"}, "ALERT_EMAIL_TO"),
    ],
    ids=["no address", "no scheme", "short secret", "a file", "no server", "no receiver"],
)
def test_alerts_that_lack_a_setting_name_it_and_tell_no_secret(
    sink: str, variables: dict[str, str], named: str, main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code, out, err = main("alerts", "-i", "dkfz", "--sink", sink)
    assert (code, out) == (3, "")
    assert named in err
    assert "hush" not in err


# --- validate


def judged(main: Main, *files: object) -> tuple[int, list[dict[str, Any]]]:
    code, out, err = main("validate", *files, "--json")
    assert err == ""
    document = json.loads(out)
    assert isinstance(document, list)
    return code, document


def test_a_valid_resource_is_valid(main: Main) -> None:
    Path("x.json").write_bytes(to_bytes(encounter()))
    verdict = {"file": "x.json", "index": 0, "resource_type": "Encounter", "valid": True, "issues": []}
    assert judged(main, "x.json") == (0, [verdict])


def test_an_invalid_one_is_said_to_be_with_code_path_and_text(main: Main) -> None:
    Path("x.json").write_bytes(to_bytes(encounter(status="gone")))
    code, [verdict] = judged(main, "x.json")
    [issue] = verdict["issues"]
    assert (code, verdict["valid"]) == (1, False)
    assert issue.keys() == {"code", "path", "text"}
    assert (issue["code"], issue["path"]) == ("invalid-code", "Encounter.status")


def test_each_line_and_file_is_judged_in_order_whatever_it_holds(main: Main) -> None:
    values = [to_bytes(patient()), b"{broken", to_bytes(bundle(encounter(status="gone"), patient()))]
    Path("many.ndjson").write_bytes(b"\n".join(values))
    Path("one.json.gz").write_bytes(gzip.compress(to_bytes(encounter())))
    code, verdicts = judged(main, "many.ndjson", "one.json.gz")
    assert code == 1
    assert [(one["file"], one["index"], one["resource_type"], one["valid"]) for one in verdicts] == [
        ("many.ndjson", 0, "Patient", True),
        ("many.ndjson", 1, None, False),
        ("many.ndjson", 2, "Bundle", False),
        ("one.json.gz", 0, "Encounter", True),
    ]
    assert verdicts[2]["issues"][0]["path"] == "Bundle.entry[0].resource.status"


def test_without_json_people_read_what_is_wrong(main: Main) -> None:
    Path("x.json").write_bytes(to_bytes(encounter(status="gone")))
    code, out, _ = main("validate", "x.json")
    assert code == 1
    assert "invalid-code: Encounter.status" in out
    assert "1 invalid." in out


def test_a_file_that_is_not_there_is_an_error_and_no_traceback(main: Main) -> None:
    code, _, err = main("validate", "nowhere.json")
    assert code == 3
    assert err.startswith("healthalliance: ")
    assert "nowhere.json" in err
    assert "Traceback" not in err


# --- simulate


def test_simulating_into_a_file_prints_one_json_document_and_repeats_itself(main: Main) -> None:
    arguments = ("simulate", "dkfz", "--patients", 3, "--seed", 7, "--json", "--to")
    code, out, _ = main(*arguments, "one.ndjson")
    report = json.loads(out)
    assert code == 0
    assert report == {"institution": "dkfz", "events": report["events"], "seed": 7, "to": "one.ndjson"}
    assert len(Path("one.ndjson").read_bytes().splitlines()) == report["events"] > 0
    main(*arguments, "two.ndjson")
    assert Path("one.ndjson").read_bytes() == Path("two.ndjson").read_bytes()
