"""The Compose file, without a Docker engine: it is valid, and all that it names exists and agrees with its home."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml
from typer.core import TyperGroup
from typer.main import get_command

from connectors.settings import Settings
from healthalliance.cli import app
from healthalliance.local_stack.kafka import only_node, server_properties
from schemas.institutions import institutions
from schemas.topics import TOPIC_SPECS
from tests.contract.source_code import ROOT
from tests.contract.test_settings import compose_example, variables
from tests.deploy import dockerfile
from tests.deploy.terraform_files import values
from tests.documents import NAMES, all_commands, inline_code, needs_engine, read

TEXT = (ROOT / "docker-compose.yml").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
# From compose-spec/compose-go v2.16.2, schema/compose-spec.json (Apache License 2.0), unchanged.
SCHEMA = json.loads((ROOT / "tests/deploy/compose-spec.json").read_text("utf-8"))

OURS = {name for name, one in SERVICES.items() if one["image"].startswith("healthalliance/")}
PROGRAMS = OURS - {"mlflow"}
ONCE = {"topics", "migrations"}
EACH = pytest.mark.parametrize("name", SERVICES)
EACH_PROGRAM = pytest.mark.parametrize("name", sorted(PROGRAMS))


def environment(name: str) -> dict[str, str | None]:
    found: dict[str, str | None] = SERVICES[name].get("environment", {})
    return found


def published(name: str) -> dict[int, int]:
    """Read a service's ports: on this machine → in the container."""
    pairs = [re.fullmatch(r"127\.0\.0\.1:(\d+):(\d+)", one) for one in SERVICES[name].get("ports", [])]
    return {int(pair[1]): int(pair[2]) for pair in pairs if pair}


def mounts(name: str) -> dict[str, str]:
    """Read a service's volumes: target → source."""
    return {one.split(":")[1]: one.split(":")[0] for one in SERVICES[name].get("volumes", [])}


# --- the file


def test_it_is_a_compose_file_by_the_specifications_own_schema() -> None:
    jsonschema.Draft7Validator(SCHEMA).validate(COMPOSE)


@pytest.mark.parametrize(
    "change", [{"imagee": "x"}, {"depends_on": {"kafka": {"condition": "healthy"}}}, {"read_only": [1]}], ids=str
)
def test_what_the_schema_does_not_know_is_noticed(change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"services": {"one": {"image": "x", **change}}}, SCHEMA)


@EACH
def test_a_container_has_no_rights_and_bounds(name: str) -> None:
    one = SERVICES[name]
    assert (one["read_only"], one["cap_drop"], one["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"])
    assert one.keys() & {"privileged", "cap_add", "network_mode", "pid", "devices", "ipc"} == set()
    assert one["mem_limit"]
    assert one["cpus"] > 0
    assert one["pids_limit"] > 0
    assert one["logging"]["options"].keys() == {"max-size", "max-file"}
    assert one["restart"] == ("no" if name in ONCE else "unless-stopped")


@EACH
def test_ports_are_opened_on_loopback_alone(name: str) -> None:
    assert len(published(name)) == len(SERVICES[name].get("ports", []))


def test_no_two_services_have_one_port_and_no_worker_has_one_since_there_may_be_several() -> None:
    ports = [port for name in SERVICES for port in published(name)]
    assert len(ports) == len(set(ports))
    assert published("worker") == {}


