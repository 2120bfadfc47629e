"""The Kubernetes manifests: whatever they name is there, and is what programs, settings and Terraform say."""

from __future__ import annotations

import ipaddress
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from connectors.settings import Settings
from healthalliance.api import server
from healthalliance.api.app import create_app
from k8s import generate
from schemas.institutions import institutions
from schemas.topics import TopicFamily, topic_names
from streams.health import serve_health
from tests.contract.source_code import ROOT
from tests.contract.test_docs import faults_of
from tests.contract.test_settings import variables
from tests.deploy.kubernetes_files import (
    FOLDER,
    OVERLAYS,
    Manifest,
    Workload,
    build,
    named,
    needs_kustomize,
    of_kind,
    rendered,
    secrets_of,
    settings_of,
    workload,
    workloads,
)
from tests.deploy.manifests import VERSIONS, faults, strict
from tests.deploy.terraform_files import blocks, entries, values
from tests.documents import coded, rows, section

pytestmark = needs_kustomize

EACH_OVERLAY = pytest.mark.parametrize("overlay", OVERLAYS)
WORKLOADS = [one for overlay in OVERLAYS for one in workloads(overlay)] if needs_kustomize.args[0] is False else []
EACH_WORKLOAD = pytest.mark.parametrize("one", WORKLOADS, ids=str)
OWN = ("worker", "api", "trainer")
SETTINGS = {variable for name, field in Settings.model_fields.items() for variable in variables(name, field)}
# Variables that are no settings of ours → whose they are.
FOREIGN = {
    "HOME": "the system's",
    **dict.fromkeys(["PGSSLMODE", "PGSSLROOTCERT"], "those of PostgreSQL's clients"),
    **dict.fromkeys(["MLFLOW_BACKEND_STORE_URI", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "ARTIFACTS", "AWS_REGION"],
                    "MLflow's"),
    **dict.fromkeys(["PGDATA", "POSTGRES_DB", "POSTGRES_USER", "POSTGRES_PASSWORD"], "PostgreSQL's image's"),
    **dict.fromkeys(["LOG_DIR", "KAFKA_HEAP_OPTS"], "Kafka's scripts'"),
}  # fmt: skip
NATIVE = r"v1|(apps|batch|autoscaling|policy|networking\.k8s\.io)/v\d"


def is_own(container: dict[str, Any]) -> bool:
    return bool(container["image"].startswith("healthalliance/"))


def variables_of(container: dict[str, Any]) -> set[str]:
    return {one["name"] for one in container.get("env", [])}


# --- made of other files


def test_what_is_made_of_other_files_is_as_it_is_made() -> None:
    assert {path: path.read_text("utf-8") for path in generate.files()} == generate.files()


@EACH_OVERLAY
def test_the_cluster_holds_the_institutions_and_topics_that_the_programs_know(overlay: str) -> None:
    [held] = [one["data"] for one in of_kind(overlay, "ConfigMap") if "institutions.yaml" in one["data"]]
    for name in ("institutions.yaml", "topics.json"):
        assert held[name] == (ROOT / "schemas" / name).read_text("utf-8")


def test_every_folder_is_rendered() -> None:
    reached: set[Path] = set()
    folders = [FOLDER / "overlays" / overlay for overlay in OVERLAYS]
    while folders:
        folder = folders.pop().resolve()
        reached.add(folder)
        said = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
        named_here = [*said.get("resources", []), *said.get("components", [])]
        folders += [folder / one for one in named_here if (folder / one).is_dir()]
    assert reached == {path.parent for path in FOLDER.rglob("kustomization.yaml")}


# --- images and commands


@EACH_WORKLOAD
def test_every_image_has_a_repository_or_an_exact_version(one: Workload) -> None:
    for container in one.containers:
        image, _, tag = container["image"].rpartition(":")
        assert re.fullmatch(r"v?\d+\.\d+(\.\d+)?(-[a-z]+)?", tag), container["image"]
        if is_own(container):
            assert image.removeprefix(f"{values()['name']}/") in re.findall(r'"(\w+)"', values()["images"])


def test_other_projects_versions_are_those_that_the_programs_are_tried_with() -> None:
    pom = (ROOT / "healthalliance" / "local_stack" / "pom.xml").read_text("utf-8")
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    kafka, registry, mlflow = (
        found[1] if (found := re.search(pattern, text)) else ""
        for pattern, text in (
            (r"kafka_2.13</artifactId>\s*<version>([\d.]+)", pom),
            (r"apicurio-registry-app</artifactId>\s*<version>([\d.]+)", pom),
            (r"(?m)^mlflow==([\d.]+)", lock),
        )
    )
    postgres = entries("variable")["postgres_version"]["default"]
    images = {container["image"] for one in workloads("local") for container in one.containers}
    assert {f"apache/kafka:{kafka}", f"apicurio/apicurio-registry:{registry}"} <= images
    assert f"ghcr.io/mlflow/mlflow:v{mlflow}-full" in images
    assert [one for one in images if one.startswith(f"postgres:{postgres}.")]


def test_the_delivery_sets_the_images_of_the_overlay(tmp_path: Path) -> None:
    kustomize = shutil.which("kustomize")
    if kustomize is None:
        pytest.skip("there is no command kustomize")
    shutil.copytree(FOLDER, tmp_path / "k8s", ignore=shutil.ignore_patterns("__pycache__"))
    overlay, registry = tmp_path / "k8s" / "overlays" / "aws", "000000000000.dkr.ecr.eu-central-1.amazonaws.com"
    for image in OWN:
        subprocess.run(
            [kustomize, "edit", "set", "image", f"healthalliance/{image}={registry}/healthalliance/{image}:0123abc"],
            cwd=overlay, check=True, capture_output=True, timeout=60,
        )  # fmt: skip
    text = yaml.safe_dump_all(build(overlay))
    assert set(re.findall(r"image: (\S*healthalliance/\S+)", text)) == {
        f"{registry}/healthalliance/{image}:0123abc" for image in OWN
    }


@EACH_WORKLOAD
def test_every_command_is_one_of_the_command_line(one: Workload) -> None:
    for container in filter(is_own, one.containers):
        words: list[str] = [*container["command"], *container.get("args", [])]
        assert words[0] == "healthalliance"
        assert faults_of(shlex.join(words[1:])) == []


# --- settings, secrets, service accounts


@EACH_OVERLAY
def test_the_config_map_holds_settings_and_none_that_is_secret(overlay: str) -> None:
    given = settings_of(overlay)
    assert given.keys() <= SETTINGS
    read = Settings(_env_file=None, **{name.lower(): value for name, value in given.items()})  # type: ignore[arg-type]
    assert (read.metrics_host, read.api_host) == ("0.0.0.0", "0.0.0.0")
    assert not {"DATABASE_URL", "PSEUDONYM_KEY"} & given.keys()
    assert not any("@" in value for value in given.values())


@EACH_WORKLOAD
def test_every_variable_is_a_setting_or_another_programs(one: Workload) -> None:
    for container in one.containers:
        known = SETTINGS | FOREIGN.keys() if is_own(container) else {*FOREIGN} | {
            name for name in variables_of(container) if name.startswith("APICURIO_")
        }  # fmt: skip
        assert variables_of(container) <= known