@EACH
def test_what_is_mounted_exists_and_files_of_this_machine_are_only_read(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source, _, rest = volume.partition(":")
        if source.startswith("."):
            assert (ROOT / source).is_dir()
            assert rest.endswith(":ro")
        else:
            assert source in COMPOSE["volumes"]


def test_every_volume_is_used_and_by_one_service() -> None:
    used = [source for name in SERVICES for source in mounts(name).values() if not source.startswith(".")]
    assert sorted(used) == sorted(COMPOSE["volumes"])


@EACH
def test_who_waits_for_another_waits_for_its_health_or_its_end(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        finished = other in ONCE
        assert how["condition"] == ("service_completed_successfully" if finished else "service_healthy")
        assert finished or is_checked(other), f"{name} waits for {other}, which has no health check"


def is_checked(name: str) -> bool:
    if "healthcheck" in SERVICES[name]:
        return "test" in SERVICES[name]["healthcheck"]
    target = SERVICES[name].get("build", {}).get("target")
    return bool(target) and any(stage.all("HEALTHCHECK") for stage in dockerfile.lineage(target))


def test_programs_wait_for_all_that_they_use() -> None:
    needed = {"kafka", "schema-registry", "postgres", "mlflow", "topics", "migrations"}
    assert {name: set(SERVICES[name]["depends_on"]) for name in PROGRAMS - ONCE} == dict.fromkeys(
        PROGRAMS - ONCE, needed
    )


# --- our images


@pytest.mark.parametrize("name", sorted(OURS))
def test_an_image_is_named_as_its_repository_and_built_from_its_target(name: str) -> None:
    image = SERVICES[name]["image"].removeprefix(f"{values()['name']}/")
    assert image in re.findall(r'"(\w+)"', values()["images"])
    assert SERVICES[name]["build"] == {"context": ".", "target": image}
    assert image in dockerfile.stages()


def test_each_repository_has_a_service_of_its_name() -> None:
    assert set(re.findall(r'"(\w+)"', values()["images"])) <= SERVICES.keys()


def parse(words: list[str]) -> None:
    """Parse arguments as the command line does, without running anything; raise click's UsageError."""
    command: Any = get_command(app)
    while isinstance(command, TyperGroup) and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    if isinstance(command, TyperGroup) and not (command.invoke_without_command and words[0].startswith("-")):
        raise typer.BadParameter(f"no command: {words}")
    command.make_context("healthalliance", list(words))


@EACH_PROGRAM
def test_a_command_is_one_of_the_command_line_with_its_options(name: str) -> None:
    assert dockerfile.last(SERVICES[name]["build"]["target"], "ENTRYPOINT") == '["healthalliance"]'
    parse(SERVICES[name]["command"])


@pytest.mark.parametrize("target", ["worker", "api", "trainer"])
def test_an_image_by_itself_does_what_its_service_does(target: str) -> None:
    assert dockerfile.command(target) == SERVICES[target]["command"]
    parse(dockerfile.command(target))


@pytest.mark.parametrize("text", ["trian", "train --evry 24h", "topics ensure all", "topics", "alerts --min-bnd high"])
def test_a_command_that_is_none_is_noticed(text: str) -> None:
    with pytest.raises(Exception, match=r"no command|No such option|unexpected extra argument") as raised:
        parse(text.split())
    assert type(raised.value).__name__ in {"BadParameter", "NoSuchOption", "UsageError"}


# Command of `docker compose` → its options, with whether a value follows.
_OPTIONS = {
    "up": {"-d": False, "--scale": True}, "down": {"--volumes": False}, "ps": {"--all": False}, "stop": {}, "start": {},
    "run": {"--rm": False}, "exec": {}, "logs": {"--follow": False, "--tail": True},
}  # fmt: skip


def check_compose_command(words: list[str]) -> None:
    """Check a `docker compose` line's command, options, services and, where it runs one of ours, that it is one."""
    assert words[:2] == ["docker", "compose"]
    words = words[2:]
    if words[0] == "--profile":
        assert {words[1]} == {profile for one in SERVICES.values() for profile in one.get("profiles", [])}
        words = words[2:]
    command, options, words = words[0], _OPTIONS[words[0]], words[1:]
    while words and words[0].startswith("-"):
        if options[words[0]] and words[0] == "--scale":
            assert words[1].partition("=")[0] in SERVICES
        words = words[1 + options[words[0]] :]
    if command not in {"run", "exec"}:
        assert set(words) <= SERVICES.keys()
        return
    service, *ours = words
    assert service in SERVICES
    if command == "exec":
        assert ours.pop(0) == "healthalliance"
    parse(ours)


def told() -> list[list[str]]:
    lines = [one.words() for one in all_commands() if needs_engine(one)]
    spans = [span.split() for page in NAMES for span in inline_code(read(page)) if span.startswith("docker compose ")]
    return [*lines, *spans]


@pytest.mark.parametrize("words", told(), ids=" ".join)
def test_what_the_pages_tell_to_type_names_services_and_commands_that_exist(words: list[str]) -> None:
    check_compose_command(words)


@pytest.mark.parametrize(
    "text", ["up --detach", "stop workers", "run --rm worker trian", "exec trainer train", "up -d --scale wroker=2"]
)
def test_what_does_not_exist_is_noticed(text: str) -> None:
    with pytest.raises((AssertionError, KeyError, typer.BadParameter)):
        check_compose_command(["docker", "compose", *text.split()])


@EACH_PROGRAM
def test_a_program_writes_to_its_volume_and_tmp(name: str) -> None:
    assert any(one.startswith("/tmp:") for one in SERVICES[name]["tmpfs"])
    assert set(mounts(name)) <= {dockerfile.environment("worker")["DATA_DIR"]}
    assert name in ONCE or name.startswith("alerts") or mounts(name) == {"/data": name}


def test_each_institution_has_its_alerts_under_a_profile_and_its_key_for_the_api() -> None:
    alerting = {name: one for name, one in SERVICES.items() if "profiles" in one}
    assert {one["command"][2]: one["profiles"] for one in alerting.values()} == {
        one: ["alerts"] for one in institutions()
    }
    keys = variables("institution_api_key", Settings.model_fields["institution_api_key"])
    assert set(keys) <= environment("api").keys()


def test_no_service_but_alerts_is_under_a_profile() -> None:
    assert {name for name, one in SERVICES.items() if "profiles" in one} == {f"alerts-{one}" for one in institutions()}


# --- settings and secrets

SETTINGS = {one: name for name, field in Settings.model_fields.items() for one in variables(name, field)}
# The image sets them, or its default is right in a container of its own.
LEFT = {"DATA_DIR", "METRICS_HOST", "METRICS_PORT", "API_HOST", "API_PORT", "API_METRICS_PORT", "ALERT_METRICS_PORT"}
# Nothing that runs all the time may sign: whoever erases gives it to that one run.
LEFT |= {"ERASURE_KEY_LOCATION"}
# The file's own broker is on a network of its own and knows no users: what .env says of others must not reach it.
LEFT |= {one for one in SETTINGS if one.startswith(("KAFKA_SECURITY_", "KAFKA_SASL_", "KAFKA_SSL_"))}


@EACH_PROGRAM
def test_a_programs_variables_are_settings(name: str) -> None:
    assert environment(name).keys() <= SETTINGS.keys() - LEFT


def test_every_setting_reaches_a_program() -> None:
    reached = {one for name in PROGRAMS for one in environment(name)}
    assert reached == SETTINGS.keys() - LEFT


def test_secrets_reach_only_those_who_use_them() -> None:
    who = {one: {name for name in PROGRAMS if one in environment(name)} for one in SETTINGS}
    assert who["PSEUDONYM_KEY"] == {"worker", "api"}
    alerting = {f"alerts-{one}" for one in institutions()}
    assert {one: who[one] for one in SETTINGS if one.startswith("ALERT_") and one not in LEFT} == {
        one: alerting for one in SETTINGS if one.startswith("ALERT_") and one not in LEFT
    }
    assert all(who[one] == {"api"} for one in SETTINGS if one.startswith("INSTITUTION_API_KEY_"))


_VARIABLE = re.compile(r"\$\{?(\w+)(:\?[^}]*)?\}?")


def test_each_variable_is_required_says_how_to_make_it_and_is_in_the_example() -> None:
    found = {match[1]: match[2] for match in _VARIABLE.finditer(TEXT)}
    assert found.keys() == {"POSTGRES_PASSWORD", "GRAFANA_ADMIN_PASSWORD", "PSEUDONYM_KEY"}
    assert [name for name, said in found.items() if not said or "openssl rand -hex" not in said] == []
    assert found.keys() - SETTINGS.keys() == compose_example().keys()


def test_the_example_of_what_compose_needs_holds_no_secret_and_says_how_to_make_it() -> None:
    assert {value for _, value in compose_example().values()} == {""}
    assert [one for one, (comment, _) in compose_example().items() if "openssl rand -hex" not in comment] == []


def test_no_secret_is_written_down() -> None:
    named = [
        (name, one, value) for name in SERVICES for one, value in environment(name).items()
        if re.search("PASSWORD|KEY|SECRET", one) and value and not str(value).startswith("${")
    ]  # fmt: skip
    assert named == []


# --- addresses


@EACH_PROGRAM
def test_addresses_lead_to_services_and_the_ports_that_they_listen_on(name: str) -> None:
    listening = {
        "KAFKA_BOOTSTRAP_SERVERS": re.findall(
            r"PLAINTEXT://([\w.]+:\d+)", str(environment("kafka")["KAFKA_ADVERTISED_LISTENERS"])
        ),
        "SCHEMA_REGISTRY_URL": [f"http://schema-registry:{published('schema-registry')[8081]}/apis/ccompat/v7"],
        "MLFLOW_TRACKING_URI": [f"http://mlflow:{option('mlflow', '--port')}"],
    }
    for variable, addresses in listening.items():
        assert environment(name).get(variable, addresses[0]) == addresses[0]
    address = environment(name).get("DATABASE_URL")
    own = environment("postgres")
    said = f"postgresql://{own['POSTGRES_USER']}:{own['POSTGRES_PASSWORD']}@postgres:5432/{own['POSTGRES_DB']}"
    assert address in (None, said)


def option(name: str, option: str) -> str:
    [found] = [one.partition("=")[2] for one in SERVICES[name]["command"] if one.startswith(f"{option}=")]
    return str(found)


def default(setting: str) -> int:
    return int(Settings.model_fields[setting].default)


def test_the_programs_ports_are_the_settings_and_metrics_are_where_they_were_before() -> None:
    assert published("api") == {8000: default("api_port"), 8001: default("api_metrics_port")}
    assert f"127.0.0.1:{default('alert_metrics_port')}/metrics" in SERVICES["alerts-dkfz"]["healthcheck"]["test"][-1]


def test_the_other_ports_are_those_that_the_page_tells() -> None:
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    told = {(name, int(port)) for port, name in re.findall(r"\| `127\.0\.0\.1:(\d+)` \| `([\w-]+)` \|", page)}
    assert told == {(name, port) for name in SERVICES for port in published(name)}


def test_prometheus_finds_worker_and_api_by_their_services_and_ports() -> None:
    jobs = yaml.safe_load((ROOT / "monitoring/prometheus/prometheus.yml").read_text("utf-8"))["scrape_configs"]
    found = {job["job_name"]: (one["names"], one["port"]) for job in jobs for one in job["dns_sd_configs"]}
    assert found == {"worker": (["worker"], default("metrics_port")), "api": (["api"], default("api_metrics_port"))}
    assert {names[0] for names, _ in found.values()} <= SERVICES.keys()
    assert option("prometheus", "--config.file") == "/etc/prometheus/prometheus.yml"
    assert mounts("prometheus")["/etc/prometheus"] == "./monitoring/prometheus"


def test_grafana_finds_its_dashboards_and_prometheus() -> None:
    folder = ROOT / "monitoring" / "grafana" / "provisioning"
    [dashboards] = yaml.safe_load((folder / "dashboards" / "healthalliance.yml").read_text("utf-8"))["providers"]
    [source] = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text("utf-8"))["datasources"]
    assert mounts("grafana")[dashboards["options"]["path"]] == "./monitoring/grafana/dashboards"
    assert mounts("grafana")["/etc/grafana/provisioning"] == "./monitoring/grafana/provisioning"
    assert source["url"] == f"http://prometheus:{published('prometheus')[9090]}"


# --- what it runs on is what the tests run on


def version(name: str) -> str:
    return str(SERVICES[name]["image"].partition(":")[2])


def test_the_versions_are_those_of_the_local_stack_which_the_tests_run_on() -> None:
    pom = (ROOT / "healthalliance/local_stack/pom.xml").read_text("utf-8")
    artifacts = dict(re.findall(r"<artifactId>([\w.-]+)</artifactId>\s*<version>([\w.]+)</version>", pom))
    assert (version("kafka"), version("schema-registry")) == (
        artifacts["kafka_2.13"],
        artifacts["apicurio-registry-app"],
    )
    major = re.search(r'_MAJOR = "(\d+)"', (ROOT / "healthalliance/local_stack/postgres.py").read_text("utf-8"))
    assert major
    assert version("postgres").startswith(f"{major[1]}.")


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - OURS))
def test_an_image_of_others_is_of_one_version(name: str) -> None:
    assert re.fullmatch(r"v?\d+\.\d+(\.\d+)?(-\w+)?", version(name))