@EACH_WORKLOAD
def test_a_program_gets_the_settings_and_what_it_cannot_do_without(one: Workload) -> None:
    keys = {"PSEUDONYM_KEY", "PSEUDONYM_KEY_PREVIOUS"}
    needs = {
        "worker": {"DATABASE_URL", *keys},
        "api": {"DATABASE_URL", *keys, *(f"INSTITUTION_API_KEY_{id_.upper()}" for id_ in institutions())},
        "alerting": {"DATABASE_URL"},
    }
    for container in filter(is_own, one.containers):
        maps = [each["configMapRef"]["name"] for each in container["envFrom"] if "configMapRef" in each]
        assert [named(one.overlay, "ConfigMap", name)["data"] for name in maps] == [settings_of(one.overlay)]
        secret = {name for name in variables_of(container) if name in SETTINGS and name not in settings_of(one.overlay)}
        user = {"KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD"} if one.overlay == "aws" else set()
        assert secret == needs.get(one.component, secret) | (user if one.component in needs else set())
        assert Path(settings_of(one.overlay)["DATA_DIR"]) in {
            Path(each["mountPath"]) for each in container["volumeMounts"]
        }


@EACH_OVERLAY
def test_every_config_map_that_is_mounted_is_made_or_told_of(overlay: str) -> None:
    made = {one["metadata"]["name"] for one in of_kind(overlay, "ConfigMap")}
    told = section("docs/operations.md", "On Kubernetes")
    for one in workloads(overlay):
        for volume in one.pod.get("volumes", []):
            if "configMap" in volume:
                assert volume["configMap"]["name"] in made or f"`{volume['configMap']['name']}`" in told


def told_secrets() -> dict[str, list[str]]:
    told = rows(section("docs/operations.md", "On Kubernetes"))
    return {coded(row[0])[0].replace("<institution>", id_): coded(row[1]) for row in told for id_ in institutions()}


def test_every_secret_that_is_asked_for_is_told_of_and_the_other_way_round() -> None:
    asked = {pair for one in WORKLOADS for pair in secrets_of(one)}
    # What the base has for institutions of their own, and what alerting does with people to tell.
    base = (FOLDER / "base" / "training", FOLDER / "components" / "alerting")
    texts = "".join(path.read_text("utf-8") for folder in base for path in folder.glob("*.yaml"))
    asked |= {(name, "*") for name in re.findall(r"secretRef: \{name: ([\w-]+)\}", texts)}
    told = told_secrets()
    assert {name for name, _ in asked} == told.keys()
    for name, key in asked:
        assert key == "*" or key.replace(key.rpartition("_")[2], "…") in told[name] or key in told[name], (name, key)


@EACH_OVERLAY
def test_no_secret_is_in_the_tree(overlay: str) -> None:
    assert of_kind(overlay, "Secret") == []
    assert not re.search(r"postgresql://\w+:\w+@|password: \S", yaml.safe_dump_all(rendered(overlay)))


def test_on_aws_each_program_comes_to_kafka_encrypted_under_its_own_user() -> None:
    assert settings_of("aws")["KAFKA_SECURITY_PROTOCOL"] == "SASL_SSL"
    users = {
        one.component: {name for name, key in secrets_of(one) if key in ("username", "password")}
        for one in workloads("aws")
    }
    assert {component: names for component, names in users.items() if names} == {
        "worker": {"healthalliance-kafka-worker"},
        "api": {"healthalliance-kafka-api"},
        "training": {"healthalliance-kafka-trainer"},
    }


def test_what_external_secrets_copies_is_kept_by_terraform() -> None:
    secrets = [block.body["name"] for block in blocks() if block.type == "aws_secretsmanager_secret"]
    users = re.findall(r'"([\w-]+)"', values()["workloads"])
    kept = {name.replace("${local.name}", values()["name"]).replace("${each.key}", user)
            for name in secrets for user in users}  # fmt: skip
    copied = of_kind("aws", "ExternalSecret")
    assert {data["remoteRef"]["key"] for one in copied for data in one["spec"]["data"]} == kept
    asked = {name for one in workloads("aws") for name, _ in secrets_of(one)}
    asked |= {ref["name"] for one in of_kind("aws", "TriggerAuthentication") for ref in one["spec"]["secretTargetRef"]}
    assert {one["spec"]["target"]["name"] for one in copied} <= asked


def roles() -> set[str]:
    """Return the service accounts of the namespace that Terraform's roles trust."""
    trusted: dict[str, str] = values()["service_accounts"]
    return {account for account, subject in trusted.items() if subject == f"${{local.name}}:{account}"}


@EACH_OVERLAY
def test_the_service_accounts_are_those_that_roles_trust_and_every_pod_has_the_right_one(overlay: str) -> None:
    made = {one["metadata"]["name"]: one for one in of_kind(overlay, "ServiceAccount")}
    assert made.keys() == roles()
    assert all(one["automountServiceAccountToken"] is False for one in made.values())
    used = {one.component: one.pod.get("serviceAccountName") for one in workloads(overlay)}
    without = {component: None for component, account in used.items() if account is None}
    assert used == {"worker": "worker", "api": "api", "training": "trainer", "mlflow": "mlflow"} | without


def test_on_aws_every_service_account_has_terraforms_role_and_the_bucket_is_terraforms() -> None:
    account = dict(_lines(FOLDER / "overlays" / "aws" / "account.env"))["ACCOUNT_ID"]
    for one in of_kind("aws", "ServiceAccount"):
        role = f"arn:aws:iam::{account}:role/{values()['name']}-{one['metadata']['name']}"
        assert one["metadata"]["annotations"]["eks.amazonaws.com/role-arn"] == role
    [container] = workload("aws", "mlflow").containers
    [bucket] = [one["value"] for one in container["env"] if one["name"] == "ARTIFACTS"]
    assert bucket == f"s3://{values()['name']}-mlflow-{account}"
    assert '"mlflow"' in values()["buckets"]


def _lines(path: Path) -> list[tuple[str, str]]:
    lines = [line.partition("=") for line in path.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return [(name, value) for name, _, value in lines]


def test_the_namespace_and_the_deployers_are_terraforms() -> None:
    namespace, role, binding = build(FOLDER / "namespace")
    version = entries("variable")["kubernetes_version"]["default"]
    assert namespace["metadata"]["name"] == values()["name"]
    for mode in ("enforce", "audit", "warn"):
        assert namespace["metadata"]["labels"][f"pod-security.kubernetes.io/{mode}"] == "restricted"
        assert namespace["metadata"]["labels"][f"pod-security.kubernetes.io/{mode}-version"] == f"v{version}"
    assert version in VERSIONS
    eks = (ROOT / "terraform" / "eks.tf").read_text("utf-8")
    assert binding["subjects"][0]["name"].replace(values()["name"], "${local.name}") in eks
    custom = [one for one in rendered("aws") if not re.fullmatch(NATIVE, one["apiVersion"])]
    assert {(one["apiVersion"].partition("/")[0], f"{one['kind'].lower()}s") for one in custom} == {
        (rule["apiGroups"][0], kind) for rule in role["rules"] for kind in rule["resources"]
    }


@EACH_OVERLAY
def test_everything_is_in_the_namespace(overlay: str) -> None:
    for one in rendered(overlay):
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == values()["name"]


# --- scaling


@EACH_OVERLAY
def test_each_deployment_is_scaled_by_one_thing_alone(overlay: str) -> None:
    scalers = of_kind(overlay, "HorizontalPodAutoscaler", "ScaledObject")
    targets = sorted(one["spec"]["scaleTargetRef"]["name"] for one in scalers)
    assert targets == ["api", "worker"]
    for one in of_kind(overlay, "Deployment"):
        assert ("replicas" in one["spec"]) != (one["metadata"]["name"] in targets)


def test_keda_scales_up_to_the_partitions_that_terraform_makes_by_the_workers_group() -> None:
    spec = named("aws", "ScaledObject", "worker")["spec"]
    partitions = int(settings_of("aws")["TOPIC_PARTITIONS"])
    assert partitions == values()["sizes"][entries("variable")["size"]["default"]]["partitions"]
    # Faust gives partitions of the same number to the same worker, whatever the topic.
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (3, partitions)
    assert spec["fallback"]["replicas"] <= partitions
    [trigger] = spec["triggers"]
    assert trigger["metadata"]["consumerGroup"] == Settings(_env_file=None).consumer_group
    assert trigger["metadata"]["bootstrapServersFromEnv"] in settings_of("aws")
    access = (ROOT / "terraform" / "access.tf").read_text("utf-8")
    assert f'type = "Group", name = "{trigger["metadata"]["consumerGroup"]}"' in access


def test_the_component_and_the_overlay_scale_alike() -> None:
    of_component = yaml.safe_load((FOLDER / "components" / "keda" / "scaled-object.yaml").read_text("utf-8"))
    there, here = of_component["spec"]["triggers"][0], named("aws", "ScaledObject", "worker")["spec"]["triggers"][0]
    assert there["metadata"].items() <= here["metadata"].items()
    assert here["authenticationRef"]["name"] == named("aws", "TriggerAuthentication", "kafka")["metadata"]["name"]


def test_the_autoscaler_makes_no_more_workers_than_there_are_partitions() -> None:
    spec = named("local", "HorizontalPodAutoscaler", "worker")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 10)
    assert spec["maxReplicas"] <= int(settings_of("local")["TOPIC_PARTITIONS"])