def test_the_broker_is_configured_as_the_local_stack_and_takes_the_largest_event() -> None:
    given = {
        one.removeprefix("KAFKA_").replace("_", ".").lower(): str(value)
        for one, value in environment("kafka").items() if one.startswith("KAFKA_") and one != "KAFKA_HEAP_OPTS"
    }  # fmt: skip
    local = dict(line.split("=", 1) for line in server_properties(Path("/log"), only_node((1, 2))).splitlines())
    assert given.keys() - local.keys() == {"inter.broker.listener.name"}
    same = ("process.roles", "auto.create.topics.enable", "offsets.retention.minutes", "controller.listener.names")
    assert {one: given[one] for one in same} == {one: local[one] for one in same}
    terraform = (ROOT / "terraform" / "msk.tf").read_text("utf-8")
    for one in ("message.max.bytes", "replica.fetch.max.bytes"):
        assert f"{one}={given[one]}\n" in terraform
    assert max(int(spec.config.get("max.message.bytes", 0)) for spec in TOPIC_SPECS.values()) <= int(
        given["message.max.bytes"]
    )
    assert mounts("kafka") == {given["log.dirs"]: "kafka"}
    assert len(base64.urlsafe_b64decode(f"{environment('kafka')['CLUSTER_ID']}==")) == 16