@EACH_OVERLAY
def test_the_api_is_as_large_as_it_is_to_be(overlay: str) -> None:
    [container] = workload(overlay, "api").containers
    sizes = {part: (one["cpu"], one["memory"]) for part, one in container["resources"].items()}
    assert sizes == {"requests": ("250m", "256Mi"), "limits": ("500m", "512Mi")}
    spec = named(overlay, "HorizontalPodAutoscaler", "api")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 10)


def cores(text: str) -> float:
    return int(text.removesuffix("m")) / 1000 if text.endswith("m") else float(text)


def test_every_pod_finds_a_place_on_the_smallest_node() -> None:
    assert values()["sizes"]["small"]["node_type"] == "m7i.large"  # 2 processors, 8 GiB
    for one in workloads("aws"):
        assert sum(cores(each["resources"]["requests"]["cpu"]) for each in one.containers) < 1.9, one


# --- stopping and starting


def test_a_pod_is_given_longer_than_its_program_takes_to_stop() -> None:
    scenarios = (ROOT / "tests" / "faults" / "scenarios.py").read_text("utf-8")
    [worker_s] = re.findall(r"each worker ends within (\d+) s", scenarios)
    for overlay in OVERLAYS:
        assert workload(overlay, "worker").pod["terminationGracePeriodSeconds"] >= 2 * int(worker_s)
        api = workload(overlay, "api").pod
        before = api["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert api["terminationGracePeriodSeconds"] > before + server._STOP_S


@EACH_OVERLAY
def test_workers_make_room_before_one_comes_and_the_api_the_other_way_round(overlay: str) -> None:
    strategies = {name: workload(overlay, name).manifest["spec"]["strategy"] for name in ("worker", "api")}
    assert strategies["worker"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert strategies["api"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


async def served_paths() -> dict[str, set[str]]:
    runner = await serve_health("127.0.0.1", 0, lambda: None)
    worker = {resource.canonical for resource in runner.app.router.resources()}
    await runner.cleanup()
    api = create_app(Settings(_env_file=None))
    return {"worker": worker, "api": {*api.openapi()["paths"], str(api.openapi_url)}, "alerting": {"/metrics"}}


@pytest.mark.asyncio
async def test_every_probe_asks_for_a_path_that_is_served_on_a_port_that_is_there() -> None:
    served = await served_paths()
    for one in WORKLOADS:
        for probe in probes(one).values():
            for kind in ("httpGet", "tcpSocket"):
                if kind in probe:
                    assert probe[kind]["port"] in one.ports(), one
            if one.component in served and "httpGet" in probe:
                assert probe["httpGet"]["path"] in served[one.component], one


def probes(one: Workload) -> dict[str, dict[str, Any]]:
    [container] = one.pod["containers"]
    return {name: container[name] for name in ("startupProbe", "readinessProbe", "livenessProbe") if name in container}


@EACH_WORKLOAD
def test_what_serves_has_all_three_probes_and_lives_though_others_are_away(one: Workload) -> None:
    found = probes(one)
    if one.manifest["kind"] in ("Job", "CronJob"):
        assert found == {}
        return
    # Nobody sends alerting requests.
    assert found.keys() | ({"readinessProbe"} if one.component == "alerting" else set()) == {
        "startupProbe", "readinessProbe", "livenessProbe"
    }  # fmt: skip
    if one.component in ("worker", "api"):
        assert found["livenessProbe"]["httpGet"] != found["readinessProbe"]["httpGet"]
        assert found["readinessProbe"]["httpGet"]["path"] == {"worker": "/readyz", "api": "/health"}[one.component]


def test_the_ports_are_those_of_the_settings() -> None:
    defaults = Settings(_env_file=None)
    for overlay in OVERLAYS:
        assert not {"METRICS_PORT", "API_PORT", "API_METRICS_PORT", "ALERT_METRICS_PORT"} & settings_of(overlay).keys()
        assert workload(overlay, "worker").ports() == {"metrics": defaults.metrics_port}
        assert workload(overlay, "api").ports() == {"http": defaults.api_port, "metrics": defaults.api_metrics_port}
    for id_ in institutions():
        assert workload("local", f"alerting-{id_}").ports() == {"metrics": defaults.alert_metrics_port}


def test_every_institution_has_its_alerting_and_all_are_alike() -> None:
    folder, first = FOLDER / "components" / "alerting", next(iter(institutions()))
    resources = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))["resources"]
    assert {one.removesuffix(".yaml") for one in resources} == {*institutions(), "network-policy"}
    for id_ in institutions():
        text = (folder / f"{id_}.yaml").read_text("utf-8")
        assert text.replace(id_, first) == (folder / f"{first}.yaml").read_text("utf-8")


# --- what is meant by a label is there


@EACH_OVERLAY
def test_every_selector_means_pods_and_every_port_is_one_of_theirs(overlay: str) -> None:
    for one in of_kind(overlay, "Service"):
        meant = [each for each in workloads(overlay) if each.selected_by({"matchLabels": one["spec"]["selector"]})]
        assert len(meant) == 1, one["metadata"]["name"]
        for port in one["spec"]["ports"]:
            assert port["targetPort"] in meant[0].ports()
    for one in of_kind(overlay, "PodDisruptionBudget"):
        [budgeted] = [each for each in workloads(overlay) if each.selected_by(one["spec"]["selector"])]
        assert budgeted.component == one["metadata"]["name"]
    for each in workloads(overlay):
        own = each.manifest["spec"].get("selector")
        assert own is None or [other for other in workloads(overlay) if other.selected_by(own)] == [each]
        for spread in each.pod.get("topologySpreadConstraints", []):
            assert each.selected_by(spread["labelSelector"])


def reachable(overlay: str, policy: Manifest, direction: str) -> set[tuple[str, str, int | str]]:
    """List what a policy opens between pods: (from, to, port)."""
    found: set[tuple[str, str, int | str]] = set()
    own = [one for one in workloads(overlay) if one.selected_by(policy["spec"]["podSelector"])]
    assert own, policy["metadata"]["name"]
    for rule in policy["spec"].get(direction, []):
        for peer in rule["from" if direction == "ingress" else "to"]:
            if peer.keys() != {"podSelector"}:
                continue
            others = [one for one in workloads(overlay) if one.selected_by(peer["podSelector"])]
            assert others, policy["metadata"]["name"]
            for mine in own:
                for other in others:
                    a, b = (other, mine) if direction == "ingress" else (mine, other)
                    found |= {(a.component, b.component, port["port"]) for port in rule["ports"]}
    return found


@EACH_OVERLAY
def test_what_may_go_out_may_come_in_and_the_other_way_round(overlay: str) -> None:
    policies = of_kind(overlay, "NetworkPolicy")
    out, into = (set().union(*(reachable(overlay, one, way) for one in policies)) for way in ("egress", "ingress"))
    # The setup and the alerting have the programs' openings and do not use the model store.
    assert {one for one in out if one[1:] != ("mlflow", 5000) or one[0] not in ("setup", "alerting")} == into
    for _, target, port in into:
        assert [one for one in workloads(overlay) if one.component == target and port in one.ports().values()]


@EACH_OVERLAY
def test_nothing_is_open_that_no_policy_opens_and_no_opening_is_to_a_port_that_is_not_there(overlay: str) -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in of_kind(overlay, "NetworkPolicy")}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, spec in policies.items():
        for rule in spec.get("ingress", []):
            assert rule["from"], name
            for one in [each for each in workloads(overlay) if each.selected_by(spec["podSelector"])]:
                ports = one.ports()
                assert {port["port"] for port in rule["ports"]} <= {*ports, *ports.values()}, name


def test_on_aws_data_are_reached_where_terraform_puts_them() -> None:
    network = ipaddress.ip_network(entries("variable")["vpc_cidr"]["default"])
    [data] = [one for one in blocks() if (one.type, one.name) == ("aws_subnet", "data")]
    bits, first = map(int, re.findall(r"cidrsubnet\(var.vpc_cidr, (\d+), count.index \+ (\d+)\)",
                                      data.body["cidr_block"])[0])  # fmt: skip
    subnets = {str(one) for one in list(network.subnets(bits))[first : first + data.body["count"]]}
    opened = {int(one.body["from_port"]) for one in blocks() if one.type == "aws_vpc_security_group_ingress_rule"
              and one.name in ("database", "brokers_nodes")}  # fmt: skip
    used = set()
    for one in of_kind("aws", "NetworkPolicy"):
        for rule in one["spec"].get("egress", []):
            blocks_ = {peer["ipBlock"]["cidr"] for peer in rule["to"] if "ipBlock" in peer}
            if blocks_ and blocks_ != {"0.0.0.0/0"}:
                assert blocks_ == subnets
                used |= {port["port"] for port in rule["ports"]}
    assert used == opened
    brokers = settings_of("aws")["KAFKA_BOOTSTRAP_SERVERS"].split(",")
    assert {int(one.rpartition(":")[2]) for one in brokers} < opened