def test_the_brokers_listeners_are_told_as_they_listen() -> None:
    kafka = environment("kafka")
    listening = dict(re.findall(r"(\w+)://:(\d+)", str(kafka["KAFKA_LISTENERS"])))
    told = {
        name: (host, port)
        for name, host, port in re.findall(r"(\w+)://([\w.]+):(\d+)", str(kafka["KAFKA_ADVERTISED_LISTENERS"]))
    }
    assert told == {"PLAINTEXT": ("kafka", listening["PLAINTEXT"]), "HOST": ("127.0.0.1", listening["HOST"])}
    assert published("kafka") == {int(listening["HOST"]): int(listening["HOST"])}
    assert kafka["KAFKA_CONTROLLER_QUORUM_VOTERS"] == f"{kafka['KAFKA_NODE_ID']}@kafka:{listening['CONTROLLER']}"


def test_the_database_hides_patients_as_the_local_stacks() -> None:
    local = (ROOT / "healthalliance/local_stack/postgres.py").read_text("utf-8")
    for one in SERVICES["postgres"]["command"][1:]:
        name, _, value = one.removeprefix("--").partition("=")
        assert f'"{name}": "{value}"' in local
    assert "--log_min_error_statement=panic" in SERVICES["postgres"]["command"]


def test_the_model_store_answers_to_the_name_that_programs_call_it_by() -> None:
    assert "mlflow:5000" in option("mlflow", "--allowed-hosts").split(",")
    assert option("mlflow", "--artifacts-destination").startswith("/data/")
    assert option("mlflow", "--backend-store-uri").startswith("sqlite:////data/")
    assert mounts("mlflow") == {"/data": "mlflow"}