@EACH_OVERLAY
def test_every_address_in_the_cluster_is_a_service(overlay: str) -> None:
    ports = {(one["metadata"]["name"], port["port"]) for one in of_kind(overlay, "Service")
             for port in one["spec"]["ports"]}  # fmt: skip
    own = " ".join(settings_of(overlay).values())
    found = {(host, int(port)) for host, port in re.findall(r"(?:^|[\s/,])([a-z-]+):(\d+)", own)}
    assert found == {("schema-registry", 8080), ("mlflow", 5000)} | ({("kafka", 9092)} if overlay == "local" else set())
    assert found <= ports


# --- monitoring


def test_prometheus_reads_the_jobs_that_the_rules_know() -> None:
    compose = yaml.safe_load((ROOT / "monitoring" / "prometheus" / "prometheus.yml").read_text("utf-8"))
    jobs = {one["job_name"]: one["dns_sd_configs"][0]["port"] for one in compose["scrape_configs"]}
    found = {}
    for one in of_kind("aws", "ServiceMonitor"):
        spec = one["spec"]
        [service] = [each for each in of_kind("aws", "Service")
                     if spec["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items()]  # fmt: skip
        [endpoint] = spec["endpoints"]
        [port] = [each for each in service["spec"]["ports"] if each["name"] == endpoint["port"]]
        job = service["metadata"]["labels"][spec["jobLabel"]]
        found[job] = workload("aws", service["metadata"]["name"]).ports()[port["targetPort"]]
    assert found == jobs


def test_the_rules_are_prometheuss_own() -> None:
    [rule] = of_kind("aws", "PrometheusRule")
    written = (ROOT / "monitoring" / "prometheus" / "rules" / "healthalliance.yml").read_text("utf-8")
    assert rule["spec"] == yaml.safe_load(written)


# --- security


@EACH_WORKLOAD
def test_a_pod_satisfies_the_restricted_security_standard_and_is_bounded(one: Workload) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted."""
    assert one.pod["automountServiceAccountToken"] is False
    assert one.pod["securityContext"]["runAsNonRoot"] is True
    assert one.pod["securityContext"]["runAsUser"] > 0
    assert one.pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & one.pod.keys()
    for container in one.containers:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
        }  # fmt: skip
        for part in ("limits", "requests"):
            assert container["resources"][part].keys() >= {"cpu", "memory", "ephemeral-storage"}
    kept = {name for volume in one.pod.get("volumes", []) for name in volume if name != "name"}
    assert kept <= {"emptyDir", "configMap", "persistentVolumeClaim"}


@EACH_WORKLOAD
def test_what_checkov_is_told_to_leave_out_has_a_reason(one: Workload) -> None:
    said = one.manifest["metadata"]["annotations"]
    skips = [value for name, value in said.items() if name.startswith("checkov.io/skip")]
    assert skips
    assert [value for value in skips if not re.fullmatch(r"CKV2?_K8S_\d+=.{20,}", value)] == []


def test_postgres_is_as_large_as_it_is_to_be_and_its_databases_are_those_that_are_used() -> None:
    [container] = workload("local", "postgres").containers
    sizes = {part: (one["cpu"], one["memory"]) for part, one in container["resources"].items()}
    assert sizes == {"requests": ("250m", "256Mi"), "limits": ("1000m", "1Gi")}
    made = re.findall(r"CREATE DATABASE (\w+)", (FOLDER / "overlays" / "local" / "databases.sql").read_text("utf-8"))
    told = section("docs/operations.md", "On Kubernetes")
    assert {f"/{name}" for name in made} <= set(re.findall(r"postgres:5432(/\w+)", told))


def test_kafka_takes_the_largest_message_of_any_topic() -> None:
    said = dict(_lines(FOLDER / "overlays" / "local" / "server.properties"))
    topics: dict[str, Any] = yaml.safe_load((ROOT / "schemas" / "topics.json").read_text("utf-8"))
    assert {*topics} >= {*topic_names(TopicFamily.ENCOUNTERS)}
    largest = max(int(one["config"].get("max.message.bytes", 0)) for one in topics.values())
    assert int(said["message.max.bytes"]) == int(said["replica.fetch.max.bytes"]) == largest
    assert f"PLAINTEXT://{settings_of('local')['KAFKA_BOOTSTRAP_SERVERS']}" == said["advertised.listeners"]


# --- the check of custom resources


def test_an_unknown_field_of_a_custom_resource_is_found_at_any_depth() -> None:
    schema = strict({"type": "object", "properties": {
        "apiVersion": {}, "kind": {}, "metadata": {"type": "object"},
        "spec": {"properties": {"triggers": {"type": "array", "items": {"properties": {"type": {"type": "string"}}}}}},
    }})  # fmt: skip
    good = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "a"},
            "spec": {"triggers": [{"type": "kafka"}]}}  # fmt: skip
    bad = {**good, "spec": {"triggers": [{"tpye": "kafka"}]}}
    known = {("keda.sh/v1alpha1", "ScaledObject"): schema}
    assert list(faults([good], known)) == []
    [fault] = faults([bad], known)
    assert "'tpye' was unexpected" in fault
